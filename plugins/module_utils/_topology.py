# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The NUMA topology of a Linux host: nodes, CPUs, packages, and the kernel settings that concern them.

The dataclasses have the shape of ``ansible_facts['numa']``: CPU sets are cpulist strings, sizes carry their unit in the
name, and what cannot be known is ``None``, never 0. What a file says that cannot be true becomes a warning.

Kernel sources: Documentation/ABI/stable/sysfs-devices-node, Documentation/ABI/stable/sysfs-devices-system-cpu,
Documentation/admin-guide/cputopology.rst.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, is_dataclass

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
    parse_cpumask,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

_CPU = "/sys/devices/system/cpu"
_NODE = "/sys/devices/system/node"
_MEMORY_LINE = re.compile(r"^(?:Node +[0-9]+ +)?(MemTotal|MemFree): +([0-9]{1,15}) kB$", re.MULTILINE)
_ALLOWED_LINE = re.compile(r"^Cpus_allowed_list:[ \t]*(\S*)[ \t]*$", re.MULTILINE)
_HUGEPAGES = re.compile(r"hugepages-([0-9]{1,12})kB")
_CHOSEN = re.compile(r"\[([a-z]+)\]")
# Keys: the node has CPUs, it has memory.
_KINDS = {
    (True, True): "cpu_and_memory",
    (True, False): "cpu_only",
    (False, True): "memory_only",
    (False, False): "empty",
}
_DISTANCE = re.compile(r"[0-9]{1,5}")
# A damaged tree can be wrong in every one of its files; a person reads the first few dozen lines.
_WARNING_LIMIT = 40


class TopologyError(NumapinError):
    """There is nothing to read a topology from."""


@dataclass(frozen=True)
class Distance:
    """How far a node is, as the firmware says: 10 is the node itself, 20 twice as far."""

    node: int
    distance: int


@dataclass(frozen=True)
class Hugepages:
    """One pool of one node; ``total`` includes ``surplus``, as the kernel counts."""

    size_kib: int
    total: int | None
    free: int | None
    surplus: int | None


@dataclass(frozen=True)
class Node:
    """A node that is online, with those of its CPUs that are online."""

    id: int
    cpus: str
    cpu_count: int
    memory_total_mib: int | None
    memory_free_mib: int | None
    distances: tuple[Distance, ...]
    package_ids: tuple[int, ...]
    kind: str  # cpu_and_memory | memory_only | cpu_only | empty
    hugepages: tuple[Hugepages, ...]


@dataclass(frozen=True)
class Cpu:
    """A CPU that is present. The kernel tells package, core, siblings and caches of online CPUs only."""

    id: int
    node: int | None
    package: int | None
    core: int | None
    smt_siblings: str | None
    llc_domain: str | None
    online: bool


@dataclass(frozen=True)
class Package:
    """A processor in a socket, with its online CPUs and the nodes these belong to."""

    id: int
    cpus: str
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """Settings of the running kernel; ``None`` where it was built without the feature."""

    release: str | None
    numa_balancing: int | None
    zone_reclaim_mode: int | None
    transparent_hugepage: str | None
    cgroup_version: int | None


@dataclass(frozen=True)
class Topology:
    """All of it; ``allowed_cpus`` are the online CPUs that the host's init may use."""

    nodes: tuple[Node, ...]
    cpus: tuple[Cpu, ...]
    packages: tuple[Package, ...]
    kernel: Kernel
    allowed_cpus: str
    warnings: tuple[str, ...]


