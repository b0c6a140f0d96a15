# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine as its own tools show it: numactl, numastat, taskset, lspci, the control groups and /proc."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import typing as t

# One login for all of it: each costs an emulated machine a second.
LOOK = pathlib.Path(__file__).with_name("look").read_text(encoding="utf-8")


@dataclasses.dataclass
class Process:
    """One process of an instance: CPUs of every thread, nodes that it may use, pages of its own, what it shares."""

    pid: int
    shared_kib: int
    devices: list[str]
    command: str
    threads: dict[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    allowed_nodes: set[str] = dataclasses.field(default_factory=set)
    own_pages: dict[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Unit:
    """One instance; ``cpus`` and ``nodes`` are what its control group enforces, ``numastat_mib`` is by node.

    ``starts`` is how systemd starts it: its ``NUMAPolicy=`` and the first words of its command.
    """

    name: str
    state: str
    cpus: frozenset[int]
    nodes: frozenset[int]
    processes: list[Process] = dataclasses.field(default_factory=list)
    numastat_mib: dict[int, float] = dataclasses.field(default_factory=dict)
    starts: str = ""


@dataclasses.dataclass
class Inside:
    """``node_cpus`` are numactl's; ``gpu_nodes`` are sysfs's and ``lspci_nodes`` lspci's, both by UUID.

    ``irqs`` are (node, action, CPUs) of network cards, ``settings`` the kernel's by name.
    """

    node_cpus: dict[int, frozenset[int]]
    gpu_nodes: dict[str, int]
    lspci_nodes: dict[str, int]
    units: dict[str, Unit]
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    irqs: list[tuple[int, str, frozenset[int]]] = dataclasses.field(default_factory=list)


def parse_list(text: str) -> frozenset[int]:
    """The kernel's list notation."""
    ranges = [part.split("-") for part in text.split(",") if part]
    return frozenset(number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1))


def look(host: t.Any) -> Inside:
    """Log in once and read it all."""
    found = Inside({}, {}, {}, {})
    uuids: dict[str, str] = {}
    units: list[Unit] = []
    for line in host.check_output(LOOK).splitlines():
        kind, _space, rest = line.partition(" ")
        words = rest.split()
        if kind == "numactl" and (match := re.fullmatch(r"node (\d+) cpus: ?([\d ]*)", rest)):
            found.node_cpus[int(match[1])] = frozenset(map(int, match[2].split()))
        elif kind == "setting":
            found.settings[words[0]] = words[1]
        elif kind == "irq":
            found.irqs.append((int(words[0]), words[2], parse_list(words[1])))
        elif kind == "gpu":
            uuids[words[0]] = words[2]
        elif kind == "pci" and words[1:3] == ["0x10de", "0x030200"]:
            found.gpu_nodes[uuids[words[0]]] = int(words[3])
        elif kind == "lspci" and words[1] == "NVIDIA":
            found.lspci_nodes[uuids[words[0]]] = int(words[2])
        elif kind == "unit":
            units.append(Unit(words[0], words[1], parse_list(words[2]), parse_list(words[3])))
            found.units[words[0]] = units[-1]
        elif kind == "starts":
            units[-1].starts = rest
        elif kind == "process":
            devices = [] if words[2] == "-" else words[2].split(",")
            units[-1].processes.append(Process(int(words[0]), int(words[1]), devices, " ".join(words[3:])))
        elif kind == "thread":
            units[-1].processes[-1].threads[int(words[0])] = parse_list(words[1])
        elif kind == "mems":
            units[-1].processes[-1].allowed_nodes.add(words[0])
        elif kind == "anon":
            units[-1].processes[-1].own_pages[int(words[0])] = int(words[1])
        elif kind == "numastat" and words[:1] == ["Total"]:
            units[-1].numastat_mib = {node: float(text) for node, text in enumerate(words[1:-1])}
    return found
