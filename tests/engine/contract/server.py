# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine as a process: started with a configuration as roles/vllm writes it, asked over HTTP, stopped by signals."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import typing as t

from contract.questions import ALIAS, KEY, MAX_MODEL_LEN, MODEL, Ask

HOST = "127.0.0.1"


class ContractError(Exception):
    """The engine cannot be asked: it did not start, or not answer at all. The message has its last words."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """How to start one: ``command`` takes ``--config FILE`` and more options; ``model`` is a directory or a name."""

    name: str
    command: tuple[str, ...]
    model: str
    environment: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    start_seconds: float = 300.0


class Endpoint:
    """Where to ask."""

    def __init__(self, port: int, host: str = HOST, key: str = KEY, model: str = MODEL) -> None:
        self.host, self.port, self.key, self.model = host, port, key, model

    def open(self, seconds: float = 120.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)

    def ask(self, question: Ask) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers in lower case, body."""
        connection = self.open()
        try:
            send(connection, question)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()
        finally:
            connection.close()

    def text(self, path: str) -> str:
        """The body of a GET that must succeed."""
        status, _headers, body = self.ask(Ask(path, "GET", path))
        if status != 200:
            raise ContractError(f"GET {path} answers {status}: {body[:300]!r}")
        return body.decode("utf-8", "replace")


def send(connection: http.client.HTTPConnection, question: Ask) -> None:
    connection.request(question.method, question.path, question.content(), question.all_headers())


class Running:
    """A started engine: ``endpoint`` and the process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: pathlib.Path) -> None:
        self.process = process
        self.endpoint = Endpoint(port)
        self._log = log

    def wait_until_healthy(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise ContractError(
                    f"the engine ended with {self.process.returncode} before it answered:\n{self.tail()}"
                )
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.endpoint.ask(Ask("health", "GET", "/health", key=None))[0] == 200:
                    return
            time.sleep(0.05)
        raise ContractError(f"the engine did not answer within {seconds:.0f} s:\n{self.tail()}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int | str:
        """Exit status (negative: the signal that killed it), or a word for one that goes on."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"still running after {seconds:.0f} s"

    def descendant(self, title: str) -> int:
        """The pid of the child, or its child, whose command line begins with ``title``."""
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()):
                    return pid
        raise ContractError(f"no process {title} below {self.process.pid}:\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


def descendants(pid: int) -> list[int]:
    """Children and theirs, from /proc."""
    parents: dict[int, int] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = [pid], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found[1:]


@contextlib.contextmanager
def running(engine: Engine, *options: str, healthy: bool = True, **config: t.Any) -> c.Iterator[Running]:
    """Start an engine and, unless told otherwise, wait until it answers; what is left of it is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="numapin-engine-") as directory:
        port = free_port()
        path = pathlib.Path(directory, "engine.yaml")
        path.write_text(config_text(engine, port, config), encoding="utf-8")
        log = pathlib.Path(directory, "log")
        environment = {**os.environ, **engine.environment, "VLLM_API_KEY": KEY}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*engine.command, "--config", str(path), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
                start_new_session=True,
            )
        started = Running(process, port, log)
        try:
            if healthy:
                started.wait_until_healthy(engine.start_seconds)
            yield started
        finally:
            # A session of its own: none of its processes outlives the scenario.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def config_text(engine: Engine, port: int, more: t.Mapping[str, t.Any]) -> str:
    """The file that roles/vllm would write: keys in order, lists in block style."""
    config: dict[str, t.Any] = {
        "enable-server-load-tracking": True,
        "enforce-eager": True,
        "host": HOST,
        "load-format": "dummy",
        "max-model-len": MAX_MODEL_LEN,
        "model": engine.model,
        "port": port,
        "served-model-name": [MODEL, ALIAS],
        "shutdown-timeout": 0,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    lines = []
    for key, value in sorted(config.items()):
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {json.dumps(item)}" for item in value)]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    return "\n".join([*lines, ""])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


class Conversation(threading.Thread):
    """A request whose answer is read beside everything else. ``begun`` is set with the first token of a stream."""

    def __init__(self, endpoint: Endpoint, question: Ask) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self._question = question
        self.begun = threading.Event()
        self.status: int | None = None
        self.media_type = ""
        self.body = b""
        self.broken: str | None = None

    def run(self) -> None:
        connection = self._endpoint.open()
        try:
            send(connection, self._question)
            response = connection.getresponse()
            self.status = response.status
            self.media_type = response.headers.get("content-type", "")
            for line in response:
                self.body += line
                if line.startswith(b"data:"):
                    self.begun.set()
        except (OSError, http.client.HTTPException) as error:
            self.broken = type(error).__name__
        finally:
            self.begun.set()
            connection.close()
