# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tables line up, and what is unknown is a dash."""

from __future__ import annotations

import pytest

from ansible_collections.numapin.inference.plugins.plugin_utils._tables import format_table


def test_columns_line_up() -> None:
    table = format_table(["node", "CPUs", "free MiB"], [[0, "0-3", 5], [10, "", None], [2, "a\n b", 1000]])
    assert table.splitlines() == [
        "node  CPUs  free MiB",
        "----  ----  --------",
        "   0  0-3          5",
        "  10  -            -",
        "   2  a b       1000",
    ]


def test_mixed_columns_are_text_and_lines_have_no_trailing_blanks() -> None:
    assert format_table(["a", "b"], [[1, None], ["x", True], [None, ""]]).splitlines() == [
        "a  b",
        "-  ----",
        "1  -",
        "x  True",
        "-  -",
    ]


def test_without_rows_the_headers_stay() -> None:
    assert format_table(["a", "bc"], []) == "a  bc\n-  --"


def test_a_row_of_the_wrong_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the table has 2 columns"):
        format_table(["a", "b"], [[1]])
