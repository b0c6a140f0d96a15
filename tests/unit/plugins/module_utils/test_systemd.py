# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units of all instances as one, with answers as systemd 252 gave them."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._systemd import (
    Systemd,
    SystemdError,
    UnitsPlan,
    converge,
    parse_span,
    plan_units,
    unit_names,
)

RUNNING = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "MainPID": "100",
    "UnitFileState": "enabled",
    "TimeoutStopUSec": "2min 30s",
    "InvocationID": "now",
}
STOPPED = {**RUNNING, "ActiveState": "inactive", "SubState": "dead", "MainPID": "0", "UnitFileState": "disabled"}
WAITING = {**RUNNING, "ActiveState": "activating", "SubState": "auto-restart", "MainPID": "0", "Result": "exit-code"}
UNKNOWN = {
    "LoadState": "not-found",
    "LoadError": 'org.freedesktop.systemd1.NoSuchUnit "Unit vllm@a.service not found."',
    "ActiveState": "inactive",
    "SubState": "dead",
}
TARGET_UP = {"LoadState": "loaded", "ActiveState": "active", "SubState": "active", "UnitFileState": "enabled"}
TARGET_NEW = {"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead", "UnitFileState": "disabled"}


class Host:
    """A host whose units are a table; ``start`` and ``restart`` make of a unit what ``becomes`` says."""

    def __init__(self, tmp_path: Path, units: dict[str, dict[str, str]], ids: dict[int, str] | None = None) -> None:
        self.units = {"vllm.target": TARGET_UP, **units}
        self.becomes: dict[str, dict[str, str]] = {}
        self.calls: list[str] = []
        self.journal: list[dict[str, t.Any]] = []
        self.now = 0.0
        for pid, config_id in (ids or {}).items():
            self.process(tmp_path, pid, config_id)
        self.systemd = Systemd(self.run, str(tmp_path), clock=lambda: self.now, sleep=self.sleep)

    @staticmethod
    def process(root: Path, pid: int, config_id: str) -> None:
        directory = root / "proc" / str(pid)
        directory.mkdir(parents=True, exist_ok=True)
        environment = f"PATH=/bin\0NOT_NUMAPIN_CONFIG_ID=no\0NUMAPIN_CONFIG_ID={config_id}\0"
        (directory / "environ").write_bytes(environment.encode())

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        assert 0 < timeout_seconds < 600
        if argv[0] == "journalctl":
            return Result(0, "".join(json.dumps(entry) + "\n" for entry in self.journal), "")
        verb, names = argv[1], [name for name in argv[2:] if not name.startswith("--")]
        if verb == "show":
            blocks = [
                "".join(f"{key}={value}\n" for key, value in {"Id": name, **self.units.get(name, UNKNOWN)}.items())
                for name in names
            ]
            return Result(0, "\n".join(blocks), "")
        if verb == "list-units":
            lines = [f"{name} loaded x x Instance {name}\n" for name in self.units if name.startswith("vllm@")]
            return Result(0, "".join(lines), "")
        self.calls.append(" ".join([verb, *names]))
        for name in names:
            if verb in ("start", "restart"):
                self.units[name] = self.becomes.get(
                    name, {**RUNNING, **self.units.get(name, {}), "ActiveState": "active"}
                )
            if verb == "stop":
                self.units[name] = STOPPED
        return Result(0, "", "")

    def plan(self, wanted: dict[str, str], held: t.Sequence[str] = ()) -> UnitsPlan:
        return plan_units(self.systemd, wanted, "vllm@", "vllm.target", held)


def actions(plan: UnitsPlan) -> dict[str, str]:
    return {action.unit: action.action for action in plan.actions}


def test_a_fresh_host_starts_everything(tmp_path: Path) -> None:
    host = Host(tmp_path, {"vllm.target": UNKNOWN})
    plan = host.plan({"vllm@a.service": "1", "vllm@b.service": "2"})
    assert actions(plan) == {"vllm@a.service": "start", "vllm@b.service": "start"}
    assert plan.enable == ("vllm@a.service", "vllm@b.service", "vllm.target")
    assert plan.start_target
    assert plan.changed
    assert host.calls == [], "a plan acts on nothing"


def test_running_with_the_wanted_id_is_left_alone(tmp_path: Path) -> None:
    host = Host(tmp_path, {"vllm@a.service": {**RUNNING, "NRestarts": "3"}}, {100: "1"})
    plan = host.plan({"vllm@a.service": "1"})
    assert actions(plan) == {"vllm@a.service": "none"}
    assert plan.actions[0].restarts == 3
    assert not plan.changed


