# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The captured machines in the distribution's source package of hwloc, downloaded by name and unpacked below .cache.

apt gets an own set of directories with an own list of sources: nothing of the machine's configuration changes, and no
root is needed. The sources are those of the machine, asked for source packages.
"""

from __future__ import annotations

import bz2
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/hwloc"
_APT = Path("/etc/apt")
# A one-line entry, with options or without.
_DEB_LINE = re.compile(r"^deb(?=\s)", re.MULTILINE)
_DEB_TYPES = re.compile(r"^Types:[ \t]*deb\b.*$", re.MULTILINE)


class SourceError(Exception):
    """The package, or a tree in it, cannot be had; the message says what to do."""


def trees() -> dict[str, Path]:
    """Return the root of every captured machine by its name; download and unpack what is not in the cache.

    A name has the directory of hwloc's tests in it, as in ``linux/2amd64-2n``.
    """
    unpacked = CACHE / "trees"
    if not unpacked.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="part.") as scratch:
            part = Path(scratch)
            _download(part)
            _unpack(part, part / "trees")
            (part / "trees").rename(unpacked)
    return {f"{path.parent.name}/{path.name}": path for path in sorted(unpacked.glob("*/*"))}


def _download(into: Path) -> None:
    if shutil.which("apt-get") is None:
        raise SourceError("this machine has no apt-get: the oracle test needs Debian or Ubuntu")
    sources = into / "sources"
    sources.mkdir()
    for name in ("lists/partial", "cache/archives/partial"):
        (into / name).mkdir(parents=True)
    for path in [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            (sources / path.name).write_text(_asked_for_source_packages(text, path.suffix), encoding="utf-8")
    options = [
        "Dir::Etc::sourcelist=/dev/null",
        f"Dir::Etc::sourceparts={sources}",
        f"Dir::State::lists={into / 'lists'}",
        f"Dir::Cache={into / 'cache'}",
        "Acquire::Languages=none",
        "Acquire::Retries=3",
    ]
    if os.geteuid() == 0:
        # apt would fetch as the user _apt, to whom this directory is closed.
        options.append("APT::Sandbox::User=root")
    apt = ["apt-get", "-q", *(word for option in options for word in ("-o", option))]
    # A source of the machine that has no source packages fails the update; what counts is whether one has hwloc's.
    update = _run([*apt, "update"], into)
    download = _run([*apt, "source", "--download-only", "hwloc"], into)
    if download.returncode != 0:
        raise SourceError(
            "the source package hwloc cannot be downloaded; it is looked for where the lists below"
            f" {_APT} say that packages come from.\n{update.stdout[-2000:]}\n{download.stdout[-2000:]}"
        )


def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def _asked_for_source_packages(text: str, suffix: str) -> str:
    if suffix == ".sources":
        return _DEB_TYPES.sub("Types: deb-src", text)
    return "".join(f"{line}\n" for line in _DEB_LINE.sub("deb-src", text).splitlines() if line.startswith("deb-src"))


def _unpack(downloaded: Path, into: Path) -> None:
    archives = sorted(downloaded.glob("hwloc_*.orig.tar.*"))
    if len(archives) != 1:
        raise SourceError(f"apt-get source left {[path.name for path in archives]} and not one hwloc_VERSION.orig.tar")
    with tarfile.open(archives[0]) as package:
        for member in package:
            match = re.fullmatch(r"[^/]+/tests/hwloc/([^/]+)/(?:[^/]+/)?([^/]+)\.tar\.bz2", member.name)
            stream = package.extractfile(member) if match else None
            if match is not None and stream is not None:
                _unpack_tree(stream.read(), into / match[1] / match[2])
    if not into.is_dir():
        raise SourceError(f"{archives[0].name} holds no captured machine below tests/hwloc")


def _unpack_tree(archive: bytes, into: Path) -> None:
    """Unpack a machine that shows its CPUs or nodes in sysfs; others are dumps of the cpuid instruction alone."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="tree.") as scratch:
        # Python's safe filter refuses the trees' absolute links, and Python before 3.12 may have no other.
        subprocess.run(["tar", "-x", "-C", scratch], input=bz2.decompress(archive), timeout=60, check=True)
        # Some lie below "fsroot", beside a dump of the cpuid instruction.
        for root in [*Path(scratch).glob("*"), *Path(scratch).glob("*/fsroot")]:
            if any((root / "sys/devices/system" / part).is_dir() for part in ("cpu", "node")):
                into.parent.mkdir(parents=True, exist_ok=True)
                root.rename(into)
