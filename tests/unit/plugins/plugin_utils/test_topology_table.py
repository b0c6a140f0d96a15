# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The topology is shown as it is: nodes, GPUs, their connections, unknown as -."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._facts import PARTS, gather
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.plugin_utils._topology_table import TableError, topology_table
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import eight_gpus_double


def facts(root: Path, machine: trees.Machine, get_nvml: t.Callable[[], t.Any] | None = None) -> dict[str, t.Any]:
    sources = GpuSources(nvml=get_nvml)
    return gather(Host(str(trees.lay_out(root, machine))), frozenset(PARTS), {}, sources)


def test_topology_of_a_gpu_server(tmp_path: Path) -> None:
    machine = trees.eight_gpus()
    lines = topology_table(facts(tmp_path, machine, eight_gpus_double)).splitlines()
    assert lines[:10] == [
        "node  kind            packages  CPUs  CPU list  memory MiB  free MiB  GPUs",
        "----  --------------  --------  ----  --------  ----------  --------  ----",
        "   0  cpu and memory  0            4  0-3            65536     61440     4",
        "   1  cpu and memory  1            4  4-7            32768     31744     4",
        "",
        "node distances",
        "node   0   1",
        "----  --  --",
        "   0  10  21",
        "   1  21  10",
    ]
    assert lines[11].split() == ["GPU", "address", "node", "said", "by", "memory", "MiB", "MIG", "name", "UUID"]
    assert lines[13] == (
        "GPU0  0000:17:00.0     0  nvml          81559  off  NVIDIA H100 80GB HBM3"
        "  GPU-00000000-1111-2222-3333-444444444444"
    )
    start = lines.index("connections")
    assert lines[start + 3] == ("GPU0  X     NODE  NODE  NODE  SYS   SYS   SYS   SYS   0-3                       0  -")
    assert lines[start + 12] == "X    the GPU itself"


def test_unknown_is_a_dash_and_warnings_are_shown(tmp_path: Path) -> None:
    machine = trees.eight_gpus()
    assert machine.nodes
    nodes = {**machine.nodes, 1: trees.NodeSpec("4-7", None, "21 10")}
    pci = {"0000:e0:00.0": trees.NVIDIA_3D}
    machine = trees.Machine("0-7", "0-7", machine.cpus, nodes, "0-1", pci=pci)
    lines = topology_table(facts(tmp_path, machine)).splitlines()
    assert lines[3].split() == ["1", "cpu", "only", "1", "4", "4-7", "-", "-", "0"]
    assert lines[13].split() == ["GPU0", "0000:e0:00.0", "-", "-", "-", "-", "nvidia", "(name", "unknown)", "-"]
    assert lines[-2:] == [
        "warnings",
        "- /sys/devices/system/node/node1/meminfo does not tell MemTotal: the memory there is unknown",
    ]


def gpu(address: str, node: int | None, links: dict[str, str]) -> dict[str, t.Any]:
    return {
        "pci_address": address,
        "node": node,
        "node_source": "nvml",
        "memory_total_mib": 143771,
        "mig": {"enabled": True, "devices": [{}, {}]},
        "name": "NVIDIA H200",
        "vendor": "nvidia",
        "uuid": f"GPU-{address[5:7]}",
        "cpus": "0-1",
        "memory_node": 4,
        "links": [{"pci_address": other, "kind": kind} for other, kind in links.items()],
    }


def nic(name: str, address: str | None, node: int | None, function_of: str | None = None) -> dict[str, t.Any]:
    return {
        "name": name,
        "pci_address": address,
        "driver": "mlx5_core",
        "node": node,
        "speed_mbps": 400000,
        "link": "up",
        "sriov": {"total_vfs": 8, "vfs": 1, "physical_function": function_of},
        "irqs": [120, 121, 122],
    }


