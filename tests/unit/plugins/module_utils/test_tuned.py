# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._competitors import tuned_competitors
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._kernel import Tuned
from ansible_collections.numapin.inference.plugins.module_utils._tuned import read_profiles, reapplies_sysctls
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path

BASE = """#
[main]
summary=of the distribution
[variables]
thunderx_cpuinfo_regex=CPU part\\s+:\\s+(0x0?516)|(0x0?af)
[vm]
transparent_hugepages=never
[sysctl]
vm.swappiness=10
net.core.somaxconn=>2048
[sysctl.thunderx]
type=sysctl
cpuinfo_regex=${thunderx_cpuinfo_regex}
kernel.numa_balancing=7
"""


def profile(root: Path, name: str, text: str, directory: str = "usr/lib/tuned") -> None:
    """Write a profile."""
    trees.write(root / directory / name / "tuned.conf", text)


def read(root: Path, *names: str) -> dict[str, str]:
    """What they set."""
    return read_profiles(Host(str(root)), names)


def test_what_is_included_comes_first_and_sections_for_other_processors_do_not_count(tmp_path: Path) -> None:
    trees.write(tmp_path / "proc/cpuinfo", "processor : 0\nCPU part : 0xd0c\n")
    profile(tmp_path, "base", BASE)
    profile(tmp_path, "mine", "[main]\ninclude = base, -missing\n[sysctl]\nkernel.numa_balancing = 1 # why\n")
    assert read(tmp_path, "mine") == {
        "transparent_hugepage": "never",
        "vm.swappiness": "10",
        "net.core.somaxconn": ">2048",
        "kernel.numa_balancing": "1",
    }
    trees.write(tmp_path / "proc/cpuinfo", "processor : 0\nCPU part : 0x516\n")
    assert read(tmp_path, "base")["kernel.numa_balancing"] == "7"


def test_a_profile_of_the_administrator_may_include_the_one_it_takes_the_place_of(tmp_path: Path) -> None:
    profile(tmp_path, "base", BASE)
    profile(tmp_path, "base", "[main]\ninclude=base\n[sysctl]\nvm.swappiness=60\n", "etc/tuned/profiles")
    found = read(tmp_path, "base")
    assert (found["vm.swappiness"], found["transparent_hugepage"]) == ("60", "never")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[sysctl]\nreplace=1\nkernel.numa_balancing=2\n", {"kernel.numa_balancing": "2"}),
        ("[sysctl]\nenabled=false\n", {}),
        ("[sysctl]\ndrop=vm.swappiness\nvm/zone_reclaim_mode=1\n", {"vm.zone_reclaim_mode": "1"}),
        ('[variables]\nv=3\n[sysctl]\nvm.swappiness="${v}"\n', {"vm.swappiness": "3"}),
        ("[variables]\ninclude=/etc/tuned/mine.conf\n[sysctl]\nvm.swappiness=${given}\n", {"vm.swappiness": "5"}),
        ("[mine]\ntype=sysctl\nvm.swappiness=${f:exec:date}\n", {"vm.swappiness": "${f:exec:date}"}),
        ("[mine]\ntype=sysctl\nuname_regex=no such machine\nvm.swappiness=4\n", {"vm.swappiness": "1"}),
        (
            "[cpu]\ngovernor=schedutil|performance\n",
            {"vm.swappiness": "1", "cpufreq_governor": "schedutil|performance"},
        ),
        (
            "[sysfs]\n/sys/kernel/mm/transparent_*/enabled=always\n",
            {"vm.swappiness": "1", "transparent_hugepage": "always"},
        ),
        # TuneD refuses the file, and applies nothing of it.
        ("[sysctl]\nno value\n", {"vm.swappiness": "1"}),
    ],
)
def test_sections_are_merged_as_tuned_does_it(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    trees.write(tmp_path / "etc/tuned/mine.conf", "given = 5\n")
    profile(tmp_path, "base", "[sysctl]\nvm.swappiness=1\n")
    profile(tmp_path, "mine", text)
    assert read(tmp_path, "base", "mine") == expected


def test_the_kernels_command_line_goes_before_a_profile(tmp_path: Path) -> None:
    profile(tmp_path, "base", BASE)
    trees.write(tmp_path / "proc/cmdline", "quiet transparent_hugepage=madvise\n")
    assert "transparent_hugepage" not in read(tmp_path, "base")


@pytest.mark.parametrize(
    ("active", "at_boot", "who"),
    [
        (True, False, "the active TuneD profile base sets "),
        (False, True, "the TuneD profile base, applied at boot, sets "),
        (False, False, None),
        (None, True, None),  # a container: the host's kernel is not tuned from here
    ],
)
def test_who_runs_or_starts_at_boot_is_named(
    tmp_path: Path, active: bool | None, at_boot: bool, who: str | None
) -> None:
    profile(tmp_path, "base", BASE)
    if at_boot:
        wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True)
        (wants / "tuned.service").symlink_to("/lib/systemd/system/tuned.service")
    wanted = {"vm.swappiness": "20", "transparent_hugepage": "madvise", "net.core.somaxconn": "4096"}
    found = tuned_competitors(Host(str(tmp_path)), Tuned(active, "base"), wanted)
    assert [(one.sentence, one.yields) for one in found] == (
        [] if who is None else [(f"{who}vm.swappiness = 10", True), (f"{who}transparent_hugepage = never", False)]
    )
    # A larger value takes the place of a smaller one only.
    found = tuned_competitors(Host(str(tmp_path)), Tuned(True, "base"), {"net.core.somaxconn": "128"})
    assert [one.value for one in found] == ["2048"]


def test_a_profile_that_is_added_to_the_active_one_counts(tmp_path: Path) -> None:
    profile(tmp_path, "base", BASE)
    profile(tmp_path, "more", "[sysctl]\nvm.swappiness=61\n")
    trees.write(tmp_path / "etc/tuned/post_loaded_profile", "more\n")
    (found,) = tuned_competitors(Host(str(tmp_path)), Tuned(True, "base"), {"vm.swappiness": "10"})
    assert found.sentence == "the active TuneD profile base more sets vm.swappiness = 61"


@pytest.mark.parametrize(
    ("text", "expected"), [(None, True), ("reapply_sysctl = 1\n", True), ("# x\nreapply_sysctl = False # y\n", False)]
)
def test_whether_sysctls_are_applied_again(tmp_path: Path, text: str | None, expected: bool) -> None:
    if text is not None:
        trees.write(tmp_path / "etc/tuned/tuned-main.conf", text)
    assert reapplies_sysctls(Host(str(tmp_path))) is expected
