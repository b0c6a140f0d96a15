# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Who has what while one host is being planned: GPUs, memory and, at least one each, cores of nodes."""

from __future__ import annotations

import dataclasses
import math
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._gpu_units import Gpu, best_group
from ansible_collections.numapin.inference.plugins.plugin_utils._last_plan import LastInstance
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Machine
from ansible_collections.numapin.inference.plugins.plugin_utils._models import Model
from ansible_collections.numapin.inference.plugins.plugin_utils._wishes import Domain, Wish


def instance_name(model: Model, node_id: int, ordinal: int) -> str:
    """``MODEL-nNODE``, and ``MODEL-nNODE-K`` for the second and later on a node; of several hosts the group's."""
    if model.part:
        return model.part.instance
    return f"{model.name}-n{node_id}" if ordinal == 1 else f"{model.name}-n{node_id}-{ordinal}"


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of one instance; ``gpus`` are in the order of vLLM's workers, one tensor-parallel group after another.

    ``ordinal`` counts a model's instances on their first node from 1.
    """

    wish: Wish
    domains: tuple[Domain, ...]
    ordinal: int
    gpus: tuple[Gpu, ...]
    nodes: tuple[int, ...]

    @property
    def name(self) -> str:
        return instance_name(self.wish.model, self.nodes[0], self.ordinal)

    @property
    def weight(self) -> int:
        return len(self.gpus) or 1

    def weight_on(self, node_id: int) -> int:
        """Its claim to the cores of a node: its GPUs in the node's domain."""
        domain = next(domain for domain in self.domains if node_id in domain)
        return self._gpus_on(domain) or 1

    def memory_on(self, nodes: t.Container[int]) -> int:
        """MiB that it takes of these nodes and of no others; what may be on others as well counts as nothing."""
        if self.wish.memory_mib is None:
            return 0
        mib = 0.0
        for domain in self.domains:
            share = self.wish.memory_mib * self._share(domain)
            inside = sum(1 for node_id in domain if node_id in nodes)
            if inside == len(domain):
                mib += share
            elif self.wish.memory_policy == "interleave":
                mib += share * inside / len(domain)
        return math.ceil(mib)

    def _share(self, domain: Domain) -> float:
        if self.wish.memory_policy == "interleave":
            return len(domain) / len(self.nodes)
        return self._gpus_on(domain) / len(self.gpus) if self.gpus else 1 / len(self.domains)

    def _gpus_on(self, domain: Domain) -> int:
        return sum(1 for gpu in self.gpus if gpu.node in domain)


