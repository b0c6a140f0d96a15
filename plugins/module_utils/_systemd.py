# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""``systemctl`` and ``journalctl`` as typed calls with bounded waits, and the units of all instances as one."""

from __future__ import annotations

import json
import re
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.numapin.inference.plugins.module_utils import _commands
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

CONFIG_ID_VARIABLE = "NUMAPIN_CONFIG_ID"
FAILURE_LOG_LINES = 40
HELD_BACK = "it is held back"

_CALL_TIMEOUT_SECONDS = 90.0
_POLL_SECONDS = 0.5
_PROPERTIES = (
    "Id",
    "LoadState",
    "LoadError",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "NeedDaemonReload",
    "UnitFileState",
    "InvocationID",
    "Job",
    "TimeoutStopUSec",
    "Wants",
)
_SPAN_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2629800}
_SPAN_PART = re.compile(r"(\d+(?:\.\d+)?)([a-z]+)")
_INSTANCE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class SystemdError(NumapinError):
    """systemd refused, or a unit did not become what was asked."""


@dataclass(frozen=True)
class Unit:
    """What ``systemctl show`` says of one unit. A unit that systemd does not know has load_state ``not-found``."""

    name: str
    load_state: str = "not-found"
    load_error: str = ""
    active_state: str = "inactive"
    sub_state: str = "dead"
    result: str = "success"
    main_pid: int = 0
    restarts: int = 0
    needs_reload: bool = False
    file_state: str = ""
    invocation_id: str = ""
    job: str = ""
    stop_timeout_seconds: float = 90
    wants: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """As people say it: ``active (running)``."""
        return f"{self.active_state} ({self.sub_state})"

    @property
    def enabled(self) -> bool:
        return self.file_state in ("enabled", "enabled-runtime")

    @property
    def waits_for_restart(self) -> bool:
        return self.sub_state.startswith("auto-restart")

    @property
    def up(self) -> bool:
        """Its main process is there."""
        return self.active_state in ("active", "activating", "reloading") and self.main_pid > 0

    @property
    def down(self) -> bool:
        return self.active_state in ("inactive", "failed") and not self.job


