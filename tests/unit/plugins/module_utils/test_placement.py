# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._placement import (
    PlacementError,
    planned_from,
    read_placement,
)
from ansible_collections.numapin.inference.plugins.module_utils._processes import (
    OWN_KINDS,
    ProcessesError,
    UnitState,
    ask_systemd,
    parse_numa_maps,
)
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.process_trees import (
    BOUND,
    SLICE,
    Machine,
    entry,
    refuse_to_run,
)


@pytest.fixture(name="machine")
def fixture_machine(tmp_path: Path) -> Machine:
    """One instance of two processes, as planned by ``entry()``, on a host that enforces no cpusets."""
    machine = Machine(tmp_path)
    machine.group(f"{SLICE}/vllm@tiny-n0.service", 100, 200)
    machine.process(100, "1", threads=3)
    machine.process(200, "1", comm="VLLM::Worker")
    return machine


def test_an_instance_as_planned(machine: Machine) -> None:
    answer = machine.read(entry())
    (one,) = answer["instances"]
    assert answer["ok"] is True
    assert answer["cpuset_enforced"] is False
    assert one["ok"] is True
    assert one["problems"] == []
    assert one["state"] == "running"
    assert one["thread_count"] == 4
    assert one["cpus_allowed"] == [{"cpus": "1", "threads": 4}]
    assert one["mems_allowed"] == [{"nodes": "0", "threads": 4}]
    assert one["processes"][0]["last_cpu"] == 1
    assert one["last_cpus"] == [{"cpu": 1, "threads": 4}]
    assert one["misplaced_mib"] == []
    assert one["gpus"] is None
    assert [(process["pid"], process["comm"], process["thread_count"]) for process in one["processes"]] == [
        (100, "python3", 3),
        (200, "VLLM::Worker", 1),
    ]
    # Twice 31 pages of a file and 261 anonymous ones, 4 KiB each.
    assert one["pages_mib_by_node"] == [{"node": 0, "total": 2.3, "anonymous": 2.0, "file": 0.2, "huge": 0.0}]
    assert one["memory_policies"] == [{"policy": "bind:0", "mib": 2.3}]
    assert one["locality_percent"] == 100.0
    assert one["summary"] == "tiny-n0: as planned - CPUs 1, 4 threads in 2 processes, 2 MiB on node 0, 100.0 % local"


def test_a_stray_thread_is_named(machine: Machine) -> None:
    machine.thread(100, 102, "0-1", comm="ZMQbg/IO/0", last_cpu=0)
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is False
    assert one["problems"] == [
        (
            "1 of 4 threads may run outside the planned CPUs 1:"
            " thread 102 (ZMQbg/IO/0) of process 100 on CPUs 0-1, last on 0"
        )
    ]
    assert one["stray_thread_count"] == 1
    assert one["stray_threads"] == [
        {"pid": 100, "tid": 102, "comm": "ZMQbg/IO/0", "cpus_allowed": "0-1", "last_cpu": 0, "planned_cpus": "1"}
    ]
    assert one["cpus_allowed"] == [{"cpus": "1", "threads": 3}, {"cpus": "0-1", "threads": 1}]
    assert one["summary"].startswith("tiny-n0: NOT as planned - CPUs 0-1, ")


def test_many_strays_are_counted_and_twenty_are_listed(machine: Machine) -> None:
    machine.process(100, "0-7", threads=30)
    (one,) = machine.read(entry())["instances"]
    assert one["stray_thread_count"] == 30
    assert [stray["tid"] for stray in one["stray_threads"]] == list(range(100, 120))
    assert one["problems"][0].startswith("30 of 31 threads may run outside the planned CPUs 1: thread 100 ")
    assert one["problems"][0].endswith("; and 25 more")


def test_threads_on_parts_of_the_plan_cover_it_together(machine: Machine) -> None:
    machine.thread(100, 100, "1-2")
    machine.thread(100, 101, "3")
    (one,) = machine.read(entry(cpus="1-3"))["instances"]
    assert one["problems"] == []


def test_a_planned_cpu_that_no_thread_may_use_is_a_difference(machine: Machine) -> None:
    (one,) = machine.read(entry(cpus="1,4-6"))["instances"]
    assert one["problems"] == ["no thread may run on CPUs 4-6 of the planned 1,4-6"]


