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
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import Facts, gpu, machine, model

NAMES = ("a", "b", "c", "d")


@st.composite
def machines(draw: st.DrawFn) -> Facts:
    """One to four nodes with sparse ids, one to twelve cores each, with or without SMT, and GPUs here and there."""
    ids = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=4)))
    sizes = [draw(st.integers(1, 12)) for _node in ids]
    smt = sum(sizes) if draw(st.booleans()) else None
    nodes: dict[int, str] = {}
    for node_id, first, size in zip(ids, itertools.accumulate([0, *sizes]), sizes):
        cores = range(first, first + size)
        nodes[node_id] = format_cpulist([*cores, *(cpu + smt for cpu in cores)] if smt else cores)
    places = draw(st.lists(st.sampled_from(ids), max_size=8))
    gpus = [gpu(index, node_id) for index, node_id in enumerate(places)]
    kinds = {node_id: "memory_only" for node_id in ids[1:] if draw(st.integers(0, 5)) == 0}
    return machine(
        {node_id: "" if node_id in kinds else cpus for node_id, cpus in nodes.items()}, gpus, smt=smt, kinds=kinds
    )


@st.composite
def wishes(draw: st.DrawFn) -> list[Facts]:
    models = []
    for index, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        keys: Facts = {"tensor_parallel_size": draw(st.sampled_from([1, 1, 2, 4]))}
        keys["instances"] = draw(st.sampled_from(["per_node", 1, 2, 3]))
        keys["device"] = draw(st.sampled_from(["auto", "auto", "cpu"]))
        if keys["device"] == "cpu":
            keys["tensor_parallel_size"] = 1
        if draw(st.booleans()):
            keys["port"] = 9000 + 100 * index
        models.append(model(name, **keys))
    return models


OPTIONS = st.fixed_dictionaries(
    {
        "reserved_cpus": st.sets(st.integers(0, 30), max_size=6).map(format_cpulist),
        "housekeeping_cores": st.integers(0, 3),
    }
)


def plan(facts: Facts, models: list[Facts], options: Facts, previous: object = None) -> dict[str, t.Any]:
    """A plan; a wish that is refused is no example."""
    try:
        return plan_host(facts, models, host="h", address="192.0.2.1", previous=previous, **options)
    except PlanError:
        reject()


@settings(deadline=None, max_examples=200)
@given(machines(), wishes(), OPTIONS)
def test_nothing_is_given_twice_and_groups_stay_together(facts: Facts, models: list[Facts], options: Facts) -> None:
    before = copy.deepcopy((facts, models, options))
    result = plan(facts, models, options)
    assert (facts, models, options) == before

    given_cpus: list[int] = []
    given_gpus: list[str] = []
    nodes = {node["id"]: parse_cpulist(node["cpus"]) for node in facts["nodes"] if node["kind"] == "cpu_and_memory"}
    siblings = {cpu["id"]: parse_cpulist(cpu["smt_siblings"]) for cpu in facts["cpus"]}
    gpu_nodes = {entry["uuid"]: entry["node"] for entry in facts["gpus"]}
    reserved = parse_cpulist(options["reserved_cpus"])
    for entry in result["instances"]:
        cpus = parse_cpulist(entry["cpus"])
        (node_id,) = entry["nodes"]
        assert cpus
        assert cpus <= nodes[node_id] - reserved
        assert entry["memory_nodes"] == [node_id]
        assert all((siblings[cpu] - reserved) <= cpus for cpu in cpus)
        assert {gpu_nodes[uuid] for uuid in entry["gpus"]} <= {node_id}
        assert len(entry["gpus"]) == (entry["tensor_parallel_size"] if entry["device"] == "gpu" else 0)
        assert entry["weight"] == (len(entry["gpus"]) or 1)
        given_cpus += cpus
        given_gpus += entry["gpus"]
    for node in result["nodes"]:
        kept = parse_cpulist(node["housekeeping_cpus"])
        assert kept.isdisjoint(given_cpus)
        assert kept.isdisjoint(parse_cpulist(node["instance_cpus"]))
        assert kept | parse_cpulist(node["instance_cpus"]) == nodes[node["node"]] - reserved
        here = [entry for entry in result["instances"] if entry["nodes"] == [node["node"]]]
        if here:
            assert frozenset().union(*(parse_cpulist(e["cpus"]) for e in here)) == parse_cpulist(node["instance_cpus"])
    assert len(given_cpus) == len(set(given_cpus))
    assert len(given_gpus) == len(set(given_gpus))
    ports = [entry["port"] for entry in result["instances"]]
    assert len(ports) == len(set(ports))
    names = [entry["name"] for entry in result["instances"]]
    assert len(names) == len(set(names))


@settings(deadline=None, max_examples=200)
@given(machines(), wishes(), OPTIONS)
def test_planning_again_changes_nothing(facts: Facts, models: list[Facts], options: Facts) -> None:
    result = plan(facts, models, options)
    assert plan(facts, models, options, previous=result) == result


@settings(deadline=None, max_examples=200)
@given(machines(), wishes(), wishes(), OPTIONS)
def test_planning_again_after_a_change_changes_nothing(
    facts: Facts, models: list[Facts], later: list[Facts], options: Facts
) -> None:
    changed = plan(facts, later, options, previous=plan(facts, models, options))
    assert plan(facts, later, options, previous=changed) == changed


@settings(deadline=None, max_examples=200)
@given(machines(), wishes(), OPTIONS, st.data())
def test_a_model_that_goes_moves_no_other(
    facts: Facts, models: list[Facts], options: Facts, data: st.DataObject
) -> None:
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
    plan(facts, models, options)
    previous = plan(facts, models[::-1], options)
    assert plan_host(facts, models, host="h", address="192.0.2.1", previous=previous, **options)["instances"]
