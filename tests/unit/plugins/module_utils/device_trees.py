# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PCI devices and what drivers make of them, laid out below a root as the kernel lays them out in /sys.

Places are given below /sys/devices (``pci0000:40/0000:40:01.1/0000:41:00.0``), so that a test says which bridges lie
above a device; buses and classes hold links to them.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path

BRIDGE = "0x060400"
GPU = "0x030200"
ETHERNET = "0x020000"
NVME = "0x010802"
INFINIBAND = "0x020700"

# A switch below one root port of node 0 with a GPU, a NIC of two functions, and a second switch; another root port;
# more host bridges: one on node 0, one on node 1, and one whose node nobody knows.
UPSTREAM = "pci0000:40/0000:40:01.1/0000:41:00.0"
SERVER = {
    f"{UPSTREAM}/0000:42:00.0/0000:43:00.0": (GPU, 0),
    f"{UPSTREAM}/0000:42:01.0/0000:44:00.0": (ETHERNET, 0),
    f"{UPSTREAM}/0000:42:01.0/0000:44:00.1": (ETHERNET, 0),
    f"{UPSTREAM}/0000:42:02.0/0000:45:00.0/0000:46:00.0/0000:47:00.0": (NVME, 0),
    "pci0000:40/0000:40:03.1/0000:48:00.0": (ETHERNET, 0),
    "pci0000:60/0000:60:01.1/0000:61:00.0": (INFINIBAND, 0),
    "pci0000:c0/0000:c0:01.1/0000:c1:00.0": (ETHERNET, 1),
    "pci0000:e0/0000:e0:01.1/0000:e1:00.0": (ETHERNET, -1),
}


def add_pci(
    root: Path,
    place: str,
    *,
    pci_class: str = ETHERNET,
    vendor: str = "0x15b3",
    numa_node: int | None = 0,
    driver: str | None = "mlx5_core",
    irqs: t.Sequence[int] = (),
    files: t.Mapping[str, str] | None = None,
) -> None:
    """Add one device; ``numa_node`` ``None`` leaves the file out, as old kernels do. ``irqs`` are MSI vectors."""
    address = place.rpartition("/")[2]
    directory = root / "sys/devices" / place
    texts = {"class": pci_class, "vendor": vendor, "device": "0x1021", "irq": "0", **(files or {})}
    if numa_node is not None:
        texts["numa_node"] = str(numa_node)
    for name, text in texts.items():
        trees.write(directory / name, f"{text}\n")
    for irq in irqs:
        trees.write(directory / f"msi_irqs/{irq}", "msix\n")
    if driver:
        add_driver(directory, f"pci/drivers/{driver}")
    link(root / f"sys/bus/pci/devices/{address}", directory)


def add_server(root: Path) -> None:
    """Add the devices of ``SERVER``."""
    for place, (pci_class, numa_node) in SERVER.items():
        add_pci(root, place, pci_class=pci_class, numa_node=numa_node)


def add_class_device(root: Path, kind: str, place: str, name: str, files: t.Mapping[str, str] | None = None) -> Path:
    """Add what a driver shows in /sys/class/``kind`` for the device at ``place``, and return its directory."""
    directory = root / "sys/devices" / place / kind / name
    for path, text in (files or {}).items():
        trees.write(directory / path, f"{text}\n")
    directory.mkdir(parents=True, exist_ok=True)
    link(directory / "device", root / "sys/devices" / place)
    link(root / "sys/class" / kind / name, directory)
    return directory


def add_driver(directory: Path, driver: str) -> None:
    """Bind a driver (``virtio/drivers/virtio_net``) to the device in a directory."""
    (directory / "driver").symlink_to(f"/sys/bus/{driver}")


def link(path: Path, target: Path) -> None:
    """Make a relative link, as sysfs does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))
