# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Rules for interrupts: what a user writes, checked whole, and the CPUs that each vector shall have.

Nothing is written here. ``plan`` finds every fault of all rules before it gives up, so that one run names them all.
"""

from __future__ import annotations

import heapq
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import KINDS, Device
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError, Vector

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine

NAMED = ("netdev", "pci_address", "nvme", "infiniband", "driver", "gpu", "action")
POLICIES = ("spread", "all")
_RULE_KEYS = frozenset({"name", "devices", "target", "cpus", "policy", "xps", "rps", "optional"})
_LOCAL = "local"


class Rule(t.NamedTuple):
    """One rule as it was written; ``cpus`` excludes ``target``, which is ``None`` for the device's own node."""

    label: str
    selector: str  # one of NAMED, or "node"
    value: str  # of a named selector; else empty
    node: int | None
    kinds: tuple[str, ...]
    target: int | None
    cpus: frozenset[int] | None
    policy: str
    xps: bool
    rps: bool
    optional: bool

    @property
    def what(self) -> str:
        """The selector as a person says it."""
        if self.selector == "node":
            return f"{', '.join(self.kinds)} of node {self.node}"
        return f"{self.selector} {self.value}"


class Options(t.NamedTuple):
    """All that is wanted: the rules, the CPUs that are never used, and the kernel's default for new vectors."""

    rules: tuple[Rule, ...]
    exclude_cpus: frozenset[int]
    default_smp_affinity: frozenset[int] | None


class Wanted(t.NamedTuple):
    """One vector and the CPUs it shall have. ``pool``: with policy spread, the CPUs that would do as well."""

    vector: Vector
    device: str  # for people
    rule: str
    cpus: frozenset[int]
    pool: frozenset[int]


class WantedQueues(t.NamedTuple):
    """The queues of a network interface: CPUs whose senders use them (XPS), CPUs that work on what arrives (RPS)."""

    netdev: str
    rule: str
    xps: frozenset[int] | None
    rps: frozenset[int] | None


class Plan(t.NamedTuple):
    """What all rules come to. ``idle`` are devices that were found and have no vectors now."""

    vectors: tuple[Wanted, ...]
    queues: tuple[WantedQueues, ...]
    devices: tuple[str, ...]  # PCI addresses that rules selected
    warnings: tuple[str, ...]
    idle: tuple[str, ...]


# What a user writes


def parse_options(given: t.Mapping[str, t.Any]) -> Options:
    """Check rules, exclude_cpus and default_smp_affinity as written. Raises ``IrqError`` with every fault."""
    faults: list[str] = []
    rules = []
    for number, rule in enumerate(given.get("rules") or (), start=1):
        label = f"rule {number}" + (f" ({rule['name']})" if isinstance(rule, dict) and rule.get("name") else "")
        try:
            rules.append(_parse_rule(label, rule))
        except (IrqError, CpusetError) as error:
            faults.append(f"{label}: {error}")
    sets: dict[str, frozenset[int] | None] = {}
    for key in ("exclude_cpus", "default_smp_affinity"):
        try:
            sets[key] = parse_cpulist(str(given[key])) if given.get(key) is not None else None
        except CpusetError as error:
            faults.append(f"{key}: {error}")
    if faults:
        raise IrqError("\n".join(faults))
    return Options(tuple(rules), sets["exclude_cpus"] or frozenset(), sets["default_smp_affinity"])


def _parse_rule(label: str, rule: t.Any) -> Rule:
    if not isinstance(rule, dict) or not isinstance(rule.get("devices"), dict):
        raise IrqError("it must be a dictionary with devices, which says what it is about, such as {netdev: eth0}")
    unknown = sorted(set(rule) - _RULE_KEYS)
    if unknown:
        raise IrqError(f"{', '.join(unknown)} is unknown; a rule may have {', '.join(sorted(_RULE_KEYS))}")
    selector, value, node, kinds = _parse_devices(rule["devices"])
    policy = rule.get("policy") or "spread"
    if policy not in POLICIES:
        raise IrqError(f"policy is {policy!r}; it may be {' or '.join(POLICIES)}")
    target = rule.get("target")
    cpus = None
    if rule.get("cpus") is not None:
        if target is not None:
            raise IrqError(f"it has both target ({target}) and cpus ({rule['cpus']}): give one of them")
        cpus = parse_cpulist(str(rule["cpus"]))
        if not cpus:
            raise IrqError("cpus is empty: name at least one CPU, or give target instead")
    return Rule(
        label=label,
        selector=selector,
        value=value,
        node=node,
        kinds=kinds,
        target=_parse_target(target),
        cpus=cpus,
        policy=policy,
        xps=bool(rule.get("xps")),
        rps=bool(rule.get("rps")),
        optional=bool(rule.get("optional")),
    )


