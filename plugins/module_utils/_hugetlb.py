# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Pools of huge pages, for each page size and node: read, plan, set, read back.

Kernel sources: Documentation/admin-guide/mm/hugetlbpage.rst, mm/hugetlb.c (``set_max_huge_pages``). What these do not
say loudly: a short allocation is a successful write; ``nr_hugepages`` includes surplus, while what is written to it is
the persistent part; a pool that shrinks below what is in use turns the rest into surplus.
"""

from __future__ import annotations

import errno
import os
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

_GLOBAL = "/sys/kernel/mm/hugepages"
_NODE = "/sys/devices/system/node"
_COMPACT = "/proc/sys/vm/compact_memory"
_DROP_CACHES = "/proc/sys/vm/drop_caches"
_SIZE = re.compile(r"([0-9]{1,12}) ?(?:([kKMGT])(?:i?[bB])?|[bB])?")
_UNITS_KIB = {"k": 1, "K": 1, "M": 1024, "G": 1024 * 1024, "T": 1024 * 1024 * 1024}
# What the kernel frees for huge pages when it has to: caches of files, and slabs that can be rebuilt.
_RECLAIMABLE = frozenset({"MemFree", "Active(file)", "Inactive(file)", "SReclaimable"})
_MEMORY_LINE = re.compile(r"^Node +[0-9]+ +([A-Za-z()]+): +([0-9]{1,15}) kB$", re.MULTILINE)
_GLOBAL_MEMORY_LINE = re.compile(r"^([A-Za-z()]+): +([0-9]{1,15}) kB$", re.MULTILINE)
# Both directories and pages: nothing is lost, and it can be had again from disk.
_PAGE_CACHE_AND_SLABS = "3\n"
_LONGEST_COUNT = 15


class HugetlbError(NumapinError):
    """Pools that cannot be had as asked for; the message names sizes, nodes and numbers."""


class Pool(t.NamedTuple):
    """One pool as it is. ``total`` includes ``surplus``, as the kernel counts."""

    size_kib: int
    node: int
    total: int
    free: int
    surplus: int

    @property
    def persistent(self) -> int:
        """What was asked of the kernel and is there."""
        return self.total - self.surplus

    @property
    def in_use(self) -> int:
        """Pages that processes have."""
        return self.total - self.free

    @property
    def name(self) -> str:
        """As people say it, and as the snapshot keeps it."""
        return pool_name(self.size_kib, self.node)


class Machine(t.NamedTuple):
    """Nodes and pools of a host, and what memory each node could still give, in KiB."""

    nodes: tuple[int, ...]
    usable_nodes: tuple[int, ...]  # with CPUs and memory
    pools: dict[tuple[int, int], Pool]  # by page size in KiB, node
    available_kib: dict[int, int]
    reserved: dict[int, int]  # pages promised to mappings and not taken yet, by page size: the kernel counts per host
    has_nodes: bool


class Wanted(t.NamedTuple):
    """One pool as it shall be."""

    size_kib: int
    node: int
    pages: int


class Step(t.NamedTuple):
    """One pool: persistent pages before, asked for, and what can be had with the floor kept (never below before).

    Without a floor ``possible`` is a guess, and the kernel decides.
    """

    pool: Pool
    asked: int
    possible: int
    floor_mib: int

    @property
    def target(self) -> int:
        """What is asked of the kernel."""
        return min(self.asked, max(self.possible, self.pool.persistent))


class Outcome(t.NamedTuple):
    """What became of one pool. ``reason`` says why ``got`` is not ``asked``; ``recovery`` is what it took."""

    size_kib: int
    node: int
    before: int
    asked: int
    got: int
    in_use: int
    surplus: int
    reason: str
    needs_boot: bool
    recovery: tuple[str, ...]

    @property
    def short(self) -> bool:
        """Whether it is not what was asked for."""
        return self.got != self.asked

    def sentence(self, verb: str = "got") -> str:
        """As an error or a warning tells it."""
        size = size_text(self.size_kib)
        return f"node {self.node}: asked for {self.asked} pages of {size}, {verb} {self.got} ({self.reason})"


def parse_size(text: str, what: str) -> int:
    """Return the bytes of ``2M``, ``2048kB``, ``1GiB`` or a plain number of bytes. Units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise HugetlbError(f"{what} {text!r} is not a size: write a whole number with k, M, G or T, such as 2M or 1G")
    return int(match[1]) * (_UNITS_KIB[match[2]] * 1024 if match[2] else 1)