def test_connections_of_gpus_and_nics(tmp_path: Path) -> None:
    """NVLink as ``nvidia-smi topo -m`` prints it; a NIC and its InfiniBand device are one; functions are left out."""
    first, second, third = "0000:17:00.0", "0000:2a:00.0", "0000:97:00.0"
    infiniband = {
        "name": "mlx5_0",
        "pci_address": "0000:16:00.0",
        "driver": "mlx5_core",
        "node": 0,
        "netdevs": ["eth0"],
        "ports": [{"state": "active"}],
        "physical_function": None,
        "irqs": [],
    }
    numa = {
        **facts(tmp_path, trees.two_sockets()),
        "gpus": [
            gpu(first, 0, {second: "NV18", third: "SYS"}),
            gpu(second, 0, {first: "NV18", third: "SYS"}),
            gpu(third, 1, {first: "SYS"}),
        ],
        "nics": [
            nic("eth0", "0000:16:00.0", 0),
            nic("eth0v0", "0000:16:00.1", 0, "0000:16:00.0"),
            nic("eth1", "0000:96:00.0", None),
        ],
        "infiniband": [
            infiniband,
            {**infiniband, "name": "mlx5_1", "pci_address": "0000:16:00.1", "physical_function": "0000:16:00.0"},
            {**infiniband, "name": "mlx5_9", "pci_address": "0000:98:00.0", "node": 1},
        ],
        "gpu_nic_pairs": [
            {"gpu": first, "gpu_uuid": None, "nic": "eth0", "infiniband": "mlx5_0", "path": "PIX"},
            {"gpu": third, "gpu_uuid": None, "nic": None, "infiniband": "mlx5_9", "path": "PHB"},
        ],
    }
    lines = topology_table(numa).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("NIC "))
    assert [line.split() for line in lines[start + 2 : start + 5]] == [
        ["NIC0", "eth0/mlx5_0", "0000:16:00.0", "0", "mlx5_core", "up,", "400000", "Mbit/s", "3"],
        ["NIC1", "eth1", "0000:96:00.0", "-", "mlx5_core", "up,", "400000", "Mbit/s", "3"],
        ["NIC2", "mlx5_9", "0000:98:00.0", "1", "mlx5_core", "active", "0"],
    ]
    matrix = lines[lines.index("connections") + 1 :]
    assert [line.split() for line in matrix[:1] + matrix[2:5]] == [
        ["GPU0", "GPU1", "GPU2", "NIC0", "NIC1", "NIC2", "CPU", "affinity", "NUMA", "affinity", "GPU", "NUMA", "id"],
        ["GPU0", "X", "NV18", "SYS", "PIX", "-", "SYS", "0-1", "0", "4"],
        ["GPU1", "NV18", "X", "SYS", "-", "-", "SYS", "0-1", "0", "4"],
        ["GPU2", "SYS", "-", "X", "SYS", "-", "PHB", "0-1", "1", "4"],
    ]
    assert "2 devices" in lines[next(i for i, line in enumerate(lines) if line.startswith("GPU0"))]


def test_sparse_and_asymmetric_distances(tmp_path: Path) -> None:
    table = topology_table(facts(tmp_path, trees.sparse_with_memory_only()))
    assert "node   0   8  250  252\n" in table
    assert "   8  41  10   80   80\n" in table


def test_a_machine_without_numa_has_no_distances(tmp_path: Path) -> None:
    table = topology_table(facts(tmp_path, trees.no_numa()))
    assert "node distances" not in table
    assert "- /sys/devices/system/node names no NUMA node" in table


@pytest.mark.parametrize("value", [None, "x", [], {}, {"nodes": "x"}, {"numa": {"nodes": []}}])
def test_what_are_no_facts(value: object) -> None:
    with pytest.raises(TableError, match=r"give it ansible_facts\['numa'\]"):
        topology_table(value)


@pytest.mark.parametrize("value", [{"nodes": []}, {"nodes": [{"id": 0}], "gpus": []}, {"nodes": ["x"], "gpus": []}])
def test_facts_of_another_version(value: object) -> None:
    with pytest.raises(TableError, match=r"gather them with the module numapin\.inference\.numa_facts"):
        topology_table(value)
