# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What pages show to be copied can be copied: YAML parses, plays and inventories are taken, variables are there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.numapin.inference.tests.documents.pages import TOP, Block, blocks, role_variables

YAML = blocks("yaml", "yml")
BIN = Path(sys.executable).parent


# Takes lists of words from standard input and lets Ansible's own command line take each of them; runs nothing.
TAKE = """
import json, sys
from ansible.cli.adhoc import AdHocCLI
from ansible.cli.playbook import PlaybookCLI
for words in json.load(sys.stdin):
    {"ansible": AdHocCLI, "ansible-playbook": PlaybookCLI}[words[0]](words).parse()
"""
# Where commands of pages say `-i inventory.yml` or the like.
INVENTORY = "docs/examples/fleet/inventory.yml"


def lines_for_a_shell(block: Block) -> list[str]:
    """Return the commands of a block, long ones as one line; a prompt is not typed."""
    return [re.sub(r"^[$#] ", "", line) for line in block.text.replace("\\\n", " ").splitlines()]


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


def test_commands_are_taken_by_a_shell() -> None:
    shown = blocks("console", "sh")
    assert len(shown) > 20
    text = "\n".join(line for block in shown for line in lines_for_a_shell(block))
    run = subprocess.run(["bash", "-n"], input=text, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_command_lines_of_ansible_are_taken() -> None:
    """Options that there are, playbooks that there are, and the whole of every playbook with its roles."""
    words = [shlex.split(line, comments=True) for block in blocks("console", "sh") for line in lines_for_a_shell(block)]
    lines = [command for command in words if command and command[0] in ("ansible", "ansible-playbook")]
    assert len(lines) > 30
    taken = subprocess.run(
        [sys.executable, "-c", TAKE], input=json.dumps(lines), cwd=TOP, check=False, capture_output=True, text=True
    )
    assert taken.returncode == 0, taken.stderr
    playbooks = {name for line in lines for name in line if re.fullmatch(r"numapin\.inference\.\w+", name)}
    called = sorted(name for name in playbooks if (TOP / "playbooks" / f"{name.rpartition('.')[2]}.yml").exists())
    assert {"numapin.inference.site", "numapin.inference.drain"} <= set(called)
    ansible("ansible-playbook", "--syntax-check", "-i", INVENTORY, *called)


def test_plays_are_taken(tmp_path: Path) -> None:
    plays = [block for block in YAML if is_play(yaml.safe_load(block.text))]
    assert plays, "no page shows a play any more: take this test out"
    # One start of Ansible for all of them.
    ansible("ansible-playbook", "--syntax-check", "-i", INVENTORY, *as_files(tmp_path, plays))


def test_inventories_are_taken(tmp_path: Path) -> None:
    inventories = [block for block in YAML if is_inventory(yaml.safe_load(block.text))]
    assert inventories, "no page shows an inventory any more: take this test out"
    sources = [word for path in as_files(tmp_path, inventories) for word in ("-i", path)]
    seen = json.loads(ansible("ansible-inventory", "--list", *sources, "-i", INVENTORY))
    wanted = {group for block in inventories for group in yaml.safe_load(block.text)}
    assert wanted | {"inference", "load_balancers"} <= seen.keys()
    assert seen["inference"]["hosts"] == ["gpu1", "gpu2", "gpu3"]
