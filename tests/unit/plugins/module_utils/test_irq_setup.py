# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is left on a host, and what becomes of irqbalance: planned with a systemd that answers, nothing is written.

That the plan works is shown in the lab, where there is a systemd.
"""

from __future__ import annotations

import shutil
import subprocess
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _commands, _irqbalance
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._irq_setup import PROGRAM, UNIT, Leftovers, Setup
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import Originals
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError
from ansible_collections.numapin.inference.plugins.module_utils._systemd import SystemdError

if t.TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION: dict[str, t.Any] = {"rules": [], "check_seconds": 10}
UNCHANGED = Plan((), (), (), (), (), (), None, None, ())
COEXIST = Leftovers(CONFIGURATION, "coexist", ("0000:41:00.0",), ())


class Systemd:
    """Answers for systemctl show."""

    def __init__(self, environment: Path, irqbalance: str = "active", unit: str = "inactive") -> None:
        self.environment = environment
        self.irqbalance = irqbalance
        self.unit = unit
        self.arguments = "$IRQBALANCE_ARGS"
        self.main_pid = 0
        self.needs_reload = "no"
        self.refuses = ""
        self.calls: list[str] = []

    def __call__(self, argv: t.Sequence[str], timeout_seconds: float) -> _commands.Result:
        self.calls.append(argv[1])
        if argv[1] == self.refuses:
            return _commands.Result(1, "", "Connection timed out\n")
        if argv[-1] == _irqbalance.UNIT:
            load_state = {"absent": "not-found", "masked": "masked"}.get(self.irqbalance, "loaded")
            there = load_state == "loaded"
            lines = [
                f"LoadState={load_state}",
                f"ActiveState={self.irqbalance if there else 'inactive'}",
                f"UnitFileState={'enabled' if self.irqbalance == 'active' else 'disabled'}",
            ]
            if there:
                lines += [
                    f"EnvironmentFiles={self.environment} (ignore_errors=yes)",
                    f"ExecStart={{ argv[]=/usr/sbin/irqbalance {self.arguments} ; }}",
                ]
        else:
            enabled = "enabled" if self.unit == "active" else "disabled"
            lines = ["LoadState=loaded", f"ActiveState={self.unit}", f"UnitFileState={enabled}"]
            lines += [f"MainPID={self.main_pid}", f"NeedDaemonReload={self.needs_reload}"]
        return _commands.Result(0, "\n".join(lines) + "\n", "")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """A host with irqbalance, whose environment file the administrator has not changed."""
    monkeypatch.setattr(_commands, "find_executable", lambda name: f"/usr/bin/{name}")
    (tmp_path / "irqbalance").write_text("#IRQBALANCE_ARGS=\n", encoding="utf-8")
    return Systemd(tmp_path / "irqbalance")


def setup(wanted: Leftovers, systemd: Systemd, tmp_path: Path, kept: dict[str, t.Any] | None = None) -> Setup:
    """Plan one run."""
    originals = Originals(str(tmp_path / "state"))
    originals.irqbalance = kept or {}
    planned = Setup(
        wanted,
        originals,
        check_mode=True,
        python="/usr/bin/python3",
        state_directory=str(tmp_path / "state"),
        run=systemd,
        has_systemd=True,
    )
    assert set(systemd.calls) == {"show"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["irqbalance"]
    return planned


def test_first_run(systemd: Systemd, tmp_path: Path) -> None:
    planned = setup(COEXIST, systemd, tmp_path)
    assert planned.changed
    assert planned.report == {
        "files": [
            PROGRAM,
            "/etc/numapin/irq-affinity.json",
            f"/etc/systemd/system/{UNIT}",
            _irqbalance.POLICY_SCRIPT,
        ],
        "removed_files": [],
        "service": "restarted",
        "irqbalance": "restarted",
    }
    shown = {entry["after_header"].split()[0]: entry["after"] for entry in planned.diff()}
    assert PROGRAM not in shown
    assert f'IRQBALANCE_ARGS="--policyscript={_irqbalance.POLICY_SCRIPT}"' in shown[str(systemd.environment)]
    assert f"ExecStart=/usr/bin/python3 -I {PROGRAM}" in shown[f"/etc/systemd/system/{UNIT}"]


def test_irqbalance_that_does_not_run_is_not_started(systemd: Systemd, tmp_path: Path) -> None:
    systemd.irqbalance = "inactive"
    assert setup(COEXIST, systemd, tmp_path).report["irqbalance"] == "configured"
    systemd.irqbalance = "absent"
    planned = setup(COEXIST, systemd, tmp_path)
    assert planned.report["irqbalance"] == "none"
    assert _irqbalance.POLICY_SCRIPT not in planned.report["files"]


def test_irqbalance_stopped_and_back(systemd: Systemd, tmp_path: Path) -> None:
    stop = COEXIST._replace(irqbalance="stop")
    assert setup(stop, systemd, tmp_path).report["irqbalance"] == "stopped"
    systemd.irqbalance = "inactive"
    kept = {"service": {"enabled": True, "active": True}}
    assert setup(stop, systemd, tmp_path, kept).report["irqbalance"] == "none"
    assert setup(COEXIST, systemd, tmp_path, kept).report["irqbalance"] == "started"
    assert setup(Leftovers(None, "ignore", (), ()), systemd, tmp_path, kept).report["irqbalance"] == "started"


def test_irqbalance_stopped_and_removed_since(systemd: Systemd, tmp_path: Path) -> None:
    systemd.irqbalance = "absent"
    kept = {"service": {"enabled": True, "active": True}}
    planned = setup(Leftovers(None, "ignore", (), ()), systemd, tmp_path, kept)
    assert (planned.changed, planned.report["irqbalance"]) == (True, "none")
    planned.before_placing()
    assert not {"enable", "start"} & set(systemd.calls)


def test_bans_go_when_they_are_not_wanted(systemd: Systemd, tmp_path: Path) -> None:
    ours = _irqbalance.with_our_script("IRQBALANCE_ARGS=-l /opt/own\n", "f").text
    systemd.environment.write_text(ours, encoding="utf-8")
    planned = setup(COEXIST._replace(irqbalance="ignore"), systemd, tmp_path, {"administrators": "/opt/own"})
    assert planned.report["irqbalance"] == "restarted"
    assert planned.diff()[-1]["after"] == 'IRQBALANCE_ARGS="--policyscript=/opt/own"\n'


@pytest.mark.parametrize("irqbalance", ["masked", "absent"])
def test_bans_go_when_irqbalance_is_masked_or_removed(systemd: Systemd, tmp_path: Path, irqbalance: str) -> None:
    systemd.environment.write_text(_irqbalance.with_our_script("", "f").text, encoding="utf-8")
    systemd.irqbalance = irqbalance
    kept = {"administrators": "/opt/own", "environment_file": str(systemd.environment)}
    planned = setup(Leftovers(None, "ignore", (), ()), systemd, tmp_path, kept)
    assert planned.report["irqbalance"] == "configured"
    assert planned.diff()[-1]["after"] == ""
    systemd.environment.write_text(
        _irqbalance.with_our_script("IRQBALANCE_ARGS=-l /opt/own\n", "f").text, encoding="utf-8"
    )
    planned = setup(Leftovers(None, "ignore", (), ()), systemd, tmp_path, kept)
    assert planned.diff()[-1]["after"] == 'IRQBALANCE_ARGS="--policyscript=/opt/own"\n'


def test_a_write_that_fails_forgets_nothing(systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = _irqbalance.with_our_script("IRQBALANCE_ARGS=-l /opt/own\n", "f").text
    systemd.environment.write_text(ours, encoding="utf-8")
    kept = {"administrators": "/opt/own", "environment_file": str(systemd.environment)}
    planned = setup(Leftovers(None, "ignore", (), ()), systemd, tmp_path, dict(kept))

    def full(_path: str, _text: str | None) -> t.NoReturn:
        raise IrqError("no space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(_irqbalance, "write_environment", full)
        with pytest.raises(IrqError, match="no space"):
            planned.before_placing()
    assert {key: planned._originals.irqbalance[key] for key in kept} == kept
    assert {key: Originals.load(str(tmp_path / "state")).irqbalance[key] for key in kept} == kept
    planned.before_placing()
    assert planned._originals.irqbalance == {}
    assert systemd.environment.read_text(encoding="utf-8") == 'IRQBALANCE_ARGS="--policyscript=/opt/own"\n'


def test_a_restart_of_irqbalance_that_failed_is_done_by_the_next_run(systemd: Systemd, tmp_path: Path) -> None:
    ours = _irqbalance.with_our_script("IRQBALANCE_ARGS=-i1\n", "f").text
    systemd.environment.write_text(ours, encoding="utf-8")
    nothing = Leftovers(None, "ignore", (), ())
    planned = setup(nothing, systemd, tmp_path)
    systemd.refuses = "restart"
    with pytest.raises(SystemdError, match="Connection timed out"):
        planned.before_placing()
    systemd.refuses = ""
    kept = Originals.load(str(tmp_path / "state")).irqbalance
    shutil.rmtree(tmp_path / "state")
    systemd.calls.clear()
    # The file is as wanted now.
    again = setup(nothing, systemd, tmp_path, kept)
    assert (again.changed, again.report["irqbalance"]) == (True, "restarted")
    again.before_placing()
    assert systemd.calls.count("restart") == 1
    assert again._originals.irqbalance == {}
    shutil.rmtree(tmp_path / "state")
    systemd.calls.clear()
    assert not setup(nothing, systemd, tmp_path).changed


def test_a_service_of_an_older_program_is_restarted(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore = Leftovers(CONFIGURATION, "ignore", (), ())
    unit = next(one["after"] for one in setup(ignore, systemd, tmp_path).diff() if UNIT in one["after_header"])
    running = next(line.partition("=")[2] for line in unit.splitlines() if line.startswith("Environment="))
    systemd.unit = "active"
    # As after a run that wrote all files.
    monkeypatch.setattr(FileSet, "plan", lambda *_given, **_check_mode: UNCHANGED)
    for variable, action in ((running, "none"), ("NUMAPIN_CONFIG_ID=older", "restarted")):
        with subprocess.Popen(["sleep", "60"], env=dict([variable.split("=")])) as process:
            systemd.main_pid = process.pid
            planned = setup(ignore, systemd, tmp_path)
            process.kill()
        assert (planned.report["service"], planned.changed) == (action, action != "none")


def test_systemd_is_told_of_a_unit_that_it_has_not_read(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileSet, "plan", lambda *_given, **_check_mode: UNCHANGED)
    systemd.unit, systemd.needs_reload = "active", "yes"
    planned = setup(Leftovers(CONFIGURATION, "ignore", (), ()), systemd, tmp_path)
    assert planned.changed
    monkeypatch.setattr(FileSet, "apply", lambda *_given: None)
    planned.before_placing()
    assert "daemon-reload" in systemd.calls


def test_nothing_to_do(systemd: Systemd, tmp_path: Path) -> None:
    planned = setup(Leftovers(None, "ignore", (), ()), systemd, tmp_path)
    assert not planned.changed
    assert planned.report == {"files": [], "removed_files": [], "service": "none", "irqbalance": "none"}
    systemd.unit = "active"
    assert setup(Leftovers(None, "ignore", (), ()), systemd, tmp_path).report["service"] == "stopped"


def test_what_cannot_be_had(systemd: Systemd, tmp_path: Path) -> None:
    systemd.arguments = "--foreground"
    with pytest.raises(IrqError, match=r"takes IRQBALANCE_ARGS from a file.*choose stop or ignore"):
        setup(COEXIST, systemd, tmp_path)
    with pytest.raises(IrqError, match="persistent: true needs systemd, which does not run here"):
        Setup(
            COEXIST,
            Originals(str(tmp_path)),
            check_mode=True,
            python="python3",
            state_directory=str(tmp_path),
            has_systemd=False,
        )
