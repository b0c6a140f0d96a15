# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Where the threads and the memory of a systemd unit really are, held against the plan.

Read (``Reader``) → judge (``judge``) → report (``report``). Processes and threads come and go while they are being
read; one that is gone is left out. What is there but cannot be read is reported as unknown, never as 0.

Kernel sources of what is read here:

* ``cgroup.procs``: Documentation/admin-guide/cgroup-v2.rst; a pid outside the reader's pid namespace reads as 0.
* ``/proc/PID/task/TID/status`` (``Cpus_allowed_list``, ``Mems_allowed_list``): fs/proc/array.c, kernel/cgroup/cpuset.c.
* ``/proc/PID/task/TID/stat`` field 39, the CPU the thread ran on last: fs/proc/array.c, ``do_task_stat``.
* ``/proc/PID/numa_maps``: fs/proc/task_mmu.c, ``show_numa_map``. Counts are in units of the mapping's
  ``kernelpagesize_kB``. The policy is the mapping's own, else the one of the main thread, as mm/mempolicy.c,
  ``mpol_to_str``, prints it.
"""

from __future__ import annotations

import collections
import dataclasses
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._commands import Runner
from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist, parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host

# Where systemd's tree can be: unified hosts; hybrid hosts; hosts with cgroup v1 only. The first that has the unit wins.
_CGROUP_TREES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")

_POLICIES = {
    "bind": ("bind",),
    "preferred": ("prefer", "prefer (many)"),
    "interleave": ("interleave", "weighted interleave"),
}
_KINDS = ("anonymous", "file", "huge")

_STRAYS_LISTED = 20
_NAMED_IN_MESSAGE = 5
# A process with 100,000 mappings has about 10 MiB of it.
_NUMA_MAPS_LIMIT_BYTES = 64 * 1024 * 1024
_SYSTEMCTL_TIMEOUT_SECONDS = 30


class PlacementError(NumapinError):
    """The question cannot be answered: a bad plan entry, or systemd does not answer."""


# --- What is wanted ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a plan entry says about the place of one instance."""

    name: str
    unit: str
    cpus: frozenset[int]
    memory_nodes: frozenset[int]
    memory_policy: str  # bind | preferred | interleave


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

    return Planned(name, unit, frozenset(planned_cpus), frozenset(nodes), policy)


# --- What is there -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class UnitState:
    """What systemd says about a unit. The states are null where systemd was not asked (a captured tree)."""

    control_group: str  # below the root of the cgroup tree; empty when the unit has none
    load_state: str | None = None
    active_state: str | None = None
    sub_state: str | None = None
    result: str | None = None

    @property
    def exists(self) -> bool:
        return bool(self.control_group) or self.load_state not in (None, "not-found")

    def __str__(self) -> str:
        if self.load_state is None:
            return "has a control group" if self.control_group else "has no control group"
        if self.load_state != "loaded":
            return {"not-found": "does not exist", "masked": "is masked"}.get(
                self.load_state, f"cannot be loaded ({self.load_state})"
            )
        because = f", result {self.result}" if self.result not in (None, "", "success") else ""
        return f"is {self.active_state} ({self.sub_state}{because})"


@dataclasses.dataclass(frozen=True)
class Memory:
    """The pages of one or more processes, in KiB."""

    kib: dict[int, dict[str, int]]  # node → kind (anonymous, file, huge) → KiB
    policies: dict[str, int]  # memory policy as the kernel prints it → KiB in mappings under it

    def __add__(self, other: Memory) -> Memory:
        total = Memory({node: dict(kinds) for node, kinds in self.kib.items()}, dict(self.policies))
        for node, kinds in other.kib.items():
            mine = total.kib.setdefault(node, dict.fromkeys(_KINDS, 0))
            for kind, kib in kinds.items():
                mine[kind] += kib
        for policy, kib in other.policies.items():
            total.policies[policy] = total.policies.get(policy, 0) + kib
        return total

    def sum_kib(self, kinds: t.Container[str] = _KINDS, nodes: t.Container[int] | None = None) -> int:
        return sum(
            kib
            for node, by_kind in self.kib.items()
            if nodes is None or node in nodes
            for kind, kib in by_kind.items()
            if kind in kinds
        )

    def locality_percent(self, nodes: t.Container[int], kinds: t.Container[str] = _KINDS) -> float | None:
        """Share of the pages that are on ``nodes``; null when there are none."""
        total = self.sum_kib(kinds)
        # Cut, not rounded: 100 means all of them.
        return int(1000 * self.sum_kib(kinds, nodes) / total) / 10 if total else None


