# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there to compare: our facts of a machine, and what its own tools say of it, before and after.

Everything lands below build/lab-facts: HOST/facts.json (numa_facts over SSH), HOST/before.txt and HOST/after.txt (the
script what-tools-say), HOST.tar.gz (playbook capture) and HOST/captured.json (numa_facts of that archive).
"""

from __future__ import annotations

import collections.abc as c
import concurrent.futures
import contextlib
import pathlib
import shutil
import sys

from fleet.console import run, say, step
from fleet.settings import BUILD, ansible_playbook

from machines import image, inventory, machine, shapes
from machines.places import LAB, at_once

OBSERVED = BUILD / "lab-facts"
THIS_MACHINE = "this-machine"
TOOLS = LAB / "what-tools-say"
TOOLS_SECONDS = 180
PLAYBOOK_SECONDS = 420
PURPOSE = "facts"
# On this machine, to be asked as those in the image are.
TOOL_PACKAGES = ["numactl", "pciutils", "ethtool", "util-linux"]
# A pool that is not empty, on one node only: 0 everywhere would agree with a reader that reads nothing.
HUGE_PAGES = 3


def observe(names: c.Sequence[str], observed: pathlib.Path = OBSERVED) -> None:
    """Observe machines of these shapes, a few at a time, and this machine; raises ``FleetError``."""
    shutil.rmtree(observed, ignore_errors=True)
    for name in (*names, THIS_MACHINE):
        (observed / name).mkdir(parents=True)
    image.install_packages(TOOL_PACKAGES)
    observe_this_machine(observed)
    made = image.ready()
    for begin in range(0, len(names), at_once()):
        observe_machines(names[begin : begin + at_once()], made, observed)


def observe_this_machine(observed: pathlib.Path) -> None:
    """The machine this runs on, whatever it is."""
    with step("Reading this machine"):
        tools(["bash"], "", observed / THIS_MACHINE / "before.txt")
        local = ["--connection=local", f"--extra-vars=ansible_python_interpreter={sys.executable}"]
        playbook([f"--inventory={THIS_MACHINE},", *local], observed)
        tools(["bash"], "", observed / THIS_MACHINE / "after.txt")


def observe_machines(names: c.Sequence[str], made: image.Image, observed: pathlib.Path) -> None:
    """Boot machines of these shapes together, observe them, and stop them whatever happens."""
    with contextlib.ExitStack() as stack:
        started = []
        with step(f"Booting {' and '.join(names)}"):
            for name in names:
                stack.callback(machine.stop, PURPOSE, name)
                started.append(machine.start(PURPOSE, name, shapes.read(name), made))
            started = [machine.ready(one, shapes.read(one.name), made) for one in started]
        files = inventory.write(PURPOSE, started)
        with step("Asking their own tools"):
            tools_of_all(names, files.ssh_config, observed, "before.txt")
        with step("Reading, capturing and reading the capture with the collection"):
            playbook([f"--inventory={files.inventory}"], observed)
        with step("Asking their own tools again, for what moved meanwhile"):
            tools_of_all(names, files.ssh_config, observed, "after.txt")
    say(f"Stopped {' and '.join(names)}")


def tools_of_all(names: c.Sequence[str], ssh_config: pathlib.Path, observed: pathlib.Path, file: str) -> None:
    """Run the tools in all machines at once."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = []
        for name in names:
            shape = shapes.read(name)
            last = max(number for number, node in enumerate(shape.nodes) if node.cpus)
            pages = f"node/node{last}/hugepages/hugepages-2048kB/nr_hugepages"
            setup = f"echo {HUGE_PAGES} > /sys/devices/system/{pages}\n"
            command = ["ssh", "-F", str(ssh_config), name, "bash"]
            jobs.append(pool.submit(tools, command, setup, observed / name / file))
        for job in jobs:
            job.result()


def tools(shell: c.Sequence[str], setup: str, target: pathlib.Path) -> None:
    """Run the script in a shell and keep what it printed."""
    script = setup + TOOLS.read_text(encoding="utf-8")
    target.write_text(run(shell, timeout_seconds=TOOLS_SECONDS, stdin=script), encoding="utf-8")


def playbook(arguments: c.Sequence[str], observed: pathlib.Path) -> None:
    """Run observe.yml; it fails as a whole when it fails on one host."""
    command, environment = ansible_playbook(
        *arguments, f"--extra-vars=observed_directory={observed}", str(LAB / "observe.yml")
    )
    run(command, timeout_seconds=PLAYBOOK_SECONDS, environment=environment)
