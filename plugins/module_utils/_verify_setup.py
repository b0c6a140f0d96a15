# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The timer that repeats the proof on a host: program, settings and units, put there or taken away as one.

Everything is planned on making; ``apply`` writes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _commands, _verify_service
from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._file_diff import diff
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import (
    WantedDirectory,
    WantedFile,
    read_entry,
)
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY, FileSet
from ansible_collections.numapin.inference.plugins.module_utils._program import PROGRAM_DIRECTORY, program
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd, SystemdError
from ansible_collections.numapin.inference.plugins.module_utils._verify_service import Settings

TIMER, SERVICE = "numapin-verify.timer", "numapin-verify.service"
PROGRAM = f"{PROGRAM_DIRECTORY}/verify.pyz"
LEAST_INTERVAL_SECONDS, MOST_INTERVAL_SECONDS = 5, 86400
# So many rounds may be missed before a timer is said not to run.
_MISSED_ROUNDS = 3
# An emulated or overloaded host takes its time.
_SLACK_SECONDS = 60

_UNITS = "/etc/systemd/system"
_CACHE = "/var/cache/numapin"
_SERVICE_TEXT = """# Written by the Ansible collection numapin.inference, module verify_timer.
[Unit]
Description=Proof that instances are where they were planned (numapin)
# While they are being started there is nothing to prove.
After=vllm.target numapin-irq-affinity.service numapin-hugepages.service

[Service]
Type=oneshot
ExecStart={python} -I {program}
TimeoutStartSec=5min
# Not on the CPUs that instances have.
{affinity}Nice=10
IOSchedulingClass=idle
# The state outlives each run, and not the boot.
RuntimeDirectory=numapin
RuntimeDirectoryPreserve=yes
RuntimeDirectoryMode=0755
# Compiling the program costs more than the proof.
CacheDirectory=numapin/verify
# Leaves out that it is started and has ended, every time; from systemd 249 on.
LogLevelMax=notice

# numa_maps and open files of other users' processes ask for the first, their directories for the second{because}.
CapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH{override}
NoNewPrivileges=yes
ProtectSystem=strict
{writable}ProtectHome=yes
PrivateTmp=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0022
"""
_TIMER_TEXT = """# Written by the Ansible collection numapin.inference, module verify_timer.
[Unit]
Description=Proof that instances are where they were planned, regularly (numapin)

[Timer]
OnBootSec={interval}s
OnUnitActiveSec={interval}s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


class VerifyTimerError(NumapinError):
    """The timer cannot be what was asked."""


class Wanted(t.NamedTuple):
    """The timer as it shall be; ``cpus`` is where its program runs, empty for anywhere."""

    settings: Settings
    cpus: str


class Last(t.NamedTuple):
    """What the timer saw last: the state that it left, and what is wrong with the timer itself."""

    state: dict[str, t.Any] | None
    problems: list[str]


def wanted_timer(params: t.Mapping[str, t.Any]) -> Wanted:
    """Check the options. Raises VerifyTimerError."""
    interval, percent = params["interval_seconds"], params["minimum_locality_percent"]
    if not LEAST_INTERVAL_SECONDS <= interval <= MOST_INTERVAL_SECONDS:
        raise VerifyTimerError(
            f"interval_seconds is {interval}; it must be from {LEAST_INTERVAL_SECONDS} to {MOST_INTERVAL_SECONDS}"
        )
    if not 0 <= percent <= 100:
        raise VerifyTimerError(f"minimum_locality_percent is {percent:g}; it must be from 0 to 100")
    directory = checked_directory(params["textfile_directory"])
    return Wanted(Settings(interval, percent, directory, params["fail_on_drift"]), checked_cpus(params["cpus"]))


def checked_directory(text: str) -> str | None:
    """A collector's directory as a unit can name it; nothing where none is given. Raises VerifyTimerError."""
    if text and (not os.path.isabs(text) or set(text) & set(" \t\n\"'%\\")):
        raise VerifyTimerError(
            f"textfile_directory is {text!r}; it must be an absolute path without blanks, quotes, % and \\"
        )
    return text or None


def checked_cpus(text: str) -> str:
    """CPUs as a unit names them; empty for any. Raises VerifyTimerError."""
    try:
        return format_cpulist(parse_cpulist(text)) if text else ""
    except CpusetError as error:
        raise VerifyTimerError(f"cpus is {text!r}: {error}") from error


