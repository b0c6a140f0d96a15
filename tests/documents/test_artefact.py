# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The artefact that users install is small, and holds what they need and nothing of ours beside."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from ansible_collections.numapin.inference.tests.documents.pages import PAGES, TOP, links, named

LIMIT = 500 * 1024


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("artefact")
    galaxy = Path(sys.executable).parent / "ansible-galaxy"
    subprocess.run(
        [str(galaxy), "collection", "build", "--output-path", str(directory)], cwd=TOP, check=True, capture_output=True
    )
    (built,) = directory.glob("numapin-inference-*.tar.gz")
    return built


@pytest.fixture(scope="module")
def files(artefact: Path) -> set[str]:
    with tarfile.open(artefact) as archive:
        return {member.name for member in archive if member.isfile()}


def test_it_is_small(artefact: Path) -> None:
    size = artefact.stat().st_size
    assert 100 * 1024 < size < LIMIT, f"{size} bytes: what users do not need belongs into build_ignore of galaxy.yml"


def test_what_lies_at_its_top(files: set[str]) -> None:
    # Not yet there before the first release.
    top = {name.partition("/")[0] for name in files} - {"CHANGELOG.md"}
    assert top == {
        "COPYING",
        "FILES.json",
        "MANIFEST.json",
        "README.md",
        "SECURITY.md",
        "changelogs",
        "docs",
        "meta",
        "playbooks",
        "plugins",
        "roles",
    }


def test_what_users_need_is_in_it(files: set[str]) -> None:
    needed = {
        path.relative_to(TOP).as_posix()
        for pattern in (
            "plugins/*/*.py",
            "playbooks/*.yml",
            "roles/*/*/*.yml",
            "roles/*/templates/*",
            "docs/examples/**/*.yml",
            "meta/*",
        )
        for path in TOP.glob(pattern)
    }
    assert needed - files == set()
    environment = yaml.safe_load((TOP / "meta" / "execution-environment.yml").read_text(encoding="utf-8"))
    assert set(environment["dependencies"].values()) <= files


def test_what_contributors_need_is_not(files: set[str]) -> None:
    theirs = {"docs/architecture.md", "docs/lab.md", "changelogs/config.yaml"}
    assert {
        name for name in files if name in theirs or name.endswith((".png", ".pyc")) or "/fragments/" in name
    } == set()


def test_its_pages_lead_to_what_is_in_it(files: set[str]) -> None:
    """Pictures aside, which would not fit: a page says in words what they show."""
    directories = {parent.as_posix() for name in files for parent in Path(name).parents}
    astray = []
    for link in links():
        path = link.text.partition("#")[0]
        if not path or ":" in path or path.endswith(".png") or named(link.page) not in files:
            continue
        target = (link.page.parent / path).resolve().relative_to(TOP.resolve()).as_posix()
        if target not in files | directories:
            astray.append(f"{link.where}: {link.text}")
    assert astray == [], "name such a file in the repository as `code`, without a link, or ship it"


def test_pages_that_are_not_in_it(files: set[str]) -> None:
    """Contributors' pages, and guides, which are read on the site; what the roles' pages need beside them is in it."""
    contributors = {"CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "tests/captures/README.md"}
    contributors |= {"docs/architecture.md", "docs/lab.md"}
    guides = [
        "benchmark",
        "capture",
        "comparison",
        "concepts",
        "day2",
        "groups",
        "layouts",
        "migration",
        "quickstart",
        "report",
        "security",
        "support",
        "troubleshooting",
    ]
    assert {named(page) for page in PAGES} - files == contributors | {f"docs/{name}.md" for name in guides}
