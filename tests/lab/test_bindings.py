# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Instances over both nodes of a real kernel, bound by numactl: a pipeline on GPUs, and one interleaved on the CPU.

One machine goes through the story below once; the tests hold what it noted: pages by numastat, CPUs by taskset.
"""

from __future__ import annotations

import collections.abc as c
import json
import re
import subprocess
import typing as t

import pytest
from fleet.console import FleetError
from fleet.settings import BUILD
from machines.payload import ENGINE_PYTHON, MODEL_SOURCE

if t.TYPE_CHECKING:
    from machines.booted import Booted

NAME = "gpu-server"
NOTES = BUILD / "lab-bindings"
PLAYBOOK_SECONDS = 300
NODE_CPUS = {0: "0-1", 1: "2-3"}
MEMORY = "NUMAPIN_ENGINE_WORKER_MEMORY_MIB"
PIPELINE_MIB, INTERLEAVED_MIB = 200, 600
# Code is in memory once for the whole machine, on the node of whoever read it first.
CODE_MIB = 25
SECRET = 'a "b" $c'
# More than a node has and less than both have.
SPANNING_MIB, TOO_MUCH_MIB = 3000, 6000
VARIABLES = {
    "vllm_install_method": "existing",
    "vllm_existing_python": ENGINE_PYTHON,
    "vllm_binding": "numactl",
    "vllm_launch_scripts": True,
    "vllm_secret_environment": {"HF_TOKEN": SECRET},
    # All four CPUs of the machine: each instance gets one of every node.
    "vllm_housekeeping_cores": 0,
    "vllm_start_timeout_seconds": 120,
    "vllm_shutdown_timeout_seconds": 5,
}
PIPELINE = {
    "name": "pipeline",
    "source": MODEL_SOURCE,
    "tensor_parallel_size": 4,
    "spanning": "pipeline",
    "arguments": {"max-model-len": 4096},
    "environment": {MEMORY: str(PIPELINE_MIB)},
}
INTERLEAVED = {
    "name": "interleaved",
    "source": MODEL_SOURCE,
    "device": "cpu",
    "spanning": "interleave",
    "memory_mib": SPANNING_MIB,
    "arguments": {"max-model-len": 4096},
    "environment": {MEMORY: str(INTERLEAVED_MIB)},
}
LOOK = r"""
for unit in vllm@pipeline-n0 vllm@interleaved-n0; do
    for pid in $(cat /sys/fs/cgroup$(systemctl show --value --property=ControlGroup $unit)/cgroup.procs); do
        echo "process $pid $unit $(tr '\0' ' ' </proc/$pid/cmdline | cut -c 1-40)"
        taskset -acp $pid | sed "s/.*list: /cpus $pid /"
        pids="$pids $pid"
    done
done
numastat -p $pids
"""
# What a process was started with, without what only systemd can say.
STARTED = r"""
started() {
    tr '\0' ' ' <"/proc/$1/cmdline"; echo
    taskset -cp "$1" | sed 's/.*: //'
    awk '/ heap / {print $2; exit}' "/proc/$1/numa_maps"
    grep -E '^(Uid|Gid|Groups|NoNewPrivs|CapBnd|CapEff|Umask):' "/proc/$1/status"
    grep -E '^Max (open files|locked memory|core file size)' "/proc/$1/limits"
    readlink "/proc/$1/cwd"
    systemds='INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID|MEMORY_PRESSURE_|STATE_DIRECTORY|CACHE_DIRECTORY|LANG|SHELL'
    tr '\0' '\n' <"/proc/$1/environ" | grep -vE "^($systemds)" | sort
}
"""
LAUNCH = f"""{STARTED}
script=/usr/local/lib/numapin/launch/interleaved-n0
$script >/run/refused 2>&1; echo "refused $?"
cat /run/refused
echo ==== unit
started $(systemctl show --value --property=MainPID vllm@interleaved-n0)
systemctl stop vllm@interleaved-n0
setsid $script >/run/launched 2>&1 &
pid=$!
for try in $(seq 100); do
    grep -q 'Starting vLLM server' /run/launched && break
    sleep 0.2
