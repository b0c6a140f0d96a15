# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hosts of this scenario, as testinfra sees them over SSH, and what the inventory says of them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import typing as t

import pytest
import testinfra
from site_runs import INVENTORY

# molecule asks every Ansible below it for colours, and the tests read what Ansible prints.
os.environ.pop("ANSIBLE_FORCE_COLOR", None)


@dataclasses.dataclass(frozen=True)
class Site:
    """Inventory names by role, testinfra's connection to each host, the plan each host holds, and the way in."""

    inference: list[str]
    balancer: str
    hosts: dict[str, t.Any]
    plans: dict[str, dict[str, t.Any]]
    url: str
    model: str
    # A failing test prints its arguments.
    api_key: str = dataclasses.field(repr=False)
    api_key_path: pathlib.Path

    def instances(self) -> list[tuple[str, dict[str, t.Any]]]:
        """(host name, plan entry) of every instance."""
        return [(name, entry) for name, plan in self.plans.items() for entry in plan["instances"]]


@pytest.fixture(scope="session")
def site() -> Site:
    """Read the inventory; a scenario without inference hosts proves nothing and fails here."""
    listed = subprocess.run(
        ["ansible-inventory", f"--inventory={INVENTORY}", "--list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    groups = json.loads(listed.stdout)
    inference = groups.get("inference", {}).get("hosts", [])
    balancers = groups.get("load_balancers", {}).get("hosts", [])
    assert len(inference) == 2, f"{INVENTORY} holds the inference hosts {inference}"
    assert len(balancers) == 1, f"{INVENTORY} holds the balancers {balancers}"
    hosts = {
        name: testinfra.get_host(f"ssh://{name}?ssh_config={INVENTORY.parent / 'ssh_config'}&controlpersist=0")
        for name in inference + balancers
    }
    plans = {name: json.loads(hosts[name].file("/etc/numapin/plan.json").content_string) for name in inference}
    for name, plan in plans.items():
        assert plan["instances"], f"/etc/numapin/plan.json of {name} holds no instance"
    variables = groups["_meta"]["hostvars"][balancers[0]]
    models = groups["_meta"]["hostvars"][inference[0]]["vllm_models"]
    key_path = INVENTORY.parent / "api_key"
    return Site(
        inference=inference,
        balancer=balancers[0],
        hosts=hosts,
        plans=plans,
        url=f"http://{variables['ansible_host']}:{variables['load_balancer_port']}/v1",
        model=models[0]["name"],
        api_key=key_path.read_text(encoding="utf-8").strip(),
        api_key_path=key_path,
    )
