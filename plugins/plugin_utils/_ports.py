# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Ports that stay: those that the inventory sets, those of the last plan, and free blocks for what is new."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._board import Slot
from ansible_collections.numapin.inference.plugins.plugin_utils._last_plan import Last
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Machine
from ansible_collections.numapin.inference.plugins.plugin_utils._models import FIRST_PORT, LAST_PORT, Model

FIRST_FREE_PORT = 8000
PORTS_PER_BLOCK = 16


def give_ports(
    slots: t.Sequence[Slot], models: t.Sequence[Model], machine: Machine, last: Last
) -> tuple[dict[str, int], dict[str, str], list[str]]:
    """A port for every instance and the reason for it, both by instance name; and why some get none."""
    ports: dict[str, int] = {}
    reasons: dict[str, str] = {}
    problems: list[str] = []
    owner: dict[int, Slot] = {}
    numbers = _slot_numbers(slots, machine)
    for slot in slots:
        first = slot.wish.model.port
        if first is None:
            continue
        port = first + numbers[slot.name]
        if port > LAST_PORT:
            problems.append(
                f"instance {slot.name} would get port {port} (port {first} of model {slot.wish.model.name!r} plus"
                f" {numbers[slot.name]}), and the last port is {LAST_PORT}. Set a lower `port`."
            )
        elif port in owner:
            other = owner[port]
            problems.append(
                f"models {other.wish.model.name!r} (`port: {other.wish.model.port}`) and {slot.wish.model.name!r}"
                f" (`port: {first}`) both come to port {port}, for instances {other.name} and {slot.name}: a model"
                " takes one port per instance and node, counted from its `port`. Set them further apart, or leave"
                " `port` out."
            )
        else:
            owner[port] = slot
            ports[slot.name] = port
            reasons[slot.name] = (
                f"port {port}: the model's port {first} plus {numbers[slot.name]} for this node and instance"
            )
    for model in models:
        if model.port is None:
            mine = [slot for slot in slots if slot.wish.model is model]
            given = _free_ports(mine, numbers, ports, last)
            if given is None:
                problems.append(
                    f"no free ports are left for model {model.name!r}: {len(mine)} are needed from {FIRST_FREE_PORT}"
                    " on. Set its `port`."
                )
                continue
            ports.update(given)
            for name, port in given.items():
                reasons[name] = (
                    f"port {port}: none is set for the model, so a free one from {FIRST_FREE_PORT} on, kept from run"
                    " to run"
                )
    return ports, reasons, problems


def _slot_numbers(slots: t.Sequence[Slot], machine: Machine) -> dict[str, int]:
    """How far an instance's port lies from its model's first: past the room for its instances on all nodes before."""
    per_node: dict[str, int] = {}
    for slot in slots:
        name = slot.wish.model.name
        per_node[name] = max(per_node.get(name, slot.wish.model.instances_per_node), slot.ordinal)
    return {
        slot.name: machine.node(slot.nodes[0]).rank * per_node[slot.wish.model.name] + slot.ordinal - 1
        for slot in slots
    }


def _free_ports(
    slots: t.Sequence[Slot], numbers: t.Mapping[str, int], given: t.Mapping[str, int], last: Last
) -> dict[str, int] | None:
    """Ports for one model's instances: those of the last plan, then the rest of their block, then a block of its own.

    Ports of the last plan are never given to another instance in the same run: a balancer may still send there.
    """
    result: dict[str, int] = {}
    taken = set(given.values())
    for slot in slots:
        before = last.instances.get(slot.name)
        if before is not None and before.port is not None and before.port not in taken:
            result[slot.name] = before.port
            taken.add(before.port)
    new = [slot for slot in slots if slot.name not in result]
    if not new:
        return result
    taken |= {before.port for before in last.instances.values() if before.port is not None}
    if result:
        base = min(port - numbers[name] for name, port in result.items())
        for slot in new:
            wanted = [base + numbers[slot.name], *range(base, base + PORTS_PER_BLOCK)]
            port = next((port for port in wanted if FIRST_PORT <= port <= LAST_PORT and port not in taken), None)
            if port is not None:
                result[slot.name] = port
                taken.add(port)
        new = [slot for slot in new if slot.name not in result]
    if new:
        length = (max(numbers[slot.name] for slot in new) // PORTS_PER_BLOCK + 1) * PORTS_PER_BLOCK
        start = next(
            (
                start
                for start in range(FIRST_FREE_PORT, LAST_PORT + 2 - length, PORTS_PER_BLOCK)
                if taken.isdisjoint(range(start, start + length))
            ),
            None,
        )
        if start is None:
            return None
        result.update({slot.name: start + numbers[slot.name] for slot in new})
    return result
