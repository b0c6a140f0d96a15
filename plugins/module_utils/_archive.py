# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Reading archives that ``host_capture`` made: as the root of a machine, and the GPU answers in them.

Archives come from other people's machines, so nothing in them is trusted. Every run of ``numa_facts`` loads this file
and few open an archive: what only these need is imported there.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import shutil
import tempfile
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import GpuAnswers, from_plain
from ansible_collections.numapin.inference.plugins.module_utils._host import Host

if t.TYPE_CHECKING:
    import tarfile

# Changes when an older collection would read a newer archive wrongly.
FORMAT = 1
FILE_LIMIT_BYTES = 8 * 1024 * 1024
MEMBER_LIMIT = 100_000
UNPACKED_LIMIT_BYTES = 256 * 1024 * 1024
# Three times as many as the deepest file of a real machine; removing them again takes a call for each.
DEPTH_LIMIT = 64
ANSWERS_PATH = "/numapin/gpu_answers.json"
DESCRIPTION_PATH = "/numapin/capture.json"

# No single header of a tar that we or a person wrote is larger; tarfile takes each into memory at once.
_HEADER_LIMIT_BYTES = 1024 * 1024


class CaptureError(NumapinError):
    """A machine that cannot be captured, or an archive that is none."""


@contextlib.contextmanager
def opened_root(path: str, scratch_directory: str | None = None) -> t.Iterator[str]:
    """Give the directory to read as a machine's root: ``path`` itself, or what its archive unpacks to while it is open.

    Raises ``CaptureError`` for a file that is no archive, or one with what no capture holds.
    """
    if not os.path.isfile(path):
        yield path
        return
    with scratch("numapin-root-", scratch_directory) as directory:
        _unpack(path, directory)
        yield _top(directory)


@contextlib.contextmanager
def scratch(prefix: str, parent: str | None) -> t.Iterator[str]:
    """Give a private directory in ``parent``, or where temporary files go, and remove it afterwards."""
    try:
        directory = tempfile.mkdtemp(prefix=prefix, dir=parent)
    except OSError as error:
        raise CaptureError(
            f"an archive cannot be unpacked in {error.filename or parent or 'the directory for temporary files'}:"
            f" {error.strerror or error}; make room there, or let TMPDIR or Ansible's remote_tmp name another directory"
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def recorded_answers(host: Host) -> GpuAnswers | None:
    """Return what the GPU libraries said on the captured machine; ``None`` when nobody asked them.

    Raises ``CaptureError`` for a capture of a newer format or damaged answers.
    """
    if host.is_running_machine:
        return None
    description = _json_in(host, DESCRIPTION_PATH)
    made_as = description.get("format") if isinstance(description, dict) else None
    if isinstance(made_as, int) and made_as > FORMAT:
        raise CaptureError(
            f"the capture {host.root} has format {made_as}, this version of the collection reads {FORMAT}: update"
            " numapin.inference on the controller, or capture the machine again with this version"
        )
    answers = _json_in(host, ANSWERS_PATH)
    return None if answers is None else from_plain(answers)


def _json_in(host: Host, path: str) -> t.Any:
    text = host.read_text(path, FILE_LIMIT_BYTES)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CaptureError(
            f"{path} in the capture {host.root} is not JSON ({error}): capture the machine again, or remove the file to"
            " do without what it says"
        ) from error


class _Bounded:
    """A file that refuses to be read in pieces larger than any header."""

    def __init__(self, file: t.IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_LIMIT_BYTES:
            raise CaptureError(f"it has a header of {size} bytes")
        return self._file.read(size)


def _unpack(path: str, directory: str) -> None:
    import tarfile
    import zlib

    try:
        with tempfile.TemporaryFile(dir=directory) as plain:
            _decompress(path, plain)
            plain.seek(0)
            with tarfile.open(fileobj=t.cast("t.IO[bytes]", _Bounded(plain)), mode="r:") as archive:
                _extract(archive, directory)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, CaptureError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CaptureError(
            f"the root {path!r} is a file, but not an archive that can be read as a captured machine: {reason}; give a"
            " tar.gz made by numapin.inference.host_capture, or a directory that holds the sys and proc of a machine"
        ) from error


def _decompress(path: str, plain: t.IO[bytes]) -> None:
    import gzip

    size = 0
    with gzip.open(path, "rb") as compressed:
        while True:
            block = compressed.read(256 * 1024)
            if not block:
                return
            size += len(block)
            if size > UNPACKED_LIMIT_BYTES:
                raise CaptureError(f"it unpacks to more than {UNPACKED_LIMIT_BYTES // 1024**2} MiB")
            plain.write(block)


def _extract(archive: tarfile.TarFile, directory: str) -> None:
    """Write files and directories, then links: so nothing is ever written through a link."""
    made = {""}
    links: list[tuple[str, str]] = []
    size = 0
    for count, member in enumerate(archive, start=1):
        if count > MEMBER_LIMIT:
            raise CaptureError(f"it has more than {MEMBER_LIMIT} members")
        path = _safe_path(member.name)
        if member.issym():
            links.append((path, member.linkname))
        elif member.isdir():
            _make_directory(directory, path, made)
        elif member.isreg() and not member.issparse():
            size += member.size
            if size > UNPACKED_LIMIT_BYTES:
                raise CaptureError(f"it unpacks to more than {UNPACKED_LIMIT_BYTES // 1024**2} MiB")
            _make_directory(directory, path.rpartition("/")[0], made)
            _write_member(archive, member, directory + path)
        else:
            raise CaptureError(f"its member {member.name!r} is neither a file nor a directory nor a symbolic link")
    for path, target in links:
        _make_directory(directory, path.rpartition("/")[0], made)
        os.symlink(confined_target(path, target), directory + path)


def _safe_path(name: str) -> str:
    """Return the member's path with a slash in front, as on the machine, and "" for the top."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise CaptureError(f"its member {name!r} leads out of the archive")
    if len(parts) > DEPTH_LIMIT:
        raise CaptureError(f"its member {name[:60]!r}... lies in {len(parts) - 1} directories, more than {DEPTH_LIMIT}")
    return "".join(f"/{part}" for part in parts)


def _make_directory(directory: str, path: str, made: set[str]) -> None:
    if path in made:
        return
    _make_directory(directory, path.rpartition("/")[0], made)
    os.mkdir(directory + path, 0o755)
    made.add(path)


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    source = archive.extractfile(member)
    # It is written through the descriptor, so it may be read-only from the beginning.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, member.mode & 0o777 | 0o400)
    with os.fdopen(descriptor, "wb") as target:
        while source is not None:
            block = source.read(65536)
            if not block:
                return
            target.write(block)


def _top(directory: str) -> str:
    """Return the directory that holds sys and proc: people pack a machine's directory as well as its content."""
    names = os.listdir(directory)
    if len(names) == 1 and names[0] not in ("sys", "proc") and not os.path.islink(f"{directory}/{names[0]}"):
        return f"{directory}/{names[0]}"
    return directory


def confined_target(path: str, target: str) -> str:
    """Return where a link at ``path`` leads, relative and never out of the tree, whoever follows it."""
    directory = path.rpartition("/")[0]
    # normpath lets nothing lead above /, as the kernel does.
    wanted = posixpath.normpath(target if target.startswith("/") else f"{directory}/{target}")
    return posixpath.relpath(wanted, directory or "/")
