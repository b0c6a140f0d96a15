# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection can say: the texts of its modules, filters, roles and playbooks, with … for what is filled in."""

from __future__ import annotations

import ast
import functools
import re

from ansible_collections.numapin.inference.tests.documents.pages import TOP

GAP = "…"
# Jinja, and what Python's own ways to fill in leave in a text that is no f-string.
FILLED = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|\{[\w.!:]*\}|%[sdr]", re.DOTALL)
# Texts inside of Jinja expressions are said as well.
INSIDE = re.compile(r"'([^'\n]{12,})'")


def plain(text: str) -> str:
    """Return a text on one line, each run of gaps as one."""
    text = re.sub(r"\s+", " ", FILLED.sub(GAP, text)).strip()
    return re.sub(rf"{GAP}(?:\s*{GAP})+", GAP, text)


def said_by_python(source: str) -> list[str]:
    """Return every text of a Python file; of an f-string also what is between its gaps."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@functools.cache
def messages() -> tuple[str, ...]:
    """Return all of them, as ``plain`` leaves them."""
    found = []
    for path in sorted((TOP / "plugins").rglob("*.py")):
        found += said_by_python(path.read_text(encoding="utf-8"))
    for part in ("roles", "playbooks"):
        for path in sorted((TOP / part).rglob("*")):
            if path.suffix in (".yml", ".j2") and path.is_file() and "meta" not in path.parts:
                text = path.read_text(encoding="utf-8")
                found += [text, *INSIDE.findall(text)]
    return tuple(filter(None, map(plain, found)))


def is_said(message: str) -> bool:
    """Say whether one of the texts has the parts of ``message`` that are between its gaps, in this order."""
    parts = [part.strip() for part in plain(message).split(GAP) if part.strip()]
    pattern = re.compile(".*".join(re.escape(part) for part in parts))
    # The parts first: looking for them is much faster than the pattern, which only adds their order.
    likely = (text for text in messages() if all(part in text for part in parts))
    return bool(parts) and any(pattern.search(text) for text in likely)
