# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/benchmark.yml on a machine with two nodes and a kernel of its own: what it binds, measures and leaves out.

Under emulation its numbers say nothing. What counts is where the kernel had each process and its pages, which a watcher
on the machine wrote down from /proc meanwhile.
"""

from __future__ import annotations

import collections.abc as c
import json
import subprocess
import typing as t

import pytest
from fleet.console import FleetError, say
from fleet.settings import BUILD
from machines import torch_disk
from machines.payload import ENGINE_PYTHON, MODEL_SOURCE
from machines.places import LAB

if t.TYPE_CHECKING:
    from machines.booted import Booted

NAME = "benchmark"
NOTES = BUILD / "lab-benchmark"
PLAYBOOK_SECONDS = 1500
NODE_CPUS = {0: "0-1", 1: "2-3"}
# An instance on each node; the first core of a node is kept for the system.
INSTANCE_CPUS = "1"
ROUNDS = 6
BUFFER_MIB = 32
PAGES_OF_A_MIB = 256
VARIABLES = {
    "vllm_models": [{"name": "tiny", "source": MODEL_SOURCE, "device": "cpu", "arguments": {"max-model-len": 512}}],
    "vllm_install_method": "existing",
    "vllm_existing_python": ENGINE_PYTHON,
    "benchmark_python": torch_disk.PYTHON,
    "vllm_address": "127.0.0.1",
    "benchmark_user": "nobody",
    # vLLM itself would take longer to start in an emulated machine than a test may.
    "benchmark_parts": ["host", "linear"],
    "benchmark_placements": ["local", "remote"],
    "benchmark_rounds": ROUNDS,
    "benchmark_buffer_mib": BUFFER_MIB,
    "benchmark_linear_size": 64,
    "benchmark_results_dir": str(NOTES / "results"),
}
WATCHER = "/run/watch-benchmark"
WATCHED = "/run/watched.json"
MOUNT = f"""
mkdir -p {torch_disk.MOUNTED}
for try in $(seq 30); do
    mount -o ro /dev/disk/by-label/{torch_disk.LABEL} {torch_disk.MOUNTED} && exit 0
    sleep 1
