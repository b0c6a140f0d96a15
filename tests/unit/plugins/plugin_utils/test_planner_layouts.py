# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layouts of the field, laid out and captured, with the plan written by hand, one line for each instance.

A line is the instance's name, its nodes, its CPUs, its GPUs by the index that ``machines.gpu`` was given (or the
cpulists of its worker threads), tensor x pipeline size, and its port; then what is not usual of it.
"""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._archive import opened_root, recorded_answers
from ansible_collections.numapin.inference.plugins.module_utils._facts import gather, wanted_parts
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import PlanError, plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    Facts,
    connect,
    cpu_only,
    eight_gpus,
    gpu,
    machine,
    mig,
    mig_uuid,
    model,
    uuid,
)

CAPTURES = Path(__file__).resolve().parents[3] / "captures"

INDEX = {uuid(index): str(index) for index in range(16)} | {
    mig_uuid(index, number): f"{index}.{number}" for index in range(4) for number in range(8)
}


def line(entry: dict[str, t.Any]) -> str:
    """One instance as a line."""
    on = f"omp {entry['omp_cpus']}" if entry["device"] == "cpu" else f"gpus {','.join(INDEX[g] for g in entry['gpus'])}"
    text = (
        f"{entry['name']} on {','.join(map(str, entry['nodes']))} cpus {entry['cpus']} {on}"
        f" {entry['tensor_parallel_size']}x{entry['pipeline_parallel_size']} port {entry['port']}"
    )
    if entry["memory_policy"] != "bind":
        text += f" {entry['memory_policy']}"
    if entry["numa_bind_nodes"]:
        text += f" bound {','.join(map(str, entry['numa_bind_nodes']))}"
    return text


def divided(gpu_nodes: t.Sequence[int]) -> Facts:
    """Two packages of two nodes (SNC-2) with 8 cores each."""
    nodes = {0: "0-7", 1: "8-15", 2: "16-23", 3: "24-31"}
    return machine(nodes, [gpu(i, node) for i, node in enumerate(gpu_nodes)], packages=[[0, 1], [2, 3]])


def four_per_package() -> Facts:
    """Two packages of four nodes (NPS-4) with 4 cores and a GPU each."""
    nodes = {node: f"{4 * node}-{4 * node + 3}" for node in range(8)}
    return machine(nodes, [gpu(node, node) for node in nodes], packages=[range(4), range(4, 8)])


def two_nodes(*gpus: Facts, **changes: t.Any) -> Facts:
    """Two nodes of 8 cores, 0-7 and 8-15."""
    return machine({0: "0-7", 1: "8-15"}, gpus, **changes)


def one_node(gpus: t.Sequence[Facts]) -> Facts:
    """One node of 9 cores, 8 of them for instances."""
    return machine({0: "0-8"}, gpus)


def on_nodes(*nodes: int) -> list[Facts]:
    return [gpu(index, node) for index, node in enumerate(nodes)]


def captured(name: str) -> Facts:
    """The facts of a machine in tests/captures."""
    path = CAPTURES / f"{name}.tar.gz"
    if not path.is_file():
        pytest.skip("the captures are not part of the built collection")
    with opened_root(str(path)) as directory:
        host = Host(directory)
        return gather(host, wanted_parts(["all"]), {}, GpuSources(recorded=recorded_answers(host)))


ALL_ALIKE = {(one, other): (18, "NODE") for one in range(8) for other in range(one)}


@dataclasses.dataclass(frozen=True)
class Case:
    """``warnings``: a part of each; ``balancer``: its node and CPUs."""

    id: str
    facts: Facts | str
    models: list[Facts]
    expected: list[str]
    options: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    balancer: tuple[int, str] | None = None


CASES = [
    # --- which GPUs belong together
    Case(
        "an NVSwitch connects all GPUs alike",
        {**eight_gpus(), "gpus": connect(eight_gpus()["gpus"], ALL_ALIKE)},
        [model(tensor_parallel_size=4)],
        [
            "llama-n0 on 0 cpus 1-31,65-95 gpus 0,1,2,3 4x1 port 8000",
            "llama-n1 on 1 cpus 33-63,97-127 gpus 4,5,6,7 4x1 port 8001",
        ],
    ),
    Case(
        "NVLink bridges join pairs",
        one_node(connect(on_nodes(0, 0, 0, 0), {(0, 2): (12, "NODE"), (1, 3): (12, "NODE")})),
        [model(tensor_parallel_size=2, instances=2)],
        ["llama-n0 on 0 cpus 1-4 gpus 0,2 2x1 port 8000", "llama-n0-2 on 0 cpus 5-8 gpus 1,3 2x1 port 8001"],
    ),
    Case(
        "PCIe switches join pairs",
        one_node(connect(on_nodes(0, 0, 0, 0), {(0, 3): (0, "PIX"), (1, 2): (0, "PIX"), (0, 1): (0, "NODE")})),
        [model(tensor_parallel_size=2, instances=2)],
        ["llama-n0 on 0 cpus 1-4 gpus 0,3 2x1 port 8000", "llama-n0-2 on 0 cpus 5-8 gpus 1,2 2x1 port 8001"],
    ),
    Case(
        "NVLinks before PCIe paths",
        one_node(connect(on_nodes(0, 0, 0), {(0, 1): (0, "PIX"), (1, 2): (4, "SYS")})),
        [model(tensor_parallel_size=2)],
        ["llama-n0 on 0 cpus 1-8 gpus 1,2 2x1 port 8000"],
        warnings=["1 of 3 GPUs left without an instance"],
    ),
    Case(
        "of equal groups the one that leaves the others connected",
        one_node(connect(on_nodes(0, 0, 0, 0), {(0, 1): (1, "SYS"), (0, 2): (1, "SYS"), (1, 3): (1, "SYS")})),
        [model(tensor_parallel_size=2, instances=2)],
        ["llama-n0 on 0 cpus 1-4 gpus 0,2 2x1 port 8000", "llama-n0-2 on 0 cpus 5-8 gpus 1,3 2x1 port 8001"],
    ),
    Case(
        "one GPU is taken from no pair",
        one_node(connect(on_nodes(0, 0, 0), {(0, 1): (4, "SYS")})),
        [model("a", port=9000), model("b", tensor_parallel_size=2)],
        ["a-n0 on 0 cpus 1-3 gpus 2 1x1 port 9000", "b-n0 on 0 cpus 4-8 gpus 0,1 2x1 port 8000"],
    ),
    # --- several instances per node, unequal nodes
    Case(
        "all GPUs on one node, an instance for each",
        two_nodes(*on_nodes(1, 1, 1, 1)),
        [model(instances_per_node=4)],
        [
            "llama-n1 on 1 cpus 9-10 gpus 0 1x1 port 8004",
            "llama-n1-2 on 1 cpus 11-12 gpus 1 1x1 port 8005",
            "llama-n1-3 on 1 cpus 13-14 gpus 2 1x1 port 8006",
            "llama-n1-4 on 1 cpus 15 gpus 3 1x1 port 8007",
        ],
    ),
    Case(
        "unequal nodes take as many instances as they have room for",
        two_nodes(*on_nodes(0, 0, 0, 0, 1, 1)),
        [model(tensor_parallel_size=2, instances_per_node=2, port=9000)],
        [
            "llama-n0 on 0 cpus 1-4 gpus 0,1 2x1 port 9000",
            "llama-n0-2 on 0 cpus 5-7 gpus 2,3 2x1 port 9001",
            "llama-n1 on 1 cpus 9-15 gpus 4,5 2x1 port 9002",
        ],
        warnings=["model 'llama' has 1 of 2 instances on node 1: node 1 has 2 GPUs, 0 free; 2 GPUs of one node needed"],
    ),
    Case(
        "several instances per node on the CPU",
        cpu_only(),
        [model(instances_per_node=2)],
        [
            "llama-n0 on 0 cpus 1-4 omp 1-4 1x1 port 8000",
            "llama-n0-2 on 0 cpus 5-7 omp 5-7 1x1 port 8001",
            "llama-n1 on 1 cpus 9-12 omp 9-12 1x1 port 8002",
            "llama-n1-2 on 1 cpus 13-15 omp 13-15 1x1 port 8003",
        ],
    ),
    # --- packages of several nodes
    Case(
        "SNC, scope node: half of the nodes have no GPU",
        divided([0, 0, 0, 0, 2, 2, 2, 2]),
        [model(tensor_parallel_size=4)],
        [
            "llama-n0 on 0 cpus 1-7 gpus 0,1,2,3 4x1 port 8000",
            "llama-n2 on 2 cpus 17-23 gpus 4,5,6,7 4x1 port 8002",
        ],
    ),
    Case(
        "SNC, scope package: all CPUs and all memory of the package",
        divided([0, 0, 0, 0, 2, 2, 2, 2]),
        [model(tensor_parallel_size=4, scope="package")],
        [
            "llama-n0 on 0,1 cpus 1-7,9-15 gpus 0,1,2,3 4x1 port 8000",
            "llama-n2 on 2,3 cpus 17-23,25-31 gpus 4,5,6,7 4x1 port 8002",
        ],
    ),
    Case(
        "SNC, scope package: a group of the GPUs of both nodes",
        divided([0, 0, 1, 1, 2, 2, 3, 3]),
        [model(tensor_parallel_size=4, scope="package")],
        [
            "llama-n0 on 0,1 cpus 1-7,9-15 gpus 0,1,2,3 4x1 port 8000",
            "llama-n2 on 2,3 cpus 17-23,25-31 gpus 4,5,6,7 4x1 port 8002",
        ],
    ),
    Case(
        "NPS-4, scope package, two instances in each",
        four_per_package(),
        [model(tensor_parallel_size=2, scope="package", instances_per_node=2)],
        [
            "llama-n0 on 0,1,2,3 cpus 1-2,5-6,9-10,13-14 gpus 0,1 2x1 port 8000",
            "llama-n0-2 on 0,1,2,3 cpus 3,7,11,15 gpus 2,3 2x1 port 8001",
            "llama-n4 on 4,5,6,7 cpus 17-18,21-22,25-26,29-30 gpus 4,5 2x1 port 8008",
            "llama-n4-2 on 4,5,6,7 cpus 19,23,27,31 gpus 6,7 2x1 port 8009",
        ],
    ),
    Case(
        "a model of packages and a model of nodes share a host",
        divided([0, 0, 1, 1, 2, 2, 3, 3]),
        [model("a", tensor_parallel_size=2, scope="package"), model("b")],
        [
            "a-n0 on 0,1 cpus 1-7,9-13 gpus 0,1 2x1 port 8000",
            "a-n2 on 2,3 cpus 17-23,25-29 gpus 4,5 2x1 port 8002",
            "b-n1 on 1 cpus 14-15 gpus 2 1x1 port 8017",
            "b-n3 on 3 cpus 30-31 gpus 6 1x1 port 8019",
        ],
        warnings=[
            "2 of 8 GPUs left without an instance",
            "model 'b' has no instance on node 0: node 0 has 2 GPUs, 0 free, shared with a",
            "model 'b' has no instance on node 2",
        ],
    ),
    # --- instances over several nodes
    Case(
        "pipeline over two nodes",
        eight_gpus(),
        [model(tensor_parallel_size=8, spanning="pipeline")],
        [
            "llama-n0 on 0,1 cpus 1-31,33-63,65-95,97-127 gpus 0,1,2,3,4,5,6,7 4x2 port 8000 bound 0,0,0,0,1,1,1,1",
        ],
    ),
    Case(
        "a pipeline asked for by its size",
        eight_gpus(),
        [model(tensor_parallel_size=4, pipeline_parallel_size=2)],
        [
            "llama-n0 on 0,1 cpus 1-31,33-63,65-95,97-127 gpus 0,1,2,3,4,5,6,7 4x2 port 8000 bound 0,0,0,0,1,1,1,1",
        ],
    ),
    Case(
        "a pipeline that fits inside a node stays there",
        eight_gpus(),
        [model(tensor_parallel_size=2, pipeline_parallel_size=2)],
        [
            "llama-n0 on 0 cpus 1-31,65-95 gpus 0,1,2,3 2x2 port 8000",
            "llama-n1 on 1 cpus 33-63,97-127 gpus 4,5,6,7 2x2 port 8001",
        ],
    ),
    Case(
        "what fits inside a node does not span, whatever may",
        eight_gpus(),
        [model(tensor_parallel_size=4, spanning="interleave")],
        [
            "llama-n0 on 0 cpus 1-31,65-95 gpus 0,1,2,3 4x1 port 8000",
            "llama-n1 on 1 cpus 33-63,97-127 gpus 4,5,6,7 4x1 port 8001",
        ],
    ),
    Case(
        "pipelines over as few of four nodes as hold them",
        divided([0, 0, 1, 1, 2, 2, 3, 3]),
        [model(tensor_parallel_size=4, spanning="pipeline")],
        [
            "llama-n0 on 0,1 cpus 1-7,9-15 gpus 0,1,2,3 2x2 port 8000 bound 0,0,1,1",
            "llama-n2 on 2,3 cpus 17-23,25-31 gpus 4,5,6,7 2x2 port 8002 bound 2,2,3,3",
        ],
    ),
    Case(
        "pipeline over packages, tensor-parallel inside each",
        divided([0, 0, 1, 1, 2, 2, 3, 3]),
        [model(tensor_parallel_size=8, scope="package", spanning="pipeline")],
        [
            "llama-n0 on 0,1,2,3 cpus 1-7,9-15,17-23,25-31 gpus 0,1,2,3,4,5,6,7 4x2 port 8000 bound 0,0,1,1,2,2,3,3",
        ],
    ),
    Case(
        "pipeline over unequal nodes",
        two_nodes(*on_nodes(0, 0, 0, 0, 1, 1)),
        [model(tensor_parallel_size=6, spanning="pipeline")],
        ["llama-n0 on 0,1 cpus 1-7,9-15 gpus 0,1,2,3,4,5 2x3 port 8000 bound 0,0,0,0,1,1"],
    ),
    Case(
        "a pipeline's groups are those connected best",
        two_nodes(
            *connect(on_nodes(0, 0, 0, 1, 1, 1), {(0, 2): (4, "NODE"), (4, 5): (4, "NODE")}),
        ),
        [model(tensor_parallel_size=4, spanning="pipeline"), model("small")],
        [
            "llama-n0 on 0,1 cpus 1-5,9-13 gpus 0,2,4,5 2x2 port 8000 bound 0,0,1,1",
            "small-n0 on 0 cpus 6-7 gpus 1 1x1 port 8016",
            "small-n1 on 1 cpus 14-15 gpus 3 1x1 port 8017",
        ],
    ),
    Case(
        "a pipeline of three quarters and a small model in the rest",
        eight_gpus(),
        [model("a", tensor_parallel_size=6, spanning="pipeline"), model("b")],
        [
            "a-n0 on 0,1 cpus 1-23,33-55,65-87,97-119 gpus 0,1,2,4,5,6 3x2 port 8000 bound 0,0,0,1,1,1",
            "b-n0 on 0 cpus 24-31,88-95 gpus 3 1x1 port 8016",
            "b-n1 on 1 cpus 56-63,120-127 gpus 7 1x1 port 8017",
        ],
    ),
    Case(
        "interleaved over two nodes",
        eight_gpus(),
        [model(tensor_parallel_size=8, spanning="interleave")],
        ["llama-n0 on 0,1 cpus 1-31,33-63,65-95,97-127 gpus 0,1,2,3,4,5,6,7 8x1 port 8000 interleave"],
        warnings=[
            (
                "instance llama-n0 is interleaved over nodes 0, 1, as `spanning: interleave` asks for: its"
                " tensor-parallel group crosses nodes, so that every layer waits for the link between them, and 50 % of"
                " its host memory is on another node"
            )
        ],
    ),
    Case(
        "a pipeline over nodes on the CPU, a worker on each",
        cpu_only(),
        [model(tensor_parallel_size=2, spanning="pipeline")],
        ["llama-n0 on 0,1 cpus 1-7,9-15 omp 1-7|9-15 1x2 port 8000"],
    ),
    Case(
        "tensor-parallel over nodes on the CPU",
        cpu_only(),
        [model(tensor_parallel_size=2, spanning="interleave")],
        ["llama-n0 on 0,1 cpus 1-7,9-15 omp 1-7|9-15 2x1 port 8000 interleave"],
        warnings=["instance llama-n0 is interleaved over nodes 0, 1"],
    ),
    Case(
        "an instance on the CPU that needs the memory of two of three nodes",
        machine({0: "0-3", 1: "4-7", 2: "8-11"}, memory_mib={0: 60000, 1: 20000, 2: 60000}),
        [model(memory_mib=100000, spanning="interleave")],
        ["llama-n0 on 0,2 cpus 1-3,9-11 omp 1-3,9-11 1x1 port 8000 interleave"],
        warnings=[
            "instance llama-n0 is interleaved over nodes 0, 2, as `spanning: interleave` asks for: 50 % of its",
            "model 'llama' has no instance on node 1",
        ],
    ),
    # --- memory-only nodes
    Case(
        "GH200: eight nodes of GPU memory",
        machine(
            {0: "0-71", **dict.fromkeys(range(1, 9), "")},
            [gpu(0, 0, name="NVIDIA GH200 480GB", memory_node=1)],
            kinds=dict.fromkeys(range(1, 9), "memory_only"),
            packages=[[0]],
        ),
        [model()],
        ["llama-n0 on 0 cpus 1-71 gpus 0 1x1 port 8000"],
    ),
    Case(
        "GB200: two packages, the GPUs' memory on nodes 2, 10, 18 and 26",
        machine(
            {0: "0-71", 1: "72-143", 2: "", 10: "", 18: "", 26: ""},
            [gpu(index, index // 2, memory_node=node) for index, node in enumerate((2, 10, 18, 26))],
            kinds=dict.fromkeys((2, 10, 18, 26), "memory_only"),
            packages=[[0], [1]],
        ),
        [model(tensor_parallel_size=2, scope="package")],
        ["llama-n0 on 0 cpus 1-71 gpus 0,1 2x1 port 8000", "llama-n1 on 1 cpus 73-143 gpus 2,3 2x1 port 8001"],
    ),
    Case(
        "POWER9: nodes 0 and 8, and GPU memory on 252 to 255",
        machine(
            {0: "0-7", 8: "8-15", **dict.fromkeys(range(252, 256), "")},
            [gpu(index, 8 * (index // 2), memory_node=255 - index) for index in range(4)],
            kinds=dict.fromkeys(range(252, 256), "memory_only"),
            packages=[[0], [8]],
        ),
        [model(tensor_parallel_size=4, spanning="pipeline")],
        ["llama-n0 on 0,8 cpus 1-7,9-15 gpus 0,1,2,3 2x2 port 8000 bound 0,0,8,8"],
    ),
    # --- MIG
    Case(
        "MIG devices are GPUs on the node of their parent",
        two_nodes(mig(0, 0, "1g", "1g", "1g"), mig(1, 1, "1g")),
        [model(instances_per_node=3)],
        [
            "llama-n0 on 0 cpus 1-3 gpus 0.0 1x1 port 8000",
            "llama-n0-2 on 0 cpus 4-5 gpus 0.1 1x1 port 8001",
            "llama-n0-3 on 0 cpus 6-7 gpus 0.2 1x1 port 8002",
            "llama-n1 on 1 cpus 9-15 gpus 1.0 1x1 port 8003",
        ],
        warnings=["model 'llama' has 1 of 3 instances on node 1: node 1 has 1 GPU, 0 free"],
    ),
    Case(
        "a MIG device by its profile",
        two_nodes(mig(0, 0, "NVIDIA H100 MIG 1g.10gb", "NVIDIA H100 MIG 3g.40gb")),
        [model(gpus="[?contains(name, '3g.40gb')]")],
        ["llama-n0 on 0 cpus 1-7 gpus 0.1 1x1 port 8000"],
    ),
    Case(
        "groups are made of whole GPUs",
        two_nodes(mig(0, 0, "1g"), gpu(1, 0), gpu(2, 0)),
        [model(tensor_parallel_size=2)],
        ["llama-n0 on 0 cpus 1-7 gpus 1,2 2x1 port 8000"],
    ),
    Case(
        "MIG mode without a device",
        two_nodes(mig(0, 0), gpu(1, 0)),
        [model()],
        ["llama-n0 on 0 cpus 1-7 gpus 1 1x1 port 8000"],
        warnings=["GPU 0000:10:00.0 is left out: it is in MIG mode and has no MIG device"],
    ),
    # --- memory
    Case(
        "instances go where their memory is",
        two_nodes(memory_mib={0: 30000, 1: 90000}),
        [model(instances=2, memory_mib=40000)],
        ["llama-n1 on 1 cpus 9-12 omp 9-12 1x1 port 8002", "llama-n1-2 on 1 cpus 13-15 omp 13-15 1x1 port 8003"],
    ),
    Case(
        "hugepages are not there for instances",
        two_nodes(memory_mib={0: 60000, 1: 60000}, huge_mib={0: 30000}),
        [model(memory_mib=40000)],
        ["llama-n1 on 1 cpus 9-15 omp 9-15 1x1 port 8001"],
        warnings=[
            (
                "model 'llama' has no instance on node 0: node 0 has 7 cores for instances, 7 free and 30000 MiB of"
                " memory for instances, 30000 free; a core of its own needed, 40000 MiB of memory each"
            )
        ],
    ),
    Case(
        "KV offload of a second instance does not fit",
        eight_gpus(),
        [model(tensor_parallel_size=2, instances_per_node=2, arguments={"kv-offloading-size": 300})],
        [
            "llama-n0 on 0 cpus 1-31,65-95 gpus 0,1 2x1 port 8000",
            "llama-n1 on 1 cpus 33-63,97-127 gpus 4,5 2x1 port 8002",
        ],
        warnings=[
            "4 of 8 GPUs left without an instance",
            "model 'llama' has 1 of 2 instances on node 0",
            "model 'llama' has 1 of 2 instances on node 1",
        ],
    ),
    Case(
        "the memory of a package is that of its nodes",
        machine({0: "0-3", 1: "4-7"}, packages=[[0, 1]], memory_mib={0: 30000, 1: 30000}),
        [model("a", scope="package", memory_mib=45000), model("b", instances=1, memory_mib=12000)],
        ["a-n0 on 0,1 cpus 1-2,5-7 omp 1-2,5-7 1x1 port 8000", "b-n0 on 0 cpus 3 omp 3 1x1 port 8016"],
    ),
    Case(
        "preferred memory may be elsewhere",
        two_nodes(memory_mib={0: 1000, 1: 1000}),
        [model(memory_mib=1500, memory_policy="preferred", instances=1)],
        ["llama-n0 on 0 cpus 1-7 omp 1-7 1x1 port 8000 preferred"],
        warnings=["instance llama-n0 needs memory of other nodes, which `memory_policy: preferred` allows: node 0 is"],
    ),
    Case(
        "memory that nobody knows refuses nothing",
        two_nodes(memory_mib={0: None, 1: None}),
        [model(memory_mib=10**9, instances=1)],
        ["llama-n0 on 0 cpus 1-7 omp 1-7 1x1 port 8000"],
    ),
    # --- cores by role
    Case(
        "cores for nginx on the node of the fastest card that is up",
        two_nodes(
            nics=[
                {"name": "eno1", "node": 0, "link": "up", "speed_mbps": 1000},
                {"name": "ens2", "node": 1, "link": "up", "speed_mbps": 100000},
                {"name": "ens3", "node": 0, "link": "down", "speed_mbps": 400000},
            ]
        ),
        [model()],
        ["llama-n0 on 0 cpus 1-7 omp 1-7 1x1 port 8000", "llama-n1 on 1 cpus 11-15 omp 11-15 1x1 port 8001"],
        {"balancer_cores": 2},
        balancer=(1, "9-10"),
    ),
    Case(
        "cores for nginx where no card is known, with their siblings",
        machine({0: "0-3,8-11", 1: "4-7,12-15"}, smt=8),
        [model()],
        ["llama-n0 on 0 cpus 2-3,10-11 omp 2-3 1x1 port 8000", "llama-n1 on 1 cpus 5-7,13-15 omp 5-7 1x1 port 8001"],
        {"balancer_cores": 1},
        balancer=(0, "1,9"),
    ),
    Case(
        "worker threads leave cores to the API server",
        machine({0: "0-3,8-11"}, smt=8),
        [model()],
        ["llama-n0 on 0 cpus 1-3,9-11 omp 3 1x1 port 8000"],
        {"api_server_cores": 5},
    ),
    # --- captured machines
    Case(
        "captured: two sockets",
        "two-sockets",
        [model()],
        ["llama-n0 on 0 cpus 1 omp 1 1x1 port 8000", "llama-n1 on 1 cpus 3 omp 3 1x1 port 8001"],
    ),
    Case(
        "captured: two sockets, 565 MiB on node 1 of which 6 are in hugepages",
        "two-sockets",
        [model(memory_mib=560)],
        ["llama-n0 on 0 cpus 1 omp 1 1x1 port 8000"],
        warnings=["model 'llama' has no instance on node 1: node 1 has 1 core for instances, 1 free and 559 MiB"],
    ),
    Case(
        "captured: two sockets, interleaved for its memory",
        "two-sockets",
        [model(memory_mib=900, spanning="interleave")],
        ["llama-n0 on 0,1 cpus 1,3 omp 1,3 1x1 port 8000 interleave"],
        warnings=["instance llama-n0 is interleaved over nodes 0, 1"],
    ),
    Case(
        "captured: four nodes, two of one package, one without CPUs; CPU 3 is isolated",
        "four-nodes",
        [model(scope="package")],
        ["llama-n0 on 0,1 cpus 0-1 omp 0-1 1x1 port 8000", "llama-n2 on 2 cpus 2 omp 2 1x1 port 8002"],
        {"housekeeping_cores": 0},
    ),
    Case(
        "captured: four nodes, a pipeline over three",
        "four-nodes",
        [model(tensor_parallel_size=3, spanning="pipeline")],
        ["llama-n0 on 0,1,2 cpus 0-2 omp 0|1|2 1x3 port 8000"],
        {"housekeeping_cores": 0},
    ),
    Case(
        "captured: SMT with CPUs offline, one package",
        "smt-offline",
        [model(scope="package")],
        ["llama-n0 on 0,1 cpus 0,2-3 omp 0,2 1x1 port 8000"],
        {"housekeeping_cores": 0},
    ),
    Case(
        "captured: one node",
        "one-node",
        [model(instances_per_node=2)],
        ["llama-n0 on 0 cpus 0 omp 0 1x1 port 8000", "llama-n0-2 on 0 cpus 1 omp 1 1x1 port 8001"],
        {"housekeeping_cores": 0},
    ),
]


def plan(facts: Facts, *models: Facts, **options: t.Any) -> dict[str, t.Any]:
    return plan_host(facts, list(models), **{"host": "gpu1", "address": "192.0.2.11", **options})


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_layout(case: Case) -> None:
    facts = captured(case.facts) if isinstance(case.facts, str) else case.facts
    result = plan(facts, *case.models, **case.options)
    assert [line(entry) for entry in result["instances"]] == case.expected
    for entry in result["instances"]:
        assert entry["memory_nodes"] == entry["nodes"]
        assert entry["weight"] == (len(entry["gpus"]) or 1)
    assert len(result["warnings"]) == len(case.warnings), result["warnings"]
    for found, wanted in zip(result["warnings"], case.warnings):
        assert wanted in found
    balancer = result["balancer"]
    assert (balancer and (balancer["node"], balancer["cpus"])) == case.balancer
    assert plan(facts, *case.models, **case.options, previous=result) == result


# --- reasons ----------------------------------------------------------------------------------------------------------


def reasons(facts: Facts, *models: Facts, **options: t.Any) -> list[str]:
    entry: dict[str, t.Any] = plan(facts, *models, **options)["instances"][0]
    return list(entry["reasons"])


def test_the_reasons_of_a_pipeline() -> None:
    facts = machine({0: "0-3", 1: "4-7"}, connect(on_nodes(0, 0, 1, 1), {(0, 1): (4, "PIX"), (2, 3): (4, "PIX")}))
    labels = [f"NVIDIA H100 0000:1{index}:00.0 {uuid(index)}" for index in range(4)]
    assert reasons(
        facts, model(tensor_parallel_size=4, spanning="pipeline", memory_mib=1000), reserved_memory_mib=64
    ) == [
        "nodes 0, 1: one instance on as few nodes as hold it (1 on this host)",
        (
            "spanning: no single node has its 4 GPUs, and `spanning: pipeline` is set or follows from its"
            " pipeline_parallel_size"
        ),
        (
            f"GPUs: 2 of node 0's 2 GPUs, connected best (4 NVLinks between any two): {labels[0]}, {labels[1]}; 2 of"
            f" node 1's 2 GPUs, connected best (4 NVLinks between any two): {labels[2]}, {labels[3]}"
        ),
        (
            "workers: 2 groups of 2 GPUs each across nodes 0, 1, tensor-parallel inside a group and pipeline-parallel"
            " between them"
        ),
        "cores: 6 of the 6 for instances on nodes 0, 1, with all their SMT siblings",
        "housekeeping: 2 cores of nodes 0, 1 (CPUs 0,4) kept for the system and interrupts",
        (
            "memory: only that of nodes 0, 1; it needs 1000 MiB (`memory_mib`) of 514936 MiB of node 0 (515000 less 64"
            " reserved), 514936 MiB of node 1 (515000 less 64 reserved)"
        ),
        "port 8000: none is set for the model, so a free one from 8000 on, kept from run to run",
    ]


def test_the_reasons_of_a_package_and_of_the_api_server() -> None:
    found = reasons(divided([]), model(scope="package"), api_server_cores=1)
    assert "nodes 0, 1: one instance per usable package (2 on this host)" in found
    assert "scope: all usable nodes of the package around node 0, as `scope: package` asks for" in found
    assert "API server: worker threads leave it 1 core of these (CPUs 1)" in found


def test_the_reason_of_the_balancers_cores() -> None:
    nic = {"name": "ens2", "node": 1, "link": "up", "speed_mbps": 100000}
    result = plan(two_nodes(nics=[nic]), model(), balancer_cores=9)
    assert result["balancer"] == {
        "node": 1,
        "cpus": "9-14",
        "reason": "node 1 is the node of ens2, the fastest network card that is up",
    }
    assert result["warnings"] == [
        "node 1 keeps 6 of its cores for nginx instead of 9, so that one is left for instances"
    ]


@pytest.mark.parametrize(
    ("keys", "options", "need", "made_of"),
    [
        ({"arguments": {"kv-offloading-size": 10}}, {}, 10240, "`kv-offloading-size` 10240"),
        (
            {"arguments": {"cpu-offload-gb": 1, "swap-space": "2"}},
            {},
            6144,
            "`cpu-offload-gb` 2048 + `swap-space` 4096",
        ),
        ({"arguments": {"kv-offloading-size": "many"}}, {}, None, ""),
        ({"memory_mib": 5, "arguments": {"kv-offloading-size": 10}}, {}, 5, "`memory_mib`"),
        ({}, {"weights_mib": {"/opt/models/llama": 7}}, None, ""),
    ],
)
def test_what_a_gpu_instance_needs(keys: Facts, options: Facts, need: int | None, made_of: str) -> None:
    (entry, _other) = plan(eight_gpus(), model(tensor_parallel_size=2, **keys), **options)["instances"]
    assert entry["memory_mib"] == need
    assert any(f"({made_of})" in reason for reason in entry["reasons"]) == (need is not None)


@pytest.mark.parametrize(
    ("keys", "need"),
    [
        ({"environment": {"VLLM_CPU_KVCACHE_SPACE": 4}}, 4096 + 700),
        ({"arguments": {"kv-cache-memory-bytes": "2G"}}, 2048 + 700),
        ({"arguments": {"kv-cache-memory-bytes": 1048576}, "environment": {"VLLM_CPU_KVCACHE_SPACE": 4}}, 1 + 700),
        ({"memory_mib": 50}, 50),
        ({"source": "ORG/elsewhere"}, None),
    ],
)
def test_what_a_cpu_instance_needs(keys: Facts, need: int | None) -> None:
    models = [{**model(), **keys}]
    result = plan(cpu_only(), *models, weights_mib={"/opt/models/llama": 700})
    assert [entry["memory_mib"] for entry in result["instances"]] == [need, need]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "keys", "told"),
    [
        (
            two_nodes(memory_mib={0: 60000, 1: 60000}, huge_mib={0: 10000}),
            {"memory_mib": 80000},
            [
                (
                    "asks for one instance per node on the CPU with 80000 MiB of host memory (`memory_mib`) each, and"
                    " there is room for none"
                ),
                "node 0 has 7 cores for instances, 7 free and 50000 MiB of memory for instances, 50000 free",
                "lower what it needs (`memory_mib`); release hugepages of the node, or lower",
                "`memory_policy: preferred`",
                "`spanning: interleave`",
            ],
        ),
        (
            two_nodes(*on_nodes(0, 1), memory_mib={0: 60000, 1: 60000}),
            {"instances": 2, "arguments": {"kv-offloading-size": 70}},
            [
                "with 1 GPU and 71680 MiB of host memory (`kv-offloading-size` 71680) each (tensor_parallel_size 1)",
                "say what it really needs with `memory_mib`",
            ],
        ),
        (
            divided([0, 0, 1, 1]),
            {"tensor_parallel_size": 4},
            [
                "A tensor-parallel group stays inside one node.",
                (
                    "set `tensor_parallel_size` to at most 2; set `scope: package`, which lets it use all nodes of a"
                    " package; set `spanning: pipeline`, which makes it 2 groups of 2 GPUs, each inside one node"
                ),
            ],
        ),
        (
            two_nodes(*on_nodes(0, 0, 0, 1)),
            {"tensor_parallel_size": 8, "spanning": "pipeline"},
            ["with 8 GPUs each (tensor_parallel_size 8), and there is room for none", "to at most 3."],
        ),
        (
            two_nodes(*on_nodes(0, 0, 0, 1)),
            {"tensor_parallel_size": 4, "spanning": "interleave", "instances": 2},
            ["asks for 2 instances on this host with 4 GPUs each", "room for 1", "set `instances` to at most 1"],
        ),
        (
            two_nodes(mig(0, 0, "1g", "2g")),
            {"tensor_parallel_size": 2},
            [
                "asks for 2 GPUs per instance, and there are only MIG devices: 1g 0000:10:00.0 MIG-",
                "`nvidia-smi -mig 0`",
            ],
        ),
        (
            two_nodes(mig(0, None, "1g")),
            {},
            ["the NUMA node of 1g 0000:10:00.0 MIG-", '`vllm_gpu_node_overrides: {"0000:10:00.0": 0}`'],
        ),
        (
            divided([0, 1]),
            {"scope": "package", "memory_policy": "preferred"},
            ["has `memory_policy: preferred`, which prefers one node, and its instances have several. Use `bind`"],
        ),
        (
            cpu_only(),
            {"tensor_parallel_size": 3, "spanning": "pipeline"},
            ["asks for tensor_parallel_size 3 and this host has no GPU", "3 nodes are needed, and this host has 2"],
        ),
        (
            cpu_only(),
            {"pipeline_parallel_size": 2, "spanning": "refuse"},
            ["pipeline_parallel_size 2 and this host has no GPU", "it runs with `spanning: pipeline`"],
        ),
    ],
)
def test_refusal(facts: Facts, keys: Facts, told: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        plan(facts, model(**keys))
    for part in told:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["balancer_cores", "api_server_cores", "reserved_memory_mib"])
@pytest.mark.parametrize("value", [-1, True, "x", None])
def test_settings_out_of_range(name: str, value: object) -> None:
    with pytest.raises(PlanError, match=f"{name} is {value!r}. Allowed is a whole number from 0 on"):
        plan(cpu_only(), model(), **{name: value})


def test_a_group_among_very_many() -> None:
    """More groups than are compared one by one: 10 of 20 GPUs, of which the odd ones are connected."""
    odd = {(one, other): (4, "NODE") for one in range(1, 20, 2) for other in range(1, one, 2)}
    facts = machine({0: "0-3"}, connect([gpu(index, 0) for index in range(20)], odd))
    (entry,) = plan(facts, model(tensor_parallel_size=10))["instances"]
    assert entry["gpus"] == [uuid(index) for index in range(1, 20, 2)]


def test_a_running_instance_is_not_pushed_out_by_one_whose_memory_may_be_elsewhere() -> None:
    facts = two_nodes(memory_mib={0: 100, 1: 100})
    bound = model("b", memory_mib=60)
    models = [model("a", instances=1, memory_mib=60, memory_policy="preferred"), bound]
    first = plan(facts, *models, previous=plan(facts, bound))
    assert [entry["name"] for entry in first["instances"]] == ["a-n0", "b-n0", "b-n1"]
    assert plan(facts, *models, previous=first) == first
