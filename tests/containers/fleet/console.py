# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the person at the terminal sees: steps with elapsed time, commands that never run unbounded or unheard."""

from __future__ import annotations

import collections.abc as c
import contextlib
import os
import pathlib
import select
import shlex
import subprocess
import sys
import tempfile
import time
import typing as t

STARTED = time.monotonic()
HEARTBEAT_SECONDS = 15


class FleetError(Exception):
    """A fault that a user can act on: the message says what happened and what to do."""


def say(text: str) -> None:
    """Print one line behind the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", flush=True)


@contextlib.contextmanager
def step(title: str) -> c.Iterator[None]:
    """Announce a step and, when it succeeded, how long it took."""
    say(title)
    started = time.monotonic()
    yield
    say(f"  done in {time.monotonic() - started:.1f} s")


def as_root(command: c.Sequence[str]) -> list[str]:
    """The command as root: as it is for root, behind sudo for anybody else."""
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def run(
    command: c.Sequence[str],
    *,
    timeout_seconds: int,
    stdin: str | None = None,
    stdout_path: pathlib.Path | None = None,
    environment: c.Mapping[str, str] | None = None,
    check: bool = True,
) -> str:
    """Run a command quietly, with a sign of life for a slow one, and return its standard output.

    ``stdout_path`` receives the output instead, for data too large to hold. Raises ``FleetError`` with the last lines
    of what it said when it fails (unless ``check`` is false) or takes longer than allowed.
    """
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as errors,
        stdout_path.open("wb") if stdout_path else tempfile.TemporaryFile() as output,
    ):
        source.write((stdin or "").encode())
        source.seek(0)
        try:
            process = subprocess.Popen(command, stdin=source, stdout=output, stderr=errors, env=environment)
        except FileNotFoundError as error:
            raise FleetError(f"{command[0]} is not installed. Run: python3 tests/containers setup") from error
        code = wait(process, timeout_seconds)
        printed = "" if stdout_path else whole(output)
        if code == 0 or (code is not None and not check):
            return printed
        ended = f"was stopped after {timeout_seconds} s" if code is None else f"failed with exit status {code}"
        said = last_lines(printed + whole(errors))
        raise FleetError(f"This command {ended}:\n  {shlex.join(command)}\n{said}")


def wait(process: subprocess.Popen[bytes], timeout_seconds: int) -> int | None:
    """Wait with a sign of life now and then; the exit status, or nothing when the time was up and it was killed."""
    started = time.monotonic()
    try:
        while (left := started + timeout_seconds - time.monotonic()) > 0:
            try:
                return process.wait(timeout=min(left, HEARTBEAT_SECONDS))
            except subprocess.TimeoutExpired:
                # Popen's type lets a command be one text or path; all of ours are lists.
                name = pathlib.Path(str(process.args[0])).name  # type: ignore[index]
                say(f"  … {name} is still at it ({time.monotonic() - started:.0f} s)")
        return None
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that still runs."""
    if process.poll() is None:
        try:
            process.kill()
        except PermissionError:  # sudo belongs to root; it hands the signal on
            subprocess.run(["sudo", "kill", str(process.pid)], check=False)
        process.wait()


def whole(handle: t.IO[bytes]) -> str:
    """All of a file that a command wrote to."""
    handle.seek(0)
    return handle.read().decode(errors="replace")


def show(command: c.Sequence[str], *, timeout_seconds: int, environment: c.Mapping[str, str] | None = None) -> None:
    """Run a command whose output the user sees as it comes, with a sign of life when it says nothing for a while.

    Raises ``FleetError`` when it fails or takes longer than allowed.
    """
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    except FileNotFoundError as error:
        raise FleetError(f"{command[0]} is not installed.") from error
    started = time.monotonic()
    try:
        relay(t.cast("t.IO[bytes]", process.stdout), started + timeout_seconds)
        code = process.wait(timeout=max(1.0, started + timeout_seconds - time.monotonic()))
    except (subprocess.TimeoutExpired, TimeoutError) as error:
        raise FleetError(f"This command was stopped after {timeout_seconds} s:\n  {shlex.join(command)}") from error
    finally:
        end(process)
    if code != 0:
        raise FleetError(f"This command failed with exit status {code} (its output is above):\n  {shlex.join(command)}")


def relay(source: t.IO[bytes], deadline: float) -> None:
    """Copy to standard output until the source ends. Raises ``TimeoutError`` at the deadline."""
    last_output = time.monotonic()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([source], [], [], min(left, HEARTBEAT_SECONDS))[0]:
            data = os.read(source.fileno(), 65536)
            if not data:
                return
            sys.stdout.write(data.decode(errors="replace"))
            sys.stdout.flush()
            last_output = time.monotonic()
        else:
            say(f"  … still at it ({time.monotonic() - last_output:.0f} s in this step)")
    raise TimeoutError


def last_lines(text: str, count: int = 25) -> str:
    """The last lines of a log, indented."""
    return "\n".join("  | " + line for line in text.rstrip().splitlines()[-count:])
