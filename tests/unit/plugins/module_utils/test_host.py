# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nothing leaves the root, nothing waits, and what cannot be read is None."""

from __future__ import annotations

import os
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._host import Host, HostError
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.trees import write

if t.TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, and a secret beside the root."""
    write(tmp_path / "secret", "outside\n")
    write(tmp_path / "root/sys/a/value", " 42\n")
    write(tmp_path / "root/secret", "inside\n")
    return tmp_path / "root"


def test_reads_below_the_root(root: Path) -> None:
    host = Host(str(root))
    assert not host.is_running_machine
    assert host.read_text("/sys/a/value") == " 42\n"
    assert host.read_int("/sys/a/value") == 42
    assert host.list_dir("/sys") == ["a"]
    assert host.exists("/sys/a/value")
    assert host.exists("/sys/a")


def test_the_running_machine() -> None:
    host = Host()
    assert host.is_running_machine
    assert host.read_text("/proc/self/status") is not None
    assert host.read_int("/proc/sys/kernel/pid_max") == int(host.read_text("/proc/sys/kernel/pid_max") or "")
    assert host.readlink("/proc/self") == str(os.getpid())


def test_what_is_not_there_is_none(root: Path) -> None:
    host = Host(str(root))
    assert host.read_text("/sys/nothing") is None
    assert host.read_int("/sys/a/nothing/deeper") is None
    assert host.read_text("/sys/a") is None
    assert host.list_dir("/sys/a/value") is None
    assert host.readlink("/sys/a/value") is None
    assert not host.exists("/sys/nothing")


@pytest.mark.parametrize("content", ["", "x", "1 2", "0x10", "--1", "1" * 21, "1.5", "\u00b2"])
def test_what_is_no_number_is_none(root: Path, content: str) -> None:
    write(root / "number", content)
    assert Host(str(root)).read_int("/number") is None


def test_links_inside_are_followed(root: Path) -> None:
    (root / "sys/relative").symlink_to("a/value")
    (root / "sys/directory").symlink_to("a")
    (root / "absolute").symlink_to("/sys/a/value")
    (root / "chain").symlink_to("sys/directory/../relative")
    host = Host(str(root))
    assert host.read_int("/sys/relative") == 42
    assert host.read_int("/sys/directory/value") == 42
    assert host.read_int("/absolute") == 42
    assert host.read_int("/chain") == 42
    assert host.readlink("/sys/directory") == "a"


@pytest.mark.parametrize("target", ["../secret", "../../../../../secret", "/secret", "sys/../../../secret"])
def test_links_never_lead_out(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    (root / "up").symlink_to("../..")
    host = Host(str(root))
    assert host.read_text("/link") == "inside\n"
    assert host.read_text("/up/secret") == "inside\n"
    assert host.read_text("/../secret") == "inside\n"
    assert host.list_dir("/up") == host.list_dir("/")


def test_cycles_of_links_end(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "inner").symlink_to("inner/inner/inner")
    host = Host(str(root))
    for path in ("/one", "/one/value", "/inner", "/inner/x"):
        assert host.read_text(path) is None
        assert host.list_dir(path) is None
        assert not host.exists(path)


@pytest.mark.parametrize("size", [3, 4])
def test_the_head_of_a_file_of_any_size(root: Path, size: int) -> None:
    write(root / "large", "abc\u00e9" * 50000)
    host = Host(str(root))
    assert host.read_head("/large", size) == ("abc" if size == 3 else "abc\ufffd")
    assert host.read_head("/large", 200001) == ("abc\u00e9" * 50000)[:160001]
    assert host.read_head("/sys", 10) is None
    assert host.read_head("/nothing", 10) is None
    assert Host().read_head("/proc/self/status", 5) == "Name:"


def test_the_real_path(root: Path) -> None:
    (root / "sys/bus").mkdir()
    (root / "sys/bus/device").symlink_to("../a/../a")
    (root / "sys/absolute").symlink_to("/sys/bus/device/value")
    (root / "up").symlink_to("../../..")
    (root / "loop").symlink_to("loop")
    (root / "nowhere").symlink_to("sys/nothing")
    host = Host(str(root))
    assert host.real_path("/sys/bus/device") == "/sys/a"
    assert host.real_path("/sys/bus/device/value") == "/sys/a/value"
    assert host.real_path("/sys/absolute") == "/sys/a/value"
    assert host.real_path("/sys//bus/./device/../bus") == "/sys/bus"
    assert host.real_path("/up") == "/"
    for path in ("/loop", "/loop/x", "/nowhere", "/sys/a/value/x"):
        assert host.real_path(path) is None
        assert not host.exists(path)
    assert Host().real_path("/proc/self") == f"/proc/{os.getpid()}"
    assert Host().real_path("/proc/nothing") is None


def test_links_through_what_was_resolved_before(root: Path) -> None:
    (root / "sys/one").symlink_to("/sys/two/inner")
    (root / "sys/two").symlink_to("a")
    write(root / "sys/a/inner/deep", "7")
    host = Host(str(root))
    assert host.list_dir("/sys/two") == ["inner", "value"]
    assert host.read_int("/sys/one/deep") == 7
    assert host.read_int("/sys/one/../inner/deep") == 7
    assert host.real_path("/sys/one") == "/sys/a/inner"


@pytest.mark.parametrize("path", ["/a\x00b", "/sys/a/\x00", "/\x00/b", "x" * 5000, "/" + "x/" * 3000])
def test_paths_that_cannot_be(root: Path, path: str) -> None:
    for host in (Host(str(root)), Host()):
        assert host.read_text(path) is None
        assert host.list_dir(path) is None
        assert host.readlink(path) is None
        assert host.real_path(path) is None
        assert not host.exists(path)


def test_a_root_reached_through_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to("root")
    assert Host(str(tmp_path / "alias")).read_int("/sys/a/value") == 42


def test_a_fifo_does_not_make_it_wait(root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert Host(str(root)).read_text("/fifo") is None


def test_reading_is_bounded(root: Path) -> None:
    write(root / "large", "1" * 5000)
    host = Host(str(root))
    assert host.read_text("/large", limit_bytes=4999) is None
    assert len(host.read_text("/large", limit_bytes=5000) or "") == 5000
    assert host.read_int("/large") is None


def test_binary_content_is_text_with_marks(root: Path) -> None:
    (root / "binary").write_bytes(b"\xff\x00 1")
    assert Host(str(root)).read_text("/binary") == "\ufffd\x00 1"


@pytest.mark.parametrize(
    ("content", "text"), [(b"0-31\n\0", "0-31\n"), (b"\0", ""), (b"a\0\0", "a\0"), (b"\0a", "\0a")]
)
def test_one_nul_at_the_end_is_left_out(root: Path, content: bytes, text: str) -> None:
    (root / "list").write_bytes(content)
    assert Host(str(root)).read_text("/list") == text


@pytest.mark.parametrize("name", ["missing", "secret"])
def test_a_root_that_is_no_directory(tmp_path: Path, root: Path, name: str) -> None:
    with pytest.raises(HostError) as caught:
        Host(str(tmp_path / name))
    assert repr(str(tmp_path / name)) in str(caught.value)
    assert "give the directory that holds the sys and proc" in str(caught.value)


def test_writes_below_the_root_and_replaces_the_whole_text(root: Path) -> None:
    host = Host(str(root))
    (root / "absolute").symlink_to("/sys/a/value")
    host.write_text("/sys/a/value", "7\n")
    assert (root / "sys/a/value").read_text(encoding="ascii") == "7\n"
    host.write_text("/absolute", "1234567\n")
    assert host.read_int("/sys/a/value") == 1234567


def test_a_refused_write_says_why(root: Path) -> None:
    host = Host(str(root))
    (root / "cycle").symlink_to("cycle")
    with pytest.raises(FileNotFoundError):
        host.write_text("/sys/a/nothing", "1")
    assert not (root / "sys/a/nothing").exists()
    with pytest.raises(IsADirectoryError):
        host.write_text("/sys/a", "1")
    with pytest.raises(OSError, match="symbolic links"):
        host.write_text("/cycle", "1")
    with pytest.raises(OSError, match="No space left"):
        Host().write_text("/dev/full", "1")


def test_mode_is_the_permission_bits(root: Path) -> None:
    (root / "sys/a/value").chmod(0o444)
    assert Host(str(root)).mode("/sys/a/value") == 0o444
    assert Host(str(root)).mode("/sys/a/nothing") is None


def test_a_root_that_is_no_path() -> None:
    """Found by tests/fuzz/module_arguments.py: it was a traceback."""
    with pytest.raises(HostError, match=r"^the root '/x\\x00y' is not a directory: give the directory that holds"):
        Host("/x\0y")
