# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PCI devices: where they are, who drives them, and how two of them reach one another."""

from __future__ import annotations

import os
import shutil
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._pci import (
    PciDevice,
    PciTree,
    normalised_pci_address,
)
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import device_trees, trees

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def tree(root: Path, add: Callable[[Path], None], machine: trees.Machine | None = None) -> PciTree:
    """Return the tree of a machine (two nodes: 0-3 and 4-7) with the devices that ``add`` adds."""
    trees.lay_out(root, machine or trees.two_sockets())
    add(root)
    host = Host(str(root))
    return PciTree(host, read_topology(host).nodes)


def one(place: str, **described: t.Any) -> Callable[[Path], None]:
    return lambda root: device_trees.add_pci(root, place, **described)


def any_class(_pci_class: int) -> bool:
    return True


def test_a_device(tmp_path: Path) -> None:
    place = "pci0000:40/0000:40:01.1/0000:41:00.0"
    pci = tree(tmp_path, one(place, numa_node=1, irqs=(130, 99, 131)))
    assert pci.device("00000000:41:00.0") == PciDevice(
        address="0000:41:00.0",
        pci_class=0x020000,
        vendor=0x15B3,
        device=0x1021,
        node=1,
        driver="mlx5_core",
        path=("pci0000:40", "0000:40:01.1"),
    )
    assert pci.irqs("0000:41:00.0") == (99, 130, 131)
    assert pci.physical_function("0000:41:00.0") is None
    assert pci.warnings == []


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    pci = tree(tmp_path, device_trees.add_server)
    assert pci.device("0000:99:00.0") is None
    assert pci.device("eth0") is None
    assert pci.irqs("0000:99:00.0") == ()
    assert pci.node("0000:99:00.0") is None
    assert pci.physical_function("0000:99:00.0") is None
    assert pci.path_kind("0000:43:00.0", "0000:99:00.0") is None


def test_a_machine_without_pci(tmp_path: Path) -> None:
    pci = tree(tmp_path, lambda root: shutil.rmtree(root / "sys/bus"))
    assert pci.devices(any_class) == []
    assert pci.device("0000:41:00.0") is None


def test_devices_of_a_class(tmp_path: Path) -> None:
    pci = tree(tmp_path, device_trees.add_server)
    found = pci.devices(lambda pci_class: pci_class >> 16 == 0x02)
    assert [device.address for device in found] == [
        "0000:44:00.0",
        "0000:44:00.1",
        "0000:48:00.0",
        "0000:61:00.0",
        "0000:c1:00.0",
        "0000:e1:00.0",
    ]
    assert [device.node for device in found] == [0, 0, 0, 0, 1, None]


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    read: list[str] = []

    class Watched(Host):
        def read_text(self, path: str, limit_bytes: int = 4096) -> str | None:
            read.append(path)
            return super().read_text(path, limit_bytes)

    trees.lay_out(tmp_path, trees.two_sockets())
    device_trees.add_server(tmp_path)
    pci = PciTree(Watched(str(tmp_path)), read_topology(Host(str(tmp_path))).nodes)
    assert [d.address for d in pci.devices(lambda pci_class: pci_class >> 8 == 0x0302)] == ["0000:43:00.0"]
    others = [path for path in read if "/0000:43:00.0/" not in path]
    assert sorted(path.rpartition("/")[2] for path in others) == ["class"] * (len(device_trees.SERVER) - 1)
    count = len(read)
    pci.devices(lambda pci_class: pci_class >> 8 == 0x0302)
    assert len(read) == count


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("43:00.0", "44:00.0", "PIX"),  # two downstream ports of one switch
        ("44:00.0", "44:00.1", "PIX"),  # two functions of one device
        ("43:00.0", "47:00.0", "PXB"),  # through a second switch below the first
        ("43:00.0", "48:00.0", "PHB"),  # two root ports of one host bridge
        ("43:00.0", "61:00.0", "NODE"),
        ("43:00.0", "c1:00.0", "SYS"),
        ("43:00.0", "e1:00.0", None),
    ],
)
def test_paths(tmp_path: Path, first: str, second: str, expected: str | None) -> None:
    pci = tree(tmp_path, device_trees.add_server)
    assert pci.path_kind(f"0000:{first}", f"0000:{second}") == expected
    assert pci.path_kind(f"0000:{second}", f"0000:{first}") == expected


