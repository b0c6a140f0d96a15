# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure what a site.yml that changes nothing costs the controller, by the number of hosts.

Usage: ``python tests/figures/fleet_cost.py [HOSTS...]`` (1 10 50 100 200). The hosts are doubles that answer at once
(tests/figures/fleet), two balancers in front of them, so everything that is measured is the controller's: a host's own
work is done beside that of others. Growth is that of processor seconds, so that what else this machine does has no part
in it. A play that does nothing but ``ansible.builtin.ping`` runs in turn, over the same connection. The last line is
the figures' JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import eight_gpus

ROOT = Path(__file__).resolve().parents[2]
HOSTS = (1, 10, 50, 100, 200)
FORKS = 10
LIMIT_SECONDS = 900
PING = "---\n- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.ping:\n"
MODEL = {"name": "llama", "source": "/opt/models/llama", "tensor_parallel_size": 2, "instances_per_node": 2}


class Cost(t.NamedTuple):
    """Of one run: wall and processor time, the tasks that a host had, and the most memory of one process."""

    seconds: float
    processor: float
    tasks: int
    mib: float


def facts() -> dict[str, t.Any]:
    """Return the facts of a usual server."""
    kernel = {"release": "6.1.0", "numa_balancing": 0, "container": "none", "cpuset_enforced": True}
    parts = ["cpus", "memory", "gpus", "links", "nics", "nvme", "infiniband", "kernel"]
    return {**eight_gpus(), "gathered": parts, "nvme": [], "infiniband": [], "kernel": kernel}


def inventory(count: int, scratch: Path) -> Path:
    """Write the inventory of so many hosts and of two balancers."""
    variables = {
        "ansible_connection": "answering",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_pipelining": True,
        "vllm_install_method": "existing",
        "vllm_existing_python": "/opt/vllm/bin/python",
        "vllm_models": [MODEL],
    }
    hosts = {f"gpu{number:03}": {"ansible_host": f"10.1.{number // 250}.{number % 250 + 1}"} for number in range(count)}
    balancers = {f"lb{number}": {"ansible_host": f"10.2.0.{number + 1}"} for number in range(2)}
    path = scratch / f"hosts-{count}.json"
    groups = {"inference": {"hosts": hosts}, "load_balancers": {"hosts": balancers}}
    path.write_text(json.dumps({"all": {"children": groups, "vars": variables}}), encoding="utf-8")
    return path


def run(playbook: str, hosts: Path, scratch: Path) -> Cost:
    """Run a playbook; one that fails or changes something is no measurement."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "dev"),
        "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "tests" / "figures" / "fleet" / "connection_plugins"),
        "ANSIBLE_NOCOLOR": "1",
        "NUMAPIN_FLEET_DIRECTORY": str(scratch),
    }
    log = scratch / "log"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        command = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "--forks",
            str(FORKS),
            "-i",
            str(hosts),
            playbook,
        ]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        _pid, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - started
    said = log.read_text(encoding="utf-8")
    if process.returncode or re.search(r"(changed|failed|unreachable)=[1-9]", said):
        sys.exit(f"{playbook} on {hosts.name} was to succeed and to change nothing, but:\n{said[-6000:]}")
    ok = [int(number) for number in re.findall(r"^gpu\d+ .*ok=(\d+)", said, re.MULTILINE)]
    return Cost(took, used.ru_utime + used.ru_stime, ok[-1], used.ru_maxrss / 1024)


def main() -> None:
    """Measure, and print the figures."""
    counts = [int(word) for word in sys.argv[1:]] or list(HOSTS)
    costs: dict[int, Cost] = {}
    with tempfile.TemporaryDirectory(prefix="numapin-fleet-") as directory:
        scratch = Path(directory)
        (scratch / "facts.json").write_text(json.dumps(facts()), encoding="utf-8")
        (scratch / "ping.yml").write_text(PING, encoding="utf-8")
        for count in counts:
            hosts = inventory(count, scratch)
            ping = run(str(scratch / "ping.yml"), hosts, scratch)
            site = costs[count] = run("numapin.inference.site", hosts, scratch)
            print(
                f"{count:4} hosts: {site.seconds:.1f} s ({site.seconds / count:.2f} a host; {site.processor:.1f} s of"
                f" processors), {site.tasks} tasks on each, {site.mib:.0f} MiB; ping alone {ping.seconds:.1f} s",
                flush=True,
            )
    most = max(costs)
    values: dict[str, float] = {"fleet_site_mib": costs[most].mib, "fleet_site_tasks": costs[most].tasks}
    if most // 2 in costs:
        values["fleet_site_growth"] = costs[most].processor / costs[most // 2].processor
    detail = f"{FORKS} forks, {os.cpu_count()} CPUs, doubles of hosts: " + ", ".join(
        f"{cost.seconds:.1f} s ({cost.processor:.1f} s of processors) for {count}" for count, cost in costs.items()
    )
    print(json.dumps({"values": {name: round(value, 2) for name, value in values.items()}, "detail": detail}))


if __name__ == "__main__":
    main()
