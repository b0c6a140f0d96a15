# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuse files that only make sense where they were written.

Usage: ``python tools/check_tree.py``. Looks through every file git tracks or would track for

* the host name of a package registry or container registry: where packages come from is the user's setting;
* a path or host of this very machine: this checkout's directory, the user's home, what pip and uv are told here;
* a merge conflict marker.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
# Written in two parts so that this file passes its own check.
REGISTRIES = [
    f"{name}.{domain}"
    for name, domain in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download.pytorch", "org"),
        ("galaxy.ansible", "com"),
        ("docker", "io"),
        ("quay", "io"),
        ("ghcr", "io"),
        ("registry.access.redhat", "com"),
    )
]
# Too general to say anything about this machine, although its settings may name them.
COMMON_PATHS = {"/", "/root", "/home", "/tmp", "/opt", "/srv", "/usr", "/var", "/mnt", "/data", "/etc"}
COMMON_PREFIXES = ("/etc/ssl/", "/etc/pki/", "/usr/", "/opt/vllm", "/opt/models")
CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)


def tracked_files() -> list[Path]:
    """Return every file below the repository's root that git tracks or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def machine_settings() -> str:
    """Return what pip's files and the environment say about where packages come from here."""
    pip = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True)
    environment = [value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))]
    return "\n".join([pip.stdout, *environment])


def machine_places() -> list[str]:
    """Return the absolute paths and host names that would tie a file to this machine."""
    settings = machine_settings()
    # A checkout lies in somebody's work directory: that directory's name is as telling as the checkout's own.
    places = {str(ROOT), str(ROOT.parent), str(Path.home())}
    for word in re.split(r"[\s'\",=]+", settings):
        if word.startswith("/"):
            places.add(word.rstrip("/"))
        elif "://" in word:
            url = urlsplit(word)
            places.add(url.hostname or url.path.rstrip("/"))
    return sorted(
        place
        for place in places
        if len(place) > 4
        and place not in COMMON_PATHS
        and not place.startswith(COMMON_PREFIXES)
        and place not in ("localhost", "127.0.0.1")
    )


def findings(path: Path, patterns: dict[str, re.Pattern[str]]) -> list[str]:
    """Return one line per thing in ``path`` that must not be there."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    where = path.relative_to(ROOT)
    lines = text.splitlines()
    found = [
        f"{where}:{number}: names {place}"
        for place, pattern in patterns.items()
        if pattern.search(text)
        for number, line in enumerate(lines, start=1)
        if pattern.search(line)
    ]
    if CONFLICT.search(text):
        found.append(f"{where}: holds a merge conflict marker")
    return found


def main() -> None:
    """Print what was found and exit with 1 when there is any."""
    patterns = {
        place: re.compile(r"(?<![\w.-])(?:[\w-]+\.)*" + re.escape(place) + r"(?![\w-])")
        if "/" not in place
        else re.compile(r"(?<![\w./-])" + re.escape(place) + r"(?![\w-])")
        for place in [*REGISTRIES, *machine_places()]
    }
    files = tracked_files()
    found = [line for path in files for line in findings(path, patterns)]
    for line in found:
        print(line)
    if found:
        sys.exit(
            f"{len(found)} places in {len(files)} files name a registry or this machine. Make it a variable, "
            "or leave it to the user's pip, uv or podman configuration."
        )
    print(f"{len(files)} files name no registry and nothing of this machine")


if __name__ == "__main__":
    main()
