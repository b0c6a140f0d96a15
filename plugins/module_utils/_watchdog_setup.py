# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The watchdog's service on a host: program, settings and unit, put there or taken away as one.

Everything is planned on making; ``apply`` writes.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _commands, _watchdog
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
from ansible_collections.numapin.inference.plugins.module_utils._verify_setup import checked_cpus, checked_directory
from ansible_collections.numapin.inference.plugins.module_utils._watchdog import Settings

SERVICE = "numapin-watchdog.service"
PROGRAM = f"{PROGRAM_DIRECTORY}/watchdog.pyz"
MOST_STALLED_SECONDS = 86400

_UNIT_PATH = f"/etc/systemd/system/{SERVICE}"
_UNIT_TEXT = """# Written by the Ansible collection numapin.inference, module instance_watchdog.
[Unit]
Description=Instances that hang are killed and started again (numapin)
After=vllm.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={python} -I {program}
Restart=always
RestartSec=5
# Not on the CPUs that instances have.
{affinity}RuntimeDirectory=numapin
RuntimeDirectoryPreserve=yes
RuntimeDirectoryMode=0755

# To have systemd kill another user's unit, and to read the key in its environment{because}.
CapabilityBoundingSet=CAP_KILL CAP_SYS_PTRACE CAP_DAC_READ_SEARCH{override}
NoNewPrivileges=yes
ProtectSystem=strict
{writable}ProtectHome=yes
PrivateTmp=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0022

[Install]
WantedBy=multi-user.target
"""


class WatchdogSetupError(NumapinError):
    """The watchdog cannot be what was asked."""


class Wanted(t.NamedTuple):
    """The watchdog as it shall be; ``cpus`` is where it runs, empty for anywhere."""

    settings: Settings
    cpus: str


def wanted_watchdog(params: t.Mapping[str, t.Any]) -> Wanted:
    """Check the options. Raises NumapinError."""
    seconds = params["stalled_seconds"]
    if not _watchdog.LEAST_STALLED_SECONDS <= seconds <= MOST_STALLED_SECONDS:
        raise WatchdogSetupError(
            f"stalled_seconds is {seconds}; it must be from {_watchdog.LEAST_STALLED_SECONDS} to"
            f" {MOST_STALLED_SECONDS}, and longer than the longest step of the engine"
        )
    return Wanted(Settings(seconds, checked_directory(params["textfile_directory"])), checked_cpus(params["cpus"]))


class WatchdogService:
    """One run of the module; ``wanted`` is None for a watchdog that is to go. Raises NumapinError; writes nothing."""

    def __init__(
        self,
        wanted: Wanted | None,
        *,
        python: str,
        check_mode: bool,
        state_directory: str = STATE_DIRECTORY,
        run_directory: str = _watchdog.RUN_DIRECTORY,
        run: _commands.Runner = _commands.run,
        has_systemd: bool | None = None,
    ) -> None:
        self._wanted = wanted
        self._run_directory = run_directory
        self._has_systemd = os.path.isdir("/run/systemd/system") if has_systemd is None else has_systemd
        if wanted is not None and not self._has_systemd:
            raise WatchdogSetupError("the watchdog needs systemd, which does not run here: set vllm_watchdog: false")
        self._systemd = Systemd(run)
        self._files = FileSet("instance_watchdog", state_directory)
        self._left = self._what_it_left()
        files, directories = _files_of(wanted, python) if wanted is not None else ([], [])
        self._plan = self._files.plan(files, directories, check_mode=check_mode)
        self._unit = self._systemd.show([SERVICE])[SERVICE] if self._has_systemd else None
        self.action = self._planned_action()
        self.changed = bool(self._plan.changed or self.action != "none" or self._left)

    @property
    def changed_files(self) -> list[str]:
        return self._plan.changed_files

    @property
    def removed_files(self) -> list[str]:
        return [*self._plan.removed_files, *self._left]

    def _what_it_left(self) -> list[str]:
        """Files that the program wrote and writes no more."""
        paths = [] if self._wanted else [os.path.join(self._run_directory, _watchdog.STATE_NAME)]
        directory = None
        with contextlib.suppress(NumapinError):
            before = read_entry(_watchdog.CONFIGURATION).content.decode(errors="replace")
            directory = _watchdog.parse_settings(before).textfile_directory
        if directory and (self._wanted is None or directory != self._wanted.settings.textfile_directory):
            paths.append(os.path.join(directory, _watchdog.TEXTFILE_NAME))
        return [path for path in paths if os.path.exists(path)]

    def _planned_action(self) -> str:
        """What becomes of the service: started, restarted, stopped, none."""
        if self._unit is None:
            return "none"
        if self._wanted is None:
            return "none" if self._unit.down and not self._unit.enabled else "stopped"
        if not (self._unit.enabled and self._unit.active_state == "active"):
            return "started"
        return "restarted" if self._plan.changed_files or self._unit.needs_reload else "none"

    def diff(self) -> list[dict[str, str]]:
        """One entry for each file; the program only by its name."""
        return [entry for entry in diff(self._plan) if PROGRAM not in entry["before_header"]]

    def apply(self) -> None:
        """Write, start or stop, read back. Raises NumapinError."""
        if self.action == "stopped":
            self._systemd.change("disable", [SERVICE], "--now")
        self._files.apply(self._plan)
        if self._has_systemd and (self._plan.changed or self.action != "none"):
            self._systemd.daemon_reload()
        for path in self._left:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if self._wanted is None:
            with contextlib.suppress(OSError):
                os.rmdir(self._run_directory)
        elif self.action in ("started", "restarted"):
            self._systemd.change("enable", [SERVICE])
            self._systemd.change("restart", [SERVICE])
            unit = self._systemd.show([SERVICE])[SERVICE]
            if unit.active_state != "active":
                raise SystemdError(f"{SERVICE} is {unit.state} after its start: see journalctl --unit={SERVICE}")


def _files_of(wanted: Wanted, python: str) -> tuple[list[WantedFile], list[WantedDirectory]]:
    directory = wanted.settings.textfile_directory
    unit = _UNIT_TEXT.format(
        python=python,
        program=PROGRAM,
        affinity=f"CPUAffinity={wanted.cpus}\n" if wanted.cpus else "",
        # What is not there is left out.
        writable=f"ReadWritePaths=-{directory}\n" if directory else "",
        because=",\n# and for a collector's directory, which root need not own" if directory else "",
        override=" CAP_DAC_OVERRIDE" if directory else "",
    )
    texts = {
        PROGRAM: program(_watchdog.ENTRY),
        _watchdog.CONFIGURATION: _watchdog.settings_text(wanted.settings).encode(),
        _UNIT_PATH: unit.encode(),
    }
    files = [WantedFile(path, content, 0o644, owner="root", group="root") for path, content in texts.items()]
    return files, [
        WantedDirectory(os.path.dirname(_watchdog.CONFIGURATION), 0o755),
        WantedDirectory(PROGRAM_DIRECTORY, 0o755),
    ]
