# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever pages name – targets of make, files, playbooks, roles, modules – is there."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.tests.documents.pages import (
    TOP,
    Said,
    commands,
    role_variables,
    words_in_code,
)

DIRECTORIES = "changelogs|docs|extensions|meta|playbooks|plugins|requirements|roles|tests|tools"
PATH = re.compile(rf"(?<![\w./~$-])(?:{DIRECTORIES})/[\w./@*-]*[\w*]")
# A word in capitals stands for a name.
STANDS_FOR = re.compile(r"(?<![A-Z])(?!README|CHANGELOG)[A-Z]{3,}(?![A-Z])")
NAME = re.compile(r"\bnumapin\.inference\.(\w+)")


def missing(said: list[Said], found: t.Callable[[str], list[str]], there: t.Callable[[str], bool]) -> list[str]:
    return sorted({f"{one.where}: {name}" for one in said for name in found(one.text) if not there(name)})


def test_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (TOP / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [name for one in commands() for name in made(one.text)]
    assert {"test", "check", "demo"} <= set(named)
    assert missing(commands(), made, targets.__contains__) == []


def made(text: str) -> list[str]:
    """Return the targets of a command line of make; options, variables and comments are none."""
    command = re.match(r"(?:\S+=\S+ )*make((?: [^#&|;]+)?)", text.strip())
    return [word for word in command[1].split() if re.fullmatch(r"[a-z][a-z-]*", word)] if command else []


def test_files() -> None:
    def paths(text: str) -> list[str]:
        return [path for path in PATH.findall(text) if not STANDS_FOR.search(path)]

    assert len([path for one in commands() for path in paths(one.text)]) > 50
    # A role's own files are named as they lie in it.
    found = {
        f"{one.where}: {path}"
        for one in commands()
        for path in paths(one.text)
        if not any(any(place.glob(path.rstrip("/."))) for place in (TOP, one.page.parent))
    }
    assert found == set()


def test_names_of_the_collection() -> None:
    there = {
        path.stem
        for pattern in ("playbooks/*.yml", "plugins/modules/*.py", "plugins/filter/*.py", "plugins/doc_fragments/*.py")
        for path in TOP.glob(pattern)
    } | {path.name for path in TOP.glob("roles/*")}
    # NAME stands for one of them; `all` is the group of all modules.
    assert missing(commands(), NAME.findall, {*there, "NAME", "all"}.__contains__) == []


def test_files_called_without_their_directory() -> None:
    """Such as `site.yml`: a file of that name is somewhere among ours."""
    ours = {path.name.removesuffix(".j2") for part in DIRECTORIES.split("|") for path in (TOP / part).rglob("*.*")} | {
        path.name for path in TOP.iterdir()
    }
    # Inventories and files of users.
    theirs = {"inventory.yml", "prometheus.yml"}

    def files(text: str) -> list[str]:
        return [text] if re.fullmatch(r"[a-z][\w-]*\.(yml|py|md|in|toml|j2)", text) else []

    named = {name for one in words_in_code() for name in files(one.text)}
    assert {"site.yml", "rollout.yml"} <= named
    assert missing(words_in_code(), files, (ours | theirs).__contains__) == []


def test_variables_of_roles() -> None:
    """A word in code that begins like a role's variable is one, or the name of something else that is there."""
    variables = frozenset().union(*role_variables().values())
    others = {
        path.name.partition(".")[0] for part in ("playbooks", "plugins", "roles") for path in (TOP / part).rglob("*.*")
    }
    # Facts that the roles set; a label of metrics.
    others |= {"report_part", "verify_result", "vllm_plan", "vllm_instance"}

    def names(text: str) -> list[str]:
        return re.findall(rf"(?<![\w.])(?:{'|'.join(role_variables())})_\w+(?![\w/(])", text)

    assert missing(words_in_code(), names, (variables | others).__contains__) == []
