# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The service that keeps interrupts where rules want them: the module's own code, without Ansible.

The kernel gives a vector its default affinity whenever a driver asks for it anew, and tells nobody: ``ethtool -L``
makes no event at all. So this is one process that waits for whatever comes first - an event of a device (the kernel's,
and udev's once its rules have run and names are final), an event of a link (rtnetlink), or a few seconds - reads, and
writes only what is not as wanted. It says what it did in its status and its log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine
from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import parse_options, plan
from ansible_collections.numapin.inference.plugins.module_utils._irq_run import (
    Run,
    converge,
    moves,
    state_directory,
    summary,
    table,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import (
    CONFIGURATION,
    Originals,
    one_at_a_time,
)
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError

# What the program of this file is made from.
ENTRY = "_irq_service"
# linux/netlink.h, linux/rtnetlink.h; uevents of group 1 are the kernel's, of group 2 udev's when its rules have run.
_NETLINK_ROUTE, _NETLINK_KOBJECT_UEVENT = 0, 15
_RTMGRP_LINK = 1
_UEVENT_GROUPS = 1 | 2
_RECEIVE_BYTES = 65536
# A driver that comes up sends dozens of events: wait until they stop, but not for ever.
_QUIET_SECONDS = 0.2
_LONGEST_QUIET_SECONDS = 2.0
# Some drivers ask for vectors only after the event: look once more, soon.
_AGAIN_SECONDS = 1.0
LINK, DEVICE = "a link changed", "a device changed"
_SUBSYSTEMS = (b"SUBSYSTEM=net\0", b"SUBSYSTEM=pci\0", b"SUBSYSTEM=nvme\0", b"SUBSYSTEM=virtio\0", b"SUBSYSTEM=cpu\0")


class Listener:
    """Waits for what may have changed an interrupt."""

    def __init__(self, sockets: dict[socket.socket, str] | None = None) -> None:
        self.missing: list[str] = []
        self._sockets = self._netlink() if sockets is None else sockets

    def _netlink(self) -> dict[socket.socket, str]:
        sockets: dict[socket.socket, str] = {}
        for protocol, groups, what in (
            (_NETLINK_ROUTE, _RTMGRP_LINK, LINK),
            (_NETLINK_KOBJECT_UEVENT, _UEVENT_GROUPS, DEVICE),
        ):
            try:
                netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
                netlink.bind((0, groups))
                netlink.setblocking(False)
            except OSError as error:
                self.missing.append(f"events are not heard ({what}): {error.strerror}")
            else:
                sockets[netlink] = what
        return sockets

    def close(self) -> None:
        """Stop listening."""
        for netlink in self._sockets:
            netlink.close()

    def wait(self, seconds: float) -> str | None:
        """Return why to look again; ``None`` when the time is up."""
        end = time.monotonic() + seconds
        while True:
            reason = self._heard(max(0.0, end - time.monotonic()))
            if reason is not None:
                self._drain()
                return reason
            if time.monotonic() >= end:
                return None

    def _heard(self, seconds: float) -> str | None:
        readable, _writable, _failed = select.select(list(self._sockets), [], [], seconds)
        reason = None
        for link in readable:
            try:
                message = link.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                # ENOBUFS: more came than fits. What was missed is in what is read next.
                reason = self._sockets[link]
                continue
            if self._sockets[link] == LINK or any(part in message for part in _SUBSYSTEMS):
                reason = self._sockets[link]
        return reason

    def _drain(self) -> None:
        end = time.monotonic() + _LONGEST_QUIET_SECONDS
        while time.monotonic() < end:
            if not select.select(list(self._sockets), [], [], _QUIET_SECONDS)[0]:
                return
            self._heard(0.0)


class Keeper:
    """Reads the configuration and the host, and puts right what is not."""

    def __init__(self, configuration: str, root: str, say: t.Callable[[str], None]) -> None:
        self._configuration = configuration
        self._root = root
        self._say = say
        self._machine: Machine | None = None
        self._online: str | None = None
        self._told: frozenset[str] = frozenset()
        self._last = "nothing moved yet"
        self.check_seconds = 10.0
        self.status = ""

    def keep(self, reason: str) -> Run:
        """Put right what is not as wanted. Raises ``NumapinError``."""
        with one_at_a_time(state_directory(self._root)):
            # What a run of the module has just written, not what was there while it ran.
            options = parse_options(self._read_configuration())
            machine = self._look()
            originals = Originals.load(state_directory(self._root))
            run = converge(machine, options, plan(options, machine, lenient=True), originals, check_mode=False)
        self._tell(run, reason)
        return run

    def _look(self) -> Machine:
        """Return the machine; CPUs are read again only when they come or go."""
        host = Host(self._root)
        online = host.read_text("/sys/devices/system/cpu/online")
        if self._machine is None or online != self._online:
            self._machine, self._online = Machine(host), online
        else:
            self._machine.look_again()
        return self._machine

    def _read_configuration(self) -> dict[str, t.Any]:
        try:
            with open(self._configuration, encoding="utf-8") as file:
                given = json.load(file)
            self.check_seconds = float(given["check_seconds"])
        except OSError as error:
            raise IrqError(f"{self._configuration}: {error.strerror}: run the module irq_affinity again") from error
        except (ValueError, KeyError, TypeError) as error:
            raise IrqError(f"{self._configuration} is damaged ({error}): run the module irq_affinity again") from error
        return t.cast("dict[str, t.Any]", given)

    def _tell(self, run: Run, reason: str) -> None:
        moved = moves(run)
        for line in moved:
            self._say(f"{reason}: {line}")
        if moved:
            count = [*(one.result for one in run.vectors), *(one.result for one in run.masks)].count("changed")
            self._last = f"last moved {count} at {time.strftime('%Y-%m-%d %H:%M:%S')} ({reason})"
        # The same complaint every ten seconds would hide what is new.
        complaints = frozenset([*run.faults(False), *run.warnings])
        for line in sorted(complaints - self._told):
            self._say(line)
        self._told = complaints
        as_wanted = sum(one.result in ("ok", "changed") for one in run.vectors)
        others = len(run.vectors) - as_wanted
        said = f"{as_wanted} of {len(run.vectors)} vectors as wanted"
        if others:
            unchangeable = sum(one.result == "unchangeable" for one in run.vectors)
            said += f" ({unchangeable} cannot be moved, {others - unchangeable} otherwise not)"
        self.status = f"{said}; {self._last}"


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)); without systemd nobody is told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Interrupts are kept in place whether or not somebody hears of it.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.connect(address)
        link.send(message.encode())


