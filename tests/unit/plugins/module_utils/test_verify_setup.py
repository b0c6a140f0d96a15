# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the timer leaves on a host, planned with a systemd that answers; that it works is shown in the lab."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _verify_service, _verify_setup
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import read_entry
from ansible_collections.numapin.inference.plugins.module_utils._verify_setup import (
    PROGRAM,
    VerifyTimer,
    VerifyTimerError,
    Wanted,
    wanted_timer,
)

if t.TYPE_CHECKING:
    from pathlib import Path

DEFAULTS: dict[str, t.Any] = {
    "interval_seconds": 60,
    "minimum_locality_percent": 99.0,
    "textfile_directory": "/var/lib/prometheus/node-exporter",
    "cpus": "0,32",
    "fail_on_drift": False,
}
FILES = [
    PROGRAM,
    "/etc/numapin/verify.json",
    "/etc/systemd/system/numapin-verify.service",
    "/etc/systemd/system/numapin-verify.timer",
]


class Host:
    """A systemd, and where the files of the timer are instead of on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_directory = root / "run"
        self.run_directory.mkdir()
        self.active = "inactive"
        self.service = "inactive"
        self.calls: list[str] = []

    def systemctl(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        self.calls.append(" ".join(argv[1:]))
        verb = argv[1]
        if verb == "restart":
            self.active = "active"
        elif verb == "disable":
            self.active = "inactive"
        if verb == "show" and argv[-1] == "numapin-verify.service":
            return Result(0, f"LoadState=loaded\nActiveState={self.service}\nResult=exit-code\n", "")
        enabled = "enabled" if self.active == "active" else "disabled"
        return Result(0, f"LoadState=loaded\nActiveState={self.active}\nUnitFileState={enabled}\n", "")

    def timer(self, wanted: Wanted | None, check_mode: bool = False, has_systemd: bool = True) -> VerifyTimer:
        self.calls = []
        return VerifyTimer(
            wanted,
            python="/usr/bin/python3",
            check_mode=check_mode,
            state_directory=str(self.root / "state"),
            run_directory=str(self.run_directory),
            run=self.systemctl,
            has_systemd=has_systemd,
        )

    def changes(self) -> list[str]:
        return [call for call in self.calls if not call.startswith("show")]

    def left_state(self, **state: t.Any) -> None:
        state = {"version": 1, "success": True, "error": None, "interval_seconds": 60, "problems": [], **state}
        (self.run_directory / "verify.json").write_text(json.dumps(state))


@pytest.fixture(name="host")
def fixture_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The paths are constants: below a directory of the test they are as on a host."""
    for module, name in (
        (_verify_setup, "PROGRAM"),
        (_verify_setup, "PROGRAM_DIRECTORY"),
        (_verify_setup, "_UNITS"),
        (_verify_setup, "_CACHE"),
        (_verify_service, "CONFIGURATION"),
    ):
        monkeypatch.setattr(module, name, str(tmp_path) + getattr(module, name))
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "usr/local/lib").mkdir(parents=True)
    return Host(tmp_path)


def below(host: Host, paths: t.Iterable[str]) -> list[str]:
    return [path.removeprefix(str(host.root)) for path in paths]


def test_first_run_second_run_and_away_again(host: Host) -> None:
    wanted = wanted_timer({**DEFAULTS, "textfile_directory": str(host.root / "collector")})
    preview = host.timer(wanted, check_mode=True)
    assert (preview.changed, preview.action, below(host, preview.changed_files)) == (True, "started", FILES)
    first = host.timer(wanted)
    assert below(host, first.changed_files) == FILES
    shown = {entry["after_header"].removeprefix(str(host.root)).split()[0]: entry["after"] for entry in first.diff()}
    assert PROGRAM not in shown
    assert "OnUnitActiveSec=60s\n" in shown["/etc/systemd/system/numapin-verify.timer"]
    service = shown["/etc/systemd/system/numapin-verify.service"]
    assert "\nCPUAffinity=0,32\n" in service
    assert f"\nReadWritePaths=-{host.root}/collector\n" in service
    assert f"\nExecStart=/usr/bin/python3 -I {host.root}{PROGRAM}\n" in service
    # A collector's directory may be its own user's.
    assert "\nCapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE\n" in service
    first.apply()
    assert host.changes() == ["daemon-reload", "enable -- numapin-verify.timer", "restart -- numapin-verify.timer"]

    second = host.timer(wanted)
    assert (second.changed, second.action, second.changed_files) == (False, "none", [])

    host.left_state(timestamp_seconds=0)
    (host.root / "collector").mkdir()
    left = [
        host.run_directory / "verify.json",
        host.run_directory / "verify.prom",
        host.root / "collector/numapin.prom",
    ]
    for path in left[1:]:
        path.write_text("")
    (host.root / "var/cache/numapin/verify/0123").mkdir(parents=True)
    away = host.timer(None)
    assert (away.changed, away.action) == (True, "stopped")
    assert set(below(host, away.removed_files)) == {*FILES, *below(host, map(str, left))}
    away.apply()
    assert host.changes() == [
        "disable --now -- numapin-verify.timer",
        "stop -- numapin-verify.service",
        "daemon-reload",
    ]
    assert not any(path.exists() for path in left)
    assert not host.run_directory.exists()
    assert not (host.root / "var/cache/numapin").exists()
    assert not any(read_entry(str(host.root) + path).kind == "file" for path in FILES)
    again = host.timer(None)
    assert (again.changed, again.removed_files) == (False, [])


