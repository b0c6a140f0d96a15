# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for every plan, over random machines and wishes."""

from __future__ import annotations

import copy
import itertools
import typing as t

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist, parse_cpulist
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import PlanError, plan_host
from ansible_collections.numapin.inference.plugins.plugin_utils._upstreams import upstreams
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    Facts,
    connect,
    gpu,
    machine,
    mig,
    model,
)

NAMES = ("a", "b", "c", "d")


@st.composite
def machines(draw: st.DrawFn) -> Facts:
    """One to four nodes with sparse ids, one to twelve cores each, with or without SMT, packages of one or more nodes.

    GPUs are here and there, some of them divided (MIG), some connected. Memory is scarce on some nodes, or unknown.
    """
    ids = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=4)))
    sizes = [draw(st.integers(1, 12)) for _node in ids]
    smt = sum(sizes) if draw(st.booleans()) else None
    nodes: dict[int, str] = {}
    for node_id, first, size in zip(ids, itertools.accumulate([0, *sizes]), sizes):
        cores = range(first, first + size)
        nodes[node_id] = format_cpulist([*cores, *(cpu + smt for cpu in cores)] if smt else cores)
    kinds = {node_id: "memory_only" for node_id in ids[1:] if draw(st.integers(0, 5)) == 0}
    with_cpus = [node_id for node_id in ids if node_id not in kinds]
    cut = draw(st.integers(0, len(with_cpus)))
    return machine(
        {node_id: "" if node_id in kinds else cpus for node_id, cpus in nodes.items()},
        draw(gpus_on(ids)),
        smt=smt,
        kinds=kinds,
        packages=[part for part in (with_cpus[:cut], with_cpus[cut:]) if part],
        memory_mib={node_id: draw(st.sampled_from([100, 1000, 10000, None])) for node_id in ids},
        huge_mib={node_id: draw(st.sampled_from([0, 0, 50])) for node_id in ids},
    )


@st.composite
def gpus_on(draw: st.DrawFn, ids: list[int]) -> list[Facts]:
    """Up to eight GPUs; a sixth of them is divided into one or two MIG devices."""
    gpus = []
    for index, node_id in enumerate(draw(st.lists(st.sampled_from(ids), max_size=8))):
        slices = draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2]))
        gpus.append(mig(index, node_id, *["1g.10gb"] * slices) if slices else gpu(index, node_id))
    pairs = st.tuples(st.integers(0, 7), st.integers(0, 7))
    ways = st.tuples(st.sampled_from([0, 4, 18]), st.sampled_from(["PIX", "NODE", "SYS"]))
    return connect(gpus, draw(st.dictionaries(pairs, ways, max_size=6)))


@st.composite
def wishes(draw: st.DrawFn) -> list[Facts]:
    models = []
    for index, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        keys: Facts = {"tensor_parallel_size": draw(st.sampled_from([1, 1, 2, 4]))}
        keys["pipeline_parallel_size"] = draw(st.sampled_from([1, 1, 1, 2]))
        keys["scope"] = draw(st.sampled_from(["node", "node", "package"]))
        keys["spanning"] = draw(st.sampled_from(["refuse", "pipeline", "interleave"]))
        if draw(st.booleans()):
            keys["instances"] = draw(st.sampled_from(["per_node", 1, 2, 3]))
        else:
            keys["instances_per_node"] = draw(st.integers(1, 3))
        keys["device"] = draw(st.sampled_from(["auto", "auto", "cpu"]))
        keys["memory_policy"] = draw(st.sampled_from(["bind", "bind", "preferred", "interleave"]))
        keys["memory_mib"] = draw(st.sampled_from([None, 60, 600]))
        if draw(st.booleans()):
            keys["port"] = 9000 + 100 * index
        models.append(model(name, **keys))
    return models


OPTIONS = st.fixed_dictionaries(
    {
        "reserved_cpus": st.sets(st.integers(0, 30), max_size=6).map(format_cpulist),
        "housekeeping_cores": st.integers(0, 3),
        "balancer_cores": st.integers(0, 2),
        "api_server_cores": st.integers(0, 2),
        "reserved_memory_mib": st.sampled_from([0, 0, 30]),
    }
)


def plan(facts: Facts, models: list[Facts], options: Facts, previous: object = None) -> dict[str, t.Any]:
    """A plan; a wish that is refused is no example."""
    try:
        return plan_host(facts, models, host="h", address="192.0.2.1", previous=previous, **options)
    except PlanError:
        reject()


def fitting(facts: Facts, models: list[Facts], options: Facts) -> list[Facts]:
    """Those of ``models`` that the machine has room for, one after the other; most random wishes are refused."""
    chosen: list[Facts] = []
    for entry in models:
        try:
            plan_host(facts, [*chosen, entry], host="h", address="192.0.2.1", **options)
        except PlanError:
            continue
        chosen.append(entry)
    return chosen or reject()


