# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools and boot files as one state, over a kernel and a systemd that do what they are told below a directory."""

from __future__ import annotations

import os
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _hugetlb_boot, _hugetlb_mount, _hugetlb_state
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._done import Done
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import HugetlbError
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb_state import Hugepages, Wish
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
    """systemctl, which enables with links, and mounts unless ``broken``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.called: list[str] = []
        self.broken = False

    def __call__(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        self.called.append(" ".join(argv[1:]))
        units = [word for word in argv if word.endswith((".service", ".mount"))]
        for unit in units:
            link = self.root / "etc/systemd/system/sysinit.target.wants" / unit
            link.parent.mkdir(exist_ok=True)
            file = self.root / "etc/systemd/system" / unit
            if argv[1] in ("enable", "disable") and not file.exists():
                return Result(1, "", f"Unit file {unit} does not exist.")
            if argv[1] == "enable":
                link.unlink(missing_ok=True)
                link.symlink_to(f"../{unit}")
            elif argv[1] == "disable":
                link.unlink(missing_ok=True)
            if unit.endswith(".mount"):
                if argv[1] == "stop" or "--now" in argv or argv[1] == "restart":
                    self.unmount(unit)
                if argv[1] in ("restart", "start"):
                    if self.broken and argv[1] == "restart":
                        return Result(1, "", f"Job for {unit} failed.")
                    self.mount(file.read_text(encoding="utf-8"))
        return Result(0, "", "")

    def mount(self, unit: str) -> None:
        values = dict(line.partition("=")[::2] for line in unit.splitlines())
        with (self.root / "proc/self/mountinfo").open("a", encoding="utf-8") as file:
            file.write(f"40 24 0:40 / {values['Where']} rw - hugetlbfs none rw,{values['Options']}\n")

    def unmount(self, unit: str) -> None:
        mountinfo = self.root / "proc/self/mountinfo"
        lines = mountinfo.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _hugetlb_mount.unit_name(line.split()[4]) != unit]
        mountinfo.write_text("".join(kept), encoding="utf-8")


def a_mount(box: Box, path: str = "mnt/huge/2m") -> _hugetlb_mount.Mount:
    return _hugetlb_mount.Mount(f"{box.tree}/{path}", 2048, None, os.getuid(), os.getgid(), 0o750)


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


def test_a_group_that_somebody_else_sets_is_no_fight_where_none_is_wanted(box: Box, units: Units) -> None:
    trees.write(box.tree / "etc/sysctl.d/10-x.conf", "vm.hugetlb_shm_group = 5\n")
    assert run(box, units, Wish(pools=ON_BOTH)).warnings == []
    assert len(run(box, units, Wish(pools=ON_BOTH, shm_gid=107)).warnings) == 1


def test_without_systemd_nothing_is_begun(box: Box, units: Units) -> None:
    (box.tree / "run/systemd/system").rmdir()
    before = tree(box)
    with pytest.raises(HugetlbError, match=r"systemd does not run on this host"):
        run(box, units, Wish(pools=ON_BOTH))
    assert tree(box) == before
    assert run(box, units, Wish(pools=ON_BOTH, persistent=False)).changes.changed


def test_a_late_failure_undoes_everything_before_it(box: Box, units: Units) -> None:
    before = tree(box)
    units.broken = True
    with pytest.raises(HugetlbError) as caught:
        run(box, units, Wish(pools=ON_BOTH, shm_gid=107, mounts=[a_mount(box)]))
    assert "Job for " in str(caught.value)
    assert str(caught.value).endswith(" failed.; everything is as it was before")
    assert tree(box) == before
    assert not (box.tree / "mnt/huge").exists()


def test_a_changed_mount_that_fails_is_the_old_one_again(box: Box, units: Units) -> None:
    run(box, units, Wish(mounts=[a_mount(box)]))
    before = tree(box)
    units.broken = True
    with pytest.raises(HugetlbError, match="everything is as it was before"):
        run(box, units, Wish(pools=ON_BOTH, mounts=[a_mount(box)._replace(limit_bytes=4 << 20)]))
    assert tree(box) == before


def test_what_cannot_be_undone_is_said_and_stays_kept(box: Box, units: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    units.broken = True

    def stuck(_state: Hugepages, before: str, value: str) -> None:
        if value == "0":
            raise HugetlbError("vm.hugetlb_shm_group: the kernel refused 0")

    monkeypatch.setattr(Hugepages, "_set_shm_group", stuck)
    with pytest.raises(HugetlbError, match=r"could not be put back: vm\.hugetlb_shm_group: the kernel refused 0$"):
        run(box, units, Wish(pools=ON_BOTH, shm_gid=107, mounts=[a_mount(box)]))
    assert Snapshot("hugepages", str(box.tree / "state")).read()["vm.hugetlb_shm_group"] == "0"


def test_a_mount_and_its_missing_parent_come_and_go(box: Box, units: Units) -> None:
    before = tree(box)
    wish = Wish(mounts=[a_mount(box), a_mount(box, "mnt/huge/other")])
    foreseen = run(box, units, wish, check_mode=True)
    assert tree(box) == before
    done = run(box, units, wish)
    assert (done.changes.all(), done.files.changed_directories) == (
        foreseen.changes.all(),
        foreseen.files.changed_directories,
    )
    again = run(box, units, wish)
    assert not again.changes.changed
    assert not again.files.changed
    # As if in the mounted file system, which goes with it.
    (box.tree / "mnt/huge/2m/file").write_text("", encoding="utf-8")
    foreseen = run(box, units, Wish(), check_mode=True)
    assert not foreseen.warnings
    (box.tree / "mnt/huge/2m/file").unlink()
    run(box, units, Wish())
    assert tree(box) == before
    assert not (box.tree / "mnt/huge").exists()


def test_what_lies_below_the_unmounted_file_system_stays(box: Box, units: Units) -> None:
    run(box, units, Wish(mounts=[a_mount(box)]))
    (box.tree / "mnt/huge/2m/stranger").write_text("", encoding="utf-8")
    run(box, units, Wish())
    assert (box.tree / "mnt/huge/2m/stranger").exists()
    (box.tree / "mnt/huge/2m/stranger").unlink()
    run(box, units, Wish())
    assert not (box.tree / "mnt/huge").exists()


def test_a_unit_file_that_somebody_took_away_is_no_obstacle(box: Box, units: Units) -> None:
    before = tree(box)
    run(box, units, Wish(pools=ON_BOTH, mounts=[a_mount(box)]))
    for path in (box.tree / "etc/systemd/system").glob("*.*t*"):
        if path.is_file():
            path.unlink()
    for path in (box.tree / "etc/systemd/system").glob("*.service"):
        path.unlink()
    run(box, units, Wish())
    assert tree(box) == before


def test_a_mount_that_is_no_longer_persistent_is_not_mounted_at_boot(box: Box, units: Units) -> None:
    wish = Wish(mounts=[a_mount(box)])
    run(box, units, wish)
    (link,) = (box.tree / "etc/systemd/system/sysinit.target.wants").iterdir()
    assert run(box, units, wish._replace(persistent=False)).changes.changed
    assert not link.is_symlink()
    assert not run(box, units, wish._replace(persistent=False)).changes.changed
