# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The machines of this scenario, as testinfra sees them over SSH, and what the inventory says of them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import typing as t

import pytest
import testinfra
from scenario import FIGURES, INVENTORY

# molecule asks every Ansible below it for colours, and the tests read what Ansible prints.
os.environ.pop("ANSIBLE_FORCE_COLOR", None)


@dataclasses.dataclass(frozen=True)
class Lab:
    """Inventory names by role, testinfra's connection to each machine, the plan each holds, and the way in."""

    inference: list[str]
    balancer: str
    hosts: dict[str, t.Any]
    plans: dict[str, dict[str, t.Any]]
    url: str
    model: str
    api_key_path: pathlib.Path

    def endpoints(self) -> set[str]:
        """ADDRESS:PORT of every instance, as the balancer names it."""
        return {f"{plan['address']}:{entry['port']}" for plan in self.plans.values() for entry in plan["instances"]}


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Read the inventory; a scenario without machines proves nothing and fails here."""
    command = ["ansible-inventory", f"--inventory={INVENTORY}", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    groups = json.loads(listed.stdout)
    inference = groups.get("inference", {}).get("hosts", [])
    balancers = groups.get("load_balancers", {}).get("hosts", [])
    assert len(inference) == 2, f"{INVENTORY} holds the inference hosts {inference}"
    assert len(balancers) == 1, f"{INVENTORY} holds the balancers {balancers}"
    ssh_config = INVENTORY.parent / "ssh_config"
    hosts = {
        name: testinfra.get_host(f"ssh://{name}?ssh_config={ssh_config}&controlpersist=0")
        for name in inference + balancers
    }
    plans = {name: json.loads(hosts[name].file("/etc/numapin/plan.json").content_string) for name in inference}
    variables = groups["_meta"]["hostvars"]
    return Lab(
        inference=inference,
        balancer=balancers[0],
        hosts=hosts,
        plans=plans,
        url=f"http://127.0.0.1:{variables[balancers[0]]['lab_http_port']}/v1",
        model=variables[inference[0]]["vllm_models"][0]["name"],
        api_key_path=INVENTORY.parent / "api_key",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was seen."""
    for line in FIGURES:
        terminalreporter.write_line(line)