class Systemd:
    """The running systemd, through ``run``; ``root`` is where /proc is looked for."""

    def __init__(
        self,
        run: _commands.Runner = _commands.run,
        root: str = "/",
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self._run = run
        self._root = Path(root)
        self._clock = clock
        self._sleep = sleep

    def show(self, names: t.Sequence[str]) -> dict[str, Unit]:
        """Every unit of ``names``, in one call."""
        if not names:
            return {}
        output = self._systemctl("show", f"--property={','.join(_PROPERTIES)}", "--", *names)
        blocks = [block for block in re.split(r"\n\s*\n", output.strip()) if block.strip()]
        if len(blocks) != len(names):
            raise SystemdError(
                f"systemctl show described {len(blocks)} units, asked were {len(names)}: {', '.join(names)}"
            )
        return {name: _parse_unit(name, block) for name, block in zip(names, blocks)}

    def loaded(self, pattern: str) -> list[str]:
        """Names of the units in systemd's memory that match ``pattern``, also those that failed or are stopped."""
        output = self._systemctl("list-units", "--all", "--plain", "--full", "--no-legend", "--no-pager", pattern)
        return [line.split()[0] for line in output.splitlines() if line.split()]

    def daemon_reload(self) -> None:
        self._systemctl("daemon-reload")

    def change(self, verb: str, names: t.Sequence[str], *options: str) -> None:
        """``systemctl VERB``, such as ``enable`` or ``start --no-block``, for all ``names`` in one call."""
        if names:
            self._systemctl(verb, *options, "--", *names)

    def wait(self, names: t.Sequence[str], done: t.Callable[[Unit], bool], timeout_seconds: float) -> dict[str, Unit]:
        """Look at the units until ``done`` holds for each, or for ``timeout_seconds``; how they are then."""
        end = self._clock() + timeout_seconds
        while True:
            units = self.show(names)
            if all(done(unit) for unit in units.values()) or self._clock() >= end:
                return units
            self._sleep(_POLL_SECONDS)

    def variable(self, pid: int, name: str) -> str | None:
        """A variable in the environment a process was started with; None when it has none, or is gone."""
        try:
            environment = (self._root / "proc" / str(pid) / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            raise SystemdError(
                f"the environment of process {pid} cannot be read: {error.strerror}; is this run as root (become)?"
            ) from error
        for entry in environment.split(b"\0"):
            key, equals, value = entry.partition(b"=")
            if equals and key == name.encode():
                return value.decode(errors="replace")
        return None

    def journal(self, unit: str, lines: int) -> list[tuple[str, str]]:
        """The last ``lines`` of a unit's journal, oldest first, each as (invocation, text)."""
        result = self._run(
            (
                "journalctl",
                f"--unit={unit}",
                f"--lines={lines}",
                "--no-pager",
                "--output=json",
                "--output-fields=MESSAGE,_SYSTEMD_INVOCATION_ID,INVOCATION_ID",
            ),
            _CALL_TIMEOUT_SECONDS,
        )
        if result.rc != 0:
            return [("", f"(journalctl failed: {result.stderr.strip() or result.rc})")]
        return [line for entry in result.stdout.splitlines() for line in _parse_journal_entry(entry)]

    def _systemctl(self, *arguments: str) -> str:
        result = self._run(("systemctl", *arguments), _CALL_TIMEOUT_SECONDS)
        if result.rc != 0:
            said = result.stderr.strip() or result.stdout.strip() or f"exit status {result.rc}"
            raise SystemdError(f"systemctl {' '.join(arguments)} failed: {said}")
        return result.stdout


@dataclass(frozen=True)
class Action:
    """What is done with one unit: ``none``, ``start``, ``restart`` or ``stop``, and why.

    ``restarts`` is systemd's count of restarts when the unit is left to run; a start begins at 0.
    """

    unit: str
    action: str
    reason: str
    before: str
    after: str
    restarts: int = 0


@dataclass(frozen=True)
class UnitsPlan:
    """What ``converge`` will do, in its order."""

    reload: bool
    actions: tuple[Action, ...]
    enable: tuple[str, ...]
    disable: tuple[str, ...]
    start_target: bool
    stop_target: bool
    stop_timeout_seconds: float

    @property
    def changed(self) -> bool:
        acts = any(action.action != "none" for action in self.actions)
        return bool(acts or self.reload or self.enable or self.disable or self.start_target or self.stop_target)

    def units(self, action: str) -> list[str]:
        return [entry.unit for entry in self.actions if entry.action == action]


def unit_names(instances: t.Sequence[tuple[str, str]], template: str) -> dict[str, str]:
    """Unit name → wanted configuration id, from (instance name, configuration id)."""
    if not re.fullmatch(r"[A-Za-z0-9:_.-]+@", template):
        raise SystemdError(f"template {template!r} must be the name of a template unit up to its @, such as vllm@")
    wanted: dict[str, str] = {}
    for name, config_id in instances:
        if not _INSTANCE_NAME.fullmatch(name):
            raise SystemdError(
                f"instance {name!r}: allowed are a-z, 0-9, '.', '_' and '-', the first a letter or digit"
            )
        if not config_id.strip():
            raise SystemdError(f"instance {name!r} has an empty config_id: give the one in its environment file")
        unit = f"{template}{name}.service"
        if unit in wanted:
            raise SystemdError(f"instance {name!r} is given twice: every instance has its own name")
        wanted[unit] = config_id
    return wanted


def plan_units(
    systemd: Systemd, wanted: t.Mapping[str, str], template: str, target: str, held: t.Collection[str] = ()
) -> UnitsPlan:
    """Hold the wanted units (name → configuration id) against the running ones. Reads only.

    ``held`` units, none of them among ``wanted``, are left alone, whatever they are.
    """
    target_now = systemd.show([target])[target]
    linked = [name for name in target_now.wants if name.startswith(template)]
    present = {name for name in (*systemd.loaded(f"{template}*.service"), *linked) if name != f"{template}.service"}
    stale_names = sorted(present - set(wanted) - set(held))
    units = systemd.show([*wanted, *stale_names, *held])

    actions = [_plan_unit(systemd, units[name], config_id) for name, config_id in wanted.items()]
    actions += [
        Action(name, "none", HELD_BACK, units[name].state, units[name].state, units[name].restarts) for name in held
    ]
    stale = [units[name] for name in stale_names if not (units[name].down and not units[name].enabled)]
    for unit in stale:
        verb = "none" if unit.down else "stop"
        actions.append(Action(unit.name, verb, "it is not in the plan", unit.state, "inactive, not enabled"))

    target_up = target_now.active_state == "active"
    watched = [target_now, *units.values()]
    return UnitsPlan(
        reload=any(unit.needs_reload for unit in watched),
        actions=tuple(actions),
        enable=tuple(
            [name for name in wanted if not units[name].enabled]
            + ([target] if wanted and not target_now.enabled else [])
        ),
        disable=tuple(
            [unit.name for unit in stale if unit.enabled]
            + ([target] if not wanted and not held and target_now.enabled else [])
        ),
        start_target=bool(wanted) and not target_up,
        stop_target=not wanted and not held and target_up,
        stop_timeout_seconds=max(
            [unit.stop_timeout_seconds for unit in units.values() if not unit.down and unit.name not in held], default=0
        ),
    )


def _plan_unit(systemd: Systemd, unit: Unit, config_id: str) -> Action:
    after = "active with the wanted configuration"
    if unit.load_state == "not-found":
        return Action(unit.name, "start", "it does not exist yet", "absent", after)
    if unit.waits_for_restart:
        return Action(unit.name, "restart", f"it failed ({unit.result}) and waits to be tried again", unit.state, after)
    if unit.up:
        running = systemd.variable(unit.main_pid, CONFIG_ID_VARIABLE)
        if running == config_id:
            reason = "it runs with the wanted configuration" + ("" if unit.enabled else "; it is not enabled")
            return Action(unit.name, "none", reason, unit.state, unit.state, unit.restarts)
        known = "another configuration" if running else f"a process that shows no {CONFIG_ID_VARIABLE}"
        return Action(unit.name, "restart", f"it runs with {known}", f"{unit.state} with {known}", after)
    if unit.active_state in ("inactive", "failed"):
        return Action(unit.name, "start", f"it is {unit.active_state}", unit.state, after)
    return Action(unit.name, "restart", f"it is {unit.state}", unit.state, after)


def converge(
    systemd: Systemd, plan: UnitsPlan, wanted: t.Mapping[str, str], target: str, timeout_seconds: float
) -> None:
    """Do what ``plan`` says and read it back; SystemdError names every unit that did not follow, with its log."""
    missing = [action.unit for action in plan.actions if action.before == "absent"]
    if plan.reload or missing:
        systemd.daemon_reload()
    _refuse_what_is_not_loaded(systemd, [*wanted, target] if wanted else [])

    stop = plan.units("stop")
    systemd.change("disable", plan.disable)
    systemd.change("stop", stop, "--no-block")
    if stop:
        still = [
            f"{unit.name} is {unit.state}"
            for unit in systemd.wait(stop, lambda unit: unit.down, timeout_seconds + plan.stop_timeout_seconds).values()
            if not unit.down
        ]
        if still:
            raise SystemdError(f"not stopped in time: {', '.join(still)}")
    gone = [action.unit for action in plan.actions if action.unit not in wanted and action.reason != HELD_BACK]
    failed = [unit.name for unit in systemd.show(gone).values() if unit.active_state == "failed"]
    systemd.change("reset-failed", failed)
    if plan.stop_target:
        systemd.change("stop", [target], "--no-block")

    systemd.change("enable", plan.enable)
    start, restart = plan.units("start"), plan.units("restart")
    # Restarts of an earlier configuration say nothing of this one, and a restart alone would go on counting them.
    systemd.change("reset-failed", restart)
    systemd.change("start", start, "--no-block")
    systemd.change("restart", restart, "--no-block")
    if plan.start_target:
        systemd.change("start", [target], "--no-block")
    _read_back(systemd, [*start, *restart], wanted, timeout_seconds + (plan.stop_timeout_seconds if restart else 0))


def _refuse_what_is_not_loaded(systemd: Systemd, names: t.Sequence[str]) -> None:
    for unit in systemd.show(names).values():
        if unit.load_state == "not-found":
            raise SystemdError(f"systemd knows no unit {unit.name}: write its unit file before it is to be started")
        if unit.load_state != "loaded":
            raise SystemdError(
                f"{unit.name} cannot be used, it is {unit.load_state}: {unit.load_error or 'correct its unit file'}"
            )


def _read_back(systemd: Systemd, names: t.Sequence[str], wanted: t.Mapping[str, str], timeout_seconds: float) -> None:
    if not names:
        return

    def settled(unit: Unit) -> bool:
        if unit.waits_for_restart or unit.active_state == "failed":
            return True  # it has had its try: waiting longer shows another one, not this one
        return not unit.job and unit.active_state == "active"

    problems: list[str] = []
    for unit in systemd.wait(names, settled, timeout_seconds).values():
        if settled(unit) and unit.active_state == "active":
            running = systemd.variable(unit.main_pid, CONFIG_ID_VARIABLE)
            if running in (wanted[unit.name], None):  # None: it ended between the two looks, readiness will tell
                continue
            problems.append(
                f"{unit.name} was started but shows another {CONFIG_ID_VARIABLE} than the given config_id: "
                "give the one that stands in its environment file"
            )
            continue
        journal = systemd.journal(unit.name, FAILURE_LOG_LINES)
        # What an earlier start logged would only mislead.
        lines = [text for invocation, text in journal if invocation == unit.invocation_id]
        how = "failed to start" if settled(unit) else f"did not start within {timeout_seconds:g} seconds"
        lines = lines or [text for _invocation, text in journal]
        problems.append("\n".join([f"{unit.name} {how}: it is {unit.state}, result {unit.result}", *lines]))
    if problems:
        raise SystemdError("\n\n".join(problems))


# What systemctl and journalctl print


def _parse_unit(name: str, block: str) -> Unit:
    values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    return Unit(
        name=name,
        load_state=values.get("LoadState", "not-found"),
        load_error=values.get("LoadError", "").partition(" ")[2].strip('"'),
        active_state=values.get("ActiveState", "inactive"),
        sub_state=values.get("SubState", "dead"),
        result=values.get("Result", ""),
        main_pid=int(values.get("MainPID") or 0),
        restarts=int(values.get("NRestarts") or 0),
        needs_reload=values.get("NeedDaemonReload") == "yes",
        file_state=values.get("UnitFileState", ""),
        invocation_id=values.get("InvocationID", ""),
        job=values.get("Job", ""),
        stop_timeout_seconds=parse_span(values.get("TimeoutStopUSec", "")),
        wants=tuple(values.get("Wants", "").split()),
    )


def parse_span(text: str) -> float:
    """Seconds of a time span as systemd prints it (``1min 30s``); of ``infinity`` or none the default of 90 seconds."""
    parts = _SPAN_PART.findall(text)
    return sum(float(number) * _SPAN_SECONDS.get(unit, 0) for number, unit in parts) if parts else 90.0


def _parse_journal_entry(entry: str) -> list[tuple[str, str]]:
    try:
        fields = json.loads(entry)
        message = fields.get("MESSAGE")
    except (ValueError, AttributeError):
        return []
    if isinstance(message, list) and all(isinstance(byte, int) for byte in message):
        # journald hands out what is not plain text, such as coloured lines, as a list of bytes.
        message = bytes(message).decode(errors="replace")
    if not isinstance(message, str):
        return []
    # Messages of the unit's processes carry the first field, systemd's own about the unit the second.
    invocation = str(fields.get("_SYSTEMD_INVOCATION_ID") or "")
    return [(str(fields.get("INVOCATION_ID") or invocation), line) for line in message.splitlines()]
