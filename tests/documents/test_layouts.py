# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every plan that docs/layouts.md shows is the one that the planner makes."""

from __future__ import annotations

import re

import pytest

from ansible_collections.numapin.inference.tests.documents.layouts import PAGE, SERVERS, plan_of, recipes

RECIPES = recipes()


def test_every_server_is_on_the_page() -> None:
    assert {found["server"] for found in RECIPES} == SERVERS.keys()
    # None is overlooked because its blocks are written in another way.
    assert len(RECIPES) == PAGE.read_text(encoding="utf-8").count("<!-- plan: ")


@pytest.mark.parametrize("found", RECIPES, ids=lambda found: f"{found['server']}-{found.start()}")
def test_the_plan_is_the_planners(found: re.Match[str]) -> None:
    assert found["plan"] == plan_of(found["server"], found["variables"]), (
        "meant? Then: python tests/documents/layouts.py"
    )
