# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Settings of the kernel that concern placement: what there is, what is wanted, who else sets it, and how it was.

Four kinds: sysctls, the mode of transparent huge pages, the governor of every cpufreq policy, and the daemon that keeps
NVIDIA's driver ready (its persistence mode). A host without one of them is no failure: the setting is ``unsupported``.
What is no longer wanted goes back to what it was before the first change; wanting nothing restores everything.

Kernel sources: Documentation/admin-guide/sysctl/, Documentation/admin-guide/mm/transhuge.rst,
Documentation/admin-guide/pm/cpufreq.rst.
"""

from __future__ import annotations

import errno
import functools
import json
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _services
from ansible_collections.numapin.inference.plugins.module_utils._changes import Changes
from ansible_collections.numapin.inference.plugins.module_utils._competitors import (
    Competitor,
    sysctl_competitors,
    tuned_competitors,
)
from ansible_collections.numapin.inference.plugins.module_utils._done import Done
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import WantedFile, directory_as_it_is
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._kernel import read_kernel
from ansible_collections.numapin.inference.plugins.module_utils._snapshot import Snapshot
from ansible_collections.numapin.inference.plugins.module_utils._tuned import CPUFREQ_GOVERNOR, TRANSPARENT_HUGEPAGE

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

NAME = "kernel_settings"
CONFIG_PATH = "/etc/numapin/kernel_settings.json"
SYSCTL_FILE = "90-numapin.conf"
_SYSCTL_PATH = f"/etc/sysctl.d/{SYSCTL_FILE}"
_TMPFILES_PATH = "/etc/tmpfiles.d/numapin.conf"
NVIDIA_PERSISTENCE = "nvidia_persistence"
_NVIDIA_UNIT = "nvidia-persistenced.service"
_NVIDIA_DRIVER = "/proc/driver/nvidia/version"
_THP = "/sys/kernel/mm/transparent_hugepage/enabled"
_CPUFREQ = "/sys/devices/system/cpu/cpufreq"
_MANAGED = "# Managed by numapin.inference (module kernel_settings): changes made here are lost.\n"
_VERSION = 1
_NO_SYSCTLS = (TRANSPARENT_HUGEPAGE, CPUFREQ_GOVERNOR, NVIDIA_PERSISTENCE)
_SYSCTL_NAME = re.compile(r"[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
# Pools have a module of their own: through a sysctl neither node nor page size can be said, nor what was got.
_NOT_HERE = re.compile(r"vm\.(nr_hugepages.*|nr_overcommit_hugepages|hugetlb_shm_group)")
_CHOSEN = re.compile(r"\[([^\]]+)\]")


class KernelSettingsError(NumapinError):
    """A setting that cannot be made; the message names it, its value and the reason."""


class Setting(t.NamedTuple):
    """One value, in a file or of a unit. ``key`` is what snapshot and diff call it; ``name`` what the user does."""

    name: str
    key: str
    path: str
    wanted: str


class State(t.NamedTuple):
    """What a setting is: ``before`` None is a kernel that has no such setting, for which ``reason`` says more.

    ``for_now``: it may well come back, so that what it was is not forgotten.
    """

    setting: Setting
    before: str | None
    reason: str
    for_now: bool = False


def parse_wanted(
    sysctls: t.Mapping[str, t.Any], hugepage: str | None, governor: str | None, persistence: bool | None
) -> dict[str, str]:
    """The module's options as one value for each name. Raises KernelSettingsError."""
    wanted: dict[str, str] = {}
    for name, value in sysctls.items():
        if not _SYSCTL_NAME.fullmatch(name):
            raise KernelSettingsError(f"sysctl {name!r} is not a name such as kernel.numa_balancing")
        if _NOT_HERE.fullmatch(name):
            raise KernelSettingsError(f"sysctl {name}: use the module hugepages, which knows nodes and reads back")
        if isinstance(value, bool):
            raise KernelSettingsError(f"sysctl {name}: {value} is no value of a sysctl: write 0 or 1")
        text = " ".join(str(value).split())
        if not text or not text.isprintable():
            raise KernelSettingsError(f"sysctl {name}: its value is empty or not printable: give the value as text")
        wanted[name] = text
    if hugepage is not None:
        wanted[TRANSPARENT_HUGEPAGE] = hugepage
    if governor is not None:
        if not re.fullmatch(r"[a-z_]{1,30}", governor):
            raise KernelSettingsError(f"cpufreq_governor {governor!r} is not a name such as performance")
        wanted[CPUFREQ_GOVERNOR] = governor
    if persistence:
        wanted[NVIDIA_PERSISTENCE] = "active"
    return wanted


