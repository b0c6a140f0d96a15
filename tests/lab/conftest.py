# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines for tests: ``machine``, one after the other as it was observed, and ``boot``, any shape to do things to.

Each is booted once for all tests. NUMAPIN_LAB_KEEP=1 judges again what the last run observed. How much was compared is
said at the end.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import os
import pathlib
import signal
import sys
import typing as t

import pytest

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1] / "containers")]

if t.TYPE_CHECKING:
    from machines.booted import Booted
    from machines.observation import Observation

OBSERVED_SHAPES = ("gpu-server", "two-sockets", "four-nodes", "smt-offline", "one-node", "sparse")


@pytest.fixture(scope="session")
def observed() -> None:
    """Boot the machines and ask everybody, once."""
    from fleet.console import FleetError
    from machines.observe import OBSERVED, observe

    if os.environ.get("NUMAPIN_LAB_KEEP") and OBSERVED.exists():
        return
    # At a time limit the machines are stopped as well, not only those who asked them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        observe(OBSERVED_SHAPES)
    except FleetError as error:
        pytest.exit(f"The machines could not be observed: {error}", returncode=1)


@pytest.fixture(params=[*OBSERVED_SHAPES, "this-machine"])
def machine(request: pytest.FixtureRequest, observed: None) -> Observation:
    """One machine after the other."""
    from machines.observation import load

    return load(request.param)


@pytest.fixture(scope="session")
def boot() -> c.Iterator[c.Callable[[str], Booted]]:
    """``boot("gpu-server")`` is a running machine of that shape, to ``run`` scripts, a ``playbook`` or ``reboot``."""
    from machines.booted import Booted

    running: dict[str, Booted] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:

        def booted(shape: str) -> Booted:
            if shape not in running:
                running[shape] = stack.enter_context(Booted.of(shape))
            return running[shape]

        yield booted


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many machines and values there were."""
    from machines.observation import COMPARED

    if not COMPARED:
        return
    machines = ", ".join(f"{name} {values}" for name, values in COMPARED.items())
    terminalreporter.write_line(
        f"lab-facts: {len(COMPARED)} machines, {sum(COMPARED.values())} values compared ({machines})"
    )
