# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a set of files (``_files``) is going to do: changes, and what is refused before anything is changed."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.numapin.inference.plugins.module_utils._file_entries import (
    ABSENT,
    Entry,
    FilesError,
    WantedDirectory,
    WantedFile,
    follow,
    group_id,
    group_name,
    user_id,
    user_name,
)


@dataclass(frozen=True)
class Change:
    """One path that is not as it shall be."""

    path: str
    before: Entry
    after: Entry
    secret: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything ``apply`` will do, in its order, and the manifest afterwards (None: the set is gone)."""

    directories: tuple[Change, ...]
    files: tuple[Change, ...]
    removed_directories: tuple[Change, ...]
    removed_files: tuple[str, ...]
    drifted_files: tuple[str, ...]
    taken_over: tuple[tuple[str, Entry], ...]  # (where it is kept, the original)
    manifest_before: dict[str, t.Any] | None
    manifest_after: dict[str, t.Any] | None
    warnings: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return bool(
            self.directories or self.files or self.removed_directories or self.manifest_before != self.manifest_after
        )

    @property
    def changed_files(self) -> list[str]:
        return [change.path for change in self.files if change.path not in self.removed_files]

    @property
    def changed_directories(self) -> list[str]:
        return [change.path for change in (*self.directories, *self.removed_directories)]


def refuse_unclear_paths(paths: t.Sequence[str]) -> None:
    """Paths are absolute, plain, and given once."""
    seen: set[str] = set()
    for path in paths:
        if not os.path.isabs(path):
            raise FilesError(f"path {path!r} is not absolute: it must begin with /")
        if os.path.normpath(path) != path or path.startswith("//") or path == "/" or "\0" in path:
            raise FilesError(f"path {path!r} is not plain: write it without '..', '.', doubled or trailing slashes")
        if path in seen:
            raise FilesError(f"{path} is given twice: a path can be one file or one directory")
        seen.add(path)


def refuse_what_is_not_a_file(path: str, entry: Entry, ours: bool) -> None:
    if entry.kind == "link" and not ours:
        target = os.fsdecode(entry.content)
        raise FilesError(
            f"{path} is a symbolic link (to {target}) that this set did not write: remove it, or give its target's path"
        )
    if entry.kind in ("directory", "other"):
        what = "a directory" if entry.kind == "directory" else "neither a regular file nor a directory"
        raise FilesError(f"{path} is {what}, a regular file is wanted there: remove it, or give another path")


def require_parent(path: str, coming: set[str]) -> None:
    parent = os.path.dirname(path)
    if parent in coming:
        return
    if not os.path.exists(parent):
        raise FilesError(f"{path}: its directory {parent} does not exist: list it under directories")
    if not os.path.isdir(parent):
        raise FilesError(f"{path}: {parent} is not a directory")


def wanted_entry(
    kind: str, wanted: WantedFile | WantedDirectory, before: Entry, content: bytes, check_mode: bool
) -> Entry:
    exists = before.kind == kind
    uid: int | None = before.uid if exists else os.geteuid()
    gid: int | None = before.gid if exists else os.getegid()
    if wanted.owner is not None:
        uid = user_id(wanted.path, wanted.owner, check_mode)
    if wanted.group is not None:
        gid = group_id(wanted.path, wanted.group, check_mode)
    owner = wanted.owner if wanted.owner is not None else user_name(uid)
    group = wanted.group if wanted.group is not None else group_name(gid)
    return Entry(kind, content, wanted.mode, uid, gid, owner, group)


def plan_directories(
    wanted: t.Sequence[WantedDirectory],
    owned: dict[str, t.Any],
    leaving: set[str],
    check_mode: bool,
    covered: t.Collection[str],
) -> tuple[list[Change], list[Change], dict[str, t.Any], list[str]]:
    changes: list[Change] = []
    removed: list[Change] = []
    records: dict[str, t.Any] = {}
    warnings: list[str] = []
    coming = {directory.path for directory in wanted}
    for directory in sorted(wanted, key=lambda entry: entry.path.count("/")):
        before = follow(directory.path)
        if before.kind not in ("absent", "directory"):
            raise FilesError(
                f"{directory.path} is not a directory, and one is wanted there: remove it, or give another path"
            )
        if not check_mode:
            require_parent(directory.path, coming)
        after = wanted_entry("directory", directory, before, b"", check_mode)
        if before != after:
            changes.append(Change(directory.path, before, after))
        attributes = (
            None if before.kind == "absent" else {"mode": f"{before.mode:04o}", "uid": before.uid, "gid": before.gid}
        )
        records[directory.path] = owned.get(directory.path, {"created": before.kind == "absent", "before": attributes})
    leaving = set(leaving)
    for path in sorted(set(owned) - set(records), key=lambda entry: entry.count("/"), reverse=True):
        before = follow(path)
        if before.kind != "directory":
            continue
        if owned[path]["created"]:
            names = () if path in covered else sorted(os.listdir(path))
            left = [name for name in names if os.path.join(path, name) not in leaving]
            if left:
                held = ", ".join(left[:5]) + (" …" if len(left) > 5 else "")
                warnings.append(f"{path} is no longer wanted, but stays: it holds {held}")
                records[path] = owned[path]
                continue
            leaving.add(path)
            removed.append(Change(path, before, ABSENT))
        else:
            was = owned[path]["before"]
            after = Entry(
                "directory",
                b"",
                int(was["mode"], 8),
                was["uid"],
                was["gid"],
                user_name(was["uid"]),
                group_name(was["gid"]),
            )
            if before != after:
                changes.append(Change(path, before, after))
    return changes, removed, records, warnings
