# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The NUMA topology of a Linux host: nodes, CPUs, packages and caches.

The named tuples have the shape of ``ansible_facts['numa']``: CPU sets are cpulist strings, sizes carry their unit in
the name, and what cannot be known is ``None``, never 0. What a file says that cannot be true becomes a warning. (They
are no dataclasses: a module makes its classes anew in every run, and dataclasses cost seven times as much to make.)

Kernel sources: Documentation/ABI/stable/sysfs-devices-node, Documentation/ABI/stable/sysfs-devices-system-cpu,
Documentation/admin-guide/cputopology.rst.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    HIGHEST_ID,
    CpusetError,
    format_cpulist,
    parse_cpulist,
    parse_cpumask,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._kernel import allowed_cpus

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

_CPU = "/sys/devices/system/cpu"
_NODE = "/sys/devices/system/node"
_MEMORY_LINE = re.compile(r"^(?:Node +[0-9]+ +)?(MemTotal|MemFree): +([0-9]{1,15}) kB$", re.MULTILINE)
_HUGEPAGES = re.compile(r"hugepages-([0-9]{1,12})kB")
# Keys: the node has CPUs, it has memory.
_KINDS = {
    (True, True): "cpu_and_memory",
    (True, False): "cpu_only",
    (False, True): "memory_only",
    (False, False): "empty",
}
_MASKS = frozenset({"core_cpus", "thread_siblings", "package_cpus", "core_siblings", "shared_cpu_map", "cpumap"})
_DISTANCE = re.compile(r"[0-9]{1,5}")
_CACHE_SIZE = re.compile(r"([0-9]{1,12})K")
_NUMASTAT_LINE = re.compile(r"^([a-z_]{1,40}) ([0-9]{1,20})$", re.MULTILINE)
# Under which name each field of Numastat stands in the file (node_read_numastat in drivers/base/node.c).
_NUMASTAT_NAMES = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")
_AMD_COMPUTE_UNITS = re.compile(r"^vendor_id\s*: AuthenticAMD\ncpu family\s*: (?:21|22)$", re.MULTILINE)
# A damaged tree can be wrong in every one of its files; a person reads the first few dozen lines.
_WARNING_LIMIT = 40
# MAX_NUMNODES of the largest kernel that can be built (NODES_SHIFT 10) is 1024.
_HIGHEST_NODE = 1023
_SHOWN_LIMIT = 100


class TopologyError(NumapinError):
    """There is nothing to read a topology from."""


class Distance(t.NamedTuple):
    """How far a node is, as the firmware says: 10 is the node itself, 20 twice as far."""

    node: int
    distance: int


class Hugepages(t.NamedTuple):
    """One pool of one node; ``total`` includes ``surplus``, as the kernel counts."""

    size_kib: int
    total: int | None
    free: int | None
    surplus: int | None


class Numastat(t.NamedTuple):
    """Pages a node has handed out since boot (Documentation/admin-guide/numastat.rst).

    ``hit``: asked for and given here. ``miss``: asked for elsewhere, given here. ``foreign``: asked for here, given
    elsewhere. ``interleave_hit``: given here as interleaving wanted. ``local``, ``other``: given here to a process on a
    CPU of this node, of another node.
    """

    hit: int | None
    miss: int | None
    foreign: int | None
    interleave_hit: int | None
    local: int | None
    other: int | None


class Node(t.NamedTuple):
    """A node that is online, with those of its CPUs that are online.

    ``package_ids`` leaves out packages without an id; it is ``None`` when CPUs were not asked for, ``hugepages`` and
    ``numastat`` when memory was not.
    """

    id: int
    cpus: str
    cpu_count: int
    memory_total_mib: int | None
    memory_free_mib: int | None
    distances: tuple[Distance, ...]
    package_ids: tuple[int, ...] | None
    kind: str  # cpu_and_memory | memory_only | cpu_only | empty
    hugepages: tuple[Hugepages, ...] | None
    numastat: Numastat | None


class Cpu(t.NamedTuple):
    """A CPU that is present. The kernel tells package, core, siblings and caches of online CPUs only."""

    id: int
    node: int | None
    package: int | None
    core: int | None
    smt_siblings: str | None
    llc_domain: str | None
    online: bool


class LlcDomain(t.NamedTuple):
    """Online CPUs that share their last-level cache, and the nodes these belong to."""

    cpus: str
    level: int
    size_kib: int | None
    nodes: tuple[int, ...]


