# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""One host as the planner sees it: which nodes, whole cores and GPUs there are to give away.

Read from ``ansible_facts['numa']`` (shape: docs/architecture.md). A node can take instances when it has CPUs *and*
memory; its CPUs are those that are online, allowed to this host and not reserved for somebody else. A core is a
physical core: all its SMT siblings that are ours, always given away together.

The cores of a node go, the lowest core ids first, to housekeeping, then (on one node of a host that balances) to the
balancer, and the rest to instances.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist
from ansible_collections.numapin.inference.plugins.plugin_utils._facts_reader import (
    FactsError,
    cpulist,
    entries,
    integer,
)
from ansible_collections.numapin.inference.plugins.plugin_utils._gpu_units import Gpu, labels, read_gpus

Core = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """A node with CPUs and memory. ``cores`` are for instances, the others are kept for the system and for nginx.

    ``rank`` is the node's place among all nodes with CPUs and memory, whether they can be used or not. ``memory_mib``
    is what instances can have: neither hugepages nor what is reserved; ``None`` when the facts do not say.
    """

    id: int
    rank: int
    cores: tuple[Core, ...]
    housekeeping: tuple[Core, ...]
    balancer: tuple[Core, ...] = ()
    memory_mib: int | None = None
    memory_why: str = ""


