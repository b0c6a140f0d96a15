# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner on the machines that were captured for hwloc's own tests: plans by hand, and what holds for all."""

from __future__ import annotations

import fnmatch
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._facts import gather, wanted_parts
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import PlanError, plan_host
from ansible_collections.numapin.inference.tests.oracle import hwloc_source

if t.TYPE_CHECKING:
    from pathlib import Path

MODEL = {"name": "m", "source": "ORG/m", "device": "cpu"}


def facts_of(root: Path) -> dict[str, t.Any]:
    return gather(Host(str(root)), wanted_parts(["all"]), {}, GpuSources())


def plan(facts: dict[str, t.Any], **keys: t.Any) -> dict[str, t.Any]:
    return plan_host(facts, [{**MODEL, **keys}], host="h", address="192.0.2.1")


# Of every machine the pattern of its name, what is asked for, name, CPUs and port of the first instances, and how many
# there are.
PLANS: list[tuple[str, dict[str, t.Any], list[tuple[str, str, int]], int]] = [
    # Four packages of two nodes; node ids with gaps.
    ("48amd64-4d2n6c-sparse*", {}, [("m-n0", "1-5", 8000), ("m-n1", "7-11", 8001), ("m-n2", "13-17", 8002)], 8),
    (
        "48amd64-4d2n6c-sparse*",
        {"scope": "package"},
        [("m-n0", "1-5,7-11", 8000), ("m-n2", "13-17,19-23", 8002), ("m-n34", "25-29,31-35", 8004)],
        4,
    ),
    # POWER9: CPUs on nodes 0 and 8, the memory of six GPUs on 250 to 255, four threads to a core.
    ("nvidiagpunumanodes*", {}, [("m-n0", "4-15", 8000), ("m-n8", "92-103", 8001)], 2),
    ("nvidiagpunumanodes*", {"tensor_parallel_size": 2, "spanning": "pipeline"}, [("m-n0", "4-15,92-103", 8000)], 1),
    # Two packages of two nodes with 32 cores.
    (
        "128arm-2pa2n8cluster4co*",
        {"scope": "package"},
        [("m-n0", "1-31,33-63", 8000), ("m-n2", "65-95,97-127", 8002)],
        2,
    ),
    # KNL: four nodes with CPUs in one package, and four of fast memory without.
    (
        "64intel64-fakeKNL-SNC4-hybrid*",
        {"scope": "package"},
        [("m-n0", "1-3,5-7,9-11,13-15,17-19,21-23,25-27,29-31,33-35,37-39,41-43,45-47,49-51,53-55,57-59,61-63", 8000)],
        1,
    ),
    # CPUs numbered round the nodes.
    ("40intel64-4n10c+pci-conflicts*", {"instances": 1}, [("m-n0", "4,8,12,16,20,24,28,32,36", 8000)], 1),
    # SMT siblings sixteen CPUs apart, the accelerators of a vector machine beside.
    ("32intel64-2p8co2t+8ve*", {}, [("m-n0", "1-7,17-23", 8000), ("m-n1", "9-15,25-31", 8001)], 2),
    (
        "32intel64-2p8co2t+8ve*",
        {"instances_per_node": 3},
        [("m-n0", "1-3,17-19", 8000), ("m-n0-2", "4-5,20-21", 8001), ("m-n0-3", "6-7,22-23", 8002)],
        6,
    ),
    # Sixty-four nodes of four cores.
    ("256ia64-64n2s2c*", {}, [("m-n0", "1-3", 8000), ("m-n1", "5-7", 8001), ("m-n2", "9-11", 8002)], 64),
    # Sixteen nodes with CPUs and one without.
    ("128ia64-17n4s2c*", {}, [("m-n0", "1-7", 8000), ("m-n1", "9-15", 8001)], 16),
    # Firmware that lists all CPUs on each of eight nodes.
    ("8em64t-2s2ca2c-buggynuma*", {}, [("m-n0", "1-7", 8000)], 1),
    # Node 0 offline, and every other CPU.
    ("offline-cpu0-node0*", {}, [("m-n1", "7,9,11,13,15,17,19", 8000)], 1),
]


@pytest.mark.parametrize(("name", "keys", "expected", "count"), PLANS)
def test_plan(name: str, keys: dict[str, t.Any], expected: list[tuple[str, str, int]], count: int) -> None:
    roots = [root for tree, root in hwloc_source.trees().items() if fnmatch.fnmatch(tree, f"linux/{name}")]
    assert roots, f"hwloc has no machine {name} any more"
    instances = plan(facts_of(roots[0]), **keys)["instances"]
    assert [(one["name"], one["cpus"], one["port"]) for one in instances[: len(expected)]] == expected
    assert len(instances) == count


@pytest.mark.parametrize("scope", ["node", "package"])
def test_every_machine(tree: tuple[str, Path], scope: str) -> None:
    facts = facts_of(tree[1])
    usable = {node["id"]: parse_cpulist(node["cpus"]) for node in facts["nodes"] if node["kind"] == "cpu_and_memory"}
    wished = {"scope": scope, "instances_per_node": 2}
    if not usable:
        with pytest.raises(PlanError, match="there is room for none"):
            plan(facts, **wished)
        return
    siblings = {cpu["id"]: parse_cpulist(cpu["smt_siblings"] or str(cpu["id"])) for cpu in facts["cpus"]}
    allowed = parse_cpulist(facts["allowed_cpus"])
    owner: dict[int, str] = {}
    for entry in plan(facts, **wished)["instances"]:
        cpus = parse_cpulist(entry["cpus"])
        assert cpus
        assert cpus <= allowed & frozenset().union(*(usable[node_id] for node_id in entry["nodes"]))
        assert cpus.isdisjoint(owner)
        assert entry["memory_nodes"] == entry["nodes"]
        assert scope == "package" or len(entry["nodes"]) == 1
        owner.update(dict.fromkeys(cpus, entry["name"]))
    for cpu, name in owner.items():
        assert {owner.get(sibling, name) for sibling in siblings[cpu]} == {name}
