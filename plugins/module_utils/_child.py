# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Have a child process answer: a library that hangs in a driver, or crashes, takes nobody along."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import time
import typing as t
import warnings

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError


class ChildError(NumapinError):
    """There is no answer."""


class ChildTimeoutError(ChildError):
    """The child did not answer in time."""


def answer_of_child(seconds: float, work: t.Callable[[], t.Any]) -> t.Any:
    """Return what ``work`` returns in a child, which JSON can hold. Raises ``ChildTimeoutError``, ``ChildError``."""
    inlet, outlet = os.pipe()
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of threads, of which a module has none.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    except OSError as error:
        os.close(inlet)
        os.close(outlet)
        raise ChildError(f"it is not asked, as no process can be started ({error})") from error
    if child == 0:
        _answer(outlet, work)
    os.close(outlet)
    try:
        said = _read_until_closed(inlet, time.monotonic() + seconds)
    finally:
        os.close(inlet)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status = _reap(child)
    if said is None:
        raise ChildTimeoutError(f"did not answer within {seconds:g} seconds")
    try:
        return json.loads(said)
    except ValueError:
        raise ChildError(f"the process that read it ended without an answer ({status})") from None


def _answer(outlet: int, work: t.Callable[[], t.Any]) -> t.NoReturn:
    """Run in the child: work, write the answer, end. What the parent has open is not held by a hanging child."""
    try:
        outlet = fcntl.fcntl(outlet, fcntl.F_DUPFD, 3)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.closerange(3, outlet)
        os.closerange(outlet + 1, 1024)
        text = json.dumps(work()).encode()
        while text:
            text = text[os.write(outlet, text) :]
    finally:
        os._exit(0)


def _read_until_closed(descriptor: int, deadline: float) -> bytes | None:
    said = b""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN | select.POLLHUP)
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not waiting.poll(remaining * 1000):
            return None
        block = os.read(descriptor, 65536)
        if not block:
            return said
        said += block


def _reap(child: int) -> str:
    """Wait for a child that was killed, shortly: one that hangs in the kernel is left to init."""
    for _attempt in range(100):
        try:
            pid, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            return "gone"
        if pid:
            return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        time.sleep(0.01)
    return "still there"