@dataclasses.dataclass(frozen=True)
class Machine:
    """All there is to plan with. ``unusable`` says for every other node why it takes no instance.

    ``packages`` are the usable nodes by package; nodes that share packages are one entry. ``fenced``: whether systemd
    can keep a unit on its CPUs and memory nodes; ``None`` when the facts do not say.
    """

    nodes: tuple[Node, ...]
    ranks: int
    unusable: t.Mapping[int, str]
    gpus: tuple[Gpu, ...]
    packages: tuple[tuple[int, ...], ...]
    balancer_why: str
    fenced: bool | None
    warnings: tuple[str, ...]

    def node(self, node_id: int) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    def domains(self, scope: str) -> tuple[tuple[int, ...], ...]:
        """The nodes that one instance, or one group of its GPUs, can be spread over without leaving ``scope``."""
        return self.packages if scope == "package" else tuple((node.id,) for node in self.nodes)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What instances do not get: CPUs of others, whole cores per node, cores of one node for nginx, memory per node."""

    cpus: frozenset[int] = frozenset()
    housekeeping_cores: int = 1
    balancer_cores: int = 0
    memory_mib: int = 0


def flatten(cores: t.Iterable[Core]) -> list[int]:
    """The CPUs of some cores."""
    return [cpu for core in cores for cpu in core]


def read_machine(facts: object, kept: Kept) -> Machine:
    """Work out what a host can give; one core of every node is always left to instances. Raises ``FactsError``."""
    if not isinstance(facts, t.Mapping) or not facts:
        raise FactsError(
            "there are no topology facts (ansible_facts['numa']). Run the module numapin.inference.numa_facts on the"
            " host before planning."
        )
    online = _online(facts)
    allowed = cpulist(facts, "allowed_cpus", "allowed_cpus")
    warnings: list[str] = []
    if kept.cpus - online:
        warnings.append(
            f"reserved_cpus names CPUs {format_cpulist(kept.cpus - online)}, which this host does not have online"
        )
    ours = (online if allowed is None else online & allowed) - kept.cpus
    cores_of = _core_finder(facts, ours, online, warnings)

    nodes: list[Node] = []
    unusable: dict[int, str] = {}
    claimed: dict[int, int] = {}
    rank = 0
    for index, entry in enumerate(sorted(entries(facts, "nodes"), key=lambda entry: integer(entry, "id", "nodes[]"))):
        where = f"nodes[{index}]"
        node_id = integer(entry, "id", where)
        kind = entry.get("kind")
        if kind != "cpu_and_memory":
            unusable[node_id] = _why_kind(kind)
            if kind == "cpu_only":
                warnings.append(f"node {node_id} is left out: {unusable[node_id]}")
            continue
        rank += 1
        listed = cpulist(entry, "cpus", where) or frozenset()
        twice = {cpu for cpu in listed if cpu in claimed}
        if twice:
            others = sorted({claimed[cpu] for cpu in twice})
            warnings.append(
                f"nodes {', '.join(map(str, others))} and {node_id} both list CPUs {format_cpulist(twice)}: the"
                " firmware's NUMA tables contradict themselves; these CPUs are counted to the first node only"
            )
        claimed.update(dict.fromkeys(listed - twice, node_id))
        cores = cores_of(node_id, frozenset(listed - twice))
        if not cores:
            unusable[node_id] = _why_no_cpus(listed - twice, online, allowed, kept.cpus)
            warnings.append(f"node {node_id} is left out: {unusable[node_id]}")
            continue
        aside = min(kept.housekeeping_cores, len(cores) - 1)
        if aside < kept.housekeeping_cores:
            warnings.append(
                f"node {node_id} has {_cores(len(cores))} and keeps {aside or 'none'} of them for housekeeping instead"
                f" of {kept.housekeeping_cores}, so that one is left for instances"
            )
        memory_mib, why = _memory_for_instances(entry, kept.memory_mib)
        nodes.append(Node(node_id, rank - 1, cores[aside:], cores[:aside], (), memory_mib, why))
    gpus = read_gpus(facts, warnings)
    with_cpus = [entry for entry in entries(facts, "nodes") if entry.get("kind") in ("cpu_and_memory", "cpu_only")]
    if len(with_cpus) == 1 and rank == 1:
        gpus = _on_the_only_node(gpus, integer(with_cpus[0], "id", "nodes[]"), warnings)
    balancer_why = _keep_for_balancer(facts, nodes, kept.balancer_cores, warnings)
    return Machine(
        nodes=tuple(nodes),
        ranks=rank,
        unusable=unusable,
        gpus=gpus,
        packages=_packages(facts, [node.id for node in nodes]),
        balancer_why=balancer_why,
        fenced=_fenced(facts),
        warnings=tuple(warnings),
    )


def _fenced(facts: t.Mapping[str, t.Any]) -> bool | None:
    """Whether units can be fenced in; ``None`` when the facts do not say."""
    kernel = facts.get("kernel")
    enforced = kernel.get("cpuset_enforced") if isinstance(kernel, t.Mapping) else None
    return enforced if isinstance(enforced, bool) else None


def _memory_for_instances(entry: t.Mapping[str, t.Any], reserved_mib: int) -> tuple[int | None, str]:
    """What the node's memory leaves, and how that comes about.

    Free memory is no measure: what runs now may be the very instances that are being planned.
    """
    total = entry.get("memory_total_mib")
    if not isinstance(total, int):
        return None, ""
    pools = entry.get("hugepages")
    huge_kib = 0
    for pool in pools if isinstance(pools, (list, tuple)) else ():
        size, pages = (pool.get("size_kib"), pool.get("total")) if isinstance(pool, t.Mapping) else (None, None)
        if isinstance(size, int) and isinstance(pages, int):
            huge_kib += size * pages
    huge_mib = huge_kib // 1024
    less = [f"{huge_mib} in hugepages"] if huge_mib else []
    less += [f"{reserved_mib} reserved"] if reserved_mib else []
    why = f"{total} less {' and '.join(less)}" if less else ""
    return max(total - huge_mib - reserved_mib, 0), why


def _packages(facts: t.Mapping[str, t.Any], usable: t.Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The usable nodes, those that have a package in common together; a node of no known package is alone."""
    groups = [{node_id} for node_id in usable]
    listed = facts.get("packages")
    for package in listed if isinstance(listed, (list, tuple)) else ():
        nodes = package.get("nodes") if isinstance(package, t.Mapping) else None
        together = set(usable) & set(nodes if isinstance(nodes, (list, tuple)) else ())
        joined = [group for group in groups if group & together]
        if len(joined) > 1:
            groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def _keep_for_balancer(facts: t.Mapping[str, t.Any], nodes: list[Node], wanted: int, warnings: list[str]) -> str:
    """Take the balancer's cores from one of ``nodes``, where its requests come in; returns why from that one."""
    if not wanted or not nodes:
        return ""
    nic = _busiest_nic(facts, {node.id for node in nodes})
    index = 0 if nic is None else next(i for i, node in enumerate(nodes) if node.id == nic["node"])
    node = nodes[index]
    count = min(wanted, len(node.cores) - 1)
    if count < wanted:
        warnings.append(
            f"node {node.id} keeps {count or 'none'} of its cores for nginx instead of {wanted}, so that one is left"
            " for instances"
        )
    nodes[index] = dataclasses.replace(node, cores=node.cores[count:], balancer=node.cores[:count])
    if nic is None:
        return "the first node, as the node of no network card that is up is known"
    return f"the node of {nic['name']}, the fastest network card that is up"


