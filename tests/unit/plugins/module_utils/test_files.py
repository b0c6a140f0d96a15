# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A set of files: all of it or nothing, and back again. Real directories below tmp_path throughout."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _commands
from ansible_collections.numapin.inference.plugins.module_utils._file_diff import diff
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import (
    FilesError,
    WantedDirectory,
    WantedFile,
    parse_mode,
)
from ansible_collections.numapin.inference.plugins.module_utils._file_manifest import union
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan
from ansible_collections.numapin.inference.plugins.module_utils._file_stage import validate
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet


def file_set(tmp_path: Path, name: str = "one") -> FileSet:
    return FileSet(name, str(tmp_path / "state"))


def text(path: Path, content: str, mode: int = 0o644, **more: t.Any) -> WantedFile:
    return WantedFile(str(path), content.encode(), mode, **more)


def directory(path: Path, mode: int = 0o755) -> WantedDirectory:
    return WantedDirectory(str(path), mode)


def snapshot(root: Path) -> dict[str, tuple[int, bytes | None]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(root.rglob("*"))
    }


def put(files: FileSet, wanted: list[WantedFile], directories: t.Sequence[WantedDirectory] = ()) -> Plan:
    plan = files.plan(wanted, directories)
    files.apply(plan)
    return plan


def test_first_run_writes_second_changes_nothing(tmp_path: Path) -> None:
    wanted = [text(tmp_path / "etc" / "a", "1\n", 0o640), text(tmp_path / "etc" / "deep" / "b", "2\n")]
    directories = [directory(tmp_path / "etc" / "deep"), directory(tmp_path / "etc", 0o750)]

    planned = file_set(tmp_path).plan(wanted, directories, check_mode=True)
    assert snapshot(tmp_path) == {}, "a plan writes nothing"
    first = put(file_set(tmp_path), wanted, directories)
    assert planned == first
    assert first.changed_files == [str(tmp_path / "etc" / "a"), str(tmp_path / "etc" / "deep" / "b")]
    assert first.changed_directories == [str(tmp_path / "etc"), str(tmp_path / "etc" / "deep")]
    assert (tmp_path / "etc" / "a").read_text() == "1\n"
    assert (tmp_path / "etc" / "a").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "etc").stat().st_mode & 0o7777 == 0o750

    after = snapshot(tmp_path)
    assert not [name for name in after if name.endswith(".tmp")]
    second = put(file_set(tmp_path), wanted, directories)
    assert not second.changed
    assert snapshot(tmp_path) == after


def test_mode_alone_is_a_change(tmp_path: Path) -> None:
    put(file_set(tmp_path), [text(tmp_path / "a", "1\n", 0o644)])
    plan = put(file_set(tmp_path), [text(tmp_path / "a", "1\n", 0o600)])
    assert plan.changed_files == [str(tmp_path / "a")]
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o600
    assert "mode: 0644" in diff(plan)[0]["before"]
    assert "mode: 0600" in diff(plan)[0]["after"]


