# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Counts and nodes in words, the same in reasons, warnings and refusals."""

from __future__ import annotations

import typing as t


def count(number: int, what: str) -> str:
    """``1 GPU``, ``2 GPUs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def name_nodes(nodes: t.Sequence[int]) -> str:
    """``node 0``, ``nodes 0, 1``."""
    return f"node{'' if len(nodes) == 1 else 's'} {', '.join(str(node) for node in nodes)}"
