# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role host_tuning says which devices' interrupts it leaves alone, and why."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles" / "host_tuning"
NODES = [{"node": 0, "housekeeping_cpus": "0"}, {"node": 1, "housekeeping_cpus": ""}]
DEVICES = {
    "nics": [
        {"name": "eth0", "pci_address": "0000:01:00.0", "node": 0},
        {"name": "eth1", "pci_address": "0000:02:00.0", "node": None},
        {"name": "usb0", "pci_address": None, "node": None},
    ],
    "infiniband": None,
    "gpus": [{"name": None, "pci_address": "0000:81:00.0", "node": 1}],
}
ETH1 = "the interrupts of nic eth1 (0000:02:00.0) are left where they are: which node it is on is unknown"
GPU = "the interrupts of gpu 0000:81:00.0 are left where they are: its node 1 keeps no CPUs for that"


def notes(**variables: t.Any) -> list[str]:
    """What the role says at its end of a host with two nodes, of which one keeps a CPU for interrupts."""
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    own = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
    facts: dict[str, t.Any] = {"numa": {"nodes": [{}, {}], "kernel": {"container": None}, **DEVICES}}
    given = {"vllm_plan": {"nodes": NODES}, "ansible_facts": facts, **variables}
    known = {**defaults, **{name: trust_as_template(text) for name, text in own.items()}, **given}
    found: list[str] = Templar(loader=DataLoader(), variables=known).template(
        trust_as_template("{{ __host_tuning_notes }}")
    )
    return found


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, [ETH1, GPU]),
        ({"host_tuning_irq_kinds": ["nic"]}, [ETH1]),
        ({"host_tuning_irqs": False}, []),
        # Without a plan no interrupt is placed at all.
        ({"vllm_plan": {"nodes": []}}, []),
        # A host with one node: everything is on it.
        ({"ansible_facts": {"numa": {"nodes": [{}], "kernel": {"container": None}, **DEVICES}}}, []),
    ],
)
def test_devices_that_no_rule_selects_are_named(variables: dict[str, t.Any], said: list[str]) -> None:
    assert notes(**variables) == said
