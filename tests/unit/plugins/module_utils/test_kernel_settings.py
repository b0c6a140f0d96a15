# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _kernel_settings
from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._done import Done
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._kernel_settings import (
    KernelSettings,
    KernelSettingsError,
    parse_wanted,
)
from ansible_collections.numapin.inference.plugins.module_utils._snapshot import Snapshot
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd
from ansible_collections.numapin.inference.plugins.module_utils._tuning import read_tuning
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path

THP = "sys/kernel/mm/transparent_hugepage/enabled"
BALANCING = "proc/sys/kernel/numa_balancing"
WANTED = {"kernel.numa_balancing": "0", "transparent_hugepage": "madvise", "cpufreq_governor": "performance"}


class Kernel(Host):
    """Shows the chosen mode in brackets, and refuses what ``refused`` names."""

    refused: t.ClassVar[dict[str, int]] = {}

    def write_text(self, path: str, text: str) -> None:
        """As the kernel takes it."""
        for part, number in self.refused.items():
            if part in path and text.strip() != "schedutil":
                raise OSError(number, "Invalid argument", path)
        if path == f"/{THP}":
            text = "always madvise never\n".replace(text.strip(), f"[{text.strip()}]")
        super().write_text(path, text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host below a directory: its kernel, and its /etc and /var for the files."""
    trees.lay_out(tmp_path, trees.two_sockets())
    trees.write(tmp_path / BALANCING, "1\n")
    trees.write(tmp_path / THP, "[always] madvise never\n")
    for policy, governor in (("policy0", "schedutil"), ("policy4", "performance")):
        directory = tmp_path / "sys/devices/system/cpu/cpufreq" / policy
        trees.write(directory / "scaling_governor", f"{governor}\n")
        trees.write(directory / "scaling_available_governors", "performance schedutil\n")
    for name in ("CONFIG_PATH", "_SYSCTL_PATH", "_TMPFILES_PATH"):
        path = tmp_path / getattr(_kernel_settings, name)[1:]
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(_kernel_settings, name, str(path))
    monkeypatch.setattr(Kernel, "refused", {})
    return tmp_path


def no_command(argv: t.Sequence[str], timeout_seconds: float) -> Result:
    raise AssertionError(f"no command is needed, and this was run: {argv}")


def run(root: Path, wanted: dict[str, str], *, check_mode: bool = False, systemd: Systemd | None = None) -> Done:
    settings = KernelSettings(Kernel(str(root)), systemd or Systemd(no_command), check_mode=check_mode)
    settings._snapshot = Snapshot("kernel_settings", str(root / "state"))
    settings._files = FileSet("kernel_settings", str(root / "state"))
    return settings.converge(wanted, persistent=True)


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_check_then_apply_then_again_then_restored(root: Path) -> None:
    before = tree(root)
    foreseen = run(root, WANTED, check_mode=True)
    assert tree(root) == before
    done = run(root, WANTED)
    assert (done.result, done.changes.all()) == (foreseen.result, foreseen.changes.all())
    assert done.changes.diff("")["before"].splitlines() == [
        "kernel.numa_balancing     1",
        "transparent_hugepage      always",
        "cpufreq_governor policy0  schedutil",
    ]
    after = tree(root)
    assert after[BALANCING] == "0\n"
    assert after[THP] == "always [madvise] never\n"
    assert after["etc/sysctl.d/90-numapin.conf"].splitlines()[1:] == ["kernel.numa_balancing = 0"]
    assert after["etc/tmpfiles.d/numapin.conf"].splitlines()[1:] == [
        "w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise",
        "w /sys/devices/system/cpu/cpufreq/policy*/scaling_governor - - - - performance",
    ]
    again = run(root, WANTED)
    assert not again.changes.changed
    assert not again.files.changed
    assert again.result["settings"][2] == {
        "name": "cpufreq_governor",
        "wanted": "performance",
        "before": "performance",
        "after": "performance",
        "original": "performance, schedutil",
        "state": "unchanged",
        "reason": None,
        "competitors": [],
    }
    assert tree(root) == after
    assert run(root, {}).result["restored"] == [
        "cpufreq_governor policy0",
        "kernel.numa_balancing",
        "transparent_hugepage",
    ]
    assert tree(root) == before


def test_a_setting_given_up_goes_back_and_the_first_original_is_kept(root: Path) -> None:
    run(root, {"kernel.numa_balancing": "0"})
    run(root, {"kernel.numa_balancing": "2", "transparent_hugepage": "never"})
    assert run(root, {"transparent_hugepage": "never"}).result["restored"] == ["kernel.numa_balancing"]
    assert tree(root)[BALANCING] == "1\n"
    assert tree(root)[THP] == "always madvise [never]\n"


def test_what_the_kernel_does_not_have_is_unsupported(root: Path) -> None:
    (root / BALANCING).unlink()
    result = run(root, {"kernel.numa_balancing": "0", "cpufreq_governor": "ondemand"}).result
    assert result["unsupported"] == ["kernel.numa_balancing", "cpufreq_governor"]
    assert [entry["reason"] for entry in result["settings"]] == [
        "this kernel has no such setting",
        "the driver offers performance, schedutil",
    ]


def test_a_refused_value_undoes_those_before_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(root)
    monkeypatch.setattr(Kernel, "refused", {"policy0/scaling_governor": 22})
    with pytest.raises(KernelSettingsError) as caught:
        run(root, WANTED)
    assert str(caught.value) == (
        "cpufreq_governor policy0: the kernel refused 'performance' (Invalid argument); everything is as it was before"
    )
    assert tree(root) == before


class PersistenceDaemon:
    """systemctl, for nvidia-persistenced alone."""

    def __init__(self, active: str, enabled: str) -> None:
        self.active, self.enabled = active, enabled

    def __call__(self, argv: t.Sequence[str], timeout_seconds: float) -> Result:
        assert argv[-1] == "nvidia-persistenced.service"
        if argv[1] in ("enable", "disable"):
            self.enabled = f"{argv[1]}d"
        elif argv[1] in ("start", "stop"):
            self.active = "active" if argv[1] == "start" else "inactive"
        state = f"Id={argv[-1]}\nLoadState=loaded\nActiveState={self.active}\nUnitFileState={self.enabled}\n"
        return Result(0, state if argv[1] == "show" else "", "")


@pytest.mark.parametrize(("enabled", "then"), [("disabled", "enabled"), ("static", "static")])
def test_the_persistence_daemon_runs_and_is_put_back(root: Path, enabled: str, then: str) -> None:
    wanted = {"nvidia_persistence": "active"}
    trees.write(root / "usr/lib/systemd/system/nvidia-persistenced.service", "")
    daemon = PersistenceDaemon("inactive", enabled)
    (before,) = run(root, wanted, systemd=Systemd(daemon)).result["settings"]
    assert (before["state"], before["reason"]) == ("unsupported", "NVIDIA's driver is not loaded")
    trees.write(root / "proc/driver/nvidia/version", "NVRM\n")
    (told,) = run(root, wanted, systemd=Systemd(daemon)).result["settings"]
    assert (told["before"], told["after"], told["state"]) == (f"inactive {enabled}", f"active {then}", "changed")
    assert (daemon.active, daemon.enabled) == ("active", then)
    assert not run(root, wanted, systemd=Systemd(daemon)).changes.changed
    # systemd itself starts it at boot.
    assert [path.name for path in (root / "etc").rglob("*numapin*") if path.is_file()] == []
    run(root, {}, systemd=Systemd(daemon))
    assert (daemon.active, daemon.enabled) == ("inactive", enabled)


def test_a_masked_daemon_is_unsupported(root: Path) -> None:
    trees.write(root / "usr/lib/systemd/system/nvidia-persistenced.service", "")
    trees.write(root / "proc/driver/nvidia/version", "NVRM\n")
    systemd = Systemd(PersistenceDaemon("inactive", "masked"))
    done = run(root, {"nvidia_persistence": "active", "kernel.numa_balancing": "0"}, systemd=systemd)
    assert done.result["unsupported"] == ["nvidia_persistence"]
    assert done.result["settings"][0]["reason"] == "nvidia-persistenced.service is masked"
    assert tree(root)[BALANCING] == "0\n"


def test_what_the_daemon_was_is_not_forgotten_while_the_driver_is_not_loaded(root: Path) -> None:
    trees.write(root / "usr/lib/systemd/system/nvidia-persistenced.service", "")
    trees.write(root / "proc/driver/nvidia/version", "NVRM\n")
    daemon = PersistenceDaemon("inactive", "disabled")
    run(root, {"nvidia_persistence": "active"}, systemd=Systemd(daemon))
    (root / "proc/driver/nvidia/version").unlink()
    assert run(root, {}, systemd=Systemd(daemon)).warnings == [
        "nvidia_persistence: NVIDIA's driver is not loaded, so that it was inactive disabled is kept for later"
    ]
    trees.write(root / "proc/driver/nvidia/version", "NVRM\n")
    run(root, {}, systemd=Systemd(daemon))
    assert (daemon.active, daemon.enabled) == ("inactive", "disabled")
    assert not (root / "state").exists()


def test_one_value_that_cannot_go_back_keeps_no_other_from_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write(root / "proc/sys/vm/dirty_bytes", "0\n")
    before = tree(root)
    run(root, WANTED | {"vm.dirty_bytes": "4096"})
    monkeypatch.setattr(Kernel, "refused", {"vm/dirty_bytes": 22})
    with pytest.raises(KernelSettingsError) as caught:
        run(root, {})
    assert "not all could be put back: vm.dirty_bytes: the kernel refused '0' (Invalid argument)." in str(caught.value)
    left = tree(root)
    assert '"vm.dirty_bytes": "0"' in left.pop("state/snapshots/kernel_settings.json")
    assert left == before | {"proc/sys/vm/dirty_bytes": "4096\n"}
    monkeypatch.setattr(Kernel, "refused", {})
    run(root, {})
    assert tree(root) == before


def test_what_is_right_already_is_not_written_again_to_undo(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write(root / "proc/sys/vm/dirty_bytes", "0\n")
    monkeypatch.setattr(Kernel, "refused", {"vm/dirty_bytes": 22})
    with pytest.raises(
        KernelSettingsError, match=r"refused '4096' \(Invalid argument\); everything is as it was before"
    ):
        run(root, WANTED | {"vm.dirty_bytes": "4096"})


def test_competitors_are_named(root: Path) -> None:
    trees.write(root / "etc/sysctl.d/10-early.conf", "kernel.numa_balancing = 1\n")
    trees.write(root / "usr/lib/sysctl.d/99-x.conf", "# no\nkernel/numa_balancing=1\nvm.swappiness = 60\n")
    trees.write(root / "etc/tuned/active_profile", "mine\n")
    trees.write(root / "etc/tuned/mine/tuned.conf", "[main]\ninclude=base\n[cpu]\ngovernor=schedutil|performance\n")
    trees.write(root / "usr/lib/tuned/profiles/base/tuned.conf", "[vm]\ntransparent_hugepages=always\n")
    trees.write(root / "sys/fs/cgroup/system.slice/tuned.service/cgroup.events", "populated 1\nfrozen 0\n")
    done = run(root, WANTED)
    assert [found["sentence"] for found in done.result["competitors"]] == [
        "/usr/lib/sysctl.d/99-x.conf line 2 sets kernel.numa_balancing = 1",
        "the active TuneD profile mine sets transparent_hugepage = always",
    ]
    # The administrator's file of the same name masks the distribution's.
    trees.write(root / "etc/sysctl.d/99-x.conf", "")
    assert [found["name"] for found in run(root, WANTED).result["competitors"]] == ["transparent_hugepage"]


def test_sysctls_of_tuned_fight_only_where_they_win(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write(root / "etc/tuned/active_profile", "mine\n")
    trees.write(root / "etc/tuned/mine/tuned.conf", "[sysctl]\nkernel.numa_balancing=1\n")
    trees.write(root / "sys/fs/cgroup/system.slice/tuned.service/cgroup.events", "populated 1\nfrozen 0\n")
    assert run(root, WANTED).warnings == []
    monkeypatch.undo()
    sentence = "the active TuneD profile mine sets kernel.numa_balancing = 1"

    def found() -> tuple[list[str], list[str]]:
        tuning = read_tuning(Host(str(root)), Systemd(no_command))
        return tuning.problems, tuning.notes

    assert found() == ([], [f"{sentence}, but applies 0 again after that"])
    trees.write(root / BALANCING, "1\n")
    assert found() == (["kernel.numa_balancing is 1, tuned was 0", f"{sentence}, tuned was 0"], [])
    trees.write(root / BALANCING, "0\n")
    trees.write(root / "etc/sysctl.d/99-x.conf", "kernel.numa_balancing=1\n")
    assert found()[0][-1:] == [f"{sentence}, tuned was 0"]
    (root / "etc/sysctl.d/99-x.conf").unlink()
    trees.write(root / "etc/tuned/tuned-main.conf", "# x\nreapply_sysctl = 0\n")
    assert found() == ([f"{sentence}, tuned was 0"], [])


def test_the_directories_of_the_distribution_keep_their_mode(root: Path) -> None:
    (root / "etc/sysctl.d").mkdir(mode=0o750)
    run(root, WANTED)
    assert (root / "etc/sysctl.d").stat().st_mode & 0o777 == 0o750


def test_drift_and_competitors_are_problems_of_a_tuned_host(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_tuning(Host(str(root)), Systemd(no_command)) == (False, [], [], [])
    run(root, WANTED)
    trees.write(root / "etc/sysctl.conf", "kernel.numa_balancing = 2\n")
    trees.write(root / BALANCING, "1\n")
    monkeypatch.undo()  # the configuration is where it is on a host, below the root
    assert read_tuning(Host(str(root)), Systemd(no_command)) == (
        True,
        [
            "kernel.numa_balancing is 1, tuned was 0",
            "/etc/sysctl.conf line 1 sets kernel.numa_balancing = 2, tuned was 0",
        ],
        [],
        [],
    )


@pytest.mark.parametrize(
    ("sysctls", "said"),
    [
        ({"../x": 1}, "is not a name such as kernel.numa_balancing"),
        ({"vm.nr_hugepages": 5}, "use the module hugepages"),
        ({"kernel.numa_balancing": True}, "True is no value of a sysctl: write 0 or 1"),
        ({"kernel.numa_balancing": ""}, "its value is empty"),
    ],
)
def test_bad_input(sysctls: dict[str, t.Any], said: str) -> None:
    with pytest.raises(KernelSettingsError) as caught:
        parse_wanted(sysctls, None, None, None)
    assert said in str(caught.value)
