# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection as a user has it: built, and installed by the README's own words into an empty home.

Usage: ``python tests/artefact/installed.py DIRECTORY``, which makes DIRECTORY anew; ``make demo-artefact`` deploys from
it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# The way to the package index, and nothing else of whoever runs this.
PASSED = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)
MARK = ".numapin-installed"


class InstallError(Exception):
    """What the README says does not work; the message has the output."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """A home with a virtual environment and the collection in it."""

    home: Path

    @property
    def collection(self) -> Path:
        return self.home / ".ansible" / "collections" / "ansible_collections" / "numapin" / "inference"

    @property
    def bin(self) -> Path:
        return self.home / "numapin" / "bin"

    def environment(self) -> dict[str, str]:
        """Return what a user's shell has: nothing that leads to this checkout."""
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        path = os.pathsep.join([str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"])
        return {**passed, "HOME": str(self.home), "PATH": path, "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}

    def run(self, command: str, *arguments: str | Path, **more: str) -> str:
        """Run a program of the environment in its home, and return what it printed; ``more`` is for its environment."""
        return ran([str(self.bin / command), *map(str, arguments)], self, **more)


def ran(words: list[str], where: Installed, **more: str) -> str:
    run = subprocess.run(
        words,
        cwd=where.home,
        env={**where.environment(), **more},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if run.returncode != 0:
        raise InstallError(f"{' '.join(words)} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout


def words_of_the_readme() -> str:
    """Return the README's commands for an installation."""
    text = (TOP / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## Install$.*?^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise InstallError("README.md has no section Install with a block of commands")
    return found[1]


def install(home: Path) -> Installed:
    """Build the artefact and do in ``home`` what the README says. One that was made here before is replaced."""
    if home.exists():
        if any(home.iterdir()) and not (home / MARK).exists():
            raise InstallError(f"{home} is neither empty nor made by this: give another directory")
        shutil.rmtree(home)
    home.mkdir(parents=True)
    (home / MARK).touch()
    where = Installed(home.resolve())
    pip = [sys.executable, str(TOP / "tools" / "pip_settings.py"), str(home / ".config" / "pip" / "pip.conf")]
    (home / ".config" / "pip").mkdir(parents=True)
    subprocess.run(pip, check=True, capture_output=True)
    galaxy = Path(sys.executable).parent / "ansible-galaxy"
    built = subprocess.run(
        [str(galaxy), "collection", "build", "--output-path", str(where.home)],
        cwd=TOP,
        check=False,
        capture_output=True,
        text=True,
    )
    if built.returncode != 0:
        raise InstallError(built.stdout + built.stderr)
    ran(["bash", "-euc", words_of_the_readme()], where)
    return where


def main() -> None:
    """Install into the directory that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        where = install(Path(sys.argv[1]))
        core = where.run("ansible", "--version").partition("\n")[0]
    except InstallError as error:
        sys.exit(str(error))
    print(f"{core}, the collection in {where.collection}")


if __name__ == "__main__":
    main()
