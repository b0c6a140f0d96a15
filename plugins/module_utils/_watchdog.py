# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The program of a service: an instance that hangs is killed, and systemd starts it again.

An engine that hangs keeps its connections: nginx sees nothing, clients wait until they give up, and some come back to
it. Hanging is to have requests and compute nothing for them, by the engine's own counters, or to listen and leave
``/health`` without an answer, both for a given time without a break. One that reads a long prompt moves its counters
(``_traffic.progress``) and is left alone; so is one whose counters cannot be read, that brings a token when it is
asked for one, or that a person has drained.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import sys
import time
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _commands
from ansible_collections.numapin.inference.plugins.module_utils._drained import PERSON, read_records
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._metrics import Metrics, write_whole
from ansible_collections.numapin.inference.plugins.module_utils._readiness import Instance, probe_instance
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd, SystemdError
from ansible_collections.numapin.inference.plugins.module_utils._traffic import Watched, look, progress

ENTRY = "_watchdog"
VERSION = 1
PLAN = "/etc/numapin/plan.json"
CONFIGURATION = "/etc/numapin/watchdog.json"
RUN_DIRECTORY = "/run/numapin"
STATE_NAME, TEXTFILE_NAME = "watchdog.json", "numapin-watchdog.prom"
LEAST_STALLED_SECONDS = 10
_LARGEST_PLAN_BYTES = 16 * 1024 * 1024
_MOST_BETWEEN_LOOKS_SECONDS = 5.0
_PROBE_SECONDS = 10.0
_KEY_VARIABLE = "VLLM_API_KEY"
_SILENT = "silent"
_ERROR, _WARNING = "<3>", "<4>"

# What would be another one if the instance had moved; None: nothing is held against it.
Sign = t.Union[tuple[float, ...], str, None]


class WatchdogError(NumapinError):
    """The settings or the plan cannot be read."""


class Settings(t.NamedTuple):
    """What stands in the configuration."""

    stalled_seconds: int
    textfile_directory: str | None


def settings_text(settings: Settings) -> str:
    """The configuration as it is written."""
    return json.dumps({"version": VERSION, **settings._asdict()}, indent=2, sort_keys=True) + "\n"


def parse_settings(text: str | None) -> Settings:
    """Read it back. Raises WatchdogError."""
    try:
        given = json.loads(text or "")
        if given.pop("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        return Settings(**given)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WatchdogError(
            f"{CONFIGURATION} is missing or damaged ({error}): run inference.yml on this host again"
        ) from error


