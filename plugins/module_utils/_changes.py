# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""One recorder of what a module changes, or in check mode would change: its ``changed`` and its ``--diff``."""

from __future__ import annotations

import typing as t


class Change(t.NamedTuple):
    """One value: what it is called in the diff, and what it was and is (None: not there)."""

    name: str
    before: str | None
    after: str | None


class Changes:
    """Collects changes; a value that stays as it is, is none."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    def record(self, name: str, before: str | None, after: str | None) -> bool:
        """Remember a value's change; returns whether it is one."""
        if before == after:
            return False
        self._changes.append(Change(name, before, after))
        return True

    @property
    def changed(self) -> bool:
        """Whether anything was recorded."""
        return bool(self._changes)

    def all(self) -> tuple[Change, ...]:
        """Everything recorded, in its order."""
        return tuple(self._changes)

    def diff(self, header: str) -> dict[str, str]:
        """As Ansible's ``--diff`` takes it: a line for each value, names in one column; ``header`` is the subject."""
        width = max((len(change.name) for change in self._changes), default=0)

        def side(index: int) -> str:
            shown = ((change.name, change[index]) for change in self._changes)
            return "".join(f"{name:<{width}}  {value}\n" for name, value in shown if value is not None)

        return {"before_header": header, "after_header": header, "before": side(1), "after": side(2)}
