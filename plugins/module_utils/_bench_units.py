# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Processes of a benchmark as transient units, so that systemd places, ends and forgets them.

They are called ``numapin-benchmark-*``, and each ends by itself after a while: nothing is left even where the module
that started them was killed. What is on the disk for them lies below ``STATE`` and ``CACHE``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import shutil
import socket
import time
import typing as t
from pathlib import Path

from ansible_collections.numapin.inference.plugins.module_utils._bench_plan import BenchmarkError, Placed
from ansible_collections.numapin.inference.plugins.module_utils._commands import CommandError, Runner, run
from ansible_collections.numapin.inference.plugins.module_utils._program import sources
from ansible_collections.numapin.inference.plugins.module_utils._readiness import request
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

PREFIX = "numapin-benchmark-"
STATE = Path("/run/numapin-benchmark")
CACHE = "numapin-benchmark"
LOCK = Path("/run/numapin-benchmark.lock")
_LOCK_ATTEMPTS = 5
_STOP_SECONDS = 30
_HARDENING = (
    "Type=exec",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateTmp=yes",
    "UMask=0077",
    "LimitNOFILE=65536",
    "LimitMEMLOCK=infinity",
    "LimitCORE=0",
    "KillMode=mixed",
    f"TimeoutStopSec={_STOP_SECONDS}s",
    f"CacheDirectory={CACHE}",
)


