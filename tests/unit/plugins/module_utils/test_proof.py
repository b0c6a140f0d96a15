# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program of the timer on a laid-out host: what it says, what it leaves, and what changes from run to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._commands import CommandError, Result
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._metrics import MetricsError
from ansible_collections.numapin.inference.plugins.module_utils._program import program
from ansible_collections.numapin.inference.plugins.module_utils._verify_service import (
    ENTRY,
    Places,
    ServiceError,
    Settings,
    parse_settings,
    run_once,
    settings_text,
)
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import DoubleGpu, NvmlDouble
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.process_trees import (
    BOUND,
    SLICE,
    Machine,
    entry,
)

if t.TYPE_CHECKING:
    from pathlib import Path

UUID = "GPU-00000000-1111-2222-3333-444444444444"
IRQ_CONFIGURATION: dict[str, t.Any] = {
    "rules": [],
    "exclude_cpus": None,
    "default_smp_affinity": "0",
    "check_seconds": 10,
}


class Service:
    """The host and its program, run as the timer does."""

    def __init__(self, machine: Machine, run_directory: Path) -> None:
        self.machine = machine
        self.run_directory = run_directory
        self.lines: list[str] = []
        self.irq_service = "active"
        self.nvml: NvmlDouble | None = None
        self.plan(entry())
        self.settings(Settings(60, 99, None, False))

    def plan(self, *entries: dict[str, t.Any]) -> None:
        self.machine.write("/etc/numapin/plan.json", json.dumps({"host": "gpu1", "instances": entries}))

    def settings(self, settings: Settings) -> None:
        self.machine.write("/etc/numapin/verify.json", settings_text(settings))

    def systemctl(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        if argv[0] != "systemctl" or argv[1] != "show":
            raise CommandError(f"not foreseen: {argv}")
        return Result(0, f"LoadState=loaded\nActiveState={self.irq_service}\nSubState=running\nMainPID=1\n", "")

    def run(self) -> int:
        """Run once; ``lines`` are those of this run."""
        self.lines = []
        nvml = self.nvml
        sources = GpuSources((lambda: nvml) if nvml else None)
        places = Places(str(self.machine.root), str(self.run_directory))
        return run_once(places, self.lines.append, self.systemctl, sources)

    @property
    def state(self) -> dict[str, t.Any]:
        state: dict[str, t.Any] = json.loads((self.run_directory / "verify.json").read_text(encoding="utf-8"))
        return state

    @property
    def metrics(self) -> dict[str, float]:
        """Every sample as Prometheus' parser reads it, by name and labels."""
        parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed here")
        text = (self.run_directory / "verify.prom").read_text(encoding="utf-8")
        return {
            " ".join([sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))]): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }

    def problems(self) -> list[tuple[str, str | None, str]]:
        return [(one["part"], one["instance"], one["text"]) for one in self.state["problems"]]


@pytest.fixture(name="service")
def fixture_service(tmp_path: Path) -> Service:
    """One instance of two processes, as planned, on a host of two nodes."""
    machine = Machine(tmp_path / "root")
    machine.write("/sys/devices/system/node/online", "0-1\n")
    machine.write("/proc/sys/kernel/osrelease", "6.12.0\n")
    machine.group(f"{SLICE}/vllm@tiny-n0.service", 100, 200)
    machine.process(100, "1", threads=3)
    machine.process(200, "1", comm="VLLM::Worker")
    (tmp_path / "run").mkdir()
    return Service(machine, tmp_path / "run")


def test_a_host_as_planned(service: Service) -> None:
    assert service.run() == 0
    assert service.lines == []
    state = service.state
    assert (state["success"], state["ok"], state["error"], state["problems"]) == (True, True, None, [])
    assert state["interval_seconds"] == 60
    assert state["instances"][0]["thread_count"] == 4
    assert "processes" not in state["instances"][0]
    metrics = service.metrics
    assert metrics.pop("numapin_verify_last_run_timestamp_seconds") == state["timestamp_seconds"]
    assert metrics.pop("numapin_verify_duration_seconds") == state["duration_seconds"]
    assert metrics == {
        "numapin_verify_success": 1,
        "numapin_verify_problems part=placement": 0,
        "numapin_verify_problems part=gpu": 0,
        "numapin_verify_problems part=kernel": 0,
        "numapin_verify_problems part=hugepages": 0,
        "numapin_verify_problems part=interrupts": 0,
        "numapin_instance_up instance=tiny-n0 unit=vllm@tiny-n0.service": 1,
        "numapin_instance_as_planned instance=tiny-n0": 1,
        "numapin_instance_threads instance=tiny-n0": 4,
        "numapin_instance_stray_threads instance=tiny-n0": 0,
        "numapin_instance_locality_ratio instance=tiny-n0 node=0": 1,
        "numapin_instance_memory_bytes instance=tiny-n0 kind=anonymous node=0": 2097152,
        "numapin_instance_memory_bytes instance=tiny-n0 kind=file node=0": 209715,
        "numapin_instance_memory_bytes instance=tiny-n0 kind=huge node=0": 0,
        "numapin_instance_misplaced_bytes instance=tiny-n0 node=1": 0,
        "numapin_tuning_drift": 0,
        "numapin_hugepages_drift": 0,
        "numapin_irq_drift": 0,
    }


