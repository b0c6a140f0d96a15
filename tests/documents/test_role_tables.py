# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of every variable says what the argument specification says, as a person would write it."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.tools.role_tables import (
    BEGIN,
    END,
    IN_DEFAULTS,
    default_of,
    table,
    with_table,
)


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ({"required": True}, "required"),
        ({}, "none"),
        ({"default": ""}, '`""`'),
        ({"default": "0640"}, '`"0640"`'),
        ({"default": "journald"}, "`journald`"),
        ({"default": False}, "`false`"),
        ({"default": [1, "a|b"]}, '`[1, "a\\|b"]`'),
        ({"default": "{{ ansible_host }}"}, IN_DEFAULTS),
        ({"default": ["x" * 60]}, IN_DEFAULTS),
    ],
)
def test_defaults(option: dict[str, t.Any], shown: str) -> None:
    assert default_of(option) == shown


def test_markup_choices_and_suboptions() -> None:
    keys = {
        "type": "list",
        "elements": "dict",
        "description": "Who.",
        "options": {"name": {"type": "str", "description": ["A.", "B."]}},
    }
    mode = {"type": "str", "default": "off", "choices": ["off", ""], "description": "See O(x_keys), V(off), C(a|b)."}
    assert table({"x_mode": mode, "x_keys": keys}).splitlines()[2:] == [
        "| `x_keys` | list of dict | none | Who. |",
        "| `x_keys[].name` | str | none | A. B. |",
        '| `x_mode` | str | `"off"` | See `x_keys`, `off`, `a\\|b`. One of `off`, `""`. |',
    ]


def test_a_readme_keeps_what_is_around_its_table(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    specs = tmp_path / "meta" / "argument_specs.yml"
    specs.write_text(
        "argument_specs: {main: {options: {x: {type: int, default: 1, description: Many.}}}}", encoding="utf-8"
    )
    row = "| `x` | int | `1` | Many. |"
    first = with_table("# Role\n", tmp_path)
    assert first.startswith(f"# Role\n\n## Every variable\n\n{BEGIN}\n")
    assert row in first
    specs.write_text(specs.read_text(encoding="utf-8").replace("Many", "Few"), encoding="utf-8")
    second = with_table(first + "After.\n", tmp_path)
    assert second == first.replace("Many", "Few") + "After.\n"
    assert second.index(END) < second.index("After.")
