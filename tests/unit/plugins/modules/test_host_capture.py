# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module writes once, nothing in check mode, and says what is wrong without tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._archive import opened_root
from ansible_collections.numapin.inference.plugins.modules import host_capture
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees


def run_module(arguments: dict[str, t.Any]) -> tuple[int, dict[str, t.Any], str]:
    """Run the module as a program, as Ansible does on a host."""
    command = [sys.executable, "-m", host_capture.__name__]
    # The directory that holds ansible_collections.
    base = Path(host_capture.__file__).parents[5]
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    result = subprocess.run(command, cwd=base, input=given, capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, json.loads(result.stdout), result.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return trees.lay_out(tmp_path / "machine", trees.two_sockets())


def test_check_mode_then_apply(tmp_path: Path, machine: Path) -> None:
    path = tmp_path / "machine.tar.gz"
    arguments = {"root": str(machine), "path": str(path)}
    code, checked, stderr = run_module({**arguments, "_ansible_check_mode": True})
    assert (code, stderr) == (0, "")
    assert not path.exists()
    code, applied, stderr = run_module(arguments)
    assert (code, stderr) == (0, "")
    # Ansible adds what is at the path once something is there.
    assert {name: applied[name] for name in checked if name != "invocation"} == {
        name: value for name, value in checked.items() if name != "invocation"
    }
    assert applied["mode"] == "0600"
    assert applied["changed"] is True
    assert applied["path"] == str(path)
    assert applied["size_bytes"] == path.stat().st_size
    assert sum(row["files"] for row in applied["contents"]) == applied["files"]
    assert {"directory": "/proc/sys/vm", "files": 1, "size_bytes": 2} in applied["contents"]
    assert (applied["redactions"], applied["left_out"], applied["warnings_found"]) == ([], [], [])
    with opened_root(str(path), str(tmp_path)) as root:
        assert Path(root, "sys/devices/system/node/node1/cpulist").read_text(encoding="utf-8") == "4-7\n"


def test_a_capture_of_a_capture_is_the_same(tmp_path: Path, machine: Path) -> None:
    first, second = tmp_path / "first.tar.gz", tmp_path / "second.tar.gz"
    run_module({"root": str(machine), "path": str(first)})
    code, _answer, stderr = run_module({"root": str(first), "path": str(second)})
    assert (code, stderr) == (0, "")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "{}/missing/a.tar.gz"}, "does not exist: make it, or give another path"),
        ({"path": "{}/a.tar.gz", "root": "{}/missing"}, "is not a directory: give the directory that holds"),
        ({"path": "{}/a.tar.gz", "root": "{}"}, "no CPU found"),
        ({"path": "{}/a.tar.gz", "root": "{}/text"}, "not an archive that can be read as a captured machine"),
    ],
)
def test_errors(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    (tmp_path / "text").write_text("text", encoding="utf-8")
    code, answer, stderr = run_module({key: value.format(tmp_path) for key, value in arguments.items()})
    assert code == 1
    assert message in answer["msg"]
    assert "Traceback" not in json.dumps(answer) + stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["text"]