@settings(deadline=None, max_examples=100)
@given(machines(), wishes(), OPTIONS)
def test_nothing_is_given_twice_and_groups_stay_together(facts: Facts, models: list[Facts], options: Facts) -> None:
    models = fitting(facts, models, options)
    before = copy.deepcopy((facts, models, options))
    result = plan(facts, models, options)
    assert (facts, models, options) == before

    given_cpus: list[int] = []
    given_gpus: list[str] = []
    nodes = {node["id"]: parse_cpulist(node["cpus"]) for node in facts["nodes"] if node["kind"] == "cpu_and_memory"}
    siblings = {cpu["id"]: parse_cpulist(cpu["smt_siblings"]) for cpu in facts["cpus"]}
    reserved = parse_cpulist(options["reserved_cpus"])
    for entry in result["instances"]:
        cpus = parse_cpulist(entry["cpus"])
        assert entry["memory_nodes"] == entry["nodes"] == sorted(set(entry["nodes"]))
        assert all(cpus & nodes[node_id] for node_id in entry["nodes"])
        assert cpus <= frozenset().union(*(nodes[node_id] for node_id in entry["nodes"])) - reserved
        assert all((siblings[cpu] - reserved) <= cpus for cpu in cpus)
        ranks = entry["tensor_parallel_size"] * entry["pipeline_parallel_size"]
        assert len(entry["gpus"]) == (ranks if entry["device"] == "gpu" else 0)
        assert entry["weight"] == (len(entry["gpus"]) or 1)
        given_cpus += cpus
        given_gpus += entry["gpus"]
    kept_for_nginx = parse_cpulist((result["balancer"] or {"cpus": ""})["cpus"])
    assert kept_for_nginx.isdisjoint(given_cpus)
    for node in result["nodes"]:
        kept = parse_cpulist(node["housekeeping_cpus"])
        assert kept.isdisjoint(given_cpus)
        assert kept.isdisjoint(kept_for_nginx)
        assert kept.isdisjoint(parse_cpulist(node["instance_cpus"]))
        theirs = parse_cpulist(node["instance_cpus"])
        assert kept | theirs | (kept_for_nginx & nodes[node["node"]]) == nodes[node["node"]] - reserved
        here = [entry for entry in result["instances"] if node["node"] in entry["nodes"]]
        if here:
            assert theirs <= frozenset().union(*(parse_cpulist(e["cpus"]) for e in here))
    assert len(given_cpus) == len(set(given_cpus))
    assert len(given_gpus) == len(set(given_gpus))
    ports = [entry["port"] for entry in result["instances"]]
    assert len(ports) == len(set(ports))
    names = [entry["name"] for entry in result["instances"]]
    assert len(names) == len(set(names))


@settings(deadline=None, max_examples=100)
@given(machines(), wishes(), OPTIONS)
def test_groups_of_gpus_stay_inside_what_they_may_use(facts: Facts, models: list[Facts], options: Facts) -> None:
    models = fitting(facts, models, options)
    wished = {entry["name"]: entry for entry in models}
    place = {entry["uuid"]: entry["node"] for entry in facts["gpus"]}
    place |= {device["uuid"]: e["node"] for e in facts["gpus"] for device in e.get("mig", {}).get("devices", ())}
    packages = [set(package["nodes"]) for package in facts["packages"]]
    for entry in plan(facts, models, options)["instances"]:
        wish, size = wished[entry["model"]], entry["tensor_parallel_size"]
        assert {place[key] for key in entry["gpus"]} <= set(entry["nodes"])
        assert len(entry["gpus"]) == 1 or not any(key.startswith("MIG-") for key in entry["gpus"])
        if entry["numa_bind_nodes"]:
            assert entry["numa_bind_nodes"] == [place[key] for key in entry["gpus"]]
            bound = [parse_cpulist(text) for text in entry["numa_bind_cpus"]]
            assert len(bound) == len(entry["gpus"])
            assert all(bound)
            # On the nodes of a package without a GPU of the instance there is no worker.
            assert frozenset().union(*bound) <= parse_cpulist(entry["cpus"])
        crosses = len(entry["nodes"]) > 1 and wish["spanning"] == "interleave"
        for start in range(0, len(entry["gpus"]), size):
            group = {place[key] for key in entry["gpus"][start : start + size]}
            around = [package for package in packages if group <= package] if wish["scope"] == "package" else []
            assert crosses or len(group) == 1 or around
        if wish["spanning"] == "refuse" and wish["scope"] == "node":
            assert len(entry["nodes"]) == 1


