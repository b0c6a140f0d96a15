# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines with interrupts, laid out as the kernel shows them, and a host that refuses to write as kernels do."""

from __future__ import annotations

import errno
import os
import typing as t
from dataclasses import replace

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import device_trees, trees

if t.TYPE_CHECKING:
    from pathlib import Path

ETH0, ETH1, NVME0, GPU0 = "0000:41:00.0", "0000:c1:00.0", "0000:c2:00.0", "0000:42:00.0"
GPU0_UUID = "GPU-00000000-0000-4000-8000-000000000000"
VECTORS = {ETH0: (30, 31, 32), ETH1: (40, 41), NVME0: (50, 51), GPU0: (60,)}
SERIAL = 4


def lay_out(root: Path, machine: trees.Machine | None = None, everywhere: str = "0-7") -> Path:
    """Two sockets without SMT, CPUs 0-3 and 4-7: eth0 and a GPU on node 0, eth1 and an NVMe disk on node 1.

    ``everywhere`` is every vector's request; ttyS0 has an interrupt without a PCI device.
    """
    trees.lay_out(root, machine or trees.two_sockets())
    eth0, eth1 = f"pci0000:40/0000:40:01.1/{ETH0}", f"pci0000:c0/0000:c0:01.1/{ETH1}"
    device_trees.add_pci(root, eth0, irqs=VECTORS[ETH0])
    device_trees.add_class_device(root, "net", eth0, "eth0", queues(2))
    device_trees.add_class_device(root, "infiniband", eth0, "mlx5_0", {"ports/1/state": "4: ACTIVE"})
    device_trees.add_pci(root, eth1, numa_node=1, irqs=VECTORS[ETH1])
    device_trees.add_class_device(root, "net", eth1, "eth1", queues(1))
    nvme = f"pci0000:c0/0000:c0:02.1/{NVME0}"
    device_trees.add_pci(root, nvme, pci_class=device_trees.NVME, numa_node=1, driver="nvme", irqs=VECTORS[NVME0])
    device_trees.add_class_device(root, "nvme", nvme, "nvme0", {"model": "disk"})
    gpu = f"pci0000:40/0000:40:02.1/{GPU0}"
    device_trees.add_pci(root, gpu, pci_class=device_trees.GPU, vendor="0x10de", driver="nvidia", irqs=VECTORS[GPU0])
    trees.write(root / f"proc/driver/nvidia/gpus/{GPU0}/information", f"Model: \t GPU\nGPU UUID: \t {GPU0_UUID}\n")
    for address, numbers in VECTORS.items():
        for place, number in enumerate(numbers):
            add_vector(root, number, f"{address}-{place}", everywhere)
    add_vector(root, SERIAL, "ttyS0", everywhere)
    trees.write(root / "proc/irq/default_smp_affinity", "ff\n")
    return root


def queues(count: int) -> dict[str, str]:
    """The queues of a network interface, without any mask."""
    files = {f"queues/tx-{number}/xps_cpus": "00" for number in range(count)}
    return {**files, **{f"queues/rx-{number}/rps_cpus": "00" for number in range(count)}}


def add_vector(root: Path, number: int, name: str, request: str, effective: str = "0") -> None:
    """Add one interrupt with an action of this name."""
    trees.write(root / f"proc/irq/{number}/smp_affinity_list", f"{request}\n")
    trees.write(root / f"proc/irq/{number}/effective_affinity_list", f"{effective}\n")
    trees.write(root / f"sys/kernel/irq/{number}/actions", f"{name}\n")


def request(root: Path, number: int) -> str:
    """What is requested for an interrupt now."""
    return (root / f"proc/irq/{number}/smp_affinity_list").read_text(encoding="utf-8").strip()


def smt(root: Path) -> Path:
    """One node of two cores with two threads, CPUs 0,2 and 1,3; a NIC with five vectors."""
    machine = replace(
        trees.two_sockets(),
        online="0-3",
        present="0-3",
        cpus={n: trees.CpuSpec(0, n % 2, f"{n % 2},{n % 2 + 2}", "0-3") for n in range(4)},
        nodes={0: trees.NodeSpec("0-3", 1024, "10")},
        online_nodes="0",
    )
    trees.lay_out(root, machine)
    place = f"pci0000:40/0000:40:01.1/{ETH0}"
    device_trees.add_pci(root, place, irqs=range(30, 35))
    device_trees.add_class_device(root, "net", place, "eth0", {})
    for number in range(30, 35):
        add_vector(root, number, f"eth0-{number}", "0-3")
    return root


class Kernel(Host):
    """A tree whose files answer as a kernel's: the effective CPU follows, and some writes are refused.

    ``refusals``: path or number of an interrupt -> errors, one for each try; the last one stays. A callable is asked
    with what is written and returns an error or 0.
    """

    def __init__(self, root: Path, refusals: t.Mapping[int, list[int] | t.Callable[[str], int]] | None = None) -> None:
        super().__init__(str(root))
        self.refusals = refusals or {}
        self.writes: list[tuple[str, str]] = []

    def write_text(self, path: str, text: str) -> None:
        self.writes.append((path, text))
        parts = path.split("/")
        number = int(parts[3]) if path.startswith("/proc/irq/") and parts[3].isdecimal() else 0
        refusal = self.refusals.get(number)
        fault = 0
        if callable(refusal):
            fault = refusal(text)
        elif refusal:
            fault = refusal.pop(0) if len(refusal) > 1 else refusal[0]
        if fault:
            raise OSError(fault, os.strerror(fault), path)
        super().write_text(path, text)
        if number:
            first = text.replace("-", ",").partition(",")[0]
            super().write_text(f"/proc/irq/{number}/effective_affinity_list", first)


def name(fault: int) -> str:
    """EIO for 5."""
    return errno.errorcode[fault]
