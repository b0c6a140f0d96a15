# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the unit tests and the syntax check of every playbook with each ansible-core and each Python that it runs on.

Usage: ``python tools/matrix.py [CORE[-PYTHON]...]``, such as ``2.20`` or ``2.21-3.13``; all without. Each pair has an
environment of its own in .cache/matrix, made by uv; all but ansible-core has the versions of requirements/dev.txt. A
Python that is neither here nor to be had is told, and no failure, as long as one pair of each ansible-core ran.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
# Pythons of the controller, as the release notes of each ansible-core give them.
PYTHONS = {"2.19": ("3.11", "3.12", "3.13"), "2.20": ("3.12", "3.13", "3.14"), "2.21": ("3.12", "3.13", "3.14")}
NEEDED = (
    "hypothesis",
    "jmespath",
    "nvidia-ml-py",
    "passlib",
    "prometheus-client",
    "pytest",
    "pytest-mock",
    "pytest-xdist",
)


class Cell(t.NamedTuple):
    """One ansible-core with one Python."""

    core: str
    python: str

    @property
    def place(self) -> Path:
        return TOP / ".cache" / "matrix" / f"{self.core}-{self.python}"


class Outcome(t.NamedTuple):
    """What became of a cell, and what was seen where it is not good."""

    said: str
    good: bool | None
    log: str = ""


def chosen(words: list[str]) -> list[Cell]:
    """Return the cells that the command line means."""
    every = [Cell(core, python) for core, pythons in PYTHONS.items() for python in pythons]
    for word in words:
        if not any(word in (cell.core, cell.place.name) for cell in every):
            sys.exit(
                f"there is no {word} in the matrix: give one of {', '.join([*PYTHONS, *(c.place.name for c in every)])}"
            )
    return [cell for cell in every if not words or {cell.core, cell.place.name} & set(words)]


def environment() -> dict[str, str]:
    """Return our environment, in which uv also finds the Pythons of pyenv that are not selected."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [str(path) for path in sorted(pyenv.glob("3.*/bin"))]
    collections = str(TOP / "build" / "dev")
    return {
        **os.environ,
        "PATH": os.pathsep.join([*found, os.environ["PATH"]]),
        "ANSIBLE_COLLECTIONS_PATH": collections,
        "PYTHONPATH": collections,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=TOP,
        env=environment(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def constraints() -> Path:
    """Write the lock without ansible's own packages, which are what differs."""
    lock = (TOP / "requirements" / "dev.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^((?!ansible)[\w.-]+==[^\s\\]+(?: ; [^\\\n]+)?)", lock, re.MULTILINE)
    path = TOP / ".cache" / "matrix" / "constraints.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(pins) + "\n", encoding="utf-8")
    return path


def tried(cell: Cell, pins: Path) -> Outcome:
    """Make the cell's environment and use it."""
    uv = Path(sys.executable).parent / "uv"
    made = run(uv, "venv", "--quiet", "--clear", "--python", cell.python, cell.place)
    if made.returncode != 0:
        return Outcome(f"no Python {cell.python} here, and uv could not fetch one", None, made.stdout)
    core = f"ansible-core=={cell.core}.*"
    got = run(
        uv, "pip", "install", "--quiet", "--python", cell.place / "bin/python", "--constraint", pins, core, *NEEDED
    )
    if got.returncode != 0:
        return Outcome("its packages could not be installed", False, got.stdout)
    playbooks = sorted((TOP / "playbooks").glob("*.yml"))
    inventory = "docs/examples/fleet/inventory.yml"
    syntax = run(cell.place / "bin/ansible-playbook", "--syntax-check", "-i", inventory, *playbooks)
    if syntax.returncode != 0:
        return Outcome("syntax check failed", False, syntax.stdout)
    units = run(
        cell.place / "bin/pytest", "-q", "-n", "auto", "--dist", "worksteal", "-o", f"cache_dir={cell.place}/pytest"
    )
    last = units.stdout.rstrip().rpartition("\n")[2]
    return Outcome(f"{len(playbooks)} playbooks; units: {last}", units.returncode == 0, units.stdout)


def main() -> None:
    """Try each cell, say at once what became of it, and fail when one is not good."""
    cells = chosen(sys.argv[1:])
    pins = constraints()
    outcomes = {}
    for cell in cells:
        started = time.monotonic()
        outcome = outcomes[cell] = tried(cell, pins)
        word = {True: "ok", False: "FAILED", None: "not run"}[outcome.good]
        took = time.monotonic() - started
        print(f"ansible-core {cell.core}, Python {cell.python}: {word} in {took:.0f} s - {outcome.said}", flush=True)
        if outcome.good is False:
            print(outcome.log, flush=True)
    bad = [cell for cell, outcome in outcomes.items() if outcome.good is False]
    ran = {cell.core for cell, outcome in outcomes.items() if outcome.good is not None}
    without = sorted({cell.core for cell in cells} - ran)
    if bad or without:
        sys.exit(
            f"{len(bad)} of {len(cells)} failed; no Python for ansible-core {', '.join(without) or '(each had one)'}"
        )


if __name__ == "__main__":
    main()
