# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What pages show to be copied can be copied: YAML parses, plays and inventories are taken, variables are there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.numapin.inference.tests.documents.pages import TOP, Block, blocks, role_variables

YAML = blocks("yaml", "yml")
BIN = Path(sys.executable).parent


def is_play(content: t.Any) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and {"hosts", "import_playbook"} & part.keys() for part in content
    )


def is_inventory(content: t.Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(group, dict) and group.keys() and group.keys() <= {"hosts", "children", "vars"}
        for group in content.values()
    )


def ansible(command: str, *arguments: str) -> str:
    """Run one of Ansible's programs on this collection; its mistakes fail the test with what it says."""
    run = subprocess.run(
        [str(BIN / command), *arguments],
        cwd=TOP,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(TOP / "build" / "dev"), "ANSIBLE_NOCOLOR": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def as_files(directory: Path, found: list[Block]) -> list[str]:
    """Write each block to a file that is called after its place."""
    paths = []
    for block in found:
        path = directory / f"{re.sub(r'[^a-z0-9]+', '-', block.where.lower())}.yml"
        path.write_text(block.text, encoding="utf-8")
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.where)
def test_yaml_parses(block: Block) -> None:
    assert list(yaml.safe_load_all(block.text)) != [None], f"{block.where} holds nothing"


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.where)
def test_json_parses(block: Block) -> None:
    assert json.loads(block.text) is not None


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.where)
def test_variables_of_roles_are_there(block: Block) -> None:
    content = yaml.safe_load(block.text)
    given = {name for name in content if isinstance(name, str)} if isinstance(content, dict) else set()
    for role, variables in role_variables().items():
        # A group of the inventory may have the name of a role.
        unknown = {name for name in given if name.startswith(f"{role}_")} - variables
        assert not unknown, f"{block.where}: role {role} has no {', '.join(sorted(unknown))}"


def test_plays_are_taken(tmp_path: Path) -> None:
    plays = [block for block in YAML if is_play(yaml.safe_load(block.text))]
    assert plays, "no page shows a play any more: take this test out"
    # One start of Ansible for all of them.
    ansible("ansible-playbook", "--syntax-check", "-i", "docs/examples/fleet/inventory.yml", *as_files(tmp_path, plays))


def test_inventories_are_taken(tmp_path: Path) -> None:
    inventories = [block for block in YAML if is_inventory(yaml.safe_load(block.text))]
    assert inventories, "no page shows an inventory any more: take this test out"
    sources = [word for path in as_files(tmp_path, inventories) for word in ("-i", path)]
    seen = json.loads(ansible("ansible-inventory", "--list", *sources, "-i", "docs/examples/fleet/inventory.yml"))
    wanted = {group for block in inventories for group in yaml.safe_load(block.text)}
    assert wanted | {"inference", "load_balancers"} <= seen.keys()
    assert seen["inference"]["hosts"] == ["gpu1", "gpu2", "gpu3"]
