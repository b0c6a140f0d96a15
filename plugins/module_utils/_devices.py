# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""NICs, NVMe controllers and InfiniBand devices of a Linux host.

A device of a class is found below the PCI function it belongs to, whatever lies in between (a virtio or an auxiliary
device). Addresses on the network, GUIDs and serial numbers are not read.

Kernel sources: Documentation/ABI/testing/sysfs-class-net (speed, carrier, operstate, phys_port_name),
Documentation/ABI/testing/sysfs-bus-pci (sriov_totalvfs, sriov_numvfs, physfn, msi_irqs),
Documentation/ABI/stable/sysfs-class-infiniband, drivers/nvme/host/sysfs.c.
"""

from __future__ import annotations

import re
import typing as t
from collections import Counter

from ansible_collections.numapin.inference.plugins.module_utils._pci import driver_in, normalised_pci_address

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree

_NET = "/sys/class/net"
_NVME = "/sys/class/nvme"
_INFINIBAND = "/sys/class/infiniband"
# IFNAMSIZ - 1, IB_DEVICE_NAME_MAX - 1 (include/uapi/linux/if.h, include/uapi/rdma/ib_user_verbs.h).
_NETDEV_LIMIT, _INFINIBAND_LIMIT = 15, 63
_CONTROLLER = re.compile(r"nvme[0-9]{1,6}")
# What drivers call the ports of their switch that lead to functions (__devlink_port_phys_port_name_get in
# net/devlink/port.c, ef100_rep.c of sfc).
_REPRESENTOR = re.compile(r"(?:c[0-9]+|p[0-9]+)?pf[0-9]+(?:(?:vf|sf)[0-9]+)?")
_STATE = re.compile(r"[0-9]+: *([A-Z_]{1,20})")
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) Gb/sec\b")
_LINK_LAYERS = frozenset({"InfiniBand", "Ethernet", "Unspecified"})
_FABRICS = {"tcp": "nvme_tcp", "rdma": "nvme_rdma", "fc": "nvme_fc", "loop": "nvme_loop"}
_SPEED_UNKNOWN = 0xFFFFFFFF  # SPEED_UNKNOWN is -1; kernels before 4.3 printed it without its sign
_LINK_STATES = {"up": "up", "down": "down", "lowerlayerdown": "down", "notpresent": "down"}
_MODEL_LIMIT = 128


class Sriov(t.NamedTuple):
    """A physical function's virtual functions, or a virtual function's physical one (a PCI address)."""

    total_vfs: int | None
    vfs: int | None
    physical_function: str | None


class Nic(t.NamedTuple):
    """A network interface with hardware of its own; ``pci_address`` is ``None`` for one that is not on a PCI bus."""

    name: str
    pci_address: str | None
    driver: str | None
    node: int | None
    speed_mbps: int | None
    link: str | None  # up | down
    sriov: Sriov | None
    irqs: tuple[int, ...]


class Nvme(t.NamedTuple):
    """An NVMe controller; those reached over a network have no PCI address and no node."""

    name: str
    pci_address: str | None
    model: str | None
    driver: str | None
    node: int | None
    irqs: tuple[int, ...]


class InfinibandPort(t.NamedTuple):
    """One port; ``state`` in lower case, ``rate_gbps`` as the driver gives it (2.5 for a link that is down)."""

    port: int
    state: str | None
    link_layer: str | None  # InfiniBand | Ethernet | Unspecified
    rate_gbps: float | None


class Infiniband(t.NamedTuple):
    """An RDMA device with hardware of its own, with the network interfaces of its PCI function."""

    name: str
    pci_address: str | None
    driver: str | None
    node: int | None
    netdevs: tuple[str, ...]
    ports: tuple[InfinibandPort, ...]
    physical_function: str | None  # PCI address, of a virtual function's
    irqs: tuple[int, ...]


def read_nics(host: Host, pci: PciTree) -> tuple[Nic, ...]:
    """Return the network interfaces with a device below them, by name; bridges, bonds, VLANs and the like have none."""
    places: dict[str, str | None] = {}
    for name, link in _devices_in(host, _NET):
        if _is_name(name, _NETDEV_LIMIT):
            place = _place(host, f"{_NET}/{name}", link)
            if place is not None:
                places[name] = _pci_address_in(place)
    interfaces = Counter(places.values())
    nics = []
    for name, address in places.items():
        if address is None or not _is_representor(host, name, interfaces[address]):
            nics.append(_read_nic(host, pci, name, address))
    return tuple(nics)


def read_nvme(host: Host, pci: PciTree) -> tuple[Nvme, ...]:
    """Return the NVMe controllers, by name."""
    controllers = []
    for name, link in _devices_in(host, _NVME):
        if not _CONTROLLER.fullmatch(name):
            continue
        directory = f"{_NVME}/{name}"
        address = _pci_address_in(link or host.readlink(f"{directory}/device") or "")
        driver = driver_in(host.readlink(f"{directory}/device/driver"))
        if address is None and driver is None:
            driver = _FABRICS.get((host.read_text(f"{directory}/transport", 4096) or "").strip())
        controllers.append(
            Nvme(
                name=name,
                pci_address=address,
                model=_text_in(host, f"{directory}/model"),
                driver=driver,
                node=pci.node(address) if address else None,
                irqs=pci.irqs(address) if address else (),
            )
        )
    return tuple(controllers)


def read_infiniband(host: Host, pci: PciTree) -> tuple[Infiniband, ...]:
    """Return the RDMA devices, by name, without those that software makes out of any NIC (rxe, siw)."""
    devices = []
    for name, link in _devices_in(host, _INFINIBAND):
        directory = f"{_INFINIBAND}/{name}"
        place = _place(host, directory, link) if _is_name(name, _INFINIBAND_LIMIT) else None
        if place is None:
            continue
        address = _pci_address_in(place)
        netdevs = [n for n in host.list_dir(f"{directory}/device/net") or () if _is_name(n, _NETDEV_LIMIT)]
        netdevs = [netdev for netdev in netdevs if not _is_representor(host, netdev, len(netdevs))]
        ports = sorted(
            int(port) for port in host.list_dir(f"{directory}/ports") or () if re.fullmatch("[0-9]{1,3}", port)
        )
        devices.append(
            Infiniband(
                name=name,
                pci_address=address,
                driver=driver_in(host.readlink(f"{directory}/device/driver")),
                node=pci.node(address) if address else None,
                netdevs=tuple(sorted(netdevs, key=_natural)),
                ports=tuple(_read_port(host, f"{directory}/ports/{port}", port) for port in ports),
                physical_function=pci.physical_function(address) if address else None,
                irqs=pci.irqs(address) if address else (),
            )
        )
    return tuple(devices)


def _read_nic(host: Host, pci: PciTree, name: str, address: str | None) -> Nic:
    directory = f"{_NET}/{name}"
    # Both refuse to be read (EINVAL) while the interface is down.
    speed = host.read_int(f"{directory}/speed")
    carrier = host.read_int(f"{directory}/carrier")
    if carrier in (0, 1):
        link: str | None = "up" if carrier else "down"
    else:
        link = _LINK_STATES.get((host.read_text(f"{directory}/operstate", 4096) or "").strip())
    return Nic(
        name=name,
        pci_address=address,
        driver=driver_in(host.readlink(f"{directory}/device/driver")),
        node=pci.node(address) if address else None,
        speed_mbps=speed if speed is not None and 0 < speed < _SPEED_UNKNOWN else None,
        link=link,
        sriov=_read_sriov(host, pci, address) if address else None,
        irqs=pci.irqs(address) if address else (),
    )


def _read_sriov(host: Host, pci: PciTree, address: str) -> Sriov | None:
    physical_function = pci.physical_function(address)
    if physical_function is not None:
        return Sriov(None, None, physical_function)
    directory = f"/sys/bus/pci/devices/{address}"
    total, now = (host.read_int(f"{directory}/{name}") for name in ("sriov_totalvfs", "sriov_numvfs"))
    if total is None or total < 0:
        return None
    return Sriov(total, None if now is None or now < 0 else now, None)


def _read_port(host: Host, directory: str, port: int) -> InfinibandPort:
    state = _STATE.fullmatch((host.read_text(f"{directory}/state", 4096) or "").strip())
    layer = (host.read_text(f"{directory}/link_layer", 4096) or "").strip()
    rate = _RATE.match(host.read_text(f"{directory}/rate", 4096) or "")
    return InfinibandPort(
        port=port,
        state=state[1].lower() if state else None,
        link_layer=layer if layer in _LINK_LAYERS else None,
        rate_gbps=float(rate[1]) if rate else None,
    )


def _devices_in(host: Host, directory: str) -> t.Iterator[tuple[str, str | None]]:
    """Yield the devices of a class, by name, and where their links lead; a captured tree can hold directories instead.

    The kernel gives its links the names of what they lead to; others are not its own.
    """
    for name in sorted(host.list_dir(directory) or (), key=_natural):
        link = host.readlink(f"{directory}/{name}")
        if link is None or link.rstrip("/").endswith(f"/{name}"):
            yield name, link


def _place(host: Host, directory: str, link: str | None) -> str | None:
    """Return where a device of a class is; ``None`` for one without hardware."""
    place = link or host.readlink(f"{directory}/device")
    if place is None:
        return "" if host.exists(f"{directory}/device") else None
    return None if "/devices/virtual/" in place else place


def _pci_address_in(place: str) -> str | None:
    """Return the PCI function that a device lies below; ``None`` for one on USB: the controller is not its own."""
    for part in reversed(place.split("/")):
        address = normalised_pci_address(part)
        if address is not None:
            return address
        if re.fullmatch("usb[0-9]+", part):
            return None
    return None


def _is_representor(host: Host, name: str, on_the_same_function: int) -> bool:
    """Whether an interface stands for a port of its NIC's switch; then it shares the device with the NIC itself."""
    if on_the_same_function < 2:
        return False
    return _REPRESENTOR.fullmatch((host.read_text(f"{_NET}/{name}/phys_port_name", 4096) or "").strip()) is not None


def _text_in(host: Host, path: str) -> str | None:
    text = (host.read_text(path, 4096) or "").strip()
    return text if text and len(text) <= _MODEL_LIMIT and text.isprintable() else None


def _is_name(name: str, limit: int) -> bool:
    return len(name) <= limit and name.isprintable()


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort eth10 after eth2."""
    return tuple(
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.findall("[0-9]+|[^0-9]+", name)
    )
