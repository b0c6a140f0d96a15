# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shares of this machine's CPUs: a container sees all of them, so each host is told which are not its own."""

from __future__ import annotations

import collections.abc as c
import pathlib

SYSTEM = pathlib.Path("/sys/devices/system")


def reserved_for_each(count: int, system: pathlib.Path = SYSTEM) -> list[str]:
    """For each of ``count`` hosts the cpulist that belongs to others.

    The first node that has CPUs is shared out by whole cores; CPUs of other nodes are nobody's. With fewer cores than
    hosts everybody gets them all.
    """
    online = parse(system / "cpu" / "online")
    node = first_node_cpus(system) & online or online
    cores = sorted({frozenset(siblings(cpu, system) & node) for cpu in node}, key=min)
    if len(cores) < count:
        return [spell(online - node)] * count
    shares = [cores[len(cores) * i // count : len(cores) * (i + 1) // count] for i in range(count)]
    return [spell(online - frozenset().union(*share)) for share in shares]


def first_node_cpus(system: pathlib.Path) -> frozenset[int]:
    """CPUs of the first online node that has any; nothing where the kernel knows no nodes."""
    path = system / "node" / "online"
    for node in sorted(parse(path)) if path.exists() else []:
        cpus = parse(system / "node" / f"node{node}" / "cpulist")
        if cpus:
            return cpus
    return frozenset()


def siblings(cpu: int, system: pathlib.Path) -> frozenset[int]:
    """The CPUs of one core."""
    path = system / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    return parse(path) if path.exists() else frozenset({cpu})


def parse(path: pathlib.Path) -> frozenset[int]:
    """A file in the kernel's cpulist notation."""
    return numbers(path.read_text(encoding="ascii").strip())


def numbers(cpulist: str) -> frozenset[int]:
    """The CPUs of a cpulist."""
    ranges = [part.split("-") for part in cpulist.split(",") if part]
    return frozenset(cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1))


def spell(cpus: c.Collection[int]) -> str:
    """The same notation, written."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
