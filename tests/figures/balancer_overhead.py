# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What our nginx costs: the same engine double behind it, behind vllm-router, and asked directly, in one run.

nginx is configured by the role: TLS, keys, limits and the JSON log are on. Started through tools/nginx.

* ``balancer_added_over_router``: time to first token that nginx adds, over what vllm-router adds; one request at a
  time, the three asked in turn and in a random order, medians of the differences to the direct answer of the same
  round. Each is asked three times and the third counts: the first ones pay for what the one before left to be done.
* ``balancer_added_ms``: the former, in ms.
* ``balancer_token_gap_over_direct``: median time between two tokens of a paced answer, over the direct answer's.
* ``balancer_peak_streams``: answers under way at once through nginx, every one of them complete in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.numapin.inference.tests.nginx import balancing

ROOT = Path(__file__).resolve().parents[2]
ROUTER_VERSION = "0.1.17"
ROUTER = ROOT / ".cache" / f"vllm-router-{ROUTER_VERSION}"
MODEL = "tiny"
CLIENT_KEY, ENGINE_KEY = "sk-client-0123456789abcdefghij", "sk-engine-0123456789abcdefghij"
PACE_TOKENS_PER_SECOND = 500
CONTEXT = balancing.trusting()


@dataclass(frozen=True)
class Target:
    """Somewhere to ask."""

    name: str
    port: int
    key: str
    tls: bool = False

    def request(self, tokens: int, stream: bool = True) -> bytes:
        body = json.dumps(
            {"model": MODEL, "prompt": "Hello", "max_tokens": tokens, "stream": stream, "ignore_eos": True}
        )
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()


class Asker:
    """One kept connection on which one request after the other is asked."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._socket = socket.create_connection(("127.0.0.1", target.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A new buffer for every piece would cost more than what is measured.
        self._buffer = bytearray(16384)
        if target.tls:
            self._socket = CONTEXT.wrap_socket(self._socket, server_hostname="localhost")

    def ask(self, tokens: int) -> list[float]:
        """Seconds from the request to each of the pieces in which ``tokens`` tokens came."""
        request = self.target.request(tokens)
        started = time.perf_counter()
        self._socket.sendall(request)
        received = b""
        times: list[float] = []
        while not received.endswith(b"\r\n0\r\n\r\n"):
            length = self._socket.recv_into(self._buffer)
            if not length:
                raise SystemExit(f"{self.target.name} ended the answer: {received[-500:]!r}")
            data = self._buffer[:length]
            received += data
            if data.find(b"data: {") >= 0:
                times.append(time.perf_counter() - started)
            if b" 200 " not in received[:20]:
                raise SystemExit(f"{self.target.name} answered {received[:500]!r}")
        if b"data: [DONE]" not in received:
            raise SystemExit(f"{self.target.name} did not end its answer: {received[-500:]!r}")
        return times

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def process(command: list[str], port: int, path: str, log: Path, environment: dict[str, str]) -> t.Iterator[None]:
    """A server that runs until the end of the block; it is there once ``path`` answers 200."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(port, path):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not serve:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


@contextlib.contextmanager
def engine(directory: Path, name: str, tokens_per_second: float) -> t.Iterator[int]:
    port = balancing.free_port()
    config = directory / f"{name}.yaml"
    config.write_text(
        json.dumps(
            {
                "model": MODEL,
                "host": "127.0.0.1",
                "port": port,
                "max-num-seqs": 4096,
                "disable-uvicorn-access-log": True,
            }
        )
    )
    environment = {
        "NUMAPIN_ENGINE_TOKENS_PER_SECOND": str(tokens_per_second),
        "NUMAPIN_ENGINE_WORKER_MEMORY_MIB": "1",
        "VLLM_API_KEY": ENGINE_KEY,
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "120",
        "PYTHON": sys.executable,
    }
    command = [str(ROOT / "tests/engine/vllm"), "serve", "--config", str(config)]
    with process(command, port, "/health", directory / f"{name}.log", environment):
        yield port


@contextlib.contextmanager
def nginx(directory: Path, engine_port: int) -> t.Iterator[balancing.Balancer]:
    host = {
        "vllm_plan": balancing.plan("gpu1", "127.0.0.1", balancing.instance(MODEL, 0, engine_port)),
        "vllm_api_key": ENGINE_KEY,
    }
    with balancing.running(
        directory,
        {"gpu1": host},
        {},
        load_balancer_tls=True,
        load_balancer_tls_self_signed=True,
        load_balancer_keys=[{"name": "client", "keys": [CLIENT_KEY]}],
        load_balancer_requests_per_second=100000,
        load_balancer_burst=10000,
        load_balancer_streams=10000,
        load_balancer_worker_connections=8192,
        load_balancer_worker_rlimit_nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    ) as balancer:
        yield balancer


