# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long does numa_facts take as a task of a play, and against what?

``facts_speed.py tasks``: on this machine, and on a made-up tree (made_up_tree.py) and on one of twice the size, against
the tasks ansible.builtin.ping and ansible.builtin.setup with gather_subset hardware.
``facts_speed.py fleet``: on 50 and on 200 simulated hosts with a tree each, over the local connection with 10 forks.

What is compared takes turns, so that what else the machine does hits all of it alike, and every round's order is the
other way around. A task's time is that from its start to its result, on the controller; what ansible-playbook itself
takes to start would be in all of them alike and hide the differences. Values are ratios of medians; one round before
the counted ones fills the caches.
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
from datetime import datetime
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "tests" / "captures"
# A play that hangs is a fault of its own, not a slow one.
PLAY_LIMIT_SECONDS = 600
FORKS = 10
# The host's own, which Ansible would find on it.
PYTHON = next((path for path in ("/usr/bin/python3",) if os.access(path, os.X_OK)), sys.executable)
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


PLAY_HEAD = """---
- name: Compare tasks
  hosts: all
  gather_facts: false
  tasks:
"""
TASKS = {
    "ping": "ansible.builtin.ping: {}",
    "numa_facts": "numapin.inference.numa_facts: {}",
    "setup": "ansible.builtin.setup: {gather_subset: [hardware]}",
    "big tree": "numapin.inference.numa_facts: {root: BIG}",
    "double tree": "numapin.inference.numa_facts: {root: DOUBLE}",
}


def run_playbook(play: Path, *options: str, callback: str = "ansible.builtin.default") -> tuple[float, str]:
    """Return how long a playbook takes and what it prints; exit with its output when it fails."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "dev"),
        "ANSIBLE_STDOUT_CALLBACK": callback,
    }
    # As a user's controller does it: what was compiled once is kept.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), *options, str(play)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PLAY_LIMIT_SECONDS,
        check=False,
    )
    took = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"{play.name} failed, exit status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return took, done.stdout


def made_up(directory: Path, *shape: str) -> Path:
    """Lay out a made-up tree and return its directory."""
    subprocess.run([sys.executable, str(ROOT / "tests/figures/made_up_tree.py"), str(directory), *shape], check=True)
    return directory


def tasks(rounds: int, scratch: Path) -> tuple[dict[str, float], str]:
    """Compare numa_facts here, on a big tree and on one of twice its size with ping and setup."""
    big, double = made_up(scratch / "big"), made_up(scratch / "double", *DOUBLE)
    order = list(TASKS)
    play = PLAY_HEAD
    for number in range(rounds + 1):
        for name in order if number % 2 else order[::-1]:
            task = TASKS[name].replace("BIG", str(big)).replace("DOUBLE", str(double))
            play += f"    - name: {name} {number}\n      {task}\n"
    (scratch / "tasks.yml").write_text(play, encoding="utf-8")
    local = ("--inventory", "localhost,", "--connection", "local")
    interpreter = ("--extra-vars", json.dumps({"ansible_python_interpreter": PYTHON}))
    _took, printed = run_playbook(scratch / "tasks.yml", *local, *interpreter, callback="ansible.posix.json")
    seconds = {name: task_seconds(json.loads(printed), name) for name in TASKS}
    middle = {name: median(each) for name, each in seconds.items()}
    ping = middle["ping"]
    told = [f"{name} {median(each):.2f} s ({min(each):.2f} to {max(each):.2f})" for name, each in seconds.items()]
    return {
        "numa_facts_over_ping": middle["numa_facts"] / ping,
        "numa_facts_over_setup": middle["numa_facts"] / middle["setup"],
        "big_tree_over_ping": middle["big tree"] / ping,
        "big_tree_growth": (middle["double tree"] - ping) / (middle["big tree"] - ping),
    }, f"{rounds} rounds, medians: {', '.join(told)}"


def task_seconds(report: dict[str, t.Any], name: str) -> list[float]:
    """Return what each counted task of this name took."""
    found = []
    for task in report["plays"][0]["tasks"]:
        kind, _space, number = task["task"]["name"].rpartition(" ")
        if kind == name and number != "0":
            start, end = (datetime.fromisoformat(task["task"]["duration"][key]) for key in ("start", "end"))
            found.append((end - start).total_seconds())
    return found


def fleet(rounds: int, scratch: Path) -> tuple[dict[str, float], str]:
    """Compare the time for each of 200 simulated hosts with that for each of 50."""
    trees = sorted(CAPTURES.glob("*.tar.gz"))
    told = f"{len(trees)} captures"
    if not trees:
        trees, told = [made_up(scratch / "usual", *USUAL)], "a made-up tree"
    (scratch / "play.yml").write_text(FLEET_PLAY, encoding="utf-8")
    inventories = {count: fleet_of(count, trees, scratch) for count in (FEW, MANY)}
    seconds: dict[int, list[float]] = {count: [] for count in inventories}
    for number in range(rounds + 1):
        for count in sorted(inventories, reverse=number % 2 == 0):
            options = ("--inventory", str(inventories[count]), "--forks", str(FORKS))
            took, _printed = run_playbook(scratch / "play.yml", *options)
            if number:
                seconds[count].append(took / count)
    few, many = median(seconds[FEW]), median(seconds[MANY])
    return {
        "fleet_seconds_per_host": many,
        "fleet_growth": many / few,
    }, f"{told}, {FORKS} forks, {os.cpu_count()} CPUs: {few:.3f} s a host for {FEW}, {many:.3f} s a host for {MANY}"


def fleet_of(count: int, trees: t.Sequence[Path], scratch: Path) -> Path:
    """Write the inventory of so many hosts, each with one of the trees."""
    hosts = {f"host{number:03}": {"tree": str(trees[number % len(trees)])} for number in range(count)}
    variables = {"ansible_connection": "local", "ansible_python_interpreter": PYTHON}
    inventory = scratch / f"hosts-{count}.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}), encoding="utf-8")
    return inventory


MEASURES = {"tasks": tasks, "fleet": fleet}


def main() -> None:
    """Print the figures' JSON line."""
    parser = argparse.ArgumentParser(description="Wall time of numa_facts.")
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--rounds", type=int, default=12, help="counted rounds (default: 12)")
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
