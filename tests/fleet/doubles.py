# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fleet of doubles: an inventory of any number of hosts that are as wanted, and playbooks run on it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import eight_gpus

ROOT = Path(__file__).resolve().parents[2]
FORKS = 10
MODEL = {"name": "llama", "source": "/opt/models/llama", "tensor_parallel_size": 2, "instances_per_node": 2}
RECAP = re.compile(r"^(\w+)\s+: (ok=.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Ran:
    """A run that has ended: how, what it said, wall and processor time, and the most memory of one process."""

    code: int
    said: str
    seconds: float
    processor: float
    mib: float

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Return the counts of the end, by host."""
        return {
            host: {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", counts)}
            for host, counts in RECAP.findall(self.said)
        }


@dataclasses.dataclass(frozen=True)
class Fleet:
    """``count`` inference hosts (gpu000, …) and two balancers (lb0, lb1); what they remember is below ``directory``."""

    count: int
    directory: Path
    # Of real hosts, in place of the doubles.
    hosts: Path | None = None

    def address(self, number: int) -> str:
        return f"10.1.{number // 250}.{number % 250 + 1}"

    def inventory(self) -> Path:
        """Write facts and inventory; return the latter."""
        if self.hosts is not None:
            return self.hosts
        kernel = {"release": "6.1.0", "numa_balancing": 0, "container": "none", "cpuset_enforced": True}
        parts = ["cpus", "memory", "gpus", "links", "nics", "nvme", "infiniband", "kernel"]
        facts = {**eight_gpus(), "gathered": parts, "nvme": [], "infiniband": [], "kernel": kernel}
        (self.directory / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        variables = {
            "ansible_connection": "answering",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_pipelining": True,
            "vllm_install_method": "existing",
            "vllm_existing_python": "/opt/vllm/bin/python",
            "vllm_models": [MODEL],
        }
        hosts = {f"gpu{number:03}": {"ansible_host": self.address(number)} for number in range(self.count)}
        balancers = {f"lb{number}": {"ansible_host": f"10.2.0.{number + 1}"} for number in range(2)}
        groups = {"inference": {"hosts": hosts}, "load_balancers": {"hosts": balancers}}
        path = self.directory / f"hosts-{self.count}.json"
        path.write_text(json.dumps({"all": {"children": groups, "vars": variables}}), encoding="utf-8")
        return path

    def settings(self) -> dict[str, str]:
        """Return what Ansible needs to find the doubles, whichever collection it runs."""
        return {
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "tests" / "fleet" / "connection_plugins"),
            "ANSIBLE_NOCOLOR": "1",
            "NUMAPIN_FLEET_DIRECTORY": str(self.directory),
        }

    def run(self, playbook: str, *options: str, **environment: str) -> Ran:
        """Run a playbook on the fleet."""
        settings = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "dev"),
            **self.settings(),
            **environment,
        }
        program = str(Path(sys.executable).parent / "ansible-playbook")
        command = [program, "--forks", str(FORKS), "-i", str(self.inventory()), *options, playbook]
        log = self.directory / "log"
        started = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(command, env=settings, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
            _pid, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        said = log.read_text(encoding="utf-8")
        took = time.monotonic() - started
        return Ran(process.returncode, said, took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def as_wanted(ran: Ran) -> dict[str, t.Any]:
    """Return what of a run is not as in one that changes nothing; empty when it is one."""
    wrong = {
        host: counts
        for host, counts in ran.recap.items()
        if counts["changed"] or counts["failed"] or counts["unreachable"] or counts["rescued"]
    }
    return {**wrong, **({"code": ran.code} if ran.code else {}), **({} if ran.recap else {"recap": "none"})}
