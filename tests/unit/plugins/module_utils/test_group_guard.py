# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Members of an instance over several hosts run together or not at all: real guards on loopback, `sleep` for vLLM."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _group_guard

GUARD = _group_guard.__file__
# All of 127.0.0.0/8 is this host: each member has an address of its own.
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
SECONDS = 15.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind((ADDRESSES[0], 0))
        return int(one.getsockname()[1])


class Fleet:
    """Guards of one group; each runs a command that writes down its own process and sleeps."""

    def __init__(self, directory: Path, members: int = 2, **settings: t.Any) -> None:
        self.directory = directory
        self.settings = {"join_seconds": 30, "lost_seconds": 3, "fingerprint": "one", **settings}
        self.members = [{"host": f"gpu{rank + 1}", "address": ADDRESSES[rank]} for rank in range(members)]
        self.port = free_port()
        self.guards: dict[int, subprocess.Popen[str]] = {}

    def start(self, rank: int, command: str = "exec sleep 300", **settings: t.Any) -> subprocess.Popen[str]:
        given = {
            "name": "big-g0",
            "rank": rank,
            "members": self.members,
            "guard_port": self.port,
            **self.settings,
            **settings,
        }
        path = self.directory / f"{rank}.json"
        path.write_text(json.dumps(given), encoding="utf-8")
        self.engine(rank).unlink(missing_ok=True)
        shell = f"echo $$ > {self.engine(rank)}.part; mv {self.engine(rank)}.part {self.engine(rank)}; {command}"
        self.guards[rank] = subprocess.Popen(
            [sys.executable, "-I", GUARD, str(path), "--", "/bin/sh", "-c", shell],
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.guards[rank]

    def engine(self, rank: int) -> Path:
        return self.directory / f"{rank}.pid"

    def runs(self, rank: int) -> int:
        """The process of the member's command, once it runs."""
        wait(self.engine(rank).exists)
        return int(self.engine(rank).read_text(encoding="utf-8"))

    def said(self, rank: int) -> str:
        """What a guard wrote, which has ended."""
        return self.guards[rank].communicate(timeout=SECONDS)[1]

    def close(self) -> None:
        for guard in self.guards.values():
            guard.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.wait(5)
            guard.kill()
            guard.wait(5)
            if guard.stderr:
                guard.stderr.close()


@pytest.fixture
def fleet(tmp_path: Path) -> t.Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()


def wait(seen: t.Callable[[], bool], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_nobody_starts_before_all_are_there(fleet: Fleet) -> None:
    fleet.start(1)
    time.sleep(1.5)
    assert not fleet.engine(1).exists()
    fleet.start(0)
    assert fleet.runs(0)
    assert fleet.runs(1)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("what", ["engine", "guard"])
def test_all_go_down_with_one(fleet: Fleet, victim: int, what: str) -> None:
    fleet.start(0)
    fleet.start(1)
    engines = [fleet.runs(rank) for rank in (0, 1)]
    other = 1 - victim
    os.kill(engines[victim] if what == "engine" else fleet.guards[victim].pid, signal.SIGKILL)
    assert fleet.guards[other].wait(SECONDS) == 1
    wait(lambda: not lives(engines[other]))
    assert f"gpu{victim + 1} ({ADDRESSES[victim]})" in fleet.said(other)
    if what == "engine":
        assert "vLLM ended here with status -9" in fleet.said(victim)
    else:
        # systemd kills what a guard leaves; here nobody does.
        os.kill(engines[victim], signal.SIGKILL)


def test_they_meet_again(fleet: Fleet) -> None:
    fleet.start(0)
    fleet.start(1)
    os.kill(fleet.runs(1), signal.SIGKILL)
    for rank in (0, 1):
        fleet.said(rank)
    fleet.start(0)
    fleet.start(1)
    assert fleet.runs(0)
    assert fleet.runs(1)


def test_one_that_says_nothing_is_lost(fleet: Fleet) -> None:
    fleet.start(0)
    fleet.start(1)
    engines = [fleet.runs(rank) for rank in (0, 1)]
    fleet.guards[1].send_signal(signal.SIGSTOP)
    try:
        assert fleet.guards[0].wait(SECONDS) == 1
    finally:
        fleet.guards[1].send_signal(signal.SIGCONT)
    assert "follower gpu2 (127.0.0.2) has not been heard for 3 s" in fleet.said(0)
    wait(lambda: not lives(engines[0]))


def test_a_leader_that_is_told_to_stop_lets_its_vllm_finish(fleet: Fleet, tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    fleet.start(0, command=f"trap 'sleep 2; touch {finished}; exit 0' TERM; while :; do sleep 0.1; done")
    fleet.start(1)
    fleet.runs(0)
    engine = fleet.runs(1)
    time.sleep(0.5)
    fleet.guards[0].terminate()
    time.sleep(1)
    assert lives(engine), "a follower's workers are needed until the leader has finished"
    assert fleet.guards[0].wait(SECONDS) == 0
    assert fleet.guards[1].wait(SECONDS) == 1
    wait(lambda: not lives(engine))
    assert finished.exists()


def test_who_was_not_there_is_named(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, members=3, join_seconds=2)
    try:
        fleet.start(1)
        fleet.start(0)
        said = fleet.said(0)
        assert "follower gpu3 (127.0.0.3): never connected" in said
        assert "gpu2 (127.0.0.2):" not in said.split("not all members came")[1]
        assert "the leader gpu1 (127.0.0.1) was not there within 2 s" in fleet.said(1)
        assert [fleet.guards[rank].returncode for rank in (0, 1)] == [1, 1]
    finally:
        fleet.close()


def test_one_with_another_configuration_is_not_let_in(fleet: Fleet) -> None:
    fleet.start(0, join_seconds=3)
    fleet.start(1, fingerprint="two", join_seconds=2)
    assert "another configuration than the leader" in fleet.said(1)
    assert "follower gpu2 (127.0.0.2): it has another configuration" in fleet.said(0)
    assert not fleet.engine(0).exists()


def test_strangers_are_not_heard(fleet: Fleet) -> None:
    fleet.start(0)
    hello = json.dumps({"group": "big-g0", "rank": 1, "fingerprint": "one"}).encode() + b"\n"
    wait(lambda: connects(fleet.port))
    with socket.create_connection((ADDRESSES[0], fleet.port), 5, ("127.0.0.9", 0)) as stranger:
        with contextlib.suppress(OSError):
            stranger.sendall(hello)
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert not fleet.engine(0).exists()


def connects(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((ADDRESSES[0], port)) == 0


@pytest.mark.parametrize(
    "line", [b"not JSON\n", b"[]\n", b'{"group": "other-g0", "rank": 1}\n', b"x" * 5000, b""], ids=str
)
def test_a_member_that_talks_nonsense_does_no_harm(fleet: Fleet, line: bytes) -> None:
    fleet.start(0)
    wait(lambda: connects(fleet.port))
    with socket.create_connection((ADDRESSES[0], fleet.port), 5, (ADDRESSES[1], 0)) as one:
        one.sendall(line)
    fleet.start(1)
    assert fleet.runs(0)
    assert fleet.runs(1)


def test_stopped_while_it_waits(fleet: Fleet) -> None:
    leader = fleet.start(0)
    wait(lambda: connects(fleet.port))
    leader.terminate()
    assert leader.wait(SECONDS) == 0


def test_a_file_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _group_guard.main([str(tmp_path / "missing.json"), "--", "true"]) == 78
    assert "run the play that deploys this host again" in capsys.readouterr().err
    assert _group_guard.main([]) == 2


def test_a_command_that_cannot_be_run(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start(0)
    given = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({**given, "rank": 1}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", GUARD, str(path), "--", "/does/not/exist"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "/does/not/exist cannot be run" in done.stderr
    assert "/does/not/exist cannot be run" in fleet.said(0)


def test_what_it_waits_for_is_told_to_systemd(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        fleet.start(0)
        assert notify.recv(400) == b"STATUS=waiting for follower gpu2 (127.0.0.2)"