def test_all_differences_are_reported_not_only_the_first(machine: Machine) -> None:
    machine.process(200, "2", comm="VLLM::Worker", numa_maps=BOUND.replace("bind:0", "default"))
    (one,) = machine.read(entry(cpus="1,3"))["instances"]
    assert len(one["problems"]) == 3
    assert "thread 200 (VLLM::Worker) of process 200 on CPUs 2, last on 1" in one["problems"][0]
    assert one["problems"][1] == "no thread may run on CPUs 3 of the planned 1,3"
    assert one["problems"][2] == (
        "process 200 (VLLM::Worker) has memory policy default for 1.1 MiB; planned is bind on nodes 0"
    )


# --- Memory --------------------------------------------------------------------------------------------------------


def test_where_cpusets_are_enforced_the_allowed_nodes_decide(machine: Machine) -> None:
    machine.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n")
    machine.process(100, "1", numa_maps=BOUND.replace("bind:0", "default"))
    answer = machine.read(entry())
    assert answer["cpuset_enforced"] is True
    assert answer["ok"] is True

    machine.thread(200, 200, "1", mems="0-1", comm="VLLM::Worker")
    (one,) = machine.read(entry())["instances"]
    (problem,) = one["problems"]
    assert problem == (
        "1 of 4 threads may use memory outside the planned nodes 0: "
        "thread 200 (VLLM::Worker) of process 200 on nodes 0-1"
    )


def test_where_cpusets_are_not_enforced_the_allowed_nodes_prove_nothing(machine: Machine) -> None:
    machine.write("/sys/fs/cgroup/cgroup.controllers", "cpu io\n")
    for pid in (100, 200):
        machine.process(pid, "1", mems="0-1")
    assert machine.read(entry())["ok"] is True


@pytest.mark.parametrize(
    ("policy", "nodes", "found", "kept"),
    [
        ("bind", [0], "bind:0", True),
        ("bind", [0, 1], "bind:0", True),
        ("bind", [0], "bind=static:0", True),
        ("bind", [0], "bind=static|balancing:0", True),
        ("bind", [0], "bind:0-1", False),
        ("bind", [0], "prefer:0", False),
        ("bind", [0], "local", False),
        ("preferred", [0], "prefer:0", True),
        ("preferred", [0, 1], "prefer (many):0-1", True),
        ("preferred", [1], "prefer:0", False),
        ("preferred", [0], "bind:0", False),
        ("interleave", [0, 1], "interleave:0-1", True),
        ("interleave", [0, 1], "weighted interleave:0-1", True),
        ("interleave", [0, 1], "interleave:0", False),
    ],
)
def test_memory_policies_as_the_kernel_prints_them(
    machine: Machine, policy: str, nodes: list[int], found: str, kept: bool
) -> None:
    for pid in (100, 200):
        machine.process(pid, "1", numa_maps=BOUND.replace("bind:0", found))
    (one,) = machine.read(entry(memory_policy=policy, memory_nodes=nodes))["instances"]
    assert one["memory_policies"] == [{"policy": found, "mib": 2.3}]
    assert one["ok"] is kept
    if not kept:
        wanted = f"{policy} on nodes {'0-1' if nodes == [0, 1] else nodes[0]}"
        assert one["problems"][0] == f"process 100 (python3) has memory policy {found} for 1.1 MiB; planned is {wanted}"


def test_pages_are_summed_by_node_and_kind() -> None:
    memory = parse_numa_maps(
        "7f00 bind:0-1 anon=6 dirty=6 N0=2 N1=4 kernelpagesize_kB=4\n"
        "7f01 bind:0-1 file=/opt/a\\040b\\075c/libtorch.so mapped=10 N1=10 kernelpagesize_kB=4\n"
        "7f02 bind:0-1 file=/opt/libtorch.so anon=3 dirty=3 mapped=4 N0=4 kernelpagesize_kB=4\n"
        "7f03 bind:0-1 file=/opt/libtorch.so anon=2 dirty=2 N0=2 kernelpagesize_kB=4\n"
        "7f04 bind:0-1 file=/anon_hugepage\\040(deleted) huge anon=3 dirty=3 N0=1 N1=2 kernelpagesize_kB=2048\n"
        "7f05 prefer (many):0-1 heap anon=1 N10=1 kernelpagesize_kB=64\n"
        "7f06 default file=/opt/N3=x.so\n"
    )
    assert memory.kib == {
        0: {"anonymous": 8 + 8, "file": 16, "huge": 2048},
        1: {"anonymous": 16, "file": 40, "huge": 4096},
        10: {"anonymous": 64, "file": 0, "huge": 0},
    }
    assert memory.policies == {"bind:0-1": 24 + 40 + 16 + 8 + 6144, "prefer (many):0-1": 64}
    assert memory.sum_kib(["file"]) == 56
    assert memory.locality_percent({1}, OWN_KINDS) == 65.8  # 4112 of 6240 KiB are 65.897 %


