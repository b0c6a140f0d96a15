# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long does the proof take for 64 instances with 300 threads each, and against what?

On one made-up tree (in memory, as /proc is): four processes an instance, as vLLM has them with two GPUs, the memory of
each in 2,000 mappings. Taking turns in one process:

* the module's work: finding the units, reading every thread and mapping, judging, making the answer;
* a bare loop that opens and reads the same files, and looks into none of them.

``--profile`` prints where the module's work spends its time instead.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
import typing as t
from pathlib import Path
from statistics import median

from facts_speed import ROOT

sys.path.insert(0, str(ROOT / "build" / "dev"))

from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._placement import read_placement

INSTANCES, THREADS, MAPPINGS = 64, 300, 2000
# API server, EngineCore, two workers.
SHARES = {"python3": 60, "VLLM::EngineCor": 60, "VLLM::Worker_TP": 90}
CPUS_OF_AN_INSTANCE, NODES = 12, 8
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# As Linux 6.12 prints it on a machine of 768 CPUs.
STATUS = """Name:\t{comm}
Umask:\t0077
State:\tS (sleeping)
Tgid:\t{pid}
Ngid:\t0
Pid:\t{tid}
PPid:\t1
TracerPid:\t0
Uid:\t998\t998\t998\t998
Gid:\t998\t998\t998\t998
FDSize:\t512
Groups:\t44 998
NStgid:\t{pid}
NSpid:\t{tid}
NSpgid:\t{pid}
NSsid:\t{pid}
Kthread:\t0
VmPeak:\t98304000 kB
VmSize:\t98230000 kB
VmLck:\t       0 kB
VmPin:\t       0 kB
VmHWM:\t 8123456 kB
VmRSS:\t 8100000 kB
RssAnon:\t 7000000 kB
RssFile:\t 1000000 kB
RssShmem:\t  100000 kB
VmData:\t 9000000 kB
VmStk:\t     136 kB
VmExe:\t    2800 kB
VmLib:\t 2000000 kB
VmPTE:\t   20000 kB
VmSwap:\t       0 kB
HugetlbPages:\t       0 kB
CoreDumping:\t0
THP_enabled:\t1
untag_mask:\t0xffffffffffffffff
Threads:\t{threads}
SigQ:\t0/4126720
SigPnd:\t0000000000000000
ShdPnd:\t0000000000000000
SigBlk:\t0000000000000000
SigIgn:\t0000000001001000
SigCgt:\t0000000100004002
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t12
Speculation_Store_Bypass:\tthread vulnerable
SpeculationIndirectBranch:\tconditional enabled
Cpus_allowed:\t{mask}
Cpus_allowed_list:\t{cpus}
Mems_allowed:\t00000000,00000000,00000000,00000000,00000000,00000000,00000000,000000ff
Mems_allowed_list:\t{node}
voluntary_ctxt_switches:\t15013
nonvoluntary_ctxt_switches:\t17
x86_Thread_features:\t
x86_Thread_features_locked:\t
"""
STAT = (
    "{tid} ({comm}) S 1 {pid} {pid} 0 -1 4194624 918273 0 12 0 90210 3310 0 0 20 0 {threads} 0 {start} 100587520000"
    " 2025000 18446744073709551615 94000000000000 94000002800000 140720000000000 0 0 0 0 16781312 16386 0 0 0 -1"
    " {last_cpu} 0 0 0 0 0 94000003000000 94000003300000 94000040000000 140720000001000 140720000001200"
    " 140720000001200 140720000004000 0\n"
)
LIBRARY = "/opt/vllm/0.32.0/lib/python3.12/site-packages/torch/lib/libtorch_cuda.so"


def numa_maps(node: int) -> str:
    """What one process has: libraries, arenas, stacks, shared memory, and mappings without a page."""
    lines = []
    for number in range(MAPPINGS):
        address, pages = f"{0x7F0000000000 + number * 0x200000:012x} bind:{node}", number % 311 + 1
        placed = f"N{node}={pages} kernelpagesize_kB=4"
        kinds = (
            f"{address} file={LIBRARY} mapped={pages} mapmax=4 {placed}",
            f"{address} anon={pages} dirty={pages} active=0 {placed}",
            f"{address} file={LIBRARY} anon={pages} dirty={pages} {placed}",
            f"{address} file=/dev/shm/psm_{number:08x}\\040(deleted) dirty={pages} mapmax=3 active=0 {placed}",
            f"{address} file={LIBRARY}",
        )
        lines.append(kinds[number % len(kinds)])
    return "\n".join(lines) + "\n"


