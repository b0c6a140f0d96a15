# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the watchdog kills, and what not. A real HTTP server, a host below tmp_path, a systemd that answers."""

from __future__ import annotations

import json
import socket
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ansible_collections.numapin.inference.plugins.module_utils import _traffic, _watchdog
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._program import sources
from ansible_collections.numapin.inference.plugins.module_utils._watchdog import (
    ENTRY,
    Settings,
    Watchdog,
    WatchdogError,
    parse_settings,
    settings_text,
)

KILLED = "kill --signal=SIGKILL -- vllm@m-n0.service"
STALLED_SECONDS = 20
METRICS = """vllm:num_requests_running{engine="0"} %(running)s
vllm:num_requests_waiting{engine="0"} %(waiting)s
vllm:kv_cache_usage_perc{engine="0"} %(cache)s
vllm:prompt_tokens_total{engine="0"} %(prompts)s
vllm:generation_tokens_total{engine="0"} %(given)s
vllm:iteration_tokens_total_count{engine="0"} %(steps)s
"""


class Engine:
    """An instance that answers as told; ``brings``: whether a completion comes back."""

    def __init__(self) -> None:
        self.counts: dict[str, t.Any] = {"running": 3, "waiting": 1, "cache": 0.1, "prompts": 9, "given": 7, "steps": 8}
        self.load = 4
        self.brings = False
        self.key: str | None = None
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answers = {
                    "/health": "",
                    "/load": json.dumps({"server_load": engine.load}),
                    "/metrics": METRICS % engine.counts if engine.counts else "",
                    "/v1/models": json.dumps({"data": [{"id": "m"}]}),
                }
                self.answer(200, answers[self.path])

            def do_POST(self) -> None:
                engine.key = self.headers["Authorization"]
                whole = {"choices": [{"text": "1"}], "usage": {"completion_tokens": 1}}
                self.answer(200 if engine.brings else 503, json.dumps(whole))

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            # The name of the argument is that of http.server (A002).
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class Machine:
    """A host with one instance; ``after`` looks again when so many seconds have passed."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.calls: list[str] = []
        self.lines: list[str] = []
        self.active = "active"
        self.seconds = 0.0
        for path in ("proc/net", "etc/numapin", "var/lib/numapin", "run", "collector"):
            (root / path).mkdir(parents=True)
        for table in ("tcp", "tcp6"):
            (root / "proc/net" / table).write_text("  sl  local_address\n")
        self.plan(url)
        self.watchdog = self.started()

    def plan(self, url: str) -> None:
        one = {"name": "m-n0", "unit": "vllm@m-n0.service", "url": url, "served_names": ["m"]}
        (self.root / "etc/numapin/plan.json").write_text(json.dumps({"instances": [one]}))

    def started(self) -> Watchdog:
        return Watchdog(
            Host(str(self.root)),
            Settings(STALLED_SECONDS, str(self.root / "collector")),
            self.lines.append,
            run=self.systemctl,
            run_directory=str(self.root / "run"),
            clock=lambda: self.seconds,
            now=lambda: 1000 + self.seconds,
        )

    def systemctl(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        self.calls.append(" ".join(argv[1:]))
        return Result(0, f"LoadState=loaded\nActiveState={self.active}\nSubState=running\nMainPID=4711\n", "")

    def after(self, seconds: float) -> list[str]:
        """What was killed by then."""
        self.seconds += seconds
        self.watchdog.look()
        return [call for call in self.calls if call.startswith("kill")]


@pytest.fixture(name="engine")
def fixture_engine() -> t.Iterator[Engine]:
    one = Engine()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(name="machine")
def fixture_machine(tmp_path: Path, engine: Engine) -> Machine:
    return Machine(tmp_path, engine.url)


def test_what_computes_nothing_for_its_requests_is_killed_once_the_time_is_over(machine: Machine) -> None:
    assert machine.after(0) == []
    assert machine.after(STALLED_SECONDS - 1) == []
    assert machine.after(1) == [KILLED]
    (line,) = machine.lines
    assert line == (
        "<4>killed vllm@m-n0.service, which had requests and computed nothing for 20 s, nor brought one token when"
        " asked for it; systemd starts it again"
    )
    # The next one has its time as well.
    assert machine.after(STALLED_SECONDS - 1) == [KILLED]


@pytest.mark.parametrize("moves", ["given", "prompts", "steps", "cache"])
def test_what_computes_is_left_alone(machine: Machine, engine: Engine, moves: str) -> None:
    """A long prompt that is read part by part moves the share of the cache alone."""
    for _look in range(10):
        machine.after(STALLED_SECONDS - 1)
        engine.counts[moves] += 0.001
    assert machine.after(0) == []


@pytest.mark.parametrize("comes", ["running", "waiting"])
def test_requests_that_come_do_not_make_it_alive(machine: Machine, engine: Engine, comes: str) -> None:
    machine.after(0)
    engine.counts[comes] += 1
    engine.load += 1
    assert machine.after(STALLED_SECONDS) == [KILLED]


def test_what_brings_a_token_is_left_alone_and_told(machine: Machine, engine: Engine) -> None:
    engine.brings = True
    machine.after(0)
    assert machine.after(STALLED_SECONDS) == []
    assert machine.lines == ["<4>m-n0 has moved no counter for 20 s, but brings a token: left alone"]
    assert machine.after(STALLED_SECONDS - 1) == []
    assert len(machine.lines) == 1


def test_an_idle_one_is_left_alone(machine: Machine, engine: Engine) -> None:
    engine.load, engine.counts["running"], engine.counts["waiting"] = 0, 0, 0
    machine.after(0)
    assert machine.after(100 * STALLED_SECONDS) == []


def test_one_whose_counters_cannot_be_read_is_left_alone(machine: Machine, engine: Engine) -> None:
    engine.counts = {}
    machine.after(0)
    assert machine.after(100 * STALLED_SECONDS) == []


def test_one_that_does_not_listen_is_left_alone(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    machine.plan(f"http://127.0.0.1:{port}")
    machine.after(0)
    assert machine.after(100 * STALLED_SECONDS) == []


def test_one_that_listens_and_does_not_answer_is_killed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_traffic, "_ASK_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        machine.plan(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        machine.after(0)
        assert machine.after(STALLED_SECONDS) == [KILLED]
    assert "left /health without an answer for 20 s" in machine.lines[0]


def test_a_break_in_between_begins_the_time_anew(machine: Machine, engine: Engine) -> None:
    machine.after(0)
    counts, engine.counts = engine.counts, {**engine.counts, "running": 0, "waiting": 0}
    engine.load = 0
    machine.after(STALLED_SECONDS / 2)
    engine.counts, engine.load = counts, 4
    machine.after(1)
    assert machine.after(STALLED_SECONDS - 1) == []


@pytest.mark.parametrize(("by", "killed"), [("person", []), ("rollout", [KILLED])])
def test_what_a_person_has_drained_is_left_alone(machine: Machine, by: str, killed: list[str]) -> None:
    record = {"since": "2026-11-25T10:00:00Z", "by": by, "reason": "", "rollout": "" if by == "person" else "r1"}
    (machine.root / "var/lib/numapin/drained.json").write_text(
        json.dumps({"version": 1, "instances": {"m-n0": record}})
    )
    machine.after(0)
    assert machine.after(STALLED_SECONDS) == killed


def test_one_that_is_being_restarted_is_left_alone(machine: Machine) -> None:
    machine.after(0)
    machine.active = "deactivating"
    assert machine.after(STALLED_SECONDS) == []


def test_its_kills_are_metrics_and_outlive_the_program(machine: Machine) -> None:
    def metrics() -> dict[str, float]:
        text = (machine.root / "collector/numapin-watchdog.prom").read_text()
        return {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }

    machine.after(0)
    assert metrics() == {"numapin_watchdog_last_look_timestamp_seconds": 1000, "numapin_watchdog_kills": 0}
    machine.after(STALLED_SECONDS)
    machine.watchdog = machine.started()
    machine.after(1)
    assert metrics() == {
        "numapin_watchdog_last_look_timestamp_seconds": 1021,
        "numapin_watchdog_kills": 1,
        "numapin_watchdog_last_kill_timestamp_seconds": 1020,
    }


def test_a_host_without_a_plan_has_nothing_to_watch(machine: Machine) -> None:
    (machine.root / "etc/numapin/plan.json").unlink()
    assert machine.after(0) == []
    (machine.root / "etc/numapin/plan.json").write_text("{")
    with pytest.raises(WatchdogError, match=r"plan\.json is damaged .*: deploy this host again"):
        machine.after(0)


def test_it_looks_often_enough_for_its_limit(tmp_path: Path) -> None:
    between = [
        Watchdog(Host(str(tmp_path)), Settings(seconds, None), print, run_directory=str(tmp_path)).between_looks_seconds
        for seconds in (10, 120)
    ]
    assert between == [2.5, 5]


def test_settings_are_read_back() -> None:
    settings = Settings(120, "/collector")
    assert parse_settings(settings_text(settings)) == settings
    for text in (None, "{}", '{"version": 2}', '{"version": 1, "x": 1}', "[]"):
        with pytest.raises(WatchdogError, match=r"watchdog\.json is missing or damaged .*: run inference\.yml"):
            parse_settings(text)


def test_its_program_is_of_private_utilities_and_the_standard_library() -> None:
    assert {"_watchdog", "_traffic", "_readiness", "_systemd"} <= set(sources(ENTRY))
    assert not any("import ansible\n" in text or "from ansible." in text for text in sources(ENTRY).values())
    assert _watchdog.LEAST_STALLED_SECONDS == 10