def test_absent_puts_everything_back(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("theirs\n")
    (tmp_path / "old").chmod(0o604)
    (tmp_path / "dir").mkdir(mode=0o711)
    (tmp_path / "dir").chmod(0o711)
    before = snapshot(tmp_path)
    wanted = [text(tmp_path / "old", "ours\n"), text(tmp_path / "new" / "x", "ours\n")]
    put(file_set(tmp_path), wanted, [directory(tmp_path / "new"), directory(tmp_path / "dir", 0o755)])
    put(file_set(tmp_path), [text(tmp_path / "old", "ours again\n"), *wanted[1:]], [directory(tmp_path / "new")])
    assert (tmp_path / "old").read_text() == "ours again\n"

    plan = put(file_set(tmp_path), [])
    assert sorted(plan.removed_files) == [str(tmp_path / "new" / "x"), str(tmp_path / "old")]
    assert snapshot(tmp_path) == before
    assert not put(file_set(tmp_path), []).changed


def test_no_longer_listed_is_removed_and_a_strangers_file_keeps_the_directory(tmp_path: Path) -> None:
    wanted = [text(tmp_path / "d" / "a", "1"), text(tmp_path / "e" / "b", "2")]
    put(file_set(tmp_path), wanted, [directory(tmp_path / "d"), directory(tmp_path / "e")])
    (tmp_path / "e" / "stranger").write_text("")
    plan = put(file_set(tmp_path), [text(tmp_path / "c", "3")])
    assert plan.removed_files == (str(tmp_path / "d" / "a"), str(tmp_path / "e" / "b"))
    assert not (tmp_path / "d").exists()
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["stranger"]
    assert plan.warnings == (f"{tmp_path}/e is no longer wanted, but stays: it holds stranger",)
    assert not file_set(tmp_path).plan([text(tmp_path / "c", "3")]).changed


def test_what_is_kept_stays_as_it_is_and_belongs_to_the_set(tmp_path: Path) -> None:
    keep = tmp_path / "b"
    put(file_set(tmp_path), [text(tmp_path / "a", "1"), text(keep, "1", 0o600)])
    kept = file_set(tmp_path).plan([text(tmp_path / "a", "2")], keep=[str(keep), str(tmp_path / "nobody's")])
    file_set(tmp_path).apply(kept)
    assert (kept.changed_files, kept.removed_files) == ([str(tmp_path / "a")], ())
    assert keep.read_text(encoding="utf-8") == "1"
    assert file_set(tmp_path).plan([text(tmp_path / "a", "2")]).removed_files == (str(keep),)
    with pytest.raises(FilesError, match="cannot be written and kept as it is at the same time"):
        file_set(tmp_path).plan([text(keep, "2")], keep=[str(keep)])


def test_what_is_kept_is_recorded_as_it_is_found(tmp_path: Path) -> None:
    """A rollout that failed puts previous files back; the next run that wants these has nothing to do."""
    keep = text(tmp_path / "b", "previous")
    put(file_set(tmp_path), [text(tmp_path / "a", "1"), text(tmp_path / "b", "broken")])
    (tmp_path / "b").write_text("previous")
    file_set(tmp_path).apply(file_set(tmp_path).plan([text(tmp_path / "a", "1")], keep=[keep.path]))
    again = file_set(tmp_path).plan([text(tmp_path / "a", "1"), keep])
    assert (again.changed, again.drifted_files) == (False, ())


def test_a_directory_that_had_to_stay_goes_with_a_later_run(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    put(file_set(tmp_path), [text(tmp_path / "e" / "b", "2")], [directory(tmp_path / "e")])
    (tmp_path / "e" / "stranger").write_text("")
    assert put(file_set(tmp_path), []).warnings
    assert not file_set(tmp_path).plan([]).changed
    (tmp_path / "e" / "stranger").unlink()
    assert put(file_set(tmp_path), []).changed
    assert snapshot(tmp_path) == before


def test_an_applied_plan_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("original")
    put(file_set(tmp_path), [text(tmp_path / "a", "1"), text(tmp_path / "d" / "b", "1")], [directory(tmp_path / "d")])
    before = snapshot(tmp_path)
    for wanted in ([text(tmp_path / "a", "2"), text(tmp_path / "c", "2")], []):
        plan = put(file_set(tmp_path), wanted)
        assert snapshot(tmp_path) != before
        file_set(tmp_path).undo(plan)
        assert snapshot(tmp_path) == before


def test_what_a_directory_holds_under_a_mount_is_not_its_own(tmp_path: Path) -> None:
    put(file_set(tmp_path), [], [directory(tmp_path / "d")])
    (tmp_path / "d" / "of the mount").write_text("")
    assert not file_set(tmp_path).plan([]).removed_directories
    (change,) = file_set(tmp_path).plan([], covered=[str(tmp_path / "d")]).removed_directories
    assert change.path == str(tmp_path / "d")


def test_drift_is_told_from_change(tmp_path: Path) -> None:
    put(file_set(tmp_path), [text(tmp_path / "a", "1"), text(tmp_path / "b", "1")])
    (tmp_path / "a").write_text("edited")
    plan = file_set(tmp_path).plan([text(tmp_path / "a", "1"), text(tmp_path / "b", "2")])
    assert plan.drifted_files == (str(tmp_path / "a"),)
    assert plan.changed_files == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_failure_half_way_puts_everything_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("theirs")
    files = file_set(tmp_path)
    plan = files.plan(
        [text(tmp_path / "a", "ours"), text(tmp_path / "d" / "b", "ours"), text(tmp_path / "z", "ours")],
        [directory(tmp_path / "d")],
    )
    # A directory appears where the last file goes, after the plan was made: its rename must fail.
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "x").write_text("")
    before = snapshot(tmp_path)
    with pytest.raises(FilesError) as raised:
        files.apply(plan)
    assert str(raised.value) == f"{tmp_path}/z: Is a directory; everything is as it was before"
    assert (tmp_path / "a").read_text() == "theirs"
    assert not (tmp_path / "d").exists()
    assert snapshot(tmp_path) == before


def test_unwritable_directory_is_met_before_anything_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("theirs")
    files = file_set(tmp_path)
    (tmp_path / "gone").mkdir()
    plan = files.plan([text(tmp_path / "a", "ours"), text(tmp_path / "gone" / "b", "ours")])
    (tmp_path / "gone").rmdir()
    inode = (tmp_path / "a").stat().st_ino
    before = snapshot(tmp_path)
    with pytest.raises(FilesError) as raised:
        files.apply(plan)
    assert str(raised.value) == f"{tmp_path}/gone/b: No such file or directory; everything is as it was before"
    assert (tmp_path / "a").stat().st_ino == inode
    assert snapshot(tmp_path) == before


def test_a_run_killed_half_way_keeps_the_original(tmp_path: Path) -> None:
    """The manifest and the original are there before the first file is replaced."""
    (tmp_path / "a").write_text("theirs")
    files = file_set(tmp_path)
    plan = files.plan([text(tmp_path / "a", "ours")])
    files._keep_originals(plan.taken_over)
    files._write_manifest(union(plan.manifest_before, plan.manifest_after))
    (tmp_path / "a").write_text("ours")  # ... and killed here
    assert not put(file_set(tmp_path), [text(tmp_path / "a", "ours")]).changed
    put(file_set(tmp_path), [])
    assert (tmp_path / "a").read_text() == "theirs"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etc/a", "path 'etc/a' is not absolute: it must begin with /"),
        ("/etc/../a", "path '/etc/../a' is not plain"),
        ("/etc/a/", "path '/etc/a/' is not plain"),
        ("/", "path '/' is not plain"),
    ],
)
def test_unclear_paths_are_refused(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(FilesError) as raised:
        file_set(tmp_path).plan([WantedFile(path, b"", 0o644)])
    assert str(raised.value).startswith(message)


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    for wanted, message in (
        (
            [text(tmp_path / "link", "")],
            f"{tmp_path}/link is a symbolic link (to elsewhere) that this set did not write",
        ),
        ([text(tmp_path / "dir", "")], f"{tmp_path}/dir is a directory, a regular file is wanted there"),
        ([text(tmp_path / "no" / "a", "")], f"{tmp_path}/no/a: its directory {tmp_path}/no does not exist"),
        ([text(tmp_path / "file" / "a", "")], f"{tmp_path}/file/a: one of its parents is not a directory"),
        ([text(tmp_path / "a", "1"), text(tmp_path / "a", "2")], f"{tmp_path}/a is given twice"),
        ([text(tmp_path / "a", "", owner="nobody-here")], f"{tmp_path}/a: its owner 'nobody-here' is not a user"),
        ([text(tmp_path / "a", "", group="nobody-here")], f"{tmp_path}/a: its group 'nobody-here' is not a group"),
    ):
        with pytest.raises(FilesError) as raised:
            file_set(tmp_path).plan(wanted)
        assert str(raised.value).startswith(message)


def test_our_file_that_became_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    put(file_set(tmp_path), [text(tmp_path / "a", "ours")])
    (tmp_path / "a").unlink()
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "a").symlink_to(tmp_path / "target")
    put(file_set(tmp_path), [text(tmp_path / "a", "ours")])
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "target").read_text() == "theirs"


