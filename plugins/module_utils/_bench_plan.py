# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a benchmark of a host's locality runs: placements of an instance, pairs of nodes, and what is left out, and why.

From the topology and the plan alone; nothing is started here.
"""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist, parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

LOCAL, REMOTE, FLOATING, VLLM, AGAIN = "local", "remote", "floating", "vllm", "again"
PLACEMENTS = (LOCAL, REMOTE, FLOATING, VLLM, AGAIN)
# vLLM's own placement is none of a bare loop's.
LINEAR_PLACEMENTS = (LOCAL, REMOTE, FLOATING, AGAIN)


class BenchmarkError(NumapinError):
    """What was asked for cannot be measured."""


class Skipped(t.NamedTuple):
    """Something that is not measured, and why."""

    part: str
    what: str
    why: str


class Placed(t.NamedTuple):
    """Where one process is put. Empty ``cpus`` and ``memory_nodes``: nowhere in particular, within ``fence``."""

    name: str
    cpus: str
    memory_nodes: tuple[int, ...]
    memory_policy: str
    fence: str
    environment: dict[str, str]
    arguments: dict[str, t.Any]
    device: str


class Machine:
    """The nodes of a host as far as a benchmark may use them."""

    def __init__(self, numa: t.Mapping[str, t.Any], reserved_cpus: str = "") -> None:
        try:
            allowed = numa.get("allowed_cpus")
            online = frozenset(cpu for node in numa["nodes"] for cpu in parse_cpulist(node["cpus"] or ""))
            usable = (parse_cpulist(allowed) if allowed else online) & online
            usable -= parse_cpulist(reserved_cpus)
            self.cpus = {node["id"]: sorted(parse_cpulist(node["cpus"] or "") & usable) for node in numa["nodes"]}
            self.memory = {
                node["id"]: node.get("memory_free_mib") or 0
                for node in numa["nodes"]
                if node["kind"] in ("cpu_and_memory", "memory_only")
            }
            self.distances = {
                (node["id"], other["node"]): other["distance"]
                for node in numa["nodes"]
                for other in node.get("distances") or []
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(
                f"numa cannot be read ({type(error).__name__}: {error}): give ansible_facts['numa'] as the module"
                " numa_facts of this version of the collection returns it"
            ) from error
        self.fence = format_cpulist(usable) if usable else ""
        if not usable:
            raise BenchmarkError(
                f"no CPU is left to measure with: reserved are {reserved_cpus!r}, the host allows {allowed or 'none'}"
            )

    def cpu_nodes(self) -> list[int]:
        """Nodes with CPUs."""
        return [node for node, cpus in self.cpus.items() if cpus]

    def both_nodes(self) -> list[int]:
        """Nodes with CPUs and memory."""
        return [node for node in self.cpu_nodes() if node in self.memory]

    def farthest(self, node: int) -> int | None:
        """Of the other nodes with CPUs and memory the one farthest away, of equals the one that follows."""
        others = [other for other in self.both_nodes() if other != node]
        if not others:
            return None
        return max(others, key=lambda other: (self.distances.get((node, other), 0), other > node, -other))


def node_pairs(machine: Machine, needed_mib: int) -> tuple[list[tuple[int, int]], list[Skipped]]:
    """Every pair of a CPU node and a memory node that has ``needed_mib`` free."""
    pairs, skipped = [], []
    for memory, free in machine.memory.items():
        if free < needed_mib:
            why = f"{free} MiB are free there, {needed_mib} are needed: benchmark_buffer_mib makes it less"
            skipped.append(Skipped("host", f"memory of node {memory}", why))
            continue
        pairs += [(cpu, memory) for cpu in machine.cpu_nodes()]
    if len(machine.memory) == 1:
        skipped.append(Skipped("host", "remote memory", "this host has one node with memory: the matrix is 1 x 1"))
    return sorted(pairs), skipped


def placed(machine: Machine, instances: t.Sequence[t.Mapping[str, t.Any]], placement: str) -> list[Placed] | str:
    """Where each of ``instances`` is put by ``placement``; a sentence says why it cannot be."""
    found: list[Placed] = []
    given: dict[int, int] = {}
    for instance in instances:
        one = _placed_one(machine, instance, placement, given)
        if isinstance(one, str):
            return one
        found.append(one)
    return found


def _placed_one(
    machine: Machine, instance: t.Mapping[str, t.Any], placement: str, given: dict[int, int]
) -> Placed | str:
    environment = {key: str(value) for key, value in (instance.get("environment") or {}).items()}
    device = instance["device"]
    if device == "gpu":
        environment = {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(instance["gpus"]),
            **environment,
        }
    spans = instance.get("numa_bind_nodes") or []
    planned = (
        {"numa-bind": True, "numa-bind-nodes": spans, "numa-bind-cpus": instance["numa_bind_cpus"]} if spans else {}
    )
    nodes = tuple(instance["memory_nodes"])
    local = Placed(
        instance["name"],
        instance["cpus"],
        nodes,
        instance.get("memory_policy") or "bind",
        machine.fence,
        environment,
        planned,
        device,
    )
    if placement in (LOCAL, AGAIN):
        return local._replace(environment={**_cpu_binding(instance, nodes), **environment})
    if placement == FLOATING:
        free = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if device == "cpu" else {}
        return _unplaced(local, {**environment, **free}, {})
    if placement == VLLM:
        return _by_vllm(local, instance, environment)
    if len(instance["nodes"]) != 1:
        return (
            f"{instance['name']} is on nodes {', '.join(map(str, instance['nodes']))}: no node is wrong for all of it"
        )
    return _remote(machine, local, instance, given)


def _by_vllm(local: Placed, instance: t.Mapping[str, t.Any], environment: dict[str, str]) -> Placed | str:
    """vLLM places by itself: threads on the CPU, workers of several GPUs."""
    if local.device == "cpu":
        return _unplaced(local, {**environment, "VLLM_CPU_OMP_THREADS_BIND": "auto"}, {})
    if local.arguments:
        return f"{instance['name']} spans nodes: vLLM binds its workers in the placement `local` already"
    if instance["tensor_parallel_size"] * instance["pipeline_parallel_size"] == 1:
        return f"{instance['name']} has one worker, and vLLM ignores --numa-bind for one"
    return _unplaced(local, environment, {"numa-bind": True})


def _remote(machine: Machine, local: Placed, instance: t.Mapping[str, t.Any], given: dict[int, int]) -> Placed | str:
    """The memory, and beside a GPU the CPUs, of the node farthest away."""
    node = instance["nodes"][0]
    other = machine.farthest(node)
    if other is None:
        return "this host has one node with CPUs and memory: there is no wrong one"
    if local.device == "cpu":
        binding = _cpu_binding(instance, (other,))
        return local._replace(memory_nodes=(other,), environment={**binding, **local.environment})
    count, first = len(parse_cpulist(local.cpus)), given.get(other, 0)
    cpus = machine.cpus[other][first : first + count]
    if not cpus:
        return f"node {other} has no CPU left for {instance['name']}"
    given[other] = first + len(cpus)
    return local._replace(cpus=format_cpulist(cpus), memory_nodes=(other,))


def _unplaced(local: Placed, environment: dict[str, str], arguments: dict[str, t.Any]) -> Placed:
    return local._replace(cpus="", memory_nodes=(), environment=environment, arguments=arguments)


def _cpu_binding(instance: t.Mapping[str, t.Any], memory_nodes: tuple[int, ...]) -> dict[str, str]:
    """What the deployed instance's environment says to vLLM's workers on the CPU."""
    if instance["device"] != "cpu":
        return {}
    return {
        "VLLM_CPU_OMP_THREADS_BIND": instance["omp_cpus"],
        "CPU_VISIBLE_MEMORY_NODES": ",".join(str(node) for node in memory_nodes),
    }


def linear_placed(machine: Machine, instance: t.Mapping[str, t.Any], placement: str) -> Placed | str:
    """Where the loop of one instance's CPUs runs; it is on the CPU, whatever the instance is on."""
    return _placed_one(machine, {**instance, "device": "cpu", "omp_cpus": instance["cpus"], "gpus": []}, placement, {})


def chosen(instances: t.Sequence[t.Mapping[str, t.Any]], model: str) -> list[t.Mapping[str, t.Any]]:
    """The planned instances of ``model``, of the first one when it is empty. Raises BenchmarkError."""
    if not instances:
        raise BenchmarkError("the plan has no instance on this host: there is no placement to measure")
    models = list(dict.fromkeys(instance["model"] for instance in instances))
    wanted = model or models[0]
    if wanted not in models:
        raise BenchmarkError(f"benchmark_model is {wanted!r}; planned on this host: {', '.join(models)}")
    return [instance for instance in instances if instance["model"] == wanted]
