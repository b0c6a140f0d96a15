# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Text tables for people: columns as wide as their widest cell, numbers on the right."""

from __future__ import annotations

import typing as t

UNKNOWN = "-"


def format_table(headers: t.Sequence[str], rows: t.Iterable[t.Sequence[object]]) -> str:
    """Lay rows out under their headers, two spaces between columns, without a newline at the end.

    Columns that hold nothing but numbers (and unknown values) are aligned right, all others left. ``None`` is shown as
    ``-``. Lines carry no trailing spaces. A row that is not as long as the headers raises ``ValueError``.
    """
    columns = len(headers)
    values = [list(row) for row in rows]
    for row in values:
        if len(row) != columns:
            raise ValueError(f"a row has {len(row)} cells, the table has {columns} columns: {row!r}")
    right = [_is_number_column([row[i] for row in values]) for i in range(columns)]
    cells = [[str(header) for header in headers]] + [[_cell(value) for value in row] for row in values]
    widths = [max(len(line[i]) for line in cells) for i in range(columns)]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in zip(line, widths, right)
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return UNKNOWN
    return " ".join(str(value).split()) or UNKNOWN


def _is_number_column(values: list[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(_is_number(value) for value in known)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
