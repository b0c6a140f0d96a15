# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Topologies times wishes, with the plan written by hand."""

from __future__ import annotations

import builtins
import copy
import dataclasses
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.plugin_utils._cores import apportion
from ansible_collections.numapin.inference.plugins.plugin_utils._facts_reader import FactsError
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import PlanError, plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    Facts,
    cpu_only,
    eight_gpus,
    gpu,
    machine,
    model,
    uuid,
)


def plan(facts: Facts, *models: Facts, **options: t.Any) -> dict[str, t.Any]:
    return plan_host(facts, list(models), **{"host": "gpu1", "address": "192.0.2.11", **options})


def refusal(facts: Facts, *models: Facts, **options: t.Any) -> str:
    with pytest.raises(PlanError) as caught:
        plan(facts, *models, **options)
    return str(caught.value)


@dataclasses.dataclass(frozen=True)
class Case:
    """``expected``: name, CPUs, GPU indices, port of each instance; ``nodes``: node, instances', housekeeping CPUs."""

    id: str
    facts: Facts
    models: list[Facts]
    expected: list[tuple[str, str, list[int], int]]
    nodes: list[tuple[int, str, str]] | None = None
    options: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)


EIGHT_NODES = [(0, "1-31,65-95", "0,64"), (1, "33-63,97-127", "32,96")]