done
exit 1
"""
LEFT = r"""
systemctl list-units --all --no-legend --plain 'numapin-benchmark-*'
ls -d /run/numapin-benchmark /var/cache/numapin-benchmark 2>/dev/null || true
"""


class Story(t.NamedTuple):
    """What was noted."""

    previewed: str
    refused: tuple[int, str]
    result: dict[str, t.Any]
    watched: dict[str, dict[str, t.Any]]
    left: str


def play(machine: Booted, *arguments: str) -> tuple[int, str]:
    """Run benchmark.yml; exit status and words."""
    group = {"inference": {"hosts": {NAME: {}}, "vars": VARIABLES}}
    (NOTES / "groups.yml").write_text(json.dumps(group), encoding="utf-8")
    command, environment = machine.playbook_command(
        "numapin.inference.benchmark", f"--inventory={NOTES / 'groups.yml'}", *arguments
    )
    environment.pop("ANSIBLE_FORCE_COLOR", None)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PLAYBOOK_SECONDS, check=False, env=environment
    )
    text = done.stdout + done.stderr
    (NOTES / f"said{len(list(NOTES.glob('said*')))}.txt").write_text(text, encoding="utf-8")
    return done.returncode, " ".join(text.split())


@pytest.fixture(scope="module")
def story(boot: c.Callable[[str], Booted]) -> Story:
    """Previewed, refused, run and watched."""
    NOTES.mkdir(parents=True, exist_ok=True)
    for old in (*NOTES.glob("said*"), *NOTES.glob("results/*")):
        old.unlink()
    try:
        machine = boot(NAME)
        machine.run(MOUNT)
        code, previewed = play(machine, "--check", "--extra-vars={'benchmark_parts': ['host', 'linear', 'service']}")
        assert code == 0, previewed
        refused = play(machine, "--check", "--extra-vars={'benchmark_buffer_mib': 1000000, 'benchmark_rounds': 5}")
        script = (LAB / "watch-benchmark").read_text(encoding="utf-8")
        machine.run(f"cat >{WATCHER} <<'END_OF_SCRIPT'\n{script}\nEND_OF_SCRIPT\n")
        machine.run(f"systemd-run --quiet --unit=watch-benchmark --property=Type=exec python3 {WATCHER} {WATCHED}")
        say("benchmark.yml runs")
        code, said = play(machine)
        machine.run("systemctl stop watch-benchmark")
        watched = json.loads(machine.run(f"cat {WATCHED}"))
        (NOTES / "watched.json").write_text(json.dumps(watched, indent=2), encoding="utf-8")
        assert code == 0, said
        left = machine.run(LEFT)
    except FleetError as error:
        pytest.exit(f"The machine could not be measured: {error}", returncode=1)
    result = json.loads((NOTES / "results" / f"{NAME}.json").read_text(encoding="utf-8"))
    return Story(previewed, refused, result, watched, left)


def own_pages(seen: dict[str, t.Any]) -> tuple[int, int]:
    """MiB on nodes 0 and 1 of what a process has for itself."""
    first, second = (seen["pages"].get(node, 0) // PAGES_OF_A_MIB for node in ("0", "1"))
    return first, second


def test_check_mode_says_what_would_be_run(story: Story) -> None:
    for cpu in NODE_CPUS:
        for memory in NODE_CPUS:
            assert f"memory: CPUs of node {cpu}, memory of node {memory}" in story.previewed
    assert f"torch.nn.Linear, remote, {ROUNDS} rounds: CPUs {INSTANCE_CPUS}, memory of node 1" in story.previewed
    assert "tiny-n0 CPUs 1, memory of node 0; tiny-n1 CPUs 3, memory of node 1" in story.previewed
    assert "tiny-n0 CPUs 1, memory of node 1; tiny-n1 CPUs 3, memory of node 0" in story.previewed


def test_too_few_rounds_are_refused(story: Story) -> None:
    code, said = story.refused
    assert code != 0
    assert "benchmark_rounds is 5; it must be 6 or more" in said


def test_every_pair_of_nodes_is_measured(story: Story) -> None:
    pairs = {(one["cpu_node"], one["memory_node"]): one for one in story.result["pairs"]}
    assert sorted(pairs) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(one["gib_per_second"] > 0 and one["nanoseconds"] > 0 for one in pairs.values()), pairs
    assert story.result["problems"] == []


@pytest.mark.parametrize("cpu", NODE_CPUS)
@pytest.mark.parametrize("memory", NODE_CPUS)
def test_the_kernel_had_each_pair_where_it_was_told(story: Story, cpu: int, memory: int) -> None:
    seen = story.watched[f"numapin-benchmark-probe-{cpu}-{memory}.service"]
    assert (seen["cpus"], seen["memory"]) == ([NODE_CPUS[cpu]], [str(memory)])
    mib = own_pages(seen)
    assert mib[memory] >= 2 * BUFFER_MIB, mib
    assert mib[1 - memory] == 0, mib


@pytest.mark.parametrize(("placement", "memory"), [("local", 0), ("remote", 1)])
def test_the_kernel_had_the_loop_where_it_was_told(story: Story, placement: str, memory: int) -> None:
    seen = story.watched[f"numapin-benchmark-probe-linear-{placement}.service"]
    assert (seen["cpus"], seen["memory"]) == ([INSTANCE_CPUS], [str(memory)])
    mib = own_pages(seen)
    assert mib[memory] > 0, mib
    assert mib[1 - memory] == 0, mib


def test_the_loop_has_a_verdict_with_its_uncertainty(story: Story) -> None:
    assert {name: len(one["rounds"]) for name, one in story.result["linear"].items()} == {
        "local": ROUNDS,
        "remote": ROUNDS,
    }
    (verdict,) = story.result["verdicts"]
    assert (verdict["first"], verdict["second"], verdict["rounds"]) == ("local", "remote", ROUNDS)
    assert verdict["low"] <= verdict["ratio"] <= verdict["high"]
    say(verdict["text"])


def test_what_is_left_out_is_named_with_the_reason(story: Story) -> None:
    left_out = {(one["part"], one["what"]): one["why"] for one in story.result["left_out"]}
    assert left_out == {
        ("host", "copies between host and GPU"): "this host has no GPU",
        ("service", "all of it"): "benchmark_parts leaves it out",
    }


def test_nothing_is_left_on_the_machine(story: Story) -> None:
    assert story.left == ""