# What a process touches first is placed by its own policy. Pages of files are the page cache's: whoever read the file
# first decided where they are, so they are counted but not held against anybody.
OWN_KINDS = ("anonymous", "huge")


@dataclasses.dataclass(frozen=True)
class Thread:
    tid: int
    comm: str
    cpus_allowed: str  # cpulist, as the kernel prints it
    mems_allowed: str | None  # null on kernels without cpusets
    is_zombie: bool = False


@dataclasses.dataclass(frozen=True)
class Process:
    pid: int
    comm: str
    last_cpu: int | None  # of its main thread
    threads: list[Thread]
    memory: Memory | None  # null: see memory_error
    memory_error: str | None = None


def parse_numa_maps(text: str) -> Memory:
    """Sum up ``/proc/PID/numa_maps``. Mappings without pages are nowhere and do not count.

    A line is ``ADDRESS POLICY [file=NAME] [heap] [huge] [anon=PAGES] … N0=PAGES … kernelpagesize_kB=KIB``. Blanks in a
    file's name are escaped, and the counts of the nodes stand together. Raises ValueError or IndexError for what is
    not written so.
    """
    # A process has thousands of mappings, most of them alike in all that counts here: each sort is taken apart once.
    alike: dict[tuple[str, str, str], int] = {}
    for line in text.splitlines():
        words, has_pages, counts = line.partition(" N")
        if has_pages:
            sort = (_policy(words), _kind(words, counts), counts)
            alike[sort] = alike.get(sort, 0) + 1

    kib: dict[int, dict[str, int]] = {}
    policies: dict[str, int] = {}
    for (policy, kind, counts), mappings in alike.items():
        by_node, page_kib = _take_apart(counts)
        for node, pages in by_node.items():
            found = mappings * pages * page_kib
            kib.setdefault(node, dict.fromkeys(_KINDS, 0))[kind] += found
            policies[policy] = policies.get(policy, 0) + found
    return Memory(kib, policies)


def _policy(words: str) -> str:
    policy = words.split(" ", 2)[1]
    # Two policies have a blank in their name: "prefer (many):0" and "weighted interleave:0-1".
    return " ".join(words.split(" ", 3)[1:3]) if policy in ("prefer", "weighted") else policy


def _kind(words: str, counts: str) -> str:
    if " huge" in words:
        return "huge"
    if " file=" not in words:
        return "anonymous"
    _before, has_copies, rest = words.partition(" anon=")
    if not has_copies:
        return "file"
    # A private mapping of a file of which every page has become a copy has nothing to do with the file any more.
    return "anonymous" if int(rest.partition(" ")[0]) >= sum(_take_apart(counts)[0].values()) else "file"


def _take_apart(counts: str) -> tuple[dict[int, int], int]:
    """The pages on each node, and the size of a page in KiB, from ``0=31 N1=7 kernelpagesize_kB=4``."""
    nodes, _key, page_kib = counts.partition(" kernelpagesize_kB=")
    pairs = (count.partition("=") for count in nodes.split(" N"))
    return {int(node): int(pages) for node, _equals, pages in pairs}, int(page_kib)


def _status_field(status: str, key: str) -> str | None:
    _before, found, rest = status.partition(f"\n{key}:\t")
    return rest.partition("\n")[0] if found else None