CASES = [
    Case(
        "tensor parallel over all GPUs of a node",
        eight_gpus(),
        [model(tensor_parallel_size=4)],
        [("llama-n0", "1-31,65-95", [0, 1, 2, 3], 8000), ("llama-n1", "33-63,97-127", [4, 5, 6, 7], 8001)],
        EIGHT_NODES,
    ),
    Case(
        "tensor parallel over half of a node's GPUs, one instance per node",
        eight_gpus(),
        [model(tensor_parallel_size=2)],
        [("llama-n0", "1-31,65-95", [0, 1], 8000), ("llama-n1", "33-63,97-127", [4, 5], 8001)],
        EIGHT_NODES,
        warnings=["4 of 8 GPUs left without an instance (NVIDIA H100 0000:12:00.0 GPU-00000002-"],
    ),
    Case(
        "two instances per node divide its 31 cores 16 to 15",
        eight_gpus(),
        [model(tensor_parallel_size=2, instances=4)],
        [
            ("llama-n0", "1-16,65-80", [0, 1], 8000),
            ("llama-n0-2", "17-31,81-95", [2, 3], 8001),
            ("llama-n1", "33-48,97-112", [4, 5], 8002),
            ("llama-n1-2", "49-63,113-127", [6, 7], 8003),
        ],
        EIGHT_NODES,
    ),
    Case(
        "one instance per GPU",
        eight_gpus(),
        [model(instances=8)],
        [
            ("llama-n0", "2-9,66-73", [0], 8000),
            ("llama-n0-2", "10-17,74-81", [1], 8001),
            ("llama-n0-3", "18-24,82-88", [2], 8002),
            ("llama-n0-4", "25-31,89-95", [3], 8003),
            ("llama-n1", "34-41,98-105", [4], 8004),
            ("llama-n1-2", "42-49,106-113", [5], 8005),
            ("llama-n1-3", "50-56,114-120", [6], 8006),
            ("llama-n1-4", "57-63,121-127", [7], 8007),
        ],
        [(0, "2-31,66-95", "0-1,64-65"), (1, "34-63,98-127", "32-33,96-97")],
        {"housekeeping_cores": 2},
    ),
    Case(
        "an odd number of instances starts with the first node",
        eight_gpus(),
        [model(instances=3, tensor_parallel_size=2)],
        [
            ("llama-n0", "1-16,65-80", [0, 1], 8000),
            ("llama-n0-2", "17-31,81-95", [2, 3], 8001),
            ("llama-n1", "33-63,97-127", [4, 5], 8002),
        ],
        warnings=["2 of 8 GPUs left without an instance"],
    ),
    Case(
        "two models on a node divide its cores 2 to 1, as their GPUs",
        eight_gpus(),
        [model("large", tensor_parallel_size=2, port=9000), model("small", tensor_parallel_size=1)],
        [
            ("large-n0", "2-21,66-85", [0, 1], 9000),
            ("large-n1", "34-53,98-117", [4, 5], 9001),
            ("small-n0", "22-31,86-95", [2], 8000),
            ("small-n1", "54-63,118-127", [6], 8001),
        ],
        options={"housekeeping_cores": 2},
        warnings=["2 of 8 GPUs left without an instance"],
    ),
    Case(
        "two models with one instance each go to different nodes",
        eight_gpus(),
        [model("a", tensor_parallel_size=4, instances=1), model("b", tensor_parallel_size=2, instances=1)],
        [("a-n0", "1-31,65-95", [0, 1, 2, 3], 8000), ("b-n1", "33-63,97-127", [4, 5], 8017)],
        warnings=["2 of 8 GPUs left without an instance"],
    ),
    Case(
        "a CPU model beside a GPU model",
        machine({0: "0-6"}, [gpu(0, 0), gpu(1, 0)]),
        [model("big", tensor_parallel_size=2), model("small", device="cpu")],
        [("big-n0", "1-4", [0, 1], 8000), ("small-n0", "5-6", [], 8016)],
    ),
    Case(
        "CPU only, one instance per node",
        cpu_only(),
        [model(port=8100)],
        [("llama-n0", "1-7", [], 8100), ("llama-n1", "9-15", [], 8101)],
        [(0, "1-7", "0"), (1, "9-15", "8")],
    ),
    Case(
        "CPU only, two models divide each node evenly",
        cpu_only(),
        [model("a"), model("b")],
        [
            ("a-n0", "1-4", [], 8000),
            ("a-n1", "9-12", [], 8001),
            ("b-n0", "5-7", [], 8016),
            ("b-n1", "13-15", [], 8017),
        ],
    ),
    Case(
        "no housekeeping",
        cpu_only(),
        [model(instances=2)],
        [("llama-n0", "0-7", [], 8000), ("llama-n1", "8-15", [], 8001)],
        [(0, "0-7", ""), (1, "8-15", "")],
        {"housekeeping_cores": 0},
    ),
    Case(
        "one node with one core keeps none for housekeeping",
        machine({0: "0"}),
        [model()],
        [("llama-n0", "0", [], 8000)],
        [(0, "0", "")],
        warnings=["node 0 has 1 core and keeps none of them for housekeeping instead of 1, so that one is left"],
    ),
    Case(
        "one node with one core of two threads keeps them together",
        machine({0: "0-1"}, smt=1),
        [model()],
        [("llama-n0", "0-1", [], 8000)],
        [(0, "0-1", "")],
        warnings=["node 0 has 1 core and keeps none"],
    ),
    Case(
        "more housekeeping than cores leaves one to instances",
        machine({0: "0-2"}),
        [model()],
        [("llama-n0", "2", [], 8000)],
        [(0, "2", "0-1")],
        {"housekeeping_cores": 4},
        warnings=["node 0 has 3 cores and keeps 2 of them for housekeeping instead of 4"],
    ),
    Case(
        "SMT siblings stay together, also in housekeeping",
        machine({0: "0-3,8-11", 1: "4-7,12-15"}, smt=8),
        [model(instances=2), model("other", instances=1)],
        [
            ("llama-n0", "1-2,9-10", [], 8000),
            ("llama-n1", "5-7,13-15", [], 8001),
            ("other-n0", "3,11", [], 8016),
        ],
        [(0, "1-3,9-11", "0,8"), (1, "5-7,13-15", "4,12")],
    ),
    Case(
        "a core whose sibling is offline is a core",
        machine({0: "0-3,8-10"}, smt=8, offline="11"),
        [model()],
        [("llama-n0", "1-3,9-10", [], 8000)],
        [(0, "1-3,9-10", "0,8")],
    ),
    Case(
        "reserved CPUs are nobody's",
        cpu_only(),
        [model()],
        [("llama-n0", "3-7", [], 8000), ("llama-n1", "9-15", [], 8001)],
        [(0, "3-7", "2"), (1, "9-15", "8")],
        {"reserved_cpus": "0-1"},
    ),
    Case(
        "a node that is wholly reserved takes nothing, and the other's port stays what it would be",
        cpu_only(),
        [model()],
        [("llama-n1", "9-15", [], 8001)],
        [(1, "9-15", "8")],
        {"reserved_cpus": "0-7"},
        warnings=["node 0 is left out: its CPUs 0-7 are all taken by reserved_cpus (0-7)"],
    ),
    Case(
        "half a reserved core is used, with a warning",
        machine({0: "0-1"}, smt=1),
        [model()],
        [("llama-n0", "1", [], 8000)],
        [(0, "1", "")],
        {"reserved_cpus": "0"},
        warnings=[
            "node 0: CPUs 1 share their cores with SMT siblings that are not this host's to use",
            "node 0 has 1 core",
        ],
    ),
    Case(
        "reserved CPUs that do not exist",
        machine({0: "0-3"}),
        [model()],
        [("llama-n0", "1-3", [], 8000)],
        options={"reserved_cpus": "64-65"},
        warnings=["reserved_cpus names CPUs 64-65, which this host does not have online"],
    ),
    Case(
        "a container that may use one node only",
        machine({0: "0-7", 1: "8-15"}, allowed="8-11"),
        [model()],
        [("llama-n1", "9-11", [], 8001)],
        [(1, "9-11", "8")],
        warnings=["node 0 is left out: its CPUs 0-7 are not among those allowed to this host (8-11)"],
    ),
    Case(
        "memory-only nodes are passed over without a word",
        machine({0: "0-7", 1: "", 2: "8-15"}, kinds={1: "memory_only"}),
        [model()],
        [("llama-n0", "1-7", [], 8000), ("llama-n2", "9-15", [], 8001)],
        [(0, "1-7", "0"), (2, "9-15", "8")],
    ),
    Case(
        "nodes without memory are passed over with a warning",
        machine({0: "0-7", 1: "8-15"}, kinds={1: "cpu_only"}),
        [model()],
        [("llama-n0", "1-7", [], 8000)],
        [(0, "1-7", "0")],
        warnings=["node 1 is left out: it has CPUs but no memory"],
    ),
    Case(
        "sparse node ids",
        machine({0: "0-3", 8: "4-7", 252: ""}, [gpu(0, 8)], kinds={252: "memory_only"}),
        [model()],
        [("llama-n8", "5-7", [0], 8001)],
        [(0, "1-3", "0"), (8, "5-7", "4")],
    ),
    Case(
        "all GPUs on one node",
        machine({0: "0-7", 1: "8-15"}, [gpu(index, 1) for index in range(4)]),
        [model(tensor_parallel_size=2, instances=2)],
        [("llama-n1", "9-12", [0, 1], 8002), ("llama-n1-2", "13-15", [2, 3], 8003)],
    ),
    Case(
        "unequal nodes: the one with too few GPUs gets no instance",
        machine({0: "0-3", 1: "4-7"}, [gpu(0, 0), gpu(1, 0), gpu(2, 1)]),
        [model(tensor_parallel_size=2)],
        [("llama-n0", "1-3", [0, 1], 8000)],
        warnings=[
            "1 of 3 GPUs left without an instance (NVIDIA H100 0000:12:00.0 GPU-00000002-",
            "model 'llama' has no instance on node 1: node 1 has 1 GPU, 1 free; 2 GPUs of one node needed",
        ],
    ),
    Case(
        "a selector by memory",
        machine(
            {0: "0-3", 1: "4-7"},
            [gpu(0, 0, memory_total_mib=24576, name="NVIDIA L4"), gpu(1, 0), gpu(2, 1), gpu(3, 1)],
        ),
        [model(gpus="[?memory_total_mib >= `80000`]")],
        [("llama-n0", "1-3", [1], 8000), ("llama-n1", "5-7", [2], 8001)],
        warnings=["1 of 4 GPUs left without an instance (NVIDIA H100 0000:13:00.0"],
    ),
    Case(
        "a selector by node leaves out a GPU whose node is unknown",
        machine({0: "0-3", 1: "4-7"}, [gpu(0, None), gpu(1, 0)]),
        [model(gpus="[?node != null]")],
        [("llama-n0", "1-3", [1], 8000)],
    ),
    Case(
        "GPUs of unknown node on a host with one node are on that node",
        machine({0: "0-3", 1: ""}, [gpu(0, None), gpu(1, 0)], kinds={1: "memory_only"}),
        [model(tensor_parallel_size=2)],
        [("llama-n0", "1-3", [0, 1], 8000)],
        warnings=[f"on which node NVIDIA H100 0000:10:00.0 {uuid(0)} is; node 0 is the only one with CPUs and memory"],
    ),
    Case(
        "device cpu on a host whose GPUs have no node",
        machine({0: "0-3", 1: "4-7"}, [gpu(0, None)]),
        [model(device="cpu")],
        [("llama-n0", "1-3", [], 8000), ("llama-n1", "5-7", [], 8001)],
    ),
    Case(
        "GPUs of a node without CPUs left",
        machine({0: "0-3", 1: "4-7"}, [gpu(0, 0), gpu(1, 1)]),
        [model()],
        [("llama-n0", "1-3", [0], 8000)],
        options={"reserved_cpus": "4-7"},
        warnings=["node 1 is left out: its CPUs 4-7 are all taken", "1 of 2 GPUs left without an instance"],
    ),
    Case(
        "firmware that lists every CPU on both nodes",
        machine({0: "0-3", 1: "0-3"}),
        [model()],
        [("llama-n0", "1-3", [], 8000)],
        warnings=[
            "nodes 0 and 1 both list CPUs 0-3: the firmware's NUMA tables contradict themselves",
            "node 1 is left out: other nodes list all its CPUs as well",
        ],
    ),
    Case(
        "different GPUs in one group",
        machine({0: "0-3"}, [gpu(0, 0), gpu(1, 0, name="NVIDIA L4")]),
        [model(tensor_parallel_size=2)],
        [("llama-n0", "1-3", [0, 1], 8000)],
        warnings=["instance llama-n0 joins different GPUs (NVIDIA H100, NVIDIA L4) in one tensor-parallel group"],
    ),
    Case("no model", cpu_only(), [], [], warnings=["vllm_models is empty: this host serves nothing"]),
]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_plan(case: Case) -> None:
    before = copy.deepcopy((case.facts, case.models, case.options))
    result = plan(case.facts, *case.models, **case.options)
    found = [(entry["name"], entry["cpus"], entry["gpus"], entry["port"]) for entry in result["instances"]]
    assert found == [(name, cpus, [uuid(i) for i in gpus], port) for name, cpus, gpus, port in case.expected]
    if case.nodes is not None:
        assert result["nodes"] == [
            {"node": node, "instance_cpus": cpus, "housekeeping_cpus": kept} for node, cpus, kept in case.nodes
        ]
    assert len(result["warnings"]) == len(case.warnings), result["warnings"]
    for found_warning, warning in zip(result["warnings"], case.warnings):
        assert warning in found_warning
    assert (case.facts, case.models, case.options) == before
    assert plan(case.facts, *case.models, **case.options, previous=result) == result


