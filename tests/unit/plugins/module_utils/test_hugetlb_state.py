# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools and boot files as one state, over a kernel and a systemd that do what they are told below a directory."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _hugetlb_boot, _hugetlb_mount, _hugetlb_state
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import HugetlbError
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb_state import Done, Hugepages, Wish
from ansible_collections.numapin.inference.plugins.module_utils._snapshot import Snapshot
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.hugepage_kernel import Kernel

if t.TYPE_CHECKING:
    from pathlib import Path

ON_BOTH = [{"size": "2M", "nodes": [{"node": 0, "pages": 64}, {"node": 1, "pages": 32}]}]
MOUNTINFO = "31 24 0:27 / /dev/hugepages rw shared:4 - hugetlbfs hugetlbfs rw,pagesize=2M\n"


class Box(Kernel):
    """The files that are written lie below the root as well, and are given with it."""

    def read_text(self, path: str, limit_bytes: int = 1 << 20) -> str | None:
        return super().read_text(path.removeprefix(self.root), limit_bytes)

    def exists(self, path: str) -> bool:
        return super().exists(path.removeprefix(self.root))

    def readlink(self, path: str) -> str | None:
        return super().readlink(path.removeprefix(self.root))


class Units:
    """systemctl, which enables with links."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.called: list[str] = []

    def __call__(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        self.called.append(" ".join(argv[1:]))
        units = [word for word in argv if word.endswith((".service", ".mount"))]
        for unit in units:
            link = self.root / "etc/systemd/system/sysinit.target.wants" / unit
            link.parent.mkdir(exist_ok=True)
            if argv[1] == "enable":
                link.symlink_to(f"../{unit}")
            elif argv[1] == "disable":
                link.unlink()
        return Result(0, "", "")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    box = Box(tmp_path, {0: 10**6, 1: 10**6, 2: 10**6})
    trees.write(tmp_path / "proc/self/mountinfo", MOUNTINFO)
    for directory in ("etc/systemd/system", "run/systemd/system", "usr/local/lib", "mnt"):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(_hugetlb_boot, "CONFIG_PATH", f"{tmp_path}/etc/numapin/hugepages.json")
    monkeypatch.setattr(_hugetlb_mount, "UNIT_DIRECTORY", f"{tmp_path}/etc/systemd/system")
    monkeypatch.setattr(_hugetlb_state, "PROGRAM_DIRECTORY", f"{tmp_path}/usr/local/lib/numapin")
    monkeypatch.setattr(_hugetlb_state, "_PROGRAM", f"{tmp_path}/usr/local/lib/numapin/hugepages.pyz")
    monkeypatch.setattr(_hugetlb_state, "_WANTS", f"{tmp_path}/etc/systemd/system/sysinit.target.wants")
    return box


@pytest.fixture
def units(tmp_path: Path) -> Units:
    return Units(tmp_path)


def run(box: Box, units: Units, wish: Wish, *, check_mode: bool = False) -> Done:
    state = Hugepages(box, Systemd(units), check_mode=check_mode)
    state._snapshot = Snapshot("hugepages", str(box.tree / "state"))
    state._files = FileSet("hugepages", str(box.tree / "state"))
    return state.converge(wish)


def tree(box: Box) -> dict[str, str]:
    paths = [path for path in sorted(box.tree.rglob("*")) if path.name not in ("compact", "sysinit.target.wants")]
    return {
        str(path): f"link to {path.readlink()}" if path.is_symlink() else path.read_bytes().decode("latin-1")
        for path in paths
        if path.is_symlink() or path.is_file()
    }


def test_check_then_apply_then_again_then_restored(box: Box, units: Units) -> None:
    box.put(0, total=8, free=8)
    before = tree(box)
    wish = Wish(pools=ON_BOTH, shm_gid=107, floor_mib=64)
    foreseen = run(box, units, wish, check_mode=True)
    assert (tree(box), units.called) == (before, [])
    done = run(box, units, wish)
    assert (done.result, done.changes.all()) == (foreseen.result, foreseen.changes.all())
    assert done.changes.diff("")["before"].splitlines() == [
        "2M on node 0               8 pages",
        "2M on node 1               0 pages",
        "vm.hugetlb_shm_group       0",
    ]
    assert units.called == ["daemon-reload", "enable -- numapin-hugepages.service"]
    assert (box.pages(0), box.pages(1)) == (64, 32)
    after = tree(box)
    again = run(box, units, wish)
    assert not again.changes.changed
    assert not again.files.changed
    assert tree(box) == after
    run(box, units, Wish())
    assert units.called[2:] == ["disable --now -- numapin-hugepages.service", "daemon-reload"]
    assert tree(box) == before


def test_a_unit_that_somebody_disabled_is_enabled_again(box: Box, units: Units) -> None:
    wish = Wish(pools=ON_BOTH)
    run(box, units, wish)
    (box.tree / "etc/systemd/system/sysinit.target.wants/numapin-hugepages.service").unlink()
    assert run(box, units, wish, check_mode=True).changes.changed
    assert run(box, units, wish).changes.changed
    assert not run(box, units, wish).changes.changed


def test_a_shortfall_rolls_everything_back(box: Box, units: Units) -> None:
    box.grants[1] = 10
    before = tree(box)
    with pytest.raises(HugetlbError) as caught:
        run(box, units, Wish(pools=ON_BOTH))
    assert "node 1: asked for 32 pages of 2M, got 10 (" in str(caught.value)
    assert str(caught.value).endswith("; the pools are as they were before")
    assert (tree(box), units.called) == (before, [])


def test_fail_leaves_what_was_got_and_warn_goes_on(box: Box, units: Units) -> None:
    box.grants[1] = 10
    with pytest.raises(HugetlbError, match=r"what was got is left \(on_shortfall: fail\)"):
        run(box, units, Wish(pools=ON_BOTH, on_shortfall="fail"))
    assert (box.pages(0), box.pages(1), units.called) == (64, 10, [])
    done = run(box, units, Wish(pools=ON_BOTH, on_shortfall="warn"))
    assert [pool["got"] for pool in done.result["pools"]] == [64, 10]
    assert "node 1: asked for 32 pages of 2M, got 10" in done.warnings[0]
    # The boot tries for all of them, and a later run says that it did not get them.
    again = run(box, units, Wish(pools=ON_BOTH, on_shortfall="warn"))
    assert (again.changes.changed, again.result["drift"]) == (
        False,
        ["2M on node 1: 32 pages at boot, 10 pages now"],
    )
    run(box, units, Wish())
    assert (box.pages(0), box.pages(1)) == (0, 0)


def test_a_pool_that_is_no_longer_asked_for_goes_back_to_the_first_original(box: Box, units: Units) -> None:
    box.put(1, total=5, free=5)
    run(box, units, Wish(pools=ON_BOTH))
    run(box, units, Wish(pools=[{"size": "2M", "nodes": [{"node": 1, "pages": 9}]}]))
    assert (box.pages(0), box.pages(1)) == (0, 9)
    run(box, units, Wish())
    assert box.pages(1) == 5


def test_competitors_are_named(box: Box, units: Units) -> None:
    trees.write(box.tree / "etc/sysctl.d/10-x.conf", "vm.nr_hugepages = 512\n")
    done = run(box, units, Wish(pools=ON_BOTH))
    (warning,) = done.warnings
    assert warning.startswith("/etc/sysctl.d/10-x.conf line 1 sets vm.nr_hugepages = 512: it fights what is set here")


def test_without_systemd_nothing_is_begun(box: Box, units: Units) -> None:
    (box.tree / "run/systemd/system").rmdir()
    before = tree(box)
    with pytest.raises(HugetlbError, match=r"systemd does not run on this host"):
        run(box, units, Wish(pools=ON_BOTH))
    assert tree(box) == before
    assert run(box, units, Wish(pools=ON_BOTH, persistent=False)).changes.changed