class Signs:
    """The signs of all instances, and since when each has been the same."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Sign, float]] = {}

    def same_for(self, found: t.Mapping[str, Sign], now: float) -> dict[str, float]:
        """Take what was found now; how long each instance that has a sign has had the same one, in seconds."""
        self._seen = {
            name: before if (before := self._seen.get(name)) and before[0] == sign else (sign, now)
            for name, sign in found.items()
            if sign is not None
        }
        return {name: now - since for name, (_sign, since) in self._seen.items()}

    def forget(self, name: str) -> None:
        """Begin again with this one."""
        self._seen.pop(name, None)


def sign_of(instance: Watched, host: Host) -> Sign:
    """One look at one instance."""
    traffic = look(instance, host)
    if traffic.silent:
        return _SILENT
    if not traffic.serving or not (traffic.load or traffic.running or traffic.waiting):
        return None
    return progress(instance.url)


class Watchdog:
    """Looks at all instances of the plan, again and again."""

    def __init__(
        self,
        host: Host,
        settings: Settings,
        say: t.Callable[[str], None],
        *,
        run: _commands.Runner = _commands.run,
        run_directory: str = RUN_DIRECTORY,
        clock: t.Callable[[], float] = time.monotonic,
        now: t.Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._settings = settings
        self._say = say
        self._run = run
        self._systemd = Systemd(run, root=host.root)
        self._run_directory = run_directory
        self._clock = clock
        self._now = now
        self._signs = Signs()
        # By instance: how often it was killed since the boot, and when last.
        self.kills: dict[str, dict[str, float]] = self._kills_before()

    @property
    def between_looks_seconds(self) -> float:
        """Often enough for the limit to be one."""
        return min(_MOST_BETWEEN_LOOKS_SECONDS, self._settings.stalled_seconds / 4)

    def look(self) -> None:
        """Once at all of them; kill what hangs. Raises NumapinError."""
        instances = {one["name"]: one for one in self._planned()}
        watched = [Watched(name, one["url"]) for name, one in instances.items()]
        # At once: one that does not answer keeps nobody waiting.
        with concurrent.futures.ThreadPoolExecutor(max(len(watched), 1)) as pool:
            signs = dict(zip(instances, pool.map(lambda one: sign_of(one, self._host), watched)))
        for name, seconds in self._signs.same_for(signs, self._clock()).items():
            if seconds >= self._settings.stalled_seconds:
                self._signs.forget(name)
                self._judge(instances[name], signs[name], seconds)
        self._leave(instances)

    def _planned(self) -> list[dict[str, t.Any]]:
        """Instances of the plan as applied, without those that a person has drained."""
        text = self._host.read_text(PLAN, _LARGEST_PLAN_BYTES)
        if text is None:
            return []
        records = read_records(os.path.join(self._host.root, STATE_DIRECTORY.lstrip("/")))
        drained = {name for name, record in records.items() if record["by"] == PERSON}
        try:
            return [
                {"name": one["name"], "unit": one["unit"], "url": one["url"], "model": one["served_names"][0]}
                for one in json.loads(text)["instances"]
                if one["name"] not in drained
            ]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise WatchdogError(f"{PLAN} is damaged ({error!r}): deploy this host again (inference.yml)") from error

    def _judge(self, instance: t.Mapping[str, t.Any], sign: Sign, seconds: float) -> None:
        name, unit = instance["name"], instance["unit"]
        shown = self._systemd.show([unit])[unit]
        if not shown.up:
            return
        why = f"left /health without an answer for {seconds:.0f} s"
        if sign != _SILENT:
            key = None
            with contextlib.suppress(SystemdError):
                key = self._systemd.variable(shown.main_pid, _KEY_VARIABLE)
            asked = Instance(name, unit, instance["url"], instance["model"])
            if probe_instance(asked, key, _PROBE_SECONDS).ready:
                self._say(f"{_WARNING}{name} has moved no counter for {seconds:.0f} s, but brings a token: left alone")
                return
            why = f"had requests and computed nothing for {seconds:.0f} s, nor brought one token when asked for it"
        result = self._run(("systemctl", "kill", "--signal=SIGKILL", "--", unit), 30)
        if result.rc != 0:
            self._say(f"{_ERROR}{name} {why}, and {unit} cannot be killed: {result.stderr.strip() or result.rc}")
            return
        self._say(f"{_WARNING}killed {unit}, which {why}; systemd starts it again")
        before = self.kills.get(name, {"count": 0})
        self.kills[name] = {"count": before["count"] + 1, "last": round(self._now(), 3)}

    def _kills_before(self) -> dict[str, dict[str, float]]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(os.path.join(self._run_directory, STATE_NAME), encoding="utf-8") as file:
                state = json.load(file)
            if state["version"] == VERSION:
                kept = state["kills"].items()
                return {str(name): {key: float(one[key]) for key in ("count", "last")} for name, one in kept}
        return {}

    def _leave(self, instances: t.Collection[str]) -> None:
        """State and metrics, each whole or not at all."""
        now = round(self._now(), 3)
        state = {"version": VERSION, "timestamp_seconds": now, "kills": self.kills}
        write_whole(os.path.join(self._run_directory, STATE_NAME), json.dumps(state) + "\n")
        directory = self._settings.textfile_directory
        if directory and os.path.isdir(directory):
            write_whole(os.path.join(directory, TEXTFILE_NAME), self.metrics(instances, now))

    def metrics(self, instances: t.Collection[str], now: float) -> str:
        """In Prometheus' text format."""
        metrics = Metrics()
        metrics.gauge("numapin_watchdog_last_look_timestamp_seconds", "When the watchdog looked last.", now)
        for name in sorted(instances):
            kills = self.kills.get(name, {"count": 0})
            about = "How often the watchdog has killed the instance since the boot, because it hung."
            metrics.gauge("numapin_watchdog_kills", about, kills["count"], instance=name)
            about = "When the watchdog killed the instance last."
            metrics.gauge("numapin_watchdog_last_kill_timestamp_seconds", about, kills.get("last"), instance=name)
        return metrics.text()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """Entry of the program: look until it is stopped."""
    argparse.ArgumentParser(prog="watchdog", description="Kill instances that hang.").parse_args(arguments)
    host = Host("/")
    said = ""
    try:
        watchdog = Watchdog(host, parse_settings(host.read_text(CONFIGURATION)), _say)
    except NumapinError as error:
        _say(f"{_ERROR}{error}")
        return 1
    while True:
        try:
            watchdog.look()
            said = ""
        except NumapinError as error:
            # Once, and not at every look.
            if str(error) != said:
                said = str(error)
                _say(f"{_ERROR}nothing is watched: {said}")
        time.sleep(watchdog.between_looks_seconds)
