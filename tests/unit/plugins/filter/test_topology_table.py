# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter shows a table, or says what it wants."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.filter.topology_table import FilterModule
from ansible_collections.numapin.inference.plugins.module_utils._facts import gather
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path


def test_the_filter_shows_a_table(tmp_path: Path) -> None:
    show = FilterModule().filters()["topology_table"]
    table = show(gather(Host(str(trees.lay_out(tmp_path, trees.two_sockets()))), frozenset({"cpus"}), {}, GpuSources()))
    assert table.splitlines()[2] == "   0  cpu and memory  0            4  0-3            65536     61440     0"


def test_the_filter_says_what_it_wants() -> None:
    with pytest.raises(AnsibleFilterError, match=r"topology_table got 'x'; give it ansible_facts\['numa'\]"):
        FilterModule().filters()["topology_table"]("x")