class Package(t.NamedTuple):
    """A processor in a socket, with its online CPUs and the nodes these belong to.

    The id is the firmware's: some architectures have none (``None``), and several packages can have the same (on s390
    in different books, on ia64 on one node).
    """

    id: int | None
    cpus: str
    nodes: tuple[int, ...]


class Topology(t.NamedTuple):
    """All of it; ``allowed_cpus`` are the online CPUs that services of the host may use.

    ``cpus``, ``llc_domains`` and ``packages`` are ``None`` when CPUs were not asked for. ``offline_nodes`` are possible
    but not online (``None`` where the kernel does not say), ``offline_cpus`` present but not online: both are cpulists.
    """

    nodes: tuple[Node, ...]
    offline_nodes: str | None
    cpus: tuple[Cpu, ...] | None
    offline_cpus: str
    llc_domains: tuple[LlcDomain, ...] | None
    packages: tuple[Package, ...] | None
    allowed_cpus: str
    warnings: tuple[str, ...]


def to_plain(value: t.Any) -> t.Any:
    """Turn named tuples, tuples and lists into dictionaries and lists, as a module returns them."""
    if not isinstance(value, (tuple, list)):
        return value
    names = getattr(value, "_fields", None)
    # A large machine has thousands of values, most of them numbers and texts: these cost no call.
    items = [to_plain(item) if isinstance(item, (tuple, list)) else item for item in value]
    return items if names is None else dict(zip(names, items))


def read_topology(host: Host, parts: t.Collection[str] = frozenset({"cpus", "memory"})) -> Topology:
    """Read the topology of ``host``.

    ``parts``: ``cpus`` are CPUs, packages and caches, ``memory`` is hugepages and counters; nodes with their CPUs,
    memory and distances are always read. Raises ``TopologyError`` when no CPU is found at all. Anything else that is
    missing or damaged is ``None`` in the result, or empty, with a warning where every kernel would have provided it.
    """
    return _Reader(host, parts).read()


class _Core(t.NamedTuple):
    core: int | None
    siblings: str | None


