# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""tools/matrix.py tries what pages say is supported, and refuses what it does not know."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.numapin.inference.tests.documents.pages import TOP
from ansible_collections.numapin.inference.tools.matrix import PYTHONS, SOME, Cell, chosen


def test_cells() -> None:
    assert Cell("2.21", "3.13") in chosen([])
    assert [cell.python for cell in chosen(["2.19"])] == ["3.11", "3.12", "3.13"]
    assert chosen(["2.20-3.12", "target"]) == [Cell("2.20", "3.12"), Cell("target", "3.9"), Cell("target", "3.10")]
    assert {cell.place for cell in SOME} <= {cell.place for cell in chosen([])}


def test_what_there_is_not() -> None:
    with pytest.raises(SystemExit, match=r"there is no 2\.18 in the matrix: give one of 2\.19, .*2\.19-3\.11"):
        chosen(["2.18"])


def test_the_oldest_is_what_the_collection_asks_for() -> None:
    asked = yaml.safe_load((TOP / "meta" / "runtime.yml").read_text(encoding="utf-8"))["requires_ansible"]
    assert asked == f">={next(iter(PYTHONS))}.0"