@settings(deadline=None, max_examples=100)
@given(machines(), wishes(), OPTIONS)
def test_memory_that_is_bound_is_there(facts: Facts, models: list[Facts], options: Facts) -> None:
    size = {node["id"]: node["memory_total_mib"] for node in facts["nodes"]}
    huge = {
        node["id"]: sum(pool["total"] * pool["size_kib"] // 1024 for pool in node["hugepages"])
        for node in facts["nodes"]
    }
    instances = plan(facts, fitting(facts, models, options), options)["instances"]
    for count in range(1, len(size) + 1):
        for nodes in itertools.combinations(size, count):
            inside = [e for e in instances if set(e["nodes"]) <= set(nodes) and e["memory_policy"] != "preferred"]
            if inside and None not in (size[node_id] for node_id in nodes):
                there = sum(max(size[node_id] - huge[node_id] - options["reserved_memory_mib"], 0) for node_id in nodes)
                assert sum(entry["memory_mib"] or 0 for entry in inside) <= there


@settings(deadline=None, max_examples=100)
@given(machines(), wishes(), OPTIONS)
def test_planning_again_changes_nothing(facts: Facts, models: list[Facts], options: Facts) -> None:
    models = fitting(facts, models, options)
    result = plan(facts, models, options)
    assert plan(facts, models, options, previous=result) == result


@settings(deadline=None, max_examples=100)
@given(machines(), wishes(), wishes(), OPTIONS)
def test_planning_again_after_a_change_changes_nothing(
    facts: Facts, models: list[Facts], later: list[Facts], options: Facts
) -> None:
    models, later = fitting(facts, models, options), fitting(facts, later, options)
    changed = plan(facts, later, options, previous=plan(facts, models, options))
    assert plan(facts, later, options, previous=changed) == changed


@settings(deadline=None, max_examples=100)
@given(machines(), wishes(), OPTIONS, st.data())
def test_a_model_that_goes_moves_no_other(
    facts: Facts, models: list[Facts], options: Facts, data: st.DataObject
) -> None:
    models = fitting(facts, models, options)
    first = plan(facts, models, options)
    gone = data.draw(st.sampled_from(models))["name"]
    second = plan(facts, [entry for entry in models if entry["name"] != gone], options, previous=first)
    now = {entry["name"]: entry for entry in second["instances"]}
    for entry in first["instances"]:
        if entry["model"] != gone:
            found = now[entry["name"]]
            assert (found["nodes"], found["gpus"], found["port"]) == (entry["nodes"], entry["gpus"], entry["port"])


@settings(deadline=None, max_examples=100)
@given(machines(), wishes(), OPTIONS)
def test_the_last_plan_never_stands_in_the_way(facts: Facts, models: list[Facts], options: Facts) -> None:
    """What can be planned on an empty host can be planned on one that runs the same models the other way round."""
    models = fitting(facts, models, options)
    previous = plan(facts, models[::-1], options)
    assert plan_host(facts, models, host="h", address="192.0.2.1", previous=previous, **options)["instances"]


@settings(deadline=None, max_examples=100)
@given(machines(), st.sampled_from([1, 2]), st.data())
def test_a_gpu_that_is_lost_moves_only_what_used_it(facts: Facts, size: int, data: st.DataObject) -> None:
    first = plan(facts, [model("a", tensor_parallel_size=size, instances_per_node=2)], {})
    used = [entry for entry in first["instances"] if entry["device"] == "gpu"]
    if not used:
        reject()
    lost = data.draw(st.sampled_from(facts["gpus"]))
    gone = {lost["uuid"], *(device["uuid"] for device in lost.get("mig", {}).get("devices", ()))}
    left = {**facts, "gpus": [entry for entry in facts["gpus"] if entry is not lost]}
    second = plan(left, [model("a", tensor_parallel_size=size, instances_per_node=2, device="gpu")], {}, previous=first)
    now = {entry["name"]: entry for entry in second["instances"]}
    for entry in used:
        if gone.isdisjoint(entry["gpus"]):
            found = now[entry["name"]]
            assert (found["nodes"], found["gpus"], found["port"]) == (entry["nodes"], entry["gpus"], entry["port"])


@settings(deadline=None, max_examples=100)
@given(st.lists(machines(), min_size=2, max_size=3), wishes(), st.data())
def test_a_host_added_changes_nothing_elsewhere(fleet: list[Facts], models: list[Facts], data: st.DataObject) -> None:
    def planned(hosts: t.Iterable[int]) -> dict[int, dict[str, t.Any]]:
        return {
            index: plan_host(fleet[index], models, host=f"gpu{index}", address=f"192.0.2.{index + 1}")
            for index in hosts
        }

    new = data.draw(st.integers(0, len(fleet) - 1))
    old = [index for index in range(len(fleet)) if index != new]
    for facts in fleet:
        models = fitting(facts, models, {})
    before = planned(old)
    after = planned(data.draw(st.permutations(range(len(fleet)))))
    assert {index: after[index] for index in old} == before
    servers = [server for upstream in upstreams(list(after.values())) for server in upstream["servers"]]
    for upstream in upstreams(list(before.values())):
        assert all(server in servers for server in upstream["servers"])
