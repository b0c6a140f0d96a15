# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure what we claim and write it to build/figures.json.

Usage: ``python tests/figures/run.py [NAME...]`` (all registered figures by default; ``--list`` names them).

A figure is a command that measures one thing on this machine and prints, as the last line of its output, a JSON object
``{"value": NUMBER, "detail": "..."}``. Registering it in ``FIGURES`` gives it a name, a unit, a goal and a time limit.
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


FIGURES = (
    Figure(
        name="numa_facts_over_ping",
        unit="times the wall time of ansible.builtin.ping",
        command=("python", "tests/figures/facts_over_ping.py", "--rounds", "8"),
        limit_seconds=300,
        at_most=1.5,
    ),
)


class NotMeasuredError(Exception):
    """A figure's command failed, ran out of time or printed something else than its value."""


def run_command(figure: Figure) -> tuple[float, str]:
    """Run a figure's command and return its value and detail."""
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
        return float(answer["value"]), str(answer.get("detail", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotMeasuredError(f'its last line is not {{"value": NUMBER}}: {last_line!r}') from error


def measure(figure: Figure) -> dict[str, t.Any]:
    """Measure one figure and return its entry of build/figures.json."""
    started = time.monotonic()
    value: float | None
    met: bool | None
    try:
        value, detail = run_command(figure)
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
    for name in arguments.names or known:
        print(f"{name}: measuring, at most {known[name].limit_seconds} s", flush=True)
        entry = measure(known[name])
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