class _Reader:
    """One pass over the host, every file read once."""

    def __init__(self, host: Host, parts: t.Collection[str]) -> None:
        self._host = host
        self._wants_cpus = "cpus" in parts
        self._wants_memory = "memory" in parts
        self._warnings: dict[str, None] = {}
        self._shown_order = ""

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
        cpus = packages = domains = None
        if self._wants_cpus:
            node_of = _owners(node_cpus)
            domains, domain_of = self._llc_domains(described & online, online, node_of)
            packages, package_of = self._packages(described & online, node_of)
            cpus = self._cpus(described, present, online, node_of, package_of, domain_of)
        allowed, said = allowed_cpus(self._host, online)
        for message in said:
            self._warn(message)
        nodes = tuple(
            self._node(number, members, packages, distance_order, f"{_NODE}/node{number}" if has_nodes else None)
            for number, members in sorted(node_cpus.items())
        )
        return Topology(
            nodes=nodes,
            offline_nodes=self._offline_nodes(distance_order),
            cpus=cpus,
            offline_cpus=format_cpulist(present - online),
            llc_domains=domains,
            packages=packages,
            allowed_cpus=format_cpulist(allowed),
            warnings=self._bounded_warnings(),
        )

    # CPUs

    def _cpu_ids(self) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        """Return the ids of the CPUs that have a directory, of those present, and of those online."""
        # The kernel makes directories here, and links below them.
        described = _numbers(self._host.list_directories(_CPU), "cpu")
        online = self._set_in(_CPU, ["online"])
        if not online:
            # Kernels before 2.6.26 have no such list. The boot CPU often has no switch: it cannot go offline.
            online = frozenset(n for n in described if self._host.read_int(f"{_CPU}/cpu{n}/online") != 0)
        if not online:
            raise TopologyError(
                f"no CPU found: {_CPU} below the root {self._host.root!r} holds neither a list 'online' nor directories"
                " cpu0, cpu1, ...; give as root the directory that holds the sys and proc of a captured machine"
            )
        present = (self._set_in(_CPU, ["present"]) or described) | online
        if online - described:
            self._warn(f"the online CPUs {_shown(online - described)} have no directory in {_CPU}")
        return described, present, online

    def _cpus(
        self,
        described: frozenset[int],
        present: frozenset[int],
        online: frozenset[int],
        node_of: t.Mapping[int, int | None],
        package_of: t.Mapping[int, int | None],
        domain_of: t.Mapping[int, str],
    ) -> tuple[Cpu, ...]:
        cores = self._cores(described & online)
        cpus = []
        for number in sorted(present):
            if number not in online:
                home = self._node_of_offline_cpu(number) if number in described else None
                cpus.append(Cpu(number, home, None, None, None, None, online=False))
                continue
            core = cores.get(number, _Core(None, None))
            cpus.append(
                Cpu(
                    id=number,
                    node=node_of.get(number),
                    package=package_of.get(number),
                    core=core.core,
                    smt_siblings=core.siblings,
                    llc_domain=domain_of.get(number),
                    online=True,
                )
            )
        return tuple(cpus)

    def _packages(
        self, numbers: frozenset[int], node_of: t.Mapping[int, int | None]
    ) -> tuple[tuple[Package, ...], dict[int, int | None]]:
        """Return the packages, and for each CPU the id of its package, which is read once for all of them."""
        found: list[tuple[int | None, frozenset[int]]] = []
        package_of: dict[int, int | None] = {}
        without_set: dict[int, set[int]] = {}
        names = self._those_there_first(numbers, "package_cpus", "core_siblings")
        for number in sorted(numbers):
            if number in package_of:
                continue
            directory = f"{_CPU}/cpu{number}/topology"
            package = self._id_in(f"{directory}/physical_package_id")
            # The set is what the scheduler goes by. Ids alone would throw together what different boards number alike.
            members = self._set_in(directory, names)
            if members is not None and number not in members:
                self._warn(f"CPU {number} is not among the CPUs of its own package in {directory}")
                members = None
            if members is None:
                package_of[number] = package
                if package is not None:
                    without_set.setdefault(package, set()).add(number)
                continue
            members &= numbers
            if not members.isdisjoint(package_of):
                self._warn(f"CPU {number} shares its package with CPUs that belong to another one")
                members = members.difference(package_of)
            package_of.update(dict.fromkeys(members, package))
            found.append((package, members))
        found.extend((package, frozenset(members)) for package, members in without_set.items())
        found.sort(key=lambda each: (each[0] is None, each[0], min(each[1])))
        packages = (Package(package, format_cpulist(cpus), _nodes_of(cpus, node_of)) for package, cpus in found)
        return tuple(packages), package_of

    def _cores(self, numbers: frozenset[int]) -> dict[int, _Core]:
        cores: dict[int, _Core] = {}
        names = self._those_there_first(numbers, "core_cpus", "thread_siblings")
        has_compute_units: bool | None = None
        for number in sorted(numbers):
            if number in cores:
                continue
            directory = f"{_CPU}/cpu{number}/topology"
            core_id = self._id_in(f"{directory}/core_id")
            siblings = self._set_in(directory, names)
            if siblings is not None:
                siblings &= numbers
                if number not in siblings:
                    self._warn(f"CPU {number} is not among its own SMT siblings in {directory}: they are left unknown")
                    siblings = None
            if siblings is None:
                cores[number] = _Core(core_id, None)
                continue
            if len(siblings) > 1:
                if has_compute_units is None:
                    has_compute_units = self._has_compute_units(core_id, max(siblings))
                if has_compute_units:
                    siblings = frozenset({number})
            core = _Core(core_id, format_cpulist(siblings))
            # SMT siblings are one core of one package: what is read once is true for all of them.
            for sibling in siblings:
                if cores.setdefault(sibling, core) is not core:
                    self._warn(f"CPU {sibling} is an SMT sibling in two cores, one of them that of CPU {number}")
        return cores

    def _has_compute_units(self, core_id: int | None, sibling: int) -> bool:
        """Say whether what the kernel calls SMT siblings are two cores that share an FPU (AMD families 15h and 16h).

        They have a core id each (amd_get_topology in arch/x86/kernel/cpu/amd.c, topology_amd.c since Linux 6.9), except
        in Linux 4.7 to 4.9, where it is the unit's.
        """
        if self._host.read_int(f"{_CPU}/cpu{sibling}/topology/core_id") == core_id:
            return False
        return _AMD_COMPUTE_UNITS.search(self._host.read_head("/proc/cpuinfo", 4096) or "") is not None

    def _those_there_first(self, numbers: t.Collection[int], newer: str, older: str) -> list[str]:
        # Linux 5.3 renamed the files and kept the old names. Asking one CPU saves vain look-ups for every other.
        there = self._host.list_dir(f"{_CPU}/cpu{min(numbers, default=0)}/topology") or ()
        return sorted([newer, older, f"{newer}_list", f"{older}_list"], key=lambda name: name not in there)

    def _llc_domains(
        self, numbers: frozenset[int], online: frozenset[int], node_of: t.Mapping[int, int | None]
    ) -> tuple[tuple[LlcDomain, ...], dict[int, str]]:
        """Return the domains, and for each CPU the CPUs of its domain, which is read once for all of them."""
        domains: list[LlcDomain] = []
        domain_of: dict[int, str] = {}
        for number in sorted(numbers):
            if number in domain_of:
                continue
            level, directory = self._last_level_cache(f"{_CPU}/cpu{number}/cache")
            if not directory:
                continue
            members = self._set_in(directory, ["shared_cpu_map", "shared_cpu_list"])
            if not members:
                # ia64 leaves the mask empty where its firmware does not tell (arch/ia64/kernel/topology.c).
                continue
            if number not in members:
                self._warn(f"CPU {number} is not among the CPUs in {directory}: its cache is left unknown")
                continue
            members &= online
            text = format_cpulist(members)
            for member in members:
                if domain_of.setdefault(member, text) is not text:
                    self._warn(
                        f"CPU {member} shares its last-level cache with two sets of CPUs, one of them CPU {number}'s"
                    )
            size = _CACHE_SIZE.fullmatch((self._host.read_text(f"{directory}/size") or "").strip())
            domains.append(LlcDomain(text, level, int(size[1]) or None if size else None, _nodes_of(members, node_of)))
        return tuple(domains), domain_of

    def _last_level_cache(self, directory: str) -> tuple[int, str]:
        """Return the highest level of data cache and its directory; 0 and ``""`` when none is described."""
        levels = []
        for name in self._host.list_directories(directory) or ():
            if name.startswith("index"):
                level = self._host.read_int(f"{directory}/{name}/level")
                if level is not None and level > 0:
                    levels.append((level, f"{directory}/{name}"))
        for level, index in sorted(levels, key=lambda found: -found[0]):
            if (self._host.read_text(f"{index}/type") or "").strip() != "Instruction":
                return level, index
        return 0, ""

    def _node_of_offline_cpu(self, number: int) -> int | None:
        # A node's cpulist names online CPUs only; the link from the CPU to its node stays.
        nodes = _numbers(self._host.list_dir(f"{_CPU}/cpu{number}"), "node")
        return min(nodes) if len(nodes) == 1 else None

    # Nodes

    def _node_cpus(self, online: frozenset[int]) -> tuple[dict[int, frozenset[int]], tuple[int, ...]]:
        """Return the online CPUs of every online node, and the nodes in the order of the distance files."""
        described = frozenset(
            number for number in _numbers(self._host.list_directories(_NODE), "node") if number <= _HIGHEST_NODE
        )
        listed = self._set_in(_NODE, ["online"])
        if not listed:
            listed = described
        if listed - described:
            self._warn(f"the online nodes {_shown(listed - described)} have no directory in {_NODE}")
        node_cpus: dict[int, frozenset[int]] = {}
        for number in sorted(listed & described):
            directory = f"{_NODE}/node{number}"
            members = self._set_in(directory, ["cpumap", "cpulist"])
            if members is None:
                members = _numbers(self._host.list_dir(directory), "cpu")
                if not members:
                    self._warn(f"{directory}/cpulist cannot be read: node {number} is taken to have no CPU")
            node_cpus[number] = members & online
        return node_cpus, tuple(sorted(listed))

    def _offline_nodes(self, online: t.Iterable[int]) -> str | None:
        possible = self._set_in(_NODE, ["possible"])
        return None if possible is None else format_cpulist(possible.difference(online))

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
                f"nodes {first} and {second} both list the CPUs {_shown(shared)}, which cannot be: a firmware"
                " error (ACPI SRAT); the node of these CPUs is left unknown"
            )
        homeless = online.difference(*node_cpus.values())
        if homeless:
            self._warn(f"the online CPUs {_shown(homeless)} belong to no NUMA node")

    def _node(
        self,
        number: int,
        members: frozenset[int],
        packages: tuple[Package, ...] | None,
        distance_order: tuple[int, ...],
        directory: str | None,
    ) -> Node:
        """Read one node; ``directory`` is ``None`` for the one that stands for a whole machine without nodes."""
        total_kib, free_kib = self._memory(f"{directory}/meminfo" if directory else "/proc/meminfo")
        if total_kib is None:
            has_memory = number in (self._set_in(_NODE, ["has_memory", "has_normal_memory"]) or ())
        else:
            has_memory = total_kib > 0
        return Node(
            id=number,
            cpus=format_cpulist(members),
            cpu_count=len(members),
            memory_total_mib=None if total_kib is None else total_kib // 1024,
            memory_free_mib=None if free_kib is None else free_kib // 1024,
            distances=self._distances(f"{directory}/distance", distance_order) if directory else (),
            package_ids=None if packages is None else _package_ids(packages, members),
            kind=_KINDS[bool(members), has_memory],
            hugepages=self._hugepages(f"{directory}/hugepages" if directory else "/sys/kernel/mm/hugepages"),
            numastat=self._numastat(f"{directory}/numastat") if directory else None,
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
            self._shown_order = self._shown_order or _shown(order)
            self._warn(f"{path} {said} and not one distance for each of the nodes {self._shown_order}")
            return ()
        return tuple(Distance(node, int(number)) for node, number in zip(order, numbers))

    def _numastat(self, path: str) -> Numastat | None:
        if not self._wants_memory:
            return None
        counts = {name: int(pages) for name, pages in _NUMASTAT_LINE.findall(self._host.read_text(path) or "")}
        if counts.keys().isdisjoint(_NUMASTAT_NAMES):
            return None
        return Numastat(*(counts.get(name) for name in _NUMASTAT_NAMES))

    def _hugepages(self, directory: str) -> tuple[Hugepages, ...] | None:
        if not self._wants_memory:
            return None
        pools = []
        for name in self._host.list_directories(directory) or ():
            match = _HUGEPAGES.fullmatch(name)
            if match and int(match[1]):
                counts = [self._count_in(f"{directory}/{name}/{kind}_hugepages") for kind in ("nr", "free", "surplus")]
                pools.append(Hugepages(int(match[1]), *counts))
        return tuple(sorted(pools, key=lambda pool: pool.size_kib))

    # Single files

    def _set_in(self, directory: str, names: t.Iterable[str]) -> frozenset[int] | None:
        """Return the set in the first of these files that can be read.

        Where there are both, the mask is asked: a list is cut at one page (of caches; of nodes and packages too, before
        they became binary attributes in 2021, by commit 75bd50fa841d), which loses CPUs of a large machine with
        interleaved ids, and the oldest kernels have no lists.
        """
        for name in names:
            path = f"{directory}/{name}"
            text = self._host.read_text(path)
            if text is None:
                continue
            try:
                return parse_cpumask(text) if name in _MASKS else parse_cpulist(text)
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


def _shown(ids: t.Iterable[int]) -> str:
    """Return ids as a cpulist that a person reads to its end."""
    text = format_cpulist(ids)
    return text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT].rpartition(',')[0]},..."


