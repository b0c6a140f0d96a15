# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Where the threads, the memory and the GPUs of a systemd unit really are, held against the plan.

``_processes.py`` reads, ``_Verdict`` judges, ``report`` says what was found.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._commands import Runner
from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist, parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._gpu_use import SAID_BY, GpuUse, Held, read_gpu_use
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._processes import (
    OWN_KINDS,
    Memory,
    Process,
    Reader,
    Thread,
    UnitState,
    ask_systemd,
)

_POLICIES = {
    "bind": ("bind",),
    "preferred": ("prefer", "prefer (many)"),
    "interleave": ("interleave", "weighted interleave"),
}

# How vLLM titles the worker of a pipeline (setup_proc_title_and_log_prefix in v1/executor/multiproc_executor.py).
_WORKER_TITLE = re.compile(r"\bWorker(?:_DP\d+)?_PP(\d+)(?:_PCP\d+)?(?:_TP(\d+))?(?:_|$|\s)")
_STRAYS_LISTED = 20
_NAMED_IN_MESSAGE = 5


class PlacementError(NumapinError):
    """The question cannot be answered: a bad plan entry, or systemd does not answer."""


# --- What is wanted ------------------------------------------------------------------------------------------------


class Worker(t.NamedTuple):
    """Where one worker of a pipeline over nodes shall be."""

    node: int
    cpus: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a plan entry says about the place of one instance."""

    name: str
    unit: str
    cpus: frozenset[int]
    memory_nodes: frozenset[int]
    memory_policy: str  # bind | preferred | interleave
    gpus: tuple[str, ...] | None  # UUIDs, or PCI addresses of GPUs without one; null: nothing is said about GPUs
    workers: tuple[Worker, ...] = ()  # by rank; none: they are where the instance is
    tensor_parallel_size: int = 1
    group_rank: int = 0  # of an instance over several hosts: this host's place among them


def planned_from(entry: t.Mapping[str, t.Any]) -> Planned:
    """The part of a ``vllm_plan`` instance that placement is about; other keys are none of our business.

    Raises PlacementError that names the instance and the key.
    """
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise PlacementError(f"instances: an entry has name {name!r}; every entry needs the name of its instance")
    where = f"instances: {name}:"

    unit = entry.get("unit")
    # systemctl takes *?[ as a pattern and a leading - as an option.
    if (
        not isinstance(unit, str)
        or not unit.endswith(".service")
        or unit.startswith("-")
        or set(unit) & set("*?[/ \t\n")
    ):
        raise PlacementError(
            f"{where} unit is {unit!r}; it must be the full name of a service, such as vllm@{name}.service"
        )

    cpus = entry.get("cpus")
    try:
        planned_cpus = parse_cpulist(str(cpus)) if cpus is not None else frozenset()
    except NumapinError as error:
        raise PlacementError(f"{where} cpus is {cpus!r}: {error}") from None
    if not planned_cpus:
        raise PlacementError(f"{where} cpus is {cpus!r}; it must be a cpulist such as '0-3,8' with at least one CPU")

    nodes = entry.get("memory_nodes")
    if (
        not isinstance(nodes, list)
        or not nodes
        or not all(isinstance(node, int) and not isinstance(node, bool) and node >= 0 for node in nodes)
    ):
        raise PlacementError(f"{where} memory_nodes is {nodes!r}; it must be a list of NUMA node ids such as [0]")

    policy = entry.get("memory_policy", "bind")
    if policy not in _POLICIES:
        raise PlacementError(f"{where} memory_policy is {policy!r}; allowed are {', '.join(sorted(_POLICIES))}")

    gpus = entry.get("gpus")
    if gpus is not None and (not isinstance(gpus, list) or not all(isinstance(gpu, str) and gpu for gpu in gpus)):
        raise PlacementError(f"{where} gpus is {gpus!r}; it must be a list of UUIDs of GPUs or MIG devices")

    tensor = entry.get("tensor_parallel_size") or 1
    if not isinstance(tensor, int) or isinstance(tensor, bool) or tensor < 1:
        raise PlacementError(f"{where} tensor_parallel_size is {tensor!r}; it must be a number from 1 on")
    return Planned(
        name,
        unit,
        frozenset(planned_cpus),
        frozenset(nodes),
        policy,
        None if gpus is None else tuple(gpus),
        _workers_from(entry, where),
        tensor,
        _group_rank_from(entry, where),
    )


def _group_rank_from(entry: t.Mapping[str, t.Any], where: str) -> int:
    group = entry.get("group")
    if group is None:
        return 0
    rank = group.get("rank") if isinstance(group, t.Mapping) else None
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise PlacementError(f"{where} group is {group!r}; it must have the rank of this host, a number from 0 on")
    return rank


def _workers_from(entry: t.Mapping[str, t.Any], where: str) -> tuple[Worker, ...]:
    nodes, cpus = entry.get("numa_bind_nodes") or [], entry.get("numa_bind_cpus") or []
    if (
        not isinstance(nodes, list)
        or not isinstance(cpus, list)
        or len(nodes) != len(cpus)
        or not all(isinstance(node, int) and not isinstance(node, bool) and node >= 0 for node in nodes)
    ):
        raise PlacementError(
            f"{where} numa_bind_nodes is {nodes!r} and numa_bind_cpus is {cpus!r}; they must be lists of NUMA node ids"
            " and of cpulists, one each for every worker"
        )
    try:
        return tuple(Worker(node, frozenset(parse_cpulist(str(text)))) for node, text in zip(nodes, cpus))
    except NumapinError as error:
        raise PlacementError(f"{where} numa_bind_cpus is {cpus!r}: {error}") from None


# --- Held against the plan -----------------------------------------------------------------------------------------


class _Sets:
    """The few different cpulists that thousands of threads share, each parsed once."""

    def __init__(self) -> None:
        self._parsed: dict[str, frozenset[int]] = {}

    def __getitem__(self, cpulist: str) -> frozenset[int]:
        if cpulist not in self._parsed:
            self._parsed[cpulist] = parse_cpulist(cpulist)
        return self._parsed[cpulist]


def _mib(kib: int) -> float:
    return round(kib / 1024, 1)


def _counted(values: t.Iterable[str], key: str) -> list[dict[str, t.Any]]:
    return [{key: value, "threads": threads} for value, threads in collections.Counter(values).most_common()]


def _pages_mib_by_node(memory: Memory) -> list[dict[str, t.Any]]:
    return [
        {"node": node, "total": _mib(sum(kinds.values())), **{kind: _mib(kib) for kind, kib in kinds.items()}}
        for node, kinds in sorted(memory.kib.items())
    ]


def _some(listed: list[str]) -> str:
    more = len(listed) - _NAMED_IN_MESSAGE
    return "; ".join(listed[:_NAMED_IN_MESSAGE]) + (f"; and {more} more" if more > 0 else "")


def _policy_is_kept(policy: str, planned: Planned) -> bool:
    """Whether a memory policy, as the kernel prints it (``bind=static:0-1``), is the planned one."""
    mode_and_flags, _colon, nodes = policy.partition(":")
    if mode_and_flags.partition("=")[0] not in _POLICIES[planned.memory_policy]:
        return False
    found = parse_cpulist(nodes)
    return (
        found == planned.memory_nodes
        if planned.memory_policy == "interleave"
        else bool(found) and found <= planned.memory_nodes
    )


class _Verdict:
    """Holds one instance's processes against its plan entry."""

    def __init__(self, planned: Planned, processes: list[Process]) -> None:
        self.planned = planned
        self.processes = processes
        self.threads = [(process.pid, thread) for process in processes for thread in process.threads]
        self.strays: list[tuple[int, Thread, frozenset[int]]] = []  # and where each should be
        self.problems: list[str] = []
        self.gpu_problems: list[str] = []
        self.notes: list[str] = []
        self.held: Held | None = None
        self._sets = _Sets()
        self.cpus_used = frozenset().union(*(self._sets[thread.cpus_allowed] for _pid, thread in self.threads))

    def check_cpus(self) -> None:
        planned = self.planned.cpus
        self._find_strays(self.threads, planned, "")
        unused = planned - self.cpus_used
        if unused:
            self.problems.append(
                f"no thread may run on CPUs {format_cpulist(unused)} of the planned {format_cpulist(planned)}"
            )

    def _find_strays(self, threads: list[tuple[int, Thread]], planned: frozenset[int], whose: str) -> None:
        strays = [(pid, thread) for pid, thread in threads if not self._sets[thread.cpus_allowed] <= planned]
        if strays:
            named = [
                f"thread {thread.tid} ({thread.comm}) of process {pid} on CPUs {thread.cpus_allowed}"
                + ("" if thread.last_cpu is None else f", last on {thread.last_cpu}")
                for pid, thread in strays
            ]
            self.problems.append(
                f"{len(strays)} of {len(threads)} threads{whose} may run outside the planned CPUs "
                f"{format_cpulist(planned)}: {_some(named)}"
            )
            self.strays.extend((pid, thread, planned) for pid, thread in strays)

    def check_workers(self, command: t.Callable[[int], str], minimum_locality_percent: float) -> None:
        """Each worker of a pipeline over nodes belongs to the node of its own GPU, not to all of the instance's."""
        missing = set(range(len(self.planned.workers)))
        outside = {(pid, thread.tid) for pid, thread, _planned in self.strays}
        for process in self.processes:
            title = _WORKER_TITLE.search(command(process.pid))
            if title is None:
                continue
            rank = int(title[1]) * self.planned.tensor_parallel_size + int(title[2] or 0)
            # Titles count the workers of all hosts, of which each has as many.
            rank -= self.planned.group_rank * len(self.planned.workers)
            if not 0 <= rank < len(self.planned.workers):
                continue
            missing.discard(rank)  # what a worker has forked has its title, and belongs where it does
            worker, name = self.planned.workers[rank], title[0].strip(" _")
            # One that is outside of all nodes has been told already.
            threads = [(process.pid, one) for one in process.threads if (process.pid, one.tid) not in outside]
            self._find_strays(threads, worker.cpus, f" of {name}")
            if self.planned.memory_policy == "bind" and process.memory is not None:
                self._check_worker_memory(name, worker.node, process, minimum_locality_percent)
        if missing:
            ranks = ", ".join(map(str, sorted(missing)))
            self.notes.append(
                f"no process is titled as worker {ranks} of its pipeline (VLLM::Worker_PP0_TP0 and so on): it is held"
                " against all nodes of the instance, not against its own"
            )

    def _check_worker_memory(self, name: str, node: int, process: Process, minimum_percent: float) -> None:
        memory = process.memory or Memory({}, {})
        # What it shares with others of the unit may have been touched, and so placed, by these first.
        own = {
            where: memory.sum_kib(OWN_KINDS, [where]) - memory.shared_kib.get(where, 0) for where in sorted(memory.kib)
        }
        total = sum(own.values())
        percent = int(1000 * own.get(node, 0) / total) / 10 if total else 100.0
        if percent < minimum_percent:
            away = [f"{_mib(kib)} MiB on node {where}" for where, kib in own.items() if where != node and kib]
            self.problems.append(
                f"{percent} % of the own memory of {name}, process {process.pid}, is on its node {node}, wanted are at"
                f" least {minimum_percent:g} %: {_some(away)}"
            )

    def check_memory(self, cpuset_enforced: bool, minimum_locality_percent: float) -> None:
        if self.planned.memory_policy == "bind" and cpuset_enforced:
            self._check_memory_fence()
        else:
            self._check_memory_policy(minimum_locality_percent)
        if self.planned.memory_policy == "bind":
            self._check_locality(minimum_locality_percent)

    def _is_fenced(self, thread: Thread) -> bool:
        return thread.mems_allowed is not None and self._sets[thread.mems_allowed] <= self.planned.memory_nodes

    def _check_memory_fence(self) -> None:
        outside = [
            f"thread {thread.tid} ({thread.comm}) of process {pid} on nodes {thread.mems_allowed or 'unknown'}"
            for pid, thread in self.threads
            if not self._is_fenced(thread)
        ]
        if outside:
            self.problems.append(
                f"{len(outside)} of {len(self.threads)} threads may use memory outside the planned nodes "
                f"{format_cpulist(self.planned.memory_nodes)}: {_some(outside)}"
            )

    def _check_memory_policy(self, minimum_percent: float) -> None:
        """Libraries give single regions a policy of their own (seen: 8 KiB of 2.9 GiB in vLLM): the share decides."""
        wanted = f"{self.planned.memory_policy} on nodes {format_cpulist(self.planned.memory_nodes)}"
        for process in self.processes:
            who = f"process {process.pid} ({process.comm})"
            if process.memory is None:
                # Where a process can reach no other node there is nothing a policy could change.
                if self.planned.memory_policy != "bind" or not all(map(self._is_fenced, process.threads)):
                    self.problems.append(f"whether {who} has memory policy {wanted} is unknown: {process.memory_error}")
                continue
            broken = {
                policy: kib
                for policy, kib in process.memory.policies.items()
                if not _policy_is_kept(policy, self.planned)
            }
            share_percent = 100 * sum(broken.values()) / max(1, sum(process.memory.policies.values()))
            if share_percent > 100 - minimum_percent:
                named = [f"{policy} for {_mib(kib)} MiB" for policy, kib in broken.items()]
                self.problems.append(f"{who} has memory policy {_some(named)}; planned is {wanted}")

    def _check_locality(self, minimum_percent: float) -> None:
        nodes = self.planned.memory_nodes
        known = sum((process.memory for process in self.processes if process.memory is not None), Memory({}, {}))
        percent = known.locality_percent(nodes, OWN_KINDS)
        if percent is None or percent >= minimum_percent:
            return
        away = [
            f"{_mib(kib)} MiB of process {process.pid} ({process.comm}) on node {node}"
            for process in self.processes
            if process.memory is not None
            for node in sorted(process.memory.kib.keys() - nodes)
            if (kib := process.memory.sum_kib(OWN_KINDS, [node])) > 0
        ]
        self.problems.append(
            f"{percent} % of its own memory is on the planned nodes {format_cpulist(nodes)}, wanted are at least "
            f"{minimum_percent:g} %: {_some(away)}"
        )

    def misplaced_kib(self) -> dict[int, int]:
        """What its processes placed themselves on nodes that are not planned, by node."""
        known = sum((process.memory for process in self.processes if process.memory is not None), Memory({}, {}))
        away = {node: known.sum_kib(OWN_KINDS, [node]) for node in sorted(known.kib.keys() - self.planned.memory_nodes)}
        return {node: kib for node, kib in away.items() if kib}

    def check_gpus(self, use: GpuUse, age_seconds: float | None, starting_seconds: float) -> None:
        if self.planned.gpus is None:
            return
        held = self.held = use.held(self.planned.gpus, [process.pid for process in self.processes])
        names = {process.pid: process.comm for process in self.processes}
        said_by = SAID_BY.get(held.source or "", "")
        for gpu in held.unplanned:
            users = ", ".join(f"process {pid} ({names[pid]})" for pid in held.by_gpu[gpu])
            self.gpu_problems.append(f"GPU {gpu} is held by {users} and is not planned (so says {said_by})")
        # A model's processes open their GPUs some time after they were started.
        starts = age_seconds is not None and age_seconds < starting_seconds
        for gpu in held.missing:
            told = f"GPU {gpu} is planned and none of its processes holds it (so says {said_by})"
            (self.notes if starts else self.gpu_problems).append(told)
        if held.unknown:
            self.notes.append(f"whether it holds {', '.join(held.unknown)} is unknown: {held.unknown_because}")
        self.problems.extend(self.gpu_problems)


