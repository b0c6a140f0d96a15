# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What must hold of the fleet, after a deployment as after a reboot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import typing as t

from inside import Inside, Unit, look, parse_list
from scenario import FIGURES, INVENTORY, REPOSITORY

# One per instance's share would not be chance alone.
REQUESTS, CONCURRENCY = 40, 4
SERVES_WITHIN_SECONDS = 120
# API server, EngineCore and a worker for each GPU of the tensor-parallel group.
PROCESSES = 4
GPUS_OF_A_NODE = 2
# numastat rounds each figure to 0.01 MiB, and pages come and go between two looks.
ROUNDING_MIB = 2.5
NOT_OURS = re.compile(r"sshd\[|kernel: .*(soft lockup|rcu|stall|clocksource)|systemd-udevd.* is taking a long time")


def placement(name: str, plan: dict[str, t.Any], seen: Inside, when: str) -> None:
    """Every thread and every page of every instance is where the plan says, and the plan is right for this machine."""
    assert {entry["unit"] for entry in plan["instances"]} == set(seen.units), f"{name} runs {sorted(seen.units)}"
    assert sorted(node for entry in plan["instances"] for node in entry["nodes"]) == sorted(seen.node_cpus)
    for entry in plan["instances"]:
        unit, (node,) = seen.units[entry["unit"]], entry["nodes"]
        where = f"{name}: {unit.name}"
        # The node's CPUs by numactl, without the first, which is kept for the system.
        planned = frozenset(sorted(seen.node_cpus[node])[1:])
        assert planned
        assert parse_list(entry["cpus"]) == planned, f"{where} is planned on {entry['cpus']}"
        assert unit.state == "active"
        fence = (unit.cpus, unit.nodes)
        assert fence == (planned, frozenset({node})), f"{where}: its control group allows {fence}"
        assert len(unit.processes) == PROCESSES, f"{where}: {[process.command for process in unit.processes]}"
        threads = {tid: cpus for process in unit.processes for tid, cpus in process.threads.items()}
        strays = {tid: sorted(cpus) for tid, cpus in threads.items() if not cpus <= planned}
        assert not strays, f"{where}: threads off {sorted(planned)}: {strays}"
        assert frozenset().union(*threads.values()) == planned
        for process in unit.processes:
            assert process.allowed_nodes == {str(node)}, f"{where}: {process.pid} may use nodes {process.allowed_nodes}"
        FIGURES.append(f"{when}: {where}: {len(threads)} threads on {entry['cpus']}, {pages(where, unit, entry)}")


def pages(where: str, unit: Unit, entry: dict[str, t.Any]) -> str:
    """At least 99 % of an instance's pages are on its node, by numastat, and only shared code is elsewhere."""
    (node,) = entry["nodes"]
    touched = entry["tensor_parallel_size"] * int(entry["environment"]["NUMAPIN_ENGINE_WORKER_MEMORY_MIB"])
    own = {place: sum(process.own_pages.get(place, 0) for process in unit.processes) for place in unit.numastat_mib}
    share = own[node] / sum(own.values())
    assert share >= 0.99, f"{where} has its pages on nodes {own}"
    here = unit.numastat_mib[node]
    assert here >= touched, f"{where}: numastat says {unit.numastat_mib}, less than its workers touch"
    elsewhere = sum(mib for place, mib in unit.numastat_mib.items() if place != node)
    assert here / (here + elsewhere) >= 0.99, f"{where}: numastat says {unit.numastat_mib}"
    # Code is in memory once for the whole machine, on the node of whoever read it first: only it may be elsewhere.
    shared = sum(process.shared_kib for process in unit.processes) / 1024
    assert elsewhere <= shared + (1 - share) * here + ROUNDING_MIB, (
        f"{where}: numastat says {unit.numastat_mib}, {shared} shared"
    )
    return (
        f"{100 * here / (here + elsewhere):.2f} % of its pages local by numastat ({here:.0f} MiB, and"
        f" {elsewhere:.1f} of code elsewhere), {100 * share:.2f} % of its own"
    )


