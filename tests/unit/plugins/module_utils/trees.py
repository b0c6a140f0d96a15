# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines laid out as the kernel shows them in /sys and /proc, each for the reason its function names.

``lay_out`` writes what is described and nothing else, so that a test can say exactly what a kernel does not tell. The
texts are those of real kernels: lists end with a newline, masks come in groups of 32 bits, and sysfs' PCI devices are
links into /sys/devices.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

if t.TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class NodeSpec:
    """A node directory; ``cpus`` is what its cpulist says. ``None`` leaves a file out."""

    cpus: str | None
    memory_kib: int | None
    distance: str | None
    free_kib: int = 1024 * 1024
    numastat: str | None = None


@dataclass(frozen=True)
class CpuSpec:
    """A CPU's topology directory; an offline CPU has none."""

    package: int
    core: int
    siblings: str
    llc: str
    llc_size: str | None = None


@dataclass(frozen=True)
class PciSpec:
    """A PCI device; ``numa_node`` -1 is how a kernel says that it does not know."""

    pci_class: str
    vendor: str
    numa_node: int = -1
    driver: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a tree shows. ``nodes`` None is a kernel without NUMA: no node directory at all."""

    online: str
    present: str
    cpus: dict[int, CpuSpec]
    nodes: dict[int, NodeSpec] | None
    online_nodes: str = ""
    possible_nodes: str | None = None  # the online ones when None
    offline_cpu_nodes: dict[int, int] = field(default_factory=dict)
    pci: dict[str, PciSpec] = field(default_factory=dict)
    allowed: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def lay_out(root: Path, machine: Machine) -> Path:
    """Write the machine below ``root`` and return ``root``."""
    cpu = root / "sys/devices/system/cpu"
    write(cpu / "online", f"{machine.online}\n")
    write(cpu / "present", f"{machine.present}\n")
    write(cpu / "possible", f"{machine.present}\n")
    # Names that only look like CPUs.
    (cpu / "cpufreq").mkdir()
    (cpu / "cpuidle").mkdir()
    packages: dict[int, list[int]] = {}
    for number, spec in machine.cpus.items():
        packages.setdefault(spec.package, []).append(number)
    for number, spec in machine.cpus.items():
        neighbours = ",".join(str(neighbour) for neighbour in packages[spec.package])
        write(cpu / f"cpu{number}/topology/core_siblings_list", f"{neighbours}\n")
        write(cpu / f"cpu{number}/topology/physical_package_id", f"{spec.package}\n")
        write(cpu / f"cpu{number}/topology/core_id", f"{spec.core}\n")
        write(cpu / f"cpu{number}/topology/thread_siblings_list", f"{spec.siblings}\n")
        caches = [("1", "Data", spec.siblings), ("1", "Instruction", spec.siblings), ("3", "Unified", spec.llc)]
        for index, (level, kind, shared) in enumerate(caches):
            write(cpu / f"cpu{number}/cache/index{index}/level", f"{level}\n")
            write(cpu / f"cpu{number}/cache/index{index}/type", f"{kind}\n")
            write(cpu / f"cpu{number}/cache/index{index}/shared_cpu_list", f"{shared}\n")
        if spec.llc_size is not None:
            write(cpu / f"cpu{number}/cache/index2/size", f"{spec.llc_size}\n")
    for number, node in machine.offline_cpu_nodes.items():
        (cpu / f"cpu{number}").mkdir()
        (cpu / f"cpu{number}/node{node}").symlink_to(f"../../node/node{node}")
    if machine.nodes is not None:
        write(root / "sys/devices/system/node/online", f"{machine.online_nodes}\n")
        write(root / "sys/devices/system/node/possible", f"{machine.possible_nodes or machine.online_nodes}\n")
        for number, described in machine.nodes.items():
            _lay_out_node(root / f"sys/devices/system/node/node{number}", number, described)
    _lay_out_pci(root, machine.pci)
    if machine.allowed is not None:
        write(root / "proc/1/status", f"Name:\tsystemd\nCpus_allowed:\tff\nCpus_allowed_list:\t{machine.allowed}\n")
    for path, content in machine.files.items():
        write(root / path, content)
    return root


def _lay_out_node(directory: Path, number: int, node: NodeSpec) -> None:
    directory.mkdir(parents=True)
    if node.cpus is not None:
        write(directory / "cpulist", f"{node.cpus}\n")
    if node.memory_kib is not None:
        lines = [f"Node {number} MemTotal:{node.memory_kib:>16} kB", f"Node {number} MemFree:{node.free_kib:>17} kB"]
        write(directory / "meminfo", "\n".join([*lines, f"Node {number} MemUsed: {'1':>16} kB"]) + "\n")
    if node.numastat is not None:
        write(directory / "numastat", node.numastat)
    if node.distance is not None:
        write(directory / "distance", f"{node.distance}\n")
    if node.memory_kib:
        for name, count in (("nr", 8), ("free", 6), ("surplus", 2)):
            write(directory / f"hugepages/hugepages-2048kB/{name}_hugepages", f"{count}\n")
        # No surplus_hugepages: what cannot be read must not become 0.
        write(directory / "hugepages/hugepages-1048576kB/nr_hugepages", "0\n")
        write(directory / "hugepages/hugepages-1048576kB/free_hugepages", "0\n")


def _lay_out_pci(root: Path, devices: dict[str, PciSpec]) -> None:
    bus = root / "sys/bus/pci/devices"
    bus.mkdir(parents=True)
    for address, device in devices.items():
        place = f"devices/pci{address[:7]}/{address}"
        write(root / "sys" / place / "class", f"{device.pci_class}\n")
        write(root / "sys" / place / "vendor", f"{device.vendor}\n")
        write(root / "sys" / place / "numa_node", f"{device.numa_node}\n")
        if device.device:
            write(root / "sys" / place / "device", f"{device.device}\n")
        if device.driver:
            (root / "sys" / place / "driver").symlink_to(f"../../../bus/pci/drivers/{device.driver}")
        (bus / address).symlink_to(f"../../../{place}")


def write(path: Path, content: str) -> None:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


GIB_KIB = 1024 * 1024

NUMASTAT = """\
numa_hit 171717
numa_miss 3
numa_foreign 5
interleave_hit 1900
local_node 171000
other_node 720
"""

NVIDIA_3D = PciSpec("0x030200", "0x10de", driver="nvidia")
ASPEED_VGA = PciSpec("0x030000", "0x1a03", numa_node=0, driver="ast")


def two_sockets() -> Machine:
    """Two sockets without SMT: the plain case, with the settings of its kernel."""
    return Machine(
        online="0-7",
        present="0-7",
        cpus={n: CpuSpec(n // 4, n % 4, str(n), "0-3" if n < 4 else "4-7", "32768K") for n in range(8)},
        nodes={
            0: NodeSpec("0-3", 64 * GIB_KIB, "10 21", free_kib=60 * GIB_KIB, numastat=NUMASTAT),
            1: NodeSpec("4-7", 32 * GIB_KIB + 1023, "21 10", free_kib=31 * GIB_KIB),
        },
        online_nodes="0-1",
        allowed="0-6",
        files={
            "proc/sys/kernel/osrelease": "6.1.0-40-amd64\n",
            "proc/sys/kernel/numa_balancing": "1\n",
            "proc/sys/vm/zone_reclaim_mode": "0\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory\n",
        },
    )


def two_sockets_smt_offline() -> Machine:
    """SMT siblings half the machine apart, with CPU 5 switched off: its sibling 1 is alone, its node is still known."""
    siblings = {0: "0,4", 1: "1", 2: "2,6", 3: "3,7", 4: "0,4", 6: "2,6", 7: "3,7"}
    llc = {0: "0-1,4", 1: "2-3,6-7"}
    return Machine(
        online="0-4,6-7",
        present="0-7",
        cpus={n: CpuSpec(n // 2 % 2, n % 2, siblings[n], llc[n // 2 % 2]) for n in siblings},
        nodes={
            0: NodeSpec("0-1,4", 16 * GIB_KIB, "10 20"),
            1: NodeSpec("2-3,6-7", 16 * GIB_KIB, "20 10"),
        },
        online_nodes="0-1",
        offline_cpu_nodes={5: 0},
    )


def sparse_with_memory_only() -> Machine:
    """Ids with gaps, CPUs above 63, a node of expansion memory, one without memory, asymmetric distances."""
    return Machine(
        online="0-1,64-65",
        present="0-1,64-65",
        cpus={n: CpuSpec(0 if n < 64 else 8, n % 2, str(n), "0-1" if n < 64 else "64-65") for n in (0, 1, 64, 65)},
        nodes={
            0: NodeSpec("0-1", 16 * GIB_KIB, "10 40 80 80"),
            8: NodeSpec("64", 16 * GIB_KIB, "41 10 80 80"),
            250: NodeSpec("", 64 * GIB_KIB, "80 80 10 80"),
            252: NodeSpec("65", 0, "80 80 80 10"),
        },
        online_nodes="0,8,250,252",
    )


def no_numa() -> Machine:
    """A kernel without NUMA: no node directory, memory in /proc/meminfo."""
    return Machine(
        online="0-1",
        present="0-1",
        cpus={n: CpuSpec(0, n, str(n), "0-1") for n in range(2)},
        nodes=None,
        files={
            "proc/meminfo": "MemTotal:        8388608 kB\nMemFree:         4194304 kB\nMemAvailable:    6000000 kB\n",
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "0\n",
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "0\n",
            "sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages": "0\n",
            "sys/fs/cgroup/cpuset/tasks": "1\n",
        },
    )


def overlapping_nodes() -> Machine:
    """Firmware that puts every CPU into both nodes (as in hwloc's ``buggynuma`` tree), and one into none."""
    return Machine(
        online="0-4",
        present="0-4",
        cpus={n: CpuSpec(0, n, str(n), "0-4") for n in range(5)},
        nodes={0: NodeSpec("0-3", GIB_KIB, "10 20"), 1: NodeSpec("0-3", GIB_KIB, "20 10")},
        online_nodes="0-1",
    )


def eight_gpus() -> Machine:
    """A GPU server: eight NVIDIA GPUs on two nodes, the last on an unknown one; the console's VGA; a NIC."""
    addresses = ["17", "2a", "3d", "60", "97", "aa", "bd", "e0"]
    gpus = {f"0000:{bus}:00.0": replace(NVIDIA_3D, numa_node=int(i >= 4)) for i, bus in enumerate(addresses)}
    gpus["0000:e0:00.0"] = NVIDIA_3D
    return replace(
        two_sockets(),
        pci={"0000:03:00.0": ASPEED_VGA, "0000:16:00.0": PciSpec("0x020000", "0x15b3", 0, "mlx5_core"), **gpus},
    )
