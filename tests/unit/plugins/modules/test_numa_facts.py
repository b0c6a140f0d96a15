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

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.modules import numa_facts
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import eight_gpus_double


def run_module(arguments: dict[str, t.Any]) -> tuple[int, dict[str, t.Any], str]:
    """Run the module as a program, as Ansible does on a host."""
    command = [sys.executable, "-m", numa_facts.__name__]
    # The directory that holds ansible_collections.
    base = Path(numa_facts.__file__).parents[5]
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    result = subprocess.run(command, cwd=base, input=given, capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, json.loads(result.stdout), result.stderr


def test_gather(tmp_path: Path) -> None:
    facts = numa_facts.gather(Host(str(trees.lay_out(tmp_path, trees.eight_gpus()))), eight_gpus_double)
    assert sorted(facts) == ["allowed_cpus", "cpus", "gpus", "kernel", "nodes", "packages", "warnings"]
    assert facts["gpus"][4] == {
        "uuid": "GPU-00000004-1111-2222-3333-444444444444",
        "pci_address": "0000:97:00.0",
        "name": "NVIDIA H100 80GB HBM3",
        "vendor": "nvidia",
        "memory_total_mib": 81559,
        "node": 1,
        "node_source": "nvml",
        "cpus": "4-7",
        "links": [],
        "source": "nvml",
    }
    assert facts["warnings"] == []
    assert json.loads(json.dumps(facts)) == facts


def test_warnings_of_both_readers(tmp_path: Path) -> None:
    machine = trees.overlapping_nodes()
    root = trees.lay_out(tmp_path, machine)
    trees.write(root / "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    trees.write(root / "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    trees.write(root / "sys/bus/pci/devices/0000:01:00.0/numa_node", "9\n")
    facts = numa_facts.gather(Host(str(root)), None)
    assert facts["gpus"][0]["node"] is None
    assert facts["warnings"][0].startswith("nodes 0 and 1 both list")
    assert facts["warnings"][-1].startswith("GPU 0000:01:00.0: sysfs puts it on node 9")


def test_a_captured_tree(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    arguments = {"root": str(root), "_ansible_check_mode": True}
    code, answer, stderr = run_module(arguments)
    assert (code, stderr) == (0, "")
    assert answer["changed"] is False
    assert [node["cpus"] for node in answer["ansible_facts"]["numa"]["nodes"]] == ["0-3", "4-7"]


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
