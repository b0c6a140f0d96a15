# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine of one shape for tests that do things to it: log in, run playbooks, reboot, begin again."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import pathlib

from fleet.console import run
from fleet.settings import ansible_playbook

from machines import image, inventory, machine, shapes, warm

COMMAND_SECONDS = 180
PLAYBOOK_SECONDS = 600


@dataclasses.dataclass
class Booted:
    """A running machine; its name in the inventory is its shape's."""

    machine: machine.Machine
    files: inventory.Files
    boots: int = 1

    @classmethod
    @contextlib.contextmanager
    def of(cls, shape: str) -> c.Iterator[Booted]:
        """Boot one, and stop it in the end."""
        image.install_packages()
        # One of its own, so that tests of other shapes may run beside these.
        made, wanted, purpose = image.ready(), shapes.read(shape), f"tests-{shape}"
        try:
            (started,) = warm.up(purpose, [warm.Wanted(shape, wanted, 1)], made)
            yield cls(started, inventory.write(purpose, [started]))
        finally:
            machine.stop(purpose, shape)

    @property
    def ssh(self) -> list[str]:
        """The words that log in."""
        return ["ssh", "-F", str(self.files.ssh_config), self.machine.name]

    def run(self, script: str, check: bool = True) -> str:
        """What a script for bash prints; ``FleetError`` when it fails and ``check`` is true."""
        return run([*self.ssh, "bash"], stdin=script, timeout_seconds=COMMAND_SECONDS, check=check)

    def playbook(self, playbook: pathlib.Path | str, *arguments: str) -> str:
        """Run a playbook on this machine, the one host of the inventory that it may touch."""
        command, environment = self.playbook_command(playbook, *arguments)
        return run(command, timeout_seconds=PLAYBOOK_SECONDS, environment=environment)

    def playbook_command(self, playbook: pathlib.Path | str, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """The words and the environment that run a playbook on this machine."""
        # A connection that is kept open does not survive a boot.
        control = f"%(directory)s/numapin-lab-{self.machine.pid}-{self.machine.started_ticks}-{self.boots}"
        words = [f"--inventory={self.files.inventory}", f"--limit={self.machine.name},localhost"]
        return ansible_playbook(*words, f"--extra-vars=ansible_control_path={control}", *arguments, str(playbook))

    def reset(self) -> None:
        """Begin again: what was done to it is gone."""
        one = warm.Wanted(self.machine.name, shapes.read(self.machine.shape), self.machine.number)
        (self.machine,) = warm.up(self.machine.purpose, [one], image.ready())
        self.files = inventory.write(self.machine.purpose, [self.machine])

    def reboot(self) -> None:
        """Reboot it from inside, and wait for it."""
        machine.reboot(self.machine, self.ssh)
        self.boots += 1
