# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ready means that a token came back; failed says why. A real HTTP server on the loopback, systemd from a table."""

from __future__ import annotations

import dataclasses
import json
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._readiness import (
    Answer,
    Instance,
    ReadinessError,
    check_instances,
    find_cause,
    summary,
    wait_until_ready,
)
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "MainPID": "9", "InvocationID": "now"}
WAITING = {**ACTIVE, "ActiveState": "activating", "SubState": "auto-restart", "MainPID": "0", "Result": "exit-code"}
KEY = "topsecretkey"

# Lines of vLLM 0.32 whose engine did not come up, shortened in the middle only.
ENGINE_FAILED = [
    "(APIServer pid=208) INFO 11-23 16:56:57 [utils.py:233] non-default args: {'model': '/tmp/m'}",
    "(EngineCore pid=274) ERROR 11-23 16:57:10 [core.py:1136] EngineCore failed to start.",
    "(EngineCore pid=274) ERROR 11-23 16:57:10 [core.py:1136] Traceback (most recent call last):",
    '(EngineCore pid=274) ERROR 11-23 16:57:10 [core.py:1136]   File "core.py", line 1110, in run_engine_core',
    "(EngineCore pid=274) ERROR 11-23 16:57:10 [core.py:1136]     engine_core = EngineCoreProc(*args, **kwargs)",
    "(APIServer pid=208) INFO 11-23 16:57:10 [launcher.py:195] something else in between",
    f"(EngineCore pid=274) ERROR 11-23 16:57:10 [core.py:1136] ValueError: No available memory, {KEY}",
    "(EngineCore pid=274) ERROR 11-23 16:57:10 [core.py:1136]   Try increasing kv_cache_memory_bytes",
    *[f"(APIServer pid=208)     frame {number}" for number in range(60)],
    "(APIServer pid=208) RuntimeError: Engine core initialization failed. See root cause above.",
]


