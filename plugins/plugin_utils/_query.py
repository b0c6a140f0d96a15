# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""JMESPath expressions of users, on the controller: checked before anything is asked of a host."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

_TOO_DEEP = "is nested too deeply: write it with fewer brackets, or as several expressions"


class QueryError(NumapinError):
    """The expression is none, or fails on what it is applied to; the message is the end of a sentence."""


class Query:
    """One expression, compiled. Raises ``QueryError`` when it is not JMESPath or the library is not there."""

    def __init__(self, expression: str) -> None:
        try:
            import jmespath
            from jmespath.exceptions import JMESPathError
        except ImportError as exc:
            raise QueryError(
                "needs the Python library jmespath on the controller: install it into Ansible's environment"
                " (`pip install jmespath`), or do without the expression"
            ) from exc
        # A function given a wrong type is a TypeError or ValueError of some versions of the library.
        self._errors: tuple[type[Exception], ...] = (JMESPathError, TypeError, ValueError)
        self.expression = expression
        try:
            self._compiled = jmespath.compile(expression)
        except RecursionError as exc:
            raise QueryError(_TOO_DEEP) from exc
        except self._errors as exc:
            raise QueryError(f"is not valid JMESPath: {_one_line(exc)}") from exc

    def search(self, value: t.Any) -> t.Any:
        """Return what the expression picks from ``value``, which is made of Python's own types only."""
        try:
            return self._compiled.search(value)
        except RecursionError as exc:
            raise QueryError(_TOO_DEEP) from exc
        except self._errors as exc:
            raise QueryError(f"is not valid JMESPath here: {_one_line(exc)}") from exc


def _one_line(error: Exception) -> str:
    # JMESPath draws the place below the expression, which needs the lines it was drawn on.
    return " ".join(str(error).split())