class Bounds(t.NamedTuple):
    """What is asked of every instance alike.

    A planned GPU that is not held yet is no difference for ``starting_seconds`` after the start of its processes.
    """

    minimum_locality_percent: float
    cpuset_enforced: bool
    starting_seconds: float = 0


def report(
    reader: Reader, planned: Planned, state: UnitState, bounds: Bounds, gpu_use: GpuUse | None
) -> dict[str, t.Any]:
    """One instance: where it is, what is not as planned, and a line about it for people.

    The shape is the one of RETURN in plugins/modules/placement_info.py.
    """
    processes = reader.processes(state.control_group) if state.control_group else []
    verdict = _Verdict(planned, processes)
    if processes:
        verdict.check_cpus()
        verdict.check_memory(bounds.cpuset_enforced, bounds.minimum_locality_percent)
        if planned.workers:
            verdict.check_workers(reader.command, bounds.minimum_locality_percent)
        if gpu_use is not None:
            verdict.check_gpus(gpu_use, reader.age_seconds(processes), bounds.starting_seconds)
    else:
        verdict.problems.append(f"{planned.unit} {state}" + (", but has no process" if state.control_group else ""))

    # A sum that leaves out what could not be read would be too low: unknown is better.
    unread = next((process.memory_error for process in processes if process.memory is None), None)
    if not processes:
        unread = f"{planned.unit} has no process"
    memory = None
    if unread is None:
        memory = sum((process.memory for process in processes if process.memory is not None), Memory({}, {}))

    answer: dict[str, t.Any] = {
        "name": planned.name,
        "unit": planned.unit,
        "planned_cpus": format_cpulist(planned.cpus),
        "planned_memory_nodes": sorted(planned.memory_nodes),
        "ok": not verdict.problems,
        "problems": verdict.problems,
        "notes": verdict.notes,
        "state": "running" if processes else "stopped" if state.exists else "absent",
        "processes": [_process_report(process) for process in processes],
        "thread_count": len(verdict.threads),
        "cpus_allowed": _counted((thread.cpus_allowed for _pid, thread in verdict.threads), "cpus"),
        "mems_allowed": _counted(
            (thread.mems_allowed for _pid, thread in verdict.threads if thread.mems_allowed is not None), "nodes"
        ),
        "last_cpus": _last_cpus(thread for _pid, thread in verdict.threads),
        "stray_thread_count": len(verdict.strays),
        "stray_threads": [
            {
                "pid": pid,
                "tid": thread.tid,
                "comm": thread.comm,
                "cpus_allowed": thread.cpus_allowed,
                "last_cpu": thread.last_cpu,
                "planned_cpus": format_cpulist(cpus),
            }
            for pid, thread, cpus in verdict.strays[:_STRAYS_LISTED]
        ],
        "pages_mib_by_node": None if memory is None else _pages_mib_by_node(memory),
        "pages_unknown_because": unread,
        "memory_policies": None
        if memory is None
        else [{"policy": policy, "mib": _mib(kib)} for policy, kib in sorted(memory.policies.items())],
        "locality_percent": None if memory is None else memory.locality_percent(planned.memory_nodes),
        "own_locality_percent": None if memory is None else memory.locality_percent(planned.memory_nodes, OWN_KINDS),
        "misplaced_mib": None
        if memory is None
        else [{"node": node, "mib": _mib(kib)} for node, kib in verdict.misplaced_kib().items()],
        "gpus": _gpu_report(verdict),
    }
    answer["summary"] = _summary(answer, verdict, memory)
    return answer


