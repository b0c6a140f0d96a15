# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What the placement of interrupts leaves on a host: program, configuration and service, and irqbalance's settings.

Everything is planned before anything is written. ``Setup`` is one run of the module.
"""

from __future__ import annotations

import hashlib
import json
import os
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _commands, _irq_service, _irqbalance
from ansible_collections.numapin.inference.plugins.module_utils._file_diff import diff
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import WantedDirectory, WantedFile
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import CONFIGURATION, SERVICE
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError
from ansible_collections.numapin.inference.plugins.module_utils._program import PROGRAM_DIRECTORY, program
from ansible_collections.numapin.inference.plugins.module_utils._systemd import (
    CONFIG_ID_VARIABLE,
    Systemd,
    SystemdError,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._irq_state import Originals

UNIT = SERVICE
PROGRAM = f"{PROGRAM_DIRECTORY}/irq-affinity.pyz"
_UNIT_PATH = f"/etc/systemd/system/{UNIT}"
# Longer than the service waits for a run that has the lock.
_START_SECONDS = 80
_RESTART_DUE = "restart_due"
_UNIT_TEXT = """# Written by the Ansible collection numapin.inference, module irq_affinity.
[Unit]
Description=Interrupts on their NUMA nodes (numapin)
After=systemd-udevd.service irqbalance.service

[Service]
Type=notify
Environment={variable}={config_id}
ExecStart={python} -I {program}
Restart=always
RestartSec=5
TimeoutStartSec={start_seconds}
Nice=5
NoNewPrivileges=yes
ProtectSystem=strict
StateDirectory=numapin
ProtectHome=yes
PrivateTmp=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK

[Install]
WantedBy=multi-user.target
"""


class Leftovers(t.NamedTuple):
    """What a run wants to be on the host; without a configuration there is no service."""

    configuration: dict[str, t.Any] | None
    irqbalance: str  # coexist | stop | ignore
    devices: tuple[str, ...]  # PCI addresses that irqbalance shall leave alone
    actions: tuple[str, ...]  # and patterns of action names


class Setup:
    """Service and irqbalance of the running machine, planned on making. Raises ``NumapinError``; writes nothing."""

    def __init__(
        self,
        wanted: Leftovers,
        originals: Originals,
        *,
        check_mode: bool,
        python: str,
        state_directory: str,
        run: _commands.Runner = _commands.run,
        has_systemd: bool | None = None,
    ) -> None:
        self._wanted = wanted
        self._originals = originals
        self._run = run
        self._systemd = Systemd(run)
        self._has_systemd = os.path.isdir("/run/systemd/system") if has_systemd is None else has_systemd
        self._check_mode = check_mode
        if wanted.configuration is not None and not self._has_systemd:
            raise IrqError("persistent: true needs systemd, which does not run here: give persistent: false")
        self.irqbalance = _irqbalance.find(run) if self._has_systemd else _irqbalance.ABSENT
        self._bans = wanted.irqbalance == "coexist" and self.irqbalance.installed
        self._plan_environment()
        self._files = FileSet("irq_affinity", state_directory)
        files, directories = self._wanted_files(python)
        self._plan = self._files.plan(files, directories, check_mode=check_mode)
        self._unit = self._systemd.show([UNIT])[UNIT] if self._has_systemd else None
        # A run that wrote the files and failed to restart the service leaves one of the old program.
        self._runs_this = (
            self._unit is not None
            and wanted.configuration is not None
            and self._systemd.variable(self._unit.main_pid, CONFIG_ID_VARIABLE) == self._config_id
        )
        # As planned: what is written below must not change the answer.
        self.changed = self._changes()
        self.report = self._report()

    # Plan

    def _plan_environment(self) -> None:
        """Work out irqbalance's environment file, and the administrator's own policy script."""
        self._environment: tuple[str, str | None, str | None] | None = None  # path, text before, text after
        self._administrators = self._originals.irqbalance.get("administrators")
        path = self.irqbalance.environment_file
        if not self._bans:
            self._plan_without_bans(self._originals.irqbalance.get("environment_file") or path)
            return
        if path is None or not self.irqbalance.takes_arguments:
            raise IrqError(
                "irqbalance: coexist needs a service that takes IRQBALANCE_ARGS from a file, and this host's"
                " irqbalance.service does not: choose stop or ignore"
            )
        before = _irqbalance.read_environment(path)
        _irqbalance.refuse_hidden_arguments(self.irqbalance, before or "")
        arguments = _irqbalance.with_our_script(before or "", path)
        self._administrators = arguments.administrators or self._administrators
        self._environment = path, before, arguments.text

    def _plan_without_bans(self, path: str | None) -> None:
        """Take our script out of the file that has it, also when irqbalance is masked or gone: the file stays."""
        before = None if path is None else _irqbalance.read_environment(path)
        if path is None or before is None or _irqbalance.POLICY_SCRIPT not in before:
            return
        after: str | None = _irqbalance.without_our_script(before, self._administrators, path)
        if not after and self._originals.irqbalance.get("file_made"):
            after = None
        self._environment = path, before, after

    def _wanted_files(self, python: str) -> tuple[list[WantedFile], list[WantedDirectory]]:
        files, directories = [], []
        self._config_id = ""
        configuration = self._wanted.configuration
        if configuration is not None:
            text = json.dumps(configuration, indent=2, sort_keys=True) + "\n"
            archive = program(_irq_service.ENTRY)
            self._config_id = hashlib.sha256(archive + text.encode()).hexdigest()[:16]
            unit = _UNIT_TEXT.format(
                python=python,
                program=PROGRAM,
                start_seconds=_START_SECONDS,
                variable=CONFIG_ID_VARIABLE,
                config_id=self._config_id,
            )
            files = [
                WantedFile(PROGRAM, archive, 0o644, owner="root", group="root"),
                WantedFile(CONFIGURATION, text.encode(), 0o644, owner="root", group="root"),
                WantedFile(_UNIT_PATH, unit.encode(), 0o644, owner="root", group="root"),
            ]
            directories.append(WantedDirectory(os.path.dirname(CONFIGURATION), 0o755))
        if self._bans:
            script = _irqbalance.policy_script(self._wanted.devices, self._wanted.actions, self._administrators)
            files.append(WantedFile(_irqbalance.POLICY_SCRIPT, script.encode(), 0o755, owner="root", group="root"))
        if files:
            directories.append(WantedDirectory(PROGRAM_DIRECTORY, 0o755))
        return files, directories

    @property
    def _environment_changes(self) -> bool:
        return self._environment is not None and self._environment[1] != self._environment[2]

    @property
    def irqbalance_restarts(self) -> bool:
        """Whether irqbalance has to read anew what it may touch; it moves everything else when it does."""
        if not (self.irqbalance.installed and self.irqbalance.active) or self._wanted.irqbalance == "stop":
            return False
        if _RESTART_DUE in self._originals.irqbalance:
            return True
        return self._environment_changes or _irqbalance.POLICY_SCRIPT in self._plan.changed_files

    @property
    def irqbalance_stops(self) -> bool:
        """Whether irqbalance is to be stopped and is not."""
        wanted = self._wanted.irqbalance == "stop" and self.irqbalance.installed
        return wanted and (self.irqbalance.active or self.irqbalance.enabled)

    @property
    def irqbalance_comes_back(self) -> bool:
        """Whether an earlier run stopped irqbalance and this one does not want that any more."""
        return self._wanted.irqbalance != "stop" and "service" in self._originals.irqbalance

    @property
    def _service_action(self) -> str | None:
        """What has to be done with the service: restart, start, stop."""
        if self._unit is None:
            return None
        if self._wanted.configuration is None:
            return "stop" if self._unit.enabled or self._unit.active_state not in ("inactive", "failed") else None
        ours = {PROGRAM, CONFIGURATION, _UNIT_PATH}
        if ours & set(self._plan.changed_files):
            return "restart"
        if self._unit.active_state != "active" or not self._unit.enabled:
            return "start"
        return None if self._runs_this else "restart"

    @property
    def _reloads(self) -> bool:
        """Whether systemd knows another unit than the one on disk, or will once it is written."""
        if self._unit is None:
            return False
        changed = _UNIT_PATH in (*self._plan.changed_files, *self._plan.removed_files)
        return changed or (self._wanted.configuration is not None and self._unit.needs_reload)

    def _changes(self) -> bool:
        return bool(
            self._plan.changed
            or self._environment_changes
            or self.irqbalance_restarts
            or self._reloads
            or self._service_action
            or self.irqbalance_stops
            or self.irqbalance_comes_back
        )

    def diff(self) -> list[dict[str, str]]:
        """Return one entry for each file; the program only by its name."""
        entries = [entry for entry in diff(self._plan) if PROGRAM not in entry["before_header"]]
        if self._environment is not None and self._environment_changes:
            path, before, after = self._environment
            entries.append({"before_header": path, "after_header": path, "before": before or "", "after": after or ""})
        return entries

    def _report(self) -> dict[str, t.Any]:
        """Return what is to be done, as the module returns it."""
        irqbalance = "none"
        if self.irqbalance_stops:
            irqbalance = "stopped"
        elif self.irqbalance_comes_back and self.irqbalance.installed:
            irqbalance = "started"
        elif self.irqbalance_restarts:
            irqbalance = "restarted"
        elif self._environment_changes:
            irqbalance = "configured"
        done = {"restart": "restarted", "start": "started", "stop": "stopped", None: "none"}
        return {
            "files": self._plan.changed_files,
            "removed_files": list(self._plan.removed_files),
            "service": done[self._service_action],
            "irqbalance": irqbalance,
        }

    # Write

    def before_placing(self) -> None:
        """Stop who would interfere: our own service when it shall go, irqbalance when it shall not touch ours."""
        if self._service_action == "stop":
            self._systemd.change("disable", [UNIT], "--now")
        self._keep_irqbalance()
        environment = self._environment
        self._files.apply(self._plan)
        if environment is not None and self._environment_changes:
            _irqbalance.write_environment(environment[0], environment[2])
        self._forget_bans()
        if self._reloads:
            self._systemd.daemon_reload()
        if self.irqbalance_stops:
            self._systemd.change("disable", [_irqbalance.UNIT], "--now")
        elif self.irqbalance_comes_back:
            self._bring_irqbalance_back()
        elif self.irqbalance_restarts:
            self._systemd.change("restart", [_irqbalance.UNIT])
        if self._originals.irqbalance.pop(_RESTART_DUE, None):
            self._originals.save()

    def _keep_irqbalance(self) -> None:
        kept = self._originals.irqbalance
        if self.irqbalance_stops:
            now = {"enabled": self.irqbalance.enabled, "active": self.irqbalance.active}
            kept.setdefault("service", now)
        if self.irqbalance_restarts:
            # For the next run, should this one not come so far: it sees files that are as wanted.
            kept[_RESTART_DUE] = True
        if self._bans:
            if self._administrators:
                kept["administrators"] = self._administrators
            if self._environment is not None:
                kept["environment_file"] = self._environment[0]
                if self._environment[1] is None:
                    kept["file_made"] = True
        self._originals.save()

    def _forget_bans(self) -> None:
        """Only once the files are written: a run that fails before needs the administrator's script again."""
        if not self._bans:
            for key in ("administrators", "file_made", "environment_file"):
                self._originals.irqbalance.pop(key, None)
            self._originals.save()

    def _bring_irqbalance_back(self) -> None:
        before = self._originals.irqbalance.pop("service")
        there = self.irqbalance.installed
        if there and before.get("enabled"):
            self._systemd.change("enable", [_irqbalance.UNIT])
        if there and before.get("active"):
            self._systemd.change("start", [_irqbalance.UNIT])
        self._originals.save()

    def after_placing(self) -> None:
        """Start the service, which looks for itself; not while this run keeps others out. Raises ``SystemdError``."""
        action = self._service_action
        if action not in ("start", "restart") or self._unit is None:
            return
        if not self._unit.enabled:
            self._systemd.change("enable", [UNIT])
        try:
            self._systemd.change("restart", [UNIT])
        except SystemdError as error:
            lines = [text for _invocation, text in self._systemd.journal(UNIT, 15)]
            raise SystemdError("\n".join([f"{UNIT} does not start: {error}", *lines])) from error
        unit = self._systemd.show([UNIT])[UNIT]
        if unit.active_state != "active":
            raise SystemdError(f"{UNIT} is {unit.state} after its start: see journalctl --unit={UNIT}")
