# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make release` in a throw-away clone: what it refuses, what it shows, what it makes."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]


def git(clone: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=clone, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone with what the working tree holds, committed, and no tags."""
    place = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-tags", str(TOP), str(place)], check=True, capture_output=True)
    git(place, "config", "user.name", "Releaser")
    git(place, "config", "user.email", "releaser@example.org")
    git(place, "config", "commit.gpgsign", "false")
    git(place, "config", "tag.gpgsign", "false")
    changed = git(TOP, "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate").splitlines()
    for name in changed:
        if (TOP / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes((TOP / name).read_bytes())
        else:
            (place / name).unlink(missing_ok=True)
    git(place, "switch", "--quiet", "--force-create", "main")
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--allow-empty", "--message", "as it is")
    return place


def release(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # What Galaxy asks of documentation and style is asked by `make importer` and `make lint`.
    quick = {"GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "false", "GALAXY_IMPORTER_RUN_ANSIBLE_DOC": "false"}
    return subprocess.run(
        [sys.executable, "tools/release.py", *words],
        cwd=clone,
        env={**os.environ, **quick},
        check=False,
        capture_output=True,
        text=True,
    )


def state(clone: Path) -> tuple[str, str, str, str]:
    """Return everything that a release may change."""
    return (
        git(clone, "rev-parse", "HEAD"),
        git(clone, "tag", "--list"),
        git(clone, "status", "--porcelain"),
        git(clone, "worktree", "list"),
    )


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.2", "VERSION=1.2 is no semantic version: give MAJOR.MINOR.PATCH"),
        ("v1.2.3", "no v in front"),
        ("0.0.9", "VERSION=0.0.9 is older than"),
    ],
)
def test_versions_that_are_refused(clone: Path, version: str, said: str) -> None:
    before = state(clone)
    run = release(clone, version)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("no release: ")
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert state(clone) == before


def test_everything_that_stands_against_it_is_said_at_once(clone: Path) -> None:
    git(clone, "tag", "99.0.0")
    (clone / "left-over.txt").write_text("", encoding="utf-8")
    for fragment in (clone / "changelogs" / "fragments").glob("*.yml"):
        fragment.unlink()
    run = release(clone, "98.0.0")
    assert run.returncode == 1
    assert "the tree is not clean" in run.stderr
    assert "?? left-over.txt" in run.stderr
    assert "VERSION=98.0.0 is not newer than the last release, 99.0.0" in run.stderr
    assert "say in changelogs/fragments/98.0.0.yml what this release is about" in run.stderr


def test_what_fails_half_way_leaves_everything_as_it_was(clone: Path) -> None:
    (clone / "changelogs" / "fragments" / "broken.yml").write_text("---\nno_section:\n  - text\n", encoding="utf-8")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "broken")
    before = state(clone)
    run = release(clone, "98.0.0")
    assert run.returncode == 1
    assert "no_section" in run.stderr
    assert "Traceback" not in run.stderr
    assert state(clone) == before


def test_a_release_is_shown_and_made(clone: Path) -> None:
    before = state(clone)
    shown = release(clone, "--dry-run", "98.0.0")
    assert shown.returncode == 0, shown.stderr
    assert "Release 98.0.0" in shown.stdout
    assert "+## v98\\.0\\.0" in shown.stdout
    assert state(clone) == before
    assert list((clone / "build").rglob("*.tar.gz")) == []

    made = release(clone, "98.0.0")
    assert made.returncode == 0, made.stderr
    commit, tags, status, worktrees = state(clone)
    assert (tags, status, worktrees) == ("98.0.0", "", worktrees.splitlines()[0])
    assert git(clone, "rev-list", "-n1", "98.0.0") == commit
    assert git(clone, "rev-parse", "HEAD^") == before[0]
    assert git(clone, "branch", "--show-current") == "main"
    assert yaml.safe_load((clone / "galaxy.yml").read_text(encoding="utf-8"))["version"] == "98.0.0"
    assert list((clone / "changelogs" / "fragments").glob("*.yml")) == []
    changelog = yaml.safe_load((clone / "changelogs" / "changelog.yaml").read_text(encoding="utf-8"))
    assert changelog["releases"]["98.0.0"]["changes"]["release_summary"]
    with tarfile.open(clone / "build" / "release" / "numapin-inference-98.0.0.tar.gz") as artefact:
        assert "CHANGELOG.md" in artefact.getnames()
    assert "git push origin main 98.0.0" in made.stdout

    again = release(clone, "98.0.0")
    assert again.returncode == 1
    assert "VERSION=98.0.0 is not newer than the last release, 98.0.0" in again.stderr
