# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The differences between two runs, each in one line that says where."""

from __future__ import annotations

import json
import typing as t

_MISSING = object()
_LONGEST = 400


def differences(double: t.Any, real: t.Any, where: str = "") -> list[str]:
    """Everything that is not the same, depth first; empty when all is."""
    if isinstance(double, dict) and isinstance(real, dict):
        lines = []
        for key in [*real, *(key for key in double if key not in real)]:
            below = f"{where} → {key}" if where else str(key)
            lines += differences(double.get(key, _MISSING), real.get(key, _MISSING), below)
        return lines
    if isinstance(double, list) and isinstance(real, list) and len(double) == len(real):
        return [
            line
            for number, (mine, theirs) in enumerate(zip(double, real), 1)
            for line in differences(mine, theirs, f"{where} [{number}]")
        ]
    if double == real and isinstance(double, bool) == isinstance(real, bool):
        return []
    return [f"{where}\n      the double: {_told(double)}\n      vLLM:       {_told(real)}"]


def _told(value: t.Any) -> str:
    text = "(nothing)" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def report(lines: list[str], real: str) -> str:
    """For people."""
    listed = "\n".join(f"  {number}. {line}" for number, line in enumerate(lines, 1))
    return f"The double differs from {real} in {len(lines)} places:\n{listed}"
