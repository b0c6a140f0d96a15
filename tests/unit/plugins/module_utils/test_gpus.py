# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPUs come from NVML, nvidia-smi and sysfs; a node nobody is sure about is None, and links are never guessed."""

from __future__ import annotations

import json
import time
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    GpuAnswer,
    GpuAnswers,
    MigDevice,
    from_plain,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_asking import sources_of_this_machine
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._gpus import (
    Gpu,
    GpuLink,
    GpuOverrideError,
    Mig,
    collect_answers,
    read_gpus,
)
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._nvidia_smi import NvidiaSmiError
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import nvml_double, trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import (
    TO_SWITCH,
    DoubleGpu,
    DoubleMig,
    NvmlDouble,
    eight_gpus_double,
    uuid_of,
    with_links,
)

if t.TYPE_CHECKING:
    from pathlib import Path

ADDRESSES = [f"0000:{bus.lower()}:00.0" for bus in nvml_double.BUSES]
BOTH_NODES = frozenset({0, 1})
EIGHT_CPUS = frozenset(range(8))
NO_MODULE = ModuleNotFoundError("No module named 'pynvml'")


class Machine:
    """A laid out tree with its readers."""

    def __init__(self, root: Path, machine: trees.Machine) -> None:
        self.host = Host(str(trees.lay_out(root, machine)))
        self.nodes = read_topology(self.host).nodes
        self.pci = PciTree(self.host, self.nodes)

    def read(
        self, sources: GpuSources, overrides: t.Mapping[str, int] | None = None, want_links: bool = True
    ) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        return read_gpus(self.host, self.nodes, self.pci, sources, overrides or {}, want_links)


def nvml(double: t.Any) -> GpuSources:
    return GpuSources(nvml=lambda: double)


def failing(error: ImportError) -> t.Callable[[], t.Any]:
    def load() -> t.NoReturn:
        raise error

    return load


