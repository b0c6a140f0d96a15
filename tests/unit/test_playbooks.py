# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A captured host is planned as the role plans it, although no role with its defaults is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

TOP = Path(__file__).parents[2]
# A captured host has no earlier plan, its models are not looked at, refusals end the playbook; groups want all hosts.
NOT_KNOWN = {"previous", "weights_mib", "fail", "fleet"}


def options(path: Path) -> dict[str, str]:
    """Return the options that a file of tasks gives to the filter plan_instances, and the expressions."""
    text = " ".join(path.read_text(encoding="utf-8").split())
    call = text.partition("numapin.inference.plan_instances(")[2].partition("}}")[0]
    return dict(re.findall(r"(\w+)=(.*?)(?=, \w+=|\) *$)", call))


def test_captured_hosts_are_planned_with_the_same_options() -> None:
    role, captured = options(TOP / "roles/vllm/tasks/plan.yml"), options(TOP / "playbooks/plan_captured.yml")
    assert "reserved_cpus" in role
    assert role.keys() - NOT_KNOWN == captured.keys()
    # omit is for options of modules: a filter would be given it as a value.
    assert [name for name, text in role.items() if "omit" in text] == []


def test_the_roles_defaults_are_those_of_captured_hosts() -> None:
    defaults = yaml.safe_load((TOP / "roles/vllm/defaults/main.yml").read_text(encoding="utf-8"))
    captured = (TOP / "playbooks/plan_captured.yml").read_text(encoding="utf-8")
    given = dict(re.findall(r"(vllm_\w+) \| default\(((?:\{.*?\}|[^{}()]*))\)", captured))
    assert "vllm_default_arguments" in given
    for name, default in given.items():
        if name in defaults:
            assert yaml.safe_load(default) == defaults[name], name
