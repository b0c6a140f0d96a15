# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""meta/runtime.yml names every module in its action group, and no ignore entry stands against a sanity test."""

from __future__ import annotations

from pathlib import Path

import yaml

TOP = Path(__file__).parents[2]


def test_every_module_is_in_the_action_group() -> None:
    runtime = yaml.safe_load((TOP / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    modules = sorted(path.stem for path in (TOP / "plugins" / "modules").glob("*.py"))
    assert "numa_facts" in modules
    assert runtime["action_groups"] == {"all": modules}


def test_sanity_is_asked_without_exceptions() -> None:
    assert list((TOP / "tests" / "sanity").glob("ignore*")) == []