def gpus(name: str, plan: dict[str, t.Any], seen: Inside) -> None:
    """Every process of an instance sees exactly the GPUs of its node, by UUID, and every GPU serves."""
    assert seen.gpu_nodes == seen.lspci_nodes
    assert sorted(seen.gpu_nodes.values()) == sorted([*seen.node_cpus] * GPUS_OF_A_NODE)
    for entry in plan["instances"]:
        (node,) = entry["nodes"]
        own = sorted(uuid for uuid, place in seen.gpu_nodes.items() if place == node)
        for process in seen.units[entry["unit"]].processes:
            assert sorted(process.devices) == own, f"{name}: {entry['unit']} {process.pid} sees {process.devices}"


def tuning(name: str, seen: Inside) -> None:
    """The kernel is as host_tuning has it by default, and each card's interrupts go to the CPU that its node keeps."""
    settings = {"kernel.numa_balancing": "0", "vm.zone_reclaim_mode": "0", "vm.swappiness": "10", "thp": "madvise"}
    assert seen.settings == settings, name
    assert {node for node, _action, _cpus in seen.irqs} == set(seen.node_cpus), f"{name}: {seen.irqs}"
    for node, action, cpus in seen.irqs:
        assert cpus == {min(seen.node_cpus[node])}, f"{name}: {action} of node {node} goes to {sorted(cpus)}"


def service(lab: t.Any) -> None:
    """Streams through the balancer are whole, and every instance of every machine has a part in them."""
    command = [sys.executable, str(REPOSITORY / "tests" / "containers" / "load.py"), f"--url={lab.url}"]
    command += [f"--model={lab.model}", f"--api-key-file={lab.api_key_path}"]
    command += [f"--requests={REQUESTS}", f"--concurrency={CONCURRENCY}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["failures"] == []
    assert result["completed"] == REQUESTS
    assert set(result["by_upstream"]) == lab.endpoints(), result["by_upstream"]


def serves_soon(lab: t.Any) -> None:
    """Wait until every instance answers: one starts for seconds, and is tried again when its network came late."""
    deadline = time.monotonic() + SERVES_WITHIN_SECONDS
    for endpoint in sorted(lab.endpoints()):
        ask = f"curl -s -m 5 -o /dev/null -w '%{{http_code}}' http://{endpoint}/health"
        while (said := lab.hosts[lab.balancer].run(ask).stdout) != "200":
            assert time.monotonic() < deadline, f"{endpoint} answers {said} after {SERVES_WITHIN_SECONDS} s"
            time.sleep(1)


def health(name: str, host: t.Any) -> None:
    """Nothing has failed, and nothing complains that did not when the machine was clean."""
    assert host.check_output("systemctl --failed --plain --no-legend") == ""
    before = complaints((INVENTORY.parent / name / "journal-before.txt").read_text(encoding="utf-8"))
    # The kernel's warnings are about the emulated hardware, and other ones at each boot.
    ours = "journalctl --boot --priority=warning --no-pager | grep -v ' kernel: '"
    now = complaints(host.run(f"{ours}; journalctl --dmesg --priority=err --no-pager").stdout)
    new = {line for plain, line in now.items() if plain not in before}
    assert not new, f"{name} complains of what it did not when it was clean:\n" + "\n".join(sorted(new))


def complaints(journal: str) -> dict[str, str]:
    """Lines by what stays the same of them from boot to boot.

    Left out: sshd's about whoever looks whether it listens, which is tests/lab, and the kernel's and udev's about time
    that they did not get, which is the emulator's.
    """
    found = {}
    for line in journal.splitlines():
        match = re.match(r"\w{3} +\d+ [\d:]+ \S+ (.*)", line)
        if match and not NOT_OURS.match(match[1]):
            found[re.sub(r"0x[0-9a-f]+|\d+", "N", match[1])] = line
    return found


def looked_at_one(lab: t.Any, name: str) -> Inside:
    """One inference host as its tools show it."""
    return look(lab.hosts[name])


def looked_at(lab: t.Any) -> dict[str, Inside]:
    """Every inference host as its tools show it."""
    return {name: look(lab.hosts[name]) for name in lab.inference}