class VerifyTimer:
    """One run of the module; ``wanted`` is None for a timer that is to go. Raises NumapinError; writes nothing."""

    def __init__(
        self,
        wanted: Wanted | None,
        *,
        python: str,
        check_mode: bool,
        state_directory: str = STATE_DIRECTORY,
        run_directory: str = _verify_service.RUN_DIRECTORY,
        run: _commands.Runner = _commands.run,
        has_systemd: bool | None = None,
    ) -> None:
        self._wanted = wanted
        self._run_directory = run_directory
        self._has_systemd = os.path.isdir("/run/systemd/system") if has_systemd is None else has_systemd
        if wanted is not None and not self._has_systemd:
            raise VerifyTimerError("the timer needs systemd, which does not run here: set verify_timer: false")
        self._systemd = Systemd(run)
        self._files = FileSet("verify_timer", state_directory)
        self._left = self._what_runs_left()
        files, directories = _files_of(wanted, python) if wanted is not None else ([], [])
        self._plan = self._files.plan(files, directories, check_mode=check_mode)
        self._timer = self._systemd.show([TIMER])[TIMER] if self._has_systemd else None
        self.action = self._planned_action()
        self.changed = bool(self._plan.changed or self.action != "none" or self._left)

    @property
    def changed_files(self) -> list[str]:
        return self._plan.changed_files

    @property
    def removed_files(self) -> list[str]:
        return [*self._plan.removed_files, *self._left]

    def _what_runs_left(self) -> list[str]:
        """Files that the program wrote and writes no more; where it goes, all of them."""
        names = (_verify_service.STATE_NAME, _verify_service.METRICS_NAME)
        paths = [] if self._wanted else [os.path.join(self._run_directory, name) for name in names]
        directory = self._directory_before()
        if directory and (self._wanted is None or directory != self._wanted.settings.textfile_directory):
            paths.append(os.path.join(directory, _verify_service.TEXTFILE_NAME))
        return [path for path in paths if os.path.exists(path)]

    def _directory_before(self) -> str | None:
        """The collector's directory that the settings name, or the last state where these are damaged."""
        try:
            configuration = read_entry(_verify_service.CONFIGURATION)
            return _verify_service.parse_settings(configuration.content.decode(errors="replace")).textfile_directory
        except NumapinError:
            state = _verify_service.read_state(self._run_directory) or {}
            directory = state.get("textfile_directory")
            return directory if isinstance(directory, str) else None

    def _planned_action(self) -> str:
        """Return what becomes of the timer: started, restarted, stopped, none."""
        if self._timer is None:
            return "none"
        up = self._timer.enabled and self._timer.active_state == "active"
        if self._wanted is None:
            return "stopped" if self._timer.enabled or self._timer.active_state == "active" else "none"
        if not up:
            return "started"
        return "restarted" if self._plan.changed_files or self._timer.needs_reload else "none"

    def diff(self) -> list[dict[str, str]]:
        """Return one entry for each file; the program only by its name."""
        return [entry for entry in diff(self._plan) if PROGRAM not in entry["before_header"]]

    def last(self, now_seconds: float) -> Last:
        """Return what the timer saw last, as it was before this run."""
        state = _verify_service.read_state(self._run_directory)
        if self._wanted is None or self.action != "none" or self._plan.changed:
            return Last(state, [])
        if state is None:
            return Last(None, self._failed_before_it_wrote())
        age = now_seconds - state["timestamp_seconds"]
        if not state["success"]:
            return Last(state, [f"{SERVICE} cannot make its proof: {state['error']}"])
        if age > _MISSED_ROUNDS * state["interval_seconds"] + _SLACK_SECONDS:
            every = f"wanted is one every {state['interval_seconds']}"
            told = f"{TIMER} has made no proof for {age:.0f} seconds, {every}: see systemctl status {SERVICE}"
            return Last(state, [told])
        return Last(state, [])

    def _failed_before_it_wrote(self) -> list[str]:
        """A program that does not get as far as writing leaves nothing that would tell so."""
        service = self._systemd.show([SERVICE])[SERVICE]
        if service.active_state != "failed":
            return []
        return [f"{SERVICE} failed and left no proof (result {service.result}): see systemctl status {SERVICE}"]

    def apply(self) -> None:
        """Write, start or stop, read back. Raises NumapinError."""
        if self.action == "stopped":
            self._systemd.change("disable", [TIMER], "--now")
            self._systemd.change("stop", [SERVICE])
        self._files.apply(self._plan)
        if self._has_systemd and (self._plan.changed or self.action != "none"):
            self._systemd.daemon_reload()
        for path in self._left:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if self._wanted is None:
            shutil.rmtree(os.path.join(_CACHE, "verify"), ignore_errors=True)
            for directory in (_CACHE, self._run_directory):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            return
        if self.action in ("started", "restarted"):
            self._systemd.change("enable", [TIMER])
            self._systemd.change("restart", [TIMER])
            timer = self._systemd.show([TIMER])[TIMER]
            if timer.active_state != "active":
                raise SystemdError(f"{TIMER} is {timer.state} after its start: see journalctl --unit={TIMER}")


def _files_of(wanted: Wanted, python: str) -> tuple[list[WantedFile], list[WantedDirectory]]:
    directory = wanted.settings.textfile_directory
    service = _SERVICE_TEXT.format(
        python=python,
        program=PROGRAM,
        affinity=f"CPUAffinity={wanted.cpus}\n" if wanted.cpus else "",
        # What is not there is left out.
        writable=f"ReadWritePaths=-{directory}\n" if directory else "",
        because=",\n# and a collector's directory, which root need not own, for the third" if directory else "",
        override=" CAP_DAC_OVERRIDE" if directory else "",
    )
    timer = _TIMER_TEXT.format(interval=wanted.settings.interval_seconds)
    texts = {
        PROGRAM: program(_verify_service.ENTRY),
        _verify_service.CONFIGURATION: _verify_service.settings_text(wanted.settings).encode(),
        f"{_UNITS}/{SERVICE}": service.encode(),
        f"{_UNITS}/{TIMER}": timer.encode(),
    }
    files = [WantedFile(path, content, 0o644, owner="root", group="root") for path, content in texts.items()]
    return files, [
        WantedDirectory(os.path.dirname(_verify_service.CONFIGURATION), 0o755),
        WantedDirectory(PROGRAM_DIRECTORY, 0o755),
    ]


def now() -> float:
    """Return the time as the state has it."""
    return time.time()
