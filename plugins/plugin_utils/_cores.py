# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""How the cores of a node are divided between its instances, and those of an instance between its processes."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._board import Slot
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Core, Machine, flatten


@dataclasses.dataclass(frozen=True)
class Share:
    """The cores of an instance; on the CPU ``workers`` are those of the threads of each worker.

    ``api_server`` are the cores that worker threads leave to the API server and the scheduler. On GPUs all processes
    share all cores: their threads wait for the GPU most of the time.
    """

    cores: tuple[Core, ...]
    workers: tuple[tuple[Core, ...], ...] = ()
    api_server: tuple[Core, ...] = ()


def share_cores(slot: Slot, machine: Machine, cores: tuple[Core, ...], api_server_cores: int) -> Share:
    """Divide an instance's cores by role; a worker always keeps one."""
    if slot.wish.device == "gpu":
        return Share(cores)
    one_each = slot.wish.width == slot.wish.tensor * slot.wish.pipeline
    workers: list[tuple[Core, ...]] = []
    for domain in slot.domains if one_each else [slot.nodes]:
        there = set(flatten(core for node_id in domain for core in machine.node(node_id).cores))
        workers.append(tuple(core for core in cores if core[0] in there))
    aside = min(api_server_cores, len(workers[0]) - 1)
    return Share(cores, (workers[0][aside:], *workers[1:]), workers[0][:aside])


def divide_cores(slots: t.Sequence[Slot], machine: Machine) -> dict[str, tuple[Core, ...]]:
    """Runs of whole neighbouring cores for every instance, in proportion to its GPUs on the node."""
    result: dict[str, tuple[Core, ...]] = {slot.name: () for slot in slots}
    for node in machine.nodes:
        here = [slot for slot in slots if node.id in slot.nodes]
        start = 0
        for slot, count in zip(here, apportion(len(node.cores), [slot.weight_on(node.id) for slot in here])):
            result[slot.name] += node.cores[start : start + count]
            start += count
    return result


def apportion(total: int, weights: t.Sequence[int]) -> list[int]:
    """Divide ``total`` things in proportion to ``weights``: all of them, at least one each; on a tie the first.

    The next one always goes to whom has least for its weight (Adams' method); ``total`` is at least ``len(weights)``.
    """
    shares = [0] * len(weights)
    if weights:
        for _unused in range(total):
            poorest = min(range(len(weights)), key=lambda index: (shares[index] / weights[index], index))
            shares[poorest] += 1
    return shares
