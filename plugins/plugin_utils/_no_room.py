# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The refusal of a model that does not fit: what was asked, what there is on every node, which setting would help."""

from __future__ import annotations

from ansible_collections.numapin.inference.plugins.plugin_utils._board import Board
from ansible_collections.numapin.inference.plugins.plugin_utils._gpu_units import labels
from ansible_collections.numapin.inference.plugins.plugin_utils._wishes import Domain, Wish, pipeline_stages
from ansible_collections.numapin.inference.plugins.plugin_utils._words import count, name_nodes


def no_room(wish: Wish, board: Board, asked: str, room: int) -> str:
    """Why ``asked`` is not possible when there is room for ``room``."""
    model, machine = wish.model, board.machine
    there = [room_on(wish, board, domain) for domain in wish.domains]
    there += [
        f"node {node_id} takes no instance ({why})"
        for node_id, why in sorted(machine.unusable.items())
        if not wish.gpus_per_instance or any(gpu.node == node_id for gpu in wish.gpus)
    ]
    known = {node.id for node in machine.nodes} | set(machine.unusable)
    strange = [gpu for gpu in wish.gpus if gpu.node not in known]
    if strange:
        there.append(f"{labels(strange)} is said to be on node {strange[0].node}, which this host does not have")
    return (
        f"model {model.name!r} asks for {asked}{_each(wish)}, and there is room for {room or 'none'}:"
        f" {'; '.join(there) or 'this host has no node with CPUs and memory'}. {_what_helps(wish, board, room)}"
    )


def room_on(wish: Wish, board: Board, domain: Domain) -> str:
    """What ``domain`` has of what the model needs, and what of it is free."""
    return f"{name_nodes(domain)} {'has' if len(domain) == 1 else 'have'} {_room(wish, board, domain)}"


def _each(wish: Wish) -> str:
    memory = "" if wish.memory_mib is None else f" and {wish.memory_mib} MiB of host memory ({wish.memory_why})"
    if not wish.gpus_per_instance:
        return f" on the CPU{memory and memory.replace(' and', ' with', 1) + ' each'}"
    sizes = f"tensor_parallel_size {wish.tensor}"
    if wish.pipeline > 1:
        sizes += f", pipeline_parallel_size {wish.pipeline}"
    return f" with {count(wish.gpus_per_instance, 'GPU')}{memory} each ({sizes})"


def _room(wish: Wish, board: Board, domain: Domain) -> str:
    cores = min(len(board.machine.node(node_id).cores) for node_id in domain)
    spare = board.spare_cores(domain)
    others = sorted(
        {slot.wish.model.name for slot in board.slots if not set(domain).isdisjoint(slot.nodes)} - {wish.model.name}
    )
    shared = f", shared with {', '.join(others)}" if others else ""
    memory = _memory(wish, board, domain)
    if not wish.gpus_per_instance:
        return f"{count(cores, 'core')} for instances, {spare} free{memory}{shared}"
    matching = sum(1 for gpu in wish.gpus if gpu.node in domain)
    no_core = "" if spare > 0 else f" but no free core (of {cores})"
    kind = "matching GPU" if wish.model.gpus is not None else "GPU"
    return f"{count(matching, kind)}, {len(board.free(wish, domain))} free{no_core}{memory}{shared}"


def _memory(wish: Wish, board: Board, domain: Domain) -> str:
    size, spare = board.memory_mib(domain), board.spare_memory_mib(domain)
    if wish.memory_mib is None or size is None or spare is None:
        return ""
    return f" and {size} MiB of memory for instances, {max(spare, 0)} free"


def _what_helps(wish: Wish, board: Board, room: int) -> str:
    model, size = wish.model, wish.gpus_per_instance
    free = [len(board.free(wish, domain)) for domain in wish.domains if board.spare_cores(domain) > 0]
    has = [sum(1 for gpu in wish.gpus if gpu.node in domain) for domain in wish.domains]
    help_with: list[str] = []
    if model.instances is not None and room:
        help_with.append(f"set `instances` to at most {room}")
    if size > 1 and 0 < max(free, default=0) < size:
        help_with.append(f"set `tensor_parallel_size` to at most {max(free)}")
    if wish.spread == "inside" and size > max(has, default=0):
        help_with.extend(_spanning(wish, board, has))
    if _lacks_memory(wish, board):
        help_with.extend(_memory_helps(wish, board))
    if any(slot.wish.model is not model for slot in board.slots):
        help_with.append(
            "lower `instances` or `tensor_parallel_size` of the models before it, or move it up in vllm_models"
        )
    if size and model.gpus is not None:
        help_with.append("widen its `gpus` selector")
    if any(node.housekeeping and board.spare_cores((node.id,)) <= 0 for node in board.machine.nodes):
        help_with.append("lower `housekeeping_cores`")
    if not board.machine.nodes:
        help_with.append("check reserved_cpus and the CPUs this host may use (allowed_cpus in the facts)")
    if not help_with:
        help_with.append("leave the model out on this host")
    rule = f"A tensor-parallel group stays inside one {model.scope}. " if size > max(has, default=0) else ""
    return f"{rule}What would help: {'; '.join(help_with)}."


def _spanning(wish: Wish, board: Board, has: list[int]) -> list[str]:
    """Ways to let the instance be on several nodes, as far as this host has enough."""
    model = wish.model
    ways = []
    if model.scope == "node":
        packages = [sum(1 for gpu in wish.gpus if gpu.node in package) for package in board.machine.packages]
        if wish.gpus_per_instance <= max(packages, default=0):
            ways.append("set `scope: package`, which lets it use all nodes of a package")
    stages = pipeline_stages(model.tensor_parallel_size, model.pipeline_parallel_size, has)
    if stages is not None and model.spanning != "pipeline":
        ways.append(
            f"set `spanning: pipeline`, which makes it {stages[1]} groups of {count(stages[0], 'GPU')}, each inside one"
            f" {model.scope}"
        )
    if wish.gpus_per_instance <= sum(has) and model.spanning != "interleave":
        ways.append("set `spanning: interleave`, which lets its group cross nodes at a cost")
    return ways


def _lacks_memory(wish: Wish, board: Board) -> bool:
    """Whether there is a domain that has all but the memory."""
    if wish.memory_mib is None or wish.memory_policy == "preferred":
        return False
    for domain in wish.domains:
        spare = board.spare_memory_mib(domain)
        enough = len(board.free(wish, domain)) >= (wish.gpus_per_instance if wish.spread == "inside" else 0)
        if enough and board.spare_cores(domain) > 0 and spare is not None and spare < wish.memory_mib:
            return True
    return False


def _memory_helps(wish: Wish, board: Board) -> list[str]:
    """Ways to have the memory, as far as this host has more."""
    help_with = [f"lower what it needs ({wish.memory_why})"]
    if wish.model.memory_mib is None:
        help_with.append("say what it really needs with `memory_mib`")
    help_with.append("release hugepages of the node, or lower `vllm_reserved_memory_mib`")
    if wish.spread != "inside" or len(board.machine.nodes) == 1:
        return help_with
    if wish.model.scope == "node":
        if any(len(package) > 1 for package in board.machine.packages):
            help_with.append("set `scope: package`, which lets it use all nodes of a package")
        help_with.append("set `memory_policy: preferred`, which lets it take memory of other nodes")
    if wish.device == "cpu" and wish.model.spanning != "interleave":
        help_with.append("set `spanning: interleave`, which spreads it over nodes at a cost")
    return help_with
