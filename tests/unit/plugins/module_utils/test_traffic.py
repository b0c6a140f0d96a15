# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Idle means that three things say so; what cannot be asked is busy. A real HTTP server, /proc below tmp_path."""

from __future__ import annotations

import json
import socket
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _traffic
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._traffic import (
    Traffic,
    TrafficError,
    Watched,
    check_watched,
    connected_peers,
    find_stalled,
    look,
    summary,
    wait_until_idle,
)

METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} %s
vllm:num_requests_waiting{engine="0",model_name="tiny"} %s
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 7.0
"""
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class Engine:
    """An instance that answers as told."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {
            "/health": (200, ""),
            "/load": (200, json.dumps({"server_load": 0})),
            "/metrics": (200, METRICS % ("0.0", "0.0")),
        }
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, text = engine.answers.get(self.path, (404, ""))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            # The name of the argument is that of http.server (A002).
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.watched = Watched("m-n0", f"http://127.0.0.1:{self.server.server_address[1]}")
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def engine() -> t.Iterator[Engine]:
    one = Engine()
    yield one
    one.server.shutdown()
    one.server.server_close()


def host(tmp_path: Path, tcp: str = "", tcp6: str = "") -> Host:
    (tmp_path / "proc" / "net").mkdir(parents=True, exist_ok=True)
    (tmp_path / "proc" / "net" / "tcp").write_text(HEADER + tcp, encoding="ascii")
    (tmp_path / "proc" / "net" / "tcp6").write_text(HEADER + tcp6, encoding="ascii")
    return Host(str(tmp_path))


def row(local: str, port: int, peer: str, state: str = "01") -> str:
    return f"   0: {local}:{port:04X} {peer}:C350 {state} 00000000:00000000 00:00000000 00000000     0        0 1\n"


def test_idle_when_nothing_says_otherwise(tmp_path: Path, engine: Engine) -> None:
    assert look(engine.watched, host(tmp_path)) == Traffic("m-n0", True, True, "idle", 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("path", "answer", "detail"),
    [
        ("/load", (200, '{"server_load": 2}'), "2 by /load"),
        ("/load", (404, ""), "it does not tell /load"),
        ("/load", (200, "nonsense"), "it does not tell /load"),
        ("/metrics", (200, METRICS % ("1.0", "3.0")), "1 running, 3 waiting by /metrics"),
        ("/metrics", (500, ""), "it does not tell running requests, waiting requests"),
        ("/metrics", (200, 'vllm:num_requests_running{engine="0"} 0.0\n'), "it does not tell waiting requests"),
        ("/health", (503, ""), "nothing is known of its requests, /health answers 503"),
    ],
)
def test_busy(tmp_path: Path, engine: Engine, path: str, answer: tuple[int, str], detail: str) -> None:
    engine.answers[path] = answer
    found = look(engine.watched, host(tmp_path))
    assert (found.idle, found.detail) == (False, detail)
    assert found.serving == (path != "/health")


def test_gauges_of_several_engines_are_added(tmp_path: Path, engine: Engine) -> None:
    engine.answers["/metrics"] = (200, METRICS % ("1.0", "0.0") + METRICS % ("2.0", "1.0"))
    found = look(engine.watched, host(tmp_path))
    assert (found.running, found.waiting) == (3, 1)


def test_connections_make_it_busy_unless_they_are_ignored(tmp_path: Path, engine: Engine) -> None:
    port = engine.watched.port
    there = host(tmp_path, row("0100007F", port, "150200C0") * 2)
    found = look(engine.watched, there)
    assert (found.idle, found.connections, found.detail) == (False, 2, "2 connections from 192.0.2.21")
    idle = look(engine.watched, there, ["192.0.2.21"])
    assert (idle.idle, idle.connections) == (True, 0)
    other = host(tmp_path, row("0100007F", port, "150200C0") + row("0100007F", port, "160200C0"))
    assert look(engine.watched, other, ["192.0.2.21"]).detail == "1 connections from 192.0.2.22"


@pytest.mark.parametrize(
    ("path", "answer"), [("/load", (404, "")), ("/metrics", (500, "")), ("/load", (200, '{"server_load": 1}'))]
)
def test_a_connection_is_ignored_only_where_the_counts_say_idle(
    tmp_path: Path, engine: Engine, path: str, answer: tuple[int, str]
) -> None:
    engine.answers[path] = answer
    there = host(tmp_path, row("0100007F", engine.watched.port, "150200C0"))
    found = look(engine.watched, there, ["192.0.2.21"])
    assert (found.idle, found.connections) == (False, 1)
    assert found.detail.endswith("1 connections from 192.0.2.21")


def test_which_connections_count(tmp_path: Path) -> None:
    tcp = (
        row("0B0200C0", 8000, "150200C0")
        + row("0B0200C0", 8000, "160200C0", "03")
        + row("0B0200C0", 8000, "170200C0", "06")  # in TIME_WAIT
        + row("0B0200C0", 8000, "00000000", "0A")  # listening
        + row("150200C0", 50000, "0B0200C0")  # somebody else's, from the other end
        + "nonsense\n"
    )
    mapped = "0000000000000000FFFF00001E0200C0"
    tcp6 = row(mapped, 8000, mapped) + row("0" * 32, 8000, "B80D0120000000000000000002000000")
    peers = connected_peers(host(tmp_path, tcp, tcp6), 8000)
    assert peers == ["192.0.2.21", "192.0.2.22", "192.0.2.30", "2001:db8::2"]