def size_text(size_kib: int) -> str:
    """Return a size as short as it goes: ``2M``, ``1G``, ``64k``."""
    for unit in "GM":
        if size_kib % _UNITS_KIB[unit] == 0 and size_kib:
            return f"{size_kib // _UNITS_KIB[unit]}{unit}"
    return f"{size_kib}k"


def pool_name(size_kib: int, node: int) -> str:
    """Name of a pool in messages, in the diff and in the snapshot; ``parse_pool_name`` reads it."""
    return f"{size_text(size_kib)} on node {node}"


def parse_pool_name(name: str) -> tuple[int, int] | None:
    """Page size in KiB and node of ``2M on node 0``; ``None`` for another name."""
    match = re.fullmatch(r"([0-9]{1,12}[kMG]) on node ([0-9]{1,5})", name)
    return (parse_size(match[1], "size") // 1024, int(match[2])) if match else None


# Read


def read_machine(host: Host) -> Machine:
    """Read nodes, pools and memory."""
    topology = read_topology(host, {"memory"})
    has_nodes = host.exists(f"{_NODE}/node{topology.nodes[0].id}")
    pools: dict[tuple[int, int], Pool] = {}
    for node in topology.nodes:
        for found in node.hugepages or ():
            if found.total is not None and found.free is not None:
                pool = Pool(found.size_kib, node.id, found.total, found.free, found.surplus or 0)
                pools[found.size_kib, node.id] = pool
    sizes = {size_kib for size_kib, _node in pools}
    return Machine(
        nodes=tuple(node.id for node in topology.nodes),
        usable_nodes=tuple(node.id for node in topology.nodes if node.kind == "cpu_and_memory"),
        pools=pools,
        available_kib={node.id: _available_kib(host, node.id, has_nodes) for node in topology.nodes},
        reserved={size: host.read_int(f"{_GLOBAL}/hugepages-{size}kB/resv_hugepages") or 0 for size in sizes},
        has_nodes=has_nodes,
    )


def _available_kib(host: Host, node: int, has_nodes: bool) -> int:
    """Memory that can be had without taking it from processes: the kernel's MemAvailable, which no node tells."""
    path, line = (f"{_NODE}/node{node}/meminfo", _MEMORY_LINE) if has_nodes else ("/proc/meminfo", _GLOBAL_MEMORY_LINE)
    return sum(int(kib) for name, kib in line.findall(host.read_text(path) or "") if name in _RECLAIMABLE)


def _directory(machine: Machine, size_kib: int, node: int) -> str:
    return (
        f"{_NODE}/node{node}/hugepages/hugepages-{size_kib}kB"
        if machine.has_nodes
        else (f"{_GLOBAL}/hugepages-{size_kib}kB")
    )


# What is asked for


def resolve(machine: Machine, given: t.Sequence[t.Mapping[str, t.Any]]) -> list[Wanted]:
    """Turn the module's ``pools`` into one number of pages for each pool.

    Each entry has ``size`` and either ``nodes`` (each with ``pages`` or ``bytes``) or a total, ``pages`` or ``bytes``,
    which is spread evenly over the nodes that have CPUs and memory; what is left over goes to the lowest ids, one page
    each. Raises HugetlbError.
    """
    wanted: dict[tuple[int, int], Wanted] = {}
    for entry in given:
        size_kib = _known_size(machine, entry["size"])
        for node, pages in _spread(machine, size_kib, entry):
            if (size_kib, node) in wanted:
                raise HugetlbError(f"the pool {pool_name(size_kib, node)} is given twice: give it one number of pages")
            wanted[size_kib, node] = Wanted(size_kib, node, pages)
    return sorted(wanted.values())


def _known_size(machine: Machine, text: str) -> int:
    known = sorted({size_kib for size_kib, _node in machine.pools})
    size_bytes = parse_size(text, "size")
    if size_bytes % 1024 or size_bytes // 1024 not in known:
        offered = ", ".join(map(size_text, known)) or "none (it is built or booted without huge pages)"
        raise HugetlbError(f"size {text!r}: this kernel has no huge pages of that size; it offers {offered}")
    return size_bytes // 1024


def _spread(machine: Machine, size_kib: int, entry: t.Mapping[str, t.Any]) -> t.Iterator[tuple[int, int]]:
    if entry.get("nodes") is not None:
        for one in entry["nodes"]:
            node = one["node"]
            if node not in machine.nodes:
                known = ", ".join(map(str, machine.nodes))
                raise HugetlbError(f"node {node} does not exist: the nodes of this host are {known}")
            if (size_kib, node) not in machine.pools:
                raise HugetlbError(f"node {node} has no pool of {size_text(size_kib)}: it has no memory of its own")
            yield node, _pages(size_kib, one, f"node {node}")
        return
    nodes = [node for node in machine.usable_nodes if (size_kib, node) in machine.pools]
    if not nodes:
        raise HugetlbError(
            f"{size_text(size_kib)}: no node of this host has both CPUs and memory, so there is nothing to spread a"
            " total over: name the nodes"
        )
    each, left = divmod(_pages(size_kib, entry, "the total"), len(nodes))
    for index, node in enumerate(nodes):
        yield node, each + (index < left)


def _pages(size_kib: int, given: t.Mapping[str, t.Any], what: str) -> int:
    size = size_text(size_kib)
    if given.get("bytes") is None:
        pages = int(given["pages"])
    else:
        asked = parse_size(str(given["bytes"]), f"{what}: bytes")
        pages, rest = divmod(asked, size_kib * 1024)
        if rest:
            lower, upper = pages * size_kib * 1024, (pages + 1) * size_kib * 1024
            raise HugetlbError(
                f"{what}: bytes {given['bytes']!r} is no multiple of the page size {size}: the nearest are"
                f" {lower} ({pages} pages) and {upper} ({pages + 1} pages)"
            )
    if pages < 0 or len(str(pages)) > _LONGEST_COUNT:
        raise HugetlbError(f"{what}: {pages} pages of {size} cannot be: give 0 or more")
    return pages


# Plan


def plan_pools(
    machine: Machine,
    wanted: t.Iterable[Wanted],
    given_up: t.Collection[Wanted] = (),
    *,
    force: bool = False,
    floor_mib: int = 0,
) -> tuple[Step, ...]:
    """Hold the wanted pools against the host: those that shrink first, as their memory may be wanted by the others.

    ``possible`` of each step keeps ``floor_mib`` of available memory on its node; pools that are ``given_up`` go back
    to what they were whatever is left. Raises HugetlbError for a pool that would shrink below what is in use, unless
    ``force``.
    """

    def place(want: Wanted) -> tuple[bool, int, int]:
        # Large pages before small ones: these take memory apart.
        return want.pages >= machine.pools[want.size_kib, want.node].persistent, -want.size_kib, want.node

    steps: list[Step] = []
    left_kib = dict(machine.available_kib)
    for want in sorted([*wanted, *given_up], key=place):
        floor = 0 if want in given_up else floor_mib
        pool = machine.pools[want.size_kib, want.node]
        more = want.pages - pool.persistent
        if more <= 0:
            steps.append(Step(pool, want.pages, want.pages, floor))
            left_kib[want.node] += min(-more, pool.free) * want.size_kib
            continue
        # Surplus pages are there already: the kernel makes them persistent first.
        there = min(more, pool.surplus)
        can = min(more - there, max(left_kib[want.node] - floor * 1024, 0) // want.size_kib)
        left_kib[want.node] -= can * want.size_kib
        steps.append(Step(pool, want.pages, pool.persistent + there + can, floor))
    if not force:
        _refuse_to_shrink_below_use(machine, steps)
    return tuple(steps)


def _refuse_to_shrink_below_use(machine: Machine, steps: t.Sequence[Step]) -> None:
    problems: list[str] = []
    taken: dict[int, int] = {}
    for step in steps:
        pool = step.pool
        if step.asked >= pool.persistent:
            continue
        taken[pool.size_kib] = taken.get(pool.size_kib, 0) + pool.persistent - step.asked
        if step.asked < pool.in_use:
            problems.append(
                f"node {pool.node}: asked for {step.asked} pages of {size_text(pool.size_kib)}, but {pool.in_use} of"
                f" its {pool.total} are in use"
            )
    if not problems:
        for size_kib, pages in taken.items():
            free = sum(pool.free for pool in machine.pools.values() if pool.size_kib == size_kib)
            reserved = machine.reserved.get(size_kib, 0)
            if reserved and free - pages < reserved:
                problems.append(
                    f"{reserved} of the {free} free pages of {size_text(size_kib)} are promised to mappings, and"
                    f" {pages} fewer were asked for"
                )
    if problems:
        raise HugetlbError(
            f"refused to shrink a pool below what is in use: {'; '.join(problems)}. Stop the processes that use them"
            " first, or set force, and the kernel takes the pages back (as surplus) when they are given up"
        )


def predict(steps: t.Iterable[Step]) -> list[Outcome]:
    """What ``set_pools`` would reach, as far as free memory tells: the answer of check mode."""
    outcomes = []
    for step in steps:
        pool = step.pool
        if step.target != pool.persistent:
            surplus = max(0, pool.in_use - step.target)
            total = step.target + surplus
            pool = pool._replace(total=total, free=total - pool.in_use, surplus=surplus)
        outcomes.append(_outcome(step, pool, _floor_reason(step)))
    return outcomes


def _floor_reason(step: Step) -> str:
    if step.possible >= step.asked:
        return ""
    kept = f" with {step.floor_mib} MiB kept available there" if step.floor_mib else ""
    return f"its memory has room for no more than {step.possible}{kept}"


def _outcome(
    step: Step, pool: Pool, reason: str, *, needs_boot: bool = False, recovery: t.Sequence[str] = ()
) -> Outcome:
    return Outcome(
        size_kib=pool.size_kib,
        node=pool.node,
        before=step.pool.persistent,
        asked=step.asked,
        got=pool.persistent,
        in_use=pool.in_use,
        surplus=pool.surplus,
        reason=reason if pool.persistent != step.asked else "",
        needs_boot=needs_boot,
        recovery=tuple(recovery),
    )


# Set and read back


def set_pools(host: Host, machine: Machine, steps: t.Iterable[Step], *, drop_caches: bool = False) -> list[Outcome]:
    """Set the pools in the order of ``steps`` and read each back. Raises HugetlbError when the kernel refuses.

    With a floor, what ``possible`` excludes is not tried; without one the kernel decides.
    """
    return [_set_pool(host, machine, step, drop_caches) for step in steps]


def _set_pool(host: Host, machine: Machine, step: Step, drop_caches: bool) -> Outcome:
    target = step.target if step.floor_mib else step.asked
    pool = step.pool
    if target == pool.persistent:
        return _outcome(step, pool, _floor_reason(step))
    recovery: list[str] = []
    try:
        pool = _write(host, machine, pool, target)
        for what, recover in _ladder(host, machine, pool.node, drop_caches):
            if pool.persistent >= target:
                break
            recover()
            recovery.append(what)
            pool = _write(host, machine, pool, target)
    except OSError as error:
        if error.errno == errno.EINVAL:
            reason = "the kernel makes pages of this size only while it boots"
            return _outcome(step, pool, reason, needs_boot=True, recovery=recovery)
        raise HugetlbError(
            f"{pool.name}: the kernel refused {target} pages ({error.strerror or error}); {_advice(error)}"
        ) from error
    reason = _floor_reason(step) if pool.persistent == target else ""
    return _outcome(step, pool, reason or _shortage(pool, target, recovery), recovery=recovery)


def _shortage(pool: Pool, target: int, recovery: t.Sequence[str]) -> str:
    if pool.persistent > target:
        return f"{pool.in_use} of its pages are in use" if pool.in_use > target else "the kernel kept more"
    tried = f" after {' and '.join(recovery)}" if recovery else ""
    return f"the kernel found no more memory in one piece there{tried}"


def _advice(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "is this run as root (become)?"
    if error.errno == errno.EROFS:
        return "a container cannot set the pools of its host: run this on the host"
    return "see the kernel's log (dmesg)"


def _write(host: Host, machine: Machine, pool: Pool, pages: int) -> Pool:
    host.write_text(f"{_directory(machine, pool.size_kib, pool.node)}/nr_hugepages", f"{pages}\n")
    return _read_pool(host, machine, pool)


def _read_pool(host: Host, machine: Machine, pool: Pool) -> Pool:
    directory = _directory(machine, pool.size_kib, pool.node)
    total, free, surplus = (host.read_int(f"{directory}/{kind}_hugepages") for kind in ("nr", "free", "surplus"))
    if total is None or free is None:
        raise HugetlbError(f"{pool.name}: {directory} cannot be read back; is the node still online?")
    return pool._replace(total=total, free=free, surplus=surplus or 0)


def _ladder(host: Host, machine: Machine, node: int, drop_caches: bool) -> t.Iterator[tuple[str, t.Callable[[], None]]]:
    """What can be done about memory that is there but in pieces, gentlest first."""
    own = f"{_NODE}/node{node}/compact"
    compact = own if machine.has_nodes and host.exists(own) else _COMPACT
    if host.exists(compact):
        yield "compaction", lambda: host.write_text(compact, "1\n")
    if drop_caches:

        def drop() -> None:
            os.sync()  # only clean pages can be dropped
            host.write_text(_DROP_CACHES, _PAGE_CACHE_AND_SLABS)
            if host.exists(compact):
                host.write_text(compact, "1\n")

        yield "dropping caches", drop


def put_back(host: Host, machine: Machine, steps: t.Sequence[Step]) -> list[str]:
    """Set the pools of ``steps`` to what they were before, the last one first; returns those that are not."""
    failed: list[str] = []
    for step in reversed(steps):
        before = step.pool.persistent
        try:
            pool = _read_pool(host, machine, step.pool)
            if pool.persistent != before:
                pool = _write(host, machine, pool, before)
        except (OSError, HugetlbError) as error:
            failed.append(f"{step.pool.name} ({error})")
            continue
        if pool.persistent != before:
            failed.append(f"{pool.name} has {pool.persistent} pages and had {before}")
    return failed


def boot_parameters(machine: Machine, wanted: t.Iterable[Wanted]) -> str:
    """The kernel's command line that reserves the wanted pools at boot: ``hugepagesz=1G hugepages=0:8,1:8``.

    The numbers for each node follow their page size, and the order matters (hugetlbpage.rst).
    """
    by_size: dict[int, list[Wanted]] = {}
    for want in wanted:
        if want.pages:
            by_size.setdefault(want.size_kib, []).append(want)
    words: list[str] = []
    for size_kib, pools in sorted(by_size.items(), reverse=True):
        counts = ",".join(f"{want.node}:{want.pages}" for want in pools)
        words.append(f"hugepagesz={size_text(size_kib).replace('k', 'K')}")
        words.append(f"hugepages={counts if machine.has_nodes else pools[0].pages}")
    return " ".join(words)