# Read


def settings_of(host: Host, name: str, wanted: str) -> list[Setting]:
    """The files of one setting: one, or for the governor one for each policy."""
    if name == NVIDIA_PERSISTENCE:
        return [Setting(name, name, _NVIDIA_UNIT, wanted)]
    if name == TRANSPARENT_HUGEPAGE:
        return [Setting(name, name, _THP, wanted)]
    if name == CPUFREQ_GOVERNOR:
        policies = [entry for entry in host.list_dir(_CPUFREQ) or () if entry.startswith("policy")]
        return [_governor(policy, wanted) for policy in policies]
    return [Setting(name, name, f"/proc/sys/{name.replace('.', '/')}", wanted)]


def _governor(policy: str, wanted: str) -> Setting:
    return Setting(CPUFREQ_GOVERNOR, f"{CPUFREQ_GOVERNOR} {policy}", f"{_CPUFREQ}/{policy}/scaling_governor", wanted)


def _setting_of_key(key: str, wanted: str) -> Setting:
    """The setting that a key of the snapshot stands for."""
    if key == TRANSPARENT_HUGEPAGE:
        return Setting(key, key, _THP, wanted)
    if key == NVIDIA_PERSISTENCE:
        return Setting(key, key, _NVIDIA_UNIT, wanted)
    if key.startswith(f"{CPUFREQ_GOVERNOR} "):
        return _governor(key.partition(" ")[2], wanted)
    return Setting(key, key, f"/proc/sys/{key.replace('.', '/')}", wanted)


def read_state(host: Host, systemd: Systemd, setting: Setting) -> State:
    """The value now. That of a service is two words, and what is wanted of it depends on whether it can be enabled."""
    if setting.name == NVIDIA_PERSISTENCE:
        if not _services.is_installed(host, _NVIDIA_UNIT):
            return State(setting, None, f"{_NVIDIA_UNIT} is not installed")
        if not host.exists(_NVIDIA_DRIVER):
            return State(setting, None, "NVIDIA's driver is not loaded", for_now=True)
        now = _services.service_state(systemd, _NVIDIA_UNIT)
        if _services.is_masked(now):
            return State(setting, None, f"{_NVIDIA_UNIT} is masked", for_now=True)
        if setting.wanted == "active":
            setting = setting._replace(wanted=_services.running_state(now))
        return State(setting, now, "")
    text = host.read_text(setting.path, 4096)
    if text is None:
        return State(setting, None, "this kernel has no such setting")
    if setting.name == TRANSPARENT_HUGEPAGE:
        match = _CHOSEN.search(text)
        return State(setting, match[1] if match else None, "" if match else f"{setting.path} says {text.strip()!r}")
    if setting.name == CPUFREQ_GOVERNOR:
        offered = host.read_text(f"{setting.path.rpartition('/')[0]}/scaling_available_governors", 4096)
        if offered is not None and setting.wanted not in offered.split():
            return State(setting, None, f"the driver offers {', '.join(offered.split())}")
    return State(setting, " ".join(text.split()), "")


