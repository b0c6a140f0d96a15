# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Instances that are kept out of the balancers, remembered on their own host: since when, by whom, why.

``STATE/drained.json`` holds a record for each, ``STATE/previous/NAME.json`` the files an instance had before a rollout
changed them. Both are written before what they tell of happens, so that whoever comes after an interruption finds them.
A record with a ``rollout`` is that rollout's until it closes it; one ``by`` a person stays until a person ends it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import time
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import ABSENT, Entry, read_entry
from ansible_collections.numapin.inference.plugins.module_utils._file_write import put_durably
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY

PERSON, ROLLOUT = "person", "rollout"

_VERSION = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_FIELDS = ("since", "by", "reason", "rollout")

Record = dict[str, str]


class DrainedError(NumapinError):
    """Records that cannot be read or written, or files that cannot be put back."""


def records_path(state_directory: str = STATE_DIRECTORY) -> str:
    """Where the records are."""
    return os.path.join(state_directory, "drained.json")


def read_records(state_directory: str = STATE_DIRECTORY) -> dict[str, Record]:
    """The records by the names of the instances; none where none is drained."""
    path = records_path(state_directory)
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        if kept["version"] != _VERSION:
            raise ValueError(f"its format is {kept['version']!r}, known is {_VERSION}")
        return {str(name): {key: str(record[key]) for key in _FIELDS} for name, record in kept["instances"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DrainedError(
            f"{path} cannot be read: {error.strerror or error}; is this run as root (become)?"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DrainedError(
            f"{path}, which says what is drained on this host, is damaged ({error}): correct it, or remove it, and"
            " every instance that answers is balanced again"
        ) from error


class Drains:
    """The drained instances of this host, and the files they had. Nothing is written when ``check_mode`` is set."""

    def __init__(self, state_directory: str = STATE_DIRECTORY, *, check_mode: bool = False) -> None:
        self._state_directory = state_directory
        self._check_mode = check_mode
        self.records = read_records(state_directory)
        self.changed = False
        self.restored_files: list[str] = []

    def drain(self, names: t.Sequence[str], reason: str, now: t.Callable[[], float] = time.time) -> None:
        """A person takes instances out. What a rollout holds at the time stays the rollout's as well."""
        for name in _checked(names):
            before = self.records.get(name)
            if before and (before["by"], before["reason"]) == (PERSON, reason):
                continue
            rollout = before["rollout"] if before else ""
            self._set(name, {"since": _stamp(now()), "by": PERSON, "reason": reason, "rollout": rollout})
        self._write_records()

    def undrain(self, names: t.Sequence[str]) -> None:
        """A person lets instances back in. One that an unfinished rollout holds stays out until that is finished."""
        for name in _checked(names):
            before = self.records.get(name)
            if before and before["rollout"]:
                self._set(name, {**before, "by": ROLLOUT})
            else:
                self._set(name, None)
        self._write_records()

    def begin(
        self,
        names: t.Sequence[str],
        rollout: str,
        reason: str,
        files: t.Mapping[str, t.Sequence[str]],
        now: t.Callable[[], float] = time.time,
    ) -> None:
        """A rollout takes instances out; ``files`` are the paths of each that it may change, kept as they are now.

        What an earlier rollout kept and did not finish with is not overwritten: it is what last worked.
        """
        for name in _checked(names):
            before = self.records.get(name)
            if not (before and before["rollout"] and os.path.exists(self._kept_path(name))):
                self._keep(name, files.get(name, ()))
            kept = before or {"since": _stamp(now()), "by": ROLLOUT, "reason": reason}
            if not (before and before["rollout"]):
                self._set(name, {**kept, "rollout": rollout})
        self._write_records()

    def restore(self, names: t.Sequence[str]) -> None:
        """Put the files back that ``begin`` kept; they stay kept until ``close``."""
        for name in _checked(names):
            for path, wanted in self._read_kept(name):
                there = read_entry(path)
                if there == wanted:
                    continue
                self.changed = True
                self.restored_files.append(path)
                if not self._check_mode:
                    try:
                        put_durably(path, there, wanted)
                    except OSError as error:
                        raise DrainedError(
                            f"{path} could not be put back as it was: {error.strerror or error}; what it was is in"
                            f" {self._kept_path(name)}"
                        ) from error

    def close(self, names: t.Sequence[str]) -> None:
        """The rollout is done with these: forget what was kept, and the record unless a person drained it."""
        for name in _checked(names):
            path = self._kept_path(name)
            if os.path.exists(path):
                self.changed = True
                if not self._check_mode:
                    os.unlink(path)
                    with contextlib.suppress(OSError):
                        os.rmdir(os.path.dirname(path))
            before = self.records.get(name)
            if before:
                self._set(name, {**before, "rollout": ""} if before["by"] == PERSON else None)
        self._write_records()

    def _set(self, name: str, record: Record | None) -> None:
        if self.records.get(name) == record:
            return
        self.changed = True
        if record is None:
            del self.records[name]
        else:
            self.records[name] = record

    def _write_records(self) -> None:
        if self._check_mode or read_records(self._state_directory) == self.records:
            return
        path = records_path(self._state_directory)
        if not self.records:
            os.unlink(path)
            return
        # Read by everybody who may look at this host: no secret is in it.
        _write(path, json.dumps({"version": _VERSION, "instances": self.records}, indent=2, sort_keys=True), 0o644)

    def _kept_path(self, name: str) -> str:
        return os.path.join(self._state_directory, "previous", f"{name}.json")

    def _keep(self, name: str, paths: t.Sequence[str]) -> None:
        entries = [(path, read_entry(path)) for path in paths]
        for path, entry in entries:
            if entry.kind not in ("file", "absent"):
                raise DrainedError(f"{path} is no regular file: a rollout could not put it back as it is")
        kept = [
            {
                "path": path,
                "kind": entry.kind,
                "content": base64.b64encode(entry.content).decode(),
                "mode": entry.mode,
                "uid": entry.uid,
                "gid": entry.gid,
            }
            for path, entry in entries
        ]
        self.changed = True
        if not self._check_mode:
            _write(self._kept_path(name), json.dumps({"version": _VERSION, "files": kept}), 0o600)

    def _read_kept(self, name: str) -> list[tuple[str, Entry]]:
        path = self._kept_path(name)
        try:
            with open(path, encoding="utf-8") as file:
                kept = json.load(file)["files"]
            return [
                (
                    one["path"],
                    Entry(
                        one["kind"],
                        base64.b64decode(one["content"]),
                        int(one["mode"]),
                        int(one["uid"]),
                        int(one["gid"]),
                    )
                    if one["kind"] == "file"
                    else ABSENT,
                )
                for one in kept
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DrainedError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DrainedError(f"{path}, the previous files of {name}, is damaged ({error!r})") from error


def _checked(names: t.Sequence[str]) -> t.Sequence[str]:
    for name in names:
        if not _NAME.fullmatch(name):
            raise DrainedError(
                f"instance {name!r}: allowed are a-z, 0-9, '.', '_' and '-', the first a letter or digit"
            )
    return names


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _write(path: str, text: str, mode: int) -> None:
    """Whole and durable, or not at all."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700 if mode == 0o600 else 0o755, exist_ok=True)
        put_durably(path, ABSENT, Entry("file", (text + "\n").encode(), mode, os.geteuid(), os.getegid()))
    except OSError as error:
        raise DrainedError(
            f"{path} cannot be written: {error.strerror or error}; nothing is done without it"
        ) from error