def test_paths_with_nodes_of_a_better_source(tmp_path: Path) -> None:
    pci = tree(tmp_path, device_trees.add_server)
    gpu, other, near = "0000:43:00.0", "0000:e1:00.0", "0000:44:00.0"
    assert pci.path_kind(gpu, other, second_node=0) == "NODE"
    assert pci.path_kind(other, gpu, first_node=1) == "SYS"
    # What hangs on one switch stays there, whatever is said about its node.
    assert pci.path_kind(gpu, near, first_node=1) == "PIX"


def test_on_a_machine_of_one_node_no_node_needs_to_be_known(tmp_path: Path) -> None:
    def add(root: Path) -> None:
        device_trees.add_pci(root, "pci0000:40/0000:40:01.0/0000:41:00.0", numa_node=-1)
        device_trees.add_pci(root, "pci0000:80/0000:80:01.0/0000:81:00.0", numa_node=-1)

    pci = tree(tmp_path, add, trees.no_numa())
    assert pci.path_kind("0000:41:00.0", "0000:81:00.0") == "NODE"


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("pci0000:00/0000:00:03.0", ("pci0000:00",)),
        # Arm: the host bridge is a platform device.
        (
            "platform/40000000.pcie/pci0003:00/0003:00:00.0/0003:01:00.0",
            ("pci0003:00", "0003:00:00.0"),
        ),
        # Hyper-V: every device that is passed through has a PCI domain of its own.
        (
            "LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:01/47505500-0001-0000-3130-444531334632/pci1a2b:00/1a2b:00:00.0",
            ("pci1a2b:00",),
        ),
        # Intel VMD: a host bridge below a PCI device, with a domain above 16 bits.
        (
            "pci0000:80/0000:80:05.5/pci10000:e0/10000:e0:02.0/10000:e1:00.0",
            ("pci0000:80", "0000:80:05.5", "pci10000:e0", "10000:e0:02.0"),
        ),
    ],
)
def test_host_bridges_of_all_kinds(tmp_path: Path, place: str, path: tuple[str, ...]) -> None:
    pci = tree(tmp_path, one(place))
    (device,) = pci.devices(any_class)
    assert (device.address, device.path) == (place.rpartition("/")[2], path)


def test_devices_behind_vmd_meet_at_host_bridges(tmp_path: Path) -> None:
    def add(root: Path) -> None:
        for place in (
            "80:05.5/pci10000:e0/10000:e0:02.0/10000:e1:00.0",
            "80:05.5/pci10000:e0/10000:e0:03.0/10000:e2:00.0",
        ):
            device_trees.add_pci(root, f"pci0000:80/0000:{place}", pci_class=device_trees.NVME)
        device_trees.add_pci(root, "pci0000:80/0000:80:01.0/0000:81:00.0", pci_class=device_trees.GPU)

    pci = tree(tmp_path, add)
    assert pci.path_kind("10000:e1:00.0", "10000:e2:00.0") == "PHB"
    assert pci.path_kind("10000:e1:00.0", "0000:81:00.0") == "PHB"


