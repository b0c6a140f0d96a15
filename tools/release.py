# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a release: changelog, version, artefact, galaxy-importer, one commit, one tag.

Usage: ``python tools/release.py [--dry-run] VERSION``. All of it happens in a throw-away worktree of git. Only when
everything went well does the branch get the commit, and the commit its tag; what fails leaves the checkout as it was.
``--dry-run`` shows the commit and stops there. Nothing is pushed or published: the last lines say how.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

import yaml
from semantic_version import Version

TOP = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
VERSION_LINE = re.compile(r"^version: .*$", re.MULTILINE)


class Refused(Exception):
    """There is no release to be made; the message says why and what to do."""


def run(*command: str | Path, cwd: Path = TOP) -> str:
    """Run a command and return what it says; raises ``Refused`` with all of that when it fails."""
    words = [str(word) for word in command]
    # The worktree is looked at, not what lies on make's paths; programs called by name are those of .venv.
    kept = {key: value for key, value in os.environ.items() if key not in ("ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH")}
    environment = {**kept, "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}"}
    done = subprocess.run(
        words, cwd=cwd, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise Refused(f"`{' '.join(words)}` failed:\n{done.stdout.rstrip()}")
    return done.stdout.rstrip()


def semantic(text: str) -> Version:
    """Return ``text`` as a semantic version."""
    try:
        return Version(text)
    except ValueError:
        raise Refused(
            f"VERSION={text} is no semantic version: give MAJOR.MINOR.PATCH such as 1.4.0, or 1.4.0-rc.1 before it;"
            " no v in front"
        ) from None


def released(top: Path) -> list[Version]:
    """Return the versions there were: in the changelog, and as tags."""
    changelog = yaml.safe_load((top / "changelogs" / "changelog.yaml").read_text(encoding="utf-8"))
    tags = [tag for tag in run("git", "tag", "--list").splitlines() if re.fullmatch(r"\d+\.\d+\.\d+.*", tag)]
    return sorted({Version(text) for text in [*changelog["releases"], *tags]})


def what_stands_against(version: Version) -> t.Iterator[str]:
    """Yield whatever has to be put right before; nothing was changed yet."""
    dirty = run("git", "status", "--porcelain")
    if dirty:
        yield f"the tree is not clean; commit or remove these first:\n{dirty}"
    if not run("git", "branch", "--show-current"):
        yield "no branch is checked out that could get the commit: `git switch BRANCH`"
    before = released(TOP)
    if before and version <= before[-1]:
        yield f"VERSION={version} is not newer than the last release, {before[-1]}"
    coming = Version(yaml.safe_load((TOP / "galaxy.yml").read_text(encoding="utf-8"))["version"])
    if version < coming:
        yield f"VERSION={version} is older than {coming}, which galaxy.yml has already"
    fragments = [
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (TOP / "changelogs" / "fragments").glob("*.yml")
    ]
    if not any("release_summary" in fragment for fragment in fragments):
        yield f"no fragment has a release_summary: say in changelogs/fragments/{version}.yml what this release is about"


def prepare(work: Path, version: Version) -> None:
    """Commit the release in the throw-away worktree."""
    galaxy = work / "galaxy.yml"
    galaxy.write_text(
        VERSION_LINE.sub(f"version: {version}", galaxy.read_text(encoding="utf-8"), count=1), encoding="utf-8"
    )
    run(BIN / "antsibull-changelog", "lint", cwd=work)
    run(BIN / "antsibull-changelog", "release", "--reload-plugins", "--version", str(version), cwd=work)
    run("git", "add", "--all", cwd=work)
    run("git", "commit", "--message", f"Release {version}", cwd=work)


def build(work: Path, version: Version) -> Path:
    """Build the artefact from the commit and let galaxy-importer judge it. Returns where it lies."""
    directory = TOP / "build" / "release"
    run(BIN / "ansible-galaxy", "collection", "build", "--force", "--output-path", directory, cwd=work)
    artefact = directory / f"numapin-inference-{version}.tar.gz"
    print("\n".join(run(sys.executable, TOP / "tools" / "importer.py", artefact).splitlines()[-2:]))
    return artefact


def release(version: Version, *, dry_run: bool) -> None:
    """Make the release, or show it."""
    against = list(what_stands_against(version))
    if against:
        raise Refused("\n".join(against))
    branch = run("git", "branch", "--show-current")
    directory = Path(tempfile.mkdtemp(prefix="numapin-release-"))
    # ansible-doc knows a collection by where it lies.
    work = directory / "ansible_collections" / "numapin" / "inference"
    try:
        run("git", "worktree", "add", "--detach", work, "HEAD")
        prepare(work, version)
        artefact = build(work, version)
        commit = run("git", "rev-parse", "HEAD", cwd=work)
        print(run("git", "show", "--stat", "--format=%h %s", commit))
        print(run("git", "show", "--format=", commit, "--", "CHANGELOG.md"))
        if dry_run:
            artefact.unlink()
            print(f"\nNothing was changed. Without DRY_RUN {branch} gets this commit, with the tag {version}.")
            return
        run("git", "tag", "--annotate", str(version), "--message", f"Release {version}", commit)
        run("git", "merge", "--ff-only", commit)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(work)], cwd=TOP, check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)
    print(f"\n{branch} has the commit, with the tag {version}. To give it away:")
    print(f"  git push origin {branch} {version}")
    print(f"  ansible-galaxy collection publish {artefact.relative_to(TOP)}")


def main() -> None:
    """Make the release that the command line asks for; a refusal is one message, and exit status 1."""
    parser = argparse.ArgumentParser(description="Make a release.", usage="make release VERSION=1.2.3 [DRY_RUN=1]")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("version")
    arguments = parser.parse_args()
    try:
        release(semantic(arguments.version), dry_run=arguments.dry_run)
    except Refused as exc:
        sys.exit(f"no release: {exc}")


if __name__ == "__main__":
    main()
