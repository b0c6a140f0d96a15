# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure what we claim and write it to build/figures.json.

Usage: ``python tests/figures/run.py [NAME...]`` (all registered figures by default; ``--list`` names them).

A figure is a command that measures one thing on this machine and prints, as the last line of its output, a JSON object
``{"value": NUMBER, "detail": "..."}``. Registering it in ``FIGURES`` gives it a name, a unit, a goal and a time limit.
Figures of one command are measured together when it prints ``{"values": {NAME: NUMBER, ...}, "detail": "..."}``.
build/figures.json holds a list of ``{name, value, unit, goal, met, detail, command, seconds}``; ``value`` and ``met``
are null for one that could not be measured. The exit status is 1 when a goal is missed or a figure was not measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "build" / "figures.json"


@dataclass(frozen=True)
class Figure:
    """One number we stand for.

    ``goal`` is met when the value is on its right side: ``at_most`` and ``at_least`` in ``unit``, either may be None.
    """

    name: str
    unit: str
    command: tuple[str, ...]
    limit_seconds: int
    at_most: float | None = None
    at_least: float | None = None

    @property
    def goal(self) -> str:
        """The goal as people write it."""
        parts = [f">= {self.at_least:g}"] if self.at_least is not None else []
        parts += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        return " and ".join(parts) or "none"

    def met_by(self, value: float) -> bool:
        """Say whether ``value`` reaches the goal."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


TASKS = ("python", "tests/figures/facts_speed.py", "tasks", "--rounds", "12")
FLEET = ("python", "tests/figures/facts_speed.py", "fleet", "--rounds", "3")
SITE = ("python", "tests/figures/fleet_cost.py", "100", "200")
PLANNER = ("python", "tests/figures/planner_speed.py")
BALANCER = ("tools/nginx", sys.executable, "tests/figures/balancer_overhead.py")
BINDING = ("python", "tests/figures/binding_speed.py", "--rounds", "5")
VERDICTS = ("python", "tests/figures/benchmark_verdicts.py")
IRQS = ("python", "tests/figures/irq_speed.py", "--rounds", "7")
PLACEMENT = ("python", "tests/figures/placement_speed.py", "--rounds", "7")

FIGURES = (
    Figure(
        name="balancer_added_over_router",
        unit="times what vllm-router adds to the first token, one request at a time, with TLS, keys, limits and log on",
        command=BALANCER,
        limit_seconds=600,
        at_most=0.5,
    ),
    Figure(
        name="balancer_added_ms",
        unit="ms that nginx adds to the first token, one request at a time, with TLS, keys, limits and log on",
        command=BALANCER,
        limit_seconds=600,
    ),
    Figure(
        name="balancer_token_gap_over_direct",
        unit="times the time between two tokens of a direct answer",
        command=BALANCER,
        limit_seconds=600,
        at_most=1.05,
    ),
    Figure(
        name="balancer_peak_streams",
        unit="answers under way at once through nginx, all complete",
        command=BALANCER,
        limit_seconds=600,
        at_least=2000,
    ),
    Figure(
        name="numa_facts_over_ping",
        unit="times the task ansible.builtin.ping, on this machine",
        command=TASKS,
        limit_seconds=600,
        at_most=1.2,
    ),
    Figure(
        name="numa_facts_over_setup",
        unit="times the task ansible.builtin.setup with gather_subset hardware, on this machine",
        command=TASKS,
        limit_seconds=600,
        at_most=0.5,
    ),
    Figure(
        name="big_tree_over_ping",
        unit="times the task ansible.builtin.ping: 2 packages, 8 nodes, 768 CPUs, 16 GPUs, 4096 interrupt vectors",
        command=TASKS,
        limit_seconds=600,
        at_most=2.0,
    ),
    Figure(
        name="big_tree_growth",
        unit="times the time above ping for twice the tree (2 within noise)",
        command=TASKS,
        limit_seconds=600,
        at_most=2.2,
    ),
    Figure(
        name="fleet_seconds_per_host",
        unit="s for each of 200 simulated hosts on one controller",
        command=FLEET,
        limit_seconds=1200,
    ),
    Figure(
        name="fleet_growth",
        unit="times the time per host, 200 hosts against 50",
        command=FLEET,
        limit_seconds=1200,
        at_most=1.2,
    ),
    Figure(
        name="fleet_site_growth",
        unit="times the controller's processor seconds of a site.yml without changes, 200 hosts against 100",
        command=SITE,
        limit_seconds=2400,
        at_most=2.1,
    ),
    Figure(
        name="fleet_site_mib",
        unit="MiB that ansible-playbook needs for it, 200 hosts",
        command=SITE,
        limit_seconds=2400,
    ),
    Figure(
        name="fleet_site_tasks",
        unit="tasks that ran on each inference host",
        command=SITE,
        limit_seconds=2400,
    ),
    Figure(
        name="planner_seconds",
        unit="s to plan 1,000 hosts with 8 instances each",
        command=PLANNER,
        limit_seconds=120,
        at_most=5.0,
    ),
    Figure(
        name="pinned_over_default",
        unit="times the tokens per second of vLLM's own placement: two real instances, same load, on this machine",
        command=BINDING,
        limit_seconds=1500,
        at_least=1.1,
    ),
    Figure(
        name="pinned_over_floating",
        unit="times the tokens per second of threads that float: two real instances, same load, on this machine",
        command=BINDING,
        limit_seconds=1500,
        at_least=2,
    ),
    Figure(
        name="p99_pinned_over_default",
        unit="times the p99 of the time for an answer with vLLM's own placement, in the same run",
        command=BINDING,
        limit_seconds=1500,
        at_most=1.0,
    ),
    Figure(
        name="p99_pinned_over_floating",
        unit="times the p99 of the time for an answer with threads that float, in the same run",
        command=BINDING,
        limit_seconds=1500,
        at_most=0.5,
    ),
    Figure(
        name="benchmark_false_verdicts",
        unit="of 20 benchmarks of two equal placements of the real vLLM that say that one is faster",
        command=VERDICTS,
        limit_seconds=1800,
        at_most=1,
    ),
    Figure(
        name="benchmark_slowed_found",
        unit="% of benchmarks that find a busy loop beside one instance of the other placement",
        command=VERDICTS,
        limit_seconds=1800,
        at_least=100,
    ),
    Figure(
        name="irq_affinity_over_bare_loop",
        unit="times a bare loop that reads and writes the same files: 4096 vectors, all of them moved",
        command=IRQS,
        limit_seconds=600,
        at_most=1.5,
    ),
    Figure(
        name="irq_affinity_against_tasks",
        unit="times as fast as one Ansible task for each of the 4096 vectors",
        command=IRQS,
        limit_seconds=600,
        at_least=10,
    ),
    Figure(
        name="irq_affinity_against_shell_loop",
        unit="times as fast as a shell loop that works out a mask for each of the 4096 vectors",
        command=IRQS,
        limit_seconds=600,
        at_least=10,
    ),
    Figure(
        name="placement_seconds",
        unit="s of module time to prove 64 instances with 300 threads each",
        command=PLACEMENT,
        limit_seconds=300,
        at_most=2.0,
    ),
    Figure(
        name="placement_over_bare_loop",
        unit="times a bare loop that opens and reads the same files: 19,200 threads, 256 processes",
        command=PLACEMENT,
        limit_seconds=300,
        at_most=4.0,
    ),
)


class NotMeasuredError(Exception):
    """A figure's command failed, ran out of time or printed something else than its value."""