def test_check_mode_accepts_what_an_earlier_task_would_have_made(tmp_path: Path) -> None:
    plan = file_set(tmp_path).plan([text(tmp_path / "no" / "a", "1", owner="nobody-here")], check_mode=True)
    assert plan.changed_files == [f"{tmp_path}/no/a"]
    assert diff(plan)[0]["after_header"].startswith(f"{tmp_path}/no/a (nobody-here:")


def test_a_file_is_in_one_set_only(tmp_path: Path) -> None:
    put(file_set(tmp_path, "one"), [text(tmp_path / "a", "1")])
    with pytest.raises(FilesError, match="belongs to the set 'one' and cannot be in 'two' as well"):
        file_set(tmp_path, "two").plan([text(tmp_path / "a", "1")])


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "files": {"/a": 3}, "directories": {}}',
        '{"version": 1, "files": {"/a": {}}, "directories": {}}',
    ],
)
def test_damaged_manifest_is_an_error_not_a_traceback(tmp_path: Path, damage: str) -> None:
    (tmp_path / "state" / "files").mkdir(parents=True)
    (tmp_path / "state" / "files" / "one.json").write_text(damage)
    with pytest.raises(FilesError, match=r"one\.json is damaged"):
        file_set(tmp_path).plan([])


@pytest.mark.parametrize("mode", ["420", "644", "0o644", "u=rw", "0888", "00644", ""])
def test_modes_that_are_not_four_octal_digits(mode: str) -> None:
    with pytest.raises(FilesError, match="is not four octal digits"):
        parse_mode("/a", mode)


