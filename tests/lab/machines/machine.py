# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start, wait for and stop one machine; what runs is remembered in build/lab/PURPOSE/NAME/machine.json."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import typing as t

from fleet.console import FleetError, last_lines, run, say
from fleet.settings import cache_lock

from machines import monitor, qemu, torch_disk
from machines.image import Image
from machines.places import RUNNING, accelerator
from machines.shapes import Shape

# Until the SSH server greets: 10 to 35 s under emulation on two CPUs, four times as much on busy ones.
SSH_SECONDS = {"tcg": 180, "kvm": 60}
# An emulated kernel sometimes hangs before it says its first word, with its processors spinning.
BOOT_ATTEMPTS = 3
STOP_SECONDS = 15
HEARTBEAT_SECONDS = 20
# The name of the state in a disk that was saved when its machine had booted.
BOOTED = "booted"
# A port may be taken between choosing it and QEMU's taking it.
START_ATTEMPTS = 3
START_SECONDS = 1.5
# QEMU processes of this run of ours: they outlive it, and it must take their exit status when it ends them itself.
CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


@dataclasses.dataclass(frozen=True)
class Machine:
    """A QEMU process that we started. ``started_ticks`` is field 22 of /proc/PID/stat: a PID alone may be another's."""

    purpose: str
    name: str
    shape: str
    pid: int
    started_ticks: int
    number: int
    ssh_port: int
    http_port: int
    ssh_host_key: str
    accelerator: str
    started_at: float
    nvme_at_boot: bool = True

    @property
    def fleet_address(self) -> str:
        """Where the other machines of its fleet find it."""
        return f"10.77.0.{self.number}"

    @property
    def directory(self) -> pathlib.Path:
        """Its disks and logs."""
        return RUNNING / self.purpose / self.name

    def runs(self) -> bool:
        """Whether the process is there and still the one we started."""
        return ticks(self.pid) == self.started_ticks


def start(
    purpose: str,
    name: str,
    shape: Shape,
    image: Image,
    number: int = 1,
    nvme_at_boot: bool = True,
    booted: pathlib.Path | None = None,
) -> Machine:
    """Start a clean machine; one of this purpose and name that runs already is stopped first.

    ``number`` is its place in its fleet's network; ``booted`` a disk that holds the state BOOTED, to go on from.
    """
    with cache_lock(f"lab-{purpose}-{name}"):
        stop(purpose, name)
        directory = RUNNING / purpose / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        if booted:
            shutil.copyfile(booted, directory / "disk.qcow2")
        else:
            overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.disk), "-F", "raw"]
            run([*overlay, str(directory / "disk.qcow2")], timeout_seconds=60)
        for slot, device in enumerate(shape.devices):
            if device.kind == "torch":
                shutil.copyfile(torch_disk.made(), directory / f"nvme{slot}.raw")
            elif device.kind == "nvme":
                with (directory / f"nvme{slot}.raw").open("wb") as handle:
                    handle.truncate(qemu.NVME_MIB * 2**20)
        more = ["-loadvm", BOOTED] if booted else []
        machine = launch(purpose, name, shape, image, number, nvme_at_boot, more)
        record = json.dumps(dataclasses.asdict(machine), indent=2) + "\n"
        (directory / "machine.json").write_text(record, encoding="utf-8")
    say(f"Started {name}: {shape.cpu_count} CPUs, {shape.memory_mib} MiB ({machine.accelerator}, PID {machine.pid})")
    return machine


def launch(
    purpose: str, name: str, shape: Shape, image: Image, number: int, nvme_at_boot: bool, more: c.Sequence[str]
) -> Machine:
    """Run QEMU in the background, in a session of its own so that an interrupt here does not reach it."""
    directory = RUNNING / purpose / name
    log = directory / "qemu.log"
    for _attempt in range(START_ATTEMPTS):
        place, how = qemu.Place(purpose, name, number, free_port(), free_port()), accelerator()
        command = [*qemu.command(place, shape, image, how, nvme_at_boot), *more]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=START_SECONDS)
        if process.poll() is None:
            CHILDREN[process.pid] = process
            started = ticks(process.pid)
            return Machine(
                purpose,
                name,
                shape.name,
                process.pid,
                started or 0,
                number,
                place.ssh_port,
                place.http_port,
                image.ssh_host_key,
                how,
                time.time(),
                nvme_at_boot,
            )
        if "Could not set up host forwarding rule" not in log.read_text(encoding="utf-8", errors="replace"):
            break
    said = last_lines(log.read_text(encoding="utf-8", errors="replace"))
    raise FleetError(f"QEMU did not start {name} ({log}):\n{said or '  | nothing'}")