class Reader:
    """Reads units' processes, threads and pages below the root of ``host``."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def enforces_cpusets(self) -> bool:
        """Whether cgroup v2 has the cpuset controller here, so that AllowedCPUs and AllowedMemoryNodes are a fence."""
        return "cpuset" in (self._host.read_text("/sys/fs/cgroup/cgroup.controllers") or "").split()

    def find_units(self, units: t.Iterable[str]) -> dict[str, UnitState]:
        """Find units by the names of their directories: for captured trees, where there is no systemd to ask."""
        wanted = set(units)
        found: dict[str, str] = {}
        for tree in _CGROUP_TREES:
            waiting = [""]
            while waiting and wanted - found.keys():
                group = waiting.pop()
                for name in self._groups_in(f"{tree}{group}"):
                    if name in wanted:
                        found.setdefault(name, f"{group}/{name}")
                    elif name.endswith(".slice"):
                        waiting.append(f"{group}/{name}")
        return {unit: UnitState(found.get(unit, "")) for unit in wanted}

    def processes(self, control_group: str) -> list[Process]:
        """All processes of a control group and of the groups below it, by pid."""
        for tree in _CGROUP_TREES:
            if self._host.exists(f"{tree}{control_group}/cgroup.procs"):
                found = (self._process(pid) for pid in sorted(self._pids(f"{tree}{control_group}")))
                return [process for process in found if process is not None]
        return []

    def _pids(self, directory: str) -> set[int]:
        # Unreadable: the group is gone, or it is a threaded one, whose processes the group above it lists.
        listed = (self._host.read_text(f"{directory}/cgroup.procs") or "").split()
        pids = {int(pid) for pid in listed if pid.isdecimal() and pid != "0"}
        return pids.union(*(self._pids(f"{directory}/{name}") for name in self._groups_in(directory)))

    def _groups_in(self, directory: str) -> list[str]:
        names = self._host.list_dir(directory) or []
        # Links are skipped: the kernel puts none between groups, so one in a captured tree could only lead in a circle.
        return [
            name
            for name in names
            if self._host.exists(f"{directory}/{name}/cgroup.procs")
            and self._host.readlink(f"{directory}/{name}") is None
        ]

    def last_cpu(self, pid: int, tid: int) -> int | None:
        """The CPU a thread ran on last. Asked for few threads only: with 20,000 of them every further file counts."""
        # Counted from the last ")", because a name may hold anything.
        fields = (self._host.read_text(f"/proc/{pid}/task/{tid}/stat") or "").rpartition(")")[2].split()
        return int(fields[36]) if len(fields) > 36 and fields[36].isdecimal() else None

    def _process(self, pid: int) -> Process | None:
        tids = sorted(int(tid) for tid in self._host.list_dir(f"/proc/{pid}/task") or [] if tid.isdecimal())
        threads = [thread for tid in tids if (thread := self._thread(pid, tid)) is not None]
        if not threads:
            return None
        leader = next((thread for thread in threads if thread.tid == pid), threads[0])
        memory, error = self._memory(pid, threads)
        return Process(pid, leader.comm, self.last_cpu(pid, leader.tid), threads, memory, error)

    def _thread(self, pid: int, tid: int) -> Thread | None:
        status = self._host.read_text(f"/proc/{pid}/task/{tid}/status")
        cpus = _status_field(status, "Cpus_allowed_list") if status else None
        if not status or cpus is None:
            return None
        return Thread(
            tid=tid,
            comm=status.partition("\n")[0].partition("\t")[2],
            cpus_allowed=cpus,
            mems_allowed=_status_field(status, "Mems_allowed_list"),
            is_zombie=(_status_field(status, "State") or "").startswith("Z"),
        )

    def _memory(self, pid: int, threads: list[Thread]) -> tuple[Memory | None, str | None]:
        # A thread that has ended and waits to be collected has let go of the memory that the others still use.
        tid = next((thread.tid for thread in threads if not thread.is_zombie), None)
        if tid is None:
            return Memory({}, {}), None
        path = f"/proc/{pid}/numa_maps" if tid == pid else f"/proc/{pid}/task/{tid}/numa_maps"
        text = self._host.read_text(path, limit_bytes=_NUMA_MAPS_LIMIT_BYTES)
        if text:
            try:
                return parse_numa_maps(text), None
            except (ValueError, IndexError):
                return None, f"{path} is not written as Linux writes it"
        if not self._host.exists(f"/proc/{pid}/task/{tid}"):
            return Memory({}, {}), None  # it ended while it was read
        if not self._host.exists(path):
            return None, f"{path} does not exist: this kernel was built without CONFIG_NUMA"
        return None, f"{path} cannot be read: that needs root and, in a container, CAP_SYS_PTRACE"


def ask_systemd(units: t.Sequence[str], run: Runner) -> dict[str, UnitState]:
    """What systemd says about ``units``, in one call. Raises PlacementError, CommandError."""
    if not units:
        return {}
    properties = "--property=LoadState,ActiveState,SubState,Result,ControlGroup"
    answer = run(["systemctl", "show", properties, "--", *units], timeout_seconds=_SYSTEMCTL_TIMEOUT_SECONDS)
    blocks = answer.stdout.strip("\n").split("\n\n")
    if answer.rc != 0 or len(blocks) != len(units):
        raise PlacementError(
            f"systemctl show did not answer for {', '.join(units)} (exit status {answer.rc}): "
            f"{answer.stderr.strip() or 'no message'}"
        )
    states = {}
    for unit, block in zip(units, blocks):
        said = dict(line.partition("=")[::2] for line in block.splitlines())
        states[unit] = UnitState(
            control_group=said.get("ControlGroup", ""),
            load_state=said.get("LoadState"),
            active_state=said.get("ActiveState"),
            sub_state=said.get("SubState"),
            result=said.get("Result"),
        )
    return states


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
        self.strays: list[tuple[int, Thread]] = []
        self.problems: list[str] = []
        self._sets = _Sets()
        self.cpus_used = frozenset().union(*(self._sets[thread.cpus_allowed] for _pid, thread in self.threads))

    def check_cpus(self) -> None:
        planned = self.planned.cpus
        self.strays = [(pid, thread) for pid, thread in self.threads if not self._sets[thread.cpus_allowed] <= planned]
        if self.strays:
            named = [
                f"thread {thread.tid} ({thread.comm}) of process {pid} on CPUs {thread.cpus_allowed}"
                for pid, thread in self.strays
            ]
            self.problems.append(
                f"{len(self.strays)} of {len(self.threads)} threads may run outside the planned CPUs "
                f"{format_cpulist(planned)}: {_some(named)}"
            )
        unused = planned - self.cpus_used
        if unused:
            self.problems.append(
                f"no thread may run on CPUs {format_cpulist(unused)} of the planned {format_cpulist(planned)}"
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


def report(
    reader: Reader, planned: Planned, state: UnitState, *, cpuset_enforced: bool, minimum_locality_percent: float
) -> dict[str, t.Any]:
    """One instance: where it is, what is not as planned, and a line about it for people.

    The shape is the one of RETURN in plugins/modules/placement_info.py.
    """
    processes = reader.processes(state.control_group) if state.control_group else []
    verdict = _Verdict(planned, processes)
    if processes:
        verdict.check_cpus()
        verdict.check_memory(cpuset_enforced, minimum_locality_percent)
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
        "ok": not verdict.problems,
        "problems": verdict.problems,
        "state": "running" if processes else "stopped" if state.exists else "absent",
        "processes": [_process_report(process) for process in processes],
        "thread_count": len(verdict.threads),
        "cpus_allowed": _counted((thread.cpus_allowed for _pid, thread in verdict.threads), "cpus"),
        "mems_allowed": _counted(
            (thread.mems_allowed for _pid, thread in verdict.threads if thread.mems_allowed is not None), "nodes"
        ),
        "stray_thread_count": len(verdict.strays),
        "stray_threads": [
            {
                "pid": pid,
                "tid": thread.tid,
                "comm": thread.comm,
                "cpus_allowed": thread.cpus_allowed,
                "last_cpu": reader.last_cpu(pid, thread.tid),
                "planned_cpus": format_cpulist(planned.cpus),
            }
            for pid, thread in verdict.strays[:_STRAYS_LISTED]
        ],
        "pages_mib_by_node": None if memory is None else _pages_mib_by_node(memory),
        "pages_unknown_because": unread,
        "memory_policies": None
        if memory is None
        else [{"policy": policy, "mib": _mib(kib)} for policy, kib in sorted(memory.policies.items())],
        "locality_percent": None if memory is None else memory.locality_percent(planned.memory_nodes),
        "own_locality_percent": None if memory is None else memory.locality_percent(planned.memory_nodes, OWN_KINDS),
    }
    answer["summary"] = _summary(answer, verdict, memory)
    return answer


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
    host: Host, entries: t.Sequence[t.Mapping[str, t.Any]], minimum_locality_percent: float, run: Runner
) -> dict[str, t.Any]:
    """Read and judge every instance of ``entries``; the answer is what the module placement_info returns.

    Raises PlacementError for entries or percentages that cannot be meant, and for a systemd that does not answer.
    """
    if not 0 <= minimum_locality_percent <= 100:
        raise PlacementError(f"minimum_locality_percent is {minimum_locality_percent:g}; it must be from 0 to 100")
    plan = [planned_from(entry) for entry in entries]
    units = [planned.unit for planned in plan]
    reader = Reader(host)
    states = ask_systemd(units, run) if host.is_running_machine else reader.find_units(units)
    cpuset_enforced = reader.enforces_cpusets()
    instances = [
        report(
            reader,
            planned,
            states[planned.unit],
            cpuset_enforced=cpuset_enforced,
            minimum_locality_percent=minimum_locality_percent,
        )
        for planned in plan
    ]
    return {"ok": all(one["ok"] for one in instances), "cpuset_enforced": cpuset_enforced, "instances": instances}
