# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Which devices of a host a rule for interrupts means, and on which CPUs of which node."""

from __future__ import annotations

import fnmatch
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._devices import (
    read_infiniband,
    read_nics,
    read_nvme,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import gpu_devices
from ansible_collections.numapin.inference.plugins.module_utils._irqs import Affinities, IrqError, Vectors
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree, normalised_pci_address
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

_CPU = "/sys/devices/system/cpu"
_NVIDIA_GPUS = "/proc/driver/nvidia/gpus"
_UUID_LINE = re.compile(r"^GPU UUID:[ \t]+(\S+)[ \t]*$", re.MULTILINE)
KINDS = ("nic", "infiniband", "nvme", "gpu")


class Device(t.NamedTuple):
    """A PCI function that rules can name in several ways."""

    address: str
    names: tuple[str, ...]  # eth0, mlx5_0, nvme0; for people
    netdevs: tuple[str, ...]
    drivers: frozenset[str]
    kinds: frozenset[str]

    @property
    def label(self) -> str:
        """As people call it."""
        return f"{', '.join(self.names)} ({self.address})" if self.names else self.address


class Machine:
    """What rules are held against: CPUs, nodes, devices, vectors. Read once; make a new one to read again."""

    def __init__(self, host: Host) -> None:
        self.host = host
        topology = read_topology(host, frozenset())
        self.node_cpus = {node.id: parse_cpulist(node.cpus) for node in topology.nodes}
        self.online: frozenset[int] = frozenset().union(*self.node_cpus.values())
        self.online |= _set_in(host, f"{_CPU}/online")
        self.present = self.online | parse_cpulist(topology.offline_cpus) | _set_in(host, f"{_CPU}/present")
        # Fewer than at another boot: SMT switched off, nr_cpus=.
        self.possible = _set_in(host, f"{_CPU}/possible") or self.present
        self._nodes = topology.nodes
        self._siblings: dict[int, frozenset[int]] = {}
        self.look_again()

    def look_again(self) -> None:
        """Forget devices and vectors, which come and go while CPUs and nodes stay."""
        self.pci = PciTree(self.host, self._nodes)
        self.vectors = Vectors(self.host, self.pci)
        self.affinities = Affinities(self.host)
        self._devices: dict[str, Device] | None = None

    def siblings(self, cpu: int) -> frozenset[int]:
        """Return the online SMT siblings of a CPU, itself among them."""
        if cpu not in self._siblings:
            own = f"{_CPU}/cpu{cpu}/topology"
            found = _set_in(self.host, f"{own}/core_cpus_list") or _set_in(self.host, f"{own}/thread_siblings_list")
            self._siblings[cpu] = (found & self.online) | {cpu}
        return self._siblings[cpu]

    def node_of(self, address: str) -> int | None:
        """Return the node of a PCI device; ``None`` when the firmware does not say."""
        if len(self.node_cpus) == 1:
            return next(iter(self.node_cpus))
        return self.pci.node(address)

    def device(self, address: str) -> Device:
        """Return a PCI device with the names it has, whether a rule could name it or not."""
        return self._known().get(address) or Device(address, (), (), frozenset(), frozenset())

    def by_kind(self, node: int, kinds: t.Collection[str]) -> list[Device]:
        """Return the devices of these kinds on a node."""
        if node not in self.node_cpus:
            raise IrqError(f"there is no node {node}: this host has {format_cpulist(self.node_cpus)}")
        return [one for one in self._known().values() if one.kinds & set(kinds) and self.node_of(one.address) == node]

    def by_name(self, kind: str, name: str) -> list[Device]:
        """Return the devices that a selector means. Raises ``IrqError`` with what there is instead."""
        known = self._known().values()
        if kind == "netdev":
            found = [one for one in known if name in one.netdevs]
            if not found and self.host.exists(f"/sys/class/net/{name}"):
                raise IrqError(
                    f"{name} has no PCI device of its own (a bridge, bond or VLAN?): name what it is made of"
                )
            there = [netdev for one in known for netdev in one.netdevs]
        elif kind == "driver":
            found = [one for one in self._with_drivers() if name in one.drivers]
            there = sorted({driver for one in self._with_drivers() for driver in one.drivers})
        elif kind == "pci_address":
            address = normalised_pci_address(name)
            if address is None:
                raise IrqError(f"{name!r} is no PCI address: write it as 0000:41:00.0")
            found = [self.device(address)] if self.host.exists(f"/sys/bus/pci/devices/{address}") else []
            there = []
        elif kind == "gpu":
            return self._gpu(name)
        else:
            found = [one for one in known if kind in one.kinds and name in one.names]
            there = [own for one in known if kind in one.kinds for own in one.names if own not in one.netdevs]
        if not found:
            raise IrqError(
                f"there is no {kind} {name}" + (f"; this host has {_some(there)}" if there else " on this host")
            )
        return found

    def by_action(self, pattern: str) -> list[int]:
        """Return the numbers of the vectors with an action whose name matches a shell pattern."""
        return [
            vector.number
            for vector in self.vectors.all()
            if any(fnmatch.fnmatchcase(name.strip(), pattern) for name in vector.name.split(","))
        ]

    def _gpu(self, name: str) -> list[Device]:
        gpus = [device.address for device, _vendor in gpu_devices(self.pci)]
        address = normalised_pci_address(name)
        if address is None:
            uuids = {}
            for known in self.host.list_dir(_NVIDIA_GPUS) or ():
                match = _UUID_LINE.search(self.host.read_text(f"{_NVIDIA_GPUS}/{known}/information", 4096) or "")
                if match:
                    uuids[match[1]] = normalised_pci_address(known)
            address = uuids.get(name)
            if address is None:
                why = f"it has {_some(uuids)}" if uuids else "NVIDIA's driver shows no GPU here: give a PCI address"
                raise IrqError(f"this host has no GPU with the UUID {name}; {why}")
        elif address not in gpus:
            raise IrqError(
                f"{name} is no GPU of this host" + (f"; it has {_some(gpus)}" if gpus else ", which has none")
            )
        return [self.device(address)]

    def _known(self) -> dict[str, Device]:
        """Return the devices of known kinds, ascending by address."""
        if self._devices is None:
            found: dict[str, Device] = {}

            def add(address: str | None, kind: str, name: str | None, driver: str | None, netdev: bool) -> None:
                if address is None:
                    return
                old = found.get(address) or Device(address, (), (), frozenset(), frozenset())
                names = (name,) if name and name not in old.names else ()
                found[address] = Device(
                    address,
                    old.names + names,
                    old.netdevs + (names if netdev else ()),
                    old.drivers | ({driver} if driver else set()),
                    old.kinds | {kind},
                )

            for nic in read_nics(self.host, self.pci):
                add(nic.pci_address, "nic", nic.name, nic.driver, True)
            for rdma in read_infiniband(self.host, self.pci):
                add(rdma.pci_address, "infiniband", rdma.name, rdma.driver, False)
            for disk in read_nvme(self.host, self.pci):
                add(disk.pci_address, "nvme", disk.name, disk.driver, False)
            for gpu, _vendor in gpu_devices(self.pci):
                add(gpu.address, "gpu", None, gpu.driver, False)
            self._devices = dict(sorted(found.items()))
        return self._devices

    def _with_drivers(self) -> list[Device]:
        """Return every PCI device with a driver: that of the function, or of what a bus driver made of it (virtio)."""
        devices = []
        for one in self.pci.devices(lambda _pci_class: True):
            known = self.device(one.address)
            drivers = known.drivers | ({one.driver} if one.driver else set())
            if drivers:
                devices.append(known._replace(drivers=drivers))
        return devices


def _set_in(host: Host, path: str) -> frozenset[int]:
    try:
        return parse_cpulist(host.read_text(path) or "")
    except CpusetError:
        return frozenset()


def _some(names: t.Iterable[str]) -> str:
    """Return what there is instead, as much of it as a person reads."""
    listed = list(names)
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
