# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

# System calls on paths and descriptors are this file's subject, so it says them as they are called.

"""A named set of files, treated as one: read, plan, stage and validate, write, read back, or nothing at all.

``plan`` only reads. ``validate`` works on a private copy. ``apply`` writes every new content beside its destination
first, so that a full disk is met before anything is replaced, then renames; when a step fails, what was done is undone.

What a set owns is kept in ``STATE/files/NAME.json``, the files it replaced in ``STATE/originals/NAME/``. Both are
written before the first replacement: a run killed half-way never takes its own file for somebody's original.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import grp
import hashlib
import json
import os
import pwd
import re
import secrets
import shlex
import shutil
import stat
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.numapin.inference.plugins.module_utils import _commands
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

STATE_DIRECTORY = "/var/lib/numapin"
MAX_STAGE_MIB = 64

_MANIFEST_VERSION = 1
# No run takes that long between writing a temporary file and renaming it.
_LEFTOVER_SECONDS = 600
_MANIFEST_FIELDS = {"files": {"sha256", "secret", "original"}, "directories": {"created", "before"}}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_MODE = re.compile(r"[0-7]{4}")
_LONGEST_DIFF = 100_000
_LONGEST_OUTPUT_LINES = 40


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
        _user_name(status.st_uid),
        _group_name(status.st_gid),
    )


def put(path: str, before: Entry, after: Entry) -> None:
    """Make one file what ``after`` says: whole and on the disk, or not at all. Raises OSError."""
    _put(Change(path, before, after))
    _sync_directory(os.path.dirname(path))


def directory_as_it_is(path: str, mode: int) -> WantedDirectory:
    """A directory that is wanted, with the mode it has; ``mode`` is for one that is missing."""
    there = _follow(path)
    return WantedDirectory(path, there.mode if there.kind == "directory" else mode)


class FileSet:
    """The files that one name stands for on this host."""

    def __init__(self, name: str, state_directory: str = STATE_DIRECTORY) -> None:
        if not _NAME.fullmatch(name):
            raise FilesError(
                f"name {name!r} of a set of files: allowed are a-z, 0-9, '.', '_' and '-', the first a letter or digit"
            )
        self.name = name
        self.state_directory = state_directory
        self.manifest_directory = os.path.join(state_directory, "files")
        self.manifest_path = os.path.join(self.manifest_directory, name + ".json")
        self.originals_directory = os.path.join(state_directory, "originals", name)

    # Read and plan

    def made(self, path: str) -> bool:
        """Whether ``path`` is a directory that an earlier run of this set made."""
        manifest = self._read_manifest(self.manifest_path)
        return bool(manifest and manifest["directories"].get(path, {}).get("created"))

    def plan(
        self,
        files: t.Sequence[WantedFile],
        directories: t.Sequence[WantedDirectory] = (),
        *,
        check_mode: bool = False,
        covered: t.Collection[str] = (),
        keep: t.Collection[str] = (),
    ) -> Plan:
        """Hold the wanted set against the host. Both empty means: put everything back as it was before this set.

        In check mode missing parents, users and groups are what an earlier task would have made; otherwise FilesError.
        ``covered`` are directories below a file system that will be gone by then: what they hold now is not theirs.
        ``keep`` are paths that an earlier run of this set wrote, and that stay as they are in this one.
        """
        both = sorted(set(keep) & {entry.path for entry in files})
        if both:
            raise FilesError(f"{', '.join(both)} cannot be written and kept as it is at the same time")
        _refuse_unclear_paths([*(entry.path for entry in files), *(entry.path for entry in directories)])
        manifest = self._read_manifest(self.manifest_path)
        owned_files: dict[str, t.Any] = manifest["files"] if manifest else {}
        owned_directories: dict[str, t.Any] = manifest["directories"] if manifest else {}
        self._refuse_files_of_other_sets([entry.path for entry in files])

        file_changes: list[Change] = []
        taken_over: list[tuple[str, Entry]] = []
        records: dict[str, t.Any] = {}
        coming = {entry.path for entry in directories}
        now: dict[str, Entry] = {path: read_entry(path) for path in (*owned_files, *(entry.path for entry in files))}
        for file in files:
            before = now[file.path]
            _refuse_what_is_not_a_file(file.path, before, ours=file.path in owned_files)
            if not check_mode:
                _require_parent(file.path, coming)
            after = _wanted_entry("file", file, before, file.content, check_mode)
            secret = file.secret or bool(owned_files.get(file.path, {}).get("secret"))
            if before != after:
                file_changes.append(Change(file.path, before, after, secret))
            original = owned_files.get(file.path, {}).get("original")
            if file.path not in owned_files and before.kind == "file":
                kept = self.originals_directory + file.path
                taken_over.append((kept, before))
                original = {"kept": kept, "mode": f"{before.mode:04o}", "uid": before.uid, "gid": before.gid}
            records[file.path] = {"sha256": _sha256(file.content), "secret": file.secret, "original": original}

        removed: list[str] = []
        records.update({path: owned_files[path] for path in keep if path in owned_files})
        for path in sorted(set(owned_files) - set(records)):
            before = now[path]
            if before.kind in ("directory", "other"):
                raise FilesError(
                    f"{path} was a file of the set {self.name!r} and is to go, but is not a regular file now: remove it"
                )
            after = self._original(owned_files[path]["original"])
            removed.append(path)
            if before != after:
                file_changes.append(Change(path, before, after, bool(owned_files[path]["secret"])))

        drifted = [
            path
            for path, record in sorted(owned_files.items())
            if now[path].kind != "file" or _sha256(now[path].content) != record["sha256"]
        ]
        directory_changes, removed_directories, directory_records, warnings = _plan_directories(
            directories,
            owned_directories,
            {change.path for change in file_changes if change.after == ABSENT},
            check_mode,
            covered,
        )
        after_manifest = {
            "version": _MANIFEST_VERSION,
            "name": self.name,
            "files": records,
            "directories": directory_records,
        }
        return Plan(
            directories=tuple(directory_changes),
            files=tuple(file_changes),
            removed_directories=tuple(removed_directories),
            removed_files=tuple(removed),
            drifted_files=tuple(drifted),
            taken_over=tuple(taken_over),
            manifest_before=manifest,
            # A directory of ours that has to stay is still to go one day.
            manifest_after=after_manifest if files or directories or directory_records else None,
            warnings=tuple(warnings),
        )

    def _original(self, original: dict[str, t.Any] | None) -> Entry:
        if original is None:
            return ABSENT
        kept = read_entry(original["kept"])
        if kept.kind != "file":
            raise FilesError(
                f"{original['kept']}, an original that the set {self.name!r} kept, is gone: put it back there, "
                f"or remove its record from {self.manifest_path}"
            )
        uid, gid = original["uid"], original["gid"]
        return Entry("file", kept.content, int(original["mode"], 8), uid, gid, _user_name(uid), _group_name(gid))

    def _read_manifest(self, path: str) -> dict[str, t.Any] | None:
        entry = read_entry(path)
        if entry.kind == "absent":
            return None
        try:
            manifest = json.loads(entry.content)
            if manifest["version"] != _MANIFEST_VERSION:
                raise FilesError(
                    f"{path} was written by another version of this collection "
                    f"(format {manifest['version']!r}, known is {_MANIFEST_VERSION})"
                )
            for kind, fields in _MANIFEST_FIELDS.items():
                for owned, record in manifest[kind].items():
                    if fields - record.keys():
                        raise ValueError(f"the record of {owned} lacks {', '.join(sorted(fields - record.keys()))}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FilesError(
                f"{path} is damaged ({error!r}): restore it from a backup, or remove it to forget what the set wrote"
            ) from error
        return t.cast("dict[str, t.Any]", manifest)

    def _refuse_files_of_other_sets(self, paths: t.Iterable[str]) -> None:
        try:
            others = sorted(name for name in os.listdir(self.manifest_directory) if name.endswith(".json"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise FilesError(
                f"{self.manifest_directory} cannot be read: {error.strerror or error}; is this run as root (become)?"
            ) from error
        for other in others:
            if other == self.name + ".json":
                continue
            manifest = self._read_manifest(os.path.join(self.manifest_directory, other))
            shared = sorted(set(paths) & set(manifest["files"] if manifest else ()))
            if shared:
                raise FilesError(
                    f"{', '.join(shared)} belongs to the set {other[:-5]!r} and cannot be in {self.name!r} as well"
                )

    # Write and read back

    def apply(self, plan: Plan) -> None:
        """Do what ``plan`` says and read it back; on any failure undo what was done and raise FilesError."""
        if not plan.changed:
            return
        done: list[Change] = []
        waiting: dict[str, str] = {}  # path -> its new content, written beside it
        at = ""
        try:
            for directory in sorted({os.path.dirname(change.path) for change in plan.files}):
                at = directory
                _remove_leftovers(directory)
            for change in plan.directories:
                at = change.path
                done.append(change)  # before, because making one and giving it its owner are two steps
                _put(change)
            for change in plan.files:
                at = change.path
                if change.after.kind == "file":
                    waiting[at] = _write_beside(at, change.after)
            at = self.manifest_path
            self._keep_originals(plan.taken_over)
            self._write_manifest(_union(plan.manifest_before, plan.manifest_after))
            for change in plan.files:
                at = change.path
                if change.after.kind == "file":
                    os.replace(waiting[at], at)
                    del waiting[at]
                else:
                    _put(change)
                done.append(change)
            for change in plan.removed_directories:
                at = change.path
                _put(change)
                done.append(change)
            for directory in sorted({os.path.dirname(change.path) for change in plan.files}):
                at = directory
                _sync_directory(directory)
            for change in done:
                at = change.path
                _read_back(change)
            at = self.manifest_path
            self._write_manifest(plan.manifest_after)
        except (OSError, FilesError) as error:
            for temporary in waiting.values():
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise FilesError(f"{at}: {reason}; {self._undo(done, plan)}") from error
        self._forget_originals(plan)

    def undo(self, plan: Plan) -> None:
        """Take back a plan that was applied, as a step after it failed. Raises FilesError with what could not be."""
        if not plan.changed:
            return
        records = plan.manifest_before["files"] if plan.manifest_before else {}
        originals = [
            (records[path]["original"]["kept"], read_entry(path))
            for path in plan.removed_files
            if records[path]["original"]
        ]
        try:
            self._keep_originals(originals)
        except OSError as error:
            raise FilesError(f"{self.originals_directory}: {error.strerror or error}") from error
        failed = self._put_back([*plan.directories, *plan.files, *plan.removed_directories], plan)
        if failed:
            raise FilesError(", ".join(failed))

    def _undo(self, done: list[Change], plan: Plan) -> str:
        failed = self._put_back(done, plan)
        if failed:
            return "and these could not be put back as they were: " + ", ".join(failed)
        return "everything is as it was before"

    def _put_back(self, done: list[Change], plan: Plan) -> list[str]:
        failed: list[str] = []
        for change in reversed(done):
            try:
                if _found(change, change.before) != change.before:
                    _put(Change(change.path, change.after, change.before))
            except (OSError, FilesError) as error:
                failed.append(f"{change.path} ({error})")
        try:
            if not failed:
                self._remove_originals(kept for kept, _original in plan.taken_over)
                self._write_manifest(plan.manifest_before)
                self._remove_empty_state(plan.manifest_before)
        except (OSError, FilesError) as error:
            failed.append(f"{self.manifest_path} ({error})")
        return failed

    def _keep_originals(self, originals: t.Iterable[tuple[str, Entry]]) -> None:
        for kept, original in originals:
            os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
            os.chmod(self.state_directory + "/originals", 0o700)
            os.replace(_write_beside(kept, original), kept)

    def _forget_originals(self, plan: Plan) -> None:
        """Remove the originals that were put back, and directories of ours that are empty now."""
        records = plan.manifest_before["files"] if plan.manifest_before else {}
        originals = (records[path]["original"] for path in plan.removed_files)
        self._remove_originals(original["kept"] for original in originals if original)
        self._remove_empty_state(plan.manifest_after)

    def _remove_originals(self, kept_paths: t.Iterable[str]) -> None:
        for kept in kept_paths:
            with contextlib.suppress(OSError):
                os.unlink(kept)
            _remove_empty(os.path.dirname(kept), self.state_directory)

    def _remove_empty_state(self, manifest: dict[str, t.Any] | None) -> None:
        if manifest is None:
            _remove_empty(self.manifest_directory, self.state_directory)
            with contextlib.suppress(OSError):
                os.rmdir(self.state_directory)

    def _write_manifest(self, manifest: dict[str, t.Any] | None) -> None:
        if manifest is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.manifest_path)
            return
        os.makedirs(self.manifest_directory, mode=0o755, exist_ok=True)
        content = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
        entry = Entry("file", content, 0o600, os.geteuid(), os.getegid())
        os.replace(_write_beside(self.manifest_path, entry), self.manifest_path)
        _sync_directory(self.manifest_directory)


def validate(
    plan: Plan,
    stage: str,
    command: str,
    temporary_directory: str,
    *,
    timeout_seconds: float = 30,
    check_mode: bool = False,
    run: _commands.Runner = _commands.run,
) -> str | None:
    """Run ``command`` on a copy of ``stage`` with the plan over it; FilesError with its output unless it returns 0.

    Returns None when the set is valid, or, in check mode only, why that could not be found out.
    """
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise FilesError(f"validate: {command!r} cannot be split into words: {error}") from error
    if not argv or "%s" not in command:
        raise FilesError(f"validate: {command!r} must be a command with %s where the staged copy of {stage} goes")
    if stage == "/" or not os.path.isabs(stage) or os.path.normpath(stage) != stage:
        raise FilesError(f"stage: {stage!r} must be the plain absolute path of a directory other than /")
    if _commands.find_executable(argv[0]) is None:
        if check_mode:
            return f"not validated: {argv[0]} is not installed yet"
        raise FilesError(f"validate: the command {argv[0]!r} is not on this host; nothing was changed")
    tree = os.path.join(temporary_directory, "stage-" + secrets.token_hex(4))
    try:
        os.mkdir(tree, mode=0o700)
        _copy_tree(stage, tree)
        _lay_over(plan, stage, tree)
        result = run([word.replace("%s", tree) for word in argv], timeout_seconds)
    except OSError as error:
        raise FilesError(f"{stage} could not be staged: {error}; nothing was changed") from error
    except _commands.CommandError as error:
        raise FilesError(f"validate: {str(error).replace(tree, stage)}; nothing was changed") from error
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    if result.rc != 0:
        lines = (result.stdout + result.stderr).replace(tree, stage).strip().splitlines()[-_LONGEST_OUTPUT_LINES:]
        output = _without_secrets("\n".join(lines) or "(no output)", plan)
        raise FilesError(
            f"the new files are not valid, nothing was changed. "
            f"{command.replace('%s', stage)} returned {result.rc}:\n{output}"
        )
    return None


def diff(plan: Plan) -> list[dict[str, str]]:
    """One entry per path for ``--diff``: contents, owner and mode in the headers; of a secret only that it is one."""
    entries: list[dict[str, str]] = []
    for change in (*plan.directories, *plan.files, *plan.removed_directories):
        before, after = (_diff_text(entry, change.secret) for entry in (change.before, change.after))
        if before == after:
            # Ansible shows nothing for equal texts: let what does differ be the text.
            if change.before.content != change.after.content:
                after = after.rstrip("\n") + " with another value\n"
            before, after = before + _diff_attributes(change.before), after + _diff_attributes(change.after)
        entries.append(
            {
                "before_header": _diff_header(change.path, change.before),
                "after_header": _diff_header(change.path, change.after),
                "before": before,
                "after": after,
            }
        )
    return entries


# Planning, in detail


def _refuse_unclear_paths(paths: t.Sequence[str]) -> None:
    seen: set[str] = set()
    for path in paths:
        if not os.path.isabs(path):
            raise FilesError(f"path {path!r} is not absolute: it must begin with /")
        if os.path.normpath(path) != path or path.startswith("//") or path == "/" or "\0" in path:
            raise FilesError(f"path {path!r} is not plain: write it without '..', '.', doubled or trailing slashes")
        if path in seen:
            raise FilesError(f"{path} is given twice: a path can be one file or one directory")
        seen.add(path)


def _refuse_what_is_not_a_file(path: str, entry: Entry, ours: bool) -> None:
    if entry.kind == "link" and not ours:
        target = os.fsdecode(entry.content)
        raise FilesError(
            f"{path} is a symbolic link (to {target}) that this set did not write: remove it, or give its target's path"
        )
    if entry.kind in ("directory", "other"):
        what = "a directory" if entry.kind == "directory" else "neither a regular file nor a directory"
        raise FilesError(f"{path} is {what}, a regular file is wanted there: remove it, or give another path")


def _require_parent(path: str, coming: set[str]) -> None:
    parent = os.path.dirname(path)
    if parent in coming:
        return
    if not os.path.exists(parent):
        raise FilesError(f"{path}: its directory {parent} does not exist: list it under directories")
    if not os.path.isdir(parent):
        raise FilesError(f"{path}: {parent} is not a directory")


def _wanted_entry(
    kind: str, wanted: WantedFile | WantedDirectory, before: Entry, content: bytes, check_mode: bool
) -> Entry:
    exists = before.kind == kind
    uid: int | None = before.uid if exists else os.geteuid()
    gid: int | None = before.gid if exists else os.getegid()
    if wanted.owner is not None:
        uid = _user_id(wanted.path, wanted.owner, check_mode)
    if wanted.group is not None:
        gid = _group_id(wanted.path, wanted.group, check_mode)
    owner = wanted.owner if wanted.owner is not None else _user_name(uid)
    group = wanted.group if wanted.group is not None else _group_name(gid)
    return Entry(kind, content, wanted.mode, uid, gid, owner, group)


def _plan_directories(
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
        before = _follow(directory.path)
        if before.kind not in ("absent", "directory"):
            raise FilesError(
                f"{directory.path} is not a directory, and one is wanted there: remove it, or give another path"
            )
        if not check_mode:
            _require_parent(directory.path, coming)
        after = _wanted_entry("directory", directory, before, b"", check_mode)
        if before != after:
            changes.append(Change(directory.path, before, after))
        attributes = (
            None if before.kind == "absent" else {"mode": f"{before.mode:04o}", "uid": before.uid, "gid": before.gid}
        )
        records[directory.path] = owned.get(directory.path, {"created": before.kind == "absent", "before": attributes})
    leaving = set(leaving)
    for path in sorted(set(owned) - set(records), key=lambda entry: entry.count("/"), reverse=True):
        before = _follow(path)
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
                _user_name(was["uid"]),
                _group_name(was["gid"]),
            )
            if before != after:
                changes.append(Change(path, before, after))
    return changes, removed, records, warnings


def _follow(path: str) -> Entry:
    """Like ``read_entry``, but a link to a directory counts as that directory."""
    entry = read_entry(path)
    if entry.kind == "link" and os.path.isdir(path):
        return read_entry(os.path.realpath(path))
    return entry


def _union(before: dict[str, t.Any] | None, after: dict[str, t.Any] | None) -> dict[str, t.Any]:
    union: dict[str, t.Any] = {"version": _MANIFEST_VERSION, "files": {}, "directories": {}}
    for manifest in (before, after):
        if manifest:
            union["name"] = manifest["name"]
            union["files"].update(manifest["files"])
            union["directories"].update(manifest["directories"])
    return union


# Writing, in detail


def _remove_leftovers(directory: str) -> None:
    """Remove what a run that was killed has left beside its files: it may hold a secret that is no longer in use."""
    for leftover in glob.glob(os.path.join(glob.escape(directory), ".numapin-*.tmp")):
        if time.time() - os.lstat(leftover).st_mtime > _LEFTOVER_SECONDS:
            os.unlink(leftover)


def _write_beside(path: str, entry: Entry) -> str:
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


def _put(change: Change) -> None:
    """Make ``change.path`` what ``change.after`` says, whatever is there now."""
    path, after = change.path, change.after
    if after.kind == "directory":
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        _own(path, after)
    elif after.kind == "file":
        os.replace(_write_beside(path, after), path)
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


def _found(change: Change, wanted: Entry) -> Entry:
    return _follow(change.path) if wanted.kind == "directory" else read_entry(change.path)


def _read_back(change: Change) -> None:
    found = _found(change, change.after)
    if found == change.after:
        return
    if found.kind != change.after.kind:
        difference = f"wanted {change.after.kind}, found {found.kind}"
    elif found.content != change.after.content:
        difference = f"wrote {len(change.after.content)} bytes, read back {len(found.content)} bytes that differ"
    else:
        difference = f"wanted {change.after.attributes}, found {found.attributes}"
    raise FilesError(f"it is not what was written: {difference}")


def _sync_directory(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # removed with its last file
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_empty(path: str, stop: str) -> None:
    """Remove ``path`` and its parents below ``stop`` as long as they are empty."""
    while path != stop and path.startswith(stop + "/"):
        try:
            os.rmdir(path)
        except OSError:
            return
        path = os.path.dirname(path)


# Staging, in detail


def _copy_tree(source: str, target: str) -> None:
    """Copy directories, files and links, with their modes; sockets and devices have no place in a configuration."""
    left = MAX_STAGE_MIB * 1024 * 1024
    directories: list[tuple[str, int]] = []
    for directory, names, files in os.walk(source):
        staged = os.path.join(target, os.path.relpath(directory, source))
        for name in [*names, *files]:
            path, copy = os.path.join(directory, name), os.path.join(staged, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                link = os.readlink(path)
                # An absolute link back into the tree must show the staged files, not the present ones.
                os.symlink(target + link[len(source) :] if link.startswith(source + "/") else link, copy)
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(copy, 0o700)
                directories.append((copy, stat.S_IMODE(status.st_mode)))
            elif stat.S_ISREG(status.st_mode):
                left -= status.st_size
                if left < 0:
                    raise FilesError(
                        f"stage: {source} holds more than {MAX_STAGE_MIB} MiB; give the configuration's directory only"
                    )
                _write_private(copy, path, stat.S_IMODE(status.st_mode))
    for copy, mode in reversed(directories):
        os.chmod(copy, mode | 0o700)


def _write_private(copy: str, source: str, mode: int) -> None:
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target, open(source, "rb") as file:
        shutil.copyfileobj(file, target)
        os.chmod(target.fileno(), mode)


def _lay_over(plan: Plan, stage: str, tree: str) -> None:
    def staged(path: str) -> str | None:
        return tree + path[len(stage) :] if path.startswith(stage + "/") else None

    for change in plan.directories:
        copy = staged(change.path)
        if copy and not os.path.lexists(copy):
            os.makedirs(copy, mode=0o700)
    for change in plan.files:
        copy = staged(change.path)
        if copy is None:
            continue
        parent = os.path.dirname(copy)
        if not (os.path.realpath(parent) + "/").startswith(os.path.realpath(tree) + "/"):
            raise FilesError(
                f"{change.path}: a symbolic link leads out of {stage}, it cannot be staged: give the path it leads to"
            )
        os.makedirs(parent, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
        if change.after.kind == "file":
            # The user of the validating command is root, or the one who runs this: the owner need not be right here.
            own = dataclasses.replace(change.after, uid=os.geteuid(), gid=os.getegid())
            os.replace(_write_beside(copy, own), copy)


def _without_secrets(text: str, plan: Plan) -> str:
    for change in plan.files:
        if not change.secret:
            continue
        for entry in (change.before, change.after):
            for line in entry.content.decode(errors="replace").splitlines():
                for part in (line.strip(), line.partition("=")[2].strip().strip("\"'")):
                    if len(part) >= 4:
                        text = text.replace(part, "(secret)")
    return text


# Names and texts


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _user_name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid).pw_name if uid is not None else "?"
    except KeyError:
        return str(uid)


def _group_name(gid: int | None) -> str:
    try:
        return grp.getgrgid(gid).gr_name if gid is not None else "?"
    except KeyError:
        return str(gid)


def _user_id(path: str, name: str, check_mode: bool) -> int | None:
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


def _group_id(path: str, name: str, check_mode: bool) -> int | None:
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


def _diff_header(path: str, entry: Entry) -> str:
    return f"{path} (absent)" if entry.kind == "absent" else f"{path} ({entry.attributes})"


def _diff_text(entry: Entry, secret: bool) -> str:
    if entry.kind == "absent":
        return ""
    if entry.kind == "directory":
        return "directory\n"
    if secret:
        return "(secret)\n"
    if entry.kind == "link":
        return f"link to {os.fsdecode(entry.content)}\n"
    try:
        text = entry.content.decode()
    except UnicodeDecodeError:
        return f"({len(entry.content)} bytes, not text, sha256 {_sha256(entry.content)})\n"
    return text if len(text) <= _LONGEST_DIFF else f"({len(entry.content)} bytes, sha256 {_sha256(entry.content)})\n"


def _diff_attributes(entry: Entry) -> str:
    return "" if entry.kind == "absent" else f"owner: {entry.owner}\ngroup: {entry.group}\nmode: {entry.mode:04o}\n"