def test_own_memory_on_another_node_is_named(machine: Machine) -> None:
    machine.process(200, "1", comm="VLLM::Worker", numa_maps=BOUND.replace("N0=256", "N0=200 N1=56"))
    (one,) = machine.read(entry())["instances"]
    (problem,) = one["problems"]
    assert problem == (
        "89.2 % of its own memory is on the planned nodes 0, wanted are at least 99 %: "
        "0.2 MiB of process 200 (VLLM::Worker) on node 1"
    )
    assert one["own_locality_percent"] == 89.2
    assert one["misplaced_mib"] == [{"node": 1, "mib": 0.2}]
    assert one["locality_percent"] == 90.4
    assert machine.read(entry(), minimum=89)["ok"] is True


def test_pages_of_files_on_another_node_are_counted_and_not_held_against_the_instance(machine: Machine) -> None:
    machine.process(200, "1", numa_maps=BOUND.replace("N0=31", "N1=31"))
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is True
    assert one["locality_percent"] == 94.6
    assert one["own_locality_percent"] == 100.0
    assert one["pages_mib_by_node"][1] == {"node": 1, "total": 0.1, "anonymous": 0.0, "file": 0.1, "huge": 0.0}


@pytest.mark.parametrize(
    "name", ["/dev/shm/vllm_offload.mmap", "/dev/zero\\040(deleted)", "/SYSV00000000\\040(deleted)", "/memfd:kv"]
)
def test_shared_memory_is_placed_by_who_touches_it_and_counts_as_anonymous(machine: Machine, name: str) -> None:
    shared = f"7f70 bind:0 file={name} dirty=2560 mapmax=2 N0=512 N1=2048 kernelpagesize_kB=4\n"
    memory = parse_numa_maps(shared)
    assert memory.kib == {
        0: {"anonymous": 2048, "file": 0, "huge": 0},
        1: {"anonymous": 8192, "file": 0, "huge": 0},
    }
    assert memory.shared_kib == {0: 2048, 1: 8192}
    assert (memory + memory).shared_kib == {0: 4096, 1: 16384}
    assert parse_numa_maps(shared.replace(" mapmax=2", "")).shared_kib == {}
    machine.process(200, "1", comm="VLLM::Worker", numa_maps=BOUND + shared)
    (one,) = machine.read(entry())["instances"]
    assert one["problems"] == [
        (
            "33.5 % of its own memory is on the planned nodes 0, wanted are at least 99 %:"
            " 8.0 MiB of process 200 (VLLM::Worker) on node 1"
        )
    ]
    assert one["misplaced_mib"] == [{"node": 1, "mib": 8.0}]


# --- Pipelines over nodes ------------------------------------------------------------------------------------------

PIPELINE: dict[str, t.Any] = {
    "cpus": "1,3",
    "memory_nodes": [0, 1],
    "numa_bind_nodes": [0, 0, 1, 1],
    "numa_bind_cpus": ["1", "1", "3", "3"],
    "tensor_parallel_size": 2,
}


def worker(machine: Machine, pid: int, title: str, cpus: str, numa_maps: str) -> None:
    # The kernel cuts the name of a process to 15 characters, which is before the number of its stage.
    machine.process(pid, cpus, mems="0-1", comm=f"VLLM::{title}"[:15], numa_maps=numa_maps)
    machine.write(f"/proc/{pid}/cmdline", f"VLLM::{title}\0\0\0")


