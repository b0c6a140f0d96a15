# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rollouts under load in containers: what clients lose. make rollout-load; --engine double is the quick way.

Streamed completions run all the time, 8 at once, of 1 to 1,500 tokens, each held against [DONE], finish reason and
exact token count, while

1. rollout.yml changes an argument of every instance,
2. balance.yml changes the balancer's configuration,
3. remove.yml takes a host out of service,
4. rollout.yml brings it back.

Then the same load while each instance is restarted with ``systemctl restart``, for comparison. The result goes to
build/rollout-load.json; exit status 0 when the first part lost nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
import typing as t

from fleet import hosts, packages, service
from fleet.console import FleetError, run, say, step
from fleet.settings import BUILD, CONTAINERS, REPOSITORY, VLLM_PYTHON, Settings, ansible_playbook

PURPOSE = "load"
MODEL = service.MODEL
RESTARTED_WITHIN_SECONDS = 180


@dataclasses.dataclass(frozen=True)
class Fleet:
    """What runs, and how to reach it."""

    files: t.Any
    url: str
    engine: str

    def playbook(self, name: str, *arguments: str) -> float:
        """Run one of the collection's playbooks to its end; the seconds it took."""
        given = [f"--inventory={self.files.inventory}", str(REPOSITORY / "playbooks" / f"{name}.yml"), *arguments]
        command, environment = ansible_playbook(*given)
        began = time.monotonic()
        with step(f"{name}.yml {' '.join(arguments)[:60]}"):
            run(command, timeout_seconds=1200, environment=environment)
        return round(time.monotonic() - began, 1)

    def on(self, host: str, *command: str) -> str:
        """Run a command on one of the hosts."""
        return run(["ssh", "-F", str(self.files.ssh_config), host, *command], timeout_seconds=300)

    def models(self, **arguments: t.Any) -> str:
        """The deployed model with other arguments, as --extra-vars."""
        text = json.loads(json.dumps(service.models(self.engine == "double")))
        text[0]["arguments"] |= {name.replace("_", "-"): value for name, value in arguments.items()}
        return f"--extra-vars={json.dumps({'vllm_models': text})}"


class Load:
    """The load client in the background; ``result`` after the block."""

    def __init__(self, fleet: Fleet, name: str, requests: int) -> None:
        self.stop = fleet.files.directory / f"{name}.stop"
        self.output = fleet.files.directory / f"{name}.json"
        self.command = [
            *(sys.executable, str(CONTAINERS / "load.py"), f"--url={fleet.url}", f"--model={MODEL}"),
            *(f"--api-key-file={fleet.files.directory / 'api_key'}", f"--requests={requests}", f"--until={self.stop}"),
            *("--concurrency=8", "--min-tokens=1", "--max-tokens=1500", "--lengths=log"),
        ]
        self.result: dict[str, t.Any] = {}

    def __enter__(self) -> Load:
        self.stop.unlink(missing_ok=True)
        self.handle = self.output.open("w", encoding="utf-8")
        self.process = subprocess.Popen(self.command, stdout=self.handle)
        return self

    def __exit__(self, kind: object, *_more: object) -> None:
        self.stop.touch()
        try:
            self.process.wait(timeout=30 if kind else 1200)
        finally:
            self.process.kill()
            self.handle.close()
        if not kind:
            self.result = json.loads(self.output.read_text(encoding="utf-8"))


def main() -> int:
    """Bring the hosts up, do both parts, say what was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "double"), default="vllm")
    parser.add_argument("--requests", type=int, default=2000, help="at least so many in the first part")
    parser.add_argument("--keep", action="store_true", help="leave the containers up")
    given = parser.parse_args()
    try:
        packages.install()
        fleet = up(given.engine, PURPOSE)
        report = {"engine": given.engine, "rollout": rolled(fleet, given.requests), "restart": restarted(fleet)}
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 2
    finally:
        if not given.keep:
            hosts.down(PURPOSE)
    (BUILD / "rollout-load.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n" + table(report))
    return 1 if report["rollout"]["failures"] else 0


def up(engine: str, purpose: str) -> Fleet:
    """Two inference hosts and a balancer, deployed."""
    if engine == "double":
        double = BUILD / "double"
        run([str(REPOSITORY / "tests" / "engine" / "install"), str(double)], timeout_seconds=60)
        ready = service.up(
            purpose, Settings.from_environment(), python="/opt/double/bin/python", mounts=(f"{double}:/opt/double:ro",)
        )
    else:
        ready = service.up(purpose, Settings.from_environment(), python=VLLM_PYTHON)
    fleet = Fleet(ready.files, ready.url, engine)
    fleet.playbook("rollout", fleet.models())
    return fleet


def rolled(fleet: Fleet, requests: int) -> dict[str, t.Any]:
    """Every kind of change that must lose nothing."""
    changed = fleet.models(max_num_seqs=64)
    gone = service.INFERENCE_HOSTS[-1]
    seconds: dict[str, float] = {}
    with Load(fleet, "rolled", requests) as load:
        time.sleep(3)
        seconds["an argument of every instance"] = fleet.playbook("rollout", changed)
        seconds["the balancer's configuration"] = fleet.playbook(
            "balance", changed, "--extra-vars=load_balancer_keepalive_connections=65"
        )
        seconds["a host removed"] = fleet.playbook("remove", f"--extra-vars=host={gone}")
        seconds["and added"] = fleet.playbook("rollout", changed)
    return {"seconds": seconds, **load.result, **sorted_out(load.result["failures"])}


def restarted(fleet: Fleet) -> dict[str, t.Any]:
    """What a plain restart of each instance loses, one after the other, each awaited."""
    with Load(fleet, "restarted", 100) as load:
        time.sleep(3)
        for host in service.INFERENCE_HOSTS:
            with step(f"systemctl restart on {host}"):
                fleet.on(host, "systemctl", "restart", "vllm@*")
                wait_for_health(fleet, host)
            time.sleep(5)
    return {**load.result, **sorted_out(load.result["failures"])}


def wait_for_health(fleet: Fleet, host: str) -> None:
    """Until the instance of a host answers."""
    plan = json.loads(fleet.on(host, "cat", "/etc/numapin/plan.json"))
    url = f"http://{plan['address']}:{plan['instances'][0]['port']}/health"
    end = time.monotonic() + RESTARTED_WITHIN_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(FleetError):
            fleet.on(host, "curl", "-fsS", "-o", "/dev/null", "-m", "2", url)
            return
        time.sleep(1)
    raise FleetError(f"{host} did not answer within {RESTARTED_WITHIN_SECONDS} s after its restart")


def sorted_out(failures: list[dict[str, t.Any]]) -> dict[str, int]:
    """Failed: an error the client sees. Truncated: an answer that looks complete and is not."""
    truncated = sum(
        1 for failure in failures if "tokens instead of" in failure["reason"] or "finish" in failure["reason"]
    )
    return {"failed": len(failures) - truncated, "truncated": truncated}


def table(report: dict[str, t.Any]) -> str:
    """For people."""
    lines = [f"{'':34}{'requests':>10}{'failed':>8}{'truncated':>11}{'p50 s':>8}{'p99 s':>8}"]
    for title, key in (("rollout.yml, balance.yml, remove.yml", "rollout"), ("systemctl restart of each", "restart")):
        one = report[key]
        latency = one["latency_seconds"]
        lines.append(
            f"{title:36}{one['requests']:>8}{one['failed']:>8}{one['truncated']:>11}{latency['p50']:>8}{latency['p99']:>8}"
        )
    took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in report["rollout"]["seconds"].items())
    say(f"Changes under load: {took}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    sys.exit(main())
