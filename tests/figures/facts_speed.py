# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long does numa_facts take, end to end as people run it, and against what?

``facts_speed.py here``: on this machine, against ansible.builtin.ping and ansible.builtin.setup with subset hardware.
``facts_speed.py big-tree``: on a made-up tree (made_up_tree.py) and on one of twice the size, against ping.
``facts_speed.py fleet``: on 50 and on 200 simulated hosts with a tree each, over the local connection with 10 forks.

Calls that are compared take turns, so that what else the machine does hits all of them alike, and every round's order
is the other way around. Values are ratios of medians; one round before the counted ones fills the caches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "tests" / "captures"
# A call that hangs is a fault of its own, not a slow one.
CALL_LIMIT_SECONDS = 120
FORKS = 10
FEW, MANY = 50, 200
DOUBLE = ("--packages=4", "--nodes=16", "--cpus=1536", "--gpus=32", "--nics=16", "--nvmes=16", "--vectors=8192")
# What the fleet consists of as long as there are no captures: servers of a usual size.
USUAL = ("--packages=2", "--nodes=2", "--cpus=128", "--gpus=8", "--nics=4", "--nvmes=4", "--vectors=512")
FLEET_PLAY = """---
- name: Read the topology of the fleet
  hosts: all
  gather_facts: false
  tasks:
    - name: Read the topology
      numapin.inference.numa_facts:
        root: "{{ tree }}"
"""


@dataclass(frozen=True)
class Call:
    """One thing to time: a name for people, and the command line after ``bin/``."""

    name: str
    command: tuple[str, ...]


def module_call(name: str, module: str, **arguments: object) -> Call:
    """Return an ad-hoc call of ``module`` on this machine."""
    interpreter = json.dumps({"ansible_python_interpreter": sys.executable})
    where = ("localhost", "--inventory", "localhost,", "--connection", "local", "--extra-vars", interpreter)
    given = ("--args", json.dumps(arguments)) if arguments else ()
    return Call(name, ("ansible", *where, "--module-name", module, *given))


PING = module_call("ping", "ansible.builtin.ping")
FACTS = module_call("numa_facts", "numapin.inference.numa_facts")
SETUP = module_call("setup", "ansible.builtin.setup", gather_subset=["!all", "!min", "hardware"])


def wall_seconds(call: Call) -> float:
    """Return how long the call takes; exit with its output when it fails."""
    command = [str(Path(sys.executable).parent / call.command[0]), *call.command[1:]]
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "dev")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CALL_LIMIT_SECONDS,
        check=False,
    )
    took = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"{call.name} failed with exit status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return took


def medians(calls: t.Sequence[Call], rounds: int) -> tuple[list[float], str]:
    """Return the median of each call's seconds, and all of it for people."""
    seconds: dict[Call, list[float]] = {call: [] for call in calls}
    for number in range(rounds + 1):
        for call in calls if number % 2 else calls[::-1]:
            took = wall_seconds(call)
            if number > 0:
                seconds[call].append(took)
    told = [f"{call.name} {median(s):.2f} s ({min(s):.2f} to {max(s):.2f})" for call, s in seconds.items()]
    return [median(seconds[call]) for call in calls], f"{rounds} rounds, medians: {', '.join(told)}"


def made_up(directory: Path, *shape: str) -> Path:
    """Lay out a made-up tree and return its directory."""
    subprocess.run([sys.executable, str(ROOT / "tests/figures/made_up_tree.py"), str(directory), *shape], check=True)
    return directory


def here(rounds: int, _scratch: Path) -> tuple[dict[str, float], str]:
    """Compare numa_facts with ping and setup on this machine."""
    (ping, facts, setup), detail = medians((PING, FACTS, SETUP), rounds)
    return {"numa_facts_over_ping": facts / ping, "numa_facts_over_setup": facts / setup}, detail


def big_tree(rounds: int, scratch: Path) -> tuple[dict[str, float], str]:
    """Compare numa_facts on a big tree, and on one of twice its size, with ping."""
    roots = {"big tree": made_up(scratch / "big"), "double tree": made_up(scratch / "double", *DOUBLE)}
    calls = [module_call(name, "numapin.inference.numa_facts", root=str(root)) for name, root in roots.items()]
    (ping, big, double), detail = medians((PING, *calls), rounds)
    return {"big_tree_over_ping": big / ping, "big_tree_growth": (double - ping) / (big - ping)}, detail


def fleet(rounds: int, scratch: Path) -> tuple[dict[str, float], str]:
    """Compare the time for each of 200 simulated hosts with that for each of 50."""
    trees = sorted(CAPTURES.glob("*.tar.gz"))
    told = f"{len(trees)} captures"
    if not trees:
        trees, told = [made_up(scratch / "usual", *USUAL)], "a made-up tree"
    (scratch / "play.yml").write_text(FLEET_PLAY, encoding="utf-8")
    calls = []
    for count in (FEW, MANY):
        hosts = {f"host{number:03}": {"tree": str(trees[number % len(trees)])} for number in range(count)}
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = scratch / f"hosts-{count}.json"
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}), encoding="utf-8")
        command = ("ansible-playbook", "--inventory", str(inventory), "--forks", str(FORKS), str(scratch / "play.yml"))
        calls.append(Call(f"{count} hosts", command))
    (few, many), detail = medians(calls, rounds)
    few, many = few / FEW, many / MANY
    per_host = f"{few:.3f} s a host for {FEW}, {many:.3f} s a host for {MANY}"
    return {
        "fleet_seconds_per_host": many,
        "fleet_growth": many / few,
    }, f"{told}, {FORKS} forks, {os.cpu_count()} CPUs: {per_host}; {detail}"


MEASURES = {"here": here, "big-tree": big_tree, "fleet": fleet}


def main() -> None:
    """Print the figures' JSON line."""
    parser = argparse.ArgumentParser(description="Wall time of numa_facts, end to end.")
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--rounds", type=int, default=8, help="counted calls of each (default: 8)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; it must be at least 1")
    # Trees have 100,000 files: in memory where there is such a place.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="numapin-figures-", dir=memory) as scratch:
        values, detail = MEASURES[arguments.what](arguments.rounds, Path(scratch))
    print(json.dumps({"values": {name: round(value, 3) for name, value in values.items()}, "detail": detail}))


if __name__ == "__main__":
    main()