@contextlib.contextmanager
def router(directory: Path, engine_port: int) -> t.Iterator[int]:
    if not (ROUTER / "bin/vllm-router").exists():
        shutil.rmtree(ROUTER, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(ROUTER)], check=True)
        into = ["--python", str(ROUTER / "bin/python")]
        subprocess.run([uv, "pip", "install", "--quiet", *into, f"vllm-router=={ROUTER_VERSION}"], check=True)
    port = balancing.free_port()
    command = [
        str(ROUTER / "bin/vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin",
        "--worker-urls", f"http://127.0.0.1:{engine_port}", "--prometheus-port", str(balancing.free_port()),
        "--log-level", "error",
    ]  # fmt: skip
    with process(command, port, "/health", directory / "router.log", {}):
        yield port


def latencies(targets: list[Target], rounds: int) -> dict[str, float]:
    """Median of what each target adds to the first token of a direct answer in the same round, in ms."""
    askers = [Asker(target) for target in targets]
    added: dict[str, list[float]] = {target.name: [] for target in targets}
    for number in range(rounds + 20):
        turn = random.sample(askers, len(askers))
        first = {asker.target.name: [asker.ask(2)[0] for _repetition in range(3)][-1] for asker in turn}
        if number >= 20:
            for name, seconds in first.items():
                added[name].append((seconds - first["direct"]) * 1000)
    for asker in askers:
        asker.close()
    return {name: statistics.median(values) for name, values in added.items()}


def gaps(targets: list[Target], rounds: int) -> dict[str, float]:
    """Median time between two pieces of paced answers, in ms."""
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    askers = [Asker(target) for target in targets]
    for _number, asker in itertools.product(range(rounds), askers):
        times = asker.ask(200)
        found[asker.target.name] += [(after - before) * 1000 for before, after in itertools.pairwise(times)]
    for asker in askers:
        asker.close()
    return {name: statistics.median(values) for name, values in found.items()}


async def throughput(target: Target, seconds: float, clients: int) -> float:
    """Requests a second of so many clients, each on a connection of its own."""
    connections = [await connect(target) for _number in range(clients)]
    end = time.monotonic() + seconds
    done = 0

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal done
        while time.monotonic() < end:
            writer.write(target.request(1, stream=False))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            if b" 200 " not in head[:20]:
                raise SystemExit(f"{target.name} answered {head!r}")
            done += 1
        writer.close()

    await asyncio.gather(*(client(*connection) for connection in connections))
    return done / seconds


async def connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", target.port, ssl=CONTEXT if target.tls else None)


async def streams(target: Target, count: int, tokens: int) -> int:
    """The most answers that were under way at once; every one of ``count`` has to be complete."""
    open_now = most = complete = 0
    slots = asyncio.Semaphore(100)  # connections that are being made

    async def client() -> None:
        nonlocal open_now, most, complete
        async with slots:
            reader, writer = await connect(target)
            writer.write(target.request(tokens))
            line = await reader.readline()
        if b" 200 " not in line:
            raise SystemExit(f"{target.name} answered {line!r} + {await reader.read(1000)!r}")
        while not line.startswith(b"data: {"):
            line = await reader.readline()
        open_now += 1
        most = max(most, open_now)
        pieces = 1
        while not line.startswith(b"data: [DONE]"):
            line = await reader.readline()
            if not line:
                raise SystemExit(f"{target.name} cut an answer after {pieces} of {tokens} tokens")
            pieces += line.startswith(b"data: {")
        open_now -= 1
        if pieces < tokens:
            raise SystemExit(f"{target.name} gave {pieces} of {tokens} tokens")
        complete += 1
        writer.close()

    await asyncio.gather(*(client() for _number in range(count)))
    if complete != count:
        raise SystemExit(f"{complete} of {count} answers were complete")
    return most


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, t.Any]:
    def targets(engine_port: int, balancer: balancing.Balancer, router_port: int) -> list[Target]:
        return [
            Target("direct", engine_port, ENGINE_KEY),
            Target("nginx", balancer.tls_port, CLIENT_KEY, tls=True),
            Target("router", router_port, ENGINE_KEY),
        ]

    with (
        engine(directory, "fast", 0) as port,
        nginx(directory / "fast", port) as fast,
        router(directory, port) as other,
    ):
        three = targets(port, fast, other)
        added = latencies(three, arguments.rounds)
        rates = {target.name: asyncio.run(throughput(target, arguments.seconds, 8)) for target in three}
    with (
        engine(directory, "paced", PACE_TOKENS_PER_SECOND) as port,
        nginx(directory / "paced", port) as paced,
        router(directory, port) as other,
    ):
        between = gaps(targets(port, paced, other), 5)
    with engine(directory, "slow", 1) as port, nginx(directory / "slow", port) as slow:
        peak = asyncio.run(streams(targets(port, slow, 0)[1], arguments.streams, arguments.tokens))
    return {
        "values": {
            "balancer_added_over_router": round(added["nginx"] / added["router"], 3),
            "balancer_added_ms": round(added["nginx"], 3),
            "balancer_token_gap_over_direct": round(between["nginx"] / between["direct"], 4),
            "balancer_peak_streams": peak,
        },
        "detail": "; ".join(
            (
                f"added to the first token: {listed(added, 3)} ms (router: vllm-router {ROUTER_VERSION})",
                f"between two tokens: {listed(between, 3)} ms",
                f"8 clients, requests/s: {listed(rates, 0)}",
                f"{peak} streams at once, all complete",
            )
        ),
    }


def listed(values: dict[str, float], digits: int) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="What our nginx costs against vllm-router and nothing.")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=5.0, help="of throughput, for each")
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=60, help="of each of these, one a second")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="balancer-overhead-") as directory:
        print(json.dumps(measure(arguments, Path(directory))))


if __name__ == "__main__":
    main()
