# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users' JMESPath expressions: what they pick, and what is said of one that cannot be used."""

from __future__ import annotations

import pytest

from ansible_collections.numapin.inference.plugins.plugin_utils._query import Query, QueryError

GPUS = {"gpus": [{"uuid": "GPU-a", "node": 0}, {"uuid": "GPU-b", "node": 1}]}


def test_what_it_picks() -> None:
    assert Query("gpus[?node==`1`].uuid").search(GPUS) == ["GPU-b"]
    assert Query("gpus[9].uuid").search(GPUS) is None


@pytest.mark.parametrize("expression", ["", "gpus[?node==`1`", "gpus[?node=='1'", "length(gpus,"])
def test_what_is_no_expression(expression: str) -> None:
    with pytest.raises(QueryError, match=r"^is not valid JMESPath: ") as caught:
        Query(expression)
    assert "\n" not in str(caught.value)


def test_an_expression_of_thousands_of_brackets() -> None:
    with pytest.raises(QueryError, match=r"^is nested too deeply: write it with fewer brackets"):
        Query("[" * 3000 + "a" + "]" * 3000)


def test_a_function_given_a_wrong_type() -> None:
    query = Query("length(gpus[0].node)")
    with pytest.raises(QueryError, match=r"^is not valid JMESPath here: "):
        query.search(GPUS)
