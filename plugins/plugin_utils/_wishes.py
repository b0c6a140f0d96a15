# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What each model may use of one host, and in which shape: how many GPUs, inside one domain or across several.

A domain is one node, or with ``scope: package`` all nodes of a package. Whether a model spans domains follows from the
host and the model alone, never from what other models took, so that it stays as it is when these come and go.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._gpu_units import Gpu, labels
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Machine
from ansible_collections.numapin.inference.plugins.plugin_utils._memory_need import memory_need
from ansible_collections.numapin.inference.plugins.plugin_utils._models import Model
from ansible_collections.numapin.inference.plugins.plugin_utils._query import Query, QueryError

Domain = tuple[int, ...]


class RefusedError(Exception):
    """One model cannot be placed; the text becomes one of the plan's problems."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What one model may use on this host, and the shape of its instances.

    ``gpus`` is empty on the CPU. ``spread``: ``inside`` one domain, or ``pipeline`` or ``interleave`` over several.
    ``width``: how many domains a spread instance needs on the CPU, where every worker gets a node of its own.
    ``tensor`` x ``pipeline`` are the sizes vLLM is given.
    """

    model: Model
    device: str
    gpus: tuple[Gpu, ...]
    domains: tuple[Domain, ...]
    spread: str
    tensor: int
    pipeline: int
    width: int
    memory_mib: int | None
    memory_why: str

    @property
    def gpus_per_instance(self) -> int:
        return self.tensor * self.pipeline if self.device == "gpu" else 0

    @property
    def memory_policy(self) -> str:
        return "interleave" if self.spread == "interleave" else self.model.memory_policy


def read_wish(model: Model, machine: Machine, weights_mib: int | None) -> Wish:
    """What ``model`` may use; raises ``RefusedError``."""
    device = model.device
    if device == "auto":
        device = "gpu" if machine.gpus or model.gpus is not None else "cpu"
    gpus = _gpus_for(model, machine) if device == "gpu" else ()
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    if model.part and weights_mib:
        weights_mib //= model.part.hosts
    need, why = memory_need(model, device, workers, weights_mib)
    wish = Wish(
        model=model,
        device=device,
        gpus=gpus,
        domains=machine.domains(model.scope),
        spread="inside",
        tensor=model.tensor_parallel_size,
        pipeline=model.pipeline_parallel_size,
        width=1,
        memory_mib=need,
        memory_why=why,
    )
    shaped = _shape_on_gpus(wish) if device == "gpu" else _shape_on_cpus(wish, machine)
    _refuse_preferred_over_nodes(shaped)
    return shaped


# --- which GPUs -------------------------------------------------------------------------------------------------------


def _gpus_for(model: Model, machine: Machine) -> tuple[Gpu, ...]:
    if not machine.gpus:
        asked = "`device: gpu`" if model.device == "gpu" else f"GPUs matching `gpus: {model.gpus}`"
        raise RefusedError(
            f"model {model.name!r} asks for {asked}, and this host has no GPU. If it should have some, check that they"
            " appear in `lspci` and, with the driver loaded, in `nvidia-smi`; otherwise use `device: auto` without a"
            " `gpus` selector, or leave the model out on this host."
        )
    chosen = machine.gpus if model.gpus is None else _select(model, machine.gpus)
    if model.tensor_parallel_size * model.pipeline_parallel_size > 1 and any(gpu.is_mig for gpu in chosen):
        whole = tuple(gpu for gpu in chosen if not gpu.is_mig)
        if not whole:
            raise RefusedError(
                f"model {model.name!r} asks for {model.tensor_parallel_size * model.pipeline_parallel_size} GPUs per"
                f" instance, and there are only MIG devices: {labels(chosen)}. A process sees one MIG device at most:"
                " no group can be made of them. Set `tensor_parallel_size: 1`, choose whole GPUs with the model's"
                " `gpus` selector, or end MIG mode on this host (`nvidia-smi -mig 0`)."
            )
        chosen = whole
    _refuse_unaddressable(model, chosen)
    return chosen


def _select(model: Model, gpus: t.Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that the model's JMESPath expression picks."""
    told = f"model {model.name!r}: the selector `gpus: {model.gpus}`"
    example = "Use a filter over the list, such as `[?memory_total_mib >= `80000`]` or `[?node == `0`]`."
    try:
        picked = Query(str(model.gpus)).search([gpu.facts for gpu in gpus])
    except QueryError as exc:
        raise RefusedError(f"{told} {exc}. {example}") from exc
    if not isinstance(picked, list):
        raise RefusedError(f"{told} gives {picked!r:.60} instead of a list of GPUs. {example}")
    keys = set()
    for item in picked:
        key = (item.get("uuid") or item.get("pci_address")) if isinstance(item, dict) else None
        if key not in {gpu.key for gpu in gpus}:
            raise RefusedError(f"{told} gives a list that holds {item!r:.60} instead of whole GPUs. {example}")
        keys.add(key)
    if not keys:
        has = "; ".join(_gpu_facts(gpu) for gpu in gpus)
        raise RefusedError(
            f"{told} matches none of this host's {len(gpus)} GPUs: {has}. Change the selector, or leave it out."
        )
    return tuple(gpu for gpu in gpus if gpu.key in keys)


def _gpu_facts(gpu: Gpu) -> str:
    memory = gpu.entry.get("memory_total_mib")
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
            f"{labels(foreign)} of vendor {foreign[0].vendor}: only NVIDIA GPUs can be given to instances so far;"
            f" {instead.removeprefix('or ')}"
        )
    if nameless:
        problems.append(
            f"the UUID of {labels(nameless)} is not known, because only sysfs told of it and not NVIDIA's driver."
            " Install the Python library nvidia-ml-py on the host for the interpreter that Ansible uses there, and"
            f" check that the driver answers (`nvidia-smi -L`), {instead}"
        )
    if nowhere:
        first = nowhere[0]
        problems.append(
            f"the NUMA node of {labels(nowhere)} is not known: neither the firmware nor the driver says it. Find it"
            " (`nvidia-smi topo -m`, the board's manual) and say it in the inventory, for every GPU, as in"
            f' `vllm_gpu_node_overrides: {{"{first.pci_address}": 0}}`, {instead}'
        )
    if problems:
        raise RefusedError(f"model {model.name!r} cannot use its GPUs: {'. Also: '.join(problems)}.")