def test_the_whole_plan_of_a_gpu_host() -> None:
    result = plan(
        machine({0: "0-3,8-11"}, [gpu(0, 0), gpu(1, 0)], smt=8),
        model(
            tensor_parallel_size=2,
            arguments={"max_model_len": 8192},
            environment={"OMP_NUM_THREADS": 8},
            served_names=["llama", "meta/llama"],
            memory_policy="preferred",
        ),
    )
    assert result == {
        "host": "gpu1",
        "address": "192.0.2.11",
        "nodes": [{"node": 0, "instance_cpus": "1-3,9-11", "housekeeping_cpus": "0,8"}],
        "balancer": None,
        "instances": [
            {
                "name": "llama-n0",
                "model": "llama",
                "source": "/opt/models/llama",
                "served_names": ["llama", "meta/llama"],
                "host": "gpu1",
                "unit": "vllm@llama-n0.service",
                "nodes": [0],
                "cpus": "1-3,9-11",
                "omp_cpus": None,
                "api_server_cpus": None,
                "memory_nodes": [0],
                "memory_policy": "preferred",
                "memory_mib": None,
                "device": "gpu",
                "gpus": [uuid(0), uuid(1)],
                "tensor_parallel_size": 2,
                "pipeline_parallel_size": 1,
                "numa_bind_nodes": [],
                "numa_bind_cpus": [],
                "port": 8000,
                "url": "http://192.0.2.11:8000",
                "weight": 2,
                "housekeeping_cpus": "0,8",
                "arguments": {"max-model-len": 8192},
                "environment": {"OMP_NUM_THREADS": "8"},
                "reasons": [
                    "node 0: one instance per usable node (1 on this host)",
                    (
                        "GPUs: 2 of node 0's 2 GPUs, in the order of their PCI addresses:"
                        f" NVIDIA H100 0000:10:00.0 {uuid(0)}, NVIDIA H100 0000:11:00.0 {uuid(1)}"
                    ),
                    "cores: 3 of the 3 for instances on node 0, with all their SMT siblings",
                    "housekeeping: 1 core of node 0 (CPUs 0,8) kept for the system and interrupts",
                    (
                        "memory: that of node 0 first, then that of other nodes; how much the instance needs is not"
                        " said (`memory_mib`), so whether it fits is unknown"
                    ),
                    "port 8000: none is set for the model, so a free one from 8000 on, kept from run to run",
                ],
            }
        ],
        "warnings": [],
    }


