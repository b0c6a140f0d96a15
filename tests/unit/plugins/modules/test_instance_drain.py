# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module takes for files to keep."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._drained import DrainedError
from ansible_collections.numapin.inference.plugins.modules.instance_drain import kept_files


def test_lists_of_absolute_paths() -> None:
    given = {"tiny-n0": ["/etc/vllm/tiny-n0.yaml"], "tiny-n1": []}
    assert kept_files(given) == given


# Found by tests/fuzz/module_arguments.py: these were tracebacks.
@pytest.mark.parametrize("paths", [5, None, "/etc/x", {}, [["/etc/x"]], [None]])
def test_what_is_no_list_of_paths(paths: t.Any) -> None:
    with pytest.raises(DrainedError, match=r"for tiny-n0: give a list of absolute paths for each instance"):
        kept_files({"tiny-n0": paths})


def test_a_relative_path() -> None:
    with pytest.raises(DrainedError, match=r"keep_files has etc/x: paths must be absolute"):
        kept_files({"tiny-n0": ["etc/x", "/etc/y"]})
