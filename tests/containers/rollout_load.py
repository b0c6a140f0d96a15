# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes under load in containers: what clients lose. make rollout-load; --engine double is the quick way.

Streamed completions run all the time, 8 at once, of 1 to 1,500 tokens, as many between 1 and 10 as between 100 and
1,000. Each is held against [DONE], finish reason and exact token count. ``--phase`` picks what happens meanwhile:

* argument: rollout.yml changes an argument of every instance;
* balancer: balance.yml changes the balancer's configuration;
* keys: balance.yml adds a key for clients, and then takes the first one back while its answers are being written;
* host: remove.yml takes a host out of service, rollout.yml brings it back;
* restart: each instance is restarted with ``systemctl restart``, for comparison. This one loses answers.

With ``--keep`` the containers stay, and ``--as-they-are`` goes on with them: phases can be run one at a time. The
results are gathered in build/rollout-load.json. Exit status 0 when no phase but restart lost anything.
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
FIRST_KEY, SECOND_KEY = "first", "second"
RESULTS = BUILD / "rollout-load.json"


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

    def keys(self, *names: str) -> str:
        """Whose keys the balancer knows, as --extra-vars; the keys themselves stay in their files."""
        known = []
        for name in names:
            service.make_api_key(self.files.directory.name, f"key_{name}")
            look = f"lookup('ansible.builtin.file', inventory_dir ~ '/key_{name}')"
            known.append({"name": name, "keys": [f"{{{{ {look} }}}}"]})
        return f"--extra-vars={json.dumps({'load_balancer_keys': known})}"

    def max_num_seqs(self) -> int:
        """The argument as it is deployed; 0 where it is vLLM's own default."""
        found = self.on(service.INFERENCE_HOSTS[0], "grep -h max-num-seqs /etc/vllm/*.yaml || true")
        return int(found.split(":")[1]) if found.strip() else 0

    def as_deployed(self) -> str:
        """What is served now, as --extra-vars."""
        value = self.max_num_seqs()
        return self.models(max_num_seqs=value) if value else self.models()


class Load:
    """The load client in the background; afterwards ``result``, and ``answers`` with how each request ended."""

    def __init__(self, fleet: Fleet, name: str, requests: int, key: str = "api_key", **options: t.Any) -> None:
        self.stop = fleet.files.directory / f"{name}.stop"
        self.output = fleet.files.directory / f"{name}.json"
        self.each = fleet.files.directory / f"{name}.answers.json"
        chosen = {"concurrency": 8, "timeout": 120, **options}
        self.command = [
            *(sys.executable, str(CONTAINERS / "load.py"), f"--url={fleet.url}", f"--model={MODEL}"),
            *(f"--api-key-file={fleet.files.directory / key}", f"--requests={requests}", f"--until={self.stop}"),
            *("--min-tokens=1", "--max-tokens=1500", "--lengths=log", f"--answers={self.each}"),
            *(f"--{option.replace('_', '-')}={value}" for option, value in chosen.items() if value is not True),
            *(f"--{option.replace('_', '-')}" for option, value in chosen.items() if value is True),
        ]
        self.result: dict[str, t.Any] = {}
        self.answers: list[dict[str, t.Any]] = []

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
            self.answers = json.loads(self.each.read_text(encoding="utf-8"))


