# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""One benchmark of a host: what is to be measured, what is left out, and the measurements.

Placements take turns within every round, and another one begins each time, so that what a machine does meanwhile hits
all of them alike. Verdicts are made of the rounds on the controller.
"""

from __future__ import annotations

import concurrent.futures
import statistics
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _bench_plan as planning
from ansible_collections.numapin.inference.plugins.module_utils._bench_plan import BenchmarkError, Placed, Skipped
from ansible_collections.numapin.inference.plugins.module_utils._bench_units import PREFIX, Units, free_ports
from ansible_collections.numapin.inference.plugins.module_utils._commands import run
from ansible_collections.numapin.inference.plugins.module_utils._cpuset import parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._placement import read_placement

HOST, LINEAR, SERVICE = "host", "linear", "service"
PARTS = (HOST, LINEAR, SERVICE)
_LINEAR_SECONDS = 1
_BUFFERS = 3


class Settings(t.NamedTuple):
    """What the user wants to know, as the module's options of the same names."""

    parts: t.Sequence[str]
    placements: t.Sequence[str]
    model: str
    rounds: int
    requests: int
    concurrency: int
    input_tokens: int
    output_tokens: int
    buffer_mib: int
    linear_size: int
    keep_running: bool
    start_timeout_seconds: int


class Work(t.NamedTuple):
    """What will be measured."""

    instances: list[t.Mapping[str, t.Any]]
    pairs: list[tuple[int, int]]
    gpus: list[t.Mapping[str, t.Any]]
    linear: dict[str, Placed]
    service: dict[str, list[Placed]]
    fence: str
    cpus: dict[int, list[int]]
    skipped: list[Skipped]


def plan(
    settings: Settings,
    numa: t.Mapping[str, t.Any],
    instances: t.Sequence[t.Mapping[str, t.Any]],
    reserved_cpus: str,
) -> Work:
    """Decide it, and why not the rest. Raises NumapinError."""
    machine = planning.Machine(numa, reserved_cpus)
    wanted = planning.chosen(instances, settings.model)
    work = Work(wanted, [], [], {}, {}, machine.fence, machine.cpus, [])
    for part in PARTS:
        if part not in settings.parts:
            work.skipped.append(Skipped(part, "all of it", "benchmark_parts leaves it out"))
    if HOST in settings.parts:
        pairs, skipped = planning.node_pairs(machine, settings.buffer_mib * (_BUFFERS + 1))
        gpus, no_gpus = _gpus(numa)
        work.pairs.extend(pairs)
        work.gpus.extend(gpus)
        work.skipped.extend(skipped + no_gpus)
    for name in settings.placements:
        if LINEAR in settings.parts and name in planning.LINEAR_PLACEMENTS:
            _add(work, LINEAR, name, planning.linear_placed(machine, wanted[0], name))
        if SERVICE in settings.parts:
            _add(work, SERVICE, name, planning.placed(machine, wanted, name))
    if settings.keep_running and SERVICE in settings.parts and any(one["device"] == "gpu" for one in wanted):
        raise BenchmarkError(
            "benchmark_keep_running is true, and the instances of one GPU cannot all run at once: leave it false"
        )
    return work


def _add(work: Work, part: str, name: str, found: t.Any) -> None:
    if isinstance(found, str):
        work.skipped.append(Skipped(part, f"placement {name}", found))
    else:
        (work.linear if part == LINEAR else work.service)[name] = found


def _gpus(numa: t.Mapping[str, t.Any]) -> tuple[list[t.Mapping[str, t.Any]], list[Skipped]]:
    what = "copies between host and GPU"
    gpus = numa.get("gpus") or []
    if not gpus:
        return [], [Skipped(HOST, what, "this host has no GPU")]
    usable = [gpu for gpu in gpus if gpu.get("vendor") == "nvidia" and gpu.get("uuid")]
    skipped = [
        Skipped(HOST, f"{what} {gpu['pci_address']}", "only NVIDIA's GPUs with a known UUID can be chosen for torch")
        for gpu in gpus
        if gpu not in usable
    ]
    return usable, skipped


def told(work: Work, settings: Settings) -> list[str]:
    """What would be run, for people."""
    lines = [f"memory: CPUs of node {cpu}, memory of node {memory}" for cpu, memory in work.pairs]
    lines += [
        f"copies: CPUs and memory of node {node}, GPU {gpu['pci_address']}"
        for gpu in work.gpus
        for node in _copy_nodes(work)
    ]
    lines += [f"torch.nn.Linear, {name}, {settings.rounds} rounds: {_where(one)}" for name, one in work.linear.items()]
    for name, ones in work.service.items():
        lines.append(
            f"vllm bench serve, {name}, {settings.rounds} rounds of {settings.requests} requests to each of"
            f" {len(ones)}: {'; '.join(f'{one.name} {_where(one)}' for one in ones)}"
        )
    return lines


