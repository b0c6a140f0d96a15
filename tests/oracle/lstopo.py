# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hwloc's ``lstopo`` sees in a captured tree, as plain data."""

from __future__ import annotations

import os
import re
import subprocess
import typing as t
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

if t.TYPE_CHECKING:
    from pathlib import Path

Cpus = frozenset[int]

ENVIRONMENT = {
    "HWLOC_THISSYSTEM": "0",
    # The kernel's files only: no PCI library, no cpuid, no device libraries of this machine.
    "HWLOC_COMPONENTS": "linux,stop",
    # Nodes that hwloc leaves out by default: memory of NVIDIA GPUs, and those whose CPUs another node lists as well.
    "HWLOC_KEEP_NVIDIA_GPU_NUMA_NODES": "1",
    "HWLOC_DEBUG_ALLOW_OVERLAPPING_NODE_CPUSETS": "1",
    "HWLOC_HIDE_ERRORS": "2",
}
# All of what the tree describes: also what its cgroup forbids, every PCI device, and none of them folded into another.
OPTIONS = ["-p", "--disallowed", "--filter", "io:all", "--no-collapse", "--of", "xml"]
_CACHE = re.compile(r"L([0-9])Cache")
_NO_ID = 2**32 - 1


@dataclass(frozen=True)
class NumaNode:
    """A node; ``cpus`` of one without CPUs are those that hwloc thinks near."""

    cpus: Cpus
    memory_bytes: int
    pages: dict[int, int]  # pages of each size in KiB, ordinary pages left out


@dataclass(frozen=True)
class Cache:
    """A last-level cache."""

    cpus: Cpus
    level: int
    size_kib: int


@dataclass
class Seen:
    """Everything in one tree. The lists hold pairs of the kernel's id (``None`` for none) and a CPU set."""

    cpus: Cpus = frozenset()
    nodes: dict[int, NumaNode] = field(default_factory=dict)
    distances: dict[tuple[int, int], int] = field(default_factory=dict)
    packages: list[tuple[int | None, Cpus]] = field(default_factory=list)
    cores: list[tuple[int | None, Cpus]] = field(default_factory=list)
    last_level_caches: set[Cache] = field(default_factory=set)
    cpus_near_pci: dict[str, Cpus] = field(default_factory=dict)


class LstopoError(Exception):
    """``lstopo`` failed, or said what this reader does not know."""


def look_at(tree: Path) -> Seen:
    """Run ``lstopo`` on ``tree``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HWLOC_")}
    environment.update(ENVIRONMENT, HWLOC_FSROOT=str(tree))
    command = ["lstopo-no-graphics", *OPTIONS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0 or not done.stdout:
        raise LstopoError(f"{' '.join(command)} on {tree} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return _seen_in(ET.fromstring(done.stdout))


def _seen_in(root: ET.Element) -> Seen:
    seen = Seen()
    machine = root.find("object")
    if machine is None:
        raise LstopoError("there is no object in what lstopo says")
    _descend(machine, _cpus(machine), None, seen)
    for matrix in root.iter("distances2"):
        if matrix.get("name") == "NUMALatency":
            nodes = _numbers(matrix, "indexes")
            values = iter(_numbers(matrix, "u64values"))
            seen.distances = {(one, other): next(values) for one in nodes for other in nodes}
    return seen


def _descend(element: ET.Element, near: Cpus, cache: Cache | None, seen: Seen) -> None:
    """Walk the tree of objects; ``near`` are the CPUs of the closest object above that has any."""
    kind = element.get("type", "")
    if element.get("cpuset"):
        near = _cpus(element)
    level = _CACHE.fullmatch(kind)
    if kind == "NUMANode":
        pages = {
            int(page.get("size", "0")) // 1024: int(page.get("count", "0")) for page in element.findall("page_type")[1:]
        }
        seen.nodes[int(element.get("os_index", ""))] = NumaNode(near, int(element.get("local_memory", "0")), pages)
    elif kind == "Package":
        seen.packages.append((_id(element), near))
    elif kind == "Core":
        seen.cores.append((_id(element), near))
    elif kind == "PU":
        seen.cpus |= near
        if cache is not None:
            seen.last_level_caches.add(cache)
    elif kind == "PCIDev" or (kind == "Bridge" and element.get("pci_busid")):
        seen.cpus_near_pci[element.get("pci_busid", "")] = near
    elif level and cache is None:
        cache = Cache(near, int(level[1]), int(element.get("cache_size", "0")) // 1024)
    for child in element.findall("object"):
        _descend(child, near, cache, seen)


def _id(element: ET.Element) -> int | None:
    text = element.get("os_index")
    return None if text is None or int(text) == _NO_ID else int(text)


def _cpus(element: ET.Element) -> Cpus:
    """Return the CPUs in hwloc's notation: groups of 32 bits, the highest first, each with 0x or empty."""
    value = 0
    for group in element.get("cpuset", "").split(","):
        if group == "0xf...f":
            raise LstopoError(f"an infinite set of CPUs: {element.get('cpuset')}")
        value = value << 32 | int(group or "0", 16)
    return frozenset(position for position, digit in enumerate(reversed(f"{value:b}")) if digit == "1")


def _numbers(matrix: ET.Element, tag: str) -> list[int]:
    return [int(number) for part in matrix.findall(tag) for number in (part.text or "").split()]
