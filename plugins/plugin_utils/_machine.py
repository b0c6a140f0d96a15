# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""One host as the planner sees it: which nodes, whole cores and GPUs there are to give away.

Read from ``ansible_facts['numa']`` (shape: docs/architecture.md). A node can take instances when it has CPUs *and*
memory; its CPUs are those that are online, allowed to this host and not reserved for somebody else. A core is a
physical core: all its SMT siblings that are ours, always given away together.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._models import plain

Core = tuple[int, ...]


class FactsError(NumapinError):
    """The topology facts are missing, or are not what ``numa_facts`` returns."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU; ``facts`` is its whole entry in the facts, made of plain types, for selectors."""

    uuid: str | None
    pci_address: str
    name: str | None
    vendor: str | None
    node: int | None
    facts: t.Mapping[str, t.Any] = dataclasses.field(repr=False, compare=False)

    @property
    def key(self) -> str:
        """What tells this GPU from every other one of its host."""
        return self.uuid or self.pci_address

    @property
    def label(self) -> str:
        """The GPU in words, with everything that is known to recognise it by."""
        return " ".join(part for part in (self.name or "GPU", self.pci_address, self.uuid) if part)


@dataclasses.dataclass(frozen=True)
class Node:
    """A node with CPUs and memory. ``cores`` are for instances, ``housekeeping`` are kept for the system.

    ``rank`` is the node's place among all nodes with CPUs and memory, whether they can be used or not.
    """

    id: int
    rank: int
    cores: tuple[Core, ...]
    housekeeping: tuple[Core, ...]


@dataclasses.dataclass(frozen=True)
class Machine:
    """All there is to plan with. ``unusable`` says for every other node why it takes no instance."""

    nodes: tuple[Node, ...]
    ranks: int
    unusable: t.Mapping[int, str]
    gpus: tuple[Gpu, ...]
    warnings: tuple[str, ...]

    def node(self, node_id: int) -> Node:
        return next(node for node in self.nodes if node.id == node_id)


def flatten(cores: t.Iterable[Core]) -> list[int]:
    """The CPUs of some cores."""
    return [cpu for core in cores for cpu in core]


def read_machine(facts: object, reserved: frozenset[int], housekeeping_cores: int) -> Machine:
    """Work out what a host can give.

    ``reserved``: CPUs that belong to somebody else. ``housekeeping_cores``: whole cores per node that instances never
    get; one core is always left to them. Raises ``FactsError``.
    """
    if not isinstance(facts, t.Mapping) or not facts:
        raise FactsError(
            "there are no topology facts (ansible_facts['numa']). Run the module numapin.inference.numa_facts on the"
            " host before planning."
        )
    online = _online(facts)
    allowed = _cpulist(facts, "allowed_cpus", "allowed_cpus")
    warnings: list[str] = []
    if reserved - online:
        warnings.append(
            f"reserved_cpus names CPUs {format_cpulist(reserved - online)}, which this host does not have online"
        )
    ours = (online if allowed is None else online & allowed) - reserved
    cores_of = _core_finder(facts, ours, online, warnings)

    nodes: list[Node] = []
    unusable: dict[int, str] = {}
    claimed: dict[int, int] = {}
    rank = 0
    for index, entry in enumerate(sorted(_entries(facts, "nodes"), key=lambda entry: _integer(entry, "id", "nodes[]"))):
        where = f"nodes[{index}]"
        node_id = _integer(entry, "id", where)
        kind = entry.get("kind")
        if kind != "cpu_and_memory":
            unusable[node_id] = _why_kind(kind)
            if kind == "cpu_only":
                warnings.append(f"node {node_id} is left out: {unusable[node_id]}")
            continue
        rank += 1
        listed = _cpulist(entry, "cpus", where) or frozenset()
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
            unusable[node_id] = _why_no_cpus(listed - twice, online, allowed, reserved)
            warnings.append(f"node {node_id} is left out: {unusable[node_id]}")
            continue
        kept = min(housekeeping_cores, len(cores) - 1)
        if kept < housekeeping_cores:
            warnings.append(
                f"node {node_id} has {_cores(len(cores))} and keeps {kept or 'none'} of them for housekeeping instead"
                f" of {housekeeping_cores}, so that one is left for instances"
            )
        nodes.append(Node(id=node_id, rank=rank - 1, cores=cores[kept:], housekeeping=cores[:kept]))
    gpus = _gpus(facts)
    with_cpus = [entry for entry in _entries(facts, "nodes") if entry.get("kind") in ("cpu_and_memory", "cpu_only")]
    if len(with_cpus) == 1 and rank == 1:
        gpus = _on_the_only_node(gpus, _integer(with_cpus[0], "id", "nodes[]"), warnings)
    return Machine(nodes=tuple(nodes), ranks=rank, unusable=unusable, gpus=gpus, warnings=tuple(warnings))