def _last_cpus(threads: t.Iterable[Thread]) -> list[dict[str, int]]:
    counted = collections.Counter(thread.last_cpu for thread in threads if thread.last_cpu is not None)
    return [{"cpu": cpu, "threads": count} for cpu, count in sorted(counted.items())]


def _gpu_report(verdict: _Verdict) -> dict[str, t.Any] | None:
    held = verdict.held
    if held is None:
        return None
    return {
        "planned": list(verdict.planned.gpus or ()),
        "held": [{"gpu": gpu, "pids": pids} for gpu, pids in sorted(held.by_gpu.items())],
        "missing": held.missing,
        "unplanned": held.unplanned,
        "unknown": held.unknown,
        "unknown_because": held.unknown_because,
        "source": held.source,
        "problems": verdict.gpu_problems,
    }


def _process_report(process: Process) -> dict[str, t.Any]:
    return {
        "pid": process.pid,
        "comm": process.comm,
        "thread_count": len(process.threads),
        "last_cpu": process.last_cpu,
        "pages_mib_by_node": None if process.memory is None else _pages_mib_by_node(process.memory),
        "pages_unknown_because": process.memory_error,
    }


def _summary(answer: dict[str, t.Any], verdict: _Verdict, memory: Memory | None) -> str:
    if not verdict.processes:
        return f"{answer['name']}: {verdict.problems[0]}"
    where = ", ".join(
        (
            f"CPUs {format_cpulist(verdict.cpus_used)}",
            _number(answer["thread_count"], "thread")
            + " in "
            + _number(len(verdict.processes), "process", "processes"),
            "memory unknown" if memory is None else _summary_of(memory, answer["locality_percent"]),
        )
    )
    return f"{answer['name']}: {'as planned' if answer['ok'] else 'NOT as planned'} - {where}"


