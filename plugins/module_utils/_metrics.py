# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Metrics in Prometheus' text format, for node_exporter's textfile collector.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

import contextlib
import os
import tempfile

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class MetricsError(NumapinError):
    """A file cannot be written."""


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


def write_whole(path: str, text: str) -> None:
    """Replace a file that programs read at any moment, world-readable. Raises MetricsError."""
    part = None
    try:
        # node_exporter takes every file that ends in .prom: the part must not.
        descriptor, part = tempfile.mkstemp(prefix=".numapin-", suffix=".part", dir=os.path.dirname(path))
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            # Not by its name: others may write in a collector's directory, and put a link in its place.
            os.fchmod(file.fileno(), 0o644)
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)
        raise MetricsError(f"{path} cannot be written: {error.strerror or error}") from error