# --- in which shape ---------------------------------------------------------------------------------------------------


def _shape_on_gpus(wish: Wish) -> Wish:
    """Inside one domain when one has GPUs enough; else as the model's ``spanning`` says, where that is possible."""
    model = wish.model
    counts = [sum(1 for gpu in wish.gpus if gpu.node in domain) for domain in wish.domains]
    if wish.gpus_per_instance <= max(counts, default=0):
        return wish
    if model.spanning == "pipeline":
        stages = pipeline_stages(model.tensor_parallel_size, model.pipeline_parallel_size, counts)
        if stages is not None:
            tensor, pipeline = stages
            return dataclasses.replace(wish, spread="pipeline", tensor=tensor, pipeline=pipeline)
    if model.spanning == "interleave" and wish.gpus_per_instance <= sum(counts):
        return dataclasses.replace(wish, spread="interleave")
    return wish


def pipeline_stages(tensor: int, pipeline: int, counts: t.Sequence[int]) -> tuple[int, int] | None:
    """Tensor-parallel groups as large as domains with ``counts`` GPUs can hold, and how many; ``None``: none can."""
    for parts in range(1, tensor + 1):
        if tensor % parts == 0 and sum(count // (tensor // parts) for count in counts) >= pipeline * parts:
            return tensor // parts, pipeline * parts
    return None


def _shape_on_cpus(wish: Wish, machine: Machine) -> Wish:
    """vLLM's CPU backend gives every worker a node of its own: several of them span nodes, or are refused."""
    model = wish.model
    workers = wish.tensor * wish.pipeline
    if workers == 1:
        width = _nodes_for_memory(wish, machine) if model.spanning == "interleave" else 1
        return dataclasses.replace(wish, spread="interleave", width=width) if width > 1 else wish
    nodes = machine.domains("node")
    if model.spanning == "refuse" or workers > len(nodes):
        raise RefusedError(_no_workers_on_cpu(wish, machine, workers))
    if model.spanning == "pipeline":
        return dataclasses.replace(wish, domains=nodes, spread="pipeline", width=workers, tensor=1, pipeline=workers)
    return dataclasses.replace(wish, domains=nodes, spread="interleave", width=workers)


def _nodes_for_memory(wish: Wish, machine: Machine) -> int:
    """Over how many domains an instance has to be interleaved, so that its memory fits; 1 also when none are enough."""
    room = sorted(
        (min(machine.node(node_id).memory_mib or 0 for node_id in domain) * len(domain) for domain in wish.domains),
        reverse=True,
    )
    need = wish.memory_mib or 0
    return next((width for width in range(1, len(room) + 1) if room[width - 1] * width >= need), 1)


def _no_workers_on_cpu(wish: Wish, machine: Machine, workers: int) -> str:
    model = wish.model
    has = "this host has no GPU" if not machine.gpus else "it is planned on the CPU (`device: cpu`)"
    asked = f"tensor_parallel_size {model.tensor_parallel_size}"
    if model.pipeline_parallel_size > 1:
        asked += f" and pipeline_parallel_size {model.pipeline_parallel_size}"
    there = ""
    if model.spanning != "refuse":
        there = f" {workers} nodes are needed, and this host has {len(machine.nodes)} that take instances."
    elif workers <= len(machine.nodes):
        there = " Over several nodes it runs with `spanning: pipeline` or `spanning: interleave`."
    return (
        f"model {model.name!r} asks for {asked} and {has}. vLLM's CPU backend gives every rank a NUMA node of its own,"
        f" so such a group cannot stay inside one node.{there} Set `tensor_parallel_size: 1`, which starts one"
        " independent instance per node, or run it on hosts with GPUs."
    )


def _refuse_preferred_over_nodes(wish: Wish) -> None:
    """``preferred`` takes one node (systemd refuses more), which is not what is meant by several."""
    if wish.memory_policy == "preferred" and (
        wish.spread != "inside" or any(len(domain) > 1 for domain in wish.domains)
    ):
        raise RefusedError(
            f"model {wish.model.name!r} has `memory_policy: preferred`, which prefers one node, and its instances have"
            " several. Use `bind` (their own nodes, the nearest first) or `interleave` (their own nodes by turns), or"
            " `scope: node` without `spanning`."
        )