def _summary_of(memory: Memory, locality_percent: float | None) -> str:
    nodes = " + ".join(
        f"{sum(kinds.values()) // 1024} MiB on node {node}" for node, kinds in sorted(memory.kib.items())
    )
    return f"{nodes}, {locality_percent} % local" if nodes else "no memory"


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def read_placement(
    host: Host,
    entries: t.Sequence[t.Mapping[str, t.Any]],
    minimum_locality_percent: float,
    run: Runner,
    *,
    gpu_sources: GpuSources = GpuSources(),  # noqa: B008 - an immutable tuple
    starting_seconds: float = 0,
) -> dict[str, t.Any]:
    """Read and judge every instance of ``entries``; the answer is what the module placement_info returns.

    Raises PlacementError for entries or percentages that cannot be meant, and NumapinError for a systemd that does not
    answer.
    """
    if not 0 <= minimum_locality_percent <= 100:
        raise PlacementError(f"minimum_locality_percent is {minimum_locality_percent:g}; it must be from 0 to 100")
    plan = [planned_from(entry) for entry in entries]
    units = [planned.unit for planned in plan]
    reader = Reader(host)
    states = ask_systemd(units, run) if host.is_running_machine else reader.find_units(units)
    bounds = Bounds(minimum_locality_percent, reader.enforces_cpusets(), starting_seconds)
    use = read_gpu_use(host, gpu_sources, wanted=any(planned.gpus for planned in plan))
    instances = [report(reader, planned, states[planned.unit], bounds, use) for planned in plan]
    return {
        "ok": all(one["ok"] for one in instances),
        "cpuset_enforced": bounds.cpuset_enforced,
        "instances": instances,
        "gpu_warnings": list(use.warnings) if use is not None else [],
    }
