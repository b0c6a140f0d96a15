# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a set of files (``_files``) has written down that it owns."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._file_entries import FilesError, read_entry

VERSION = 1
_FIELDS = {"files": {"sha256", "secret", "original"}, "directories": {"created", "before"}}


def read_manifest(path: str) -> dict[str, t.Any] | None:
    """What is in the file ``path``; ``None`` where there is none."""
    entry = read_entry(path)
    if entry.kind == "absent":
        return None
    try:
        manifest = json.loads(entry.content)
        if manifest["version"] != VERSION:
            raise FilesError(
                f"{path} was written by another version of this collection "
                f"(format {manifest['version']!r}, known is {VERSION})"
            )
        for kind, fields in _FIELDS.items():
            for owned, record in manifest[kind].items():
                if fields - record.keys():
                    raise ValueError(f"the record of {owned} lacks {', '.join(sorted(fields - record.keys()))}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FilesError(
            f"{path} is damaged ({error!r}): restore it from a backup, or remove it to forget what the set wrote"
        ) from error
    return t.cast("dict[str, t.Any]", manifest)


def union(before: dict[str, t.Any] | None, after: dict[str, t.Any] | None) -> dict[str, t.Any]:
    """What is owned before or after: nothing is forgotten while files are replaced."""
    both: dict[str, t.Any] = {"version": VERSION, "files": {}, "directories": {}}
    for manifest in (before, after):
        if manifest:
            both["name"] = manifest["name"]
            both["files"].update(manifest["files"])
            both["directories"].update(manifest["directories"])
    return both
