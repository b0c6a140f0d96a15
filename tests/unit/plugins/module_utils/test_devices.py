# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NICs, NVMe controllers and InfiniBand devices, and which of them are close to which GPU."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._devices import (
    Infiniband,
    InfinibandPort,
    Nic,
    Nvme,
    Sriov,
    read_infiniband,
    read_nics,
    read_nvme,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_nics import GpuNicPair, pair_gpus_with_nics
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import device_trees, trees

if t.TYPE_CHECKING:
    from pathlib import Path

PORT = "pci0000:40/0000:40:01.1"
UP = {"operstate": "up", "carrier": "1", "speed": "100000"}


@dataclass(frozen=True)
class PlacedGpu:
    pci_address: str
    node: int | None
    uuid: str | None = None


class CountingHost(Host):
    """Counts the questions that cost system calls."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.paths: list[str] = []

    def read_text(self, path: str, limit_bytes: int = 4096) -> str | None:
        self.paths.append(path)
        return super().read_text(path, limit_bytes)

    def list_dir(self, path: str) -> list[str] | None:
        self.paths.append(path)
        return super().list_dir(path)

    def readlink(self, path: str) -> str | None:
        self.paths.append(path)
        return super().readlink(path)

    def exists(self, path: str) -> bool:
        self.paths.append(path)
        return super().exists(path)


@pytest.fixture(name="root")
def laid_out_root(tmp_path: Path) -> Path:
    return trees.lay_out(tmp_path, trees.two_sockets())


def opened(root: Path) -> tuple[CountingHost, PciTree]:
    host = CountingHost(str(root))
    return host, PciTree(host, read_topology(Host(str(root))).nodes)


def nics_of(root: Path) -> tuple[Nic, ...]:
    return read_nics(*opened(root))


def add_nic(root: Path, place: str, name: str, files: t.Mapping[str, str] | None = None, **described: t.Any) -> None:
    device_trees.add_pci(root, place, **described)
    device_trees.add_class_device(root, "net", place, name, UP if files is None else files)


# NICs


def test_a_nic(root: Path) -> None:
    files = {"sriov_totalvfs": "8", "sriov_numvfs": "2"}
    add_nic(root, f"{PORT}/0000:41:00.0", "ens1", numa_node=1, irqs=(120, 121), files=UP)
    for name, text in files.items():
        trees.write(root / f"sys/devices/{PORT}/0000:41:00.0/{name}", f"{text}\n")
    assert nics_of(root) == (
        Nic(
            name="ens1",
            pci_address="0000:41:00.0",
            driver="mlx5_core",
            node=1,
            speed_mbps=100000,
            link="up",
            sriov=Sriov(total_vfs=8, vfs=2, physical_function=None),
            irqs=(120, 121),
        ),
    )


def test_a_virtio_nic(root: Path) -> None:
    function = "pci0000:00/0000:00:03.0"
    device_trees.add_pci(root, function, numa_node=-1, driver="virtio-pci", irqs=(37, 38, 39))
    device_trees.add_class_device(root, "net", f"{function}/virtio2", "eth0", {"carrier": "1", "speed": "-1"})
    device_trees.add_driver(root / "sys/devices" / function / "virtio2", "virtio/drivers/virtio_net")
    assert nics_of(root) == (Nic("eth0", "0000:00:03.0", "virtio_net", None, None, "up", None, (37, 38, 39)),)


def test_interfaces_without_hardware_are_none(root: Path) -> None:
    add_nic(root, f"{PORT}/0000:41:00.0", "ens1")
    for name in ("lo", "bond0", "docker0"):
        trees.write(root / f"sys/devices/virtual/net/{name}/operstate", "up\n")
        device_trees.link(root / f"sys/class/net/{name}", root / f"sys/devices/virtual/net/{name}")
    # A file that the bonding driver keeps there.
    trees.write(root / "sys/class/net/bonding_masters", "bond0\n")
    assert [nic.name for nic in nics_of(root)] == ["ens1"]


def test_nics_on_other_buses(root: Path) -> None:
    controller = "pci0000:00/0000:00:14.0"
    device_trees.add_pci(root, controller, pci_class="0x0c0330", driver="xhci_hcd", irqs=(40,))
    device_trees.add_class_device(root, "net", f"{controller}/usb1/1-2/1-2:1.0", "usb0", UP)
    device_trees.add_driver(root / "sys/devices" / controller / "usb1/1-2/1-2:1.0", "usb/drivers/cdc_ether")
    synthetic = "LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:01/f8615163-df3e-46c5-913f-f2d2f965ed0e"
    device_trees.add_class_device(root, "net", synthetic, "eth0", {"carrier": "1", "speed": "50000"})
    assert nics_of(root) == (
        Nic("eth0", None, None, None, 50000, "up", None, ()),
        # The vectors of the USB controller are not the NIC's own.
        Nic("usb0", None, "cdc_ether", None, 100000, "up", None, ()),
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (UP, (100000, "up")),
        ({"carrier": "0", "operstate": "down", "speed": "-1"}, (None, "down")),
        # Switched off: the kernel refuses speed and carrier with EINVAL.
        ({"operstate": "down"}, (None, "down")),
        ({"operstate": "lowerlayerdown"}, (None, "down")),
        # Drivers that report no state; authentication that is still to come.
        ({"operstate": "unknown", "carrier": "1", "speed": "1000"}, (1000, "up")),
        ({"operstate": "dormant", "carrier": "1"}, (None, "up")),
        ({"operstate": "unknown"}, (None, None)),
        ({}, (None, None)),
        ({"carrier": "x", "operstate": "\0\1", "speed": "fast"}, (None, None)),
        ({"carrier": "1", "speed": "4294967295"}, (None, "up")),
        ({"carrier": "1", "speed": "0"}, (None, "up")),
        ({"carrier": "1", "speed": "-1024"}, (None, "up")),
    ],
)
def test_speed_and_link(root: Path, files: dict[str, str], expected: tuple[int | None, str | None]) -> None:
    add_nic(root, f"{PORT}/0000:41:00.0", "ens1", files)
    (nic,) = nics_of(root)
    assert (nic.speed_mbps, nic.link) == expected


@pytest.mark.parametrize(
    ("total", "now", "expected"), [("-1", "0", None), ("4", "-1", Sriov(4, None, None)), ("4", "2", Sriov(4, 2, None))]
)
def test_fewer_than_no_virtual_functions_are_unknown(root: Path, total: str, now: str, expected: Sriov | None) -> None:
    add_nic(root, f"{PORT}/0000:41:00.0", "ens1")
    trees.write(root / f"sys/devices/{PORT}/0000:41:00.0/sriov_totalvfs", total)
    trees.write(root / f"sys/devices/{PORT}/0000:41:00.0/sriov_numvfs", now)
    assert [nic.sriov for nic in nics_of(root)] == [expected]


def test_virtual_functions(root: Path) -> None:
    add_nic(root, f"{PORT}/0000:41:00.0", "ens1")
    trees.write(root / f"sys/devices/{PORT}/0000:41:00.0/sriov_totalvfs", "4\n")
    add_nic(root, f"{PORT}/0000:41:00.2", "ens1v0")
    (root / f"sys/devices/{PORT}/0000:41:00.2/physfn").symlink_to("../0000:41:00.0")
    assert [nic.sriov for nic in nics_of(root)] == [Sriov(4, None, None), Sriov(None, None, "0000:41:00.0")]


def test_ports_of_the_nics_own_switch_are_no_nics(root: Path) -> None:
    function = f"{PORT}/0000:41:00.0"
    add_nic(root, function, "ens1", {**UP, "phys_port_name": "p0"})
    for index, port in enumerate(("pf0vf0", "c1pf0vf1", "pf0sf88", "pf0")):
        device_trees.add_class_device(root, "net", function, f"rep{index}", {**UP, "phys_port_name": port})
    assert [nic.name for nic in nics_of(root)] == ["ens1"]
    device_trees.add_class_device(root, "infiniband", function, "mlx5_0")
    (device,) = read_infiniband(*opened(root))
    assert device.netdevs == ("ens1",)


def test_two_ports_of_one_function(root: Path) -> None:
    function = f"{PORT}/0000:41:00.0"
    add_nic(root, function, "ens1", irqs=(7,), driver="mlx4_core")
    device_trees.add_class_device(root, "net", function, "ens1d1", UP)
    assert [(nic.name, nic.irqs) for nic in nics_of(root)] == [("ens1", (7,)), ("ens1d1", (7,))]


def test_names_in_the_order_of_their_numbers(root: Path) -> None:
    for number in (10, 2, 1):
        add_nic(root, f"{PORT}/0000:41:00.{number % 8}" if number < 8 else f"{PORT}/0000:42:00.0", f"eth{number}")
    assert [nic.name for nic in nics_of(root)] == ["eth1", "eth2", "eth10"]


def test_directories_in_place_of_links(root: Path) -> None:
    device_trees.add_pci(root, f"{PORT}/0000:41:00.0", numa_node=1)
    (root / "sys/class/net/eth0").mkdir(parents=True)
    device_trees.link(root / "sys/class/net/eth0/device", root / f"sys/devices/{PORT}/0000:41:00.0")
    trees.write(root / "sys/class/net/eth1/device/uevent", "DRIVER=x\n")
    trees.write(root / "sys/class/net/eth2/operstate", "up\n")
    assert [(nic.name, nic.pci_address, nic.node) for nic in nics_of(root)] == [
        ("eth0", "0000:41:00.0", 1),
        ("eth1", None, None),
    ]


# NVMe


def test_nvme_controllers(root: Path) -> None:
    for number, (place, node) in enumerate(((f"{PORT}/0000:41:00.0", 0), ("pci0000:80/0000:81:00.0", 1))):
        device_trees.add_pci(
            root, place, pci_class=device_trees.NVME, numa_node=node, driver="nvme", irqs=(50 + number,)
        )
        name = f"nvme{number * 10}"
        device_trees.add_class_device(root, "nvme", place, name, {"model": "SAMSUNG MZQL23T8HCLS-00A07   "})
    # Reached over the network: no PCI device anywhere.
    trees.write(root / "sys/devices/virtual/nvme-fabrics/ctl/nvme2/transport", "tcp\n")
    trees.write(root / "sys/devices/virtual/nvme-fabrics/ctl/nvme2/model", "Linux\n")
    device_trees.link(root / "sys/class/nvme/nvme2", root / "sys/devices/virtual/nvme-fabrics/ctl/nvme2")
    # What is no controller.
    (root / "sys/class/nvme/nvme-subsys0").mkdir()
    model = "SAMSUNG MZQL23T8HCLS-00A07"
    assert read_nvme(*opened(root)) == (
        Nvme("nvme0", "0000:41:00.0", model, "nvme", 0, (50,)),
        Nvme("nvme2", None, "Linux", "nvme_tcp", None, ()),
        Nvme("nvme10", "0000:81:00.0", model, "nvme", 1, (51,)),
    )


def test_nvme_behind_vmd(root: Path) -> None:
    place = "pci0000:80/0000:80:05.5/pci10000:e0/10000:e0:02.0/10000:e1:00.0"
    device_trees.add_pci(root, place, pci_class=device_trees.NVME, driver="nvme", numa_node=1)
    device_trees.add_class_device(root, "nvme", place, "nvme0")
    assert read_nvme(*opened(root)) == (Nvme("nvme0", "10000:e1:00.0", None, "nvme", 1, ()),)


# InfiniBand


def add_rdma(root: Path, place: str, name: str, netdev: str | None = None, **port: str) -> None:
    device_trees.add_class_device(
        root, "infiniband", place, name, {f"ports/1/{file}": text for file, text in port.items()}
    )
    if netdev:
        device_trees.add_class_device(root, "net", place, netdev, UP)


def test_infiniband_devices(root: Path) -> None:
    device_trees.add_pci(root, f"{PORT}/0000:41:00.0", pci_class=device_trees.INFINIBAND, irqs=(60, 61), numa_node=1)
    port = {"state": "4: ACTIVE", "rate": "400 Gb/sec (4X NDR)", "link_layer": "InfiniBand"}
    add_rdma(root, f"{PORT}/0000:41:00.0", "mlx5_0", "ib0", **port)
    assert read_infiniband(*opened(root)) == (
        Infiniband(
            name="mlx5_0",
            pci_address="0000:41:00.0",
            driver="mlx5_core",
            node=1,
            netdevs=("ib0",),
            ports=(InfinibandPort(1, "active", "InfiniBand", 400.0),),
            physical_function=None,
            irqs=(60, 61),
        ),
    )


def test_a_virtual_function_of_an_infiniband_device(root: Path) -> None:
    for address in ("0000:41:00.0", "0000:41:00.1"):
        device_trees.add_pci(root, f"{PORT}/{address}", pci_class=device_trees.INFINIBAND)
        add_rdma(root, f"{PORT}/{address}", f"mlx5_{address[-1]}")
    device_trees.link(root / f"sys/devices/{PORT}/0000:41:00.1/physfn", root / f"sys/devices/{PORT}/0000:41:00.0")
    devices = read_infiniband(*opened(root))
    assert [(device.name, device.physical_function) for device in devices] == [
        ("mlx5_0", None),
        ("mlx5_1", "0000:41:00.0"),
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"state": "1: DOWN", "rate": "2.5 Gb/sec (1X SDR)", "link_layer": "Ethernet"}, ("down", "Ethernet", 2.5)),
        ({"state": "5: ACTIVE_DEFER", "rate": "800 Gb/sec (4X XDR)"}, ("active_defer", None, 800.0)),
        ({"state": "2: INIT", "rate": "100 Gb/sec", "link_layer": "Unspecified"}, ("init", "Unspecified", 100.0)),
        ({"state": "ACTIVE", "rate": "fast", "link_layer": "x"}, (None, None, None)),
        ({"state": "", "rate": "", "link_layer": ""}, (None, None, None)),
    ],
)
def test_infiniband_ports(root: Path, files: dict[str, str], expected: tuple[str | None, ...]) -> None:
    device_trees.add_pci(root, f"{PORT}/0000:41:00.0")
    add_rdma(root, f"{PORT}/0000:41:00.0", "mlx5_0", **files)
    ((port,),) = (device.ports for device in read_infiniband(*opened(root)))
    assert (port.port, port.state, port.link_layer, port.rate_gbps) == (1, *expected)


def test_rdma_in_software_is_no_device(root: Path) -> None:
    trees.write(root / "sys/devices/virtual/infiniband/rxe0/node_type", "1: CA\n")
    device_trees.link(root / "sys/class/infiniband/rxe0", root / "sys/devices/virtual/infiniband/rxe0")
    assert read_infiniband(*opened(root)) == ()


# All of them


def test_a_host_without_any(root: Path) -> None:
    host, pci = opened(root)
    assert (read_nics(host, pci), read_nvme(host, pci), read_infiniband(host, pci)) == ((), (), ())


def test_identities_are_not_read(root: Path) -> None:
    place = f"{PORT}/0000:41:00.0"
    secrets = {
        "address": "aa:bb:cc:dd:ee:ff",
        "phys_switch_id": "ee",
        "serial": "S1",
        "node_guid": "b8ce",
        "wwid": "eui",
    }
    device_trees.add_pci(root, place, files={"vpd": "SN", "config": ""})
    for kind, name in (("net", "eth0"), ("nvme", "nvme0"), ("infiniband", "mlx5_0")):
        device_trees.add_class_device(root, kind, place, name, secrets)
    host, pci = opened(root)
    assert [len(found) for found in (read_nics(host, pci), read_nvme(host, pci), read_infiniband(host, pci))] == [1] * 3
    names = {path.rpartition("/")[2] for path in host.paths}
    assert names.isdisjoint([*secrets, "vpd", "config", "sys_image_guid", "gids", "uevent", "subsysnqn"])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\n" * 10, b"A" * 70000, b"[]\n{}\n"])
def test_damaged_files(root: Path, content: bytes) -> None:
    place = f"{PORT}/0000:41:00.0"
    device_trees.add_pci(root, place)
    names = {
        "net": ("eth0", ["speed", "carrier", "operstate", "phys_port_name"]),
        "nvme": ("nvme0", ["model", "transport"]),
        "infiniband": ("mlx5_0", ["ports/1/state", "ports/1/rate", "ports/1/link_layer"]),
    }
    for kind, (name, files) in names.items():
        directory = device_trees.add_class_device(root, kind, place, name, dict.fromkeys(files, ""))
        for file in files:
            (directory / file).write_bytes(content)
    for file in ("sriov_totalvfs", "sriov_numvfs", "numa_node"):
        (root / "sys/devices" / place / file).write_bytes(content)
    host, pci = opened(root)
    assert read_nics(host, pci) == (Nic("eth0", "0000:41:00.0", "mlx5_core", None, None, None, None, ()),)
    (nvme,) = read_nvme(host, pci)
    assert nvme == Nvme("nvme0", "0000:41:00.0", None, "mlx5_core", None, ())
    (device,) = read_infiniband(host, pci)
    assert device.ports == (InfinibandPort(1, None, None, None),)


def test_damaged_directories(root: Path) -> None:
    for kind in ("net", "nvme", "infiniband"):
        directory = root / "sys/class" / kind
        directory.mkdir(parents=True)
        (directory / "nvme0").symlink_to("nvme0")
        (directory / "nvme1").symlink_to("../../../../../../../../nowhere/0000:99:00.0/net/nvme1")
        (directory / "nvme2").symlink_to("/")
        (directory / b"\xff".decode("utf-8", "surrogateescape")).symlink_to("../../devices/pci0000:40/0000:41:00.0")
        os.mkfifo(directory / "nvme3")
    host, pci = opened(root)
    nics, nvme, infiniband = read_nics(host, pci), read_nvme(host, pci), read_infiniband(host, pci)
    assert [(nic.name, nic.pci_address) for nic in nics] == [
        ("nvme1", "0000:99:00.0"),
    ]
    assert [(device.name, device.node, device.irqs) for device in nvme] == [(f"nvme{n}", None, ()) for n in (1, 3)]
    assert [device.ports for device in infiniband] == [()]


def test_links_that_the_kernel_does_not_make(root: Path) -> None:
    """One device under ten thousand names is one device."""
    add_nic(root, f"{PORT}/0000:41:00.0", "ens1")
    for number in range(10_000):
        (root / f"sys/class/net/e{number}").symlink_to(f"../../devices/{PORT}/0000:41:00.0/net/ens1")
    assert [nic.name for nic in read_nics(*opened(root))] == ["ens1"]


def test_hundreds_of_virtual_functions_and_thousands_of_vectors_are_cheap(root: Path) -> None:
    add_nic(root, f"{PORT}/0000:41:00.0", "ens1", irqs=range(1000, 5096))
    for number in range(96):
        place = f"{PORT}/0000:{66 + number // 32:02x}:{number // 8 % 4:02x}.{number % 8}"
        add_nic(root, place, f"ens1v{number}", irqs=(5100 + number,))
        (root / "sys/devices" / place / "physfn").symlink_to("../0000:41:00.0")
    host, pci = opened(root)
    nics = read_nics(host, pci)
    assert len(nics) == 97
    assert len(nics[0].irqs) == 4096
    # Where it is, speed, carrier, driver, node, physical function, vectors.
    assert len(host.paths) <= 7 * 97 + 4
    assert max(host.paths.count(path) for path in host.paths) == 1


# GPUs and what is near them


def pairs_of(root: Path, *gpus: PlacedGpu) -> tuple[GpuNicPair, ...]:
    host, pci = opened(root)
    return pair_gpus_with_nics(gpus, read_nics(host, pci), read_infiniband(host, pci), pci)


def add_networked_server(root: Path) -> None:
    """Give the NICs of ``device_trees.SERVER`` their interfaces: eth0 next to the GPU, eth3 on the other node."""
    device_trees.add_server(root)
    places = {place.rpartition("/")[2]: place for place in device_trees.SERVER}
    add_rdma(root, places["0000:44:00.0"], "mlx5_0", "eth0")
    add_rdma(root, places["0000:44:00.1"], "mlx5_1")
    add_rdma(root, places["0000:61:00.0"], "mlx5_2", "ib0")
    for bus, name in (("48", "eth2"), ("c1", "eth3"), ("e1", "eth4")):
        device_trees.add_class_device(root, "net", places[f"0000:{bus}:00.0"], name, UP)


def test_pairs(root: Path) -> None:
    add_networked_server(root)
    gpu = "0000:43:00.0"
    assert pairs_of(root, PlacedGpu(gpu, 0, "GPU-1")) == (
        GpuNicPair(gpu, "GPU-1", "eth0", "mlx5_0", "PIX"),
        GpuNicPair(gpu, "GPU-1", None, "mlx5_1", "PIX"),
        GpuNicPair(gpu, "GPU-1", "eth2", None, "PHB"),
        GpuNicPair(gpu, "GPU-1", "ib0", "mlx5_2", "NODE"),
    )


def test_an_override_of_the_gpus_node_counts(root: Path) -> None:
    add_networked_server(root)
    near = [(pair.nic, pair.path) for pair in pairs_of(root, PlacedGpu("0000:43:00.0", 1))]
    # What shares its host bridge stays; beyond that, its node is the one that was given.
    assert near == [("eth0", "PIX"), (None, "PIX"), ("eth2", "PHB"), ("eth3", "NODE")]


def test_gpus_whose_place_is_unknown(root: Path) -> None:
    add_networked_server(root)
    nowhere, elsewhere = "0000:99:00.0", "0000:9a:00.0"
    pairs = pairs_of(root, PlacedGpu(nowhere, None), PlacedGpu(elsewhere, 1))
    # Known to NVML and not to sysfs: on node 1, but nobody knows below which bridges.
    assert pairs == (GpuNicPair(elsewhere, None, "eth3", None, None),)


def test_virtual_functions_are_not_paired(root: Path) -> None:
    device_trees.add_server(root)
    switch = f"{device_trees.UPSTREAM}/0000:42:01.0"
    add_rdma(root, f"{switch}/0000:44:00.0", "mlx5_0", "eth0")
    for function in (2, 3):
        device_trees.add_pci(root, f"{switch}/0000:44:00.{function}")
        (root / f"sys/devices/{switch}/0000:44:00.{function}/physfn").symlink_to("../0000:44:00.0")
    add_rdma(root, f"{switch}/0000:44:00.2", "mlx5_2", "eth0v0")
    add_rdma(root, f"{switch}/0000:44:00.3", "mlx5_3")
    pairs = pairs_of(root, PlacedGpu("0000:43:00.0", 0))
    assert [(pair.nic, pair.infiniband) for pair in pairs] == [("eth0", "mlx5_0")]


def test_two_interfaces_of_one_rdma_device(root: Path) -> None:
    function = "pci0000:40/0000:40:03.1/0000:48:00.0"
    device_trees.add_server(root)
    add_rdma(root, function, "mlx4_0", "eth0")
    device_trees.add_class_device(root, "net", function, "eth1", UP)
    pairs = pairs_of(root, PlacedGpu("0000:43:00.0", 0))
    assert [(pair.nic, pair.infiniband, pair.path) for pair in pairs] == [
        ("eth0", "mlx4_0", "PHB"),
        ("eth1", "mlx4_0", "PHB"),
    ]


def test_the_running_machine() -> None:
    """Every interface with a ``device`` is a NIC, with the vectors its own directory shows."""
    host = Host("/")
    pci = PciTree(host, read_topology(host).nodes)
    nics = {nic.name: nic for nic in read_nics(host, pci)}
    for name in os.listdir("/sys/class/net"):
        directory = f"/sys/class/net/{name}/device"
        if not os.path.exists(directory):
            assert name not in nics
            continue
        function = os.path.realpath(directory)
        while function != "/" and not os.path.exists(f"{function}/class"):
            function = os.path.dirname(function)
        if function != "/":
            assert nics[name].pci_address == os.path.basename(function)
            vectors = f"{function}/msi_irqs"
            if os.path.isdir(vectors):
                assert nics[name].irqs == tuple(sorted(int(irq) for irq in os.listdir(vectors)))
    assert len(read_nvme(host, pci)) == len(os.listdir("/sys/class/nvme") if os.path.isdir("/sys/class/nvme") else [])
