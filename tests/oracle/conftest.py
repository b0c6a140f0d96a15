# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A test for every captured machine, and the count of what was compared at the end, however quiet pytest is."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.tests.oracle import hwloc_source

_COUNTS = pytest.StashKey[list[int]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tree" in metafunc.fixturenames:
        trees = hwloc_source.trees()
        metafunc.parametrize("tree", trees.items(), ids=trees.keys())


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> t.Callable[[int], None]:
    """Call it with the number of values that were compared in one tree."""
    return request.config.stash.setdefault(_COUNTS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(_COUNTS, [])
    terminalreporter.write_line(f"compared with hwloc: {len(counts)} trees, {sum(counts)} values")