@pytest.mark.parametrize(("enforced", "warned"), [(False, True), (True, False), (None, False)])
def test_a_host_without_a_fence_is_told_what_works(enforced: bool | None, warned: bool) -> None:
    facts = machine({0: "0-3"})
    facts["kernel"]["cpuset_enforced"] = enforced
    warnings = plan(facts, model())["warnings"]
    assert len(warnings) == int(warned)
    for words in ("CPUAffinity and NUMAPolicy, or numactl, work", "not enforced", "numapin-verify.timer watches"):
        assert (words in " ".join(warnings)) is warned
    assert not any("cgroup" in warning for warning in plan(facts)["warnings"])


def test_an_ipv6_address_stands_in_brackets() -> None:
    (entry,) = plan(machine({0: "0-3"}), model(port=9000), address="2001:db8::1")["instances"]
    assert entry["url"] == "http://[2001:db8::1]:9000"


def test_cpu_instances_name_the_first_thread_of_every_core() -> None:
    (entry,) = plan(machine({3: "4-7,12-15"}, smt=8), model(port=9000))["instances"]
    assert entry["cpus"] == "5-7,13-15"
    assert entry["omp_cpus"] == "5-7"
    assert entry["device"] == "cpu"
    assert entry["weight"] == 1
    assert entry["memory_nodes"] == [3]
    assert entry["served_names"] == ["llama"]
    assert "GPUs: none, this host has none, so the model runs on the CPU" in entry["reasons"]
    assert entry["reasons"][-1] == "port 9000: the model's port 9000 plus 0 for this node and instance"


