# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What is at a path, what shall be there, and whose it is: a set of files (``_files``) begins with reading."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import stat
from dataclasses import dataclass, field

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

_MODE = re.compile(r"[0-7]{4}")


class FilesError(NumapinError):
    """A set of files that cannot be, or could not be, put in place; the message names path and reason."""


@dataclass(frozen=True)
class WantedFile:
    """One file as it shall be. ``owner`` and ``group`` are names or numbers; None keeps what is there."""

    path: str
    content: bytes = field(repr=False)
    mode: int
    secret: bool = False
    owner: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class WantedDirectory:
    """One directory as it shall be."""

    path: str
    mode: int
    owner: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Entry:
    """What is, or shall be, at one path. In check mode ``uid`` or ``gid`` is None where the name does not exist yet."""

    kind: str  # absent | file | directory | link | other
    content: bytes = field(default=b"", repr=False)  # of a link: where it points
    mode: int = 0
    uid: int | None = 0
    gid: int | None = 0
    owner: str = field(default="root", compare=False)
    group: str = field(default="root", compare=False)

    @property
    def attributes(self) -> str:
        return f"{self.owner}:{self.group} {self.mode:04o}"


ABSENT = Entry("absent")


def parse_mode(path: str, text: str) -> int:
    """Mode from four octal digits. Fewer digits are refused: they are what YAML makes of an unquoted 0644."""
    if not _MODE.fullmatch(text):
        raise FilesError(f"{path}: mode {text!r} is not four octal digits; write it as a string such as '0644'")
    return int(text, 8)


def read_entry(path: str) -> Entry:
    """What is at ``path`` now; a symbolic link is not followed."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            kind, content = "link", os.fsencode(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            kind = "file"
            with open(path, "rb") as file:
                content = file.read()
        else:
            kind, content = ("directory" if stat.S_ISDIR(status.st_mode) else "other"), b""
    except FileNotFoundError:
        return ABSENT
    except NotADirectoryError:
        raise FilesError(f"{path}: one of its parents is not a directory") from None
    except OSError as error:
        raise FilesError(
            f"{path} cannot be read: {error.strerror or error}; is this task run as root (become)?"
        ) from error
    return Entry(
        kind,
        content,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        user_name(status.st_uid),
        group_name(status.st_gid),
    )


def directory_as_it_is(path: str, mode: int) -> WantedDirectory:
    """A directory that is wanted, with the mode it has; ``mode`` is for one that is missing."""
    there = follow(path)
    return WantedDirectory(path, there.mode if there.kind == "directory" else mode)


def follow(path: str) -> Entry:
    """Like ``read_entry``, but a link to a directory counts as that directory."""
    entry = read_entry(path)
    if entry.kind == "link" and os.path.isdir(path):
        return read_entry(os.path.realpath(path))
    return entry


def user_name(uid: int | None) -> str:
    """Name of a user, or the number of one who has none."""
    try:
        return pwd.getpwuid(uid).pw_name if uid is not None else "?"
    except KeyError:
        return str(uid)


def group_name(gid: int | None) -> str:
    """Name of a group, or the number of one that has none."""
    try:
        return grp.getgrgid(gid).gr_name if gid is not None else "?"
    except KeyError:
        return str(gid)


def user_id(path: str, name: str, check_mode: bool) -> int | None:
    """Number of the owner of ``path``; in check mode ``None`` for one whom an earlier task would have made."""
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        if check_mode:
            return None
        raise FilesError(
            f"{path}: its owner {name!r} is not a user of this host: create the user first, or give a number"
        ) from None


def group_id(path: str, name: str, check_mode: bool) -> int | None:
    """Number of the group of ``path``; in check mode ``None`` for one that an earlier task would have made."""
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if check_mode:
            return None
        raise FilesError(
            f"{path}: its group {name!r} is not a group of this host: create the group first, or give a number"
        ) from None


def sha256(content: bytes) -> str:
    """Checksum, as manifests have it."""
    return hashlib.sha256(content).hexdigest()
