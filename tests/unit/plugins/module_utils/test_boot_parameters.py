# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _boot_parameters
from ansible_collections.numapin.inference.plugins.module_utils._boot_parameters import (
    BootParameters,
    BootParametersError,
)
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._done import Done
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._snapshot import Snapshot
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path

HUGE = ["hugepagesz=1G", "hugepages=0:8,1:8"]


class Commands:
    """update-grub, and grubby over two kernels."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.kernels = [["ro", "quiet"], ["ro", "nosmt"]]
        self.rc = 0

    def __call__(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        self.called.append(" ".join(argv))
        for option in argv[1:]:
            name, _equals, words = option.partition("=")
            for kernel in self.kernels:
                if name == "--args":
                    kernel += [word for word in words.split() if word not in kernel]
                elif name == "--remove-args":
                    kernel[:] = [word for word in kernel if word not in words.split()]
        said = "".join(f'index={at}\nargs="{" ".join(args)}"\n' for at, args in enumerate(self.kernels))
        return Result(self.rc, said, "it broke" if self.rc else "")


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    trees.write(tmp_path / "proc/cmdline", "ro quiet hugepagesz=1G\n")
    (tmp_path / "grub.d").mkdir()
    monkeypatch.setattr(_boot_parameters, "GRUB_FILE", str(tmp_path / "grub.d/90-numapin.cfg"))
    return tmp_path


def give(root: Path, commands: Commands, parameters: list[str], *, check_mode: bool = False) -> Done:
    boot = BootParameters(Host(str(root)), commands, check_mode=check_mode)
    boot._snapshot = Snapshot("boot_parameters", str(root / "state"))
    boot._files = FileSet("boot_parameters", str(root / "state"))
    return boot.converge(parameters)


def test_grub_gets_a_file_of_its_own_and_loses_it_again(root: Path, commands: Commands) -> None:
    trees.write(root / "usr/sbin/update-grub", "")
    file = root / "grub.d/90-numapin.cfg"
    assert give(root, commands, HUGE, check_mode=True).files.changed
    assert (file.exists(), commands.called) == (False, [])
    assert give(root, commands, HUGE).result["not_yet"] == ["hugepages=0:8,1:8"]
    assert file.read_text(encoding="utf-8").splitlines()[1] == (
        'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT hugepagesz=1G hugepages=0:8,1:8"'
    )
    assert not give(root, commands, HUGE).files.changed
    assert commands.called == ["update-grub"]
    give(root, commands, [])
    assert (file.exists(), commands.called) == (False, ["update-grub"] * 2)
    assert not (root / "state").exists()


def test_a_failing_update_grub_leaves_nothing_behind(root: Path, commands: Commands) -> None:
    trees.write(root / "usr/sbin/update-grub", "")
    commands.rc = 1
    with pytest.raises(BootParametersError, match=r"update-grub failed: it broke"):
        give(root, commands, HUGE)
    assert not (root / "grub.d/90-numapin.cfg").exists()


def test_grubby_adds_what_is_missing_and_takes_away_only_what_is_ours(root: Path, commands: Commands) -> None:
    trees.write(root / "usr/sbin/grubby", "")
    assert give(root, commands, ["ro", "nosmt"], check_mode=True).changes.changed
    assert commands.kernels == [["ro", "quiet"], ["ro", "nosmt"]]
    give(root, commands, ["ro", "nosmt", *HUGE])
    assert commands.kernels == [["ro", "quiet", "nosmt", *HUGE], ["ro", "nosmt", *HUGE]]
    assert not give(root, commands, ["ro", "nosmt", *HUGE]).changes.changed
    done = give(root, commands, [])
    assert done.changes.diff("")["before"].splitlines()[0].startswith("parameter hugepages=0:8,1:8  every kernel")
    assert commands.kernels[0] == ["ro", "quiet"]
    assert not give(root, commands, []).changes.changed


def test_a_run_killed_before_update_grub_is_made_good(
    root: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.write(root / "usr/sbin/update-grub", "")

    def killed(_boot: BootParameters, *_argv: str) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BootParameters, "_call", killed)
        with pytest.raises(KeyboardInterrupt):
            give(root, commands, HUGE)
    assert (root / "grub.d/90-numapin.cfg").exists()
    assert give(root, commands, HUGE, check_mode=True).changes.changed
    assert commands.called == []
    assert give(root, commands, HUGE).changes.changed
    assert commands.called == ["update-grub"]
    assert not give(root, commands, HUGE).changes.changed
    assert commands.called == ["update-grub"]


def test_a_changed_file_is_the_old_one_again_where_update_grub_fails(root: Path, commands: Commands) -> None:
    trees.write(root / "usr/sbin/update-grub", "")
    give(root, commands, HUGE)
    before = (root / "grub.d/90-numapin.cfg").read_text(encoding="utf-8")
    commands.rc = 1
    with pytest.raises(BootParametersError):
        give(root, commands, ["nosmt"])
    assert (root / "grub.d/90-numapin.cfg").read_text(encoding="utf-8") == before
    commands.rc = 0
    assert not give(root, commands, HUGE).changes.changed


@pytest.mark.parametrize("theirs", ["hugepages=4", "isolcpus=2"])
def test_a_parameter_of_somebody_else_is_not_replaced(root: Path, commands: Commands, theirs: str) -> None:
    trees.write(root / "usr/sbin/grubby", "")
    commands.kernels[1].append(theirs)
    with pytest.raises(BootParametersError, match=rf"a kernel of this host has {theirs} already, which is not ours"):
        give(root, commands, [*HUGE, "isolcpus=1"])
    assert commands.called == ["grubby --info=ALL"]


def test_words_of_huge_pages_change_as_one_in_their_order(root: Path, commands: Commands) -> None:
    trees.write(root / "usr/sbin/grubby", "")
    give(root, commands, HUGE)
    give(root, commands, ["hugepagesz=2M", "hugepages=64", *HUGE])
    assert commands.kernels[0] == ["ro", "quiet", "hugepagesz=2M", "hugepages=64", *HUGE]
    give(root, commands, [HUGE[0], "hugepages=0:9,1:8"])
    assert commands.kernels[0] == ["ro", "quiet", HUGE[0], "hugepages=0:9,1:8"]
    give(root, commands, [])
    assert commands.kernels == [["ro", "quiet"], ["ro", "nosmt"]]
    assert not (root / "state").exists()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (["a b"], "is not one word"),
        (['x="$(reboot)"'], "is not one word"),
        (["nosmt", "nosmt"], "is given twice"),
        (["nosmt"], "neither update-grub nor grubby is on this host"),
    ],
)
def test_what_cannot_be_is_refused(root: Path, commands: Commands, parameters: list[str], said: str) -> None:
    with pytest.raises(BootParametersError) as caught:
        give(root, commands, parameters)
    assert said in str(caught.value)
    assert commands.called == []
