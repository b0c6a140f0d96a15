# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The program that a timer runs: the proof without Ansible, left as a state file, as metrics, as lines of a journal.

A line is written for each difference when it comes and when it goes, not every minute. Differences end the program with
status 0, so that ``systemctl --failed`` is about faults; a proof that cannot be made ends it with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import time
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._commands import run
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._metrics import write_whole
from ansible_collections.numapin.inference.plugins.module_utils._proof import (
    VERSION,
    Changes,
    Found,
    metrics_of,
    prove,
    with_times,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._commands import Runner

# What the program of this file is made from.
ENTRY = "_verify_service"
CONFIGURATION = "/etc/numapin/verify.json"
RUN_DIRECTORY = "/run/numapin"
STATE_NAME, METRICS_NAME, TEXTFILE_NAME = "verify.json", "verify.prom", "numapin.prom"
DRIFT_STATUS = 2
# sd-daemon(3): how systemd's journal takes a line's priority.
_ERROR, _WARNING, _NOTICE = "<3>", "<4>", "<5>"


class ServiceError(NumapinError):
    """The settings cannot be read."""


class Settings(t.NamedTuple):
    """What stands in the configuration."""

    interval_seconds: int
    minimum_locality_percent: float
    textfile_directory: str | None
    fail_on_drift: bool


def settings_text(settings: Settings) -> str:
    """Return the configuration as it is written."""
    return json.dumps({"version": VERSION, **settings._asdict()}, indent=2, sort_keys=True) + "\n"


def parse_settings(text: str | None) -> Settings:
    """Read it back. Raises ServiceError."""
    try:
        given = json.loads(text or "")
        if given.pop("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        return Settings(**given)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ServiceError(
            f"{CONFIGURATION} is missing or damaged ({error}): run verify.yml on this host again"
        ) from error


class Places(t.NamedTuple):
    """Where things are on the host, or in a laid-out tree."""

    root: str = "/"
    run_directory: str = RUN_DIRECTORY


def read_state(run_directory: str) -> dict[str, t.Any] | None:
    """Return the state that the last run left; ``None`` when there is none of this version."""
    with (
        contextlib.suppress(OSError, ValueError),
        open(os.path.join(run_directory, STATE_NAME), encoding="utf-8") as file,
    ):
        state = json.load(file)
        if isinstance(state, dict) and state.get("version") == VERSION:
            return state
    return None


def run_once(places: Places, say: t.Callable[[str], None], run: Runner, gpu_sources: GpuSources) -> int:
    """Prove once, tell what changed, leave state and metrics; returns the exit status."""
    started = time.monotonic()
    host = Host(places.root)
    before = read_state(places.run_directory) or {}
    # Without settings those of the last run tell where "not made" is to be told.
    settings = Settings(before.get("interval_seconds", 0), 0, before.get("textfile_directory"), False)
    found = Found([], [], [])
    error = None
    try:
        settings = parse_settings(host.read_text(CONFIGURATION))
        found = prove(host, settings.minimum_locality_percent, run, gpu_sources)
    except NumapinError as caught:
        error = str(caught)
    # A proof that cannot be made says nothing of what was wrong before: that is kept.
    problems, recent, changes = (
        with_times(found.problems, before, time.time())
        if error is None
        else (list(before.get("problems", ())), list(before.get("recent", ())), Changes([], []))
    )
    state = {
        "version": VERSION,
        "host": socket.gethostname(),
        "timestamp_seconds": round(time.time(), 3),
        "duration_seconds": round(time.monotonic() - started, 3),
        "interval_seconds": settings.interval_seconds,
        "textfile_directory": settings.textfile_directory,
        "success": error is None,
        "error": error,
        "ok": error is None and not problems,
        "problems": problems,
        "notes": found.notes,
        "recent": recent,
        "instances": found.instances,
    }
    _tell(say, before, error, changes, state)
    _leave(host, places, settings, state)
    if error is not None:
        return 1
    return DRIFT_STATUS if problems and settings.fail_on_drift else 0


def _tell(
    say: t.Callable[[str], None],
    before: t.Mapping[str, t.Any],
    error: str | None,
    changes: Changes,
    state: t.Mapping[str, t.Any],
) -> None:
    if error is not None and error != before.get("error"):
        say(f"{_ERROR}the proof cannot be made: {error}")
    for one in changes.new:
        say(f"{_WARNING}NOT as planned: {_named(one)}")
    drained = [one["name"] for one in state["instances"] if one["drained"]]
    for one in changes.gone:
        end = "drained by a person and judged no more" if one.get("instance") in drained else "as planned again"
        say(f"{_NOTICE}{end}, was: {_named(one)}")
    if changes.gone and not state["problems"] and not drained:
        say(f"{_NOTICE}everything is as planned")


def _named(problem: t.Mapping[str, t.Any]) -> str:
    text = " ".join(str(problem["text"]).split())
    return f"{problem['instance']}: {text}" if problem.get("instance") else text


def _leave(host: Host, places: Places, settings: Settings, state: t.Mapping[str, t.Any]) -> None:
    """Write state and metrics, each whole or not at all. Raises MetricsError."""
    metrics = metrics_of(host, state)
    write_whole(os.path.join(places.run_directory, STATE_NAME), json.dumps(state, indent=1) + "\n")
    write_whole(os.path.join(places.run_directory, METRICS_NAME), metrics)
    directory = settings.textfile_directory
    # Without a collector there is nobody to write for.
    if directory and os.path.isdir(directory):
        write_whole(os.path.join(directory, TEXTFILE_NAME), metrics)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Entry of the program."""
    parser = argparse.ArgumentParser(
        prog="verify", description="Prove once that this host is as planned and tuned, and leave state and metrics."
    )
    parser.add_argument("--root", default="/", help="a laid-out tree instead of the running machine, for tests")
    parser.add_argument("--run-directory", default=RUN_DIRECTORY, help=f"default: {RUN_DIRECTORY}")
    given = parser.parse_args(arguments)
    places = Places(given.root, given.run_directory)
    try:
        return run_once(places, _say, run, GpuSources(this_machine=given.root == "/"))
    except NumapinError as error:
        _say(f"{_ERROR}{error}")
        return 1
