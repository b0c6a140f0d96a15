# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import HugetlbError
from ansible_collections.numapin.inference.plugins.modules import hugepages

PARAMETERS: dict[str, t.Any] = {
    "state": "present",
    "pools": [],
    "minimum_available_mib": 1024,
    "on_shortfall": "rollback",
    "drop_caches": False,
    "force": False,
    "shm_group": None,
    "mounts": [],
    "persistent": True,
}


@pytest.mark.parametrize(("state", "floor_mib"), [("present", 1024), ("restored", 0)])
def test_the_floor_is_for_what_is_new(state: str, floor_mib: int) -> None:
    assert hugepages.wish(PARAMETERS | {"state": state}).floor_mib == floor_mib


def test_a_group_that_an_earlier_task_would_have_made_is_foreseen() -> None:
    mount = {"path": "/mnt/x", "size": "2M", "limit": None, "owner": "root", "group": "no-such-group", "mode": "0770"}
    for given in ({"mounts": [mount]}, {"shm_group": "no-such-group"}):
        assert hugepages.foresees_somebody(hugepages.wish(PARAMETERS | given, check_mode=True))
        with pytest.raises(HugetlbError, match=r"'no-such-group' is not a group of this host: make it first"):
            hugepages.wish(PARAMETERS | given)
    assert not hugepages.foresees_somebody(hugepages.wish(PARAMETERS | {"shm_group": "0"}, check_mode=True))
