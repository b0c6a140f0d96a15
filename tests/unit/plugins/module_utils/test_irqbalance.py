# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""irqbalance's environment file and policy script: ours is added, the administrator's stays, and ours goes again."""

from __future__ import annotations

import os
import subprocess
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _commands, _irqbalance
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError

if t.TYPE_CHECKING:
    from pathlib import Path

OURS = "--policyscript=/usr/local/lib/numapin/irqbalance-policy"
DEBIAN = "#\n#IRQBALANCE_BANNED_CPUS=\n#IRQBALANCE_ARGS=\n"
SHOWN = """LoadState=loaded
ActiveState=active
UnitFileState=enabled
EnvironmentFiles=/usr/lib/irqbalance/defaults.env (ignore_errors=yes)
EnvironmentFiles=/etc/default/irqbalance (ignore_errors=yes)
ExecStart={ path=/usr/sbin/irqbalance ; argv[]=/usr/sbin/irqbalance --foreground $IRQBALANCE_ARGS ; ignore_errors=no }
"""


@pytest.mark.parametrize(
    ("before", "line", "administrators"),
    [
        (DEBIAN, f'IRQBALANCE_ARGS="{OURS}"', None),
        ("", f'IRQBALANCE_ARGS="{OURS}"', None),
        ('IRQBALANCE_ARGS="--banirq=7 -e 3"\n', f'IRQBALANCE_ARGS="--banirq=7 -e 3 {OURS}"', None),
        ("IRQBALANCE_ARGS=--banirq=7\n", f'IRQBALANCE_ARGS="--banirq=7 {OURS}"', None),
        ("IRQBALANCE_ARGS='-l /opt/own -i 7'\n", f'IRQBALANCE_ARGS="-i 7 {OURS}"', "/opt/own"),
        ('IRQBALANCE_ARGS="--policyscript=/opt/own"\n', f'IRQBALANCE_ARGS="{OURS}"', "/opt/own"),
        ("IRQBALANCE_ARGS=\nIRQBALANCE_ONESHOT=1\n", f'IRQBALANCE_ARGS="{OURS}"', None),
        # The last one counts.
        ("IRQBALANCE_ARGS=-i1\nIRQBALANCE_ARGS=-i2\n", f'IRQBALANCE_ARGS="-i2 {OURS}"', None),
    ],
)  # fmt: skip
def test_added_and_taken_away(before: str, line: str, administrators: str | None) -> None:
    arguments = _irqbalance.with_our_script(before, "file")
    assert arguments.administrators == administrators
    lines = [one for one in arguments.text.splitlines() if one.startswith("IRQBALANCE_ARGS=")]
    assert lines[-1] == line
    assert _irqbalance.with_our_script(arguments.text, "file") == (arguments.text, None)
    after = _irqbalance.without_our_script(arguments.text, administrators, "file")
    assert words(after) == words(before)
    assert [one for one in after.splitlines() if "ARGS" not in one] == [
        one for one in before.splitlines() if "ARGS" not in one
    ]


def words(text: str) -> set[str]:
    """The arguments in force, whatever their spelling."""
    values = [line.partition("=")[2].strip("\"'") for line in text.splitlines() if line.startswith("IRQBALANCE_ARGS=")]
    return set((values or [""])[-1].replace("-l /opt/own", "--policyscript=/opt/own").split())


def test_debians_file_comes_back_as_it_was() -> None:
    assert _irqbalance.without_our_script(_irqbalance.with_our_script(DEBIAN, "f").text, None, "f") == DEBIAN


def test_what_the_administrator_changes_meanwhile_stays() -> None:
    ours = _irqbalance.with_our_script(DEBIAN, "f").text
    changed = ours.replace(f'"{OURS}"', f'"{OURS} --banirq=9"')
    assert words(_irqbalance.without_our_script(changed, None, "f")) == {"--banirq=9"}


@pytest.mark.parametrize(
    "line", ['IRQBALANCE_ARGS="--banirq=7 \\', 'IRQBALANCE_ARGS="unfinished', "IRQBALANCE_ARGS=a\\ b"]
)
def test_lines_that_are_not_understood(line: str) -> None:
    with pytest.raises(IrqError, match="cannot be changed safely: write IRQBALANCE_ARGS on one line"):
        _irqbalance.with_our_script(f"{line}\n", "/etc/default/irqbalance")