def say(line: str) -> None:
    """Write a line to the journal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def serve(keeper: Keeper) -> t.NoReturn:
    """Keep for ever. Listening begins before the first look, so that nothing falls in between."""
    listener = Listener()
    for line in listener.missing:
        say(f"{line}; every {keeper.check_seconds:g} seconds it is looked at all the same")
    reason = "at the start"
    ready = False
    while True:
        try:
            run = keeper.keep(reason)
            status = keeper.status
            if not ready:
                say(summary(run))
        except (NumapinError, OSError) as error:
            status = f"failed: {error}".replace("\n", "; ")
            say(status)
        notify(f"STATUS={status}" + ("" if ready else "\nREADY=1"))
        ready = True
        heard = listener.wait(
            keeper.check_seconds if reason in ("at the regular look", "at the start") else _AGAIN_SECONDS
        )
        reason = heard or "at the regular look"


def _end(_number: int, _frame: object) -> t.NoReturn:
    raise SystemExit(0)


def main(arguments: list[str]) -> int:
    """Run as the service, or once."""
    parser = argparse.ArgumentParser(
        prog="irq-affinity", description="Keep interrupts where the configuration wants them."
    )
    parser.add_argument("--configuration", default=CONFIGURATION, help=f"default: {CONFIGURATION}")
    parser.add_argument("--root", default="/", help="a laid-out tree instead of the running machine, for tests")
    parser.add_argument("--once", action="store_true", help="look once, print what was moved, and end")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    keeper = Keeper(given.configuration, given.root, say)
    try:
        if not given.once:
            serve(keeper)
        run = keeper.keep("once")
    except NumapinError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    say(table(run, after=True) + summary(run))
    return 1 if run.faults(False) else 0