@pytest.fixture(name="pipeline")
def fixture_pipeline(tmp_path: Path) -> Machine:
    """Two stages of two workers, each on its node, and an EngineCore on both."""
    machine = Machine(tmp_path)
    machine.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu\n")
    machine.group(f"{SLICE}/vllm@tiny-n0.service", 100, 200, 201, 202, 203)
    machine.process(100, "1,3", mems="0-1", numa_maps=BOUND.replace("N0=256", "N0=128 N1=128"))
    machine.write("/proc/100/cmdline", "VLLM::EngineCore\0")
    for pid, title, cpus, node in (
        (200, "Worker_PP0_TP0", "1", 0),
        (201, "Worker_PP0_TP1_EP1", "1", 0),
        (202, "Worker_PP1_TP0", "3", 1),
        (203, "Worker_PP1_TP1", "3", 1),
    ):
        worker(machine, pid, title, cpus, BOUND.replace("bind:0", f"bind:{node}").replace("N0=", f"N{node}="))
    return machine


def test_a_pipeline_with_each_worker_on_its_own_node(pipeline: Machine) -> None:
    (one,) = pipeline.read(entry(**PIPELINE))["instances"]
    assert (one["problems"], one["notes"]) == ([], [])


def test_a_worker_on_the_node_of_another_stage_is_a_difference(pipeline: Machine) -> None:
    worker(pipeline, 202, "Worker_PP1_TP0", "1", BOUND)
    (one,) = pipeline.read(entry(**PIPELINE))["instances"]
    assert one["problems"] == [
        (
            "1 of 1 threads of Worker_PP1_TP0 may run outside the planned CPUs 3:"
            " thread 202 (VLLM::Worker_PP) of process 202 on CPUs 1, last on 1"
        ),
        (
            "0.0 % of the own memory of Worker_PP1_TP0, process 202, is on its node 1, wanted are at least 99 %:"
            " 1.0 MiB on node 0"
        ),
    ]
    assert one["stray_thread_count"] == 1
    assert one["stray_threads"][0]["planned_cpus"] == "3"


def test_a_worker_outside_of_all_nodes_is_told_once(pipeline: Machine) -> None:
    worker(pipeline, 202, "Worker_PP1_TP0", "5", BOUND.replace("N0=", "N1="))
    (one,) = pipeline.read(entry(**PIPELINE))["instances"]
    (problem,) = one["problems"]
    assert problem.startswith("1 of 5 threads may run outside the planned CPUs 1,3: thread 202 ")


def test_what_a_worker_shares_with_others_is_not_held_against_it_alone(pipeline: Machine) -> None:
    shared = "7f70 bind:0-1 file=/dev/shm/psm_1 dirty=512 mapmax=5 N0=512 kernelpagesize_kB=4\n"
    worker(pipeline, 202, "Worker_PP1_TP0", "3", BOUND.replace("N0=", "N1=") + shared)
    assert pipeline.read(entry(**PIPELINE))["ok"] is True
    worker(pipeline, 202, "Worker_PP1_TP0", "3", BOUND.replace("N0=", "N1=") + shared.replace(" mapmax=5", ""))
    (problem,) = pipeline.read(entry(**PIPELINE))["instances"][0]["problems"]
    assert problem.startswith("33.7 % of the own memory of Worker_PP1_TP0, process 202, is on its node 1")


def test_what_a_worker_was_forked_with_is_not_held_against_it(pipeline: Machine) -> None:
    forked = "7f71 bind:0-1 heap anon=512 dirty=512 mapmax=5 N0=500 N1=12 kernelpagesize_kB=4\n"
    worker(pipeline, 202, "Worker_PP1_TP0", "3", BOUND.replace("N0=", "N1=") + forked)
    assert pipeline.read(entry(**PIPELINE))["ok"] is True


def test_workers_of_several_hosts_are_counted_through(pipeline: Machine) -> None:
    """The second of two hosts has the stages 2 and 3, the first of them on its node 0."""
    for pid, title, cpus, node in (
        (200, "Worker_PP2_TP0", "1", 0),
        (201, "Worker_PP2_TP1", "1", 0),
        (202, "Worker_PP3_TP0", "3", 1),
        (203, "Worker_PP3_TP1", "1", 1),
    ):
        worker(pipeline, pid, title, cpus, BOUND.replace("bind:0", f"bind:{node}").replace("N0=", f"N{node}="))
    (one,) = pipeline.read(entry(**PIPELINE, group={"rank": 1}))["instances"]
    assert [problem.partition(" may run")[0] for problem in one["problems"]] == ["1 of 1 threads of Worker_PP3_TP1"]
    assert one["notes"] == []
    (one,) = pipeline.read(entry(**PIPELINE))["instances"]
    assert "no process is titled as worker 0, 1, 2, 3" in one["notes"][0]