def _owners(node_cpus: t.Mapping[int, frozenset[int]]) -> dict[int, int | None]:
    owners: dict[int, int | None] = {}
    for node, members in node_cpus.items():
        for number in members:
            # A CPU that two nodes list: nobody knows which of them is right.
            owners[number] = None if number in owners else node
    return owners


def _nodes_of(cpus: t.Iterable[int], node_of: t.Mapping[int, int | None]) -> tuple[int, ...]:
    nodes = {node_of.get(number) for number in cpus}
    return tuple(sorted(node for node in nodes if node is not None))


def _package_ids(packages: t.Iterable[Package], members: frozenset[int]) -> tuple[int, ...]:
    ids = {package.id for package in packages if not members.isdisjoint(parse_cpulist(package.cpus))}
    return tuple(sorted(number for number in ids if number is not None))


def _numbers(names: t.Iterable[str] | None, prefix: str) -> frozenset[int]:
    """Return N of every name that is ``prefix`` and a number N (``cpu7``, and not ``cpufreq``)."""
    found = (name[len(prefix) :] for name in names or () if name.startswith(prefix))
    ids = (int(rest) for rest in found if len(rest) <= 5 and rest.isascii() and rest.isdigit())
    return frozenset(number for number in ids if number <= HIGHEST_ID)
