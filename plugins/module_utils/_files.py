# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""A named set of files, treated as one: read, plan, stage and validate, write, read back, or nothing at all.

``plan`` only reads. ``validate`` works on a private copy. ``apply`` writes every new content beside its destination
first, so that a full disk is met before anything is replaced, then renames; when a step fails, what was done is undone.

What a set owns is kept in ``STATE/files/NAME.json``, the files it replaced in ``STATE/originals/NAME/``. Both are
written before the first replacement: a run killed half-way never takes its own file for somebody's original.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _file_manifest
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import (
    ABSENT,
    Entry,
    FilesError,
    WantedDirectory,
    WantedFile,
    group_name,
    read_entry,
    sha256,
    user_name,
)
from ansible_collections.numapin.inference.plugins.module_utils._file_manifest import read_manifest, union
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import (
    Change,
    Plan,
    plan_directories,
    refuse_unclear_paths,
    refuse_what_is_not_a_file,
    require_parent,
    wanted_entry,
)
from ansible_collections.numapin.inference.plugins.module_utils._file_write import (
    found_at,
    put,
    read_back,
    remove_empty,
    remove_leftovers,
    sync_directory,
    write_beside,
)

STATE_DIRECTORY = "/var/lib/numapin"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


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
        manifest = read_manifest(self.manifest_path)
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
        ``keep`` are paths that an earlier run of this set wrote, and that stay as they are in this one: also where
        something else has changed them since, such as a rollout that put previous files back.
        """
        both = sorted(set(keep) & {entry.path for entry in files})
        if both:
            raise FilesError(f"{', '.join(both)} cannot be written and kept as it is at the same time")
        refuse_unclear_paths([*(entry.path for entry in files), *(entry.path for entry in directories)])
        manifest = read_manifest(self.manifest_path)
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
            refuse_what_is_not_a_file(file.path, before, ours=file.path in owned_files)
            if not check_mode:
                require_parent(file.path, coming)
            after = wanted_entry("file", file, before, file.content, check_mode)
            secret = file.secret or bool(owned_files.get(file.path, {}).get("secret"))
            if before != after:
                file_changes.append(Change(file.path, before, after, secret))
            original = owned_files.get(file.path, {}).get("original")
            if file.path not in owned_files and before.kind == "file":
                kept = self.originals_directory + file.path
                taken_over.append((kept, before))
                original = {"kept": kept, "mode": f"{before.mode:04o}", "uid": before.uid, "gid": before.gid}
            records[file.path] = {"sha256": sha256(file.content), "secret": file.secret, "original": original}

        removed: list[str] = []
        for path in keep:
            if path in owned_files:
                found = {"sha256": sha256(now[path].content)} if now[path].kind == "file" else {}
                records[path] = {**owned_files[path], **found}
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
            if now[path].kind != "file" or sha256(now[path].content) != record["sha256"]
        ]
        directory_changes, removed_directories, directory_records, warnings = plan_directories(
            directories,
            owned_directories,
            {change.path for change in file_changes if change.after == ABSENT},
            check_mode,
            covered,
        )
        after_manifest = {
            "version": _file_manifest.VERSION,
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
        return Entry("file", kept.content, int(original["mode"], 8), uid, gid, user_name(uid), group_name(gid))

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
            manifest = read_manifest(os.path.join(self.manifest_directory, other))
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
                remove_leftovers(directory)
            for change in plan.directories:
                at = change.path
                done.append(change)  # before, because making one and giving it its owner are two steps
                put(change)
            for change in plan.files:
                at = change.path
                if change.after.kind == "file":
                    waiting[at] = write_beside(at, change.after)
            at = self.manifest_path
            self._keep_originals(plan.taken_over)
            self._write_manifest(union(plan.manifest_before, plan.manifest_after))
            for change in plan.files:
                at = change.path
                if change.after.kind == "file":
                    os.replace(waiting[at], at)
                    del waiting[at]
                else:
                    put(change)
                done.append(change)
            for change in plan.removed_directories:
                at = change.path
                put(change)
                done.append(change)
            for directory in sorted({os.path.dirname(change.path) for change in plan.files}):
                at = directory
                sync_directory(directory)
            for change in done:
                at = change.path
                read_back(change)
            at = self.manifest_path
            self._write_manifest(plan.manifest_after)
        except (OSError, FilesError) as error:
            for temporary in waiting.values():
                # The error that counts is the first; what is left here goes with the next run (remove_leftovers).
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
                if found_at(change, change.before) != change.before:
                    put(Change(change.path, change.after, change.before))
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
            os.replace(write_beside(kept, original), kept)

    def _forget_originals(self, plan: Plan) -> None:
        """Remove the originals that were put back, and directories of ours that are empty now."""
        records = plan.manifest_before["files"] if plan.manifest_before else {}
        originals = (records[path]["original"] for path in plan.removed_files)
        self._remove_originals(original["kept"] for original in originals if original)
        self._remove_empty_state(plan.manifest_after)

    def _remove_originals(self, kept_paths: t.Iterable[str]) -> None:
        for kept in kept_paths:
            # It is where it belongs; a copy that stays here is nobody's original any more.
            with contextlib.suppress(OSError):
                os.unlink(kept)
            remove_empty(os.path.dirname(kept), self.state_directory)

    def _remove_empty_state(self, manifest: dict[str, t.Any] | None) -> None:
        if manifest is None:
            remove_empty(self.manifest_directory, self.state_directory)
            # It stays as long as another set or module keeps something there.
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
        os.replace(write_beside(self.manifest_path, entry), self.manifest_path)
        sync_directory(self.manifest_directory)
