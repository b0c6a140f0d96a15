# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run lanes beside each other: tools/lanes.py MAKE NAME "TARGET..." [NAME "TARGET..."]...

A lane is one make that runs its targets in their order. Every line is shown at once, behind the name of its lane, and
kept without it in build/lanes/NAME.log. The steps (tools/step) that failed are shown again at the end, each in one
piece, and then how long every step took. A lane that fails leaves the others to go on, and fails the whole. An
interrupt ends them all.
"""

from __future__ import annotations

import collections.abc as c
import os
import pathlib
import signal
import subprocess
import sys
import threading
import typing as t

LOGS = pathlib.Path(__file__).resolve().parents[1] / "build" / "lanes"
# What tools/step prints before and after a step.
BEGIN, END, SUCCEEDED = "==== [", "---- [", ": ok, "
SHOWING = threading.Lock()


class Lane(threading.Thread):
    """One make, and every step of it as the lines that it printed."""

    def __init__(self, make: str, name: str, targets: list[str], width: int) -> None:
        super().__init__()
        self.label = f"{name:<{width}} | "
        self.log = LOGS / f"{name}.log"
        self.steps: list[list[str]] = [[]]
        # It stays in our process group: ^C reaches it and what it runs, and sudo may ask at the terminal.
        self.process = subprocess.Popen(
            [make, "--no-print-directory", *targets],
            # What writes to a pipe would keep its lines back.
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def run(self) -> None:
        """Show and keep what it prints, until it ends."""
        with self.log.open("w", encoding="utf-8", buffering=1) as log:
            for line in t.cast("t.IO[str]", self.process.stdout):
                log.write(line)
                show(self.label + line)
                if line.startswith(BEGIN):
                    self.steps.append([])
                self.steps[-1].append(line)
        if self.process.wait() != 0:
            show(f"{self.label}==== FAILED; what failed is shown again when all lanes have ended ({self.log})\n")

    def endings(self) -> c.Iterator[tuple[str, list[str]]]:
        """How each step ended, with all lines of it."""
        for lines in self.steps:
            yield from ((line, lines) for line in lines if line.startswith(END))


def show(text: str) -> None:
    """Print whole lines, one lane at a time."""
    with SHOWING:
        sys.stdout.write(text)
        sys.stdout.flush()


def main() -> int:
    """Run them; 0 when none failed, 130 after an interrupt."""
    make, *words = sys.argv[1:]
    names, targets = words[::2], words[1::2]
    LOGS.mkdir(parents=True, exist_ok=True)
    width = max(map(len, names))
    lanes = [Lane(make, name, listed.split(), width) for name, listed in zip(names, targets, strict=True)]
    interrupts: list[int] = []

    def stop(number: int, _frame: object) -> None:
        interrupts.append(number)
        for lane in lanes:
            # ^C went to the whole process group; other signals are sent to one process.
            if number != signal.SIGINT:
                lane.process.terminate()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    if interrupts:
        return 128 + interrupts[0]
    for lane in lanes:
        show("".join("\n" + "".join(lines) for end, lines in lane.endings() if SUCCEEDED not in end))
    show("\n")
    for lane in lanes:
        show("".join(lane.label + end for end, _lines in lane.endings()))
        if lane.process.returncode:
            show(f"{lane.label}==== FAILED; all of it: {lane.log}\n")
    return int(any(lane.process.returncode for lane in lanes))


if __name__ == "__main__":
    sys.exit(main())