def ready(machine: Machine, shape: Shape, image: Image) -> Machine:
    """Wait until a machine that was started can be used; one that hangs is started anew. Raises ``FleetError``."""
    for _attempt in range(BOOT_ATTEMPTS - 1):
        try:
            wait_for_ssh(machine)
        except FleetError as error:
            say(f"{error}\nStarting {machine.name} anew")
            machine = start(machine.purpose, machine.name, shape, image, machine.number, machine.nvme_at_boot)
        else:
            return machine
    wait_for_ssh(machine)
    return machine


def reboot(machine: Machine, ssh: c.Sequence[str]) -> None:
    """Reboot from inside and wait until it can be used again; ``ssh`` are the words that log in to it.

    A boot that hangs is tried anew, with the same disk. Raises ``FleetError``.
    """
    before = boot_id(ssh)
    # The connection ends with the machine.
    run([*ssh, "systemctl reboot"], timeout_seconds=60, check=False)
    for attempt in range(BOOT_ATTEMPTS):
        began = time.time()
        try:
            wait_for_ssh(machine, began, lambda: boot_id(ssh) not in ("", before))
        except FleetError as error:
            if attempt == BOOT_ATTEMPTS - 1:
                raise
            say(f"{error}\nResetting {machine.name}")
            monitor.execute(machine.directory, "system_reset")
        else:
            return


def boot_id(ssh: c.Sequence[str]) -> str:
    """The kernel's name for the boot that a machine is in; empty while nobody can log in."""
    return run([*ssh, "cat /proc/sys/kernel/random/boot_id"], timeout_seconds=90, check=False).strip()


def wait_for_ssh(
    machine: Machine,
    began: float | None = None,
    is_new: c.Callable[[], bool] = lambda: True,
    seconds: int | None = None,
) -> None:
    """Wait until the SSH server greets; raises ``FleetError`` with the console's last lines when the time is up.

    ``began``: when the boot did, if not with QEMU; ``is_new``: whether who greets is the one that is waited for;
    ``seconds``: how long it may take, if not as long as a boot.
    """
    limit = seconds or SSH_SECONDS[machine.accelerator]
    heartbeat = time.monotonic() + HEARTBEAT_SECONDS
    began = machine.started_at if began is None else began
    deadline = began + limit
    while not (greets(machine.ssh_port) and is_new()):
        if not machine.runs():
            raise FleetError(f"{machine.name} ended while it booted.\n{what_it_said(machine)}")
        if time.time() > deadline:
            raise FleetError(
                f"No SSH server answered in {machine.name} (127.0.0.1:{machine.ssh_port}) within {limit} s.\n"
                f"{what_it_said(machine)}"
            )
        if time.monotonic() > heartbeat:
            say(f"  … {machine.name} is still booting ({time.time() - began:.0f} s of at most {limit} s)")
            heartbeat += HEARTBEAT_SECONDS
        time.sleep(0.3)
    say(f"{machine.name} answers after {time.time() - began:.1f} s")


def stop(purpose: str, name: str) -> bool:
    """Stop the machine of this name when it is ours and runs; true when there was one. Its logs stay."""
    machine = known(purpose, name)
    if machine is None or not machine.runs():
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(machine.pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while machine.runs() and time.monotonic() < deadline:
            reap(machine.pid)
            time.sleep(0.05)
        if not machine.runs():
            return True
    raise FleetError(f"{name} (PID {machine.pid}) does not end, not even killed: look at it with ps -fp {machine.pid}.")


def known(purpose: str, name: str) -> Machine | None:
    """What is remembered of a machine, running or not."""
    path = RUNNING / purpose / name / "machine.json"
    try:
        record: dict[str, t.Any] = json.loads(path.read_text(encoding="utf-8"))
        return Machine(**record)
    except (OSError, ValueError, TypeError):
        return None


def running(purpose: str) -> list[Machine]:
    """This checkout's machines of one purpose that run."""
    names = sorted(path.parent.name for path in (RUNNING / purpose).glob("*/machine.json"))
    found = [known(purpose, name) for name in names]
    return [machine for machine in found if machine is not None and machine.runs()]


def ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; nothing for one that is gone or a zombie."""
    try:
        # The second field, the command's name in brackets, may hold anything.
        fields = (
            pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def reap(pid: int) -> None:
    """Take the exit status of our own child; somebody else's needs none."""
    if pid in CHILDREN and CHILDREN[pid].poll() is not None:
        del CHILDREN[pid]


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def greets(port: int) -> bool:
    """Whether an SSH server greets; QEMU itself takes the connection long before it does."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        return connection.recv(64).startswith(b"SSH-")
    return False


def what_it_said(machine: Machine) -> str:
    """The last lines of QEMU and of the machine's console, for an error."""
    parts = []
    for title, name in (("QEMU", "qemu.log"), ("Its console", "serial.log")):
        path = machine.directory / name
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        parts.append(f"{title} said last ({path}):\n{last_lines(text, 15) or '  | nothing'}")
    return "\n".join(parts)
