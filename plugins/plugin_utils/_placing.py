# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""A place on the host for every instance of every model, or the reason why there is none.

What makes runs repeatable: an instance of the last plan whose nodes and GPUs are still there keeps them, and no warning
mentions anything but the result, so that planning with the plan just made gives that plan again.
"""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._board import Board, Slot, instance_name
from ansible_collections.numapin.inference.plugins.plugin_utils._last_plan import NO_PLAN, Last
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Machine
from ansible_collections.numapin.inference.plugins.plugin_utils._models import Model
from ansible_collections.numapin.inference.plugins.plugin_utils._no_room import no_room, room_on
from ansible_collections.numapin.inference.plugins.plugin_utils._wishes import Domain, RefusedError, Wish, read_wish
from ansible_collections.numapin.inference.plugins.plugin_utils._words import count, name_nodes


@contextlib.contextmanager
def _collect(problems: list[str]) -> t.Iterator[None]:
    """Let a refusal join the problems, so that the other models are looked at as well."""
    try:
        yield
    except RefusedError as exc:
        problems.append(str(exc))


def place_all(
    models: t.Sequence[Model], machine: Machine, weights_mib: t.Mapping[str, int], last: Last
) -> tuple[list[Slot], list[str], list[str]]:
    """The instances in the order of the plan, what is worth a warning, and why something cannot be placed."""
    problems: list[str] = []
    wishes: list[Wish] = []
    for model in models:
        with _collect(problems):
            wishes.append(read_wish(model, machine, weights_mib.get(model.source)))
    board = _place(wishes, machine, last)
    if isinstance(board, list):
        # What runs may stand in the way of what is new: then everything is placed afresh, in the order of the list.
        board = _place(wishes, machine, NO_PLAN)
    if isinstance(board, list):
        return [], [], problems + board
    rank = {wish.model.name: index for index, wish in enumerate(wishes)}
    slots = sorted(board.slots, key=lambda slot: (rank[slot.wish.model.name], slot.nodes[0], slot.ordinal))
    return slots, _warnings(wishes, board), problems


def _place(wishes: t.Sequence[Wish], machine: Machine, last: Last) -> Board | list[str]:
    """Place every wish, or say for each that does not fit why."""
    board = Board(machine)
    # What prefers memory fits everywhere and may be where bound instances left too little: it must not push these out.
    for wish in sorted(wishes, key=lambda wish: wish.memory_policy == "preferred"):
        _keep(wish, board, last)
    problems: list[str] = []
    for wish in wishes:
        with _collect(problems):
            if wish.model.instances is None:
                _place_per_node(wish, board)
            else:
                _place_number(wish, wish.model.instances, board)
    return problems or board


def _keep(wish: Wish, board: Board, last: Last) -> None:
    """Leave the instances of the last plan where they were, as far as they are still wanted and possible."""
    usable = {node.id for node in board.machine.nodes}
    wanted = wish.model.instances
    if wanted is not None and usable != last.nodes:
        return  # with a node more or less an even spread is worth a move
    for ordinal in range(1, (wanted or wish.model.instances_per_node) + 1):
        for node_id in sorted(usable):
            before = last.instances.get(instance_name(wish.model, node_id, ordinal))
            if before is None or not before.nodes or before.nodes[0] != node_id:
                continue
            if wanted is not None and len(board.of(wish.model)) >= wanted:
                return
            slot = board.place_as_before(wish, before, ordinal)
            if slot is not None and (wanted is not None or _all_open(wish, board, slot)):
                board.claim(slot)


def _all_open(wish: Wish, board: Board, slot: Slot) -> bool:
    return all(_is_open(wish, board, domain) for domain in slot.domains)


def _is_open(wish: Wish, board: Board, domain: Domain) -> bool:
    """Whether the model may have one more of its ``instances_per_node`` there."""
    return len(board.of(wish.model, domain)) < wish.model.instances_per_node


def _place_per_node(wish: Wish, board: Board) -> None:
    if wish.spread == "inside":
        for domain in wish.domains:
            while _is_open(wish, board, domain) and (slot := board.place_inside(wish, domain)):
                board.claim(slot)
    else:
        while slot := board.place_spread(wish, [one for one in wish.domains if _is_open(wish, board, one)]):
            board.claim(slot)
    if not board.of(wish.model):
        per = wish.model.instances_per_node
        asked = f"{'one instance' if per == 1 else f'{per} instances'} per {wish.model.scope}"
        raise RefusedError(no_room(wish, board, asked=asked, room=0))


def _place_number(wish: Wish, wanted: int, board: Board) -> None:
    while len(board.of(wish.model)) < wanted:
        slot = _least_loaded(wish, board) if wish.spread == "inside" else board.place_spread(wish, wish.domains)
        if slot is None:
            room = len(board.of(wish.model))
            raise RefusedError(no_room(wish, board, asked=f"{count(wanted, 'instance')} on this host", room=room))
        board.claim(slot)


def _least_loaded(wish: Wish, board: Board) -> Slot | None:
    for domain in sorted(wish.domains, key=lambda domain: (board.load(domain), domain)):
        slot = board.place_inside(wish, domain)
        if slot is not None:
            return slot
    return None


# --- what is worth a warning ------------------------------------------------------------------------------------------


def _warnings(wishes: t.Sequence[Wish], board: Board) -> list[str]:
    """Read from the finished board alone, whatever way led to it."""
    warnings = [warning for wish in wishes if wish.model.instances is None for warning in _empty_nodes(wish, board)]
    used = {gpu.key for slot in board.slots for gpu in slot.gpus}
    wanted = {gpu.key for wish in wishes for gpu in wish.gpus}
    idle = [gpu for gpu in board.machine.gpus if gpu.key in wanted - used]
    if idle:
        places = ", ".join(f"{gpu.label} on node {gpu.node}" for gpu in idle)
        warnings.append(
            f"{len(idle)} of {count(len(board.machine.gpus), 'GPU')} left without an instance ({places}): `instances`"
            " of a model can be a number per host"
        )
    for slot in board.slots:
        warnings.extend(_slot_warnings(slot, board))
    return sorted(warnings)


def _empty_nodes(wish: Wish, board: Board) -> t.Iterator[str]:
    """Nodes where the model has fewer instances than it asks for; where GPUs are wanted, only those that have some."""
    model = wish.model
    for domain in wish.domains:
        has = len(board.of(model, domain))
        if has >= model.instances_per_node or not (
            wish.device == "cpu" or any(gpu.node in domain for gpu in wish.gpus)
        ):
            continue
        needs = wish.gpus_per_instance
        why = f"{count(needs, 'GPU')} of one {model.scope} needed" if needs else "a core of its own needed"
        if wish.spread != "inside":
            why = f"an instance spans several {model.scope}s"
        elif wish.memory_mib is not None:
            why += f", {wish.memory_mib} MiB of memory each"
        number = "no instance" if not has else f"{has} of {model.instances_per_node} instances"
        yield f"model {model.name!r} has {number} on {name_nodes(domain)}: {room_on(wish, board, domain)}; {why}"


def _slot_warnings(slot: Slot, board: Board) -> t.Iterator[str]:
    wish = slot.wish
    names = sorted({gpu.name or "unknown" for gpu in slot.gpus})
    if len(names) > 1:
        yield (
            f"instance {slot.name} joins different GPUs ({', '.join(names)}) in one tensor-parallel group, which"
            " runs at the pace of the slowest: choose one kind with the model's `gpus` selector"
        )
    if wish.spread == "interleave":
        crossing = "its tensor-parallel group crosses nodes, so that every layer waits for the link between them, and "
        away_percent = 100 - 100 // len(slot.nodes)
        yield (
            f"instance {slot.name} is interleaved over {name_nodes(slot.nodes)}, as `spanning: interleave` asks for:"
            f" {crossing if wish.tensor > 1 else ''}{away_percent} % of its host memory is on another node than the CPU"
            " or GPU that uses it. Instances inside one node, or `spanning: pipeline`, cost less where possible"
        )
    if wish.memory_mib is not None and wish.memory_policy == "preferred":
        spare = board.spare_memory_mib(slot.nodes)
        if spare is not None and spare < 0:
            yield (
                f"instance {slot.name} needs memory of other nodes, which `memory_policy: preferred` allows:"
                f" {name_nodes(slot.nodes)} is short of {-spare} MiB"
            )