def test_housekeeping_takes_the_lowest_core_ids() -> None:
    facts = machine({0: "0-3"})
    for cpu, core in zip(facts["cpus"], (9, 8, 1, 0)):
        cpu["core"] = core
    assert plan(facts, model())["nodes"] == [{"node": 0, "instance_cpus": "0-2", "housekeeping_cpus": "3"}]


def test_cores_without_known_siblings_stand_alone() -> None:
    facts = machine({0: "0-3"})
    for cpu in facts["cpus"]:
        cpu.update(core=None, package=None, smt_siblings=None)
    assert plan(facts, model())["nodes"] == [{"node": 0, "instance_cpus": "1-3", "housekeeping_cpus": "0"}]


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (7, [1, 1], [4, 3]),
        (12, [2, 4], [4, 8]),
        (3, [8, 1, 1], [1, 1, 1]),
        (10, [4, 1], [8, 2]),
        (5, [], []),
    ],
)
def test_apportion(total: int, weights: list[int], shares: list[int]) -> None:
    assert apportion(total, weights) == shares


# --- the plan of the last run ----------------------------------------------------------------------------------------


def ports(result: dict[str, t.Any]) -> dict[str, int]:
    return {entry["name"]: entry["port"] for entry in result["instances"]}


def test_a_new_model_before_the_others_changes_neither_their_names_nor_their_ports() -> None:
    first = plan(cpu_only(), model("b"))
    assert ports(first) == {"b-n0": 8000, "b-n1": 8001}
    second = plan(cpu_only(), model("a"), model("b"), previous=first)
    assert ports(second) == {"a-n0": 8016, "a-n1": 8017, "b-n0": 8000, "b-n1": 8001}