def test_stages_of_one_worker_each(pipeline: Machine) -> None:
    pipeline.group(f"{SLICE}/vllm@tiny-n0.service", 100, 200, 202)
    worker(pipeline, 200, "Worker_PP0", "1", BOUND)
    worker(pipeline, 202, "Worker_PP1", "1", BOUND)
    plan = {**PIPELINE, "numa_bind_nodes": [0, 1], "numa_bind_cpus": ["1", "3"], "tensor_parallel_size": 1}
    (one,) = pipeline.read(entry(**plan))["instances"]
    assert one["problems"][0].startswith("1 of 1 threads of Worker_PP1 may run outside the planned CPUs 3")


def test_a_worker_that_has_no_title_yet_is_a_note(pipeline: Machine) -> None:
    pipeline.write("/proc/203/cmdline", "/opt/vllm/bin/python\0-c\0from multiprocessing.spawn import spawn_main\0")
    (one,) = pipeline.read(entry(**PIPELINE))["instances"]
    assert one["problems"] == []
    (note,) = one["notes"]
    assert note.startswith("no process is titled as worker 3 of its pipeline")


def test_locality_is_not_rounded_up_to_all(machine: Machine) -> None:
    text = "7f00 bind:0 anon=100000 N0=99999 N1=1 kernelpagesize_kB=4\n"
    for pid in (100, 200):
        machine.process(pid, "1", numa_maps=text)
    (one,) = machine.read(entry())["instances"]
    assert one["locality_percent"] == 99.9


def test_unreadable_pages_are_unknown_and_never_0(machine: Machine) -> None:
    machine.process(200, "1", mems="0-1", numa_maps="")
    (one,) = machine.read(entry())["instances"]
    reason = "/proc/200/numa_maps cannot be read: that needs root and, in a container, CAP_SYS_PTRACE"
    assert one["pages_mib_by_node"] is None
    assert one["pages_unknown_because"] == reason
    assert one["locality_percent"] is None
    assert one["own_locality_percent"] is None
    assert one["processes"][0]["pages_mib_by_node"][0]["total"] == 1.1
    assert one["processes"][1]["pages_mib_by_node"] is None
    assert one["problems"] == [f"whether process 200 (python3) has memory policy bind on nodes 0 is unknown: {reason}"]
    assert "memory unknown" in one["summary"]


def test_without_numa_in_the_kernel_there_is_nothing_to_prove(machine: Machine) -> None:
    for pid in (100, 200):
        (machine.root / f"proc/{pid}/numa_maps").unlink()
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is True
    assert one["pages_mib_by_node"] is None
    assert one["pages_unknown_because"].endswith("does not exist: this kernel was built without CONFIG_NUMA")


def test_damaged_numa_maps_are_unknown(machine: Machine) -> None:
    machine.process(200, "1", numa_maps="7f00 bind:0 anon=1 N0=many kernelpagesize_kB=4\n")
    (one,) = machine.read(entry())["instances"]
    assert one["pages_unknown_because"] == "/proc/200/numa_maps is not written as Linux writes it"


def test_a_main_thread_that_has_ended_is_looked_past(machine: Machine) -> None:
    machine.thread(100, 100, "1", state="Z")
    machine.write("/proc/100/numa_maps", "")
    machine.write("/proc/100/task/101/numa_maps", BOUND)
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is True
    assert one["pages_mib_by_node"][0]["total"] == 2.3


def test_a_process_that_waits_to_be_collected_has_no_memory(machine: Machine) -> None:
    machine.process(200, "1", state="Z", numa_maps="")
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is True
    assert one["processes"][1]["pages_mib_by_node"] == []


# --- Units, groups, processes --------------------------------------------------------------------------------------