def _on_the_only_node(gpus: tuple[Gpu, ...], node_id: int, warnings: list[str]) -> tuple[Gpu, ...]:
    """On a host with one node the kernel often says "unknown" of a GPU, yet there is only one place it can be."""
    placed = [gpu for gpu in gpus if gpu.node is None]
    if placed:
        warnings.append(
            f"the kernel does not say on which node {', '.join(gpu.label for gpu in placed)} "
            f"{'is' if len(placed) == 1 else 'are'}; node {node_id} is the only one with CPUs and memory and is taken"
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
        _integer(entry, "id", f"cpus[{index}]")
        for index, entry in enumerate(_entries(facts, "cpus"))
        if entry.get("online") is False
    }
    listed: set[int] = set()
    for index, entry in enumerate(_entries(facts, "nodes")):
        listed |= _cpulist(entry, "cpus", f"nodes[{index}]") or frozenset()
    return frozenset(listed - offline)


def _core_finder(
    facts: t.Mapping[str, t.Any], ours: frozenset[int], online: frozenset[int], warnings: list[str]
) -> t.Callable[[int, frozenset[int]], tuple[Core, ...]]:
    """A function that groups a node's CPUs that are ours into cores, in the order of their core ids."""
    siblings: dict[int, frozenset[int]] = {}
    order: dict[int, tuple[float, float]] = {}
    parsed: dict[str, frozenset[int]] = {}
    for index, entry in enumerate(_entries(facts, "cpus")):
        where = f"cpus[{index}]"
        cpu = _integer(entry, "id", where)
        text = entry.get("smt_siblings")
        if isinstance(text, str) and text not in parsed:
            parsed[text] = _cpulist(entry, "smt_siblings", where) or frozenset()
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


def _gpus(facts: t.Mapping[str, t.Any]) -> tuple[Gpu, ...]:
    gpus: dict[str, Gpu] = {}
    for index, entry in enumerate(_entries(facts, "gpus")):
        where = f"gpus[{index}]"
        copy = plain(entry)
        address = copy.get("pci_address")
        if not isinstance(address, str) or not address:
            raise _broken(f"{where}.pci_address", address, "a PCI address such as 0000:17:00.0")
        node = copy.get("node")
        gpu = Gpu(
            uuid=copy.get("uuid") or None,
            pci_address=address,
            name=copy.get("name"),
            vendor=copy.get("vendor"),
            node=None if node is None else _integer(entry, "node", where),
            facts=copy,
        )
        gpus.setdefault(gpu.key, gpu)
    return tuple(sorted(gpus.values(), key=lambda gpu: (gpu.pci_address, gpu.key)))


def _entries(facts: t.Mapping[str, t.Any], key: str) -> list[t.Mapping[str, t.Any]]:
    value = facts.get(key)
    if value is None and key in ("cpus", "gpus") and key in facts:
        raise FactsError(
            f"the topology facts (ansible_facts['numa']) were gathered without {key}, which planning needs: let"
            " numapin.inference.numa_facts gather cpus and gpus (by default it gathers everything)"
        )
    if not isinstance(value, (list, tuple)) or not all(isinstance(entry, t.Mapping) for entry in value):
        raise _broken(key, value, "a list of dictionaries")
    return list(value)


def _integer(entry: t.Mapping[str, t.Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _broken(f"{where}.{key}", value, "a whole number from 0 on")
    return int(value)


def _cpulist(entry: t.Mapping[str, t.Any], key: str, where: str) -> frozenset[int] | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _broken(f"{where}.{key}", value, "a cpulist such as 0-3,8")
    try:
        return parse_cpulist(value)
    except CpusetError as exc:
        raise FactsError(f"the topology facts cannot be used: {where}.{key}: {exc}") from exc


def _broken(where: str, value: object, allowed: str) -> FactsError:
    return FactsError(
        f"the topology facts (ansible_facts['numa']) cannot be used: {where} is {str(value)[:60]!r}, it must be"
        f" {allowed}. Gather them again with the module numapin.inference.numa_facts of this release."
    )
