# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import HugetlbError
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb_mount import (
    Mount,
    escape_path,
    read_mounts,
    refuse_what_cannot_be,
    unit_text,
)
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path

MOUNTINFO = r"""
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
31 24 0:27 / /dev/hugepages rw,nosuid,nodev,relatime shared:4 - hugetlbfs hugetlbfs rw,pagesize=2M
90 24 0:50 / /mnt/huge\0401g rw - hugetlbfs none rw,uid=5,gid=107,mode=770,pagesize=1024M,size=4294967296
91 24 0:51 / /srv rw - tmpfs tmpfs rw
"""
SYSTEMD = Mount("/dev/hugepages", 2048, None, 0, 0, 0o755)
SIZES = {2048, 1 << 20}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    trees.write(tmp_path / "proc/self/mountinfo", MOUNTINFO)
    return Host(str(tmp_path))


def test_mounts_are_read_with_the_defaults_that_the_kernel_leaves_out(host: Host) -> None:
    mounts = read_mounts(host)
    assert mounts["/dev/hugepages"].mount == SYSTEMD
    assert mounts["/mnt/huge 1g"].mount == Mount("/mnt/huge 1g", 1 << 20, 4 << 30, 5, 107, 0o770)
    assert (mounts["/srv"].kind, mounts["/srv"].mount) == ("tmpfs", None)


def test_what_is_there_and_the_same_is_used_as_it_is(host: Host) -> None:
    refuse_what_cannot_be(SYSTEMD, read_mounts(host), False, SIZES)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Mount("/srv", 2048, None, 0, 0, 0o755), "a file system of type tmpfs is mounted there"),
        (
            SYSTEMD._replace(size_kib=1 << 20),
            "somebody else mounted huge pages there (it is systemd's own, dev-hugepages",
        ),
        (Mount("/mnt/x", 4096, None, 0, 0, 0o755), "this kernel has no huge pages of 4M; it offers 2M, 1G"),
        (Mount("/mnt/x", 2048, 3 << 20, 0, 0, 0o755), "its limit of 3145728 bytes is no multiple of the page size 2M"),
        (Mount("mnt/../x", 2048, None, 0, 0, 0o755), "give a plain absolute path"),
    ],
)
def test_what_cannot_be_is_refused(host: Host, wanted: Mount, said: str) -> None:
    with pytest.raises(HugetlbError) as caught:
        refuse_what_cannot_be(wanted, read_mounts(host), False, SIZES)
    assert said in str(caught.value)


def test_the_unit_has_the_name_that_systemd_wants_and_all_options() -> None:
    mount = Mount("/mnt/huge-1g", 1 << 20, 1 << 30, 0, 107, 0o770)
    assert mount.unit == r"mnt-huge\x2d1g.mount"
    assert escape_path("/.x/a_b.c") == r"\x2ex-a_b.c"
    assert "Options=pagesize=1G,size=1073741824,uid=0,gid=107,mode=0770,nosuid,nodev\n" in unit_text(mount)