def _parse_devices(devices: dict[str, t.Any]) -> tuple[str, str, int | None, tuple[str, ...]]:
    given = {key: value for key, value in devices.items() if value is not None}
    named = sorted(set(given) - {"node", "kinds"})
    if set(named) - set(NAMED):
        unknown = ", ".join(sorted(set(named) - set(NAMED)))
        raise IrqError(f"devices: {unknown} is unknown; it may have node with kinds, or one of {', '.join(NAMED)}")
    if len(named) == 1 and len(given) == 1:
        value = given[named[0]]
        if not isinstance(value, str) or not value.strip():
            raise IrqError(f"devices: {named[0]} is {value!r}; it must be a name")
        return named[0], value.strip(), None, ()
    if named or "node" not in given:
        said = ", ".join(sorted(given)) or "nothing"
        raise IrqError(f"devices has {said}; it must have node with kinds, or exactly one of {', '.join(NAMED)}")
    node, kinds = given["node"], given.get("kinds") or list(KINDS)
    if not isinstance(node, int) or isinstance(node, bool) or node < 0:
        raise IrqError(f"devices: node is {node!r}; it must be a node's number, 0 or more")
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong:
        raise IrqError(f"devices: kinds has {', '.join(map(str, wrong))}; it may have {', '.join(KINDS)}")
    return "node", "", node, tuple(kinds)


def _parse_target(target: t.Any) -> int | None:
    if target is None or target == _LOCAL:
        return None
    node = target.get("node") if isinstance(target, dict) and set(target) == {"node"} else None
    if isinstance(node, str) and node.isdecimal():
        node = int(node)
    if not isinstance(node, int) or isinstance(node, bool) or node < 0:
        raise IrqError(f"target is {target!r}; it may be local, or {{node: N}} with a node's number")
    return node


# What it comes to


def plan(options: Options, machine: Machine, *, lenient: bool = False) -> Plan:
    """Return the CPUs of every vector that a rule selects. Raises ``IrqError`` with every fault of the rules.

    ``lenient`` is for a boot, at which not every device is there yet: what is missing is left out.
    """
    return _Planner(options, machine, lenient).plan()


