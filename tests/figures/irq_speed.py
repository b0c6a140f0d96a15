# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long does irq_affinity take for 4,096 vectors, and against what?

On one made-up tree (made_up_tree.py), each writing every vector anew in every round, and taking turns:

* the module's work: rules to CPUs, reading, keeping originals, writing, reading back, in one process that has its code;
* a bare loop that reads and writes the same files as often, and decides nothing;
* the vendors' way: a shell loop that works out one mask for each vector and echoes it, as mlnx-tools' scripts do,
  measured on some and counted up;
* one Ansible task for each vector, in a loop of ansible.builtin.shell: measured on a few and counted up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path
from statistics import median

from facts_speed import PYTHON, ROOT, made_up, run_playbook

VECTORS, CPUS = 4096, 768
# All of them would take a minute in the shell and an hour in tasks, and say the same for each.
FEW_VECTORS, FEW_TASKS = 512, 20
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# Run by the process that has the collection on its path. Both write every vector: CPUs change with the round.
MODULE = """
import sys, time
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine
from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import parse_options, plan
from ansible_collections.numapin.inference.plugins.module_utils._irq_run import converge, state_directory
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import Originals

root, rounds, vectors = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def module(number):
    drivers = enumerate(("mlx5_core", "nvme"))
    rules = [{"devices": {"driver": driver}, "target": {"node": (number + place) % 8}} for place, driver in drivers]
    options = parse_options({"rules": rules})
    host = Host(root)
    machine = Machine(host)
    originals = Originals.load(state_directory(root))
    run = converge(machine, options, plan(options, machine), originals, check_mode=False)
    results = {one.result for one in run.vectors}
    assert len(run.vectors) == vectors and results == {"changed"}, (len(run.vectors), results)


def bare(number):
    text = "0-767"
    for name in NUMBERS:
        with open(f"{root}/sys/kernel/irq/{name}/actions") as file:
            file.read()
        path = f"{root}/proc/irq/{name}/smp_affinity_list"
        with open(path) as file:
            file.read()
        with open(path, "w") as file:
            file.write(text)
        with open(path) as file:
            file.read()
        with open(f"{root}/proc/irq/{name}/effective_affinity_list") as file:
            file.read()


import os
NUMBERS = os.listdir(f"{root}/proc/irq")
for number in range(rounds + 1):
    for name, work in (("module", module), ("bare", bare)) if number % 2 else (("bare", bare), ("module", module)):
        started = time.perf_counter()
        work(number)
        if number:
            print(name, time.perf_counter() - started)
"""

# What set_irq_affinity_cpulist.sh of mlnx-tools does for each vector, as its own: cut takes the CPU out of the list, a
# subshell writes its bit as hexadecimal digits, sed puts a comma after every eight of them.
SHELL = r"""
root=$1 cpus=$2
list=$(seq -s , 0 $((cpus - 1)))
hexadecimal() {
    local core=$1 zeros=
    while [ "$core" -ge 32 ]; do zeros=${zeros}00000000 core=$((core - 32)); done
    printf '%x%s' $((1 << core)) "$zeros"
}
commas() { echo "$1" | sed -E ':again; s/([0-9a-f])([0-9a-f]{8})(,|$)/\1,\2\3/; t again'; }
place=0
for irq in "$root"/proc/irq/[0-9]*; do
    if [ $place -eq "$3" ]; then break; fi
    core=$(echo "$list" | cut -d , -f $((place % cpus + 1)))
    place=$((place + 1))
    commas "$(hexadecimal "$core")" >"$irq/smp_affinity"
done
"""

PLAY = """---
- name: One task for each vector
  hosts: all
  gather_facts: false
  tasks:
    - name: Place it
      ansible.builtin.shell: "echo {{ item }} > {{ tree }}/proc/irq/$((24 + item))/smp_affinity_list"
      loop: "{{ range(few | int) | list }}"
"""


def ours_and_bare(root: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of the module's work and of the bare loop, which take turns in one process."""
    command = [sys.executable, "-c", MODULE, str(root), str(rounds), str(VECTORS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "build" / "dev")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    seconds: dict[str, list[float]] = {"module": [], "bare": []}
    for line in done.stdout.splitlines():
        name, _space, took = line.partition(" ")
        seconds[name].append(float(took))
    return seconds


def shell_loop(root: Path) -> float:
    """Seconds of the shell loop for all vectors."""
    command = [shutil.which("bash") or "sh", "-c", SHELL, "sh", str(root), str(CPUS), str(FEW_VECTORS)]
    started = time.monotonic()
    subprocess.run(command, timeout=300, check=True)
    return (time.monotonic() - started) * VECTORS / FEW_VECTORS


def task_each(root: Path, scratch: Path) -> float:
    """Seconds of one Ansible task for each vector: what a few take more than one, counted up."""
    (scratch / "play.yml").write_text(PLAY, encoding="utf-8")
    took = {}
    for few in (1, FEW_TASKS + 1):
        variables: dict[str, t.Any] = {"ansible_python_interpreter": PYTHON, "tree": str(root), "few": few}
        options = ("--inventory", "localhost,", "--connection", "local", "--extra-vars", json.dumps(variables))
        took[few], _printed = run_playbook(scratch / "play.yml", *options)
    each: float = (took[FEW_TASKS + 1] - took[1]) / FEW_TASKS
    return each * VECTORS


def main() -> None:
    """Print the figures' JSON line."""
    parser = argparse.ArgumentParser(description="Wall time of irq_affinity.")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default: 7)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; it must be at least 1")
    with tempfile.TemporaryDirectory(prefix="numapin-figures-", dir=MEMORY) as name:
        scratch = Path(name)
        root = made_up(scratch / "big")
        seconds = ours_and_bare(root, arguments.rounds)
        seconds["shell"] = [shell_loop(root) for _each in range(3)]
        seconds["tasks"] = [task_each(root, scratch)]
    middle = {what: median(each) for what, each in seconds.items()}
    ours = middle["module"]
    told = [f"{what} {median(each):.3f} s ({min(each):.3f} to {max(each):.3f})" for what, each in seconds.items()]
    values = {
        "irq_affinity_over_bare_loop": ours / middle["bare"],
        "irq_affinity_against_tasks": middle["tasks"] / ours,
        "irq_affinity_against_shell_loop": middle["shell"] / ours,
    }
    detail = f"{VECTORS} vectors, {CPUS} CPUs, medians: {', '.join(told)}"
    print(json.dumps({"values": {key: round(value, 3) for key, value in values.items()}, "detail": detail}))


if __name__ == "__main__":
    main()