def run_command(figure: Figure) -> dict[str, t.Any]:
    """Run a figure's command and return what it printed last."""
    command = [sys.executable if figure.command[0] == "python" else figure.command[0], *figure.command[1:]]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=figure.limit_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotMeasuredError(f"not done within {figure.limit_seconds} s") from error
    except OSError as error:
        raise NotMeasuredError(f"could not be started: {error}") from error
    if done.returncode != 0:
        raise NotMeasuredError(f"exit status {done.returncode}")
    last_line = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        answer = json.loads(last_line)
    except ValueError as error:
        raise NotMeasuredError(f"its last line is no JSON: {last_line!r}") from error
    if not isinstance(answer, dict):
        raise NotMeasuredError(f"its last line is no JSON object: {last_line!r}")
    return answer


def value_in(answer: dict[str, t.Any], name: str) -> float:
    """Return a figure's value in what its command printed."""
    try:
        return float(answer["values"][name] if "values" in answer else answer["value"])
    except (ValueError, TypeError, KeyError) as error:
        raise NotMeasuredError(
            f'its last line is neither {{"value": NUMBER}} nor {{"values": {{"{name}": NUMBER}}}}: {answer}'
        ) from error


class Measurements:
    """What the commands of this run printed, each run once however many figures it measures."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, ...], dict[str, t.Any] | NotMeasuredError] = {}

    def of(self, figure: Figure) -> dict[str, t.Any]:
        """Return what the figure's command printed; raises ``NotMeasuredError``."""
        if figure.command not in self._answers:
            try:
                self._answers[figure.command] = run_command(figure)
            except NotMeasuredError as error:
                self._answers[figure.command] = error
        answer = self._answers[figure.command]
        if isinstance(answer, NotMeasuredError):
            raise answer
        return answer


