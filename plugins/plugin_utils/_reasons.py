# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Why an instance is where it is: one sentence for each choice, about the result alone."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist
from ansible_collections.numapin.inference.plugins.plugin_utils._board import Slot
from ansible_collections.numapin.inference.plugins.plugin_utils._cores import Share
from ansible_collections.numapin.inference.plugins.plugin_utils._gpu_units import Gpu, describe_links, labels
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Machine, flatten
from ansible_collections.numapin.inference.plugins.plugin_utils._words import count, name_nodes


def reasons_of(slot: Slot, slots: t.Sequence[Slot], machine: Machine, share: Share) -> list[str]:
    """The reasons of one instance but that of its port."""
    return [
        *_places(slot, slots),
        _gpus(slot),
        *_workers(slot),
        *_cores(slot, slots, machine, share),
        _housekeeping(slot, machine),
        _memory(slot, machine),
    ]


def _places(slot: Slot, slots: t.Sequence[Slot]) -> t.Iterator[str]:
    wish, model = slot.wish, slot.wish.model
    mine = sum(1 for other in slots if other.wish.model is model)
    if model.instances is not None:
        asked = f"{count(mine, 'instance')} on this host, spread evenly over its usable nodes"
    elif wish.spread != "inside":
        asked = f"one instance on as few nodes as hold it ({mine} on this host)"
    else:
        each = "one instance" if model.instances_per_node == 1 else count(model.instances_per_node, "instance")
        asked = f"{each} per usable {model.scope} ({mine} on this host)"
    yield f"{name_nodes(slot.nodes)}: {asked}"
    if wish.spread == "inside":
        if model.scope == "package":
            yield f"scope: all usable nodes of the package around node {slot.nodes[0]}, as `scope: package` asks for"
        return
    size = wish.model.tensor_parallel_size * wish.model.pipeline_parallel_size
    needs = f"{count(size, 'GPU')}" if slot.gpus else f"{wish.memory_mib} MiB" if size == 1 else f"{size} workers"
    if size > 1 and not slot.gpus:
        why = f"each of its {needs} gets a node of its own on the CPU"
    else:
        why = f"no single {model.scope} has its {needs}"
    yield f"spanning: {why}, and `spanning: {wish.spread}` is set or follows from its pipeline_parallel_size"


def _gpus(slot: Slot) -> str:
    wish, model = slot.wish, slot.wish.model
    if not slot.gpus:
        if model.device == "cpu":
            return "GPUs: none, the model asks for the CPU"
        return "GPUs: none, this host has none, so the model runs on the CPU"
    kind = "GPUs that match the model's selector" if model.gpus is not None else "GPUs"
    groups = []
    for domain in slot.domains:
        group = [gpu for gpu in slot.gpus if gpu.node in domain]
        matching = sum(1 for gpu in wish.gpus if gpu.node in domain)
        groups.append(f"{len(group)} of {name_nodes(domain)}'s {matching} {kind}, {_order(group)}: {labels(group)}")
    return f"GPUs: {'; '.join(groups)}"


def _order(group: t.Sequence[Gpu]) -> str:
    links = describe_links(group)
    return f"connected best ({links})" if links else "in the order of their PCI addresses"


def _workers(slot: Slot) -> t.Iterator[str]:
    wish = slot.wish
    if wish.tensor * wish.pipeline == 1 or (wish.pipeline == 1 and wish.spread == "inside"):
        return
    each = f"{count(wish.tensor, 'GPU' if slot.gpus else 'worker')}"
    across = f" across {name_nodes(slot.nodes)}" if wish.spread != "inside" else ""
    yield (
        f"workers: {count(wish.pipeline, 'group')} of {each} each{across}, tensor-parallel inside a group and"
        " pipeline-parallel between them"
    )


def _cores(slot: Slot, slots: t.Sequence[Slot], machine: Machine, share: Share) -> t.Iterator[str]:
    total = sum(len(machine.node(node_id).cores) for node_id in slot.nodes)
    others = [other.name for other in slots if other is not slot and not set(slot.nodes).isdisjoint(other.nodes)]
    shared = f", the rest belongs to {', '.join(others)}" if others else ""
    yield (
        f"cores: {len(share.cores)} of the {total} for instances on {name_nodes(slot.nodes)}, with all their SMT"
        f" siblings{shared}"
    )
    if share.api_server:
        yield (
            f"API server: worker threads leave it {count(len(share.api_server), 'core')} of these (CPUs"
            f" {format_cpulist(flatten(share.api_server))})"
        )


def _housekeeping(slot: Slot, machine: Machine) -> str:
    kept = [core for node_id in slot.nodes for core in machine.node(node_id).housekeeping]
    if not kept:
        return f"housekeeping: no core of {name_nodes(slot.nodes)} is kept for it"
    return (
        f"housekeeping: {count(len(kept), 'core')} of {name_nodes(slot.nodes)} (CPUs"
        f" {format_cpulist(flatten(kept))}) kept for the system and interrupts"
    )


def _memory(slot: Slot, machine: Machine) -> str:
    wish = slot.wish
    what = {
        "bind": f"only that of {name_nodes(slot.nodes)}",
        "preferred": f"that of {name_nodes(slot.nodes)} first, then that of other nodes",
        "interleave": f"that of {name_nodes(slot.nodes)} by turns"
        + (", which is the same as bind on one node" if len(slot.nodes) == 1 else ""),
    }[wish.memory_policy]
    if wish.memory_mib is None:
        return f"memory: {what}; how much the instance needs is not said (`memory_mib`), so whether it fits is unknown"
    there = [machine.node(node_id) for node_id in slot.nodes]
    if any(node.memory_mib is None for node in there):
        return f"memory: {what}; it needs {wish.memory_mib} MiB ({wish.memory_why}), and how much there is is unknown"
    sizes = [
        f"{node.memory_mib} MiB of node {node.id}" + (f" ({node.memory_why})" if node.memory_why else "")
        for node in there
    ]
    return f"memory: {what}; it needs {wish.memory_mib} MiB ({wish.memory_why}) of {', '.join(sizes)}"
