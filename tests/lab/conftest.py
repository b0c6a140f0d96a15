# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines are booted once for all tests; how much was compared is said at the end."""

from __future__ import annotations

import pathlib
import sys

import pytest

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1] / "containers")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many machines and values there were."""
    from machines.observation import COMPARED

    if not COMPARED:
        return
    machines = ", ".join(f"{name} {values}" for name, values in COMPARED.items())
    terminalreporter.write_line(
        f"lab-facts: {len(COMPARED)} machines, {sum(COMPARED.values())} values compared ({machines})"
    )