def test_a_model_that_goes_leaves_its_ports_free_for_one_run() -> None:
    first = plan(cpu_only(), model("a"), model("b"))
    second = plan(cpu_only(), model("b"), model("c"), previous=first)
    assert ports(second) == {"b-n0": 8016, "b-n1": 8017, "c-n0": 8032, "c-n1": 8033}


def test_an_instance_stays_on_its_node_when_the_other_node_becomes_free() -> None:
    first = plan(cpu_only(), model("a", instances=1), model("b", instances=1))
    assert ports(first) == {"a-n0": 8000, "b-n1": 8017}
    assert ports(plan(cpu_only(), model("b", instances=1), previous=first)) == {"b-n1": 8017}


def test_a_lost_node_leaves_the_other_alone() -> None:
    first = plan(cpu_only(), model())
    second = plan(machine({1: "8-15"}), model(), previous=first)
    assert ports(second) == {"llama-n1": 8001}


def test_instances_by_number_spread_again_when_a_node_comes_back() -> None:
    one = plan(machine({0: "0-7"}), model(instances=2))
    assert ports(one) == {"llama-n0": 8000, "llama-n0-2": 8001}
    both = plan(cpu_only(), model(instances=2), previous=one)
    assert ports(both) == {"llama-n0": 8000, "llama-n1": 8002}


def test_fewer_and_more_instances_keep_the_first_ones() -> None:
    four = plan(cpu_only(), model(instances=4))
    assert ports(four) == {"llama-n0": 8000, "llama-n0-2": 8001, "llama-n1": 8002, "llama-n1-2": 8003}
    two = plan(cpu_only(), model(instances=2), previous=four)
    assert ports(two) == {"llama-n0": 8000, "llama-n1": 8002}
    assert ports(plan(cpu_only(), model(instances=4), previous=two))["llama-n1"] == 8002


def test_what_runs_gives_way_when_the_list_would_not_fit_otherwise() -> None:
    facts = machine({0: "0-7", 1: "8-15"}, [gpu(0, 0), gpu(1, 0), gpu(2, 1), gpu(3, 1)])
    first = plan(facts, model("small", instances=3))
    second = plan(facts, model("large", tensor_parallel_size=2, instances=1), model("small"), previous=first)
    assert [(entry["name"], entry["gpus"]) for entry in second["instances"]] == [
        ("large-n0", [uuid(0), uuid(1)]),
        ("small-n1", [uuid(2)]),
    ]


def test_kept_gpus_are_the_same_gpus() -> None:
    facts = machine({0: "0-7"}, [gpu(index, 0) for index in range(4)])
    first = plan(facts, model("a"), model("b", tensor_parallel_size=2))
    second = plan(facts, model("b", tensor_parallel_size=2), previous=first)
    assert [entry["gpus"] for entry in second["instances"]] == [[uuid(1), uuid(2)]]


def test_a_set_port_wins_over_a_kept_one() -> None:
    first = plan(cpu_only(), model("a"))
    second = plan(cpu_only(), model("a"), model("b", port=8001), previous=first)
    assert ports(second) == {"a-n0": 8000, "a-n1": 8003, "b-n0": 8001, "b-n1": 8002}


@pytest.mark.parametrize(
    "previous",
    [
        None,
        {},
        [],
        "text",
        {"instances": None},
        {"instances": [None, {}, {"name": 1}, {"name": "llama-n0", "port": "8000"}]},
        {"instances": [{"name": "llama-n0", "port": True, "nodes": ["x"], "gpus": 7}], "nodes": 3},
        {"instances": [{"name": "llama-n0", "port": 80}], "nodes": [None]},
    ],
)
def test_an_older_or_broken_last_plan_counts_as_none(previous: object) -> None:
    assert plan(cpu_only(), model(), previous=previous) == plan(cpu_only(), model())


def test_one_port_twice_in_a_broken_last_plan_is_given_once() -> None:
    previous = {"instances": [{"name": "llama-n0", "port": 8500}, {"name": "llama-n1", "port": 8500}]}
    assert ports(plan(cpu_only(), model(), previous=previous)) == {"llama-n0": 8500, "llama-n1": 8501}