def to_plain(value: t.Any) -> t.Any:
    """Turn dataclasses and tuples into dictionaries and lists, as a module returns them."""
    if is_dataclass(value):
        return {name: to_plain(item) for name, item in vars(value).items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def read_topology(host: Host) -> Topology:
    """Read the topology of ``host``.

    Raises ``TopologyError`` when no CPU is found at all. Anything else that is missing or damaged is ``None`` in the
    result, or empty, with a warning where every kernel would have provided it.
    """
    return _Reader(host).read()


@dataclass(frozen=True)
class _Core:
    package: int | None
    core: int | None
    siblings: str | None


class _Reader:
    """One pass over the host, every file read once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._warnings: dict[str, None] = {}

    def read(self) -> Topology:
        described, present, online = self._cpu_ids()
        node_cpus, distance_order = self._node_cpus(online)
        has_nodes = bool(node_cpus)
        if has_nodes:
            self._warn_about_odd_nodes(node_cpus, online)
        else:
            node_cpus = {0: online}
            self._warn(
                f"{_NODE} names no NUMA node (a kernel without NUMA support, or a container that hides it):"
                " all online CPUs are taken as node 0"
            )
        cpus = self._cpus(described, present, online, node_cpus)
        packages = _packages(cpus)
        nodes = tuple(
            self._node(number, members, packages, distance_order, f"{_NODE}/node{number}" if has_nodes else None)
            for number, members in sorted(node_cpus.items())
        )
        kernel = self._kernel()
        allowed = self._allowed_cpus(online)
        return Topology(nodes, cpus, packages, kernel, format_cpulist(allowed), self._bounded_warnings())

    # CPUs

    def _cpu_ids(self) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        """Return the ids of the CPUs that have a directory, of those present, and of those online."""
        described = _numbers(self._host.list_dir(_CPU), "cpu")
        online = self._cpus_in([f"{_CPU}/online"])
        if not online:
            # Kernels before 2.6.26 have no such list. The boot CPU often has no switch: it cannot go offline.
            online = frozenset(n for n in described if self._host.read_int(f"{_CPU}/cpu{n}/online") != 0)
        if not online:
            raise TopologyError(
                f"no CPU found: {_CPU} below the root {self._host.root!r} holds neither a list 'online' nor directories"
                " cpu0, cpu1, ...; give as root the directory that holds the sys and proc of a captured machine"
            )
        present = (self._cpus_in([f"{_CPU}/present"]) or described) | online
        if online - described:
            self._warn(f"the online CPUs {format_cpulist(online - described)} have no directory in {_CPU}")
        return described, present, online

    def _cpus(
        self,
        described: frozenset[int],
        present: frozenset[int],
        online: frozenset[int],
        node_cpus: dict[int, frozenset[int]],
    ) -> tuple[Cpu, ...]:
        node_of: dict[int, int | None] = {}
        for node, members in node_cpus.items():
            for number in members:
                # A CPU that two nodes list: nobody knows which of them is right.
                node_of[number] = None if number in node_of else node
        cores = self._cores(described & online, online)
        domains = self._cache_domains(described & online, online)
        cpus = []
        for number in sorted(present):
            if number not in online:
                home = self._node_of_offline_cpu(number) if number in described else None
                cpus.append(Cpu(number, home, None, None, None, None, online=False))
                continue
            core = cores.get(number, _Core(None, None, None))
            cpus.append(
                Cpu(
                    id=number,
                    node=node_of.get(number),
                    package=core.package,
                    core=core.core,
                    smt_siblings=core.siblings,
                    llc_domain=domains.get(number),
                    online=True,
                )
            )
        return tuple(cpus)

    def _cores(self, numbers: frozenset[int], online: frozenset[int]) -> dict[int, _Core]:
        cores: dict[int, _Core] = {}
        for number in sorted(numbers):
            if number in cores:
                continue
            directory = f"{_CPU}/cpu{number}/topology"
            siblings = self._cpus_in(
                [f"{directory}/thread_siblings_list", f"{directory}/core_cpus_list"], [f"{directory}/thread_siblings"]
            )
            if siblings is not None:
                siblings &= online
                if number not in siblings:
                    self._warn(f"CPU {number} is not among its own SMT siblings in {directory}: they are left unknown")
                    siblings = None
            core = _Core(
                self._id_in(f"{directory}/physical_package_id"),
                self._id_in(f"{directory}/core_id"),
                None if siblings is None else format_cpulist(siblings),
            )
            # SMT siblings are one core of one package: what is read once is true for all of them.
            for sibling in siblings or {number}:
                if cores.setdefault(sibling, core) is not core:
                    self._warn(f"CPU {sibling} is an SMT sibling in two cores, one of them that of CPU {number}")
        return cores

    def _cache_domains(self, numbers: frozenset[int], online: frozenset[int]) -> dict[int, str]:
        """Return for each CPU the CPUs that share its last-level cache, read once for all CPUs of a domain."""
        domains: dict[int, str] = {}
        for number in sorted(numbers):
            if number in domains:
                continue
            directory = f"{_CPU}/cpu{number}/cache"
            last_level, last_index = 0, ""
            for name in self._host.list_dir(directory) or ():
                if not name.startswith("index"):
                    continue
                level = self._host.read_int(f"{directory}/{name}/level")
                if level is None or level <= last_level:
                    continue
                if (self._host.read_text(f"{directory}/{name}/type") or "").strip() != "Instruction":
                    last_level, last_index = level, f"{directory}/{name}"
            if not last_index:
                continue
            members = self._cpus_in([f"{last_index}/shared_cpu_list"], [f"{last_index}/shared_cpu_map"])
            if members is None:
                continue
            if number not in members:
                self._warn(f"CPU {number} is not among the CPUs in {last_index}: its cache is left unknown")
                continue
            text = format_cpulist(members & online)
            for member in members & online:
                domains.setdefault(member, text)
        return domains

    def _node_of_offline_cpu(self, number: int) -> int | None:
        # A node's cpulist names online CPUs only; the link from the CPU to its node stays.
        nodes = _numbers(self._host.list_dir(f"{_CPU}/cpu{number}"), "node")
        return min(nodes) if len(nodes) == 1 else None

    def _allowed_cpus(self, online: frozenset[int]) -> frozenset[int]:
        for path in ("/proc/1/status", "/proc/self/status"):
            match = _ALLOWED_LINE.search(self._host.read_text(path) or "")
            if match is None:
                continue
            try:
                allowed = parse_cpulist(match[1]) & online
            except CpusetError as error:
                self._warn(f"{path}: Cpus_allowed_list: {error}")
                continue
            if allowed:
                return allowed
        return online

    # Nodes

    def _node_cpus(self, online: frozenset[int]) -> tuple[dict[int, frozenset[int]], tuple[int, ...]]:
        """Return the online CPUs of every online node, and the nodes in the order of the distance files."""
        described = _numbers(self._host.list_dir(_NODE), "node")
        listed = self._cpus_in([f"{_NODE}/online"])
        if not listed:
            listed = described
        if listed - described:
            self._warn(f"the online nodes {format_cpulist(listed - described)} have no directory in {_NODE}")
        node_cpus: dict[int, frozenset[int]] = {}
        for number in sorted(listed & described):
            directory = f"{_NODE}/node{number}"
            members = self._cpus_in([f"{directory}/cpulist"], [f"{directory}/cpumap"])
            if members is None:
                members = _numbers(self._host.list_dir(directory), "cpu")
                if not members:
                    self._warn(f"{directory}/cpulist cannot be read: node {number} is taken to have no CPU")
            node_cpus[number] = members & online
        return node_cpus, tuple(sorted(listed))

    def _warn_about_odd_nodes(self, node_cpus: dict[int, frozenset[int]], online: frozenset[int]) -> None:
        owner: dict[int, int] = {}
        overlaps: dict[tuple[int, int], set[int]] = {}
        for node, members in sorted(node_cpus.items()):
            for number in members:
                first = owner.setdefault(number, node)
                if first != node:
                    overlaps.setdefault((first, node), set()).add(number)
        for (first, second), shared in sorted(overlaps.items()):
            self._warn(
                f"nodes {first} and {second} both list the CPUs {format_cpulist(shared)}, which cannot be: a firmware"
                " error (ACPI SRAT); the node of these CPUs is left unknown"
            )
        homeless = online.difference(*node_cpus.values())
        if homeless:
            self._warn(f"the online CPUs {format_cpulist(homeless)} belong to no NUMA node")

    def _node(
        self,
        number: int,
        members: frozenset[int],
        packages: tuple[Package, ...],
        distance_order: tuple[int, ...],
        directory: str | None,
    ) -> Node:
        """Read one node; ``directory`` is ``None`` for the one that stands for a whole machine without nodes."""
        total_kib, free_kib = self._memory(f"{directory}/meminfo" if directory else "/proc/meminfo")
        if total_kib is None:
            has_memory = number in (self._cpus_in([f"{_NODE}/has_memory", f"{_NODE}/has_normal_memory"]) or ())
        else:
            has_memory = total_kib > 0
        return Node(
            id=number,
            cpus=format_cpulist(members),
            cpu_count=len(members),
            memory_total_mib=None if total_kib is None else total_kib // 1024,
            memory_free_mib=None if free_kib is None else free_kib // 1024,
            distances=self._distances(f"{directory}/distance", distance_order) if directory else (),
            package_ids=tuple(p.id for p in packages if not members.isdisjoint(parse_cpulist(p.cpus))),
            kind=_KINDS[bool(members), has_memory],
            hugepages=self._hugepages(f"{directory}/hugepages" if directory else "/sys/kernel/mm/hugepages"),
        )

    def _memory(self, path: str) -> tuple[int | None, int | None]:
        amounts = {name: int(kib) for name, kib in _MEMORY_LINE.findall(self._host.read_text(path) or "")}
        if "MemTotal" not in amounts:
            self._warn(f"{path} does not tell MemTotal: the memory there is unknown")
        return amounts.get("MemTotal"), amounts.get("MemFree")

    def _distances(self, path: str, order: tuple[int, ...]) -> tuple[Distance, ...]:
        # One number for every online node, ascending by id (node_read_distance in drivers/base/node.c).
        text = self._host.read_text(path)
        numbers = (text or "").split()
        if text is None or len(numbers) != len(order) or not all(_DISTANCE.fullmatch(n) for n in numbers):
            said = "cannot be read" if text is None else f"says {text.strip()[:80]!r}"
            self._warn(f"{path} {said} and not one distance for each of the nodes {format_cpulist(order)}")
            return ()
        return tuple(Distance(node, int(number)) for node, number in zip(order, numbers))

    def _hugepages(self, directory: str) -> tuple[Hugepages, ...]:
        pools = []
        for name in self._host.list_dir(directory) or ():
            match = _HUGEPAGES.fullmatch(name)
            if match:
                counts = [self._count_in(f"{directory}/{name}/{kind}_hugepages") for kind in ("nr", "free", "surplus")]
                pools.append(Hugepages(int(match[1]), *counts))
        return tuple(sorted(pools, key=lambda pool: pool.size_kib))

    # Kernel

    def _kernel(self) -> Kernel:
        chosen = _CHOSEN.search(self._host.read_text("/sys/kernel/mm/transparent_hugepage/enabled") or "")
        release = (self._host.read_text("/proc/sys/kernel/osrelease") or "").strip()
        return Kernel(
            release=release or None,
            numa_balancing=self._count_in("/proc/sys/kernel/numa_balancing"),
            zone_reclaim_mode=self._count_in("/proc/sys/vm/zone_reclaim_mode"),
            transparent_hugepage=chosen[1] if chosen else None,
            cgroup_version=self._cgroup_version(),
        )

    def _cgroup_version(self) -> int | None:
        names = self._host.list_dir("/sys/fs/cgroup")
        if not names:
            return None
        # The unified hierarchy has its files at the top; v1 and hybrid hosts have a directory for each controller.
        return 2 if "cgroup.controllers" in names else 1

    # Single files

    def _cpus_in(self, lists: t.Sequence[str], masks: t.Sequence[str] = ()) -> frozenset[int] | None:
        """Return the set in the first of these files that can be read: cpulists, then the masks of older kernels."""
        for paths, parse in ((lists, parse_cpulist), (masks, parse_cpumask)):
            for path in paths:
                text = self._host.read_text(path)
                if text is None:
                    continue
                try:
                    return parse(text)
                except CpusetError as error:
                    self._warn(f"{path}: {error}")
        return None

    def _id_in(self, path: str) -> int | None:
        """Return an id that the kernel gives; -1, and the same in 16 bits, is how it says that it has none."""
        value = self._host.read_int(path)
        return None if value is None or value < 0 or value == 0xFFFF else value

    def _count_in(self, path: str) -> int | None:
        value = self._host.read_int(path)
        return None if value is None or value < 0 else value

    def _warn(self, message: str) -> None:
        self._warnings[message] = None

    def _bounded_warnings(self) -> tuple[str, ...]:
        messages = list(self._warnings)
        if len(messages) > _WARNING_LIMIT:
            left_out = len(messages) - _WARNING_LIMIT
            messages[_WARNING_LIMIT:] = [f"{left_out} more warnings of this kind are left out"]
        return tuple(messages)


def _packages(cpus: t.Iterable[Cpu]) -> tuple[Package, ...]:
    members: dict[int, set[int]] = {}
    nodes: dict[int, set[int]] = {}
    for cpu in cpus:
        if cpu.package is not None:
            members.setdefault(cpu.package, set()).add(cpu.id)
            nodes.setdefault(cpu.package, set())
            if cpu.node is not None:
                nodes[cpu.package].add(cpu.node)
    return tuple(Package(p, format_cpulist(members[p]), tuple(sorted(nodes[p]))) for p in sorted(members))


def _numbers(names: t.Iterable[str] | None, prefix: str) -> frozenset[int]:
    """Return N of every name that is ``prefix`` and a number N (``cpu7``, and not ``cpufreq``)."""
    found = (name[len(prefix) :] for name in names or () if name.startswith(prefix))
    return frozenset(int(rest) for rest in found if len(rest) <= 5 and rest.isascii() and rest.isdigit())