class Board:
    """Gives places away; nothing is given twice."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.slots: list[Slot] = []
        self._taken: set[str] = set()

    # What is there and what is left

    def free(self, wish: Wish, domain: Domain) -> list[Gpu]:
        return [gpu for gpu in wish.gpus if gpu.node in domain and gpu.key not in self._taken]

    def spare_cores(self, domain: Domain) -> int:
        """Cores that nobody needs, on the node of ``domain`` that has the fewest: an instance is on all of them."""
        return min(len(self.machine.node(node_id).cores) - self._on(node_id) for node_id in domain)

    def _on(self, node_id: int) -> int:
        return sum(1 for slot in self.slots if node_id in slot.nodes)

    def memory_mib(self, nodes: Domain) -> int | None:
        """Memory of these nodes for instances; ``None`` when it is not known of all of them."""
        sizes = [self.machine.node(node_id).memory_mib for node_id in nodes]
        return sum(size for size in sizes if size is not None) if None not in sizes else None

    def spare_memory_mib(self, nodes: Domain) -> int | None:
        """What the instances placed so far leave of the nodes' memory; negative where they need more than there is."""
        size = self.memory_mib(nodes)
        if size is None:
            return None
        return size - sum(slot.memory_on(nodes) for slot in self.slots)

    def load(self, domain: Domain) -> int:
        return sum(slot.weight for slot in self.slots if not set(domain).isdisjoint(slot.nodes))

    def of(self, model: Model, domain: Domain | None = None) -> list[Slot]:
        """The model's instances, or those of them that are on ``domain`` (also with a part of them)."""
        return [
            slot
            for slot in self.slots
            if slot.wish.model is model and (domain is None or not set(domain).isdisjoint(slot.nodes))
        ]

    # Places

    def place_inside(self, wish: Wish, domain: Domain) -> Slot | None:
        """A place for one more instance within ``domain``, ``None`` when there is no room."""
        free = self.free(wish, domain)
        if len(free) < wish.gpus_per_instance:
            return None
        return self._checked(wish, (domain,), self._groups(wish, free, wish.pipeline))

    def place_spread(self, wish: Wish, domains: t.Iterable[Domain]) -> Slot | None:
        """A place over as few of ``domains`` as possible, those with a lack of cores or memory left out."""
        candidates = [domain for domain in domains if self.spare_cores(domain) > 0]
        while True:
            chosen = self._choose(wish, candidates)
            if chosen is None:
                return None
            slot = self._slot(wish, tuple(sorted(domain for domain, _gpus in chosen)), _gpus_of(chosen))
            short = [domain for domain, _gpus in chosen if not self._memory_fits(slot, domain)]
            if not short:
                return slot
            candidates = [domain for domain in candidates if domain not in short]

    def place_as_before(self, wish: Wish, before: LastInstance, ordinal: int) -> Slot | None:
        """The place that an instance had in the last plan, when it is free and still has the shape that is wanted."""
        domains = tuple(domain for domain in wish.domains if set(domain) <= set(before.nodes))
        if tuple(sorted(node_id for domain in domains for node_id in domain)) != before.nodes:
            return None
        by_key = {gpu.key: gpu for domain in domains for gpu in self.free(wish, domain)}
        gpus = tuple(by_key[key] for key in before.gpus if key in by_key)
        if not len(gpus) == len(before.gpus) == wish.gpus_per_instance:
            return None
        if (len(domains) > 1) != (wish.spread != "inside") or (not gpus and len(domains) != wish.width):
            return None
        groups = [gpus[start : start + wish.tensor] for start in range(0, len(gpus), wish.tensor)]
        if wish.spread != "interleave" and any(
            not any(all(gpu.node in domain for gpu in group) for domain in domains) for group in groups
        ):
            return None
        return self._checked(wish, domains, gpus, ordinal)

    def claim(self, slot: Slot) -> None:
        self.slots.append(slot)
        self._taken.update(gpu.key for gpu in slot.gpus)

    # How a place is made up

    def _choose(self, wish: Wish, domains: t.Sequence[Domain]) -> list[tuple[Domain, tuple[Gpu, ...]]] | None:
        if wish.device == "cpu":
            first = sorted(domains, key=lambda domain: (self.load(domain), domain))[: wish.width]
            return [(domain, ()) for domain in first] if len(first) == wish.width else None
        size = wish.tensor if wish.spread == "pipeline" else 1
        left = wish.gpus_per_instance // size
        free = {domain: self.free(wish, domain) for domain in domains}
        counts: dict[Domain, int] = {}
        for domain in sorted(domains, key=lambda domain: (-(len(free[domain]) // size), domain)):
            counts[domain] = min(len(free[domain]) // size, left)
            left -= counts[domain]
        if left:
            return None
        return [
            (domain, self._groups(wish, free[domain], count) if size > 1 else best_group(free[domain], count))
            for domain, count in sorted(counts.items())
            if count
        ]

    def _groups(self, wish: Wish, free: t.Sequence[Gpu], count: int) -> tuple[Gpu, ...]:
        """``count`` tensor-parallel groups, each of the GPUs that are connected best among those still free."""
        result: tuple[Gpu, ...] = ()
        for _unused in range(count if wish.gpus_per_instance else 0):
            result += best_group([gpu for gpu in free if gpu not in result], wish.tensor)
        return result

    def _checked(
        self, wish: Wish, domains: tuple[Domain, ...], gpus: tuple[Gpu, ...], ordinal: int | None = None
    ) -> Slot | None:
        slot = self._slot(wish, domains, gpus, ordinal)
        fits = all(self.spare_cores(domain) > 0 and self._memory_fits(slot, domain) for domain in domains)
        return slot if fits else None

    def _slot(self, wish: Wish, domains: tuple[Domain, ...], gpus: tuple[Gpu, ...], ordinal: int | None = None) -> Slot:
        """By default with the lowest free ordinal."""
        nodes = tuple(sorted(node_id for domain in domains for node_id in domain))
        if ordinal is None:
            used = {slot.ordinal for slot in self.slots if slot.wish.model is wish.model and slot.nodes[0] == nodes[0]}
            ordinal = next(number for number in range(1, len(used) + 2) if number not in used)
        return Slot(wish, domains, ordinal, gpus, nodes)

    def _memory_fits(self, slot: Slot, domain: Domain) -> bool:
        """Whether its memory is there, within the domain, its single nodes and the packages around it.

        A policy that may take memory elsewhere is never refused.
        """
        if slot.wish.memory_mib is None or slot.wish.memory_policy == "preferred":
            return True
        around = [package for package in self.machine.packages if set(domain) <= set(package)]
        for nodes in {domain, *around, *((node_id,) for node_id in domain)}:
            spare = self.spare_memory_mib(nodes)
            if spare is not None and slot.memory_on(nodes) > spare:
                return False
        return True


def _gpus_of(chosen: t.Iterable[tuple[Domain, tuple[Gpu, ...]]]) -> tuple[Gpu, ...]:
    return tuple(gpu for _domain, gpus in chosen for gpu in gpus)