def run_script(script: Path, directory: str, number: int) -> str:
    done = subprocess.run([script, directory, str(number)], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def test_policy_script(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text('#!/bin/sh\necho "numa_node=$2"\n', encoding="utf-8")
    own.chmod(0o755)
    script = tmp_path / "policy"
    script.write_text(_irqbalance.policy_script(["0000:ff:1e.7"], [], str(own)), encoding="utf-8")
    script.chmod(0o755)
    assert run_script(script, "/sys/bus/pci/devices/0000:ff:1e.7", 999999) == "numa_node=999999\nban=true\n"
    assert run_script(script, "/sys/devices/pci0000:ff/0000:ff:1e.7/msi_irqs/", 7) == "numa_node=7\nban=true\n"
    assert run_script(script, "/sys/bus/pci/devices/0000:ff:1e.6", 7) == "numa_node=7\n"


def test_policy_script_of_a_directory_of_scripts(tmp_path: Path) -> None:
    # As irqbalance does: 0 ends the search, 1 goes on, what cannot be run is passed over.
    own = tmp_path / "own"
    own.mkdir()
    for name, text, mode in (
        ("1", "exit 1", 0o755),
        ("2", "echo two", 0o755),
        ("3", "echo three", 0o755),
        ("0", "", 0o644),
    ):
        (own / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (own / name).chmod(mode)
    script = tmp_path / "policy"
    script.write_text(_irqbalance.policy_script([], [], str(own)), encoding="utf-8")
    script.chmod(0o755)
    assert run_script(script, "/sys", 1) == "two\n"


def test_policy_script_takes_names_as_patterns() -> None:
    script = _irqbalance.policy_script([], ["virtio0-*", "a b;reboot"], None)
    assert "*,a\\ b\\;reboot,* | *,virtio0-*,*) echo ban=true ;;" in script


def test_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_commands, "find_executable", lambda _name: "/usr/bin/systemctl")
    found = _irqbalance.find(lambda _argv, _seconds: _commands.Result(0, SHOWN, ""))
    earlier = ("/usr/lib/irqbalance/defaults.env",)
    assert found == (True, True, True, "/etc/default/irqbalance", True, earlier, False)
    with pytest.raises(IrqError, match="nobody knows whether irqbalance is there: Connection timed out"):
        _irqbalance.find(lambda _argv, _seconds: _commands.Result(1, "", "Connection timed out\n"))
    absent = "LoadState=not-found\nActiveState=inactive\nUnitFileState=\n"
    assert _irqbalance.find(lambda _argv, _seconds: _commands.Result(0, absent, "")).installed is False


@pytest.mark.parametrize(
    ("shown", "earlier", "own", "source"),
    [
        ("Environment=A=b", "#IRQBALANCE_ARGS=-i1\nIRQBALANCE_ARGS=\n", DEBIAN, None),
        ("Environment=IRQBALANCE_ARGS=--banirq=7", "", DEBIAN, r"Environment= of irqbalance\.service"),
        ('Environment=A=b "IRQBALANCE_ARGS=-i 7"', "", "", r"Environment= of irqbalance\.service"),
        ('Environment="IRQBALANCE_ARGS="', "", DEBIAN, None),
        ("Environment=", 'IRQBALANCE_ARGS="-i 7"\n', DEBIAN, "earlier"),
        # Written by an earlier run of ours: it hides them already.
        ("Environment=", "IRQBALANCE_ARGS=-i7\n", _irqbalance.with_our_script(DEBIAN, "f").text, "earlier"),
        # The administrator's own line hides them, and stays.
        ("Environment=IRQBALANCE_ARGS=-i7", "IRQBALANCE_ARGS=-i7\n", "IRQBALANCE_ARGS=-i8\n", None),
    ],
)
def test_arguments_that_are_set_elsewhere_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, earlier: str, own: str, source: str | None
) -> None:
    monkeypatch.setattr(_commands, "find_executable", lambda _name: "/usr/bin/systemctl")
    (tmp_path / "earlier").write_text(earlier, encoding="utf-8")
    text = SHOWN.replace("/usr/lib/irqbalance/defaults.env", str(tmp_path / "earlier")) + f"{shown}\n"
    found = _irqbalance.find(lambda _argv, _seconds: _commands.Result(0, text, ""))
    if source is None:
        _irqbalance.refuse_hidden_arguments(found, own)
    else:
        with pytest.raises(IrqError, match=rf"{source}.*set IRQBALANCE_ARGS with these arguments in /etc/default"):
            _irqbalance.refuse_hidden_arguments(found, own)


def test_environment_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "irqbalance"
    path.write_text("a", encoding="utf-8")
    path.chmod(0o640)
    _irqbalance.write_environment(str(path), "b")
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == ("b", 0o640)
    _irqbalance.write_environment(str(path), None)
    assert _irqbalance.read_environment(str(path)) is None
    assert list(tmp_path.iterdir()) == []


def test_environment_file_of_another_encoding_behind_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"# f\xfcr den Cluster\n")
    if os.geteuid() == 0:
        os.chown(real, 1, 2)
    owner = real.stat().st_uid, real.stat().st_gid
    link = tmp_path / "irqbalance"
    link.symlink_to("real")
    text = _irqbalance.read_environment(str(link))
    assert text is not None
    _irqbalance.write_environment(str(link), f"{text}IRQBALANCE_ONESHOT=1\n")
    assert link.is_symlink()
    assert real.read_bytes() == b"# f\xfcr den Cluster\nIRQBALANCE_ONESHOT=1\n"
    assert (real.stat().st_uid, real.stat().st_gid) == owner
    assert sorted(path.name for path in tmp_path.iterdir()) == ["irqbalance", "real"]
