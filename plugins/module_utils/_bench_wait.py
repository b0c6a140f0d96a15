# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Whether a benchmark that runs in the background still does.

Ansible asks for the answer of a job until its time is over, hours for a benchmark, also when the job was killed, or the
host was restarted, and nobody is left who would write one. A benchmark holds a lock as long as it lives.
"""

from __future__ import annotations

import fcntl
import json
import time
import typing as t
from pathlib import Path

RUNNING, ENDED, LOST = "running", "ended", "lost"
# From its start until it has the lock, and from there until its answer is written.
_BETWEEN_SECONDS = 30.0
_POLL_SECONDS = 1.0


def wait_for_end(
    job_file: str,
    lock: Path,
    seconds: float,
    *,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> str:
    """Wait until Ansible's ``job_file`` has the answer of a benchmark (ended), or nobody is there to write one (lost).

    After ``seconds`` it is said to be running; ask again.
    """
    start = clock()
    missing_since: float | None = None
    while True:
        if _answered(job_file):
            return ENDED
        now = clock()
        if _held(lock):
            missing_since = None
        elif missing_since is None:
            missing_since = now
        elif now - missing_since >= _BETWEEN_SECONDS:
            return LOST
        # One that is missing is waited for beyond that: the next call would begin to count anew.
        if missing_since is None and now - start >= seconds:
            return RUNNING
        sleep(_POLL_SECONDS)


def _answered(job_file: str) -> bool:
    """While it runs, Ansible has the words started and finished in the file; the answer has neither."""
    try:
        known = json.loads(Path(job_file).read_text(encoding="utf-8"))
        return bool("started" not in known or known.get("finished"))
    except (OSError, ValueError, TypeError):
        return False


def _held(lock: Path) -> bool:
    try:
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