def test_one_that_does_not_listen_has_nothing_in_flight(tmp_path: Path, engine: Engine) -> None:
    engine.server.shutdown()
    engine.server.server_close()
    found = look(engine.watched, host(tmp_path))
    assert (found.serving, found.idle, found.detail) == (False, True, "it does not listen")
    still = look(engine.watched, host(tmp_path, row("0100007F", engine.watched.port, "150200C0")))
    assert (still.idle, still.detail) == (False, "it does not listen, but 1 connections are open")


class Clock:
    """Time that passes only by sleeping; ``at`` is called as it passes."""

    def __init__(self, at: dict[float, t.Callable[[], None]]) -> None:
        self.now, self.at = 0.0, at

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()


def test_it_must_be_quiet_for_a_while_without_a_break(tmp_path: Path, engine: Engine) -> None:
    idle = engine.answers["/load"]
    clock = Clock(
        {
            1.0: lambda: engine.answers.update({"/load": (200, '{"server_load": 1}')}),
            1.5: lambda: engine.answers.update({"/load": idle}),
        }
    )
    found = wait_until_idle(
        [engine.watched], host(tmp_path), wait_seconds=10, quiet_seconds=2, clock=clock, sleep=clock.sleep
    )
    assert (found[0].idle, clock.now) == (True, 3.5)


def test_the_wait_ends_and_says_what_is_in_flight(tmp_path: Path, engine: Engine) -> None:
    engine.answers["/load"] = (200, '{"server_load": 1}')
    clock = Clock({})
    found = wait_until_idle(
        [engine.watched], host(tmp_path), wait_seconds=3, quiet_seconds=1, clock=clock, sleep=clock.sleep
    )
    assert clock.now == 3
    assert summary(found) == "m-n0: 1 by /load"
    engine.answers["/load"] = (200, '{"server_load": 0}')
    short = wait_until_idle([engine.watched], host(tmp_path), wait_seconds=0, quiet_seconds=1, clock=clock)
    assert summary(short) == "m-n0: idle for less than 1 s"


COUNTERS = """vllm:prompt_tokens_total{engine="0",model_name="tiny"} %s
vllm:generation_tokens_total{engine="0",model_name="tiny"} %s
"""


def busy(engine: Engine, prompt: int = 5, given: int = 7) -> None:
    engine.answers["/load"] = (200, '{"server_load": 2}')
    engine.answers["/metrics"] = (200, METRICS % ("2.0", "0.0") + COUNTERS % (prompt, given))


def hanging(engine: Engine, tmp_path: Path, found: list[Traffic], clock: Clock) -> list[str]:
    options: dict[str, t.Any] = {"stalled_seconds": 10, "clock": clock, "sleep": clock.sleep}
    return find_stalled([engine.watched], host(tmp_path), found, **options)[1]


@pytest.mark.parametrize(
    ("then", "hung"),
    [
        (lambda _engine: None, ["m-n0"]),
        (lambda engine: busy(engine, given=8), []),
        (lambda engine: busy(engine, prompt=6), []),
        # The last client went away. The engine's own count of running requests stands still as well.
        (lambda engine: engine.answers.update({"/load": (200, '{"server_load": 0}')}), ["m-n0"]),
        # What was in flight is answered without a token, by an error.
        (
            lambda engine: engine.answers.update(
                {
                    "/load": (200, '{"server_load": 0}'),
                    "/metrics": (200, METRICS % ("0.0", "0.0") + COUNTERS % (5, 7)),
                }
            ),
            [],
        ),
    ],
)
def test_stalled_is_what_has_requests_and_gives_no_token(
    tmp_path: Path, engine: Engine, then: t.Callable[[Engine], None], hung: list[str]
) -> None:
    busy(engine)
    found = [look(engine.watched, host(tmp_path))]
    clock = Clock({3.0: lambda: then(engine)})
    assert hanging(engine, tmp_path, found, clock) == hung
    assert clock.now == (10.0 if hung else 3.0)


def test_one_that_listens_and_does_not_answer_hangs(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_traffic, "_ASK_SECONDS", 0.1)
    there = host(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        watched = Watched("m-n0", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        found = [look(watched, there)]
        assert (found[0].serving, found[0].silent) == (False, True)
        clock = Clock({})
        options: dict[str, t.Any] = {"stalled_seconds": 2, "clock": clock, "sleep": clock.sleep}
        assert find_stalled([watched], there, found, **options) == (found, ["m-n0"])
    # It was only slow.
    now, hung = find_stalled([engine.watched], there, found, **options)
    assert (now[0].serving, hung) == (True, [])


def test_what_is_idle_or_does_not_tell_is_not_stalled(tmp_path: Path, engine: Engine) -> None:
    clock = Clock({})
    idle = [look(engine.watched, host(tmp_path))]
    assert hanging(engine, tmp_path, idle, clock) == []
    engine.answers["/load"] = (200, '{"server_load": 2}')
    without_counters = [look(engine.watched, host(tmp_path))]
    assert hanging(engine, tmp_path, without_counters, clock) == []
    assert clock.now == 0


@pytest.mark.parametrize(
    "url", ["192.0.2.1:8000", "http://192.0.2.1", "http://192.0.2.1:nine", "https://192.0.2.1:1", "http://[::1"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(TrafficError, match="must be where it listens, such as"):
        check_watched([Watched("m-n0", url)])