def test_secrets_are_neither_in_diff_nor_manifest_nor_repr(tmp_path: Path) -> None:
    plans = []
    for content in ("KEY=hunter22\n", "KEY=hunter33\n"):
        plan = put(file_set(tmp_path), [text(tmp_path / "k", content, 0o600, secret=True)])
        shown = json.dumps(diff(plan)) + repr(plan)
        assert "hunter" not in shown
        assert "(secret)" in diff(plan)[0]["after"]
        plans.append(plan)
    assert diff(plans[-1])[0]["before"] != diff(plans[-1])[0]["after"], "a change of a secret is visible as a change"
    manifest = tmp_path / "state" / "files" / "one.json"
    assert "hunter" not in manifest.read_text()
    assert manifest.stat().st_mode & 0o777 == 0o600
    # Given up as a secret, its old content is still one.
    plan = put(file_set(tmp_path), [text(tmp_path / "k", "public\n", 0o600)])
    assert "hunter" not in json.dumps(diff(plan))


class Validator:
    """Looks at the staged tree as the real command would, and returns what it is told to."""

    def __init__(self, rc: int = 0, output: str = "") -> None:
        self.rc, self.output = rc, output
        self.argv: list[str] = []
        self.tree: dict[str, tuple[int, bytes | None]] = {}
        self.root_mode = 0

    def __call__(self, argv: t.Sequence[str], timeout_seconds: float) -> _commands.Result:
        self.argv = list(argv)
        tree = Path(argv[-1])
        self.root_mode = tree.stat().st_mode & 0o7777
        self.tree = snapshot(tree)
        return _commands.Result(self.rc, "", self.output.replace("TREE", str(tree)))


def staged(tmp_path: Path) -> Path:
    stage = tmp_path / "nginx"
    (stage / "conf.d").mkdir(parents=True)
    (stage / "nginx.conf").write_text("old")
    (stage / "mime.types").write_text("types")
    (stage / "key.pem").write_text("private")
    (stage / "key.pem").chmod(0o600)
    (stage / "enabled").symlink_to(stage / "conf.d")
    (stage / "conf.d" / "old.conf").write_text("old")
    (tmp_path / "tmp").mkdir()
    return stage