def find_competitors(host: Host, wanted: t.Mapping[str, str]) -> list[Competitor]:
    """Who gives a wanted setting another value: at the next boot, or whenever it likes."""
    if not wanted:
        return []
    files = sysctl_competitors(host, wanted, SYSCTL_FILE)
    profiles = tuned_competitors(host, read_kernel(host)[0].tuned, wanted)
    # What TuneD applies again after its profile ends with the last file, which need not be ours.
    last = {found.name for found in files}
    return files + [found._replace(yields=found.yields and found.name not in last) for found in profiles]


# Converge


class KernelSettings:
    """One run over one host."""

    def __init__(self, host: Host, systemd: Systemd, *, check_mode: bool) -> None:
        self._host = host
        self._systemd = systemd
        self._check_mode = check_mode
        self._snapshot = Snapshot(NAME)
        self._files = FileSet(NAME)

    def converge(self, wanted: t.Mapping[str, str], *, persistent: bool) -> Done:
        """Read, plan, write, read back; what fails is undone. Raises NumapinError."""
        host = self._host
        kept = self._snapshot.read()
        settings = [setting for name, value in wanted.items() for setting in settings_of(host, name, value)]
        keys = {setting.key for setting in settings}
        given_up = [_setting_of_key(key, value) for key, value in kept.items() if key not in keys]
        states = [read_state(host, self._systemd, setting) for setting in settings]
        back = [read_state(host, self._systemd, setting) for setting in given_up]
        files = self._plan_files(wanted if persistent else {})
        different = [state for state in states if state.before not in (None, state.setting.wanted)]
        to_restore = [state for state in back if state.before not in (None, state.setting.wanted)]
        if not self._check_mode:
            self._change(different, files)
            self._restore(back, to_restore)
        changes = Changes()
        for state in (*different, *to_restore):
            changes.record(state.setting.key, state.before, state.setting.wanted)
        competitors = find_competitors(host, wanted)
        if not persistent:
            competitors = [found._replace(yields=False) for found in competitors]
        warnings = [
            f"{found.sentence}, wanted is {wanted[found.name]}: remove one of them"
            for found in competitors
            if not found.yields
        ]
        warnings += [
            f"{state.setting.key}: {state.reason}, so "
            + (
                f"that it was {state.setting.wanted} is kept for later"
                if state.for_now
                else "there is nothing to put back"
            )
            for state in back
            if not state.before
        ]
        result = {
            "settings": [_told(name, value, states, kept, competitors) for name, value in wanted.items()],
            "restored": [state.setting.key for state in back if state.before is not None],
            "unsupported": [name for name in wanted if not any(s.before for s in states if s.setting.name == name)],
            "competitors": [found._asdict() for found in competitors],
        }
        return Done(changes, files, result, [*warnings, *files.warnings])

    def _change(self, different: t.Sequence[State], files: Plan) -> None:
        originals = {state.setting.key: state.before for state in different if state.before}
        with self._snapshot.changing(originals, KernelSettingsError) as undo:
            for state in different:
                undo.append(functools.partial(self._put_back, state))
                self._write(state.setting, state.setting.wanted)
            self._files.apply(files)

    def _put_back(self, state: State) -> None:
        """Only what is not right: a value that was refused, or can be set one way only, is."""
        before = state.before or ""
        setting = state.setting._replace(wanted=before)
        if read_state(self._host, self._systemd, setting).before != before:
            self._write(setting, before)

    def _restore(self, back: t.Sequence[State], different: t.Sequence[State]) -> None:
        """Put back what is given up; what cannot go back keeps nobody else from it, and stays kept."""
        failed: dict[str, str] = {}
        for state in different:
            try:
                self._write(state.setting, state.setting.wanted)
            except NumapinError as error:
                failed[state.setting.key] = str(error)
        self._snapshot.forget([s.setting.key for s in back if s.setting.key not in failed and not s.for_now])
        if failed:
            raise KernelSettingsError(
                f"not all could be put back: {'; '.join(failed.values())}. Everything else is done; what these were"
                f" stays in {self._snapshot.path}: set them yourself, or boot, and run this again"
            )

    def _write(self, setting: Setting, value: str) -> None:
        if setting.name == NVIDIA_PERSISTENCE:
            _services.set_service(self._systemd, _NVIDIA_UNIT, value)
            return
        try:
            self._host.write_text(setting.path, f"{value}\n")
        except OSError as error:
            reason = error.strerror or str(error)
            raise KernelSettingsError(
                f"{setting.key}: the kernel refused {value!r} ({reason}){_advice(error)}"
            ) from error
        now = read_state(self._host, self._systemd, setting._replace(wanted=value)).before
        if now != value:
            raise KernelSettingsError(f"{setting.key}: wrote {value!r} and read back {now!r}")

    def _plan_files(self, wanted: t.Mapping[str, str]) -> Plan:
        if not wanted:
            return self._files.plan([], check_mode=self._check_mode)
        sysctls = {name: value for name, value in wanted.items() if name not in _NO_SYSCTLS}
        config = json.dumps({"version": _VERSION, "settings": dict(wanted)}, indent=2, sort_keys=True) + "\n"
        texts = {CONFIG_PATH: config}
        if sysctls:
            # With a dash, a kernel without the setting is no error either. TuneD, which applies the file
            # again after its profile, takes the dash for a part of the name.
            lines = "".join(
                f"{'' if self._host.exists(settings_of(self._host, name, value)[0].path) else '-'}{name} = {value}\n"
                for name, value in sorted(sysctls.items())
            )
            texts[_SYSCTL_PATH] = _MANAGED + lines
        written = {TRANSPARENT_HUGEPAGE: _THP, CPUFREQ_GOVERNOR: f"{_CPUFREQ}/policy*/scaling_governor"}
        lines = "".join(f"w {path} - - - - {wanted[name]}\n" for name, path in written.items() if name in wanted)
        if lines:
            texts[_TMPFILES_PATH] = _MANAGED + lines
        return self._files.plan(
            [WantedFile(path, text.encode(), 0o644) for path, text in texts.items()],
            [directory_as_it_is(path, 0o755) for path in sorted({path.rpartition("/")[0] for path in texts})],
            check_mode=self._check_mode,
        )