def test_what_is_held_back_is_left_alone_whatever_it_is(tmp_path: Path) -> None:
    units = {"vllm@a.service": {**RUNNING, "MainPID": "100"}, "vllm@gone.service": RUNNING, "vllm@old.service": RUNNING}
    host = Host(tmp_path, units, {100: "old"})
    held = ["vllm@a.service", "vllm@new.service", "vllm@old.service"]
    plan = host.plan({"vllm@b.service": "1"}, held)
    assert actions(plan) == {"vllm@b.service": "start", **dict.fromkeys(held, "none"), "vllm@gone.service": "stop"}
    host.units["vllm@b.service"] = STOPPED
    host.becomes["vllm@b.service"] = {**RUNNING, "MainPID": "101"}
    host.process(tmp_path, 101, "1")
    converge(host.systemd, plan, {"vllm@b.service": "1"}, "vllm.target", 30)
    assert not [call for call in host.calls for name in held if name in call]


def test_the_target_stays_up_as_long_as_something_is_held_back(tmp_path: Path) -> None:
    plan = Host(tmp_path, {"vllm@a.service": RUNNING}).plan({}, ["vllm@a.service"])
    assert (plan.changed, plan.stop_target, plan.disable) == (False, False, ())


@pytest.mark.parametrize(
    ("unit", "ids", "action", "reason"),
    [
        (RUNNING, {100: "old"}, "restart", "it runs with another configuration"),
        (RUNNING, {}, "restart", "it runs with a process that shows no NUMAPIN_CONFIG_ID"),
        (WAITING, {}, "restart", "it failed (exit-code) and waits to be tried again"),
        (STOPPED, {}, "start", "it is inactive"),
        ({**STOPPED, "ActiveState": "failed", "SubState": "failed"}, {}, "start", "it is failed"),
        (
            {**RUNNING, "ActiveState": "deactivating", "SubState": "stop-sigterm"},
            {100: "1"},
            "restart",
            "it is deactivating (stop-sigterm)",
        ),
    ],
)
def test_each_state_has_its_action(
    tmp_path: Path, unit: dict[str, str], ids: dict[int, str], action: str, reason: str
) -> None:
    plan = Host(tmp_path, {"vllm@a.service": unit}, ids).plan({"vllm@a.service": "1"})
    assert [(entry.action, entry.reason) for entry in plan.actions] == [(action, reason)]


def test_stale_instances_are_stopped_also_when_only_linked(tmp_path: Path) -> None:
    host = Host(
        tmp_path,
        {
            "vllm@a.service": RUNNING,
            "vllm@old.service": {**RUNNING, "MainPID": "200"},
            "vllm@forgotten.service": STOPPED,
            "vllm.target": {**TARGET_UP, "Wants": "vllm@a.service vllm@linked.service network.target"},
        },
        {100: "1"},
    )
    host.units["vllm@linked.service"] = {**STOPPED, "UnitFileState": "enabled"}
    plan = host.plan({"vllm@a.service": "1"})
    assert actions(plan) == {"vllm@a.service": "none", "vllm@linked.service": "none", "vllm@old.service": "stop"}
    assert plan.disable == ("vllm@linked.service", "vllm@old.service")
    converge(host.systemd, plan, {"vllm@a.service": "1"}, "vllm.target", 30)
    assert host.calls == ["disable vllm@linked.service vllm@old.service", "stop vllm@old.service"]


def test_no_instances_takes_the_target_down(tmp_path: Path) -> None:
    host = Host(tmp_path, {"vllm@a.service": RUNNING}, {100: "1"})
    converge(host.systemd, host.plan({}), {}, "vllm.target", 30)
    assert host.calls == ["disable vllm@a.service vllm.target", "stop vllm@a.service", "stop vllm.target"]


def test_one_call_for_all_of_a_kind_and_reload_first(tmp_path: Path) -> None:
    units = {
        "vllm@a.service": {**RUNNING, "NeedDaemonReload": "yes"},
        "vllm@b.service": STOPPED,
        "vllm@c.service": {**STOPPED, "ActiveState": "failed"},
        "vllm.target": TARGET_NEW,
    }
    host = Host(tmp_path, units, {100: "old"})
    wanted = {"vllm@a.service": "1", "vllm@b.service": "1", "vllm@c.service": "1"}
    plan = host.plan(wanted)
    assert plan.reload
    Host.process(tmp_path, 100, "1")
    host.becomes = dict.fromkeys(wanted, RUNNING)
    converge(host.systemd, plan, wanted, "vllm.target", 30)
    assert host.calls == [
        "daemon-reload",
        "enable vllm@b.service vllm@c.service vllm.target",
        "reset-failed vllm@a.service",
        "start vllm@b.service vllm@c.service",
        "restart vllm@a.service",
        "start vllm.target",
    ]
    assert not host.plan(wanted).units("restart")


