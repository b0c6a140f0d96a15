# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part of benchmark_verdicts.py that runs on the host, as root: ``local`` and ``again``, round after round.

The module's own instances, placements, turns and clients, with two differences: clients stay, as each would load vLLM
for ten seconds first, and from some round on a busy loop competes for the CPUs of ``again``'s first instance while that
has load. A JSON line for each round, on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _bench_client
from ansible_collections.numapin.inference.plugins.module_utils._bench_plan import AGAIN, LOCAL, BenchmarkError, Placed
from ansible_collections.numapin.inference.plugins.module_utils._bench_run import Service, Settings, plan
from ansible_collections.numapin.inference.plugins.module_utils._bench_units import PREFIX, STATE, Units
from ansible_collections.numapin.inference.plugins.module_utils._cpuset import parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._facts import gather, wanted_parts
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host

# Units sends it: named, so that it is carried along.
SENT = _bench_client

# Reads the words of _bench_client.main, a JSON list a line, and answers each with a line of its own.
CLIENT = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
client = importlib.import_module("client")
serve = importlib.import_module("vllm.benchmarks.serve")
load = serve.benchmark
for line in sys.stdin:
    serve.benchmark = load
    try:
        client.main(json.loads(line))
        print("NUMAPIN ended", flush=True)
    except BaseException as error:
        print(f"NUMAPIN failed: {type(error).__name__}: {error}", flush=True)
"""
BUSY = "import os, sys\nos.sched_setaffinity(0, {int(cpu) for cpu in sys.argv[1:]})\nwhile True: pass"


class KeptClients(Units):
    """Units whose clients stay."""

    def __init__(self, user: str, python: str, limit_seconds: int) -> None:
        super().__init__(user, python, limit_seconds)
        self._clients: dict[int, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()

    def load(
        self, meeting: str, number: int, count: int, where: Placed, arguments: t.Sequence[str]
    ) -> dict[str, t.Any]:
        results = STATE / "results"
        path = results / f"client-{meeting}-{number}.json"
        with self._lock:
            client = self._clients.get(number) or self._started(number, where)
        saved = ["--save-result", "--disable-tqdm", f"--result-dir={results}", f"--result-filename={path.name}"]
        t.cast("t.IO[str]", client.stdin).write(
            json.dumps([str(results / meeting), str(number), str(count), *arguments, *saved]) + "\n"
        )
        t.cast("t.IO[str]", client.stdin).flush()
        for line in t.cast("t.IO[str]", client.stdout):
            if line.startswith("NUMAPIN ended"):
                found: dict[str, t.Any] = json.loads(path.read_text(encoding="utf-8"))
                return found
            if line.startswith("NUMAPIN"):
                raise BenchmarkError(line.strip())
        raise BenchmarkError(f"the client of instance {number} ended")

    def _started(self, number: int, where: Placed) -> subprocess.Popen[str]:
        unit = f"{PREFIX}kept-client-{number}.service"
        command = [self.python, "-c", CLIENT, str(STATE)]
        words = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", *self._options(unit, where, secret=True)]
        self._clients[number] = subprocess.Popen(
            [*words, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._clients[number]


class Told(Service):
    """Rounds that are told as they come; from ``slowed_from`` on, ``again`` has competition."""

    slowed_from = 0

    def _loaded(self, name: str, number: int) -> dict[str, t.Any]:
        slowed = name == AGAIN and number >= self.slowed_from
        with competition(self._work.instances[0]["cpus"]) if slowed else contextlib.nullcontext():
            found = super()._loaded(name, number)
        sys.stdout.write(json.dumps({"round": number, "placement": name, **found}) + "\n")
        sys.stdout.flush()
        return found


@contextlib.contextmanager
def competition(cpus: str) -> t.Iterator[None]:
    """A process that wants each of these CPUs for itself."""
    running = [subprocess.Popen([sys.executable, "-I", "-c", BUSY, str(cpu)]) for cpu in sorted(parse_cpulist(cpus))]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def topology() -> dict[str, t.Any]:
    """As the module numa_facts has it."""
    return gather(Host("/"), wanted_parts(["all"]), {}, GpuSources(this_machine=True))


def main() -> int:
    """What is wanted comes as JSON in the environment: instances, python, equal and slowed rounds, settings."""
    given = json.loads(os.environ["NUMAPIN_VERDICTS"])
    equal, slowed = given["equal"], given["slowed"]
    settings = Settings(
        parts=["service"],
        placements=[LOCAL, AGAIN],
        model="",
        rounds=equal + slowed,
        keep_running=True,
        **given["load"],
    )
    units = KeptClients("vllm", given["python"], 3600)
    Told.slowed_from = equal
    problems: list[str] = []
    with units.alone():
        try:
            units.prepare()
            work = plan(settings, topology(), given["instances"], "")
            Told(units, settings, work, problems).measure()
        finally:
            units.clean_up()
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