class _Planner:
    def __init__(self, options: Options, machine: Machine, lenient: bool) -> None:
        self._options = options
        self._machine = machine
        self._lenient = lenient
        self._faults: list[str] = []
        self._warnings: list[str] = []
        self._idle: list[str] = []
        self._addresses: dict[str, None] = {}
        self._spreader = Spreader(machine.siblings)
        # By number: the rule that came first, its CPUs, and the vector as that rule's.
        self._claims: dict[int, tuple[Rule, frozenset[int], Vector]] = {}

    def plan(self) -> Plan:
        machine, options = self._machine, self._options
        for key in ("exclude_cpus", "default_smp_affinity"):
            self._refuse_unknown_cpus(key, getattr(options, key) or frozenset())
        if options.default_smp_affinity is not None and not options.default_smp_affinity & machine.online:
            self._faults.append(
                f"default_smp_affinity: none of the CPUs {format_cpulist(options.default_smp_affinity)} is online"
            )
        vectors: list[Wanted] = []
        queues: dict[str, WantedQueues] = {}
        for rule in options.rules:
            try:
                for pool, label, own in self._groups(rule):
                    vectors += self._place(rule, pool, label, own)
                if rule.xps or rule.rps:
                    self._queues(rule, queues)
            except IrqError as error:
                self._faults.append(f"{rule.label}: {error}")
        if self._faults and not self._lenient:
            raise IrqError("\n".join(self._faults))
        return Plan(
            tuple(vectors),
            tuple(queues.values()),
            tuple(self._addresses),
            tuple(self._warnings + self._faults),
            tuple(self._idle),
        )

    def _refuse_unknown_cpus(self, what: str, cpus: frozenset[int]) -> None:
        unknown = cpus - self._machine.present
        if unknown:
            self._faults.append(
                f"{what}: there is no CPU {format_cpulist(unknown)}; this host has"
                f" {format_cpulist(self._machine.present)}"
            )

    def _groups(self, rule: Rule) -> t.Iterator[tuple[frozenset[int], str, list[Vector]]]:
        """Yield (CPUs, device for people, vectors) for each device of a rule."""
        if rule.selector == "action":
            yield from self._groups_by_action(rule)
            return
        devices = self._devices(rule)
        for device in devices:
            pool = self._pool(rule, device.address, device.label)
            self._addresses[device.address] = None
            own = self._machine.vectors.of_device(device.address)
            if not own:
                self._idle.append(
                    f"{rule.label}: {device.label} has no interrupt vectors now: there is nothing to place"
                )
            yield pool, device.label, own

    def _groups_by_action(self, rule: Rule) -> t.Iterator[tuple[frozenset[int], str, list[Vector]]]:
        numbers = set(self._machine.by_action(rule.value))
        if not numbers:
            self._nothing(rule, f"no interrupt has an action whose name matches {rule.value!r} (see /proc/interrupts)")
        for vector in self._machine.vectors.all():
            if vector.number in numbers:
                label = self._machine.device(vector.device).label if vector.device else "no PCI device"
                yield self._pool(rule, vector.device, vector.name), label, [vector]

    def _devices(self, rule: Rule) -> list[Device]:
        if rule.selector == "node":
            devices = self._machine.by_kind(t.cast("int", rule.node), rule.kinds)
            if not devices:
                self._nothing(rule, f"there is no {' or '.join(rule.kinds)} on node {rule.node}")
            return devices
        try:
            return self._machine.by_name(rule.selector, rule.value)
        except IrqError as error:
            self._nothing(rule, str(error))
            return []

    def _nothing(self, rule: Rule, message: str) -> None:
        """A rule that matches nothing is a mistake, unless it says that it may."""
        if not rule.optional:
            raise IrqError(f"{message}; a rule that may match nothing says optional: true")

    def _pool(self, rule: Rule, address: str | None, label: str) -> frozenset[int]:
        """Return the CPUs that a rule allows for a device's vectors: online ones, without those excluded."""
        wide, where = self._wide_pool(rule, address, label)
        pool = wide - self._options.exclude_cpus
        if not pool:
            raise IrqError(
                f"no CPU is left for {label}: {where} has {format_cpulist(wide)} online, all of them in exclude_cpus"
                f" ({format_cpulist(self._options.exclude_cpus)})"
            )
        return pool

    def _wide_pool(self, rule: Rule, address: str | None, label: str) -> tuple[frozenset[int], str]:
        """Return the online CPUs of a rule's target, and what that target is called."""
        machine = self._machine
        if rule.cpus is not None:
            unknown = rule.cpus - machine.present
            if unknown:
                raise IrqError(
                    f"cpus: there is no CPU {format_cpulist(unknown)}; this host has {format_cpulist(machine.present)}"
                )
            online = rule.cpus & machine.online
            if not online:
                raise IrqError(f"cpus: none of the CPUs {format_cpulist(rule.cpus)} is online")
            if online != rule.cpus:
                warning = f"{rule.label}: the CPUs {format_cpulist(rule.cpus - online)} are offline and left out"
                if warning not in self._warnings:
                    self._warnings.append(warning)
            return online, "cpus"
        node = rule.target
        if node is None:
            node = machine.node_of(address) if address else None
            if node is None:
                raise IrqError(
                    f"nothing says on which node {label} is: give target: {{node: N}} or cpus instead of target: local"
                )
        if node not in machine.node_cpus:
            raise IrqError(f"target: there is no node {node}; this host has {format_cpulist(machine.node_cpus)}")
        if not machine.node_cpus[node]:
            raise IrqError(f"node {node} has no CPU online: give target: {{node: N}} with another one, or cpus")
        return machine.node_cpus[node], f"node {node}"

    def _place(self, rule: Rule, pool: frozenset[int], label: str, own: list[Vector]) -> list[Wanted]:
        placed = []
        for vector in own:
            claim = self._claims.get(vector.number)
            if claim is not None:
                self._refuse_disagreement(rule, pool, claim, label, vector)
                continue
            self._claims[vector.number] = rule, pool, vector
            cpus = frozenset({self._spreader.take(pool)}) if rule.policy == "spread" else pool
            placed.append(Wanted(vector, label, rule.label, cpus, pool))
        return placed

    def _refuse_disagreement(
        self,
        rule: Rule,
        pool: frozenset[int],
        claim: tuple[Rule, frozenset[int], Vector],
        label: str,
        vector: Vector,
    ) -> None:
        first, first_pool, claimed = claim
        if (pool, rule.policy) == (first_pool, first.policy):
            return
        if claimed.device != vector.device:
            # Nobody chose that: without MSI, devices share an interrupt as the board has wired them.
            self._warnings.append(
                f"{rule.label}: {label} shares its interrupt {vector.number} ({vector.name}) with"
                f" {claimed.device or 'another device'}, which {first.label} has placed: it stays there"
            )
            return
        raise IrqError(
            f"it disagrees with {first.label}: both are about {label}, interrupt {vector.number} ({vector.name}), which"
            f" here goes to {format_cpulist(pool)} ({rule.policy}) and there to {format_cpulist(first_pool)}"
            f" ({first.policy}): let one of them leave the device out"
        )

    def _queues(self, rule: Rule, queues: dict[str, WantedQueues]) -> None:
        if rule.selector == "action":
            raise IrqError(
                "xps and rps are about network interfaces: select these by netdev, driver, or node and kinds"
            )
        for device in self._devices(rule):
            wide, _where = self._wide_pool(rule, device.address, device.label)
            pool = self._pool(rule, device.address, device.label)
            for netdev in device.netdevs:
                new = WantedQueues(netdev, rule.label, wide if rule.xps else None, pool if rule.rps else None)
                old = queues.setdefault(netdev, new)
                if old[2:] != new[2:]:
                    raise IrqError(
                        f"it disagrees with {old.rule} on xps or rps of {netdev}: let one of them leave it out"
                    )


