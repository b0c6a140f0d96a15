# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Metrics in Prometheus' text format, for node_exporter's textfile collector.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Metrics:
    """Gauges, in the order in which they were first given."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, list[str]]] = {}

    def gauge(self, name: str, about: str, value: float | None, **labels: str) -> None:
        """Add one sample; ``None`` is unknown, and left out: its family shows only that it could be there."""
        samples = self._families.setdefault(name, (about, []))[1]
        if value is not None:
            named = ",".join(f'{label}="{text.translate(_IN_LABEL)}"' for label, text in labels.items())
            samples.append(f"{name}{f'{{{named}}}' if named else ''} {_number(value)}\n")

    def text(self) -> str:
        """Return them all."""
        lines: list[str] = []
        for name, (about, samples) in self._families.items():
            lines += [f"# HELP {name} {about.translate(_IN_HELP)}\n", f"# TYPE {name} gauge\n", *samples]
        return "".join(lines)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
