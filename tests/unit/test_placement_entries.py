# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles hand to placement_info of a plan entry: all that it judges, and no environment."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"
JUDGED: dict[str, t.Any] = {
    "name": "large-n0",
    "unit": "vllm@large-n0.service",
    "cpus": "1,3",
    "memory_nodes": [0, 1],
    "memory_policy": "bind",
    "gpus": ["GPU-0", "GPU-1"],
    "numa_bind_nodes": [0, 1],
    "numa_bind_cpus": ["1", "3"],
    "tensor_parallel_size": 1,
}


@pytest.mark.parametrize(
    ("role", "variable", "given"),
    [
        ("verify", "__verify_placements", "__verify_instances"),
        ("vllm", "__vllm_mine_placements", "vllm_plan"),
    ],
)
def test_all_that_is_judged_is_handed_on(role: str, variable: str, given: str) -> None:
    own = yaml.safe_load((ROLES / role / "vars/main.yml").read_text(encoding="utf-8"))
    instances = [{**JUDGED, "environment": {"HF_TOKEN": "secret"}}]
    known: dict[str, t.Any] = {
        variable: trust_as_template(own[variable]),
        "__vllm_mine": {"in": ["large-n0"]},
        given: instances if role == "verify" else {"instances": instances},
    }
    found = Templar(loader=DataLoader(), variables=known).template(trust_as_template("{{ " + variable + " }}"))
    assert found == [JUDGED]
