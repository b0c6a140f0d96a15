# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines that need not boot: each is saved when it has booted for the first time, and later begins there, in seconds.

What is saved lies beside the image it was made from, and goes with it. Whatever else a saved state depends on is in its
name: QEMU's version, the processor, the machine as QEMU is told to build it.
"""

from __future__ import annotations

import collections.abc as c
import os
import pathlib
import platform
import shutil
import time
import typing as t

from fleet.console import FleetError, run, say
from fleet.settings import fingerprint

from machines import inventory, machine, monitor, qemu
from machines.image import Image
from machines.machine import BOOTED, Machine
from machines.places import accelerator, at_once
from machines.shapes import Shape

# A machine that goes on from its saved state greets within two seconds, or hangs.
RESUME_SECONDS = 30
CLOCK_SECONDS = 60


class Wanted(t.NamedTuple):
    """A machine to be started: its name, its shape, its number in its fleet."""

    name: str
    shape: Shape
    number: int


def up(purpose: str, wanted: c.Sequence[Wanted], image: Image) -> list[Machine]:
    """Start clean machines, booted or as they were saved, and wait until they can be used.

    An emulated machine keeps two cores busy while it boots, and machines that have to share them wait for one another:
    a few are booted at a time.
    """
    running: list[Machine] = []
    for begin in range(0, len(wanted), at_once()):
        some = wanted[begin : begin + at_once()]
        begun = [start(purpose, one, image, resume=True) for one in some]
        running += [usable(purpose, one, image, started) for one, started in zip(some, begun, strict=True)]
    set_clocks(purpose, running)
    return running


def start(purpose: str, one: Wanted, image: Image, resume: bool) -> Machine:
    """Start one; from its saved state when there is one and it may ``resume``. A state that is of no use is removed."""
    state = saved(one, image)
    wanted = (purpose, one.name, one.shape, image, one.number)
    if resume and state.exists():
        try:
            return machine.start(*wanted, nvme_at_boot=False, booted=state)
        except FleetError as error:
            say(f"{error}\nBooting {one.name} instead")
            state.unlink(missing_ok=True)
    return machine.start(*wanted, nvme_at_boot=False)


def usable(purpose: str, one: Wanted, image: Image, started: Machine) -> Machine:
    """Wait for a machine; one that had to boot is saved."""
    state = saved(one, image)
    if state.exists():
        try:
            machine.wait_for_ssh(started, seconds=RESUME_SECONDS)
        except FleetError as error:
            say(f"{error}\nBooting {one.name} instead")
            state.unlink(missing_ok=True)
            started = start(purpose, one, image, resume=False)
    if not state.exists():
        started = machine.ready(started, one.shape, image)
        save(started, state)
    qemu.plug_nvme(started.directory, one.shape)
    return started


def save(started: Machine, state: pathlib.Path) -> None:
    """Keep the disk with the state of memory and devices in it."""
    monitor.execute(started.directory, "stop")
    try:
        said = monitor.execute(started.directory, "human-monitor-command", **{"command-line": f"savevm {BOOTED}"})
        if said.strip():
            raise FleetError(f"QEMU did not save {started.name}: {said.strip()}")
        state.parent.mkdir(exist_ok=True)
        # The machine was once another.
        for old in state.parent.glob(f"{started.name}-????????????.qcow2"):
            old.unlink()
        part = state.with_name(f"{state.name}.{os.getpid()}.part")
        shutil.copyfile(started.directory / "disk.qcow2", part)
        part.rename(state)
    finally:
        monitor.execute(started.directory, "cont")


def saved(one: Wanted, image: Image) -> pathlib.Path:
    """Where the saved state of such a machine is, or will be."""
    place = qemu.Place("any", one.name, one.number, 0, 0)
    how = accelerator()
    command = qemu.command(place, one.shape, image, how, nvme=False)
    version = run(["qemu-system-x86_64", "--version"], timeout_seconds=30).splitlines()[0]
    return image.directory / "booted" / f"{one.name}-{fingerprint([command, version, how, processor()])}.qcow2"


def processor() -> str:
    """The name of this machine's processor, which a machine under KVM has seen."""
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith("model name")), platform.machine())


def set_clocks(purpose: str, started: c.Sequence[Machine]) -> None:
    """Machines that went on from a saved state believe that it is still then."""
    ssh_config = inventory.write(purpose, machine.running(purpose)).ssh_config
    for one in started:
        ssh = ["ssh", "-F", str(ssh_config), one.name]
        run([*ssh, f"date -u -s @{time.time():.0f}"], timeout_seconds=CLOCK_SECONDS)
