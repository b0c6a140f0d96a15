# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Somebody moves an instance by hand: the timer's metrics and verify.yml name it, and are silent once it is back.

What is so is checked with taskset, numastat and the double of NVML; what we say about it is held against that.
"""

from __future__ import annotations

import concurrent.futures
import json
import time
import typing as t

import checks
import pytest
from inside import parse_list
from scenario import FIGURES
from site_runs import run_playbook

# A run takes an emulated machine seconds, and one may have begun before the change.
SLACK_SECONDS = 25
METRICS = "/run/numapin/verify.prom"
# Moves a process with its threads, another's pages, and has NVML's double say that a third holds a GPU of another node.
MOVE = """
set -eu
systemctl set-property --runtime {unit} AllowedCPUs={every_cpu} AllowedMemoryNodes=0-1
for pid in $(cat /sys/fs/cgroup$(systemctl show --value --property=ControlGroup {unit})/cgroup.procs); do
    taskset -acp {cpus} $pid >/dev/null
done
taskset -acp {other_cpu} {moved} >/dev/null
# All of them would take an emulated machine half a minute each way.
timeout 5 migratepages {migrated} {node} {other_node} || true
echo "{other_gpu} {migrated}" >/run/lab/compute
taskset -cp {moved}
numastat -p {migrated} | tail -n 1
"""
BACK = """
set -eu
rm -f /run/lab/compute
taskset -acp {cpus} {moved} >/dev/null
migratepages {migrated} {other_node} {node}
rm -rf /run/systemd/system.control/{unit}.d
systemctl daemon-reload
taskset -acp {moved} | sed 's/.*: //' | sort -u
numastat -p {migrated} | tail -n 1
"""


def metrics(host: t.Any) -> dict[str, float]:
    """The samples of the instance's machine, by name and labels as they are written."""
    lines = host.check_output(f"cat {METRICS}").splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _space, value in samples}


def wait_for(
    host: t.Any, is_so: t.Callable[[dict[str, float]], bool], seconds: float
) -> tuple[dict[str, float], float]:
    """Look at the metrics until they are so; with the seconds that it took."""
    started = time.monotonic()
    while not is_so(found := metrics(host)):
        assert time.monotonic() < started + seconds, found
        time.sleep(2)
    return found, time.monotonic() - started


def test_what_is_moved_by_hand_is_named_by_the_timer_and_by_verify(lab: t.Any) -> None:
    name = lab.inference[0]
    host, (entry, other) = lab.hosts[name], lab.plans[name]["instances"]
    seen = checks.looked_at_one(lab, name).units[entry["unit"]]
    moved, migrated = (process.pid for process in seen.processes if "VLLM::Worker" in process.command)
    (node,), (other_node,) = entry["memory_nodes"], other["memory_nodes"]
    values = {
        "unit": entry["unit"],
        "cpus": entry["cpus"],
        "every_cpu": host.check_output("cat /sys/devices/system/cpu/online"),
        "other_cpu": other["cpus"],
        "node": node,
        "other_node": other_node,
        "moved": moved,
        "migrated": migrated,
        "other_gpu": other["gpus"][0],
    }
    instance = f'instance="{entry["name"]}"'
    strays, mismatch = f"numapin_instance_stray_threads{{{instance}}}", f"numapin_gpu_mismatch{{{instance}}}"
    misplaced = f'numapin_instance_misplaced_bytes{{{instance},node="{other_node}"}}'
    before = metrics(host)
    assert (before[strays], before[mismatch], before[f"numapin_instance_as_planned{{{instance}}}"]) == (0, 0, 1)
    assert (before["numapin_irq_drift"], before["numapin_tuning_drift"]) == (0, 0)
    interval = json.loads(host.check_output("cat /etc/numapin/verify.json"))["interval_seconds"]

    try:
        said = host.check_output(MOVE.format(**values)).splitlines()
        assert parse_list(said[0].rpartition(": ")[2]) == parse_list(other["cpus"])
        away_mib = float(said[1].split()[1 + other_node])
        with concurrent.futures.ThreadPoolExecutor() as pool:
            verifying = pool.submit(run_playbook, "verify.yml", f"--limit={name}")
            found, seconds = wait_for(
                host, lambda now: now[strays] > 0 and now[misplaced] > 0 and now[mismatch] > 0, interval + SLACK_SECONDS
            )
            run = verifying.result()
    finally:
        said = host.check_output(BACK.format(**values)).splitlines()
    assert away_mib > 100, said
    assert parse_list(said[0]) == parse_list(entry["cpus"])
    assert float(said[1].split()[1 + other_node]) < 20, said

    threads = len(next(process for process in seen.processes if process.pid == moved).threads)
    assert found[strays] == threads
    assert found[misplaced] == pytest.approx(away_mib * 2**20, rel=0.05, abs=20 * 2**20)
    assert found[mismatch] == 1
    assert found[f"numapin_instance_as_planned{{{instance}}}"] == 0
    assert run.status != 0, run.output
    for text in (
        f"{threads} of ",
        f"threads may run outside the planned CPUs {entry['cpus']}: thread {moved} ",
        f"of process {migrated} (VLLM::Worker_TP) on node {other_node}",
        f"GPU {values['other_gpu']} is held by process {migrated} (VLLM::Worker_TP) and is not planned (so says NVML)",
    ):
        assert text in run.text, run.output
    _gone, back = wait_for(
        host, lambda now: now[f"numapin_instance_as_planned{{{instance}}}"] == 1, interval + SLACK_SECONDS
    )
    FIGURES.append(f"moved by hand: {name} said so after {seconds:.0f} s, and that it is back after {back:.0f} s")
    log = host.check_output("journalctl --boot --unit=numapin-verify.service --output=cat")
    assert log.count(f"NOT as planned: {entry['name']}: {threads} of ") == 1, log
    assert "everything is as planned" in log
    assert host.check_output("systemctl --failed --plain --no-legend") == ""