def lay_out(root: Path) -> list[dict[str, t.Any]]:
    """Write the tree and return the plan's entries."""
    cgroups = root / "sys/fs/cgroup"
    instances = cgroups / "system.slice" / "system-vllm.slice"
    instances.mkdir(parents=True)
    (cgroups / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
    for directory in (cgroups, cgroups / "system.slice", instances):
        (directory / "cgroup.procs").write_text("")
    maps = [numa_maps(node) for node in range(NODES)]
    plan, pid = [], 10_000
    for number in range(INSTANCES):
        node = number * NODES // INSTANCES
        first = number * CPUS_OF_AN_INSTANCE
        entry = {
            "name": f"model-n{node}-{number}",
            "unit": f"vllm@model-n{node}-{number}.service",
            "cpus": f"{first}-{first + CPUS_OF_AN_INSTANCE - 1}",
            "memory_nodes": [node],
            "memory_policy": "bind",
        }
        plan.append(entry)
        pids = []
        for comm, threads in (*SHARES.items(), ("VLLM::Worker_TP", SHARES["VLLM::Worker_TP"])):
            pids.append(pid)
            process(root, pid, comm, threads, str(entry["cpus"]), first, node)
            (root / f"proc/{pid}/numa_maps").write_text(maps[node])
            pid += 1000
        unit = instances / str(entry["unit"])
        unit.mkdir()
        (unit / "cgroup.procs").write_text("".join(f"{one}\n" for one in pids))
    return plan


def process(root: Path, pid: int, comm: str, threads: int, cpus: str, first: int, node: int) -> None:
    """Write one process and its threads."""
    mask = ",".join(["00000000"] * 23 + ["00000fff"])
    for tid in range(pid, pid + threads):
        task = root / f"proc/{pid}/task/{tid}"
        task.mkdir(parents=True)
        about = {"comm": comm, "pid": pid, "tid": tid, "threads": threads}
        (task / "status").write_text(STATUS.format(mask=mask, cpus=cpus, node=node, **about))
        last_cpu = first + tid % CPUS_OF_AN_INSTANCE
        (task / "stat").write_text(STAT.format(start=1_000_000 + tid, last_cpu=last_cpu, **about))


def no_command(argv: t.Sequence[str], timeout_seconds: float) -> Result:
    """A captured machine has nobody to ask."""
    raise AssertionError(f"{argv} was run")


def module(root: Path, plan: list[dict[str, t.Any]]) -> None:
    """The module's work, its answer made JSON of as the module does."""
    answer = read_placement(Host(str(root)), plan, 99, no_command)
    assert answer["ok"], [one["problems"] for one in answer["instances"] if not one["ok"]][:3]
    assert sum(one["thread_count"] for one in answer["instances"]) == INSTANCES * THREADS
    json.dumps(answer)


def bare(root: Path, plan: list[dict[str, t.Any]]) -> None:
    """Open and read what the module reads."""
    for entry in plan:
        unit = f"{root}/sys/fs/cgroup/system.slice/system-vllm.slice/{entry['unit']}"
        with open(f"{unit}/cgroup.procs", encoding="utf-8") as file:
            pids = file.read().split()
        for pid in pids:
            for tid in os.listdir(f"{root}/proc/{pid}/task"):
                for name in ("status", "stat"):
                    with open(f"{root}/proc/{pid}/task/{tid}/{name}", encoding="utf-8") as file:
                        file.read()
            with open(f"{root}/proc/{pid}/numa_maps", encoding="utf-8") as file:
                file.read()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--profile", action="store_true", help="say where the time goes, measure nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="numapin-placement-", dir=MEMORY) as directory:
        root = Path(directory)
        plan = lay_out(root)
        if given.profile:
            profile = cProfile.Profile()
            profile.runcall(module, root, plan)
            pstats.Stats(profile).sort_stats("tottime").print_stats(20)
            return
        seconds: dict[str, list[float]] = {"module": [], "bare": []}
        for number in range(given.rounds + 1):
            works = (("module", module), ("bare", bare))
            for name, work in works if number % 2 else works[::-1]:
                started = time.perf_counter()
                work(root, plan)
                # The first round makes both warm.
                if number:
                    seconds[name].append(time.perf_counter() - started)
    ours, theirs = median(seconds["module"]), median(seconds["bare"])
    ratio = median(one / other for one, other in zip(seconds["module"], seconds["bare"]))
    detail = (
        f"{INSTANCES} instances x {THREADS} threads: {ours:.2f} s ({min(seconds['module']):.2f} to"
        f" {max(seconds['module']):.2f}), a bare loop that reads the same files {theirs:.2f} s, {given.rounds} rounds"
    )
    print(json.dumps({"values": {"placement_seconds": ours, "placement_over_bare_loop": ratio}, "detail": detail}))


if __name__ == "__main__":
    main()