def test_drift_is_told_once_when_it_comes_and_once_when_it_goes(service: Service) -> None:
    service.run()
    service.machine.thread(100, 102, "0-1", comm="ZMQbg", last_cpu=0)
    service.machine.process(200, "1", comm="VLLM::Worker", numa_maps=BOUND.replace("N0=256", "N0=200 N1=56"))
    assert service.run() == 0
    assert service.lines == [
        (
            "<4>NOT as planned: tiny-n0: 1 of 4 threads may run outside the planned CPUs 1:"
            " thread 102 (ZMQbg) of process 100 on CPUs 0-1, last on 0"
        ),
        (
            "<4>NOT as planned: tiny-n0: 89.2 % of its own memory is on the planned nodes 0, wanted are at least 99 %:"
            " 0.2 MiB of process 200 (VLLM::Worker) on node 1"
        ),
    ]
    assert [one[:2] for one in service.problems()] == [("placement", "tiny-n0")] * 2
    metrics = service.metrics
    assert metrics["numapin_instance_stray_threads instance=tiny-n0"] == 1
    assert metrics["numapin_instance_as_planned instance=tiny-n0"] == 0
    assert metrics["numapin_instance_locality_ratio instance=tiny-n0 node=0"] == 0.892
    assert metrics["numapin_instance_misplaced_bytes instance=tiny-n0 node=1"] == 209715
    assert metrics["numapin_verify_problems part=placement"] == 2
    since = [one["since_seconds"] for one in service.state["problems"]]

    # Amounts and the CPU it ran on last vary; it is the same difference.
    service.machine.thread(100, 102, "0-1", comm="ZMQbg", last_cpu=1)
    service.machine.process(200, "1", comm="VLLM::Worker", numa_maps=BOUND.replace("N0=256", "N0=100 N1=156"))
    service.run()
    assert service.lines == []
    assert [one["since_seconds"] for one in service.state["problems"]] == since

    service.machine.thread(100, 102, "1", comm="ZMQbg")
    service.machine.process(200, "1", comm="VLLM::Worker")
    service.run()
    assert [line[:30] for line in service.lines] == ["<5>as planned again, was: tiny"] * 2 + [
        "<5>everything is as planned"
    ]
    state = service.state
    assert (state["ok"], state["problems"], len(state["recent"])) == (True, [], 2)
    assert state["recent"][0]["since_seconds"] == since[0]
    service.run()
    assert (service.lines, len(service.state["recent"])) == ([], 2)


def test_another_number_of_strays_is_the_same_difference(service: Service) -> None:
    service.machine.process(100, "0-1", threads=100)
    service.run()
    (line,) = service.lines
    assert line.endswith("; and 95 more")
    service.machine.process(100, "0-1", threads=101)
    service.run()
    assert service.lines == []
    assert service.problems()[0][2].endswith("; and 96 more")


def drained(service: Service, by: str) -> None:
    record = {"since": "2026-11-01T00:00:00Z", "by": by, "reason": "", "rollout": "" if by == "person" else "1"}
    records = {"version": 1, "instances": {"tiny-n0": record}}
    service.machine.write("/var/lib/numapin/drained.json", json.dumps(records))