def test_validate_sees_the_whole_new_tree_and_nothing_else_changes(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    put(file_set(tmp_path), [text(stage / "conf.d" / "gone.conf", "x")])
    before = snapshot(tmp_path)
    plan = file_set(tmp_path).plan([text(stage / "nginx.conf", "new"), text(stage / "more.conf", "new", 0o600)])
    validator = Validator()
    assert validate(plan, str(stage), "true -t %s", str(tmp_path / "tmp"), run=validator) is None
    assert validator.argv[:2] == ["true", "-t"]
    assert validator.root_mode == 0o700
    assert {name: what[1] for name, what in validator.tree.items() if what[1] is not None} == {
        "nginx.conf": b"new",
        "more.conf": b"new",
        "mime.types": b"types",
        "key.pem": b"private",
        "conf.d/old.conf": b"old",
    }
    assert validator.tree["key.pem"][0] & 0o7777 == 0o600
    assert snapshot(tmp_path) == before, "the staged copy is gone, everything else as it was"


def test_failing_validate_says_why_and_hides_secrets(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    plan = file_set(tmp_path).plan([text(stage / "key.conf", "key=hunter22;\n", secret=True)])
    validator = Validator(1, 'unknown "hunter22;" in TREE/key.conf:1')
    with pytest.raises(FilesError) as raised:
        validate(plan, str(stage), "true %s", str(tmp_path / "tmp"), run=validator)
    assert str(raised.value) == (
        "the new files are not valid, nothing was changed. "
        f'true {stage} returned 1:\nunknown "(secret)" in {stage}/key.conf:1'
    )


def test_validate_is_bounded(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    plan = file_set(tmp_path).plan([text(stage / "a", "1")])
    with pytest.raises(FilesError, match=r"did not end within 0\.2 seconds and was killed; nothing was changed"):
        validate(plan, str(stage), "sh -c 'sleep 30' %s", str(tmp_path / "tmp"), timeout_seconds=0.2)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_validate_without_its_command(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    plan = file_set(tmp_path).plan([text(stage / "a", "1")])
    arguments = (plan, str(stage), "no-such-command-here -t %s", str(tmp_path / "tmp"))
    assert validate(*arguments, check_mode=True) == "not validated: no-such-command-here is not installed yet"
    with pytest.raises(FilesError, match="'no-such-command-here' is not on this host; nothing was changed"):
        validate(*arguments)


@pytest.mark.parametrize("command", ["true", "", "true '%s"])
def test_validate_commands_that_cannot_be(tmp_path: Path, command: str) -> None:
    with pytest.raises(FilesError, match="validate: "):
        validate(file_set(tmp_path).plan([]), str(tmp_path), command, str(tmp_path))


def test_staging_never_writes_through_a_link_that_leads_out(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (stage / "sites").symlink_to(outside)
    plan = file_set(tmp_path).plan([text(stage / "sites" / "a", "1")])
    with pytest.raises(FilesError, match="a symbolic link leads out of"):
        validate(plan, str(stage), "true %s", str(tmp_path / "tmp"), run=Validator())
    assert list(outside.iterdir()) == []


def test_links_back_into_the_stage_show_the_staged_files(tmp_path: Path) -> None:
    stage = staged(tmp_path)
    plan = file_set(tmp_path).plan([text(stage / "conf.d" / "old.conf", "new")])
    seen: list[str] = []

    def look(argv: t.Sequence[str], timeout_seconds: float) -> _commands.Result:
        seen.append((Path(argv[1]) / "enabled" / "old.conf").read_text())
        return _commands.Result(0, "", "")

    validate(plan, str(stage), "true %s", str(tmp_path / "tmp"), run=look)
    assert seen == ["new"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    old, young = tmp_path / ".numapin-00aa.tmp", tmp_path / ".numapin-00bb.tmp"
    for leftover in (old, young):
        leftover.write_text("KEY=hunter22")
    os.utime(old, (1, 1))
    put(file_set(tmp_path), [text(tmp_path / "a", "new\n")])
    assert not old.exists()
    assert young.exists(), "another run may be writing it now"
