# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Topology facts and ``vllm_models`` in, one host's placement plan out; pure functions, a reason for every choice.

The plan is worked out in four steps: what each model may use (``_wish``), which node and GPUs each instance gets
(``_place``), how the cores of a node are divided between its instances (``_divide_cores``), and ports (``_ports``).

What makes runs repeatable: an instance of the last plan whose node and GPUs are still there keeps them, and no reason
or warning mentions anything but the result, so that planning with the plan just made gives that plan again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import (
    Core,
    Gpu,
    Machine,
    flatten,
    read_machine,
)
from ansible_collections.numapin.inference.plugins.plugin_utils._models import (
    FIRST_PORT,
    LAST_PORT,
    Model,
    join_problems,
    parse_models,
)
from ansible_collections.numapin.inference.plugins.plugin_utils._query import Query, QueryError

FIRST_FREE_PORT = 8000
PORTS_PER_BLOCK = 16


class PlanError(NumapinError):
    """The wishes do not fit the host; ``problems`` holds what was asked, what there is and what would help."""

    def __init__(self, host: str, problems: t.Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(join_problems(f"host {host} cannot be planned", self.problems))


class _Refused(Exception):
    """One model cannot be placed; the text becomes one of the plan's problems."""


@contextlib.contextmanager
def _collect(problems: list[str]) -> t.Iterator[None]:
    """Let a refusal join the problems, so that the other models are looked at as well."""
    try:
        yield
    except _Refused as exc:
        problems.append(str(exc))


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What one model may use on this host. ``gpus`` is empty on the CPU."""

    model: Model
    device: str
    gpus: tuple[Gpu, ...]

    @property
    def gpus_per_instance(self) -> int:
        return self.model.tensor_parallel_size if self.device == "gpu" else 0


@dataclasses.dataclass(frozen=True)
class _Slot:
    """The place of one instance. ``ordinal`` counts a model's instances on their first node from 1."""

    wish: _Wish
    nodes: tuple[int, ...]
    ordinal: int
    gpus: tuple[Gpu, ...]

    @property
    def name(self) -> str:
        return instance_name(self.wish.model.name, self.nodes[0], self.ordinal)

    @property
    def weight(self) -> int:
        return len(self.gpus) or 1

    def weight_on(self, node_id: int) -> int:
        return sum(1 for gpu in self.gpus if gpu.node == node_id) or 1


def instance_name(model: str, node_id: int, ordinal: int) -> str:
    """``MODEL-nNODE``, and ``MODEL-nNODE-K`` for the second and later instance on a node."""
    return f"{model}-n{node_id}" if ordinal == 1 else f"{model}-n{node_id}-{ordinal}"


def plan_host(
    facts: object,
    models: object,
    *,
    host: str,
    address: str,
    previous: object = None,
    reserved_cpus: str = "",
    housekeeping_cores: int = 1,
) -> dict[str, t.Any]:
    """Plan one host.

    ``facts``: ``ansible_facts['numa']``; ``models``: ``vllm_models``; ``address``: the IP address at which balancers
    reach the instances; ``previous``: the plan of the last run, for stable names and ports (anything that is no plan
    counts as none); ``reserved_cpus``: cpulist of CPUs that belong to somebody else; ``housekeeping_cores``: whole
    cores per node that no instance gets. Returns the dictionary documented as ``vllm_plan`` in docs/architecture.md.

    Raises ``ModelError``, ``FactsError`` and ``PlanError`` with all that is wrong at that stage. Changes no argument.
    """
    wanted = parse_models(models)
    reserved = _reserved(reserved_cpus, host)
    if not isinstance(housekeeping_cores, int) or isinstance(housekeeping_cores, bool) or housekeeping_cores < 0:
        raise PlanError(
            host,
            [f"housekeeping_cores is {housekeeping_cores!r}. Allowed is a whole number from 0 on: cores per node."],
        )
    machine = read_machine(facts, reserved, housekeeping_cores)
    last = _last_plan(previous)
    slots, warnings = _place_all(wanted, machine, last, host)
    ports, port_reasons = _ports(slots, wanted, machine, last, host)
    shares = _divide_cores(slots, machine)
    if not wanted:
        warnings.insert(0, "vllm_models is empty: this host serves nothing")
    return {
        "host": host,
        "address": address,
        "nodes": [
            {
                "node": node.id,
                "instance_cpus": format_cpulist(flatten(node.cores)),
                "housekeeping_cpus": format_cpulist(flatten(node.housekeeping)),
            }
            for node in machine.nodes
        ],
        "instances": [
            _instance(slot, slots, machine, shares[slot.name], ports[slot.name], port_reasons[slot.name], host)
            for slot in slots
        ],
        "warnings": [*machine.warnings, *warnings],
    }


def _reserved(text: object, host: str) -> frozenset[int]:
    if not isinstance(text, str):
        raise PlanError(host, [f'reserved_cpus is {text!r}. Allowed is a cpulist as text, such as "0-3,8".'])
    try:
        return parse_cpulist(text)
    except CpusetError as exc:
        raise PlanError(host, [f"reserved_cpus: {exc}. Allowed is a cpulist such as 0-3,8."]) from exc


# --- the plan of the last run -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Last:
    """What is used of the last plan: nodes that took instances, and per instance where it was."""

    nodes: frozenset[int]
    instances: t.Mapping[str, _LastInstance]


@dataclasses.dataclass(frozen=True)
class _LastInstance:
    node: int | None
    gpus: tuple[str, ...]
    port: int | None


def is_plan(value: object) -> bool:
    """Whether ``value`` looks like a plan this collection has made."""
    return isinstance(value, t.Mapping) and isinstance(value.get("instances"), (list, tuple))


def _last_plan(previous: object) -> _Last:
    """Read leniently: the file may be older, or damaged, and a plan must come out all the same."""
    if not isinstance(previous, t.Mapping) or not is_plan(previous):
        return _Last(frozenset(), {})
    nodes = previous.get("nodes")
    ids = (
        [entry.get("node") for entry in nodes if isinstance(entry, t.Mapping)]
        if isinstance(nodes, (list, tuple))
        else []
    )
    instances: dict[str, _LastInstance] = {}
    for entry in previous["instances"]:
        if not isinstance(entry, t.Mapping) or not isinstance(entry.get("name"), str):
            continue
        port, spans, gpus = entry.get("port"), entry.get("nodes"), entry.get("gpus")
        is_port = isinstance(port, int) and not isinstance(port, bool) and FIRST_PORT <= port <= LAST_PORT
        first = spans[0] if isinstance(spans, (list, tuple)) and len(spans) == 1 else None
        instances[str(entry["name"])] = _LastInstance(
            node=int(first) if isinstance(first, int) else None,
            gpus=tuple(str(gpu) for gpu in gpus) if isinstance(gpus, (list, tuple)) else (),
            port=int(port) if is_port and port is not None else None,
        )
    return _Last(frozenset(int(node) for node in ids if isinstance(node, int)), instances)


# --- what a model may use ---------------------------------------------------------------------------------------------


def _wish(model: Model, machine: Machine) -> _Wish:
    device = model.device
    if device == "auto":
        device = "gpu" if machine.gpus or model.gpus is not None else "cpu"
    if device == "cpu":
        if model.tensor_parallel_size > 1:
            has = "this host has no GPU" if not machine.gpus else "it is planned on the CPU (`device: cpu`)"
            raise _Refused(
                f"model {model.name!r} asks for tensor_parallel_size {model.tensor_parallel_size} and {has}. vLLM's"
                " CPU backend gives every rank a NUMA node of its own, so such a group cannot stay inside one node. Set"
                " `tensor_parallel_size: 1`, which starts one independent instance per node, or run it on hosts with"
                " GPUs."
            )
        return _Wish(model, "cpu", ())
    if not machine.gpus:
        asked = "`device: gpu`" if model.device == "gpu" else f"GPUs matching `gpus: {model.gpus}`"
        raise _Refused(
            f"model {model.name!r} asks for {asked}, and this host has no GPU. If it should have some, check that they"
            " appear in `lspci` and, with the driver loaded, in `nvidia-smi`; otherwise use `device: auto` without a"
            " `gpus` selector, or leave the model out on this host."
        )
    chosen = machine.gpus if model.gpus is None else _select(model, machine.gpus)
    _refuse_unaddressable(model, chosen)
    return _Wish(model, "gpu", chosen)


def _select(model: Model, gpus: t.Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that the model's JMESPath expression picks."""
    told = f"model {model.name!r}: the selector `gpus: {model.gpus}`"
    example = "Use a filter over the list, such as `[?memory_total_mib >= `80000`]` or `[?node == `0`]`."
    try:
        picked = Query(str(model.gpus)).search([gpu.facts for gpu in gpus])
    except QueryError as exc:
        raise _Refused(f"{told} {exc}. {example}") from exc
    if not isinstance(picked, list):
        raise _Refused(f"{told} gives {picked!r:.60} instead of a list of GPUs. {example}")
    keys = set()
    for item in picked:
        key = (item.get("uuid") or item.get("pci_address")) if isinstance(item, dict) else None
        if key not in {gpu.key for gpu in gpus}:
            raise _Refused(f"{told} gives a list that holds {item!r:.60} instead of whole GPUs. {example}")
        keys.add(key)
    if not keys:
        has = "; ".join(_gpu_facts(gpu) for gpu in gpus)
        raise _Refused(
            f"{told} matches none of this host's {len(gpus)} GPUs: {has}. Change the selector, or leave it out."
        )
    return tuple(gpu for gpu in gpus if gpu.key in keys)


def _gpu_facts(gpu: Gpu) -> str:
    memory = gpu.facts.get("memory_total_mib")
    size = "memory unknown" if memory is None else f"{memory} MiB"
    node = "node unknown" if gpu.node is None else f"node {gpu.node}"
    return f"{gpu.pci_address} {gpu.name or gpu.vendor or 'GPU'}, {size}, {node}"


def _refuse_unaddressable(model: Model, gpus: t.Sequence[Gpu]) -> None:
    """Instances are given GPUs by UUID on a known node; neither is ever guessed."""
    instead = "or leave it out with the model's `gpus` selector, or use `device: cpu`"
    problems = []
    foreign = [gpu for gpu in gpus if not gpu.uuid and gpu.vendor not in (None, "nvidia")]
    nameless = [gpu for gpu in gpus if not gpu.uuid and gpu not in foreign]
    nowhere = [gpu for gpu in gpus if gpu.uuid and gpu.node is None]
    if foreign:
        problems.append(
            f"{_labels(foreign)} of vendor {foreign[0].vendor}: only NVIDIA GPUs can be given to instances so far;"
            f" {instead.removeprefix('or ')}"
        )
    if nameless:
        problems.append(
            f"the UUID of {_labels(nameless)} is not known, because only sysfs told of it and not NVIDIA's driver."
            " Install the Python library nvidia-ml-py on the host for the interpreter that Ansible uses there, and"
            f" check that the driver answers (`nvidia-smi -L`), {instead}"
        )
    if nowhere:
        first = nowhere[0]
        problems.append(
            f"the NUMA node of {_labels(nowhere)} is not known: neither the firmware nor the driver says it. Find it"
            " (`nvidia-smi topo -m`, the board's manual) and say it in the inventory, for every GPU, as in"
            f' `vllm_gpu_node_overrides: {{"{first.pci_address}": 0}}`, {instead}'
        )
    if problems:
        raise _Refused(f"model {model.name!r} cannot use its GPUs: {'. Also: '.join(problems)}.")


def _labels(gpus: t.Sequence[Gpu]) -> str:
    return ", ".join(gpu.label for gpu in gpus)


# --- nodes and GPUs ---------------------------------------------------------------------------------------------------


class _Board:
    """Who has what while one host is being planned: GPUs and, at least one each, cores."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.slots: list[_Slot] = []
        self._taken: set[str] = set()

    def free(self, wish: _Wish, node_id: int) -> list[Gpu]:
        return [gpu for gpu in wish.gpus if gpu.node == node_id and gpu.key not in self._taken]

    def spare_cores(self, node_id: int) -> int:
        return len(self.machine.node(node_id).cores) - sum(1 for slot in self.slots if node_id in slot.nodes)

    def has_room(self, wish: _Wish, node_id: int) -> bool:
        return self.spare_cores(node_id) > 0 and len(self.free(wish, node_id)) >= wish.gpus_per_instance

    def load(self, node_id: int) -> int:
        return sum(slot.weight for slot in self.slots if node_id in slot.nodes)

    def of(self, model: Model, node_id: int | None = None) -> list[_Slot]:
        return [
            slot for slot in self.slots if slot.wish.model is model and (node_id is None or slot.nodes[0] == node_id)
        ]

    def claim(self, wish: _Wish, node_id: int, ordinal: int | None = None, gpus: t.Sequence[Gpu] | None = None) -> None:
        """Give a place with room away; by default under the lowest free ordinal, and with the first GPUs by address."""
        if ordinal is None:
            used = {slot.ordinal for slot in self.of(wish.model, node_id)}
            ordinal = next(number for number in range(1, len(used) + 2) if number not in used)
        chosen = tuple(self.free(wish, node_id)[: wish.gpus_per_instance] if gpus is None else gpus)
        self.slots.append(_Slot(wish, (node_id,), ordinal, chosen))
        self._taken.update(gpu.key for gpu in chosen)


def _place_all(models: t.Sequence[Model], machine: Machine, last: _Last, host: str) -> tuple[list[_Slot], list[str]]:
    """A place for every instance, in the order of the plan, and what is worth a warning."""
    problems: list[str] = []
    wishes: list[_Wish] = []
    for model in models:
        with _collect(problems):
            wishes.append(_wish(model, machine))
    board = _place(wishes, machine, last)
    if isinstance(board, list):
        # What runs may stand in the way of what is new: then everything is placed afresh, in the order of the list.
        board = _place(wishes, machine, _last_plan(None))
    if isinstance(board, list):
        problems.extend(board)
    if problems or isinstance(board, list):
        raise PlanError(host, problems)
    rank = {wish.model.name: index for index, wish in enumerate(wishes)}
    slots = sorted(board.slots, key=lambda slot: (rank[slot.wish.model.name], slot.nodes[0], slot.ordinal))
    return slots, _placement_warnings(wishes, board)


def _place(wishes: t.Sequence[_Wish], machine: Machine, last: _Last) -> _Board | list[str]:
    """Place every wish, or say for each that does not fit why."""
    board = _Board(machine)
    for wish in wishes:
        _keep(wish, board, last)
    problems: list[str] = []
    for wish in wishes:
        with _collect(problems):
            if wish.model.instances is None:
                _place_per_node(wish, board)
            else:
                _place_number(wish, wish.model.instances, board)
    return problems or board


def _keep(wish: _Wish, board: _Board, last: _Last) -> None:
    """Leave the instances of the last plan where they were, as far as they are still wanted and possible."""
    usable = {node.id for node in board.machine.nodes}
    wanted = wish.model.instances
    if wanted is not None and usable != last.nodes:
        return  # with a node more or less an even spread is worth a move
    most = 1 if wanted is None else wanted
    kept = 0
    for ordinal in range(1, most + 1):
        for node_id in sorted(usable):
            before = last.instances.get(instance_name(wish.model.name, node_id, ordinal))
            if before is None or before.node != node_id or (wanted is not None and kept >= wanted):
                continue
            gpus = [gpu for gpu in board.free(wish, node_id) if gpu.key in before.gpus]
            if len(gpus) == len(before.gpus) == wish.gpus_per_instance and board.has_room(wish, node_id):
                board.claim(wish, node_id, ordinal, gpus)
                kept += 1


def _place_per_node(wish: _Wish, board: _Board) -> None:
    for node in board.machine.nodes:
        if not board.of(wish.model, node.id) and board.has_room(wish, node.id):
            board.claim(wish, node.id)
    if not board.of(wish.model):
        raise _Refused(_no_room(wish, board, asked="one instance per node", room=0))


def _place_number(wish: _Wish, wanted: int, board: _Board) -> None:
    while len(board.of(wish.model)) < wanted:
        nodes = [node.id for node in board.machine.nodes if board.has_room(wish, node.id)]
        if not nodes:
            room = len(board.of(wish.model))
            raise _Refused(_no_room(wish, board, asked=f"{wanted} instances on this host", room=room))
        board.claim(wish, min(nodes, key=lambda node_id: (board.load(node_id), node_id)))


def _no_room(wish: _Wish, board: _Board, asked: str, room: int) -> str:
    """What was asked, what there is on every node, and which setting would help."""
    model, machine = wish.model, board.machine
    size = wish.gpus_per_instance
    each = f" with {_count(size, 'GPU')} each (tensor_parallel_size {size})" if size else " on the CPU"
    there = [_node_room(wish, board, node.id) for node in machine.nodes]
    there += [
        f"node {node_id} takes no instance ({why})"
        for node_id, why in sorted(machine.unusable.items())
        if not size or any(gpu.node == node_id for gpu in wish.gpus)
    ]
    known = {node.id for node in machine.nodes} | set(machine.unusable)
    strange = [gpu for gpu in wish.gpus if gpu.node not in known]
    if strange:
        there.append(f"{_labels(strange)} is said to be on node {strange[0].node}, which this host does not have")
    return (
        f"model {model.name!r} asks for {asked}{each}, and there is room for {room or 'none'}:"
        f" {'; '.join(there) or 'this host has no node with CPUs and memory'}. {_what_helps(wish, board, room)}"
    )


def _node_room(wish: _Wish, board: _Board, node_id: int) -> str:
    cores = len(board.machine.node(node_id).cores)
    others = sorted({slot.wish.model.name for slot in board.slots if node_id in slot.nodes} - {wish.model.name})
    shared = f", shared with {', '.join(others)}" if others else ""
    if not wish.gpus_per_instance:
        return f"node {node_id} has {_count(cores, 'core')} for instances, {board.spare_cores(node_id)} free{shared}"
    matching = sum(1 for gpu in wish.gpus if gpu.node == node_id)
    no_core = "" if board.spare_cores(node_id) else f" but no free core (of {cores})"
    kind = "matching GPU" if wish.model.gpus is not None else "GPU"
    return f"node {node_id} has {_count(matching, kind)}, {len(board.free(wish, node_id))} free{no_core}{shared}"


def _what_helps(wish: _Wish, board: _Board, room: int) -> str:
    size = wish.gpus_per_instance
    most_free = max(
        (len(board.free(wish, node.id)) for node in board.machine.nodes if board.spare_cores(node.id)), default=0
    )
    largest = max((sum(1 for gpu in wish.gpus if gpu.node == node.id) for node in board.machine.nodes), default=0)
    help_with: list[str] = []
    if wish.model.instances is not None and room:
        help_with.append(f"set `instances` to at most {room}")
    if size > 1 and most_free and most_free < size:
        help_with.append(f"set `tensor_parallel_size` to at most {most_free}")
    if any(slot.wish.model is not wish.model for slot in board.slots):
        help_with.append(
            "lower `instances` or `tensor_parallel_size` of the models before it, or move it up in vllm_models"
        )
    if size and wish.model.gpus is not None:
        help_with.append("widen its `gpus` selector")
    if any(node.housekeeping and not board.spare_cores(node.id) for node in board.machine.nodes):
        help_with.append("lower `housekeeping_cores`")
    if not board.machine.nodes:
        help_with.append("check reserved_cpus and the CPUs this host may use (allowed_cpus in the facts)")
    if not help_with:
        help_with.append("leave the model out on this host")
    rule = "A tensor-parallel group stays inside one node. " if size > largest else ""
    return f"{rule}What would help: {'; '.join(help_with)}."


def _placement_warnings(wishes: t.Sequence[_Wish], board: _Board) -> list[str]:
    """Read from the finished board alone, whatever way led to it."""
    warnings = []
    for wish in wishes:
        if wish.model.instances is not None:
            continue
        for node in board.machine.nodes:
            if not board.of(wish.model, node.id) and (
                wish.device == "cpu" or any(g.node == node.id for g in wish.gpus)
            ):
                needs = wish.gpus_per_instance
                why = f"{_count(needs, 'GPU')} of one node needed" if needs else "a core of its own needed"
                warnings.append(
                    f"model {wish.model.name!r} has no instance on node {node.id}: {_node_room(wish, board, node.id)};"
                    f" {why}"
                )
    used = {gpu.key for slot in board.slots for gpu in slot.gpus}
    wanted = {gpu.key for wish in wishes for gpu in wish.gpus}
    idle = [gpu for gpu in board.machine.gpus if gpu.key in wanted - used]
    if idle:
        places = ", ".join(f"{gpu.label} on node {gpu.node}" for gpu in idle)
        warnings.append(
            f"{len(idle)} of {_count(len(board.machine.gpus), 'GPU')} left without an instance ({places}): `instances`"
            " of a model can be a number per host"
        )
    for slot in board.slots:
        names = sorted({gpu.name or "unknown" for gpu in slot.gpus})
        if len(names) > 1:
            warnings.append(
                f"instance {slot.name} joins different GPUs ({', '.join(names)}) in one tensor-parallel group, which"
                " runs at the pace of the slowest: choose one kind with the model's `gpus` selector"
            )
    return sorted(warnings)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- cores ------------------------------------------------------------------------------------------------------------


def _divide_cores(slots: t.Sequence[_Slot], machine: Machine) -> dict[str, tuple[Core, ...]]:
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


# --- ports ------------------------------------------------------------------------------------------------------------


def _ports(
    slots: t.Sequence[_Slot], models: t.Sequence[Model], machine: Machine, last: _Last, host: str
) -> tuple[dict[str, int], dict[str, str]]:
    """A port for every instance and the reason for it, both by instance name."""
    ports: dict[str, int] = {}
    reasons: dict[str, str] = {}
    problems: list[str] = []
    owner: dict[int, _Slot] = {}
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
    if problems:
        raise PlanError(host, problems)
    return ports, reasons


def _slot_numbers(slots: t.Sequence[_Slot], machine: Machine) -> dict[str, int]:
    """How far an instance's port lies from its model's first: past the room for its instances on all nodes before."""
    per_node: dict[str, int] = {}
    for slot in slots:
        name = slot.wish.model.name
        per_node[name] = max(per_node.get(name, 1), slot.ordinal)
    return {
        slot.name: machine.node(slot.nodes[0]).rank * per_node[slot.wish.model.name] + slot.ordinal - 1
        for slot in slots
    }


def _free_ports(
    slots: t.Sequence[_Slot], numbers: t.Mapping[str, int], given: t.Mapping[str, int], last: _Last
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


# --- the result -------------------------------------------------------------------------------------------------------


def _instance(
    slot: _Slot,
    slots: t.Sequence[_Slot],
    machine: Machine,
    cores: tuple[Core, ...],
    port: int,
    port_reason: str,
    host: str,
) -> dict[str, t.Any]:
    model = slot.wish.model
    nodes = [machine.node(node_id) for node_id in slot.nodes]
    housekeeping = [core for node in nodes for core in node.housekeeping]
    return {
        "name": slot.name,
        "model": model.name,
        "source": model.source,
        "served_names": list(model.served_names),
        "host": host,
        "unit": f"vllm@{slot.name}.service",
        "nodes": list(slot.nodes),
        "cpus": format_cpulist(flatten(cores)),
        "omp_cpus": format_cpulist(core[0] for core in cores) if slot.wish.device == "cpu" else None,
        "memory_nodes": list(slot.nodes),
        "memory_policy": model.memory_policy,
        "device": slot.wish.device,
        "gpus": [gpu.key for gpu in slot.gpus],
        "tensor_parallel_size": model.tensor_parallel_size,
        "pipeline_parallel_size": 1,
        "port": port,
        "weight": slot.weight,
        "housekeeping_cpus": format_cpulist(flatten(housekeeping)),
        "arguments": dict(model.arguments),
        "environment": dict(model.environment),
        "reasons": [*_reasons(slot, slots, machine, cores, housekeeping), port_reason],
    }


def _reasons(
    slot: _Slot,
    slots: t.Sequence[_Slot],
    machine: Machine,
    cores: tuple[Core, ...],
    housekeeping: t.Sequence[Core],
) -> list[str]:
    model, node_id = slot.wish.model, slot.nodes[0]
    total = len(machine.node(node_id).cores)
    mine = sum(1 for other in slots if other.wish.model is model)
    if model.instances is None:
        asked = f"one instance per usable node ({mine} on this host)"
    else:
        asked = f"{_count(mine, 'instance')} on this host, spread evenly over its usable nodes"
    reasons = [f"node {node_id}: {asked}"]
    if slot.gpus:
        matching = sum(1 for gpu in slot.wish.gpus if gpu.node == node_id)
        kind = "GPUs that match the model's selector" if model.gpus is not None else "GPUs"
        reasons.append(
            f"GPUs: {len(slot.gpus)} of node {node_id}'s {matching} {kind}, in the order of their PCI addresses:"
            f" {_labels(slot.gpus)}"
        )
    elif model.device == "cpu":
        reasons.append("GPUs: none, the model asks for the CPU")
    else:
        reasons.append("GPUs: none, this host has none, so the model runs on the CPU")
    others = [other.name for other in slots if node_id in other.nodes and other is not slot]
    shared = f", the rest belongs to {', '.join(others)}" if others else ""
    reasons.append(
        f"cores: {len(cores)} of the {total} for instances on node {node_id}, with all their SMT siblings{shared}"
    )
    if housekeeping:
        reasons.append(
            f"housekeeping: {_count(len(housekeeping), 'core')} of node {node_id} (CPUs"
            f" {format_cpulist(flatten(housekeeping))}) kept for the system and interrupts"
        )
    else:
        reasons.append(f"housekeeping: no core of node {node_id} is kept for it")
    if model.memory_policy == "interleave":
        reasons.append("memory: interleave over the one node of this instance is the same as bind")
    return reasons
