# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a benchmark in the background still runs, has answered, or is lost: real locks, a clock of the test."""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._bench_units import Units
from ansible_collections.numapin.inference.plugins.module_utils._bench_wait import ENDED, LOST, RUNNING, wait_for_end

BEGUN = {"started": True, "finished": False, "ansible_job_id": "j1"}


class Job:
    """A job's file and the benchmark's lock; ``then`` happens at a second of the clock."""

    def __init__(self, directory: Path) -> None:
        self.file, self.lock = directory / "job", directory / "lock"
        self.now = 0.0
        self.then: dict[float, t.Callable[[], object]] = {}
        self.lives = contextlib.ExitStack()
        self.says(BEGUN)

    def says(self, answer: object) -> None:
        self.file.write_text(json.dumps(answer), encoding="utf-8")

    def begins(self) -> None:
        self.lives.enter_context(Units("vllm", "/python", 600).alone(self.lock))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then.get(self.now, lambda: None)()

    def wait(self, seconds: float = 60) -> str:
        return wait_for_end(str(self.file), self.lock, seconds, clock=lambda: self.now, sleep=self.sleep)


@pytest.fixture(name="job")
def fixture_job(tmp_path: Path) -> t.Iterator[Job]:
    one = Job(tmp_path)
    with one.lives:
        yield one


def test_one_that_lives_runs(job: Job) -> None:
    job.begins()
    assert (job.wait(), job.now) == (RUNNING, 60)


@pytest.mark.parametrize("answer", [{"measured": {}}, {"failed": True, "msg": "no"}, {**BEGUN, "finished": True}])
def test_one_that_has_answered_has_ended(job: Job, answer: dict[str, t.Any]) -> None:
    job.begins()
    job.then = {5.0: lambda: job.says(answer)}
    assert (job.wait(), job.now) == (ENDED, 5)


def test_one_that_was_killed_is_lost(job: Job) -> None:
    job.begins()
    job.then = {7.0: job.lives.close}
    assert (job.wait(), job.now) == (LOST, 37)


def test_one_whose_host_was_restarted_is_lost(job: Job) -> None:
    assert (job.wait(), job.now) == (LOST, 30)
    job.file.unlink()
    assert job.wait() == LOST


def test_one_that_only_begins_is_waited_for(job: Job) -> None:
    job.then = {29.0: job.begins}
    assert (job.wait(), job.now) == (RUNNING, 60)


def test_one_that_is_missing_at_the_end_of_a_call_is_waited_for(job: Job) -> None:
    job.begins()
    job.then = {55.0: job.lives.close, 58.0: lambda: job.says({"measured": {}})}
    assert (job.wait(), job.now) == (ENDED, 58)
    job.says(BEGUN)
    assert job.wait() == LOST


def test_who_only_asks_does_not_keep_a_benchmark_from_beginning(job: Job) -> None:
    with job.lock.open("w") as asker:
        fcntl.flock(asker, fcntl.LOCK_SH)
        threading.Timer(0.15, fcntl.flock, (asker, fcntl.LOCK_UN)).start()
        job.begins()