def test_what_a_person_has_drained_is_a_note_and_no_alert(service: Service) -> None:
    service.plan(entry(gpus=[UUID]))
    service.nvml = NvmlDouble([DoubleGpu("00000000:17:00.0", UUID, mig=(), pids=(200,))])
    service.machine.thread(100, 102, "0-1")
    service.run()
    (problem,) = service.problems()
    drained(service, "person")
    assert service.run() == 0
    assert service.lines == [f"<5>drained by a person and judged no more, was: tiny-n0: {problem[2]}"]
    state = service.state
    assert (state["ok"], state["problems"], state["instances"][0]["drained"]) == (True, [], True)
    assert state["notes"] == [f"tiny-n0, drained by a person: {problem[2]}"]
    judged = ("up", "as_planned", "locality_ratio")
    assert not [name for name in service.metrics if name.startswith(tuple(f"numapin_instance_{one}" for one in judged))]
    assert "numapin_gpu_mismatch instance=tiny-n0" not in service.metrics
    assert service.metrics["numapin_instance_stray_threads instance=tiny-n0"] == 1
    assert service.metrics["numapin_verify_problems part=placement"] == 0

    # A rollout's instance shall be as planned at its end.
    drained(service, "rollout")
    service.run()
    assert service.problems() == [problem]
    assert service.metrics["numapin_instance_as_planned instance=tiny-n0"] == 0


def test_damaged_records_of_drains_are_a_problem(service: Service) -> None:
    service.machine.write("/var/lib/numapin/drained.json", "{")
    service.run()
    ((part, instance, text),) = service.problems()
    assert (part, instance) == ("placement", None)
    assert "/var/lib/numapin/drained.json" in text
    assert "is damaged" in text


def test_what_is_wrong_again_is_not_recent(service: Service) -> None:
    stray = (100, 102, "0-1")
    for cpus in ("0-1", "1", "0-1"):
        service.machine.thread(100, 102, cpus)
        service.run()
    assert stray[2] in service.state["problems"][0]["text"]
    assert service.state["recent"] == []


def test_a_unit_that_is_down_is_visible_and_nothing_else_is_said_of_it(service: Service) -> None:
    service.plan(entry(), entry("tiny-n1", memory_nodes=[1]))
    service.run()
    metrics = service.metrics
    assert metrics["numapin_instance_up instance=tiny-n1 unit=vllm@tiny-n1.service"] == 0
    assert metrics["numapin_instance_as_planned instance=tiny-n1"] == 0
    assert [name for name in metrics if "tiny-n1" in name] == [
        "numapin_instance_up instance=tiny-n1 unit=vllm@tiny-n1.service",
        "numapin_instance_as_planned instance=tiny-n1",
    ]
    assert service.problems() == [("placement", "tiny-n1", "vllm@tiny-n1.service has no control group")]


def test_pages_that_cannot_be_read_are_missing(service: Service) -> None:
    service.machine.process(200, "1", comm="VLLM::Worker", numa_maps="")
    service.run()
    assert not [name for name in service.metrics if "locality" in name or "bytes" in name]


def test_gpus(service: Service) -> None:
    service.plan(entry(gpus=[UUID]))
    service.nvml = NvmlDouble([DoubleGpu("00000000:17:00.0", UUID, mig=(), pids=(200,))])
    service.run()
    assert service.metrics["numapin_gpu_mismatch instance=tiny-n0"] == 0
    service.nvml = NvmlDouble([DoubleGpu("00000000:17:00.0", UUID, mig=(), pids=(1,))])
    service.machine.write("/proc/1/comm", "systemd\n")
    service.run()
    assert service.metrics["numapin_gpu_mismatch instance=tiny-n0"] == 1
    assert service.metrics["numapin_verify_problems part=gpu"] == 1
    assert service.problems()[0][:2] == ("gpu", "tiny-n0")


def test_kernel_huge_pages_and_interrupts(service: Service) -> None:
    write = service.machine.write
    write("/etc/numapin/kernel_settings.json", '{"version": 1, "settings": {"vm.swappiness": "10"}}')
    write("/proc/sys/vm/swappiness", "60\n")
    write("/etc/numapin/hugepages.json", "{}")
    write("/etc/numapin/irq-affinity.json", json.dumps(IRQ_CONFIGURATION))
    for name in ("online", "possible", "present"):
        write(f"/sys/devices/system/cpu/{name}", "0-3\n")
    write("/proc/irq/default_smp_affinity", "f\n")
    service.irq_service = "failed"
    service.run()
    assert [one[0] for one in service.problems()] == ["kernel", "hugepages", "interrupts", "interrupts"]
    texts = [one[2] for one in service.problems()]
    assert texts[0] == "vm.swappiness is 60, tuned was 10"
    assert texts[1].startswith("/etc/numapin/hugepages.json is damaged")
    assert texts[2] == "interrupts are not where the rules want them: default: default_smp_affinity 0-3 -> 0"
    assert texts[3] == (
        "numapin-irq-affinity.service is failed (running): nobody keeps interrupts where the rules want them"
    )
    metrics = service.metrics
    drift = {name: metrics[f"numapin_{name}_drift"] for name in ("tuning", "hugepages", "irq")}
    assert drift == {"tuning": 1, "hugepages": 1, "irq": 2}
    # Nothing is put right: the proof only reads.
    assert (service.machine.root / "proc/irq/default_smp_affinity").read_text() == "f\n"


