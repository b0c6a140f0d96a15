# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The PCI devices of a Linux host: class, driver, node, interrupt vectors, and how two of them reach one another.

Kernel sources: Documentation/ABI/testing/sysfs-bus-pci, drivers/pci/pci-sysfs.c, drivers/pci/probe.c (the name
``pciDDDD:BB`` of a host bridge's device).

The paths are those of the legend that ``nvidia-smi topo -m`` prints, which are NVML's ``nvmlGpuTopologyLevel_t``
(nvml.h: "single PCIe switch", "need not traverse a host bridge", "same host bridge", "same NUMA node but possibly
multiple host bridges", "system"):

* ``PIX``: at most one PCIe switch between them;
* ``PXB``: several, and no host bridge;
* ``PHB``: through their common host bridge (typically the CPU's root complex);
* ``NODE``: between host bridges of one NUMA node;
* ``SYS``: between NUMA nodes.

In sysfs a switch is an upstream port and, below it, one downstream port for each branch. Below the lowest bridge that
two devices have in common, one more bridge on a branch is therefore the same switch, and two more are another one; NCCL
counts the same way (``pciDistance`` before version 2.6, the pairs of ports in src/graph/xml.cc since).
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    parse_cpulist,
    parse_cpumask,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._topology import Node

_DEVICES = "/sys/bus/pci/devices"
_ADDRESS = re.compile(r"([0-9a-fA-F]{1,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")
_HOST_BRIDGE = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,6}")
_VECTOR = re.compile(r"[1-9][0-9]{0,8}")
_DRIVER_LIMIT = 64
# A warning about hundreds of virtual functions names the first few.
_NAMED = 4


class PciDevice(t.NamedTuple):
    """One function of a device on a PCI bus.

    ``path`` is the way down to it: its host bridge and the bridges in between, as ``("pci0000:40", "0000:40:01.1")``;
    empty when it is unknown (a captured tree may hold directories where the kernel has links).
    """

    address: str  # as in /sys/bus/pci/devices: 0000:41:00.0
    pci_class: int  # 24 bits: base class, subclass, programming interface; 0 (unclassified) when it cannot be read
    vendor: int | None
    device: int | None
    node: int | None
    driver: str | None
    path: tuple[str, ...]


def normalised_pci_address(text: str) -> str | None:
    """Return ``0000:17:00.0`` for ``00000000:17:00.0``, as the kernel writes it; ``None`` for what is no address."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        return None
    return f"{int(match[1], 16):04x}:{match[2]}:{match[3]}.{match[4]}".lower()


def driver_in(link: str | None) -> str | None:
    """Return the driver's name in what a ``driver`` link says; ``None`` when there is no driver, or no name."""
    name = (link or "").rpartition("/")[2]
    return name if name and len(name) <= _DRIVER_LIMIT and name.isprintable() else None


class PciTree:
    """The PCI devices of a host; every file is read at most once, and only when somebody asks.

    ``nodes`` are the nodes that are online: a device on another one is a firmware's error.
    """

    def __init__(self, host: Host, nodes: t.Sequence[Node]) -> None:
        self._host = host
        self._node_cpus = {node.id: parse_cpulist(node.cpus) for node in nodes}
        self._names: dict[str, str] | None = None
        self._classes: dict[str, int | None] = {}
        self._devices: dict[str, PciDevice] = {}
        self._nodes: dict[str, int | None] = {}
        self._vectors: dict[str, tuple[int, ...]] = {}
        self._pins: set[str] = set()
        self._misplaced: dict[int, list[str]] = {}

    def devices(self, wanted: t.Callable[[int], bool]) -> list[PciDevice]:
        """Return the devices whose class (24 bits) ``wanted`` agrees to, ascending by address."""
        found = []
        for address in sorted(self._addresses()):
            pci_class = self._class_of(address)
            if pci_class is not None and wanted(pci_class) and self._has_its_own_name(address):
                found.append(self._read(address))
        return found

    def device(self, address: str) -> PciDevice | None:
        """Return the device at ``address``; ``None`` when there is none."""
        known = self._known(address)
        return self._read(known) if known else None

    def node(self, address: str) -> int | None:
        """Return the node of a device as sysfs knows it, and read nothing else."""
        known = self._known(address)
        if known is None:
            return None
        if known not in self._nodes:
            self._nodes[known] = self._read_node(known)
        return self._nodes[known]

    def irqs(self, address: str) -> tuple[int, ...]:
        """Return the numbers of a device's interrupts, ascending: its MSI and MSI-X vectors, else its INTx interrupt.

        A driver gets new numbers whenever it is loaded or its number of queues changes.
        """
        known = self._known(address)
        if known is None:
            return ()
        if known not in self._vectors:
            self._vectors[known] = self._read_irqs(known)
        return self._vectors[known]

    def has_pin_only(self, address: str) -> bool:
        """Whether ``irqs`` is the INTx interrupt: without a driver it is no more than what the firmware left there."""
        return bool(self.irqs(address)) and self._known(address) in self._pins

    def physical_function(self, address: str) -> str | None:
        """Return the address of the physical function that a virtual one belongs to; ``None`` for any other device."""
        known = self._known(address)
        link = self._host.readlink(f"{self._directory(known)}/physfn") if known else None
        return normalised_pci_address((link or "").rpartition("/")[2])

    def path_kind(
        self, first: str, second: str, *, first_node: int | None = None, second_node: int | None = None
    ) -> str | None:
        """Return PIX, PXB, PHB, NODE or SYS; ``None`` when a device or, where it matters, a node is unknown.

        ``first_node`` and ``second_node`` are for who knows a node better than sysfs (an override, NVML).
        """
        one, other = self.device(first), self.device(second)
        if one is None or other is None:
            return None
        shared = _shared_path(one.path, other.path)
        if shared is not None:
            return shared
        one_node = one.node if first_node is None else first_node
        other_node = other.node if second_node is None else second_node
        known = one_node is not None and other_node is not None
        if known and one_node != other_node:
            return "SYS"
        if not one.path or not other.path:
            return None
        return "NODE" if known or len(self._node_cpus) == 1 else None

    @property
    def warnings(self) -> list[str]:
        """What was read so far and cannot be true."""
        online = ", ".join(str(node) for node in sorted(self._node_cpus)) or "none"
        messages = []
        for node, addresses in sorted(self._misplaced.items()):
            named = ", ".join(addresses[:_NAMED])
            more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
            messages.append(
                f"sysfs puts the PCI device{'s' if len(addresses) > 1 else ''} {named}{more} on node {node}, which is"
                f" not online (online: {online}): that is left out"
            )
        return messages

    def _addresses(self) -> dict[str, str]:
        """Return the name of each device's directory by its address."""
        if self._names is None:
            self._names = {}
            for name in self._host.list_dir(_DEVICES) or ():
                address = normalised_pci_address(name)
                if address is not None:
                    self._names[address] = name
        return self._names

    def _known(self, address: str) -> str | None:
        """Return the address as the kernel writes it; ``None`` for a device that is not there."""
        if address in self._addresses():
            return address
        normalised = normalised_pci_address(address)
        return normalised if normalised in self._addresses() else None

    def _directory(self, address: str) -> str:
        return f"{_DEVICES}/{self._addresses()[address]}"

    def _has_its_own_name(self, address: str) -> bool:
        """Whether the link to a device has the name of what it leads to, as the kernel makes it."""
        link = self._host.readlink(self._directory(address))
        return link is None or normalised_pci_address(link.rstrip("/").rpartition("/")[2]) == address

    def _class_of(self, address: str) -> int | None:
        if address not in self._classes:
            self._classes[address] = self._hex_in(f"{self._directory(address)}/class")
        return self._classes[address]

    def _read(self, address: str) -> PciDevice:
        if address not in self._devices:
            directory = self._directory(address)
            self._devices[address] = PciDevice(
                address=address,
                pci_class=self._class_of(address) or 0,
                vendor=self._hex_in(f"{directory}/vendor"),
                device=self._hex_in(f"{directory}/device"),
                node=self.node(address),
                driver=driver_in(self._host.readlink(f"{directory}/driver")),
                path=_path_in(self._host.readlink(directory), address),
            )
        return self._devices[address]

    def _read_node(self, address: str) -> int | None:
        directory = self._directory(address)
        node = self._host.read_int(f"{directory}/numa_node")
        if node is None:
            return self._node_by_cpus(directory)
        if node < 0:
            return None
        if node not in self._node_cpus:
            self._misplaced.setdefault(node, []).append(address)
            return None
        return node

    def _node_by_cpus(self, directory: str) -> int | None:
        """Return the node whose CPUs are those near the device, for kernels that tell no node."""
        online: frozenset[int] = frozenset().union(*self._node_cpus.values())
        for name, parse in (("local_cpulist", parse_cpulist), ("local_cpus", parse_cpumask)):
            text = self._host.read_text(f"{directory}/{name}")
            if text is None:
                continue
            try:
                near = parse(text) & online
            except CpusetError:
                continue
            nodes = [node for node, cpus in self._node_cpus.items() if cpus and cpus == near]
            return nodes[0] if len(nodes) == 1 else None
        return None

    def _read_irqs(self, address: str) -> tuple[int, ...]:
        directory = self._directory(address)
        vectors = [int(name) for name in self._host.list_dir(f"{directory}/msi_irqs") or () if _VECTOR.fullmatch(name)]
        if not vectors:
            pin = self._host.read_int(f"{directory}/irq")
            # 0 is how the kernel says that the device has none.
            vectors = [pin] if pin is not None and pin > 0 else []
            self._pins.add(address)
        return tuple(sorted(vectors))

    def _hex_in(self, path: str) -> int | None:
        text = (self._host.read_text(path, 4096) or "").strip()
        return int(text, 16) if _HEX.fullmatch(text) else None


def _shared_path(one: tuple[str, ...], other: tuple[str, ...]) -> str | None:
    """Return PIX, PXB or PHB for the paths of two devices below one host bridge; else ``None``."""
    common = 0
    for above_one, above_other in zip(one, other):
        if above_one != above_other:
            break
        common += 1
    if not common:
        return None
    if _HOST_BRIDGE.fullmatch(one[common - 1]):
        return "PHB"
    further = max(len(one), len(other)) - common
    return "PIX" if further <= 1 else "PXB"


def _path_in(link: str | None, address: str) -> tuple[str, ...]:
    """Return host bridge and bridges in the link to a device, whatever the bus on which the host bridge itself is.

    Host bridges are at the top (``devices/pci0000:40``), on a platform bus (``platform/40000000.pcie/pci0000:00``),
    below Hyper-V's (``VMBUS:01/.../pci1a2b:00``), or below a PCI device (VMD: ``0000:80:05.5/pci10000:e0``).
    """
    parts = (link or "").rstrip("/").split("/")
    if normalised_pci_address(parts[-1]) != address:
        return ()
    above = tuple(part for part in parts[:-1] if _HOST_BRIDGE.fullmatch(part) or _ADDRESS.fullmatch(part))
    return above if above and _HOST_BRIDGE.fullmatch(above[0]) else ()