def test_directories_in_place_of_links(tmp_path: Path) -> None:
    def add(root: Path) -> None:
        for bus, node in (("41", 0), ("42", 0), ("81", 1)):
            for name, text in (("class", device_trees.GPU), ("numa_node", str(node))):
                trees.write(root / f"sys/bus/pci/devices/0000:{bus}:00.0/{name}", f"{text}\n")

    pci = tree(tmp_path, add)
    assert [(d.node, d.path, d.driver, d.vendor) for d in pci.devices(any_class)] == [
        (0, (), None, None),
        (0, (), None, None),
        (1, (), None, None),
    ]
    # Anything from one switch to two host bridges; but not the same node.
    assert pci.path_kind("0000:41:00.0", "0000:42:00.0") is None
    assert pci.path_kind("0000:41:00.0", "0000:81:00.0") == "SYS"


def test_a_slash_at_the_end_of_a_link(tmp_path: Path) -> None:
    # As hwloc's tree 2pa-pcidomain32bits has it.
    pci = tree(tmp_path, one("pci10000:00/10000:00:04.0"))
    link = tmp_path / "sys/bus/pci/devices/10000:00:04.0"
    target = os.readlink(link)
    link.unlink()
    link.symlink_to(f"{target}/")
    assert [device.path for device in pci.devices(any_class)] == [("pci10000:00",)]


@pytest.mark.parametrize(
    "target", ["", "/", "nowhere", "../../../devices/0000:41:00.0", "../pci0000:40/0000:42:00.0", "."]
)
def test_links_that_lead_elsewhere(tmp_path: Path, target: str) -> None:
    def add(root: Path) -> None:
        path = root / "sys/bus/pci/devices/0000:41:00.0"
        if target:
            path.symlink_to(target)
        else:
            path.symlink_to("0000:41:00.0")

    pci = tree(tmp_path, add)
    device = pci.device("0000:41:00.0")
    assert device is not None
    assert (device.path, device.node, device.pci_class) == ((), None, 0)
    assert pci.irqs("0000:41:00.0") == ()


@pytest.mark.parametrize(
    ("numa_node", "files", "expected"),
    [
        (1, {"local_cpulist": "0-3"}, 1),
        (-1, {"local_cpulist": "0-3"}, None),
        # No numa_node file: the CPUs near the device are those of one node, or of none.
        (None, {"local_cpulist": "4-7"}, 1),
        (None, {"local_cpulist": "4-127"}, 1),
        (None, {"local_cpulist": "0-7"}, None),
        (None, {"local_cpulist": "4-6"}, None),
        (None, {"local_cpulist": ""}, None),
        (None, {"local_cpulist": "4-x"}, None),
        (None, {"local_cpulist": "broken", "local_cpus": "0f"}, 0),
        (None, {"local_cpus": "00000000,000000f0"}, 1),
        (None, {}, None),
    ],
)
def test_nodes(tmp_path: Path, numa_node: int | None, files: dict[str, str], expected: int | None) -> None:
    pci = tree(tmp_path, one("pci0000:40/0000:41:00.0", numa_node=numa_node, files=files))
    device = pci.device("0000:41:00.0")
    assert device is not None
    assert device.node == expected
    assert pci.node("0000:41:00.0") == expected
    assert pci.warnings == []


def test_nodes_that_are_not_online(tmp_path: Path) -> None:
    def add(root: Path) -> None:
        device_trees.add_pci(root, "pci0000:80/0000:81:00.0", numa_node=2)
        for function in range(6):
            device_trees.add_pci(root, f"pci0000:40/0000:41:00.{function}", numa_node=7)

    pci = tree(tmp_path, add)
    assert pci.warnings == []
    assert {device.node for device in pci.devices(any_class)} == {None}
    assert pci.node("0000:81:00.0") is None
    assert pci.warnings == [
        "sysfs puts the PCI device 0000:81:00.0 on node 2, which is not online (online: 0, 1): that is left out",
        (
            "sysfs puts the PCI devices 0000:41:00.0, 0000:41:00.1, 0000:41:00.2, 0000:41:00.3 and 2 more on node 7,"
            " which is not online (online: 0, 1): that is left out"
        ),
    ]