def _busiest_nic(facts: t.Mapping[str, t.Any], usable: t.Container[int]) -> t.Mapping[str, t.Any] | None:
    listed = facts.get("nics")
    up = [
        nic
        for nic in (listed if isinstance(listed, (list, tuple)) else ())
        if isinstance(nic, t.Mapping) and nic.get("link") == "up" and nic.get("node") in usable
    ]
    return min(up, key=lambda nic: (-(nic.get("speed_mbps") or 0), str(nic.get("name"))), default=None)


def _on_the_only_node(gpus: tuple[Gpu, ...], node_id: int, warnings: list[str]) -> tuple[Gpu, ...]:
    """On a host with one node the kernel often says "unknown" of a GPU, yet there is only one place it can be."""
    placed = [gpu for gpu in gpus if gpu.node is None]
    if placed:
        warnings.append(
            f"the kernel does not say on which node {labels(placed)} {'is' if len(placed) == 1 else 'are'}; node"
            f" {node_id} is the only one with CPUs and memory and is taken"
        )
    return tuple(dataclasses.replace(gpu, node=node_id) if gpu.node is None else gpu for gpu in gpus)


def _cores(count: int) -> str:
    return f"{count} core" if count == 1 else f"{count} cores"


def _why_kind(kind: object) -> str:
    known = {
        "memory_only": "it has memory but no CPUs",
        "cpu_only": "it has CPUs but no memory",
        "empty": "it has neither CPUs nor memory",
    }
    return known.get(str(kind), f"its kind is {kind!r}")


def _why_no_cpus(
    listed: frozenset[int] | set[int], online: frozenset[int], allowed: frozenset[int] | None, reserved: frozenset[int]
) -> str:
    if not listed:
        return "other nodes list all its CPUs as well"
    text = f"its CPUs {format_cpulist(listed)}"
    if not listed & online:
        return f"{text} are all offline"
    if allowed is not None and not listed & online & allowed:
        return f"{text} are not among those allowed to this host ({format_cpulist(allowed) or 'none'})"
    return f"{text} are all taken by reserved_cpus ({format_cpulist(reserved)})"


def _online(facts: t.Mapping[str, t.Any]) -> frozenset[int]:
    """CPUs of the nodes without those that ``cpus`` calls offline."""
    offline = {
        integer(entry, "id", f"cpus[{index}]")
        for index, entry in enumerate(entries(facts, "cpus"))
        if entry.get("online") is False
    }
    listed: set[int] = set()
    for index, entry in enumerate(entries(facts, "nodes")):
        listed |= cpulist(entry, "cpus", f"nodes[{index}]") or frozenset()
    return frozenset(listed - offline)


def _core_finder(
    facts: t.Mapping[str, t.Any], ours: frozenset[int], online: frozenset[int], warnings: list[str]
) -> t.Callable[[int, frozenset[int]], tuple[Core, ...]]:
    """A function that groups a node's CPUs that are ours into cores, in the order of their core ids."""
    siblings: dict[int, frozenset[int]] = {}
    order: dict[int, tuple[float, float]] = {}
    parsed: dict[str, frozenset[int]] = {}
    for index, entry in enumerate(entries(facts, "cpus")):
        where = f"cpus[{index}]"
        cpu = integer(entry, "id", where)
        text = entry.get("smt_siblings")
        if isinstance(text, str) and text not in parsed:
            parsed[text] = cpulist(entry, "smt_siblings", where) or frozenset()
        siblings[cpu] = parsed.get(text, frozenset()) if isinstance(text, str) else frozenset()
        package, core = entry.get("package"), entry.get("core")
        order[cpu] = (_or_last(package), _or_last(core))

    def find(node_id: int, listed: frozenset[int]) -> tuple[Core, ...]:
        left = set(listed & ours)
        cores: list[Core] = []
        shared: set[int] = set()
        for cpu in sorted(left):
            if cpu not in left:
                continue
            whole = siblings.get(cpu, frozenset()) | {cpu}
            core = tuple(sorted(whole & left))
            left.difference_update(core)
            cores.append(core)
            if (whole & online) - ours:
                shared.update(core)
        if shared:
            warnings.append(
                f"node {node_id}: CPUs {format_cpulist(shared)} share their cores with SMT siblings that are not this"
                " host's to use; what runs there slows the instance down"
            )
        last = (float("inf"), float("inf"))
        return tuple(sorted(cores, key=lambda core: (order.get(core[0], last), core)))

    return find


def _or_last(value: object) -> float:
    return float(value) if isinstance(value, int) else float("inf")
