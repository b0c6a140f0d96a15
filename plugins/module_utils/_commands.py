# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Run one command, without a shell, for at most a given time.

``AnsibleModule.run_command`` has no time limit; nothing this collection starts may wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import typing as t
from dataclasses import dataclass

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(NumapinError):
    """A command could not be started, or did not end in time."""


@dataclass(frozen=True)
class Result:
    """What a command that ended said."""

    rc: int
    stdout: str
    stderr: str


class Runner(t.Protocol):
    """Anything that runs a command: ``run`` below, or captured answers in a test."""

    def __call__(self, argv: t.Sequence[str], timeout_seconds: float) -> Result: ...


def find_executable(name: str) -> str | None:
    """Full path of a command, also looked for in the system directories that a user's PATH may lack."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SYSTEM_PATH)


def run(argv: t.Sequence[str], timeout_seconds: float) -> Result:
    """Run ``argv`` in the C locale; after ``timeout_seconds`` kill it with all its children and raise CommandError."""
    executable = find_executable(argv[0])
    if executable is None:
        raise CommandError(f"the command {argv[0]!r} is not there: install the package that brings it")
    environment = {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", "") + ":" + _SYSTEM_PATH}
    try:
        process = subprocess.Popen(
            [executable, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(f"{argv[0]} could not be started: {error.strerror or error}") from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            # A child that left the group may still hold the pipes: its output is not worth waiting for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=2)
            raise CommandError(
                f"{' '.join(argv)} did not end within {timeout_seconds:g} seconds and was killed"
            ) from None
    return Result(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