@pytest.mark.parametrize(
    ("irqs", "pin", "expected"),
    [
        ((), "16", (16,)),
        ((), "0", ()),
        ((), "-1", ()),
        ((), "x", ()),
        ((24, 25), "16", (24, 25)),
        (range(1000, 5096), "0", tuple(range(1000, 5096))),
    ],
)
def test_interrupts(tmp_path: Path, irqs: t.Sequence[int], pin: str, expected: tuple[int, ...]) -> None:
    pci = tree(tmp_path, one("pci0000:40/0000:41:00.0", irqs=irqs, files={"irq": pin}))
    assert pci.irqs("0000:41:00.0") == expected


def test_an_empty_vector_directory_is_a_device_without_msi(tmp_path: Path) -> None:
    pci = tree(tmp_path, one("pci0000:40/0000:41:00.0", files={"irq": "16"}))
    (tmp_path / "sys/bus/pci/devices/0000:41:00.0/msi_irqs").mkdir()
    assert pci.irqs("0000:41:00.0") == (16,)


def test_physical_function(tmp_path: Path) -> None:
    pci = tree(tmp_path, device_trees.add_server)
    (tmp_path / "sys/bus/pci/devices/0000:44:00.1/physfn").symlink_to("../0000:44:00.0")
    (tmp_path / "sys/bus/pci/devices/0000:48:00.0/physfn").symlink_to("nonsense")
    assert pci.physical_function("0000:44:00.1") == "0000:44:00.0"
    assert pci.physical_function("0000:48:00.0") is None


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe\n", b"0x030200 0x030200\n", b"-0x1\n", b"0x_3\n", b"9" * 5000])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    pci = tree(tmp_path, one("pci0000:40/0000:41:00.0"))
    directory = tmp_path / "sys/bus/pci/devices/0000:41:00.0"
    for name in ("class", "vendor", "device", "numa_node", "irq"):
        (directory / name).write_bytes(content)
    (directory / "driver").unlink()
    (directory / "driver").symlink_to(b"drivers/\xff\n")
    assert pci.devices(any_class) == []
    assert pci.device("0000:41:00.0") == PciDevice("0000:41:00.0", 0, None, None, None, None, ("pci0000:40",))
    assert pci.irqs("0000:41:00.0") == ()


def test_names_that_are_no_addresses_are_passed_over(tmp_path: Path) -> None:
    def add(root: Path) -> None:
        for name in (b"\xff:00:00.0", b"0000:41:00", b"0000:41:00.9", b"..data"):
            (root / "sys/bus/pci/devices" / name.decode("utf-8", "surrogateescape")).mkdir()

    assert tree(tmp_path, add).devices(any_class) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:17:00.0", "0000:17:00.0"),
        ("0000:AB:1F.7\n", "0000:ab:1f.7"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("17:00.0", None),
        ("0000:17:00.8", None),
        ("", None),
    ],
)
def test_normalised_pci_address(text: str, address: str | None) -> None:
    assert normalised_pci_address(text) == address


def test_the_running_machine() -> None:
    """What is read equals what the kernel's own links and files say, read without our code."""
    bus = "/sys/bus/pci/devices"
    if not os.path.isdir(bus) or not os.listdir(bus):
        pytest.skip("no PCI bus here")
    host = Host("/")
    pci = PciTree(host, read_topology(host).nodes)
    found = {device.address: device for device in pci.devices(any_class)}
    assert sorted(found) == sorted(os.listdir(bus))
    for address, device in found.items():
        above = os.path.realpath(f"{bus}/{address}").split("/")[:-1]
        assert device.path == tuple(above[-len(device.path) :])
        assert device.path[0].startswith("pci")
        vectors = f"{bus}/{address}/msi_irqs"
        if os.path.isdir(vectors) and os.listdir(vectors):
            assert pci.irqs(address) == tuple(sorted(int(name) for name in os.listdir(vectors)))