def _where(one: Placed) -> str:
    if not one.cpus:
        by_vllm = "numa-bind" in one.arguments or one.environment.get("VLLM_CPU_OMP_THREADS_BIND") == "auto"
        return "placed by vLLM" if by_vllm else "unbound"
    return f"CPUs {one.cpus}, memory of node {', '.join(map(str, one.memory_nodes))}"


def measure(units: Units, settings: Settings, work: Work) -> dict[str, t.Any]:
    """Do all of it. What fails on the way is among the ``problems``, and the rest goes on."""
    problems: list[str] = []
    return {
        "pairs": _pairs(units, settings, work, problems),
        "gpu_copies": _copies(units, settings, work, problems),
        "linear": _linear(units, settings, work, problems),
        "service": Service(units, settings, work, problems).measure(),
        "problems": problems,
    }


def _bare(work: Work, name: str, cpu_node: int, memory_node: int, device: str = "cpu") -> Placed:
    cpus = ",".join(map(str, work.cpus[cpu_node]))
    return Placed(name, cpus, (memory_node,), "bind", work.fence, {}, {}, device)


def _pairs(units: Units, settings: Settings, work: Work, problems: list[str]) -> list[dict[str, t.Any]]:
    found = []
    for cpu, memory in work.pairs:
        try:
            said = units.probe(_bare(work, f"{cpu}-{memory}", cpu, memory), "memory", settings.buffer_mib)
        except NumapinError as error:
            problems.append(f"node {cpu} to memory of node {memory}: {error}")
            continue
        found.append({"cpu_node": cpu, "memory_node": memory, **said})
    return found


def _copy_nodes(work: Work) -> list[int]:
    return sorted({cpu for cpu, memory in work.pairs if cpu == memory})


def _copies(units: Units, settings: Settings, work: Work, problems: list[str]) -> list[dict[str, t.Any]]:
    found = []
    for gpu in work.gpus:
        for node in _copy_nodes(work):
            where = _bare(work, f"gpu-{node}", node, node, device="gpu")
            where = where._replace(environment={"CUDA_VISIBLE_DEVICES": gpu["uuid"]})
            try:
                said = units.probe(where, "gpu", settings.buffer_mib)
            except NumapinError as error:
                problems.append(f"node {node} and GPU {gpu['pci_address']}: {error}")
                continue
            found.append({"gpu": gpu["pci_address"], "gpu_node": gpu.get("node"), "node": node, **said})
    return found


def rotated(names: t.Sequence[str], number: int) -> list[str]:
    """Another one begins in each round."""
    first = number % len(names) if names else 0
    return [*names[first:], *names[:first]]