def test_a_damaged_part_keeps_no_other_from_being_told(service: Service) -> None:
    service.machine.write("/etc/numapin/kernel_settings.json", "{")
    service.machine.write("/etc/numapin/irq-affinity.json", "[]")
    service.run()
    assert [one[0] for one in service.problems()] == ["kernel", "interrupts"]
    assert all("is damaged" in one[2] for one in service.problems())


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (None, "/etc/numapin/plan.json cannot be read: deploy this host"),
        ("{", "/etc/numapin/plan.json is damaged"),
        ('{"instances": [1]}', "is damaged (instances is no list of dictionaries)"),
    ],
)
def test_a_proof_that_cannot_be_made_fails_and_shows(service: Service, plan: str | None, message: str) -> None:
    service.machine.thread(100, 102, "0-1")
    service.run()
    path = service.machine.root / "etc/numapin/plan.json"
    path.unlink()
    if plan is not None:
        path.write_text(plan)
    assert service.run() == 1
    assert service.lines[0].startswith("<3>the proof cannot be made: ")
    state = service.state
    assert (state["success"], state["ok"]) == (False, False)
    assert message in state["error"]
    # What was wrong before is neither told as gone nor forgotten.
    assert len(state["problems"]) == 1
    assert service.metrics.keys() == {
        "numapin_verify_success",
        "numapin_verify_last_run_timestamp_seconds",
        "numapin_verify_duration_seconds",
    }
    assert service.metrics["numapin_verify_success"] == 0
    assert service.run() == 1
    assert service.lines == []


def test_drift_fails_the_service_where_that_is_asked_for(service: Service) -> None:
    service.settings(Settings(60, 99, None, True))
    assert service.run() == 0
    service.machine.thread(100, 102, "0-1")
    assert service.run() == 2


def test_the_collectors_directory_is_written_to_when_it_is_there(service: Service, tmp_path: Path) -> None:
    directory = tmp_path / "collector"
    service.settings(Settings(60, 99, str(directory), False))
    service.run()
    assert not directory.exists()
    directory.mkdir()
    service.run()
    assert [path.name for path in directory.iterdir()] == ["numapin.prom"]
    path = directory / "numapin.prom"
    assert path.read_bytes() == (service.run_directory / "verify.prom").read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat().st_ino
    service.run()
    # Another file each time: nobody ever reads half of one.
    assert path.stat().st_ino != before


def test_damaged_settings_are_told_where_the_last_run_told(service: Service, tmp_path: Path) -> None:
    directory = tmp_path / "collector"
    directory.mkdir()
    service.settings(Settings(60, 99, str(directory), False))
    service.run()
    service.machine.write("/etc/numapin/verify.json", "{")
    for _round in range(2):
        assert service.run() == 1
        assert "numapin_verify_success 0\n" in (directory / "numapin.prom").read_text()
        assert service.state["interval_seconds"] == 60


def test_modes_are_set_on_the_file_that_was_opened(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may put a link where its name was: root would change the mode of what that leads to."""

    def by_name(path: str, mode: int) -> None:
        raise AssertionError(f"chmod of {path} by its name")

    monkeypatch.setattr(os, "chmod", by_name)
    service.settings(Settings(60, 99, str(tmp_path), False))
    service.run()
    assert (tmp_path / "numapin.prom").stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(service: Service) -> None:
    (service.run_directory / "verify.json").mkdir()
    with pytest.raises(MetricsError, match=r"verify\.json cannot be written"):
        service.run()
    assert [path.name for path in service.run_directory.iterdir()] == ["verify.json"]


@pytest.mark.parametrize("text", [None, "", "{}", '{"version": 2}', '{"version": 1, "x": 1}', "[]"])
def test_settings_that_cannot_be_read_are_an_error(text: str | None) -> None:
    with pytest.raises(
        ServiceError, match=r"verify\.json is missing or damaged .*: run verify\.yml on this host again"
    ):
        parse_settings(text)


def test_the_program_runs_without_ansible(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "verify.pyz"
    path.write_bytes(program(ENTRY))
    command = [sys.executable, "-I", "-S", str(path), "--root", str(service.machine.root)]
    command += ["--run-directory", str(service.run_directory)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert service.state["ok"] is True
    assert sorted(os.listdir(service.run_directory)) == ["verify.json", "verify.prom"]