class Spreader:
    """Hands out one CPU after the other: the core with the least first, of a core its first CPU first.

    It counts over all rules, so that two rules that share CPUs do not both begin with the first one.
    """

    def __init__(self, siblings: t.Callable[[int], frozenset[int]]) -> None:
        self._siblings = siblings
        self._core_of: dict[int, int] = {}
        self._load: dict[int, int] = {}
        self._core_load: dict[int, int] = {}
        self._heaps: dict[frozenset[int], list[tuple[int, int, int, int]]] = {}

    def take(self, pool: frozenset[int]) -> int:
        """Return the next CPU of a pool."""
        heap = self._heaps.get(pool)
        if heap is None:
            heap = self._heaps[pool] = self._heap(pool)
        # Loads only grow: the first entry that is still true is the smallest of all.
        while True:
            _core_load, _load, rank, cpu = heap[0]
            now = (self._core_load[self._core_of[cpu]], self._load[cpu], rank, cpu)
            if now == heap[0]:
                break
            heapq.heapreplace(heap, now)
        self._load[cpu] += 1
        self._core_load[self._core_of[cpu]] += 1
        return cpu

    def _heap(self, pool: frozenset[int]) -> list[tuple[int, int, int, int]]:
        entries = []
        for cpu in sorted(pool):
            siblings = self._siblings(cpu)
            self._core_of[cpu] = core = min(siblings)
            self._load.setdefault(cpu, 0)
            self._core_load.setdefault(core, 0)
            rank = sum(1 for other in siblings & pool if other < cpu)
            entries.append((self._core_load[core], self._load[cpu], rank, cpu))
        heapq.heapify(entries)
        return entries
