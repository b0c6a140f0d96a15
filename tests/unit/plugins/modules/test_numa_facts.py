# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module hands out the contract's shape, and errors without tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

from ansible_collections.numapin.inference.plugins.modules import numa_facts
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees


def run_module(arguments: dict[str, t.Any]) -> tuple[int, dict[str, t.Any], str]:
    """Run the module as a program, as Ansible does on a host."""
    command = [sys.executable, "-m", numa_facts.__name__]
    # The directory that holds ansible_collections.
    base = Path(numa_facts.__file__).parents[5]
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    result = subprocess.run(command, cwd=base, input=given, capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, json.loads(result.stdout), result.stderr


def test_a_captured_tree(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    arguments = {"root": str(root), "_ansible_check_mode": True}
    code, answer, stderr = run_module(arguments)
    assert (code, stderr) == (0, "")
    assert answer["changed"] is False
    assert [node["cpus"] for node in answer["ansible_facts"]["numa"]["nodes"]] == ["0-3", "4-7"]


def test_a_part_and_an_override(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.eight_gpus())
    overrides = {"00000000:E0:00.0": "1"}
    arguments = {"root": str(root), "gather": ["gpus", "!links"], "gpu_node_overrides": overrides}
    code, answer, stderr = run_module(arguments)
    assert (code, stderr) == (0, "")
    facts = answer["ansible_facts"]["numa"]
    assert facts["gathered"] == ["gpus"]
    assert [(gpu["node"], gpu["node_source"]) for gpu in facts["gpus"][6:]] == [(1, "sysfs"), (1, "override")]


def test_an_override_to_a_node_that_is_not_there(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.eight_gpus())
    code, answer, stderr = run_module({"root": str(root), "gpu_node_overrides": {"0000:e0:00.0": 5}})
    assert code == 1
    assert "0000:e0:00.0" in answer["msg"]
    assert "0-1" in answer["msg"]
    assert "Traceback" not in json.dumps(answer) + stderr


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    code, answer, stderr = run_module({"root": str(tmp_path / "nothing")})
    assert code == 1
    assert answer["failed"] is True
    assert "nothing' is not a directory: give the directory that holds the sys and proc" in answer["msg"]
    assert "Traceback" not in json.dumps(answer) + stderr


def test_a_root_without_a_machine(tmp_path: Path) -> None:
    code, answer, stderr = run_module({"root": str(tmp_path)})
    assert code == 1
    assert answer["msg"].startswith("no CPU found: /sys/devices/system/cpu below the root")
    assert "Traceback" not in json.dumps(answer) + stderr