def test_more_instances_than_a_block_has_ports() -> None:
    result = plan(machine({0: "0-39"}), model("a", instances=20), model("b", instances=1))
    assert [entry["port"] for entry in result["instances"]] == [*range(8000, 8020), 8032]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_group_larger_than_every_node() -> None:
    text = refusal(eight_gpus(), model(tensor_parallel_size=8))
    assert text == (
        "host gpu1 cannot be planned: model 'llama' asks for one instance per node with 8 GPUs each"
        " (tensor_parallel_size 8), and there is room for none: node 0 has 4 GPUs, 4 free; node 1 has 4 GPUs, 4 free."
        " A tensor-parallel group stays inside one node. What would help: set `tensor_parallel_size` to at most 4;"
        " set `spanning: pipeline`, which makes it 2 groups of 4 GPUs, each inside one node; set `spanning:"
        " interleave`, which lets its group cross nodes at a cost."
    )


def test_more_instances_than_there_is_room_for() -> None:
    text = refusal(eight_gpus(), model(tensor_parallel_size=3, instances=3))
    assert "asks for 3 instances on this host with 3 GPUs each" in text
    assert "there is room for 2: node 0 has 4 GPUs, 1 free; node 1 has 4 GPUs, 1 free" in text
    assert "set `instances` to at most 2" in text


def test_a_model_whose_gpus_went_to_those_before_it() -> None:
    text = refusal(eight_gpus(), model("a", tensor_parallel_size=4), model("b"))
    assert "model 'b' asks for one instance per node with 1 GPU each" in text
    assert "node 0 has 4 GPUs, 0 free, shared with a" in text
    assert "lower `instances` or `tensor_parallel_size` of the models before it, or move it up in vllm_models" in text


def test_more_cpu_instances_than_cores() -> None:
    text = refusal(machine({0: "0-2"}), model(instances=3))
    assert "asks for 3 instances on this host on the CPU, and there is room for 2" in text
    assert "node 0 has 2 cores for instances, 0 free" in text
    assert "set `instances` to at most 2; lower `housekeeping_cores`" in text


def test_tensor_parallel_on_the_cpu() -> None:
    text = refusal(cpu_only(), model(tensor_parallel_size=2))
    assert "asks for tensor_parallel_size 2 and this host has no GPU" in text
    assert "vLLM's CPU backend gives every rank a NUMA node of its own" in text
    assert "`tensor_parallel_size: 1`" in text
    assert "(`device: cpu`)" in refusal(eight_gpus(), model(tensor_parallel_size=2, device="cpu"))


@pytest.mark.parametrize(
    ("keys", "asked"),
    [({"device": "gpu"}, "asks for `device: gpu`"), ({"gpus": "[*]"}, "asks for GPUs matching `gpus: [*]`")],
)
def test_gpus_wanted_where_there_are_none(keys: Facts, asked: str) -> None:
    text = refusal(cpu_only(), model(**keys))
    assert f"{asked}, and this host has no GPU" in text
    assert "`nvidia-smi`" in text


def test_a_gpu_whose_node_is_unknown() -> None:
    text = refusal(machine({0: "0-3", 1: "4-7"}, [gpu(0, 0), gpu(1, None)]), model())
    assert f"the NUMA node of NVIDIA H100 0000:11:00.0 {uuid(1)} is not known" in text
    assert '`vllm_gpu_node_overrides: {"0000:11:00.0": 0}`' in text
    assert "`gpus` selector" in text
    assert uuid(0) not in text


def test_a_gpu_known_from_sysfs_alone() -> None:
    facts = machine({0: "0-3"}, [gpu(0, 0, uuid=None, name=None, memory_total_mib=None, source="sysfs")])
    text = refusal(facts, model())
    assert "the UUID of GPU 0000:10:00.0 is not known" in text
    assert "nvidia-ml-py" in text
    assert "`nvidia-smi -L`" in text
    assert "`device: cpu`" in text


def test_a_gpu_of_another_vendor() -> None:
    text = refusal(machine({0: "0-3"}, [gpu(0, 0, uuid=None, name=None, vendor="amd", source="sysfs")]), model())
    assert "GPU 0000:10:00.0 of vendor amd: only NVIDIA GPUs can be given to instances so far" in text


def test_gpus_on_nodes_that_take_no_instance() -> None:
    facts = machine({0: "0-3", 1: ""}, [gpu(0, 1), gpu(1, 7)], kinds={1: "memory_only"})
    text = refusal(facts, model())
    assert "node 1 takes no instance (it has memory but no CPUs)" in text
    assert "is said to be on node 7, which this host does not have" in text