def test_processes_that_vanish_are_left_out(machine: Machine) -> None:
    machine.group(f"{SLICE}/vllm@tiny-n0.service", 100, 300, 200, 0)
    (machine.root / "proc/400/task").mkdir(parents=True)
    (machine.root / "proc/100/task/104").mkdir()
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is True
    assert [process["pid"] for process in one["processes"]] == [100, 200]
    assert one["thread_count"] == 4


def test_groups_below_the_unit_belong_to_it(machine: Machine) -> None:
    machine.group(f"{SLICE}/vllm@tiny-n0.service/engine.scope/rank0", 500)
    machine.process(500, "0")
    (one,) = machine.read(entry())["instances"]
    assert [process["pid"] for process in one["processes"]] == [100, 200, 500]
    assert one["stray_thread_count"] == 1


def test_a_link_in_a_circle_does_not_hold_the_reader_up(machine: Machine) -> None:
    unit = machine.root / f"sys/fs/cgroup{SLICE}/vllm@tiny-n0.service"
    (unit / "again").symlink_to(".")
    assert machine.read(entry())["ok"] is True


@pytest.mark.parametrize("tree", ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"])
def test_hybrid_and_legacy_hosts(tmp_path: Path, tree: str) -> None:
    machine = Machine(tmp_path, tree)
    machine.group(f"{SLICE}/vllm@tiny-n0.service", 100)
    machine.process(100, "1")
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is True
    assert one["thread_count"] == 1


def test_a_unit_that_is_not_there(machine: Machine) -> None:
    answer = machine.read(entry(), entry("other-n1"))
    assert answer["ok"] is False
    assert [one["ok"] for one in answer["instances"]] == [True, False]
    other = answer["instances"][1]
    assert other["state"] == "absent"
    assert other["problems"] == ["vllm@other-n1.service has no control group"]
    assert other["pages_mib_by_node"] is None
    assert other["pages_unknown_because"] == "vllm@other-n1.service has no process"
    assert other["summary"] == "other-n1: vllm@other-n1.service has no control group"


def test_a_unit_without_processes(machine: Machine) -> None:
    machine.group(f"{SLICE}/vllm@tiny-n0.service")
    (one,) = machine.read(entry())["instances"]
    assert one["state"] == "stopped"
    assert one["problems"] == ["vllm@tiny-n0.service has a control group, but has no process"]


def test_systemd_is_asked_once_for_all_units() -> None:
    calls: list[list[str]] = []

    def run(argv: t.Sequence[str], timeout_seconds: float) -> Result:
        calls.append(list(argv))
        return Result(
            0,
            "Result=success\nLoadState=loaded\nActiveState=active\nSubState=running\n"
            f"ControlGroup={SLICE}/vllm@a.service\n\n"
            "Result=exit-code\nLoadState=loaded\nActiveState=failed\nSubState=failed\nControlGroup=\n\n"
            "Result=success\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nControlGroup=\n",
            "",
        )

    states = ask_systemd(["vllm@a.service", "vllm@b.service", "vllm@c.service"], run)
    assert len(calls) == 1
    assert calls[0][-4:] == ["--", "vllm@a.service", "vllm@b.service", "vllm@c.service"]
    assert states["vllm@a.service"].control_group == f"{SLICE}/vllm@a.service"
    assert [str(state) for state in states.values()] == [
        "is active (running)",
        "is failed (failed, result exit-code)",
        "does not exist",
    ]
    assert [state.exists for state in states.values()] == [True, True, False]


def test_a_systemd_that_does_not_answer_is_an_error() -> None:
    def run(argv: t.Sequence[str], timeout_seconds: float) -> Result:
        return Result(1, "", "Failed to connect to bus: No such file or directory\n")

    with pytest.raises(ProcessesError, match=r"did not answer for vllm@a.service \(exit status 1\): Failed to connect"):
        ask_systemd(["vllm@a.service"], run)


def test_a_masked_unit_says_so() -> None:
    assert str(UnitState("", "masked", "inactive", "dead", "success")) == "is masked"
    assert str(UnitState("", "bad-setting", "inactive", "dead", "success")) == "cannot be loaded (bad-setting)"


# --- What is wanted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, r"an entry has name None"),
        ({"unit": None}, r"tiny-n0: unit is None; it must be the full name of a service, such as vllm@tiny-n0.service"),
        ({"unit": "vllm@tiny-n0"}, r"unit is 'vllm@tiny-n0'"),
        ({"unit": "vllm@*.service"}, r"unit is 'vllm@\*.service'"),
        ({"unit": "--all.service"}, r"unit is '--all.service'"),
        ({"cpus": None}, r"tiny-n0: cpus is None; it must be a cpulist"),
        ({"cpus": ""}, r"tiny-n0: cpus is ''; it must be a cpulist"),
        ({"cpus": "0-3,N"}, r"tiny-n0: cpus is '0-3,N': 'N'"),
        ({"memory_nodes": []}, r"tiny-n0: memory_nodes is \[\]; it must be a list of NUMA node ids"),
        ({"memory_nodes": ["0"]}, r"memory_nodes is \['0'\]"),
        ({"memory_nodes": [True]}, r"memory_nodes is \[True\]"),
        ({"gpus": "GPU-1"}, r"tiny-n0: gpus is 'GPU-1'; it must be a list of UUIDs"),
        ({"numa_bind_nodes": [0, 1], "numa_bind_cpus": ["1"]}, r"numa_bind_nodes is \[0, 1\] and numa_bind_cpus is"),
        ({"numa_bind_nodes": ["0"], "numa_bind_cpus": ["1"]}, r"they must be lists of NUMA node ids and of cpulists"),
        ({"group": {"rank": -1}}, r"group is \{'rank': -1\}; it must have the rank of this host"),
        ({"numa_bind_nodes": [0], "numa_bind_cpus": ["x"]}, r"tiny-n0: numa_bind_cpus is \['x'\]: 'x'"),
        ({"tensor_parallel_size": "2"}, r"tensor_parallel_size is '2'; it must be a number from 1 on"),
        ({"memory_policy": "strict"}, r"memory_policy is 'strict'; allowed are bind, interleave, preferred"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(change: dict[str, t.Any], message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        planned_from({**entry(), **change})


def test_one_cpu_may_be_written_as_a_number() -> None:
    assert planned_from({**entry(), "cpus": 3}).cpus == {3}


@pytest.mark.parametrize("percent", [-1, 100.5])
def test_a_percentage_is_from_0_to_100(machine: Machine, percent: float) -> None:
    with pytest.raises(PlacementError, match="it must be from 0 to 100"):
        machine.read(entry(), minimum=percent)


# --- Speed ---------------------------------------------------------------------------------------------------------


class CountingHost(Host):
    """Counts the files that are read: on a real host each is a call into the kernel, which does the work then."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.files_read = 0

    def read_text(self, path: str, limit_bytes: int = 1024 * 1024) -> str | None:
        self.files_read += 1
        return super().read_text(path, limit_bytes)


def test_a_thread_costs_two_files_and_a_process_one_more(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    names = [f"m-n{number}" for number in range(4)]
    for number, name in enumerate(names):
        pids = [1000 * (number + 1), 1000 * (number + 1) + 100]
        machine.group(f"{SLICE}/vllm@{name}.service", *pids)
        for pid in pids:
            machine.process(pid, "1", threads=30)
    host = CountingHost(str(tmp_path))
    answer = read_placement(host, [entry(name) for name in names], 99, refuse_to_run)
    assert answer["ok"] is True
    assert [one["thread_count"] for one in answer["instances"]] == [60] * 4
    controllers, groups, processes, threads = 1, 4, 4 * 2, 4 * 60
    assert host.files_read == controllers + groups + processes + 2 * threads


@pytest.mark.parametrize(("pages", "kept"), [(2, True), (7, False)])
def test_a_small_region_with_a_policy_of_its_own_is_no_difference(machine: Machine, pages: int, kept: bool) -> None:
    """vLLM 0.32 has such a region: the pages beside it are 292, so 2 are less than 1 % and 7 are more."""
    own = f"7f96f4800000 local anon={pages} dirty={pages} active=0 N0={pages} kernelpagesize_kB=4\n"
    machine.process(200, "1", comm="VLLM::Worker", numa_maps=BOUND + own)
    (one,) = machine.read(entry())["instances"]
    assert one["ok"] is kept
    assert [policy["policy"] for policy in one["memory_policies"]] == ["bind:0", "local"]
    if not kept:
        assert "process 200 (VLLM::Worker) has memory policy local for 0.0 MiB" in one["problems"][0]
