# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a module that changes values and files of a host hands back."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._changes import Changes
from ansible_collections.numapin.inference.plugins.module_utils._file_diff import diff
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan


class Done(t.NamedTuple):
    """``files`` is the plan of the files beside the kernel's values."""

    changes: Changes
    files: Plan
    result: dict[str, t.Any]
    warnings: list[str]

    def answer(self, subject: str, with_diff: bool) -> dict[str, t.Any]:
        """The module's result; ``subject`` is what the diff calls the values."""
        answer = {"changed": self.changes.changed or self.files.changed, **self.result}
        if with_diff:
            answer["diff"] = [self.changes.diff(subject), *diff(self.files)]
        return answer
