# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The machines of this scenario, as testinfra sees them over SSH, and what the inventory says of them."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import typing as t

import pytest
import testinfra
from scenario import FIGURES, INVENTORY

# molecule asks every Ansible below it for colours, and the tests read what Ansible prints.
os.environ.pop("ANSIBLE_FORCE_COLOR", None)
SSH_CONFIG = INVENTORY.parent / "ssh_config"
CONNECT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Lab:
    """Inventory names by role, testinfra's connection to each machine, the plan each holds, and the way in.

    ``connections`` is the directory of OpenSSH's sockets.
    """

    inference: list[str]
    balancer: str
    hosts: dict[str, t.Any]
    plans: dict[str, dict[str, t.Any]]
    url: str
    model: str
    api_key_path: pathlib.Path
    connections: pathlib.Path

    def hang_up(self) -> None:
        """End the connections that are kept: before the machines boot, or are gone."""
        for name in self.hosts:
            path = self.connections / name
            command = ["ssh", "-F", str(SSH_CONFIG), "-o", f"ControlPath={path}", "-O", "exit", name]
            subprocess.run(command, capture_output=True, timeout=60, check=False)

    def endpoints(self) -> set[str]:
        """ADDRESS:PORT of every instance, as the balancer names it."""
        return {f"{plan['address']}:{entry['port']}" for plan in self.plans.values() for entry in plan["instances"]}


@pytest.fixture(scope="session")
def lab() -> c.Iterator[Lab]:
    """Read the inventory; a scenario without machines proves nothing and fails here."""
    command = ["ansible-inventory", f"--inventory={INVENTORY}", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    groups = json.loads(listed.stdout)
    inference = groups.get("inference", {}).get("hosts", [])
    balancers = groups.get("load_balancers", {}).get("hosts", [])
    assert len(inference) == 2, f"{INVENTORY} holds the inference hosts {inference}"
    assert len(balancers) == 1, f"{INVENTORY} holds the balancers {balancers}"
    variables = groups["_meta"]["hostvars"]
    # A login costs an emulated machine two seconds of its processor. The name of a socket has to be a short one.
    with tempfile.TemporaryDirectory(prefix="lab-") as directory:
        options = f"ssh_config={SSH_CONFIG}&timeout={CONNECT_SECONDS}&controlpersist=600"
        hosts = {
            name: testinfra.get_host(f"ssh://{name}?{options}", controlpath=f"{directory}/{name}")
            for name in inference + balancers
        }
        found = Lab(
            inference=inference,
            balancer=balancers[0],
            hosts=hosts,
            plans={name: json.loads(hosts[name].check_output("cat /etc/numapin/plan.json")) for name in inference},
            url=f"http://127.0.0.1:{variables[balancers[0]]['lab_http_port']}/v1",
            model=variables[inference[0]]["vllm_models"][0]["name"],
            api_key_path=INVENTORY.parent / "api_key",
            connections=pathlib.Path(directory),
        )
        try:
            yield found
        finally:
            found.hang_up()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was seen."""
    for line in FIGURES:
        terminalreporter.write_line(line)