def test_a_host_without_a_usable_node() -> None:
    text = refusal(machine({0: "0-3"}), model(), reserved_cpus="0-3")
    assert "node 0 takes no instance (its CPUs 0-3 are all taken by reserved_cpus (0-3))" in text
    assert "check reserved_cpus" in text


def test_a_selector_that_matches_nothing() -> None:
    text = refusal(eight_gpus(), model(gpus="[?memory_total_mib > `100000`]"))
    assert "matches none of this host's 8 GPUs: 0000:10:00.0 NVIDIA H100, 81559 MiB, node 0; 0000:11:00.0" in text


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("[?memory_total_mib >= ", "is not valid JMESPath"),
        ("[?contains(memory_total_mib, 'x')]", "is not valid JMESPath"),
        ("length(@)", "gives 8 instead of a list of GPUs"),
        ("[].uuid", "gives a list that holds 'GPU-"),
        ("[].{uuid: name}", "instead of whole GPUs"),
    ],
)
def test_a_selector_that_is_wrong(expression: str, fault: str) -> None:
    text = refusal(eight_gpus(), model(gpus=expression))
    assert f"model 'llama': the selector `gpus: {expression}`" in text
    assert fault in text
    assert "Use a filter over the list, such as `[?memory_total_mib >= `80000`]`" in text
    assert "\n" not in text


def test_a_selector_without_jmespath(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_jmespath(name: str, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if name.partition(".")[0] == "jmespath":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_jmespath)
    assert "needs the Python library jmespath on the controller" in refusal(eight_gpus(), model(gpus="[*]"))


def test_ports_that_meet() -> None:
    text = refusal(cpu_only(), model("a", port=8000), model("b", port=8001))
    assert (
        "models 'a' (`port: 8000`) and 'b' (`port: 8001`) both come to port 8001, for instances a-n1 and b-n0" in text
    )


def test_a_port_past_the_last_one() -> None:
    text = refusal(cpu_only(), model(port=65535))
    assert "instance llama-n1 would get port 65536 (port 65535 of model 'llama' plus 1)" in text
    assert "Set a lower `port`" in text


def test_all_models_that_do_not_fit_are_told() -> None:
    text = refusal(eight_gpus(), model("a", tensor_parallel_size=9), model("b", gpus="[?"), model("c", instances=9))
    assert text.startswith("host gpu1 cannot be planned: 3 problems\n- ")
    assert all(f"model {name!r}" in text for name in "abc")


@pytest.mark.parametrize("value", [-1, True, "2", None, 1.5])
def test_housekeeping_cores_out_of_range(value: object) -> None:
    assert f"housekeeping_cores is {value!r}. Allowed is a whole number from 0" in refusal(
        cpu_only(), model(), housekeeping_cores=value
    )


@pytest.mark.parametrize("value", ["0-3,N", "3-1", 7])
def test_reserved_cpus_that_are_no_cpulist(value: object) -> None:
    text = refusal(cpu_only(), model(), reserved_cpus=value)
    assert "reserved_cpus" in text
    assert "such as" in text
    assert str(value) in text


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda facts: facts.clear(), "Run the module numapin.inference.numa_facts"),
        (lambda facts: facts.update(nodes=None), "nodes is 'None'"),
        (lambda facts: facts["nodes"][1].update(id="one"), "nodes[].id is 'one'"),
        (lambda facts: facts["nodes"][0].update(cpus=3), "nodes[0].cpus is '3'"),
        (lambda facts: facts["nodes"][0].update(cpus="a-b"), "nodes[0].cpus"),
        (lambda facts: facts["cpus"][2].pop("id"), "cpus[2].id"),
        (lambda facts: facts["gpus"].append({"uuid": "x"}), "gpus[0].pci_address"),
        (lambda facts: facts["gpus"].append(gpu(0, -1)), "gpus[0].node is '-1'"),
        (lambda facts: facts.update(allowed_cpus=["0"]), "allowed_cpus"),
    ],
)
def test_facts_that_are_damaged(damage: t.Callable[[Facts], object], named: str) -> None:
    facts = cpu_only()
    damage(facts)
    with pytest.raises(FactsError) as caught:
        plan(facts, model())
    assert named in str(caught.value)