def test_a_unit_that_fails_to_start_is_reported_with_its_own_last_lines(tmp_path: Path) -> None:
    host = Host(tmp_path, {"vllm@a.service": STOPPED})
    host.becomes = {"vllm@a.service": WAITING}
    host.journal = [
        {"MESSAGE": "from an earlier start", "_SYSTEMD_INVOCATION_ID": "before"},
        {"MESSAGE": list(b"\x1b[1mcoloured\x1b[0m"), "_SYSTEMD_INVOCATION_ID": "now"},
        {"MESSAGE": "Failed at step EXEC", "_SYSTEMD_INVOCATION_ID": "init", "INVOCATION_ID": "now"},
        {"MESSAGE": None, "_SYSTEMD_INVOCATION_ID": "now"},
    ]
    with pytest.raises(SystemdError) as raised:
        converge(host.systemd, host.plan({"vllm@a.service": "1"}), {"vllm@a.service": "1"}, "vllm.target", 30)
    assert str(raised.value).splitlines() == [
        "vllm@a.service failed to start: it is activating (auto-restart), result exit-code",
        "\x1b[1mcoloured\x1b[0m",
        "Failed at step EXEC",
    ]


def test_waiting_for_a_start_is_bounded(tmp_path: Path) -> None:
    host = Host(tmp_path, {"vllm@a.service": STOPPED})
    host.becomes = {"vllm@a.service": {**RUNNING, "ActiveState": "activating", "SubState": "start", "Job": "7"}}
    with pytest.raises(
        SystemdError, match=r"vllm@a\.service did not start within 30 seconds: it is activating \(start\)"
    ):
        converge(host.systemd, host.plan({"vllm@a.service": "1"}), {"vllm@a.service": "1"}, "vllm.target", 30)
    assert 30 <= host.now < 32


def test_another_id_after_the_start_is_an_error_not_a_restart_at_every_run(tmp_path: Path) -> None:
    host = Host(tmp_path, {"vllm@a.service": RUNNING}, {100: "in the file"})
    with pytest.raises(SystemdError, match="give the one that stands in its environment file"):
        converge(host.systemd, host.plan({"vllm@a.service": "1"}), {"vllm@a.service": "1"}, "vllm.target", 30)


def test_units_without_files_are_refused_before_anything_is_started(tmp_path: Path) -> None:
    host = Host(tmp_path, {"vllm@a.service": UNKNOWN})
    with pytest.raises(SystemdError, match=r"systemd knows no unit vllm@a\.service"):
        converge(host.systemd, host.plan({"vllm@a.service": "1"}), {"vllm@a.service": "1"}, "vllm.target", 30)
    assert host.calls == ["daemon-reload"]


def test_without_systemd_the_error_is_systemctls(tmp_path: Path) -> None:
    said = "System has not been booted with systemd as init system (PID 1). Can't operate.\n"
    systemd = Systemd(lambda _argv, _timeout: Result(1, "", said), str(tmp_path))
    with pytest.raises(SystemdError, match="has not been booted with systemd"):
        systemd.show(["a.service"])


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([("a/b", "1")], "instance 'a/b': allowed are"),
        ([("a", "1"), ("a", "2")], "instance 'a' is given twice"),
        ([("a", " ")], "instance 'a' has an empty config_id"),
    ],
)
def test_bad_instances(instances: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(SystemdError) as raised:
        unit_names(instances, "vllm@")
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1min 30s", 90), ("2min 30s", 150), ("500ms", 0.5), ("1h", 3600), ("infinity", 90), ("", 90)]
)
def test_spans(text: str, seconds: float) -> None:
    assert parse_span(text) == pytest.approx(seconds)


def test_a_unit_that_is_still_stopping_gets_its_own_time(tmp_path: Path) -> None:
    stopping = {**RUNNING, "ActiveState": "deactivating", "SubState": "stop-sigterm", "TimeoutStopUSec": "2min 30s"}
    host = Host(tmp_path, {"vllm@a.service": stopping}, {100: "1"})
    assert host.plan({"vllm@a.service": "1"}).stop_timeout_seconds == 150
