# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPUs come from NVML where it answers and from sysfs where not; a node nobody is sure about is None."""

from __future__ import annotations

import sys
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._gpus import (
    Gpu,
    load_nvml,
    normalised_pci_address,
    read_gpus,
)
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import (
    DoubleGpu,
    NvmlDouble,
    eight_gpus_double,
)

if t.TYPE_CHECKING:
    from pathlib import Path

ADDRESSES = [f"0000:{bus}:00.0" for bus in ("17", "2a", "3d", "60", "97", "aa", "bd", "e0")]
UUID = "GPU-00000000-1111-2222-3333-444444444444"
BOTH_NODES = frozenset({0, 1})


def read(
    root: Path, machine: trees.Machine, double: NvmlDouble | None = None
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    host = Host(str(trees.lay_out(root, machine)))
    return read_gpus(host, read_topology(host).nodes, (lambda: double) if double else None)


def one_gpu(numa_node: int = -1) -> trees.Machine:
    device = replace(trees.NVIDIA_3D, numa_node=numa_node)
    return replace(trees.two_sockets(), pci={"0000:17:00.0": device})


def test_nvml_answers(tmp_path: Path) -> None:
    double = eight_gpus_double()
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert gpus[0] == Gpu(
        uuid=UUID,
        pci_address="0000:17:00.0",
        name="NVIDIA H100 80GB HBM3",
        vendor="nvidia",
        memory_total_mib=81559,
        node=0,
        node_source="nvml",
        cpus="0-3",
        links=(),
        source="nvml",
    )
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES
    assert [gpu.node for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    # sysfs does not know the node of the last one, NVML does.
    assert (gpus[7].node_source, gpus[7].cpus) == ("nvml", "4-7")
    assert warnings == ()
    assert double.calls[0] == "nvmlInit"
    assert double.calls[-1] == "nvmlShutdown"
    assert "nvmlDeviceGetCpuAffinity" not in double.calls


def test_bytes_of_older_bindings(tmp_path: Path) -> None:
    double = NvmlDouble([DoubleGpu(b"0000:17:00.0", UUID.encode(), b"Tesla T4", near_nodes=frozenset({1}))])
    gpus, warnings = read(tmp_path, one_gpu(1), double)
    assert [(gpu.uuid, gpu.name, gpu.node) for gpu in gpus] == [(UUID, "Tesla T4", 1)]
    assert warnings == ()


@pytest.mark.parametrize(
    ("near_nodes", "near_cpus", "numa_node", "expected"),
    [
        # A virtual machine: NVML claims every node for every GPU.
        (BOTH_NODES, frozenset(range(8)), -1, (None, "unknown", None)),
        (BOTH_NODES, frozenset(range(8)), 1, (1, "sysfs", "4-7")),
        # The CPUs are more exact than the nodes.
        (BOTH_NODES, frozenset({4, 5, 6, 7}), -1, (1, "nvml", "4-7")),
        (frozenset(), frozenset({0, 1}), -1, (0, "nvml", "0-3")),
        # Masks that are empty, or name what is not there.
        (frozenset(), frozenset(), 0, (0, "sysfs", "0-3")),
        (frozenset({5}), frozenset({60}), -1, (None, "unknown", None)),
        # A node that is not there next to one that is.
        (frozenset({1, 5}), frozenset(), -1, (1, "nvml", "4-7")),
    ],
)
def test_nvml_affinities(
    tmp_path: Path,
    near_nodes: frozenset[int],
    near_cpus: frozenset[int],
    numa_node: int,
    expected: tuple[int | None, str, str | None],
) -> None:
    double = NvmlDouble([DoubleGpu("00000000:17:00.0", near_nodes=near_nodes, near_cpus=near_cpus)])
    (gpu,), warnings = read(tmp_path, one_gpu(numa_node), double)
    assert (gpu.node, gpu.node_source, gpu.cpus) == expected
    assert warnings == ()


def test_nvml_and_sysfs_disagree(tmp_path: Path) -> None:
    double = NvmlDouble([DoubleGpu("00000000:17:00.0", near_nodes=frozenset({0}))])
    (gpu,), warnings = read(tmp_path, one_gpu(1), double)
    assert (gpu.node, gpu.node_source) == (0, "nvml")
    assert warnings == ("GPU 0000:17:00.0: NVML puts it on node 0, sysfs on node 1; NVML's answer is used",)


def test_memory_only_nodes_are_no_gpus_node(tmp_path: Path) -> None:
    # As on Grace: the GPU is near the CPUs' node and near its own memory, which is a node without CPUs.
    machine = replace(trees.sparse_with_memory_only(), pci={"0009:01:00.0": replace(trees.NVIDIA_3D, numa_node=8)})
    double = NvmlDouble([DoubleGpu("00000009:01:00.0", near_nodes=frozenset({8, 250}))])
    (gpu,), warnings = read(tmp_path, machine, double)
    assert (gpu.pci_address, gpu.node, gpu.node_source, gpu.cpus) == ("0009:01:00.0", 8, "nvml", "64")
    assert warnings == ()


def test_masks_have_room_for_the_highest_id(tmp_path: Path) -> None:
    machine = replace(trees.sparse_with_memory_only(), pci={"0000:17:00.0": trees.NVIDIA_3D})
    double = NvmlDouble([DoubleGpu("00000000:17:00.0", near_cpus=frozenset({65}))])
    (gpu,), _warnings = read(tmp_path, machine, double)
    assert (gpu.node, gpu.node_source) == (252, "nvml")
    # Four nodes and four CPUs, but the highest ids are 252 and 65.
    assert double.mask_words == {"node": 4, "cpu": 2}


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_nvml_that_does_not_work_leaves_it_to_sysfs(tmp_path: Path, call: str) -> None:
    double = replace(eight_gpus_double(), failing={call: "Driver Not Loaded"})
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES
    assert {(gpu.source, gpu.uuid, gpu.name, gpu.memory_total_mib) for gpu in gpus} == {("sysfs", None, None, None)}
    assert [gpu.node for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, None]
    assert gpus[7].node_source == "unknown"
    assert warnings == (f"NVML: {call}: Driver Not Loaded",)


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo"])
def test_a_lost_gpu_is_what_sysfs_says(tmp_path: Path, call: str) -> None:
    double = replace(eight_gpus_double(), failing={(call, 2): "GPU is lost"})
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES
    assert [gpu.source for gpu in gpus].count("nvml") == 7
    assert (gpus[2].uuid, gpus[2].node, gpus[2].node_source, gpus[2].source) == (None, 0, "sysfs", "sysfs")
    assert warnings == (
        f"NVML: {call}: GPU is lost (GPU number 2)",
        "NVML does not answer for 0000:3d:00.0: of these NVIDIA devices only sysfs is known",
    )


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("nvmlDeviceGetUUID", "uuid"),
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetMemoryInfo", "memory_total_mib"),
    ],
)
def test_an_answer_that_fails_is_null(tmp_path: Path, call: str, field: str) -> None:
    double = replace(eight_gpus_double(), failing={(call, 0): "Not Supported", (call, 7): "Not Supported"})
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert getattr(gpus[0], field) is None
    assert getattr(gpus[7], field) is None
    assert all(getattr(gpu, field) is not None for gpu in gpus[1:7])
    assert [gpu.node for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert warnings == (f"NVML: {call}: Not Supported (GPU 0000:17:00.0, 0000:e0:00.0)",)


def test_affinities_that_fail_leave_the_node_to_sysfs(tmp_path: Path) -> None:
    calls = ("nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetCpuAffinity")
    double = replace(eight_gpus_double(), failing=dict.fromkeys(calls, "Not Supported"))
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert [gpu.node for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, None]
    assert [gpu.node_source for gpu in gpus] == ["sysfs"] * 7 + ["unknown"]
    assert [text.split(" (GPU")[0] for text in warnings] == [f"NVML: {call}: Not Supported" for call in calls]


def test_a_failing_shutdown_is_a_warning(tmp_path: Path) -> None:
    double = replace(eight_gpus_double(), failing={"nvmlShutdown": "Uninitialized"})
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert gpus[0].uuid == UUID
    assert warnings == ("NVML: nvmlShutdown: Uninitialized",)


def test_answers_that_make_no_sense(tmp_path: Path) -> None:
    gpus = [DoubleGpu("somewhere"), DoubleGpu("00000000:17:00.0", memory_bytes=0, near_nodes=frozenset({0}))]
    (gpu,), warnings = read(tmp_path, one_gpu(0), NvmlDouble(gpus))
    assert (gpu.pci_address, gpu.memory_total_mib, gpu.node) == ("0000:17:00.0", None, 0)
    assert warnings == ("NVML: nvmlDeviceGetPciInfo: 'somewhere' is not a PCI address (GPU number 0)",)


def test_a_binding_that_lacks_every_call(tmp_path: Path) -> None:
    host = Host(str(trees.lay_out(tmp_path, one_gpu(1))))
    (gpu,), warnings = read_gpus(host, read_topology(host).nodes, object)
    assert (gpu.node, gpu.source) == (1, "sysfs")
    assert warnings == ("NVML: nvmlInit: 'object' object has no attribute 'nvmlInit'",)


def test_no_binding_is_said_where_it_would_help(tmp_path: Path) -> None:
    def missing() -> t.NoReturn:
        raise ImportError("No module named 'pynvml'")

    host = Host(str(trees.lay_out(tmp_path, one_gpu(1))))
    (gpu,), (warning,) = read_gpus(host, read_topology(host).nodes, missing)
    assert (gpu.node, gpu.node_source) == (1, "sysfs")
    assert "cannot import pynvml (No module named 'pynvml')" in warning
    assert "install nvidia-ml-py" in warning


def test_nvml_is_not_asked_without_nvidia(tmp_path: Path) -> None:
    double = eight_gpus_double()
    assert read(tmp_path, replace(trees.two_sockets(), pci={"0000:03:00.0": trees.ASPEED_VGA}), double) == ((), ())
    assert double.calls == []


def test_nvml_is_asked_where_only_the_driver_shows(tmp_path: Path) -> None:
    # A container without /sys/bus/pci.
    machine = replace(trees.two_sockets(), files={"proc/driver/nvidia/version": "NVRM version: 570\n"})
    gpus, warnings = read(tmp_path, machine, eight_gpus_double())
    assert len(gpus) == 8
    assert warnings == ()


@pytest.mark.parametrize(
    ("pci_class", "vendor", "found"),
    [
        ("0x030000", "0x10de", "nvidia"),
        ("0x030200", "0x10de", "nvidia"),
        ("0x120000", "0x10de", "nvidia"),
        ("0x038000", "0x10de", None),
        ("0x040300", "0x10de", None),
        ("0x030000", "0x1002", None),
        ("0x030200", "0x1002", "amd"),
        ("0x038000", "0x1002", "amd"),
        ("0x120000", "0x1002", "amd"),
        ("0x030000", "0x8086", None),
        ("0x030200", "0x8086", None),
        ("0x038000", "0x8086", "intel"),
        ("0x120000", "0x8086", "intel"),
        ("0x030000", "0x1a03", None),
        ("0x030200", "0x1af4", None),
        ("0x0b4000", "0x8086", None),
        ("junk", "0x10de", None),
        ("0x030200", "junk", None),
    ],
)
def test_classes_and_vendors(tmp_path: Path, pci_class: str, vendor: str, found: str | None) -> None:
    machine = replace(trees.two_sockets(), pci={"0000:41:00.0": trees.PciSpec(pci_class, vendor, 0)})
    gpus, warnings = read(tmp_path, machine)
    assert [gpu.vendor for gpu in gpus] == ([found] if found else [])
    assert [(gpu.node, gpu.node_source, gpu.source) for gpu in gpus] == ([(0, "sysfs", "sysfs")] if found else [])
    assert warnings == ()


def test_a_captured_tree_has_what_the_driver_says(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.eight_gpus())
    for address, uuid in (("0000:17:00.0", UUID), ("0000:2a:00.0", "GPU-????????-????-????-????-????????????")):
        text = f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 187\nGPU UUID: \t {uuid}\nVideo BIOS: \t 96.00\n"
        trees.write(root / f"proc/driver/nvidia/gpus/{address}/information", text)
    host = Host(str(root))
    gpus, warnings = read_gpus(host, read_topology(host).nodes, None)
    assert [(gpu.uuid, gpu.name) for gpu in gpus[:3]] == [
        (UUID, "NVIDIA H100 80GB HBM3"),
        (None, "NVIDIA H100 80GB HBM3"),
        (None, None),
    ]
    assert {(gpu.source, gpu.memory_total_mib) for gpu in gpus} == {("sysfs", None)}
    assert warnings == ()


def test_a_gpu_kept_for_virtual_machines_is_left_out(tmp_path: Path) -> None:
    machine = trees.eight_gpus()
    pci = {**machine.pci, "0000:17:00.0": replace(trees.NVIDIA_3D, driver="vfio-pci")}
    gpus, warnings = read(tmp_path, replace(machine, pci=pci))
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES[1:]
    assert warnings == ("GPU 0000:17:00.0 is left out: its driver vfio-pci keeps it for virtual machines",)


def test_a_node_that_is_not_online_is_unknown(tmp_path: Path) -> None:
    (gpu,), warnings = read(tmp_path, one_gpu(7))
    assert (gpu.node, gpu.node_source, gpu.cpus) == (None, "unknown", None)
    assert warnings == ("GPU 0000:17:00.0: sysfs puts it on node 7, which is not online: that is left out",)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:17:00.0", "0000:17:00.0"),
        ("0000:AB:1F.7", "0000:ab:1f.7"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("17:00.0", None),
        ("0000:17:00.8", None),
        ("", None),
    ],
)
def test_normalised_pci_address(text: str, address: str | None) -> None:
    assert normalised_pci_address(text) == address


def test_whatever_breaks_the_import_is_an_import_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write(tmp_path / "pynvml.py", "raise OSError('libnvidia-ml.so: wrong ELF class')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    with pytest.raises(ImportError, match=r"OSError: libnvidia-ml\.so: wrong ELF class"):
        load_nvml()