def read(
    root: Path, machine: trees.Machine, double: NvmlDouble | None = None
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    return Machine(root, machine).read(nvml(double) if double else GpuSources())


def one_gpu(numa_node: int = -1) -> trees.Machine:
    device = replace(trees.NVIDIA_3D, numa_node=numa_node)
    return replace(trees.two_sockets(), pci={"0000:17:00.0": device})


def grace() -> trees.Machine:
    """Two processors with a GPU each, whose memory is a node of its own."""
    cpu_node = trees.NodeSpec("0-3", 480 * trees.GIB_KIB, "10 40 80 80")
    gpu_node = trees.NodeSpec("", 96 * trees.GIB_KIB, "80 80 10 80")
    return replace(
        trees.two_sockets(),
        nodes={0: cpu_node, 1: replace(cpu_node, cpus="4-7"), 2: gpu_node, 10: gpu_node},
        online_nodes="0-2,10",
        pci={
            "0008:01:00.0": replace(trees.NVIDIA_3D, numa_node=0),
            "0018:01:00.0": replace(trees.NVIDIA_3D, numa_node=1),
        },
    )


def kinds(gpu: Gpu) -> list[str | None]:
    return [link.kind for link in gpu.links]


def test_nvml_answers(tmp_path: Path) -> None:
    double = with_links(eight_gpus_double(), (TO_SWITCH,) * 18)
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert gpus[0]._replace(links=gpus[0].links[:1]) == Gpu(
        uuid=uuid_of(0),
        pci_address="0000:17:00.0",
        name="NVIDIA H100 80GB HBM3",
        vendor="nvidia",
        memory_total_mib=81559,
        node=0,
        node_source="nvml",
        memory_node=None,
        cpus="0-3",
        source="nvml",
        mig=Mig(False, ()),
        links=(GpuLink("0000:2a:00.0", uuid_of(1), "NV18", 18, "NODE", "nvml"),),
    )
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES
    assert [gpu.node for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    # sysfs does not know the node of the last one, NVML does.
    assert (gpus[7].node_source, gpus[7].cpus) == ("nvml", "4-7")
    for gpu in gpus:
        assert [link.pci_address for link in gpu.links] == [a for a in ADDRESSES if a != gpu.pci_address]
        assert kinds(gpu) == ["NV18"] * 7
    assert [link.path for link in gpus[7].links] == ["SYS"] * 4 + ["NODE"] * 3
    assert warnings == ()
    assert (double.calls[0], double.calls[-1]) == ("nvmlInit", "nvmlShutdown")


def test_eight_gpus_without_nvlink(tmp_path: Path) -> None:
    gpus, warnings = read(tmp_path, trees.eight_gpus(), eight_gpus_double())
    assert kinds(gpus[3]) == ["NODE"] * 3 + ["SYS"] * 4
    assert {(link.nvlinks, link.source) for gpu in gpus for link in gpu.links} == {(0, "nvml")}
    assert warnings == ()


@pytest.mark.parametrize(
    ("near_nodes", "near_cpus", "numa_node", "expected"),
    [
        # A virtual machine: NVML claims every node for every GPU.
        (BOTH_NODES, EIGHT_CPUS, -1, (None, "unknown", None)),
        (BOTH_NODES, EIGHT_CPUS, 1, (1, "sysfs", "4-7")),
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
def test_affinities(
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


def test_the_same_nodes_for_every_gpu_say_nothing(tmp_path: Path) -> None:
    machine = trees.eight_gpus()
    pci = {address: replace(device, numa_node=-1) for address, device in machine.pci.items()}
    everywhere = [replace(gpu, near_nodes=BOTH_NODES, near_cpus=EIGHT_CPUS) for gpu in eight_gpus_double().gpus]
    gpus, warnings = read(tmp_path, replace(machine, pci=pci), NvmlDouble(everywhere))
    assert {(gpu.node, gpu.node_source, gpu.cpus, gpu.source) for gpu in gpus} == {(None, "unknown", None, "nvml")}
    assert warnings == ()


def test_nvml_and_sysfs_disagree(tmp_path: Path) -> None:
    double = NvmlDouble([DoubleGpu("00000000:17:00.0", near_nodes=frozenset({0}))])
    (gpu,), warnings = read(tmp_path, one_gpu(1), double)
    assert (gpu.node, gpu.node_source) == (0, "nvml")
    assert warnings == ("GPU 0000:17:00.0: NVML puts it on node 0, sysfs on node 1; NVML's answer is used",)


def test_nvml_and_nvml_disagree(tmp_path: Path) -> None:
    double = NvmlDouble([DoubleGpu("00000000:17:00.0", near_nodes=frozenset({0}), near_cpus=frozenset({4, 5}))])
    (gpu,), warnings = read(tmp_path, one_gpu(0), double)
    assert (gpu.node, gpu.node_source) == (0, "nvml")
    assert warnings == ("GPU 0000:17:00.0: NVML puts it on node 0 and next to the CPUs of node 1; node 0 is used",)


# Memory of its own


def grace_double(*memory_nodes: int | None) -> NvmlDouble:
    nodes = [(0, range(4)), (1, range(4, 8))]
    return NvmlDouble(
        [
            DoubleGpu(
                f"000000{'01'[index]}8:01:00.0",
                uuid_of(index),
                near_nodes=frozenset({node, 2, 10}),
                near_cpus=frozenset(cpus),
                memory_node=memory_nodes[index],
            )
            for index, (node, cpus) in enumerate(nodes)
        ]
    )


def test_a_gpus_own_memory_is_a_node_and_never_its_node(tmp_path: Path) -> None:
    gpus, warnings = read(tmp_path, grace(), grace_double(2, 10))
    assert [(gpu.node, gpu.memory_node, gpu.node_source, gpu.cpus) for gpu in gpus] == [
        (0, 2, "nvml", "0-3"),
        (1, 10, "nvml", "4-7"),
    ]
    assert warnings == ()


def test_sysfs_may_name_the_gpus_own_memory(tmp_path: Path) -> None:
    machine = grace()
    pci = {
        "0008:01:00.0": replace(trees.NVIDIA_3D, numa_node=2),
        "0018:01:00.0": replace(trees.NVIDIA_3D, numa_node=10),
    }
    double = grace_double(2, 10)
    blind = NvmlDouble([replace(gpu, near_nodes=frozenset(), near_cpus=frozenset()) for gpu in double.gpus])
    gpus, warnings = read(tmp_path, replace(machine, pci=pci), blind)
    assert [(gpu.node, gpu.memory_node, gpu.node_source) for gpu in gpus] == [
        (None, 2, "unknown"),
        (None, 10, "unknown"),
    ]
    assert warnings == ()


def test_a_memory_node_that_cannot_be_its_own(tmp_path: Path) -> None:
    # A node with CPUs is the processor's; node 7 is not there.
    gpus, warnings = read(tmp_path, grace(), grace_double(0, 7))
    assert [(gpu.node, gpu.memory_node) for gpu in gpus] == [(0, None), (1, None)]
    assert warnings == ("GPU 0018:01:00.0: NVML says that its memory is node 7, which is not online: that is left out",)


# MIG


def test_mig(tmp_path: Path) -> None:
    slices = (DoubleMig(1, "MIG-1", "NVIDIA H100 MIG 1g.10gb", 9984 << 20),)
    gpus = [replace(gpu, mig=slices, mig_enabled=True) for gpu in eight_gpus_double().gpus[:1]]
    off = [replace(gpu, mig=()) for gpu in eight_gpus_double().gpus[1:2]]
    none = [replace(gpu, mig=None) for gpu in eight_gpus_double().gpus[2:3]]
    read_back, warnings = read(tmp_path, trees.eight_gpus(), NvmlDouble([*gpus, *off, *none]))
    assert [gpu.mig for gpu in read_back[:4]] == [
        Mig(True, (MigDevice("MIG-1", "NVIDIA H100 MIG 1g.10gb", 9984),)),
        Mig(False, ()),
        Mig(False, ()),
        # NVML does not answer for this one.
        Mig(None, ()),
    ]
    assert [gpu.source for gpu in read_back] == ["nvml"] * 3 + ["sysfs"] * 5
    assert warnings == (
        f"NVML does not answer for {', '.join(ADDRESSES[3:])}: of these NVIDIA devices only sysfs is known",
    )


# Links


def test_links_that_nobody_wants(tmp_path: Path) -> None:
    double = with_links(eight_gpus_double(), (TO_SWITCH,) * 18)
    gpus, _warnings = Machine(tmp_path, trees.eight_gpus()).read(nvml(double), want_links=False)
    assert {gpu.links for gpu in gpus} == {()}
    assert not {call for call in double.calls if "Link" in call or "Topology" in call}


def test_links_from_sysfs(tmp_path: Path) -> None:
    gpus, warnings = read(tmp_path, trees.eight_gpus())
    assert gpus[0].links[:1] == (GpuLink("0000:2a:00.0", None, "NODE", None, "NODE", "sysfs"),)
    assert kinds(gpus[0]) == ["NODE"] * 3 + ["SYS"] * 3 + [None]
    # The node of the last GPU is unknown, and so is the way to it.
    assert gpus[0].links[-1] == GpuLink("0000:e0:00.0", None, None, None, None, "unknown")
    assert warnings == ()


def test_an_override_counts_for_links_from_sysfs(tmp_path: Path) -> None:
    gpus, _warnings = Machine(tmp_path, trees.eight_gpus()).read(GpuSources(), {"0000:e0:00.0": 0})
    assert kinds(gpus[7]) == ["NODE"] * 4 + ["SYS"] * 3


def test_a_path_that_nvml_does_not_tell_is_that_of_sysfs(tmp_path: Path) -> None:
    failures: dict[str | tuple[str, int], int] = {"nvmlDeviceGetTopologyCommonAncestor": nvml_double.UNKNOWN_ERROR}
    double = replace(with_links(eight_gpus_double(), (1, 1), (0, 0), *[()] * 6), failing=failures)
    gpus, (warning,) = read(tmp_path, trees.eight_gpus(), double)
    assert gpus[0].links[0] == GpuLink("0000:2a:00.0", uuid_of(1), "NV2", 2, "NODE", "nvml")
    assert gpus[0].links[1] == GpuLink("0000:3d:00.0", uuid_of(2), "NODE", 0, "NODE", "sysfs")
    assert warning.startswith("NVML: nvmlDeviceGetTopologyCommonAncestor: Unknown Error")


def test_gpus_of_other_vendors_have_no_nvlinks(tmp_path: Path) -> None:
    amd = trees.PciSpec("0x120000", "0x1002", 0, "amdgpu")
    machine = replace(trees.two_sockets(), pci={"0000:41:00.0": amd, "0000:c1:00.0": replace(amd, numa_node=1)})
    root = tmp_path / "root"
    root.mkdir()
    reader = Machine(root, machine)
    trees.write(root / "sys/bus/pci/devices/0000:41:00.0/mem_info_vram_total", "206141652992\n")
    trees.write(root / "sys/bus/pci/devices/0000:41:00.0/product_name", "AMD Instinct MI300X\n")
    gpus, warnings = reader.read(GpuSources(nvml=failing(NO_MODULE)))
    assert [(gpu.vendor, gpu.name, gpu.memory_total_mib, gpu.mig) for gpu in gpus] == [
        ("amd", "AMD Instinct MI300X", 196592, Mig(False, ())),
        ("amd", None, None, Mig(False, ())),
    ]
    assert gpus[0].links == (GpuLink("0000:c1:00.0", None, "SYS", 0, "SYS", "sysfs"),)
    assert warnings == ()


# Whom to ask


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_nvml_that_does_not_work_leaves_it_to_sysfs(tmp_path: Path, call: str) -> None:
    double = replace(eight_gpus_double(), failing={call: nvml_double.DRIVER_NOT_LOADED})
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES
    assert {(gpu.source, gpu.uuid, gpu.name, gpu.memory_total_mib) for gpu in gpus} == {("sysfs", None, None, None)}
    assert [gpu.node for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, None]
    assert gpus[7].node_source == "unknown"
    assert {gpu.mig for gpu in gpus} == {Mig(None, ())}
    assert warnings == (f"NVML: {call}: Driver Not Loaded",)


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo"])
def test_a_lost_gpu_is_what_sysfs_says(tmp_path: Path, call: str) -> None:
    double = replace(eight_gpus_double(), failing={(call, 2): nvml_double.GPU_IS_LOST})
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES
    assert [gpu.source for gpu in gpus].count("nvml") == 7
    assert (gpus[2].uuid, gpus[2].node, gpus[2].node_source, gpus[2].source) == (None, 0, "sysfs", "sysfs")
    assert gpus[0].links[1] == GpuLink("0000:3d:00.0", None, "NODE", None, "NODE", "sysfs")
    assert warnings == (
        f"NVML: {call}: GPU is lost (GPU number 2)",
        "NVML does not answer for 0000:3d:00.0: of these NVIDIA devices only sysfs is known",
    )


def test_affinities_that_fail_leave_the_node_to_sysfs(tmp_path: Path) -> None:
    calls = ("nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetCpuAffinity")
    double = replace(eight_gpus_double(), failing=dict.fromkeys(calls, nvml_double.NOT_SUPPORTED))
    gpus, warnings = read(tmp_path, trees.eight_gpus(), double)
    assert [gpu.node for gpu in gpus] == [0, 0, 0, 0, 1, 1, 1, None]
    assert [gpu.node_source for gpu in gpus] == ["sysfs"] * 7 + ["unknown"]
    assert [text.split(" (GPU")[0] for text in warnings] == [f"NVML: {call}: Not Supported" for call in calls]


def test_a_binding_that_lacks_every_call(tmp_path: Path) -> None:
    (gpu,), warnings = Machine(tmp_path, one_gpu(1)).read(nvml(object()))
    assert (gpu.node, gpu.source) == (1, "sysfs")
    assert warnings == ("NVML: nvmlInit: 'object' object has no attribute 'nvmlInit'",)


def test_no_binding_is_said_where_it_would_help(tmp_path: Path) -> None:
    (gpu,), (warning,) = Machine(tmp_path, one_gpu(1)).read(GpuSources(nvml=failing(NO_MODULE)))
    assert (gpu.node, gpu.node_source) == (1, "sysfs")
    assert "cannot import pynvml (No module named 'pynvml')" in warning
    assert "install nvidia-ml-py" in warning


SMI = {
    "--query-gpu": (
        f"0, 00000000:17:00.0, {uuid_of(0)}, 81559, Disabled, NVIDIA H100 80GB HBM3\n"
        f"1, 00000000:E0:00.0, {uuid_of(7)}, 81559, Disabled, NVIDIA H100 80GB HBM3\n"
    ),
    "topo": (
        "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
        "GPU0\t X \tNV12\t0-3\t0\t\tN/A\nGPU1\tNV12\t X \t4-7\t1\t\tN/A\n"
    ),
}


def smi(arguments: t.Sequence[str]) -> str:
    return SMI[arguments[0].partition("=")[0]]


def smi_that_fails(arguments: t.Sequence[str]) -> str:
    raise NvidiaSmiError("exit status 9: no driver")


def two_gpus() -> trees.Machine:
    machine = trees.eight_gpus()
    return replace(machine, pci={address: machine.pci[address] for address in (ADDRESSES[0], ADDRESSES[7])})


def test_nvidia_smi_where_there_is_no_binding(tmp_path: Path) -> None:
    gpus, warnings = Machine(tmp_path, two_gpus()).read(GpuSources(failing(NO_MODULE), smi))
    assert [(gpu.uuid, gpu.memory_total_mib, gpu.node, gpu.node_source, gpu.source) for gpu in gpus] == [
        (uuid_of(0), 81559, 0, "nvidia_smi", "nvidia_smi"),
        (uuid_of(7), 81559, 1, "nvidia_smi", "nvidia_smi"),
    ]
    # The matrix tells NVLinks and not the way over PCIe; sysfs does, with the nodes that are known now.
    assert gpus[0].links == (GpuLink("0000:e0:00.0", uuid_of(7), "NV12", 12, "SYS", "nvidia_smi"),)
    assert warnings == ()


def test_nvidia_smi_and_sysfs_disagree(tmp_path: Path) -> None:
    machine = two_gpus()
    pci = {**machine.pci, ADDRESSES[0]: replace(trees.NVIDIA_3D, numa_node=1)}
    gpus, warnings = Machine(tmp_path, replace(machine, pci=pci)).read(GpuSources(None, smi))
    assert (gpus[0].node, gpus[0].node_source) == (0, "nvidia_smi")
    assert warnings == ("GPU 0000:17:00.0: nvidia-smi puts it on node 0, sysfs on node 1; nvidia-smi's answer is used",)


def test_nvidia_smi_where_nvml_does_not_start(tmp_path: Path) -> None:
    double = replace(eight_gpus_double(), failing={"nvmlInit": nvml_double.UNKNOWN_ERROR})
    gpus, warnings = Machine(tmp_path, two_gpus()).read(GpuSources(lambda: double, smi))
    assert [gpu.source for gpu in gpus] == ["nvidia_smi"] * 2
    assert warnings == ("NVML: nvmlInit: Unknown Error",)


def test_a_binding_that_is_broken_is_said(tmp_path: Path) -> None:
    sources = GpuSources(failing(ImportError("OSError: wrong ELF class")), smi)
    gpus, warnings = Machine(tmp_path, two_gpus()).read(sources)
    assert [gpu.source for gpu in gpus] == ["nvidia_smi"] * 2
    assert warnings == ("NVML is not asked: Python cannot import pynvml (OSError: wrong ELF class)",)


@pytest.mark.parametrize("error", [NO_MODULE, ImportError("OSError: wrong ELF class")])
def test_nobody_answers(tmp_path: Path, error: ImportError) -> None:
    gpus, warnings = Machine(tmp_path, two_gpus()).read(GpuSources(failing(error), smi_that_fails))
    assert [gpu.source for gpu in gpus] == ["sysfs"] * 2
    assert warnings[0] == "nvidia-smi does not tell the GPUs: exit status 9: no driver"
    assert warnings[1].startswith(f"NVML is not asked: Python cannot import pynvml ({error}); the memory of NVIDIA")
    assert len(warnings) == 2


def test_nvml_that_hangs_is_not_followed_by_nvidia_smi(tmp_path: Path) -> None:
    class Hanging:
        def nvmlInit(self) -> None:
            time.sleep(60)

    sources = GpuSources(Hanging, smi_that_fails, None, 0.3)
    (gpu,), warnings = Machine(tmp_path, one_gpu(1)).read(sources)
    assert (gpu.node, gpu.source) == (1, "sysfs")
    assert len(warnings) == 1
    assert warnings[0].startswith("NVML did not answer within 0.3 seconds")


def test_nobody_is_asked_without_nvidia(tmp_path: Path) -> None:
    double = eight_gpus_double()
    machine = Machine(tmp_path, replace(trees.two_sockets(), pci={"0000:03:00.0": trees.ASPEED_VGA}))
    sources = GpuSources(lambda: double, smi_that_fails)
    assert machine.read(sources) == ((), ())
    assert collect_answers(machine.host, machine.pci, sources) is None
    assert double.calls == []


def test_nvml_is_asked_where_only_the_driver_shows(tmp_path: Path) -> None:
    # A container without /sys/bus/pci.
    machine = replace(trees.two_sockets(), files={"proc/driver/nvidia/version": "NVRM version: 570\n"})
    gpus, warnings = read(tmp_path, machine, eight_gpus_double())
    assert len(gpus) == 8
    assert [link.kind for link in gpus[0].links] == ["NODE"] * 3 + ["SYS"] * 4
    assert warnings == ()


def test_the_sources_of_the_running_machine() -> None:
    sources = sources_of_this_machine()
    assert sources.nvml is not None
    assert sources.recorded is None
    assert sources.nvml_timeout_seconds == 60


# Stored answers


@pytest.mark.parametrize("working", [True, False])
def test_stored_answers_give_the_same_facts(tmp_path: Path, working: bool) -> None:
    slices = (DoubleMig(1, "MIG-1", "NVIDIA H100 MIG 1g.10gb", 9984 << 20),)
    double = with_links(eight_gpus_double(), (TO_SWITCH,) * 18)
    double.gpus = [replace(double.gpus[0], mig=slices, mig_enabled=True), *double.gpus[1:]]
    double.failing[("nvmlDeviceGetName", 3)] = nvml_double.GPU_IS_LOST
    if not working:
        double.failing["nvmlInit"] = nvml_double.DRIVER_NOT_LOADED
    machine = Machine(tmp_path, trees.eight_gpus())
    live = machine.read(nvml(double))
    answers = collect_answers(machine.host, machine.pci, nvml(double))
    assert answers is not None
    stored = from_plain(json.loads(json.dumps(answers.to_plain())))
    asked = len(double.calls)
    assert machine.read(GpuSources(lambda: double, smi_that_fails, stored)) == live
    assert len(double.calls) == asked
    assert len(live[1]) == 1


def test_stored_answers_that_name_what_is_not_there(tmp_path: Path) -> None:
    answers = GpuAnswers("nvml", {"0000:17:00.0": GpuAnswer(near_nodes="7", near_cpus="900", memory_node=9)})
    (gpu,), warnings = Machine(tmp_path, one_gpu(1)).read(GpuSources(recorded=answers))
    assert (gpu.node, gpu.node_source, gpu.memory_node) == (1, "sysfs", None)
    assert warnings == ("GPU 0000:17:00.0: NVML says that its memory is node 9, which is not online: that is left out",)


# Overrides


@pytest.mark.parametrize("key", ["0000:17:00.0", "00000000:17:00.0", uuid_of(0), uuid_of(0).lower()])
@pytest.mark.parametrize("numa_node", [-1, 0, 1])
def test_overrides(tmp_path: Path, key: str, numa_node: int) -> None:
    double = NvmlDouble(eight_gpus_double().gpus[:1])
    (gpu,), warnings = Machine(tmp_path, one_gpu(numa_node)).read(nvml(double), {key: 1})
    assert (gpu.node, gpu.node_source, gpu.cpus, gpu.source) == (1, "override", "4-7", "nvml")
    assert all("override" not in text for text in warnings)


def test_an_override_to_node_0_of_a_gpu_of_which_nothing_is_known(tmp_path: Path) -> None:
    (gpu,), warnings = Machine(tmp_path, one_gpu()).read(GpuSources(), {"0000:17:00.0": 0})
    assert (gpu.node, gpu.node_source, gpu.cpus) == (0, "override", "0-3")
    assert warnings == ()


def test_an_override_to_a_node_that_is_not_online(tmp_path: Path) -> None:
    with pytest.raises(GpuOverrideError, match=r"GPU 0000:17:00\.0 is put on node 2, which is not online: give one of"):
        Machine(tmp_path, one_gpu()).read(GpuSources(), {"0000:17:00.0": 2})


def test_overrides_that_contradict_each_other(tmp_path: Path) -> None:
    machine = Machine(tmp_path, one_gpu())
    sources = nvml(NvmlDouble(eight_gpus_double().gpus[:1]))
    (gpu,), _warnings = machine.read(sources, {"0000:17:00.0": 1, uuid_of(0): 1})
    assert gpu.node == 1
    with pytest.raises(GpuOverrideError, match="on node 1 by one key and on node 0 by GPU-00000000"):
        machine.read(sources, {"0000:17:00.0": 1, uuid_of(0): 0})


def test_an_override_for_no_gpu_is_a_warning(tmp_path: Path) -> None:
    # Fleets share the variables of a group: the node need not be there either.
    (gpu,), warnings = Machine(tmp_path, one_gpu(1)).read(GpuSources(), {"0000:99:00.0": 5, "GPU-nobody": 0})
    assert (gpu.node, gpu.node_source) == (1, "sysfs")
    (warning,) = warnings
    assert warning.startswith(
        "the overrides of GPU nodes name 0000:99:00.0, GPU-nobody, which is no PCI address or UUID"
    )
    assert warning.endswith("of a GPU of this host (it has 0000:17:00.0)")


# sysfs


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
        # NPUs and FPGAs.
        ("0x120000", "0x8086", None),
        ("0x120000", "0x10ee", None),
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


@pytest.mark.parametrize(
    ("address", "vendor", "pci_class", "device", "found"),
    [
        ("0000:00:02.0", "0x8086", "0x038000", "0x9bc6", False),
        ("0000:29:00.0", "0x8086", "0x038000", "0x0bda", True),
        ("0000:c5:00.0", "0x1002", "0x038000", "0x1638", False),
        ("0000:c5:00.0", "0x1002", "0x038000", "0x150e", False),
        ("0000:c5:00.0", "0x1002", "0x038000", "0x740f", True),
        ("0000:c5:00.0", "0x1002", "0x120000", "0x74a1", True),
    ],
)
def test_integrated_graphics_are_no_gpus(
    tmp_path: Path, address: str, vendor: str, pci_class: str, device: str, found: bool
) -> None:
    spec = trees.PciSpec(pci_class, vendor, 0, device=device)
    gpus, warnings = read(tmp_path, replace(trees.two_sockets(), pci={address: spec}))
    assert ([gpu.pci_address for gpu in gpus], warnings) == ([address] if found else [], ())


def test_a_captured_tree_has_what_the_driver_says(tmp_path: Path) -> None:
    machine = Machine(tmp_path, trees.eight_gpus())
    for address, uuid in ((ADDRESSES[0], uuid_of(0)), (ADDRESSES[1], "GPU-????????-????-????-????-????????????")):
        text = f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 187\nGPU UUID: \t {uuid}\nVideo BIOS: \t 96.00\n"
        trees.write(tmp_path / f"proc/driver/nvidia/gpus/{address}/information", text)
    gpus, warnings = machine.read(GpuSources())
    assert [(gpu.uuid, gpu.name) for gpu in gpus[:3]] == [
        (uuid_of(0), "NVIDIA H100 80GB HBM3"),
        (None, "NVIDIA H100 80GB HBM3"),
        (None, None),
    ]
    assert {(gpu.source, gpu.memory_total_mib, gpu.mig) for gpu in gpus} == {("sysfs", None, Mig(None, ()))}
    assert warnings == ()


@pytest.mark.parametrize("driver", ["vfio-pci", "nvgrace_gpu_vfio_pci", "pci-stub", "pciback"])
def test_a_gpu_kept_for_virtual_machines_is_left_out(tmp_path: Path, driver: str) -> None:
    machine = trees.eight_gpus()
    pci = {**machine.pci, "0000:17:00.0": replace(trees.NVIDIA_3D, driver=driver)}
    gpus, warnings = read(tmp_path, replace(machine, pci=pci))
    assert [gpu.pci_address for gpu in gpus] == ADDRESSES[1:]
    assert warnings == (f"GPU 0000:17:00.0 is left out: its driver {driver} keeps it for virtual machines",)


def test_nobody_is_asked_about_gpus_kept_for_virtual_machines(tmp_path: Path) -> None:
    kept = replace(trees.NVIDIA_3D, driver="nvgrace_gpu_vfio_pci")
    machine = Machine(tmp_path, replace(trees.two_sockets(), pci={"0000:17:00.0": kept}))
    assert collect_answers(machine.host, machine.pci, nvml(eight_gpus_double())) is None


# In a container, and in WSL

CONTAINER = {"run/.containerenv": "", "proc/driver/nvidia/version": "NVRM version: 570\n"}


def in_container(root: Path, given: t.Collection[int], visible: t.Collection[int]) -> Machine:
    """All eight GPUs of the host in /sys; device nodes of those given, and /proc shows those visible."""
    machine = Machine(root, replace(trees.eight_gpus(), files=CONTAINER))
    for minor, address in enumerate(ADDRESSES):
        if minor in visible:
            trees.write(root / f"proc/driver/nvidia/gpus/{address}/information", f"Device Minor: \t {minor}\n")
        if minor in given:
            trees.write(root / f"dev/nvidia{minor}", "")
    return machine


@pytest.mark.parametrize("visible", [range(8), (1, 4)], ids=["device interface", "container toolkit"])
@pytest.mark.parametrize("has_nvml", [False, True])
def test_a_container_with_two_of_the_hosts_gpus(tmp_path: Path, visible: t.Collection[int], has_nvml: bool) -> None:
    mine = [ADDRESSES[1], ADDRESSES[4]]
    gpus = eight_gpus_double().gpus
    sources = nvml(NvmlDouble([gpus[1], gpus[4]])) if has_nvml else GpuSources()
    found, warnings = in_container(tmp_path, (1, 4), visible).read(sources)
    assert [gpu.pci_address for gpu in found] == mine
    assert [link.pci_address for gpu in found for link in gpu.links] == mine[::-1]
    others = ", ".join(address for address in ADDRESSES if address not in mine)
    assert warnings == (
        f"left out are the GPUs {others}: they are the host's, and this container has no device node for them",
    )


def test_a_container_without_gpus(tmp_path: Path) -> None:
    found, (warning,) = in_container(tmp_path, (), range(8)).read(GpuSources())
    assert found == ()
    assert warning.startswith("left out are the GPUs 0000:17:00.0, ")


def test_device_nodes_do_not_matter_outside_of_containers(tmp_path: Path) -> None:
    # The driver makes them when the first program opens it.
    machine = replace(trees.eight_gpus(), files={"proc/driver/nvidia/version": "NVRM version: 570\n"})
    found, warnings = read(tmp_path, machine)
    assert (len(found), warnings) == (8, ())


def test_a_container_with_one_of_two_amd_gpus(tmp_path: Path) -> None:
    amd = trees.PciSpec("0x120000", "0x1002", 0, "amdgpu")
    machine = replace(trees.two_sockets(), pci={"0000:41:00.0": amd, "0000:c1:00.0": amd}, files=CONTAINER)
    reader = Machine(tmp_path, machine)
    for number, address in enumerate(machine.pci):
        (tmp_path / f"sys/bus/pci/devices/{address}/drm/renderD{128 + number}").mkdir(parents=True)
    trees.write(tmp_path / "dev/dri/renderD129", "")
    found, warnings = reader.read(GpuSources())
    assert [gpu.pci_address for gpu in found] == ["0000:c1:00.0"]
    assert len(warnings) == 1


def test_wsl(tmp_path: Path) -> None:
    machine = Machine(tmp_path, replace(trees.no_numa(), files={"dev/dxg": ""}))
    double = NvmlDouble([DoubleGpu("00000000:01:00.0", uuid_of(0))])
    (gpu,), warnings = machine.read(nvml(double))
    assert (gpu.uuid, gpu.pci_address, gpu.source, gpu.memory_total_mib) == (
        uuid_of(0),
        "0000:01:00.0",
        "nvml",
        81559,
    )
    assert warnings == ()
    found, warnings = machine.read(GpuSources(failing(NO_MODULE)))
    assert found == ()
    assert warnings[-1].startswith("this is WSL, which shows its GPUs to NVML and nvidia-smi alone (/dev/dxg)")


def test_virtual_functions_are_no_gpus(tmp_path: Path) -> None:
    machine = Machine(tmp_path, trees.eight_gpus())
    (tmp_path / "sys/bus/pci/devices/0000:2a:00.0/physfn").symlink_to("../0000:17:00.0")
    gpus, warnings = machine.read(GpuSources())
    assert [gpu.pci_address for gpu in gpus] == [ADDRESSES[0], *ADDRESSES[2:]]
    assert warnings == ()


def test_a_node_that_is_not_online_is_unknown(tmp_path: Path) -> None:
    machine = Machine(tmp_path, one_gpu(7))
    (gpu,), warnings = machine.read(GpuSources())
    assert (gpu.node, gpu.node_source, gpu.cpus) == (None, "unknown", None)
    assert warnings == ()
    # The reader of PCI devices says it, once for all of them.
    (warning,) = machine.pci.warnings
    assert "0000:17:00.0 on node 7, which is not online" in warning