def test_another_interval_restarts_the_timer(host: Host) -> None:
    host.timer(wanted_timer(DEFAULTS)).apply()
    changed = host.timer(wanted_timer({**DEFAULTS, "interval_seconds": 30}))
    assert changed.action == "restarted"
    assert below(host, changed.changed_files) == [FILES[1], FILES[3]]


def test_a_timer_that_somebody_stopped_is_started(host: Host) -> None:
    host.timer(wanted_timer(DEFAULTS)).apply()
    host.active = "inactive"
    stopped = host.timer(wanted_timer(DEFAULTS))
    assert (stopped.changed, stopped.action, stopped.changed_files) == (True, "started", [])


@pytest.mark.parametrize(
    ("state", "age", "problems"),
    [
        ({}, 239, []),
        ({}, 241, ["numapin-verify.timer has made no proof for 241 seconds, wanted is one every 60"]),
        ({"success": False, "error": "no plan"}, 1, ["numapin-verify.service cannot make its proof: no plan"]),
    ],
)
def test_what_is_wrong_with_the_timer_itself(
    host: Host, state: dict[str, t.Any], age: float, problems: list[str]
) -> None:
    wanted = wanted_timer(DEFAULTS)
    host.timer(wanted).apply()
    host.left_state(timestamp_seconds=1000.0, **state)
    last = host.timer(wanted).last(1000.0 + age)
    assert last.state is not None
    assert [problem.partition(":")[0] if not state else problem for problem in last.problems] == problems
    # One that this run puts there has not had its time yet.
    assert host.timer(wanted_timer({**DEFAULTS, "interval_seconds": 30})).last(1000.0 + age).problems == []


def test_without_a_state_systemd_knows_whether_the_program_failed(host: Host) -> None:
    wanted = wanted_timer(DEFAULTS)
    host.timer(wanted).apply()
    assert host.timer(wanted).last(0.0) == (None, [])
    (host.run_directory / "verify.json").write_text("{")
    assert host.timer(wanted).last(0.0) == (None, [])
    host.service = "failed"
    told = (
        "numapin-verify.service failed and left no proof (result exit-code): see systemctl status"
        " numapin-verify.service"
    )
    assert host.timer(wanted).last(0.0) == (None, [told])
    (host.run_directory / "verify.json").unlink()
    assert host.timer(wanted).last(0.0) == (None, [told])
    # One that this run puts there has not had its time yet.
    assert host.timer(wanted_timer({**DEFAULTS, "interval_seconds": 30})).last(0.0) == (None, [])


@pytest.mark.parametrize("after", ["other", ""])
def test_metrics_go_from_a_collector_that_is_written_to_no_more(host: Host, after: str) -> None:
    def wanted(name: str) -> Wanted:
        return wanted_timer({**DEFAULTS, "textfile_directory": str(host.root / name) if name else ""})

    host.timer(wanted("collector")).apply()
    stale = host.root / "collector/numapin.prom"
    stale.parent.mkdir()
    stale.write_text("")
    assert host.timer(wanted("collector")).changed is False
    preview = host.timer(wanted(after), check_mode=True)
    assert (preview.changed, below(host, preview.removed_files)) == (True, ["/collector/numapin.prom"])
    assert stale.exists()
    run = host.timer(wanted(after))
    assert below(host, run.removed_files) == ["/collector/numapin.prom"]
    run.apply()
    assert not stale.exists()
    second = host.timer(wanted(after))
    assert (second.changed, second.removed_files) == (False, [])


def test_damaged_settings_hide_no_metrics_from_the_removal(host: Host) -> None:
    host.timer(wanted_timer({**DEFAULTS, "textfile_directory": str(host.root / "collector")})).apply()
    (host.root / "collector").mkdir()
    (host.root / "collector/numapin.prom").write_text("")
    (host.root / "etc/numapin/verify.json").write_text("{")
    host.left_state(timestamp_seconds=0, textfile_directory=str(host.root / "collector"))
    assert "/collector/numapin.prom" in below(host, host.timer(None).removed_files)


def test_without_systemd(host: Host) -> None:
    with pytest.raises(VerifyTimerError, match="needs systemd, which does not run here: set verify_timer: false"):
        host.timer(wanted_timer(DEFAULTS), has_systemd=False)
    assert host.timer(None, has_systemd=False).changed is False


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"interval_seconds": 4}, "interval_seconds is 4; it must be from 5 to 86400"),
        ({"minimum_locality_percent": 101.0}, "minimum_locality_percent is 101; it must be from 0 to 100"),
        ({"textfile_directory": "collector"}, "textfile_directory is 'collector'; it must be an absolute path"),
        ({"textfile_directory": "/a b"}, "textfile_directory is '/a b'"),
        ({"cpus": "0-"}, "cpus is '0-'"),
    ],
)
def test_options_that_cannot_be_meant(option: dict[str, t.Any], message: str) -> None:
    with pytest.raises(VerifyTimerError, match=message):
        wanted_timer({**DEFAULTS, **option})


def test_no_collector_and_any_cpu(host: Host) -> None:
    timer = host.timer(wanted_timer({**DEFAULTS, "textfile_directory": "", "cpus": ""}))
    (service,) = [one["after"] for one in timer.diff() if "verify.service" in one["after_header"]]
    assert "ReadWritePaths" not in service
    assert "\nCapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH\n" in service
    assert "CPUAffinity" not in service
