# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the unit tests and the syntax check of every playbook with each ansible-core and each Python that it runs on.

Usage: ``python tools/matrix.py [--some | CORE[-PYTHON]...]``, such as ``2.20`` or ``2.21-3.13``; all without. Each pair
has an environment of its own in .cache/matrix, made by uv; all but ansible-core has the versions of
requirements/dev.txt. A Python that is neither here nor to be had is told, and no failure, as long as one pair of each
ansible-core ran. Pairs with a pre-release may fail: they are told, too. The row ``target`` are Pythons of managed hosts
that no controller has: the unit tests of modules and of what modules are made of. ``--some`` is what fits into
``make test``: the oldest Python of a managed host, and the syntax check with the newest release; a Python that is not
here is no failure there.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
import typing as t
from importlib import metadata
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
# Pythons of the controller, as the release notes of each ansible-core give them.
PYTHONS = {
    "2.19": ("3.11", "3.12", "3.13"),
    "2.20": ("3.12", "3.13", "3.14"),
    "2.21": ("3.12", "3.13", "3.14"),
    "2.22": ("3.13", "3.14"),
    "target": ("3.9", "3.10"),
}
# May fail. uv takes a pre-release where the requirement names one.
PRE_RELEASES = {"2.22": ">=2.22.0a0,<2.23"}
# The newest that still takes Python 3.9 on managed hosts.
TARGETS_CORE = "2.21"
TARGETS_NEEDED = ("hypothesis", "nvidia-ml-py", "prometheus-client", "pytest", "pytest-mock", "pytest-xdist")
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
    """One ansible-core with one Python; ``brief``: without units, which take most of the time on a controller."""

    core: str
    python: str
    brief: bool = False

    @property
    def place(self) -> Path:
        return TOP / ".cache" / "matrix" / f"{self.core}-{self.python}"

    @property
    def title(self) -> str:
        what = "managed host" if self.core == "target" else f"ansible-core {self.core}"
        return f"{what}, Python {self.python}"


SOME = (Cell("target", "3.9"), Cell("2.21", "3.13", brief=True))


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


def environment(more: Path | None = None) -> dict[str, str]:
    """Return our environment, in which uv finds all Pythons of pyenv; ``more`` is to be imported from."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [str(path) for path in sorted(pyenv.glob("3.*/bin"))]
    collections = str(TOP / "build" / "dev")
    return {
        **os.environ,
        "PATH": os.pathsep.join([*found, os.environ["PATH"]]),
        "ANSIBLE_COLLECTIONS_PATH": collections,
        "PYTHONPATH": os.pathsep.join([collections, *([str(more)] if more else [])]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run(*command: str | Path, more: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=TOP,
        env=environment(more),
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
    made = run(UV, "venv", "--quiet", "--clear", "--python", cell.python, cell.place)
    if made.returncode != 0:
        return Outcome(f"no Python {cell.python} here, and uv could not fetch one", None, made.stdout)
    return tried_on_target(cell) if cell.core == "target" else tried_on_controller(cell, pins)


def tried_on_controller(cell: Cell, pins: Path) -> Outcome:
    core = f"ansible-core{PRE_RELEASES.get(cell.core, f'=={cell.core}.*')}"
    got = run(*install(cell), "--constraint", pins, core, *NEEDED)
    if got.returncode != 0:
        return Outcome("its packages could not be installed", False, got.stdout)
    playbooks = sorted((TOP / "playbooks").glob("*.yml"))
    inventory = "docs/examples/fleet/inventory.yml"
    syntax = run(cell.place / "bin/ansible-playbook", "--syntax-check", "-i", inventory, *playbooks)
    if syntax.returncode != 0:
        return Outcome("syntax check failed", False, syntax.stdout)
    if cell.brief:
        return Outcome(f"{version(cell)}, {len(playbooks)} playbooks; units: not here", True)
    return units(cell, f"{version(cell)}, {len(playbooks)} playbooks")


def tried_on_target(cell: Cell) -> Outcome:
    """Run what runs on managed hosts: of ansible-core only module_utils, as it is no package for such a Python."""
    core = cell.place / "core"
    got = run(*install(cell), *TARGETS_NEEDED)
    if got.returncode == 0:
        # As a directory and for the Python of a controller: on this one it could not be installed.
        wanted = ("--no-deps", "--target", core, "--python-version", "3.12", f"ansible-core=={TARGETS_CORE}.*")
        got = run(UV, "pip", "install", "--quiet", *wanted)
    if got.returncode != 0:
        return Outcome("its packages could not be installed", False, got.stdout)
    return units(cell, "modules", "tests/unit/plugins/modules", "tests/unit/plugins/module_utils", more=core)


def install(cell: Cell) -> tuple[str | Path, ...]:
    return (UV, "pip", "install", "--quiet", "--python", cell.place / "bin/python")


def version(cell: Cell) -> str:
    shown = run(UV, "pip", "show", "--python", cell.place / "bin/python", "ansible-core").stdout
    found = re.search(r"^Version: (\S+)", shown, re.MULTILINE)
    return found[1] if found else cell.core


def units(cell: Cell, before: str, *tests: str, more: Path | None = None) -> Outcome:
    cache = ("-o", f"cache_dir={cell.place}/pytest")
    ran = run(cell.place / "bin/pytest", "-q", "-n", "auto", "--dist", "worksteal", *cache, *tests, more=more)
    last = ran.stdout.rstrip().rpartition("\n")[2]
    return Outcome(f"{before}; units: {last}", ran.returncode == 0, ran.stdout)


def main() -> None:
    """Try each cell, say at once what became of it, and fail when one is not good."""
    some = sys.argv[1:] == ["--some"]
    cells = list(SOME) if some else chosen(sys.argv[1:])
    pins = constraints()
    outcomes = {}
    for cell in cells:
        started = time.monotonic()
        outcome = outcomes[cell] = tried(cell, pins)
        word = {True: "ok", False: "FAILED", None: "not run"}[outcome.good]
        took = time.monotonic() - started
        print(f"{cell.title}: {word} in {took:.0f} s - {outcome.said}", flush=True)
        if outcome.good is False:
            print(outcome.log, flush=True)
    must = {cell: outcome for cell, outcome in outcomes.items() if cell.core not in PRE_RELEASES}
    bad = [cell for cell, outcome in must.items() if outcome.good is False]
    ran = {cell.core for cell, outcome in must.items() if outcome.good is not None}
    without = sorted({cell.core for cell in must} - ran)
    left = sorted({cell.place.name for cell, outcome in outcomes.items() if outcome.good is None})
    allowed = sorted(
        cell.place.name for cell, outcome in outcomes.items() if cell not in must and outcome.good is False
    )
    if some:
        here = f"ansible-core {metadata.version('ansible-core')} with Python {platform.python_version()}"
        print(f"\nEverything else of make test runs with {here}; make matrix runs all {len(chosen([]))} pairs.")
    print(
        f"\n{len(outcomes) - len(left)} of {len(outcomes)} pairs ran; no Python for: {', '.join(left) or 'none'};"
        f" pre-releases that failed, which they may: {', '.join(allowed) or 'none'}"
    )
    if bad or (without and not some):
        sys.exit(f"{len(bad)} failed; without a single Python: {', '.join(without) or 'none'}")


if __name__ == "__main__":
    main()