done
echo ==== script
started $pid
echo ==== end
kill -TERM $pid
wait $pid
echo "status $?"
grep -c -F '{SECRET}' $script || true
"""


class Story:
    """What was noted on the way, by name."""

    def __init__(self, machine: Booted) -> None:
        self._machine = machine
        self.said: dict[str, str] = {}
        self.codes: dict[str, int] = {}

    def shell(self, name: str, script: str) -> None:
        """Run a script in the machine and note what it said."""
        self.said[name] = self._machine.run(script)
        (NOTES / f"{name}.txt").write_text(self.said[name], encoding="utf-8")

    def play(self, name: str, models: list[dict[str, t.Any]]) -> None:
        """Serve these models."""
        variables = {**VARIABLES, "vllm_models": models}
        group = {"inference": {"hosts": {NAME: {}}, "vars": variables}}
        (NOTES / "groups.yml").write_text(json.dumps(group), encoding="utf-8")
        command, environment = self._machine.playbook_command(
            "numapin.inference.inference", f"--inventory={NOTES / 'groups.yml'}"
        )
        environment.pop("ANSIBLE_FORCE_COLOR", None)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PLAYBOOK_SECONDS, check=False, env=environment
        )
        self.said[name], self.codes[name] = done.stdout + done.stderr, done.returncode
        (NOTES / f"{name}.txt").write_text(self.said[name], encoding="utf-8")


@pytest.fixture(scope="module")
def story(boot: c.Callable[[str], Booted]) -> Story:
    """Ask for too much, deploy, look, and start one instance without systemd."""
    NOTES.mkdir(parents=True, exist_ok=True)
    try:
        told = Story(boot(NAME))
        told.play("too much", [PIPELINE, {**INTERLEAVED, "memory_mib": TOO_MUCH_MIB}])
        told.shell("untouched", "ls -d /etc/vllm /etc/numapin /var/lib/vllm 2>/dev/null; id -u vllm 2>/dev/null; true")
        told.play("deploy", [PIPELINE, INTERLEAVED])
        told.shell("look", LOOK)
        told.shell("launch", LAUNCH)
    except FleetError as error:
        pytest.exit(f"The machine could not be deployed and asked: {error}", returncode=1)
    return told


def processes(story: Story, unit: str) -> dict[str, tuple[set[str], list[float]]]:
    """By command: the CPUs that the process's threads may use, and its MiB on each node by numastat."""
    said = story.said["look"].splitlines()
    cpus: dict[str, set[str]] = {}
    for words in (line.split() for line in said if line.startswith("cpus ")):
        cpus.setdefault(words[1], set()).add(words[2])
    rows = re.findall(r"^(\d+) \(.*\) +([\d.]+) +([\d.]+) +[\d.]+$", story.said["look"], re.MULTILINE)
    mib = {pid: [float(first), float(second)] for pid, first, second in rows}
    found = [line.split(maxsplit=3)[1:] for line in said if line.startswith("process ")]
    return {command.strip(): (cpus[pid], mib[pid]) for pid, name, command in found if name == unit}


def test_an_over_committed_node_is_refused_and_nothing_is_touched(story: Story) -> None:
    said = " ".join(story.said["too much"].split())
    assert story.codes["too much"] != 0
    assert f"{TOO_MUCH_MIB} MiB" in said
    assert re.search(rf"{NAME} +: ok=\d+ +changed=0 ", story.said["too much"])
    assert story.said["untouched"] == ""


def test_each_worker_of_a_pipeline_is_on_its_own_node(story: Story) -> None:
    assert story.codes["deploy"] == 0, story.said["deploy"]
    found = processes(story, "vllm@pipeline-n0")
    for stage, node in ((0, 0), (1, 1)):
        for rank in (0, 1):
            cpus, mib = found[f"VLLM::Worker_PP{stage}_TP{rank}"]
            # One CPU of the node each for this instance and the other.
            assert cpus == {NODE_CPUS[node].partition("-")[0]}
            assert mib[node] >= PIPELINE_MIB, f"stage {stage}: {mib}"
            assert mib[1 - node] <= CODE_MIB, f"stage {stage}: {mib}"
    assert len(found) == 6


def test_interleaved_pages_are_half_and_half(story: Story) -> None:
    cpus, mib = processes(story, "vllm@interleaved-n0")["VLLM::Worker"]
    assert cpus <= {"1,3", "1", "3"}
    assert sum(mib) >= INTERLEAVED_MIB
    assert 0.45 <= mib[0] / sum(mib) <= 0.55, mib


def test_the_launch_script_starts_what_the_unit_starts(story: Story) -> None:
    refused, unit, script, end = re.split(r"==== \w+\n", story.said["launch"])
    assert refused.startswith("refused 78\n")
    assert "vllm@interleaved-n0.service runs already; stop it first" in refused
    assert script.splitlines() == unit.splitlines()
    assert f"HF_TOKEN={SECRET}" in script
    # SIGTERM reached vLLM itself, and the secret is not in the script.
    assert end.splitlines() == ["status 0", "0"]
