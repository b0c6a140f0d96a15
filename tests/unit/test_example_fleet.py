# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The example inventory does what its comments say, on the machines it is for."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import gpu, machine

FLEET = Path(__file__).resolve().parents[2] / "docs" / "examples" / "fleet"

pytestmark = pytest.mark.skipif(not FLEET.is_dir(), reason="the examples are not part of the built collection")


def load(name: str) -> dict[str, t.Any]:
    content: dict[str, t.Any] = yaml.safe_load((FLEET / name).read_text(encoding="utf-8"))
    return content


def test_the_plan_of_the_example() -> None:
    facts = machine({0: "0-31", 1: "32-63"}, [gpu(index, index // 4) for index in range(8)])
    variables = load("group_vars/inference.yml")
    hosts = load("inventory.yml")["inference"]["hosts"]
    cpus = {}
    for name, host in hosts.items():
        plan = plan_host(
            facts,
            variables["vllm_models"],
            host=name,
            address=host["ansible_host"],
            reserved_cpus=host.get("vllm_reserved_cpus", ""),
            housekeeping_cores=variables["vllm_housekeeping_cores"],
        )
        placed = {one["name"]: (len(one["gpus"]), one["port"]) for one in plan["instances"]}
        assert placed == {
            "llama-3-70b-n0": (2, 8000),
            "llama-3-70b-n1": (2, 8001),
            "llama-3-8b-n0": (1, 8100),
            "llama-3-8b-n1": (1, 8101),
        }
        cpus[name] = {one["name"]: one["cpus"] for one in plan["instances"]}
    assert cpus["gpu1"] == cpus["gpu2"]
    assert cpus["gpu1"]["llama-3-70b-n0"] == "2-21"
    assert cpus["gpu3"] != cpus["gpu1"]