def _linear(units: Units, settings: Settings, work: Work, problems: list[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in work.linear}
    threads = len(parse_cpulist(work.instances[0]["cpus"]))
    try:
        for number in range(settings.rounds if work.linear else 0):
            for name in rotated(list(work.linear), number):
                where = work.linear[name]._replace(name=f"linear-{name}")
                said = units.probe(where, "linear", settings.linear_size, _LINEAR_SECONDS, threads)
                found[name].append(said["milliseconds"])
    except NumapinError as error:
        problems.append(f"torch.nn.Linear: {error}")
        return {}
    return found


class Service:
    """Temporary instances of the planned ones, in every placement, under the same load."""

    def __init__(self, units: Units, settings: Settings, work: Work, problems: list[str]) -> None:
        self._units = units
        self._settings = settings
        self._work = work
        self._problems = problems
        self._running: dict[str, list[int]] = {}
        housekeeping = ",".join(filter(None, (one.get("housekeeping_cpus") for one in work.instances)))
        # Where the system is, if anything is left for it: a client must not be what a placement is slowed by.
        fence = housekeeping or work.fence
        self._client = Placed("client", "", (), "", fence, {}, {}, "cpu")

    def measure(self) -> dict[str, list[dict[str, t.Any]]]:
        """Rounds by placement."""
        names = list(self._work.service)
        rounds: dict[str, list[dict[str, t.Any]]] = {name: [] for name in names}
        try:
            if self._settings.keep_running:
                for name in names:
                    self._start(name)
            for number in range(self._settings.rounds):
                for name in rotated(names, number):
                    if name in rounds:
                        self._one_round(name, number, rounds)
        finally:
            for name in list(self._running):
                self._stop(name)
        return rounds

    def _one_round(self, name: str, number: int, rounds: dict[str, list[dict[str, t.Any]]]) -> None:
        try:
            if name not in self._running:
                self._start(name)
            rounds[name].append(self._loaded(name, number))
        except NumapinError as error:
            # Without this round its others cannot be paired any more.
            self._problems.append(f"vllm bench serve, {name}, round {number + 1}: {error}")
            del rounds[name]
        finally:
            if name in self._running and (not self._settings.keep_running or name not in rounds):
                self._stop(name)

    def _start(self, name: str) -> None:
        placed = self._work.service[name]
        ports = free_ports(len(placed))
        self._running[name] = ports
        for instance, where, port in zip(self._work.instances, placed, ports):
            self._units.start(f"{name}-{instance['name']}", where, _config(instance, where, port))
        for instance, port in zip(self._work.instances, ports):
            self._units.wait_until_ready(_unit(name, instance), port, self._settings.start_timeout_seconds)

    def _stop(self, name: str) -> None:
        del self._running[name]
        self._units.stop([_unit(name, instance) for instance in self._work.instances])

    def _loaded(self, name: str, number: int) -> dict[str, t.Any]:
        instances, ports = self._work.instances, self._running[name]
        with concurrent.futures.ThreadPoolExecutor(len(ports)) as pool:
            running = [
                pool.submit(
                    self._units.load,
                    f"{name}-{number}",
                    i,
                    len(ports),
                    self._client,
                    self._load(instance, port, number * len(ports) + i),
                )
                for i, (instance, port) in enumerate(zip(instances, ports))
            ]
            results = [future.result() for future in running]
        for result in results:
            if result["completed"] != self._settings.requests:
                raise BenchmarkError(
                    f"{result['completed']} of {self._settings.requests} requests were answered:"
                    " their times are no measure"
                )
        return {**summary(results), "local_memory_percent": self._locality(name)}

    def _load(self, instance: t.Mapping[str, t.Any], port: int, seed: int) -> list[str]:
        settings = self._settings
        return [
            *("--backend", "openai", "--base-url", f"http://127.0.0.1:{port}", "--endpoint", "/v1/completions"),
            *("--model", instance["source"], "--served-model-name", instance["served_names"][0]),
            *("--dataset-name", "random", "--seed", str(seed), "--ignore-eos", "--temperature", "0"),
            *("--random-input-len", str(settings.input_tokens), "--random-output-len", str(settings.output_tokens)),
            *("--num-prompts", str(settings.requests), "--max-concurrency", str(settings.concurrency)),
            *("--num-warmups", str(settings.concurrency)),
            *("--percentile-metrics", "ttft,tpot,e2el", "--metric-percentiles", "50,99"),
        ]

    def _locality(self, name: str) -> float | None:
        """Per cent of the instances' own memory that is where the plan wants it; the least of them."""
        entries = [
            {
                "name": instance["name"],
                "unit": _unit(name, instance),
                "cpus": instance["cpus"],
                "memory_nodes": instance["memory_nodes"],
                "memory_policy": "bind",
            }
            for instance in self._work.instances
        ]
        found = read_placement(Host("/"), entries, 0, run)["instances"]
        known: list[float] = [one["own_locality_percent"] for one in found if one["own_locality_percent"] is not None]
        return min(known) if len(known) == len(found) else None


def _unit(placement: str, instance: t.Mapping[str, t.Any]) -> str:
    return f"{PREFIX}{placement}-{instance['name']}.service"


def _config(instance: t.Mapping[str, t.Any], where: Placed, port: int) -> dict[str, t.Any]:
    """The deployed instance's configuration, on a port of loopback."""
    return {
        **where.arguments,
        **(instance.get("arguments") or {}),
        "model": instance["source"],
        "served-model-name": instance["served_names"],
        "tensor-parallel-size": instance["tensor_parallel_size"],
        "pipeline-parallel-size": instance["pipeline_parallel_size"],
        "host": "127.0.0.1",
        "port": port,
    }


def summary(results: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """One round of all instances: what they gave together, the middle of their medians, the worst of their p99."""

    def middle(key: str) -> float:
        return round(statistics.fmean(result[key] for result in results), 3)

    def worst(key: str) -> float:
        return round(max(float(result[key]) for result in results), 3)

    return {
        "tokens_per_second": round(sum(result["output_throughput"] for result in results), 3),
        "ttft_p50_ms": middle("p50_ttft_ms"),
        "ttft_p99_ms": worst("p99_ttft_ms"),
        "tpot_p50_ms": middle("p50_tpot_ms"),
        "tpot_p99_ms": worst("p99_tpot_ms"),
        "latency_p50_ms": middle("p50_e2el_ms"),
        "latency_p99_ms": worst("p99_e2el_ms"),
    }
