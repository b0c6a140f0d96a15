# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lay out a machine of any size as Linux would show it in /sys and /proc: ``python made_up_tree.py DIRECTORY``.

It is made up, and as detailed as a real one where that costs a reader time: SMT, four caches for each CPU, PCI devices
as links into ``/sys/devices/pciDDDD:BB`` behind root ports and switches, one file for every interrupt vector, a long
``/proc/cpuinfo``, a ``/proc/PID`` for every process. What facts are checked against are captured machines.
"""

from __future__ import annotations

import argparse
import os
import typing as t
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

PCI_BRIDGE = "0x060400"
ROOT_PORTS = 4
# A domain of PCI has 256 buses; each host bridge gets an equal share of them.
BRIDGES_PER_DOMAIN = 8
BUSES_PER_BRIDGE = 32
CORES_PER_LLC = 8
DEVICES_PER_SWITCH = 5
# What a chipset shows beside the bridges: memory controllers, DMA engines, performance counters.
FUNCTIONS_PER_NODE = 24
NODE_MEMORY_KIB = 192 * 1024 * 1024


@dataclass(frozen=True)
class Shape:
    """How much there is of everything on the whole machine; it is spread evenly over the nodes."""

    packages: int = 2
    nodes: int = 8
    cpus: int = 768
    gpus: int = 16
    nics: int = 8
    nvmes: int = 8
    vectors: int = 4096
    processes: int = 400

    def doubled(self) -> Shape:
        """Return the shape with twice as much of everything."""
        return Shape(**{name: 2 * count for name, count in asdict(self).items()})


BIG = Shape()


def lay_out(root: Path, shape: Shape) -> Path:
    """Write the machine below ``root`` and return ``root``."""
    threads = 2
    if shape.nodes % shape.packages or shape.cpus % (threads * shape.nodes):
        raise ValueError(
            f"{shape.cpus} CPUs and {shape.nodes} nodes do not spread evenly over {shape.packages} packages: give nodes"
            f" as a multiple of packages and CPUs as a multiple of {threads} times nodes"
        )
    on_one_node = sum(-(-count // shape.nodes) for count in (shape.gpus, shape.nics, shape.nvmes))
    if on_one_node > ROOT_PORTS * DEVICES_PER_SWITCH:
        raise ValueError(f"{on_one_node} devices on a node: there is room for {ROOT_PORTS * DEVICES_PER_SWITCH}")
    _Writer(root, shape).write_all()
    return root


@dataclass(frozen=True)
class _Slot:
    """Where a PCI device is: its directory below sys/devices, and its address."""

    directory: str
    address: str
    node: int


class _Writer:
    def __init__(self, root: Path, shape: Shape) -> None:
        self._root = str(root)
        self._shape = shape
        self._made: set[str] = set()
        self._cores = shape.cpus // 2
        self._next_irq = 24
        self._slots: dict[int, t.Iterator[_Slot]] = {}

    def write_all(self) -> None:
        for number in range(self._shape.cpus):
            self._cpu(number)
        self._cpu_lists()
        for number in range(self._shape.nodes):
            self._node(number)
        self._slots = {node: self._pci_slots(node) for node in range(self._shape.nodes)}
        self._devices()
        self._proc()

    # Files

    def _file(self, path: str, content: str) -> None:
        full = f"{self._root}/{path}"
        self._directory_of(full)
        descriptor = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)

    def _files(self, directory: str, contents: t.Mapping[str, object]) -> None:
        for name, content in contents.items():
            self._file(f"{directory}/{name}", f"{content}\n")

    def _link(self, path: str, target: str) -> None:
        """Link ``path`` to ``target``, both below the root, relatively as sysfs does."""
        full = f"{self._root}/{path}"
        self._directory_of(full)
        os.symlink(os.path.relpath(f"{self._root}/{target}", os.path.dirname(full)), full)

    def _directory_of(self, full: str) -> None:
        directory = os.path.dirname(full)
        if directory not in self._made:
            os.makedirs(directory, exist_ok=True)
            self._made.add(directory)

    # CPUs and nodes

    def _node_of(self, core: int) -> int:
        return core * self._shape.nodes // self._cores

    def _package_of(self, core: int) -> int:
        return core * self._shape.packages // self._cores

    def _list(self, first_core: int, end_core: int) -> str:
        """Return the cpulist of these cores: the second threads are numbered after all first ones."""
        last = end_core - 1
        return f"{_span(first_core, last)},{_span(first_core + self._cores, last + self._cores)}"

    def _mask(self, first_core: int, end_core: int) -> str:
        bits = ((1 << (end_core - first_core)) - 1) << first_core
        bits |= bits << self._cores
        words = [bits >> shift & 0xFFFFFFFF for shift in range(0, self._shape.cpus, 32)]
        return ",".join(f"{word:08x}" for word in reversed(words))

    def _cores_of(self, part: int, parts: int) -> tuple[int, int]:
        return part * self._cores // parts, (part + 1) * self._cores // parts

    def _cpu(self, number: int) -> None:
        core = number % self._cores
        package, node = self._package_of(core), self._node_of(core)
        package_cores = self._cores_of(package, self._shape.packages)
        node_first, node_end = self._cores_of(node, self._shape.nodes)
        llc_first = node_first + (core - node_first) // CORES_PER_LLC * CORES_PER_LLC
        llc = llc_first, min(llc_first + CORES_PER_LLC, node_end)
        own = core, core + 1
        directory = f"sys/devices/system/cpu/cpu{number}"
        if number:
            self._file(f"{directory}/online", "1\n")
        self._files(
            f"{directory}/topology",
            {
                "physical_package_id": package,
                "die_id": 0,
                "cluster_id": 65535,
                "core_id": core - package_cores[0],
                "thread_siblings": self._mask(*own),
                "thread_siblings_list": self._list(*own),
                "core_cpus": self._mask(*own),
                "core_cpus_list": self._list(*own),
                "core_siblings": self._mask(*package_cores),
                "core_siblings_list": self._list(*package_cores),
                "package_cpus_list": self._list(*package_cores),
            },
        )
        caches = [
            (1, "Data", 48, own),
            (1, "Instruction", 32, own),
            (2, "Unified", 2048, own),
            (3, "Unified", 32768, llc),
        ]
        for index, (level, kind, size_kib, shared) in enumerate(caches):
            self._files(
                f"{directory}/cache/index{index}",
                {
                    "level": level,
                    "type": kind,
                    "size": f"{size_kib}K",
                    "id": core if shared is own else shared[0],
                    "coherency_line_size": 64,
                    "ways_of_associativity": 16,
                    "shared_cpu_map": self._mask(*shared),
                    "shared_cpu_list": self._list(*shared),
                },
            )
        self._link(f"{directory}/node{node}", f"sys/devices/system/node/node{node}")
        self._link(f"sys/devices/system/node/node{node}/cpu{number}", directory)

    def _cpu_lists(self) -> None:
        everything = _span(0, self._shape.cpus - 1)
        names = {"online": everything, "present": everything, "possible": everything, "offline": "", "isolated": ""}
        self._files("sys/devices/system/cpu", {**names, "nohz_full": "(null)", "kernel_max": 8191})
        for name in ("cpufreq/boost", "cpuidle/current_driver", "smt/active", "vulnerabilities/meltdown"):
            self._file(f"sys/devices/system/cpu/{name}", "1\n")
        everything = _span(0, self._shape.nodes - 1)
        masks = ("online", "possible", "has_cpu", "has_memory", "has_normal_memory")
        self._files("sys/devices/system/node", dict.fromkeys(masks, everything))

    def _node(self, number: int) -> None:
        nodes, packages = self._shape.nodes, self._shape.packages
        cores = self._cores_of(number, nodes)
        directory = f"sys/devices/system/node/node{number}"
        package = number * packages // nodes

        def distance(other: int) -> int:
            if other == number:
                return 10
            return 12 if other * packages // nodes == package else 32

        half = NODE_MEMORY_KIB // 2
        amounts = {"MemTotal": NODE_MEMORY_KIB, "MemFree": half, "MemUsed": half, "FilePages": 4096}
        self._files(
            directory,
            {
                "cpulist": self._list(*cores),
                "cpumap": self._mask(*cores),
                "distance": " ".join(str(distance(other)) for other in range(nodes)),
                "meminfo": "\n".join(f"Node {number} {name}: {kib:>14} kB" for name, kib in amounts.items()),
                "numastat": "numa_hit 88218474\nnuma_miss 17\nnuma_foreign 3\ninterleave_hit 1042\n"
                "local_node 88211000\nother_node 7474",
            },
        )
        for size_kib in (2048, 1048576):
            counts = {"nr_hugepages": 0, "free_hugepages": 0, "surplus_hugepages": 0}
            self._files(f"{directory}/hugepages/hugepages-{size_kib}kB", counts)

    # PCI

    def _pci_slots(self, node: int) -> t.Iterator[_Slot]:
        """Yield the places for devices on a node: root ports in turn, and a switch with several ports below each."""
        domain, first_bus = _first_bus(node)
        host_bridge = f"sys/devices/pci{domain:04x}:{first_bus:02x}"
        bus = first_bus + 1
        for port in range(ROOT_PORTS):
            above = self._bridge(host_bridge, f"{domain:04x}:{first_bus:02x}:{port + 1:02x}.1", node)
            above = self._bridge(above, f"{domain:04x}:{bus:02x}:00.0", node)
            switch_bus, bus = bus + 1, bus + 2
            for number in range(DEVICES_PER_SWITCH):
                # The bus of a port that nothing was plugged into stays free: 32 buses must do for all of them.
                function = self._bridge(above, f"{domain:04x}:{switch_bus:02x}:{number:02x}.0", node)
                address = (
                    f"{domain:04x}:{first_bus + BUSES_PER_BRIDGE - 1 - port * DEVICES_PER_SWITCH - number:02x}:00.0"
                )
                yield _Slot(f"{function}/{address}", address, node)

    def _bridge(self, above: str, address: str, node: int) -> str:
        directory = f"{above}/{address}"
        self._pci_device(_Slot(directory, address, node), PCI_BRIDGE, "0x1000", "0xc030", "pcieport")
        return directory

    def _pci_device(self, slot: _Slot, pci_class: str, vendor: str, device: str, driver: str) -> None:
        cores = self._cores_of(slot.node, self._shape.nodes)
        self._files(
            slot.directory,
            {
                "class": pci_class,
                "vendor": vendor,
                "device": device,
                "numa_node": slot.node,
                "local_cpulist": self._list(*cores),
                "local_cpus": self._mask(*cores),
                "irq": 0,
                "enable": 1,
                "max_link_speed": "32.0 GT/s PCIe",
                "uevent": f"DRIVER={driver}\nPCI_SLOT_NAME={slot.address}",
            },
        )
        self._link(f"{slot.directory}/driver", f"sys/bus/pci/drivers/{driver}")
        self._link(f"sys/bus/pci/devices/{slot.address}", slot.directory)

    def _chipset_function(self, node: int, number: int) -> None:
        domain, bus = _first_bus(node)
        address = f"{domain:04x}:{bus:02x}:{0x10 + number // 8:02x}.{number % 8}"
        slot = _Slot(f"sys/devices/pci{domain:04x}:{bus:02x}/{address}", address, node)
        self._pci_device(slot, "0x088000", "0x1022", "0x14dc", "none")

    def _vectors(self, slot: _Slot, count: int) -> None:
        everywhere = f"0-{self._shape.cpus - 1}"
        for number in range(count):
            irq = self._next_irq
            self._file(f"{slot.directory}/msi_irqs/{irq}", "msix\n")
            self._file(f"sys/kernel/irq/{irq}/actions", f"queue{number}@pci:{slot.address}\n")
            self._files(f"proc/irq/{irq}", {"smp_affinity_list": everywhere, "effective_affinity_list": 0})
            self._next_irq += 1

    def _devices(self) -> None:
        shape = self._shape
        for number in range(shape.nodes * FUNCTIONS_PER_NODE):
            self._chipset_function(*divmod(number, FUNCTIONS_PER_NODE))
        with_vectors = shape.nics + shape.nvmes
        vectors = [
            shape.vectors * (n + 1) // with_vectors - shape.vectors * n // with_vectors for n in range(with_vectors)
        ]
        for number in range(shape.gpus):
            slot = self._slot(number, shape.gpus)
            self._pci_device(slot, "0x030200", "0x10de", "0x2330", "nvidia")
            uuid = f"GPU-{number:08x}-0000-4000-8000-{number:012x}"
            self._file(
                f"proc/driver/nvidia/gpus/{slot.address}/information",
                "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 4096\n"
                f"GPU UUID: \t {uuid}\nBus Location: \t {slot.address}\n",
            )
        for number in range(shape.nics):
            slot = self._slot(number, shape.nics)
            self._nic(slot, number)
            self._vectors(slot, vectors[number])
        for number in range(shape.nvmes):
            slot = self._slot(number, shape.nvmes)
            self._nvme(slot, number)
            self._vectors(slot, vectors[shape.nics + number])
        if shape.gpus:
            self._file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10\n")
        loopback = {"speed": "", "operstate": "unknown", "carrier": 1, "type": 772, "mtu": 65536}
        self._files("sys/devices/virtual/net/lo", loopback)
        self._link("sys/class/net/lo", "sys/devices/virtual/net/lo")

    def _slot(self, number: int, count: int) -> _Slot:
        return next(self._slots[number * self._shape.nodes // count])

    def _nic(self, slot: _Slot, number: int) -> None:
        self._pci_device(slot, "0x020700" if number % 2 else "0x020000", "0x15b3", "0x1021", "mlx5_core")
        self._files(slot.directory, {"sriov_totalvfs": 8, "sriov_numvfs": 0})
        name = f"ib{number}" if number % 2 else f"eth{number}"
        net = f"{slot.directory}/net/{name}"
        about = {
            "speed": 400000,
            "operstate": "up",
            "carrier": 1,
            "type": 32 if number % 2 else 1,
            "mtu": 1500,
            "dev_port": 0,
        }
        self._files(net, {**about, "flags": "0x1003", "ifindex": number + 2})
        self._link(f"{net}/device", slot.directory)
        self._link(f"sys/class/net/{name}", net)
        mlx = f"{slot.directory}/infiniband/mlx5_{number}"
        self._files(mlx, {"node_type": "1: CA", "fw_ver": "28.39.1002"})
        self._files(
            f"{mlx}/ports/1",
            {
                "state": "4: ACTIVE",
                "phys_state": "5: LinkUp",
                "link_layer": "InfiniBand" if number % 2 else "Ethernet",
                "rate": "400 Gb/sec (4X NDR)",
                "gid_attrs/ndevs/0": name,
            },
        )
        self._link(f"{mlx}/device", slot.directory)
        self._link(f"sys/class/infiniband/mlx5_{number}", mlx)

    def _nvme(self, slot: _Slot, number: int) -> None:
        self._pci_device(slot, "0x010802", "0x144d", "0xa80a", "nvme")
        nvme = f"{slot.directory}/nvme/nvme{number}"
        about = {"model": "SAMSUNG MZQL23T8HCLS-00A07", "state": "live", "transport": "pcie", "numa_node": slot.node}
        self._files(nvme, {**about, "address": slot.address, "queue_count": 129, f"nvme{number}n1/size": 7501476528})
        self._link(f"{nvme}/device", slot.directory)
        self._link(f"sys/class/nvme/nvme{number}", nvme)

    # proc and the rest

    def _proc(self) -> None:
        shape = self._shape
        memory_kib = NODE_MEMORY_KIB * shape.nodes
        allowed = (
            f"Name:\tsystemd\nCpus_allowed:\t{self._mask(0, self._cores)}\nCpus_allowed_list:\t0-{shape.cpus - 1}\n"
        )
        self._file("proc/1/status", allowed)
        self._file("proc/1/comm", "systemd\n")
        for number in range(shape.processes):
            self._files(
                f"proc/{1000 + number}",
                {"comm": f"worker{number}" if number else "irqbalance", "cgroup": "0::/system.slice/worker.service"},
            )
        flags = (
            "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 " * 12
        )
        cpuinfo = "".join(
            f"processor\t: {number}\nmodel name\t: AMD EPYC 9965 192-Core Processor\nphysical id\t: "
            f"{self._package_of(number % self._cores)}\ncore id\t\t: {number % self._cores}\nflags\t\t: {flags}\n\n"
            for number in range(shape.cpus)
        )
        self._file("proc/cpuinfo", cpuinfo)
        self._files(
            "proc",
            {
                "sys/kernel/osrelease": "6.8.0-60-generic",
                "sys/kernel/numa_balancing": 1,
                "sys/vm/zone_reclaim_mode": 0,
                "meminfo": f"MemTotal: {memory_kib:>14} kB\nMemFree: {memory_kib // 2:>15} kB",
                "cmdline": "BOOT_IMAGE=/vmlinuz root=UUID=0 ro quiet",
                "1/cgroup": "0::/init.scope",
            },
        )
        self._file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
        self._file("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n")
        self._files("sys/class/dmi/id", {"sys_vendor": "Supermicro", "product_name": "AS -8125GS-TNHR"})


def _first_bus(node: int) -> tuple[int, int]:
    return node // BRIDGES_PER_DOMAIN, node % BRIDGES_PER_DOMAIN * BUSES_PER_BRIDGE


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def main() -> None:
    """Write the tree that the command line asks for."""
    parser = argparse.ArgumentParser(description="Lay out a made-up machine as Linux would show it in /sys and /proc.")
    parser.add_argument("directory", type=Path, help="where to write sys and proc; it must be empty or not exist")
    for field in fields(Shape):
        default = getattr(BIG, field.name)
        parser.add_argument(f"--{field.name}", type=int, default=default, help=f"(default: {default})")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    if directory.exists() and any(directory.iterdir()):
        parser.error(f"{directory} is not empty")
    try:
        lay_out(directory, replace(BIG, **{field.name: getattr(arguments, field.name) for field in fields(Shape)}))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
