# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Values of an inventory or of facts as Python's own types, and their types in the words of YAML."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping


def plain(value: t.Any) -> t.Any:
    """A deep copy made of Python's own types only.

    ansible-core hands over subclasses of ``str``, ``int``, ``dict`` and ``list`` that carry tags; JMESPath looks at the
    exact type of what it is given. Whatever JSON does not have (dates, sets) raises ``TypeError``.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, (dict, Mapping)):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise TypeError(describe_type(value))


def describe_type(value: object) -> str:
    """The type of a value in the words of YAML."""
    if value is None:
        return "nothing (null)"
    for kinds, words in (
        (bool, "true/false"),
        (str, "text"),
        (int, "a whole number"),
        (float, "a fraction"),
        (t.Mapping, "a dictionary"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kinds):
            return words
    return f"a value of type {type(value).__name__}; put it in quotes if text was meant"