class Units:
    """Starts, waits for and removes what a benchmark runs, as ``user`` and with ``python``."""

    def __init__(self, user: str, python: str, limit_seconds: int, runner: Runner = run) -> None:
        self.user = user
        self.python = python
        self.limit_seconds = limit_seconds
        self._run = runner
        self._systemd = Systemd(runner)
        self._key = secrets.token_urlsafe(32)

    def serving(self) -> list[str]:
        """Deployed instances that run."""
        units = self._systemd.show(self._systemd.loaded("vllm@*.service"))
        return sorted(unit.name for unit in units.values() if not unit.down)

    @contextlib.contextmanager
    def alone(self, lock: Path = LOCK) -> t.Iterator[None]:
        """Refuse a second benchmark on this host: each would measure, and clean up, the other one's."""
        with lock.open("w") as handle:
            for attempt in range(_LOCK_ATTEMPTS):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    # Who only asks whether one runs (_bench_wait) has it for a moment.
                    if attempt == _LOCK_ATTEMPTS - 1:
                        raise BenchmarkError(
                            f"another benchmark runs on this host ({lock} is locked): wait for it, or end that run"
                            " first"
                        ) from error
                    time.sleep(0.1)
            yield

    def prepare(self) -> None:
        """Make the directory, with the key that clients of the temporary instances need."""
        try:
            owner = pwd.getpwnam(self.user)
        except KeyError as error:
            raise BenchmarkError(
                f"there is no user {self.user} on this host: deploy vLLM first (site.yml), or name one that is"
                " there with benchmark_user"
            ) from error
        self.stop_all()
        shutil.rmtree(STATE, ignore_errors=True)
        STATE.mkdir(mode=0o755)
        results = STATE / "results"
        results.mkdir(mode=0o700)
        os.chown(results, owner.pw_uid, owner.pw_gid)
        for name in ("probe", "client"):
            source = sources(f"_bench_{name}")[f"_bench_{name}"]
            (STATE / f"{name}.py").write_text(source, encoding="utf-8")
        self._write_secret(STATE / "key.env", f"VLLM_API_KEY={self._key}\nOPENAI_API_KEY={self._key}\n")

    def clean_up(self) -> None:
        """Leave nothing behind."""
        self.stop_all()
        shutil.rmtree(STATE, ignore_errors=True)
        shutil.rmtree(Path("/var/cache") / CACHE, ignore_errors=True)

    def stop_all(self) -> None:
        """Stop what is left of this benchmark, or of one that was killed."""
        names = self._systemd.loaded(f"{PREFIX}*")
        self.stop(names)

    def stop(self, names: t.Sequence[str]) -> None:
        """Stop these units and wait until they are gone."""
        if names:
            # systemd has forgotten a unit that ended by itself, and refuses to stop it: what is left is seen below.
            self._run(("systemctl", "stop", "--no-block", "--", *names), _STOP_SECONDS)
            left = self._systemd.wait(names, lambda unit: unit.down, _STOP_SECONDS * 2)
            still = [name for name, unit in left.items() if not unit.down]
            if still:
                raise BenchmarkError(f"not stopped within {_STOP_SECONDS * 2} s: {', '.join(still)}")
            # Of a unit that failed, nothing but a note is left.
            for name in [name for name, unit in left.items() if unit.active_state == "failed"]:
                self._run(("systemctl", "reset-failed", "--", name), _STOP_SECONDS)

    def probe(self, where: Placed, *arguments: object) -> dict[str, t.Any]:
        """Run one measurement of _bench_probe.py and return what it printed."""
        command = [self.python, str(STATE / "probe.py"), *map(str, arguments)]
        return t.cast(
            "dict[str, t.Any]", json.loads(self._waited(f"probe-{where.name}", where, command).splitlines()[-1])
        )

    def start(self, name: str, where: Placed, config: t.Mapping[str, t.Any]) -> str:
        """Start a temporary instance of vLLM; the name of its unit."""
        path = STATE / f"{name}.yaml"
        # JSON is YAML.
        path.write_text(json.dumps(dict(config)), encoding="utf-8")
        unit = f"{PREFIX}{name}.service"
        command = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--config", str(path)]
        argv = ["systemd-run", "--quiet", "--collect", *self._options(unit, where, secret=True), "--", *command]
        result = self._run(argv, 60)
        if result.rc != 0:
            raise BenchmarkError(f"systemd does not start {unit}: {result.stderr.strip() or result.rc}")
        return unit

    def wait_until_ready(self, unit: str, port: int, timeout_seconds: int) -> None:
        """Return when an instance answers; BenchmarkError with what it said when it does not."""
        end = time.monotonic() + timeout_seconds
        while time.monotonic() < end:
            if request(f"http://127.0.0.1:{port}/health", None, None, 5)[0] == 200:
                return
            if self._systemd.show([unit])[unit].down:
                raise BenchmarkError(f"{unit} ended before it answered: {self._said(unit)}")
            time.sleep(1)
        raise BenchmarkError(
            f"{unit} did not answer within {timeout_seconds} s (benchmark_start_timeout_seconds): {self._said(unit)}"
        )

    def load(
        self, meeting: str, number: int, count: int, where: Placed, arguments: t.Sequence[str]
    ) -> dict[str, t.Any]:
        """Run ``vllm bench serve``, begun together with all ``count`` of this ``meeting``; its result."""
        name = f"client-{meeting}-{number}"
        results = STATE / "results"
        path = results / f"{name}.json"
        saved = ["--save-result", "--disable-tqdm", f"--result-dir={results}", f"--result-filename={path.name}"]
        client = [self.python, str(STATE / "client.py"), str(results / meeting), str(number), str(count)]
        self._waited(name, where, [*client, *arguments, *saved], secret=True)
        try:
            return t.cast("dict[str, t.Any]", json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"vllm bench serve left no result that can be read ({error})") from error

    def _waited(self, name: str, where: Placed, command: t.Sequence[str], secret: bool = False) -> str:
        unit = f"{PREFIX}{name}.service"
        options = self._options(unit, where, secret)
        argv = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", *options, "--", *command]
        try:
            result = self._run(argv, self.limit_seconds)
        except CommandError:
            self.stop([unit])
            raise
        if result.rc != 0 or not result.stdout.strip():
            said = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
            raise BenchmarkError(
                f"{unit} failed (exit status {result.rc}): {' | '.join(said[-4:]) or 'it said nothing'}"
            )
        return result.stdout

    def _options(self, unit: str, where: Placed, secret: bool) -> list[str]:
        properties = [*_HARDENING, f"User={self.user}", f"RuntimeMaxSec={self.limit_seconds}s"]
        properties += placement_properties(where)
        properties += [f"ReadWritePaths={STATE / 'results'}"]
        if where.device == "cpu":
            properties.append("PrivateDevices=yes")
        if secret:
            properties.append(f"EnvironmentFile={STATE / 'key.env'}")
        cache = f"/var/cache/{CACHE}"
        environment = {
            "HOME": cache,
            "VLLM_CACHE_ROOT": cache,
            "XDG_CACHE_HOME": cache,
            "HF_HOME": "/var/cache/vllm/huggingface",
            # What is measured here was fetched by the deployed service.
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            **where.environment,
        }
        return [
            f"--unit={unit}",
            *[f"--property={text}" for text in properties],
            *[f"--setenv={name}={value}" for name, value in environment.items()],
        ]

    def _said(self, unit: str) -> str:
        """Of this start the first and the last line that name an error, with what follows; else the last ones."""
        journal = self._systemd.journal(unit, 300)
        lines = [text for invocation, text in journal if invocation == journal[-1][0] and text.strip()]
        errors = [i for i, text in enumerate(lines) if "Error" in text and "WARNING" not in text]
        if not errors:
            return " | ".join(lines[-4:]) or "it said nothing"
        shown = sorted({errors[0], *range(errors[-1], min(errors[-1] + 3, len(lines)))})
        return " | ".join(lines[i] for i in shown)

    @staticmethod
    def _write_secret(path: Path, content: str) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(content)


def placement_properties(where: Placed) -> list[str]:
    """What the deployed instance's placement.conf says, for a transient unit."""
    if not where.cpus:
        return [f"AllowedCPUs={where.fence}"] if where.fence else []
    nodes = ",".join(str(node) for node in where.memory_nodes)
    properties = [
        f"CPUAffinity={where.cpus}",
        f"NUMAPolicy={where.memory_policy}",
        f"NUMAMask={nodes}",
        f"AllowedCPUs={where.cpus}",
    ]
    return properties + ([f"AllowedMemoryNodes={nodes}"] if where.memory_policy != "preferred" else [])


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _number in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