def measure(figure: Figure, measurements: Measurements) -> dict[str, t.Any]:
    """Measure one figure and return its entry of build/figures.json."""
    started = time.monotonic()
    value: float | None
    met: bool | None
    try:
        answer = measurements.of(figure)
        value, detail = value_in(answer, figure.name), str(answer.get("detail", ""))
        met = figure.met_by(value)
    except NotMeasuredError as error:
        value, met, detail = None, None, str(error)
    return {
        "name": figure.name,
        "value": value,
        "unit": figure.unit,
        "goal": figure.goal,
        "met": met,
        "detail": detail,
        "command": shlex.join(figure.command),
        "seconds": round(time.monotonic() - started, 1),
    }


def write_results(entries: list[dict[str, t.Any]]) -> None:
    """Write the entries, keeping earlier ones of figures that were not measured this time and are still registered."""
    try:
        earlier = json.loads(RESULT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = []
    by_name = {entry["name"]: entry for entry in [*earlier, *entries]}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    kept = [by_name[figure.name] for figure in FIGURES if figure.name in by_name]
    RESULT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure the figures named on the command line."""
    known = {figure.name: figure for figure in FIGURES}
    parser = argparse.ArgumentParser(description="Measure what we claim and write it to build/figures.json.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to measure (default: all)")
    parser.add_argument("--list", action="store_true", help="name the figures and their goals, measure nothing")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"no such figure: {', '.join(unknown)}; there are: {', '.join(known)}")
    if arguments.list:
        for figure in FIGURES:
            print(f"{figure.name}: {figure.goal} {figure.unit}")
        return

    entries = []
    measurements = Measurements()
    for name in arguments.names or known:
        print(f"{name}: measuring, at most {known[name].limit_seconds} s", flush=True)
        entry = measure(known[name], measurements)
        entries.append(entry)
        verdict = {True: "met", False: "MISSED", None: "NOT MEASURED"}[entry["met"]]
        shown = "" if entry["value"] is None else f"{entry['value']:g} "
        print(f"{name}: {shown}{entry['unit']}; goal {entry['goal']}: {verdict}. {entry['detail']}", flush=True)
    write_results(entries)
    print(f"written to {RESULT.relative_to(ROOT)}")
    if not all(entry["met"] for entry in entries):
        sys.exit(1)


if __name__ == "__main__":
    main()
