# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the watchdog leaves on a host, planned with a systemd that answers; that it works is shown in containers."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _watchdog, _watchdog_setup
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._watchdog_setup import (
    PROGRAM,
    Wanted,
    WatchdogService,
    WatchdogSetupError,
    wanted_watchdog,
)

if t.TYPE_CHECKING:
    from pathlib import Path

DEFAULTS: dict[str, t.Any] = {"stalled_seconds": 120, "textfile_directory": "/collector", "cpus": "0,32"}
UNIT = "/etc/systemd/system/numapin-watchdog.service"
FILES = [PROGRAM, "/etc/numapin/watchdog.json", UNIT]


class Host:
    """A systemd, and where the files are instead of on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_directory = root / "run"
        self.run_directory.mkdir()
        self.active = "inactive"
        self.calls: list[str] = []

    def systemctl(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        self.calls.append(" ".join(argv[1:]))
        self.active = {"restart": "active", "disable": "inactive"}.get(argv[1], self.active)
        enabled = "enabled" if self.active == "active" else "disabled"
        return Result(0, f"LoadState=loaded\nActiveState={self.active}\nUnitFileState={enabled}\n", "")

    def service(self, wanted: Wanted | None, check_mode: bool = False, has_systemd: bool = True) -> WatchdogService:
        self.calls = []
        return WatchdogService(
            wanted,
            python="/usr/bin/python3",
            check_mode=check_mode,
            state_directory=str(self.root / "state"),
            run_directory=str(self.run_directory),
            run=self.systemctl,
            has_systemd=has_systemd,
        )

    def below(self, paths: t.Iterable[str]) -> list[str]:
        return [path.removeprefix(str(self.root)) for path in paths]

    def changes(self) -> list[str]:
        return [call for call in self.calls if not call.startswith("show")]


@pytest.fixture(name="host")
def fixture_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The paths are constants: below a directory of the test they are as on a host."""
    for module, name in (
        (_watchdog_setup, "PROGRAM"),
        (_watchdog_setup, "PROGRAM_DIRECTORY"),
        (_watchdog_setup, "_UNIT_PATH"),
        (_watchdog, "CONFIGURATION"),
    ):
        monkeypatch.setattr(module, name, str(tmp_path) + getattr(module, name))
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "usr/local/lib").mkdir(parents=True)
    return Host(tmp_path)


def test_first_run_second_run_and_away_again(host: Host) -> None:
    collector = host.root / "collector"
    wanted = wanted_watchdog({**DEFAULTS, "textfile_directory": str(collector)})
    preview = host.service(wanted, check_mode=True)
    assert (preview.changed, preview.action, host.below(preview.changed_files)) == (True, "started", FILES)
    assert not (host.root / UNIT.lstrip("/")).exists()
    first = host.service(wanted)
    shown = {entry["after_header"].removeprefix(str(host.root)).split()[0]: entry["after"] for entry in first.diff()}
    assert PROGRAM not in shown
    assert "\nCPUAffinity=0,32\n" in shown[UNIT]
    assert f"\nReadWritePaths=-{collector}\n" in shown[UNIT]
    assert f"\nExecStart=/usr/bin/python3 -I {host.root}{PROGRAM}\n" in shown[UNIT]
    assert "\nCapabilityBoundingSet=CAP_KILL CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE\n" in shown[UNIT]
    first.apply()
    assert host.changes() == [
        "daemon-reload",
        "enable -- numapin-watchdog.service",
        "restart -- numapin-watchdog.service",
    ]

    second = host.service(wanted)
    assert (second.changed, second.action, second.changed_files) == (False, "none", [])

    collector.mkdir()
    left = [host.run_directory / "watchdog.json", collector / "numapin-watchdog.prom"]
    for path in left:
        path.write_text("")
    away = host.service(None)
    assert (away.changed, away.action) == (True, "stopped")
    assert set(host.below(away.removed_files)) == {*FILES, *host.below(map(str, left))}
    away.apply()
    assert host.changes() == ["disable --now -- numapin-watchdog.service", "daemon-reload"]
    assert not any((host.root / path.lstrip("/")).exists() for path in FILES)
    assert not any(path.exists() for path in left)
    assert not host.run_directory.exists()
    again = host.service(None)
    assert (again.changed, again.removed_files) == (False, [])


def test_another_limit_restarts_it_and_a_stopped_one_is_started(host: Host) -> None:
    host.service(wanted_watchdog(DEFAULTS)).apply()
    changed = host.service(wanted_watchdog({**DEFAULTS, "stalled_seconds": 60}))
    assert (changed.action, host.below(changed.changed_files)) == ("restarted", [FILES[1]])
    host.active = "inactive"
    stopped = host.service(wanted_watchdog(DEFAULTS))
    assert (stopped.changed, stopped.action, stopped.changed_files) == (True, "started", [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stalled_seconds": 9}, "stalled_seconds is 9; it must be from 10 to 86400"),
        ({"cpus": "0-"}, "cpus is '0-'"),
        ({"textfile_directory": "collector"}, "textfile_directory is 'collector'; it must be an absolute path"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, t.Any], said: str) -> None:
    with pytest.raises(NumapinError) as refused:
        wanted_watchdog({**DEFAULTS, **given})
    assert said in str(refused.value)


def test_without_systemd_it_is_refused(host: Host) -> None:
    with pytest.raises(WatchdogSetupError, match=r"needs systemd.*set vllm_watchdog: false"):
        host.service(wanted_watchdog(DEFAULTS), has_systemd=False)
    assert not host.service(None, has_systemd=False).changed
