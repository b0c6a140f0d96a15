# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.


# System calls on paths and descriptors are this file's subject, so it says them as they are called.

"""The system calls of a set of files (``_files``): write beside, rename, own, read back, to the disk."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import time

from ansible_collections.numapin.inference.plugins.module_utils._file_entries import (
    Entry,
    FilesError,
    follow,
    read_entry,
)
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Change

# No run takes that long between writing a temporary file and renaming it.
_LEFTOVER_SECONDS = 600


def put(change: Change) -> None:
    """Make ``change.path`` what ``change.after`` says, whatever is there now."""
    path, after = change.path, change.after
    if after.kind == "directory":
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        _own(path, after)
    elif after.kind == "file":
        os.replace(write_beside(path, after), path)
    elif after.kind == "link":
        temporary = os.path.join(os.path.dirname(path), f".numapin-{secrets.token_hex(6)}.tmp")
        os.symlink(after.content, temporary)
        os.replace(temporary, path)
    elif change.before.kind == "directory":
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def put_durably(path: str, before: Entry, after: Entry) -> None:
    """Make one file what ``after`` says: whole and on the disk, or not at all. Raises OSError."""
    put(Change(path, before, after))
    sync_directory(os.path.dirname(path))


def write_beside(path: str, entry: Entry) -> str:
    """Write ``entry`` under a temporary name in the directory of ``path`` and to the disk; return that name."""
    temporary = os.path.join(os.path.dirname(path), f".numapin-{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(entry.content)
            file.flush()
            _own(file.fileno(), entry)
            _copy_security_label(path, temporary)
            os.fsync(file.fileno())
    except (OSError, FilesError):
        os.unlink(temporary)
        raise
    return temporary


def _own(where: int | str, entry: Entry) -> None:
    if entry.uid is None or entry.gid is None:
        raise FilesError(f"user {entry.owner!r} or group {entry.group!r} does not exist")
    os.chown(where, entry.uid, entry.gid)
    os.chmod(where, entry.mode)  # after chown, which clears the set-user-ID bits


def _copy_security_label(source: str, target: str) -> None:
    """A replaced file keeps its SELinux label; a new one has its directory's already."""
    try:
        label = os.getxattr(source, "security.selinux", follow_symlinks=False)
    except OSError:
        return
    try:
        os.setxattr(target, "security.selinux", label)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def found_at(change: Change, wanted: Entry) -> Entry:
    """What is there now; where a directory is wanted, a link to one counts."""
    return follow(change.path) if wanted.kind == "directory" else read_entry(change.path)


def read_back(change: Change) -> None:
    """Raise FilesError with what is not as it was written."""
    found = found_at(change, change.after)
    if found == change.after:
        return
    if found.kind != change.after.kind:
        difference = f"wanted {change.after.kind}, found {found.kind}"
    elif found.content != change.after.content:
        difference = f"wrote {len(change.after.content)} bytes, read back {len(found.content)} bytes that differ"
    else:
        difference = f"wanted {change.after.attributes}, found {found.attributes}"
    raise FilesError(f"it is not what was written: {difference}")


def remove_leftovers(directory: str) -> None:
    """Remove what a run that was killed has left beside its files: it may hold a secret that is no longer in use."""
    for leftover in glob.glob(os.path.join(glob.escape(directory), ".numapin-*.tmp")):
        if time.time() - os.lstat(leftover).st_mtime > _LEFTOVER_SECONDS:
            os.unlink(leftover)


def sync_directory(path: str) -> None:
    """Write the names in a directory to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # removed with its last file
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_empty(path: str, stop: str) -> None:
    """Remove ``path`` and its parents below ``stop`` as long as they are empty."""
    while path != stop and path.startswith(stop + "/"):
        try:
            os.rmdir(path)
        except OSError:
            return
        path = os.path.dirname(path)