class Engine:
    """Answers as told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.health = 200
        self.models = ["tiny"]
        self.completion = (200, {"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}})
        self.key: str | None = None
        self.asked: list[str] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            # The name of the argument is that of http.server (A002).
            def log_message(self, format: str, *args: t.Any) -> None:  # noqa: A002
                pass

            def answer(self, status: int, body: object = None) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if status == 302:
                    self.send_header("Location", "/stolen")
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                engine.asked.append(self.path)
                if self.path == "/health":
                    self.answer(engine.health)
                elif engine.key and self.headers["Authorization"] != f"Bearer {engine.key}":
                    self.answer(401)
                else:
                    self.answer(200, {"data": [{"id": name} for name in engine.models]})

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine.asked.append(f"{self.path} {question['model']} {question['max_tokens']}")
                self.answer(*engine.completion)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def engine() -> t.Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


class Host:
    def __init__(self, units: dict[str, dict[str, str]], journal: t.Sequence[str] = ()) -> None:
        self.units = units
        self.journal = journal
        self.now = 0.0
        self.looks = 0

    def run(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        if argv[0] == "journalctl":
            entries = [{"MESSAGE": line, "_SYSTEMD_INVOCATION_ID": "now"} for line in self.journal]
            return Result(0, "".join(json.dumps(entry) + "\n" for entry in entries), "")
        self.looks += 1
        blocks = [
            "".join(f"{key}={value}\n" for key, value in self.units.get(name, {"LoadState": "not-found"}).items())
            for name in argv[argv.index("--") + 1 :]
        ]
        return Result(0, "\n".join(blocks), "")

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, *instances: Instance, seconds: float = 5, **more: t.Any) -> list[Answer]:
        systemd = Systemd(self.run)
        return wait_until_ready(
            instances, systemd, timeout_seconds=seconds, clock=lambda: self.now, sleep=self.sleep, **more
        )


def instance(url: str, name: str = "a", model: str = "tiny") -> Instance:
    return Instance(name, f"vllm@{name}.service", url, model)


def test_ready_means_health_name_and_one_token(engine: Engine) -> None:
    engine.key = KEY
    answers = Host({"vllm@a.service": ACTIVE}).wait(instance(engine.url), api_key=KEY)
    assert [(answer.state, answer.detail) for answer in answers] == [("ready", "serves tiny, one token came back")]
    assert engine.asked == ["/health", "/v1/models", "/v1/completions tiny 1"]
    assert summary(answers) == "1 of 1 ready"


def test_proxies_of_the_environment_are_not_used(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Host({"vllm@a.service": ACTIVE}).wait(instance(engine.url))[0].state == "ready"


@pytest.mark.parametrize(
    ("change", "state", "detail"),
    [
        ({"health": 503}, "loading", "/health answers 503"),
        ({"health": 302}, "loading", "/health answers 302"),
        ({"models": ["other"]}, "failed", "it serves other, not tiny"),
        ({"key": "another"}, "failed", "/v1/models answers 401: the API key is not the one it was started with"),
        ({"completion": (500, {})}, "loading", "a one-token completion answers 500"),
        ({"completion": (400, {})}, "ready", "serves tiny; no completion was tried, it offers none (HTTP 400)"),
        ({"completion": (200, {})}, "loading", "a one-token completion came back with no count of tokens"),
        (
            {"completion": (200, {"choices": [{}], "usage": {"completion_tokens": 0}})},
            "loading",
            "a one-token completion came back with 0 tokens",
        ),
    ],
)
def test_what_is_not_ready_says_so(engine: Engine, change: dict[str, t.Any], state: str, detail: str) -> None:
    for name, value in change.items():
        setattr(engine, name, value)
    answer = Host({"vllm@a.service": ACTIVE}).wait(instance(engine.url), seconds=2, api_key=KEY)[0]
    assert (answer.state, answer.detail) == (state, detail)
    assert "/stolen" not in engine.asked


def test_loading_until_the_time_is_over(engine: Engine) -> None:
    engine.health = 503
    host = Host({"vllm@a.service": ACTIVE}, ["INFO loading weights"])
    answer = host.wait(instance(engine.url), seconds=5)[0]
    assert (answer.state, answer.seconds, answer.log) == ("loading", 5.0, ("INFO loading weights",))
    assert host.looks == 6


def test_nothing_listens(engine: Engine) -> None:
    engine.close()
    answer = Host({"vllm@a.service": ACTIVE}).wait(instance(engine.url), seconds=1)[0]
    assert (answer.state, answer.detail) == ("loading", "it does not listen yet")


def test_a_failed_instance_ends_the_wait_with_its_cause(engine: Engine) -> None:
    engine.health = 503
    host = Host({"vllm@a.service": ACTIVE, "vllm@b.service": WAITING}, ENGINE_FAILED)
    answers = host.wait(instance(engine.url), instance(engine.url, "b"), seconds=600, api_key=KEY)
    assert [answer.state for answer in answers] == ["loading", "failed"]
    assert host.now == 0
    assert answers[1].log[:3] == (
        "ValueError: No available memory, (secret)",
        "  Try increasing kv_cache_memory_bytes",
        "...",
    )
    assert answers[1].log[-1].endswith("See root cause above.")
    assert len(answers[1].log) < 60
    assert KEY not in repr(answers)
    assert summary(answers).startswith("0 of 2 ready; a loading: ")


@pytest.mark.parametrize(
    ("restarts", "allowed", "state"), [("1", 0, "failed"), ("1", 1, "loading"), ("0", 0, "loading")]
)
def test_restarts_count_as_long_as_it_is_not_ready(engine: Engine, restarts: str, allowed: int, state: str) -> None:
    engine.health = 503
    host = Host({"vllm@a.service": {**ACTIVE, "NRestarts": restarts}})
    assert host.wait(instance(engine.url), seconds=1, restarts_allowed=allowed)[0].state == state


@pytest.mark.parametrize(("known", "state"), [(2, "loading"), (1, "failed")])
def test_restarts_from_before_the_wait_are_history(engine: Engine, known: int, state: str) -> None:
    engine.health = 503
    host = Host({"vllm@a.service": {**ACTIVE, "NRestarts": "2"}})
    asked = dataclasses.replace(instance(engine.url), restarts=known)
    assert host.wait(asked, seconds=1)[0].state == state


def test_restarts_of_long_ago_do_not_matter_once_ready(engine: Engine) -> None:
    host = Host({"vllm@a.service": {**ACTIVE, "NRestarts": "7"}})
    answer = host.wait(instance(engine.url))[0]
    assert (answer.state, answer.restarts) == ("ready", 7)


@pytest.mark.parametrize(
    ("unit", "detail"),
    [
        ({"LoadState": "not-found"}, "vllm@a.service does not exist"),
        (
            {"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead"},
            "vllm@a.service is not running: inactive (dead)",
        ),
    ],
)
def test_absent_is_not_waited_for(engine: Engine, unit: dict[str, str], detail: str) -> None:
    host = Host({"vllm@a.service": unit})
    answer = host.wait(instance(engine.url), seconds=600)[0]
    assert (answer.state, answer.detail, host.now) == ("absent", detail, 0)
    assert engine.asked == []


EXEC = "x.service: Failed at step EXEC spawning /opt/x: No such file or directory"
USAGE = "api_server.py: error: unrecognized arguments: --x"
IN_COLOUR = "\x1b[0;36m(EngineCore pid=7)\x1b[0;0m ERROR 11-23 16:56:57 [core.py:1] out of shared memory"
TRACEBACK = ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "    import b"]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["usage: api_server.py [-h]", USAGE], [USAGE]),
        (["x.service: Starting", EXEC, "x.service: Failed with result 'exit-code'."], [EXEC]),
        (["/usr/bin/python3: No module named vllm"], ["/usr/bin/python3: No module named vllm"]),
        ([IN_COLOUR], ["out of shared memory"]),
        ([*TRACEBACK, "ModuleNotFoundError: No module named 'b'", "x"], ["ModuleNotFoundError: No module named 'b'"]),
        (["INFO 11-23 16:56:57 [a.py:1] all is well"], []),
        (TRACEBACK[:1], []),
        ([], []),
    ],
)
def test_causes(lines: list[str], cause: list[str]) -> None:
    assert find_cause([("now", line) for line in lines]) == cause


def test_a_process_that_died_is_the_cause_of_the_others_tracebacks() -> None:
    said = "Worker proc VllmWorker-0 died unexpectedly (exit code: -4), shutting down executor."
    lines = [
        "(Worker pid=275) INFO 11-24 23:17:37 [base_loader.py:82] Initializing model took 0.279828 seconds",
        f"(EngineCore pid=214) ERROR 11-24 23:17:49 [multiproc_executor.py:315] {said}",
        "(EngineCore pid=214) ERROR 11-24 23:17:49 [core.py:1512] Traceback (most recent call last):",
        '(EngineCore pid=214) ERROR 11-24 23:17:49 [core.py:1512]   File "shm_broadcast.py", line 867, in acquire_read',
        "(EngineCore pid=214) ERROR 11-24 23:17:49 [core.py:1512] RuntimeError: cancelled",
    ]
    assert find_cause([("now", line) for line in lines]) == [said]


def test_the_cause_is_that_of_the_last_start_that_has_one() -> None:
    journal = [("1", "a: error: first"), ("2", "a: error: second"), ("3", "INFO starting again")]
    assert find_cause(journal) == ["a: error: second"]


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "http://127.0.0.1", "ftp://127.0.0.1:1", "http://h:99999", "http://h:1/v1", "http://k@h:1", ""],
)
def test_urls_that_are_not_where_an_instance_listens(url: str) -> None:
    with pytest.raises(ReadinessError, match=r"instance 'a': url .* must be where it listens"):
        check_instances([instance(url)])


def test_names_given_twice() -> None:
    with pytest.raises(ReadinessError, match="instance 'a' is given twice"):
        check_instances([instance("http://127.0.0.1:1"), instance("http://127.0.0.1:2")])