def _advice(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "; is this run as root (become)?"
    if error.errno == errno.EROFS:
        return "; a container cannot set its host's kernel: run this on the host"
    return ""


def _told(
    name: str,
    wanted: str,
    states: t.Sequence[State],
    kept: t.Mapping[str, str],
    competitors: t.Sequence[Competitor],
) -> dict[str, t.Any]:
    """One setting as the module returns it; of several files their different values, in one text."""
    own = [state for state in states if state.setting.name == name]
    supported = [state for state in own if state.before is not None]
    before = sorted({state.before for state in supported if state.before is not None})
    originals = sorted({kept.get(state.setting.key, state.before or "") for state in supported})
    reasons = sorted({state.reason for state in own if state.before is None}) or ["this kernel has no such setting"]
    after = sorted({state.setting.wanted for state in supported})
    kind = "unchanged" if before == after else "changed"
    return {
        "name": name,
        "wanted": wanted,
        "before": ", ".join(before) or None,
        "after": ", ".join(after) or None,
        "original": ", ".join(originals) or None,
        "state": kind if supported else "unsupported",
        "reason": None if len(supported) == len(own) and own else "; ".join(reasons),
        "competitors": [found.sentence for found in competitors if found.name == name],
    }


# What an earlier run set, for those who prove it


def read_config(host: Host) -> dict[str, str] | None:
    """The settings as an earlier run wrote them down; ``None`` where none did."""
    text = host.read_text(CONFIG_PATH)
    if text is None:
        return None
    try:
        config = json.loads(text)
        settings = config["settings"]
        if config["version"] != _VERSION or not all(isinstance(value, str) for value in settings.values()):
            raise ValueError(f"its format is not the one of this version ({_VERSION})")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KernelSettingsError(f"{CONFIG_PATH} is damaged ({error}): tune this host again") from error
    return dict(settings)
