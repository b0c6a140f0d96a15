# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The processes of systemd units: threads, the CPUs and memory nodes they may use, the pages they have.

Processes and threads come and go while they are being read; one that is gone is left out. What is there but cannot be
read is reported as unknown, never as 0.

Kernel sources of what is read here:

* ``cgroup.procs``: Documentation/admin-guide/cgroup-v2.rst; a pid outside the reader's pid namespace reads as 0.
* ``/proc/PID/task/TID/status`` (``Cpus_allowed_list``, ``Mems_allowed_list``): fs/proc/array.c, kernel/cgroup/cpuset.c.
* ``/proc/PID/task/TID/stat`` fields 22 and 39, its start and the CPU it ran on last: fs/proc/array.c, ``do_task_stat``.
* ``/proc/PID/numa_maps``: fs/proc/task_mmu.c, ``show_numa_map``. Counts are in units of the mapping's
  ``kernelpagesize_kB``. The policy is the mapping's own, else the one of the main thread, as mm/mempolicy.c,
  ``mpol_to_str``, prints it.
"""

from __future__ import annotations

import dataclasses
import os
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._commands import Runner
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host

# Where systemd's tree can be: unified hosts; hybrid hosts; hosts with cgroup v1 only. The first that has the unit wins.
_CGROUP_TREES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
KINDS = ("anonymous", "file", "huge")
# A process with 100,000 mappings has about 10 MiB of it.
_NUMA_MAPS_LIMIT_BYTES = 64 * 1024 * 1024
_SYSTEMCTL_TIMEOUT_SECONDS = 30


class ProcessesError(NumapinError):
    """systemd does not answer."""


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
    # Node → KiB of its own (anonymous, huge) that other processes have mapped as well: shared memory, and what a fork
    # has left in common. Who touched it first may have been one of these.
    shared_kib: dict[int, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: Memory) -> Memory:
        total = Memory(
            {node: dict(kinds) for node, kinds in self.kib.items()}, dict(self.policies), dict(self.shared_kib)
        )
        for node, kinds in other.kib.items():
            mine = total.kib.setdefault(node, dict.fromkeys(KINDS, 0))
            for kind, kib in kinds.items():
                mine[kind] += kib
        for policy, kib in other.policies.items():
            total.policies[policy] = total.policies.get(policy, 0) + kib
        for node, kib in other.shared_kib.items():
            total.shared_kib[node] = total.shared_kib.get(node, 0) + kib
        return total

    def sum_kib(self, kinds: t.Container[str] = KINDS, nodes: t.Container[int] | None = None) -> int:
        return sum(
            kib
            for node, by_kind in self.kib.items()
            if nodes is None or node in nodes
            for kind, kib in by_kind.items()
            if kind in kinds
        )

    def locality_percent(self, nodes: t.Container[int], kinds: t.Container[str] = KINDS) -> float | None:
        """Share of the pages that are on ``nodes``; null when there are none."""
        total = self.sum_kib(kinds)
        # Cut, not rounded: 100 means all of them.
        return int(1000 * self.sum_kib(kinds, nodes) / total) / 10 if total else None


# What a process touches first is placed by its own policy. Pages of files are the page cache's: whoever read the file
# first decided where they are, so they are counted but not held against anybody.
OWN_KINDS = ("anonymous", "huge")
# Shared memory has a name and no file behind it: tmpfs, MAP_SHARED without a file, System V, memfd_create. Its pages
# are placed by the policy of who touches them first, as anonymous ones are. (vLLM offloads its KV cache into such.)
_SHARED_MEMORY = ("/dev/shm/", "/dev/zero", "/SYSV", "/memfd:")


@dataclasses.dataclass(frozen=True)
class Thread:
    tid: int
    comm: str
    cpus_allowed: str  # cpulist, as the kernel prints it
    mems_allowed: str | None  # null on kernels without cpusets
    last_cpu: int | None
    started_ticks: int | None  # since the boot
    is_zombie: bool = False


@dataclasses.dataclass(frozen=True)
class Process:
    pid: int
    comm: str
    last_cpu: int | None  # of its main thread
    started_ticks: int | None
    threads: list[Thread]
    memory: Memory | None  # null: see memory_error
    memory_error: str | None = None


# Policies with a blank in their name: "prefer (many):0" and "weighted interleave:0-1".
_OF_TWO_WORDS = ("prefer", "weighted")


def parse_numa_maps(text: str) -> Memory:
    """Sum up ``/proc/PID/numa_maps``. Mappings without pages are nowhere and do not count.

    A line is ``ADDRESS POLICY [file=NAME] [heap] [huge] [anon=PAGES] … N0=PAGES … kernelpagesize_kB=KIB``. Blanks in a
    file's name are escaped, and the counts of the nodes stand together. Raises ValueError or IndexError for what is
    not written so.
    """
    # A process has thousands of mappings, and a host hundreds of processes: what is done for each line is little.
    pages_of: dict[tuple[str, str, str, str], int] = {}
    shared_kib: dict[int, int] = {}
    for line in text.splitlines():
        words, has_pages, counts = line.partition(" N")
        if not has_pages:
            continue
        policy = words.split(" ", 2)[1]
        if policy in _OF_TWO_WORDS:
            policy = " ".join(words.split(" ", 3)[1:3])
        nodes, _key, page_kib = counts.partition(" kernelpagesize_kB=")
        if " huge" in words:
            kind = "huge"
        elif " file=" not in words or words.partition(" file=")[2].startswith(_SHARED_MEMORY):
            kind = "anonymous"
        else:
            kind = _kind_of_file(words, nodes) if " anon=" in words else "file"
        # It is there where a page of the mapping is mapped more than once.
        if kind != "file" and " mapmax=" in words:
            _add_shared(shared_kib, nodes, int(page_kib))
        for count in nodes.split(" N") if " " in nodes else (nodes,):
            node, _equals, pages = count.partition("=")
            key = (policy, kind, node, page_kib)
            pages_of[key] = pages_of.get(key, 0) + int(pages)

    kib: dict[int, dict[str, int]] = {}
    policies: dict[str, int] = {}
    for (policy, kind, node, page_kib), pages_found in pages_of.items():
        found = pages_found * int(page_kib)
        kib.setdefault(int(node), dict.fromkeys(KINDS, 0))[kind] += found
        policies[policy] = policies.get(policy, 0) + found
    return Memory(kib, policies, shared_kib)


def _add_shared(shared_kib: dict[int, int], nodes: str, page_kib: int) -> None:
    for count in nodes.split(" N"):
        node, _equals, pages = count.partition("=")
        shared_kib[int(node)] = shared_kib.get(int(node), 0) + int(pages) * page_kib


def _kind_of_file(words: str, nodes: str) -> str:
    """A private mapping of a file of which every page has become a copy has nothing to do with the file any more."""
    copies = int(words.partition(" anon=")[2].partition(" ")[0])
    pages = sum(int(count.partition("=")[2]) for count in nodes.split(" N"))
    return "anonymous" if copies >= pages else "file"


def _status_field(status: str, key: str) -> str | None:
    _before, found, rest = status.partition(f"\n{key}:\t")
    return rest.partition("\n")[0] if found else None


def _number_at(fields: list[str], field: int) -> int | None:
    """A field of /proc/PID/stat by its number in proc(5); ``fields`` begin with the third, behind the name."""
    text = fields[field - 3] if len(fields) > field - 3 else ""
    return int(text) if text.isdecimal() else None


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

    def age_seconds(self, processes: t.Iterable[Process]) -> float | None:
        """How long ago the first of them was started."""
        uptime = (self._host.read_text("/proc/uptime") or "").split(" ")[0]
        started = [process.started_ticks for process in processes if process.started_ticks is not None]
        try:
            return float(uptime) - min(started) / os.sysconf("SC_CLK_TCK")
        except ValueError:
            return None

    def command(self, pid: int) -> str:
        """What ``ps`` shows of it, empty when it is gone: a process's own title is here whole, its name cut to 15."""
        return (self._host.read_text(f"/proc/{pid}/cmdline") or "").replace("\0", " ").strip()

    def _process(self, pid: int) -> Process | None:
        tids = sorted(int(tid) for tid in self._host.list_dir(f"/proc/{pid}/task") or [] if tid.isdecimal())
        threads = [thread for tid in tids if (thread := self._thread(pid, tid)) is not None]
        if not threads:
            return None
        leader = next((thread for thread in threads if thread.tid == pid), threads[0])
        memory, error = self._memory(pid, threads)
        return Process(pid, leader.comm, leader.last_cpu, leader.started_ticks, threads, memory, error)

    def _thread(self, pid: int, tid: int) -> Thread | None:
        task = f"/proc/{pid}/task/{tid}"
        status = self._host.read_text(f"{task}/status")
        cpus = _status_field(status, "Cpus_allowed_list") if status else None
        if not status or cpus is None:
            return None
        # Counted from the last ")", because a name may hold anything.
        fields = (self._host.read_text(f"{task}/stat") or "").rpartition(")")[2].split()
        return Thread(
            tid=tid,
            comm=status.partition("\n")[0].partition("\t")[2],
            cpus_allowed=cpus,
            mems_allowed=_status_field(status, "Mems_allowed_list"),
            last_cpu=_number_at(fields, 39),
            started_ticks=_number_at(fields, 22),
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
    """What systemd says about ``units``, in one call. Raises ProcessesError, CommandError."""
    if not units:
        return {}
    properties = "--property=LoadState,ActiveState,SubState,Result,ControlGroup"
    answer = run(["systemctl", "show", properties, "--", *units], timeout_seconds=_SYSTEMCTL_TIMEOUT_SECONDS)
    blocks = answer.stdout.strip("\n").split("\n\n")
    if answer.rc != 0 or len(blocks) != len(units):
        raise ProcessesError(
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
