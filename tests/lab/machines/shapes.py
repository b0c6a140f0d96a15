# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shapes of machines: sockets, nodes and devices as data, read from tests/lab/shapes/NAME.toml and checked whole."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import typing as t

import tomllib
from fleet.console import FleetError
from fleet.cpus import numbers

SHAPES = pathlib.Path(__file__).resolve().parents[1] / "shapes"
DEVICE_KINDS = ("network", "queues", "nvme", "torch", "gpu")
NETWORKS = ("network", "queues")
# torch is one with something on it.
DISKS = ("nvme", "torch")
# QEMU wants memory in whole pages of any size; the kernel wants its first node to hold it and the boot.
MEMORY_STEP_MIB = 64
LOCAL_DISTANCE = 10
LARGEST_DISTANCE = 254


@dataclasses.dataclass(frozen=True)
class Node:
    """One NUMA node: its CPUs (a cpulist, empty for memory only) and its memory."""

    cpus: str
    memory_mib: int


@dataclasses.dataclass(frozen=True)
class Device:
    """One PCI device and the node it hangs on; none is unknown.

    ``network``: virtio-net; ``queues``: a network card with a queue, and so a vector that can be moved, for each CPU
    (vmxnet3); ``nvme``: an empty disk; ``torch``: such a disk with torch (see torch_disk); ``gpu``: a spare device
    that sysfs and NVML call an NVIDIA GPU (see image/gpu), with its ``name`` and ``memory_mib``.

    A ``network`` with several queues hangs on a tap of this machine, which takes root; others need no rights.
    """

    kind: str
    node: int | None = None
    name: str = ""
    memory_mib: int = 0
    queues: int = 1


@dataclasses.dataclass(frozen=True)
class Shape:
    """A machine.

    cores: per socket; threads: per core; offline_cpus: a cpulist, taken offline while the machine boots; distances: a
    row per node, empty for the firmware that tells nothing of NUMA, which is right for one node only; kernel_options:
    added to the kernel command line. The first device is the network that carries SSH; the second network is the one
    between the machines of a fleet.
    """

    name: str
    reason: str
    sockets: int
    cores: int
    threads: int
    nodes: tuple[Node, ...]
    devices: tuple[Device, ...]
    distances: tuple[tuple[int, ...], ...] = ()
    offline_cpus: str = ""
    kernel_options: tuple[str, ...] = ()

    @property
    def cpu_count(self) -> int:
        """CPUs, those that go offline included."""
        return self.sockets * self.cores * self.threads

    @property
    def memory_mib(self) -> int:
        """Memory of all nodes."""
        return sum(node.memory_mib for node in self.nodes)


def names() -> list[str]:
    """The shapes there are."""
    return sorted(path.stem for path in SHAPES.glob("*.toml"))


def read(name: str) -> Shape:
    """Read and check one shape; raises ``FleetError`` for one that is not there or cannot be."""
    path = SHAPES / f"{name}.toml"
    if name not in names():
        raise FleetError(f"There is no shape {name!r}; there are: {', '.join(names())} (tests/lab/shapes).")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        nodes = tuple(Node(**node) for node in found.pop("nodes"))
        devices = tuple(Device(**device) for device in found.pop("devices"))
        distances = tuple(tuple(row) for row in found.pop("distances", []))
        options = tuple(found.pop("kernel_options", []))
        shape = Shape(name, nodes=nodes, devices=devices, distances=distances, kernel_options=options, **found)
        check(shape)
    except (KeyError, TypeError, ValueError) as error:  # tomllib's own error is a ValueError
        raise FleetError(f"{path}: {error}") from error
    return shape


def check(shape: Shape) -> None:
    """Raises ``ValueError`` for a machine that QEMU could not build or nobody could log in to."""
    claimed = [cpu for node in shape.nodes for cpu in numbers(node.cpus)]
    every = set(range(shape.cpu_count))
    offline = numbers(shape.offline_cpus)
    need(sorted(claimed) == sorted(every), f"the nodes have CPUs {claimed}, the sockets {sorted(every)}")
    need(offline <= every - {0}, f"offline_cpus is {shape.offline_cpus!r}; it may name CPUs 1 to {max(every)}")
    for node in shape.nodes:
        whole = node.memory_mib > 0 and node.memory_mib % MEMORY_STEP_MIB == 0
        need(whole, f"memory_mib is {node.memory_mib}; it must be a multiple of {MEMORY_STEP_MIB}")
    check_distances(shape)
    for device in shape.devices:
        need(device.kind in DEVICE_KINDS, f"a device is {device.kind!r}; it may be one of {', '.join(DEVICE_KINDS)}")
        known = device.node is None or (shape.distances and device.node in range(len(shape.nodes)))
        need(known, f"a device is on node {device.node}, which this machine does not have")
        described = re.fullmatch(r"[A-Za-z0-9 .-]+", device.name) and device.memory_mib > 0 and device.node is not None
        if device.kind == "gpu":
            need(described, "a GPU needs a node, a name of letters, digits, spaces, '.' and '-', and memory_mib")
        else:
            need(not device.name and not device.memory_mib, f"name and memory_mib are a GPU's, not a {device.kind}'s")
        several = device.queues == 1 or (device.kind == "network" and device is not shape.devices[0])
        need(several and 1 <= device.queues <= 8, f"queues is {device.queues}; a network but the first has 1 to 8")
    need(shape.devices[:1] and shape.devices[0].kind == "network", "the first device must be the network, for SSH")


def check_distances(shape: Shape) -> None:
    """The table is square and the kernel takes it (``slit_valid`` in drivers/acpi/numa/srat.c)."""
    count = len(shape.nodes)
    if not shape.distances:
        need(count == 1, f"{count} nodes need distances")
        return
    need([len(row) for row in shape.distances] == [count] * count, f"distances must be {count} rows of {count}")
    for here, row in enumerate(shape.distances):
        for there, distance in enumerate(row):
            right = distance == LOCAL_DISTANCE if here == there else LOCAL_DISTANCE < distance <= LARGEST_DISTANCE
            need(right, f"the distance from node {here} to {there} is {distance}")


def need(condition: t.Any, message: str) -> None:
    """Raises ``ValueError`` with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)
