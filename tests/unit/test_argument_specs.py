# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every role's documentation (meta/argument_specs.yml) and its defaults (defaults/main.yml) say the same."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).parents[2] / "roles"
ROLE_NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir()) if ROLES.is_dir() else []


def read_yaml(path: Path) -> dict[str, t.Any]:
    """Return what a YAML file holds; a missing or empty one holds nothing."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def entry_points(role: str) -> dict[str, dict[str, dict[str, t.Any]]]:
    """Return the options of each entry point: ``{entry point: {option: specification}}``."""
    specs = read_yaml(ROLES / role / "meta" / "argument_specs.yml").get("argument_specs", {})
    return {name: spec.get("options") or {} for name, spec in specs.items()}


def options_with_default(role: str) -> dict[str, t.Any]:
    """Return every option of any entry point that has a default, with it."""
    return {
        name: option["default"]
        for options in entry_points(role).values()
        for name, option in options.items()
        if "default" in option
    }


def test_there_are_roles() -> None:
    assert ROLE_NAMES, f"no role below {ROLES}: every test here would pass without looking at anything"


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_every_role_describes_its_main_entry_point(role: str) -> None:
    assert "main" in entry_points(role)


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_defaults_and_argument_specs_agree(role: str) -> None:
    assert options_with_default(role) == read_yaml(ROLES / role / "defaults" / "main.yml")


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_an_option_has_one_default_whatever_the_entry_point(role: str) -> None:
    common = options_with_default(role)
    different = [
        f"{entry_point}: {name}"
        for entry_point, options in entry_points(role).items()
        for name, option in options.items()
        if name in common and (option.get("default") != common[name] or option.get("required"))
    ]
    assert different == []


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_every_option_says_what_it_is(role: str) -> None:
    undocumented = [
        f"{entry_point}: {name}"
        for entry_point, options in entry_points(role).items()
        for name, option in options.items()
        if not option.get("description") or not option.get("type")
    ]
    assert undocumented == []


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_every_entry_point_has_its_tasks(role: str) -> None:
    missing = [name for name in entry_points(role) if not (ROLES / role / "tasks" / f"{name}.yml").is_file()]
    assert missing == []
