# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a set of files (``_files``) changes, for ``--diff``."""

from __future__ import annotations

import os

from ansible_collections.numapin.inference.plugins.module_utils._file_entries import Entry, sha256
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan

_LONGEST_DIFF = 100_000


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
        return f"({len(entry.content)} bytes, not text, sha256 {sha256(entry.content)})\n"
    return text if len(text) <= _LONGEST_DIFF else f"({len(entry.content)} bytes, sha256 {sha256(entry.content)})\n"


def _diff_attributes(entry: Entry) -> str:
    return "" if entry.kind == "absent" else f"owner: {entry.owner}\ngroup: {entry.group}\nmode: {entry.mode:04o}\n"