def main() -> int:
    """Bring the hosts up, run the phases, say what was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "double"), default="vllm")
    parser.add_argument("--phase", action="append", choices=tuple(PHASES), help="may be given several times; all")
    parser.add_argument("--requests", type=int, default=550, help="at least so many in each phase")
    parser.add_argument("--keep", action="store_true", help="leave the containers up")
    parser.add_argument("--as-they-are", action="store_true", help="go on with what --keep left")
    given = parser.parse_args()
    try:
        packages.install()
        fleet = started(given.engine, PURPOSE)
        if not given.as_they_are:
            fleet.playbook("rollout", fleet.models(), fleet.keys(FIRST_KEY))
        for name in given.phase or list(PHASES):
            say(f"---- {name}")
            record(given.engine, name, PHASES[name](fleet, given.requests))
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 2
    finally:
        if not given.keep:
            hosts.down(PURPOSE)
    report = results(given.engine)
    print("\n" + table(report))
    return 1 if any(one["failed"] + one["truncated"] for name, one in report.items() if name != "restart") else 0


def started(engine: str, purpose: str) -> Fleet:
    """Two inference hosts and a balancer that run, with an inventory; nothing is deployed yet."""
    if engine == "double":
        double = BUILD / "double"
        run([str(REPOSITORY / "tests" / "engine" / "install"), str(double)], timeout_seconds=60)
        ready = service.up(
            purpose, Settings.from_environment(), python="/opt/double/bin/python", mounts=(f"{double}:/opt/double:ro",)
        )
    else:
        ready = service.up(purpose, Settings.from_environment(), python=VLLM_PYTHON)
    return Fleet(ready.files, ready.url, engine)


def argument(fleet: Fleet, requests: int) -> dict[str, t.Any]:
    """Every instance gets another argument, one after the other."""
    other = 64 if fleet.max_num_seqs() != 64 else 65
    with client(fleet, requests) as load:
        time.sleep(3)
        took = fleet.playbook("rollout", fleet.models(max_num_seqs=other), fleet.keys(FIRST_KEY))
    return outcome([load], {"rollout.yml": took})


def balancer(fleet: Fleet, requests: int) -> dict[str, t.Any]:
    """nginx gets another configuration, and gets it back."""
    known = fleet.keys(FIRST_KEY)
    with client(fleet, requests) as load:
        time.sleep(3)
        took = {
            "balance.yml": fleet.playbook("balance", known, "--extra-vars=load_balancer_keepalive_connections=65"),
            "balance.yml, back": fleet.playbook("balance", known),
        }
    return outcome([load], took)


def keys(fleet: Fleet, requests: int) -> dict[str, t.Any]:
    """A second key is added, clients move to it, the first one is taken back while its answers are being written."""
    took: dict[str, float] = {}
    old = Load(fleet, "old", requests // 2, f"key_{FIRST_KEY}", concurrency=4, stop_when_refused=True)
    fleet.keys(SECOND_KEY)
    with old:
        time.sleep(3)
        took["balance.yml, a key added"] = fleet.playbook("balance", fleet.keys(FIRST_KEY, SECOND_KEY))
        with Load(fleet, "new", requests // 2, f"key_{SECOND_KEY}", concurrency=4) as new:
            time.sleep(3)
            took["balance.yml, the first one taken back"] = fleet.playbook("balance", fleet.keys(SECOND_KEY))
    fleet.playbook("balance", fleet.keys(FIRST_KEY))
    found = outcome([old, new], took)
    refused = [one["started"] for one in old.answers if (one["reason"] or "").startswith("HTTP 401")]
    if len(refused) != 4:
        raise FleetError(f"{len(refused)} of 4 clients were refused after their key was taken back")
    whole = [one for one in old.answers if one["reason"] is None]
    # These are the answers that a dropped stream would be one of.
    found["whole_over_the_end_of_their_key"] = sum(1 for one in whole if one["started"] < min(refused) < one["ended"])
    return found


def host(fleet: Fleet, requests: int) -> dict[str, t.Any]:
    """A host leaves and comes back."""
    known, models, gone = fleet.keys(FIRST_KEY), fleet.as_deployed(), service.INFERENCE_HOSTS[-1]
    with client(fleet, requests) as load:
        time.sleep(3)
        took = {
            "remove.yml": fleet.playbook("remove", known, f"--extra-vars=host={gone}"),
            "rollout.yml": fleet.playbook("rollout", known, models),
        }
    return outcome([load], took)


def restart(fleet: Fleet, _requests: int) -> dict[str, t.Any]:
    """What a plain restart of each instance loses, one after the other, each awaited."""
    took: dict[str, float] = {}
    with client(fleet, 100) as load:
        time.sleep(3)
        for name in service.INFERENCE_HOSTS:
            began = time.monotonic()
            with step(f"systemctl restart on {name}"):
                fleet.on(name, "systemctl", "restart", "vllm@*")
                wait_for_health(fleet, name)
            took[name] = round(time.monotonic() - began, 1)
            time.sleep(5)
    return outcome([load], took)


PHASES: dict[str, t.Callable[[Fleet, int], dict[str, t.Any]]] = {
    "argument": argument,
    "balancer": balancer,
    "keys": keys,
    "host": host,
    "restart": restart,
}


def client(fleet: Fleet, requests: int) -> Load:
    """The load of most phases."""
    return Load(fleet, "client", requests, f"key_{FIRST_KEY}")


def wait_for_health(fleet: Fleet, host: str, asker: str | None = None) -> None:
    """Until the instance of a host answers the host itself, or another one that asks."""
    plan = json.loads(fleet.on(host, "cat", "/etc/numapin/plan.json"))
    url = f"http://{plan['address']}:{plan['instances'][0]['port']}/health"
    end = time.monotonic() + RESTARTED_WITHIN_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(FleetError):
            fleet.on(asker or host, "curl", "-fsS", "-o", "/dev/null", "-m", "2", url)
            return
        time.sleep(1)
    raise FleetError(f"{host} did not answer within {RESTARTED_WITHIN_SECONDS} s after its restart")


def outcome(loads: list[Load], took: dict[str, float]) -> dict[str, t.Any]:
    """What one phase's clients saw.

    Failed: an error the client sees. Truncated: an answer that looks complete and is not. Refused: HTTP 401 of a client
    that goes on with a key that was taken back, which is as it should be.
    """
    failures = [one for load in loads for one in load.result["failures"]]
    refused = [one for one in failures if one["reason"].startswith("HTTP 401")] if len(loads) > 1 else []
    lost = [one for one in failures if one not in refused]
    truncated = [one for one in lost if "tokens instead of" in one["reason"] or "finish" in one["reason"]]
    whole = sorted(one["tokens_wanted"] for load in loads for one in load.answers if one["reason"] is None)
    return {
        "requests": sum(load.result["requests"] for load in loads),
        "complete": len(whole),
        "failed": len(lost) - len(truncated),
        "truncated": len(truncated),
        "refused": len(refused),
        "tokens": sum(whole),
        "longest_tokens": whole[-1] if whole else 0,
        "latency_seconds": loads[-1].result["latency_seconds"],
        "by_upstream": loads[-1].result["by_upstream"],
        "seconds": took,
        "lost": lost,
    }


def record(engine: str, name: str, result: dict[str, t.Any]) -> None:
    """Beside what other phases with the same engine gave."""
    report = {**results(engine), name: result}
    RESULTS.write_text(json.dumps({"engine": engine, "phases": report}, indent=2) + "\n", encoding="utf-8")


def results(engine: str) -> dict[str, t.Any]:
    """The phases that were run with this engine so far."""
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(RESULTS.read_text(encoding="utf-8"))
        if known["engine"] == engine:
            return {name: known["phases"][name] for name in PHASES if name in known["phases"]}
    return {}


def table(report: dict[str, t.Any]) -> str:
    """For people."""
    heads = ("requests", "complete", "failed", "truncated", "refused")
    lines = [f"{'phase':10}" + "".join(f"{head:>10}" for head in heads) + f"{'p50 s':>8}{'p99 s':>8}  took"]
    counted = {name: one for name, one in report.items() if name != "restart"}
    rows = {**counted, "all": {head: sum(one[head] for one in counted.values()) for head in heads}}
    rows |= {name: one for name, one in report.items() if name == "restart"}
    for name, one in rows.items():
        latency = one.get("latency_seconds", {"p50": "", "p99": ""})
        took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in one.get("seconds", {}).items())
        counts = "".join(f"{one[head]:>10}" for head in heads)
        lines.append(f"{name:10}{counts}{latency['p50']:>8}{latency['p99']:>8}  {took}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    sys.exit(main())
