# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""All that the module ``hugepages`` does with a host: pools, mounts and what sets them again at boot, as one state.

What is no longer wanted goes back to what it was before the first change; wanting nothing restores everything.
"""

from __future__ import annotations

import contextlib
import os
import sys
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _hugetlb, _hugetlb_boot, _hugetlb_mount
from ansible_collections.numapin.inference.plugins.module_utils._changes import Changes
from ansible_collections.numapin.inference.plugins.module_utils._done import Done
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import WantedDirectory, WantedFile
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import HugetlbError, Wanted, size_text
from ansible_collections.numapin.inference.plugins.module_utils._program import PROGRAM_DIRECTORY, program
from ansible_collections.numapin.inference.plugins.module_utils._snapshot import EVERYTHING, Snapshot
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd
from ansible_collections.numapin.inference.plugins.module_utils._tuning import pool_competitors, pool_drift

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

SERVICE = "numapin-hugepages.service"
NAME = "hugepages"
_PROGRAM = f"{PROGRAM_DIRECTORY}/hugepages.pyz"
_WANTS = f"{_hugetlb_mount.UNIT_DIRECTORY}/sysinit.target.wants"
_SHM_GROUP_NAME = "vm.hugetlb_shm_group"
_SERVICE_TEXT = f"""{_hugetlb_mount.MANAGED}
[Unit]
Description=Huge pages for each NUMA node
Documentation=https://www.kernel.org/doc/html/latest/admin-guide/mm/hugetlbpage.html
# Early, while memory is still in one piece, and before everything that is started with the system.
DefaultDependencies=no
RequiresMountsFor=/usr/local /etc
After=local-fs.target systemd-modules-load.service systemd-sysctl.service
Before=sysinit.target vllm.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={sys.executable or "/usr/bin/python3"} -I {_PROGRAM}
TimeoutStartSec=300

[Install]
WantedBy=sysinit.target
"""


class Wish(t.NamedTuple):
    """What is wanted of a host; ``pools`` are the module's."""

    pools: t.Sequence[t.Mapping[str, t.Any]] = ()
    mounts: t.Sequence[_hugetlb_mount.Mount] = ()
    shm_gid: int | None = None
    on_shortfall: str = "rollback"  # fail | rollback | warn
    force: bool = False
    drop_caches: bool = False
    floor_mib: int = 0
    persistent: bool = True


class Hugepages:
    """One run over one host."""

    def __init__(self, host: Host, systemd: Systemd, *, check_mode: bool) -> None:
        self._host = host
        self._systemd = systemd
        self._check_mode = check_mode
        self._snapshot = Snapshot(NAME)
        self._files = FileSet(NAME)
        self._changes = Changes()
        self._warnings: list[str] = []

    def converge(self, wish: Wish) -> Done:
        """Read, plan, set, read back. Raises NumapinError; the message says what is as it was before."""
        host = self._host
        machine = _hugetlb.read_machine(host)
        kept = self._snapshot.read()
        wanted = _hugetlb.resolve(machine, wish.pools)
        given_up = self._given_up(machine, kept, wanted)
        steps = _hugetlb.plan_pools(machine, wanted, given_up, force=wish.force, floor_mib=wish.floor_mib)
        drift = [one.sentence for one in pool_drift(host, machine)]
        mounts = _MountPlan(host, wish.mounts, {size_kib for size_kib, _node in machine.pools})
        files = self._plan_files(wish, wanted, mounts)
        mounts.give_up(files)
        if mounts.covered:
            files = self._plan_files(wish, wanted, mounts)
        enable, disable = self._to_enable(wish, files), self._to_disable(wish, files)
        shm_before = (host.read_text(_hugetlb_boot.SHM_GROUP) or "").strip()
        shm_after = kept.get(_SHM_GROUP_NAME, shm_before) if wish.shm_gid is None else str(wish.shm_gid)

        outcomes = _hugetlb.predict(steps)
        # What cannot be for want of memory is not tried, unless no memory is to be kept: then the kernel decides.
        foreseen = [outcome for outcome, step in zip(outcomes, steps) if step.floor_mib or self._check_mode]
        shortfall = _shortfall(foreseen, "could get")
        if shortfall and wish.on_shortfall != "warn":
            raise HugetlbError(f"{shortfall}; nothing was changed")
        self._require_systemd(files)
        if not self._check_mode:

            def plan_again() -> Plan:
                return self._plan_files(wish, wanted, mounts, unmounted=True)

            outcomes = self._change(
                machine, steps, wish, files, plan_again, mounts, (enable, disable), (shm_before, shm_after)
            )
            self._forget(given_up, wish)
        self._record(outcomes, mounts, shm_before, shm_after)
        for unit in enable:
            self._changes.record(unit, None, "enabled")
        for unit in disable:
            self._changes.record(unit, "enabled", None)
        self._warnings += [outcome.sentence() for outcome in outcomes if outcome.short and not outcome.needs_boot]
        if wanted or wish.shm_gid is not None:
            competitors = pool_competitors(host, pools=bool(wanted), shm_group=wish.shm_gid is not None)
            self._warnings += [
                f"{found.sentence}: it fights what is set here whenever sysctl --system is run; remove that line"
                for found in competitors
            ]
        else:
            competitors = []
        result = self._result(machine, wanted, outcomes, mounts)
        result.update(drift=drift, competitors=[found._asdict() for found in competitors])
        return Done(self._changes, files, result, [*self._warnings, *files.warnings])

    # Pools

    def _given_up(
        self, machine: _hugetlb.Machine, kept: t.Mapping[str, str], wanted: t.Sequence[Wanted]
    ) -> list[Wanted]:
        """Pools that an earlier run changed and this one does not ask for, as they were before that."""
        names = {_hugetlb.pool_name(want.size_kib, want.node) for want in wanted}
        back = []
        for name, value in kept.items():
            pool = _hugetlb.parse_pool_name(name)
            if pool is None or name in names:
                continue
            if pool not in machine.pools:
                self._warnings.append(f"{name}: this host has no such pool any more, so there is nothing to put back")
                continue
            if not value.isdigit():
                raise HugetlbError(
                    f"{self._snapshot.path}: {name} was {value!r} pages, which cannot be: correct the file"
                )
            back.append(Wanted(*pool, int(value)))
        return back

    def _change(
        self,
        machine: _hugetlb.Machine,
        steps: t.Sequence[_hugetlb.Step],
        wish: Wish,
        files: Plan,
        plan_again: t.Callable[[], Plan],
        mounts: _MountPlan,
        units: tuple[t.Sequence[str], t.Sequence[str]],
        shm_group: tuple[str, str],
    ) -> list[_hugetlb.Outcome]:
        """Keep the originals, then change everything; what fails is undone, with the pools' numbers in the message."""
        originals = {step.pool.name: str(step.pool.persistent) for step in steps if step.asked != step.pool.persistent}
        if shm_group[0] != shm_group[1]:
            originals[_SHM_GROUP_NAME] = shm_group[0]
        with self._snapshot.changing(originals, HugetlbError) as undo:
            undo.append(lambda: self._put_pools_back(machine, steps))
            undo.told = "the pools are as they were before"
            outcomes = _hugetlb.set_pools(self._host, machine, steps, drop_caches=wish.drop_caches)
            shortfall = _shortfall(outcomes, "got")
            if shortfall and wish.on_shortfall == "rollback":
                raise HugetlbError(shortfall)
            if not shortfall or wish.on_shortfall == "warn":
                undo.told = EVERYTHING
                undo.append(lambda: self._set_shm_group(shm_group[1], shm_group[0]))
                self._set_shm_group(*shm_group)
                undo.append(lambda: mounts.start_removed(self._systemd))
                mounts.stop_removed(self._systemd)
                if mounts.covered:
                    files = plan_again()
                self._files.apply(files)
                undo.append(lambda: mounts.mount_again(self._systemd))
                undo.append(lambda: self._files.undo(files))
                undo.append(lambda: mounts.take_down(self._systemd, *units))
                mounts.bring_up(self._systemd, _units_changed(files), *units)
        if shortfall and wish.on_shortfall == "fail":
            raise HugetlbError(f"{shortfall}; what was got is left (on_shortfall: fail), nothing else was changed")
        return outcomes

    def _put_pools_back(self, machine: _hugetlb.Machine, steps: t.Sequence[_hugetlb.Step]) -> None:
        failed = _hugetlb.put_back(self._host, machine, steps)
        if failed:
            raise HugetlbError(", ".join(failed))

    def _require_systemd(self, files: Plan) -> None:
        if _units_changed(files) and not self._host.exists("/run/systemd/system"):
            raise HugetlbError(
                "systemd does not run on this host, and without it nothing is set at boot and nothing is mounted: set"
                " persistent: false and give no mounts; nothing was changed"
            )

    def _set_shm_group(self, before: str, value: str) -> None:
        if value == before:
            return
        try:
            self._host.write_text(_hugetlb_boot.SHM_GROUP, f"{value}\n")
        except OSError as error:
            raise HugetlbError(f"{_SHM_GROUP_NAME}: the kernel refused {value} ({error.strerror or error})") from error

    def _forget(self, given_up: t.Sequence[Wanted], wish: Wish) -> None:
        names = [_hugetlb.pool_name(want.size_kib, want.node) for want in given_up]
        if wish.shm_gid is None:
            names.append(_SHM_GROUP_NAME)
        if not wish.pools and not wish.mounts and wish.shm_gid is None:
            names = list(self._snapshot.read())
        self._snapshot.forget(names)

    # Files

    def _plan_files(
        self, wish: Wish, wanted: t.Sequence[Wanted], mounts: _MountPlan, *, unmounted: bool = False
    ) -> Plan:
        """``unmounted``: what is given up is no longer mounted, so that its directories can be seen."""
        files: list[WantedFile] = []
        directories: list[WantedDirectory] = []
        if wish.persistent and (wanted or wish.shm_gid is not None):
            config = _hugetlb_boot.BootConfig(
                tuple(wanted), wish.floor_mib, wish.drop_caches, wish.shm_gid, wish.on_shortfall
            )
            directories += [
                WantedDirectory(os.path.dirname(_hugetlb_boot.CONFIG_PATH), 0o755),
                WantedDirectory(PROGRAM_DIRECTORY, 0o755),
            ]
            files += [
                WantedFile(_hugetlb_boot.CONFIG_PATH, _hugetlb_boot.config_text(config).encode(), 0o644),
                WantedFile(_PROGRAM, program("_hugetlb_boot"), 0o644),
                WantedFile(f"{_hugetlb_mount.UNIT_DIRECTORY}/{SERVICE}", _SERVICE_TEXT.encode(), 0o644),
            ]
        for mount in mounts.ours:
            directories += [WantedDirectory(path, 0o755) for path in self._parents_to_make(mount.path)]
            directories.append(WantedDirectory(mount.path, mount.mode, str(mount.uid), str(mount.gid)))
            unit = _hugetlb_mount.unit_text(mount).encode()
            files.append(WantedFile(f"{_hugetlb_mount.UNIT_DIRECTORY}/{mount.unit}", unit, 0o644))
        return self._files.plan(
            files,
            # Two mounts can have the same parents.
            list({directory.path: directory for directory in directories}.values()),
            check_mode=self._check_mode,
            covered=() if unmounted else mounts.covered,
        )

    def _parents_to_make(self, path: str) -> list[str]:
        parents: list[str] = []
        parent = os.path.dirname(path)
        while parent != "/" and (not os.path.lexists(parent) or self._files.made(parent)):
            parents.insert(0, parent)
            parent = os.path.dirname(parent)
        return parents

    def _to_enable(self, wish: Wish, files: Plan) -> list[str]:
        """Units of the wanted files that are not started at boot."""
        return [unit for unit in _units_of(files) if not self._enabled(unit)] if wish.persistent else []

    def _to_disable(self, wish: Wish, files: Plan) -> list[str]:
        """Units of the wanted files that are started at boot, and shall be no longer."""
        return [] if wish.persistent else [unit for unit in _units_of(files) if self._enabled(unit)]

    def _enabled(self, unit: str) -> bool:
        return self._host.readlink(f"{_WANTS}/{unit}") is not None

    # What is told

    def _record(
        self, outcomes: t.Sequence[_hugetlb.Outcome], mounts: _MountPlan, shm_before: str, shm_after: str
    ) -> None:
        for outcome in sorted(outcomes):
            name = _hugetlb.pool_name(outcome.size_kib, outcome.node)
            self._changes.record(name, f"{outcome.before} pages", f"{outcome.got} pages")
        self._changes.record(_SHM_GROUP_NAME, shm_before, shm_after)
        for path, before, after in mounts.changes():
            self._changes.record(f"mount {path}", before, after)

    def _result(
        self,
        machine: _hugetlb.Machine,
        wanted: t.Sequence[Wanted],
        outcomes: t.Sequence[_hugetlb.Outcome],
        mounts: _MountPlan,
    ) -> dict[str, t.Any]:
        boot = [outcome for outcome in outcomes if outcome.needs_boot]
        parameters = _hugetlb.boot_parameters(machine, wanted)
        return {
            "pools": [
                {
                    "size": size_text(outcome.size_kib),
                    "node": outcome.node,
                    "before": outcome.before,
                    "asked": outcome.asked,
                    "got": outcome.got,
                    "in_use": outcome.in_use,
                    "surplus": outcome.surplus,
                    "recovery": list(outcome.recovery),
                    "reason": outcome.reason or None,
                }
                for outcome in sorted(outcomes)
            ],
            "mounts": mounts.states(),
            "reboot_required": bool(boot),
            "reboot_reasons": [
                f"{outcome.sentence()}: give the kernel the parameters {parameters!r} and boot" for outcome in boot
            ],
            "kernel_command_line": parameters,
        }


class _MountPlan:
    """Which mounts are ours, and what is to be done with them."""

    def __init__(self, host: Host, wanted: t.Sequence[_hugetlb_mount.Mount], sizes: set[int]) -> None:
        self._host = host
        self._wanted = wanted
        self._before = _hugetlb_mount.read_mounts(host)
        self.ours: list[_hugetlb_mount.Mount] = []
        self.removed: list[str] = []
        self.covered: list[str] = []  # where a file system of ours is mounted that is given up
        self._stopped: list[str] = []
        for mount in wanted:
            unit = host.read_text(f"{_hugetlb_mount.UNIT_DIRECTORY}/{mount.unit}")
            ours = unit is not None and unit.startswith(_hugetlb_mount.MANAGED)
            _hugetlb_mount.refuse_what_cannot_be(mount, self._before, ours, sizes)
            # The very same, made by somebody else, will do.
            if ours or mount.path not in self._before:
                self.ours.append(mount)

    def give_up(self, files: Plan) -> None:
        """Units that are files no longer wanted."""
        prefix = f"{_hugetlb_mount.UNIT_DIRECTORY}/"
        self.removed = [path[len(prefix) :] for path in files.removed_files if path.startswith(prefix)]
        self.covered = [path for path in self._before if _hugetlb_mount.unit_name(path) in self.removed]

    def _now(self, path: str) -> _hugetlb_mount.Mount | None:
        there = self._before.get(path)
        return None if there is None else there.mount

    def changes(self) -> t.Iterator[tuple[str, str | None, str | None]]:
        """Path, before and after of every mount."""
        for mount in self._wanted:
            before = self._now(mount.path)
            yield mount.path, before.text() if before else None, mount.text()
        for path, there in self._before.items():
            if path in self.covered and there.mount is not None:
                yield path, there.mount.text(), None

    def states(self) -> list[dict[str, t.Any]]:
        """For the result."""
        return [
            {
                "path": mount.path,
                "size": size_text(mount.size_kib),
                "unit": mount.unit if mount in self.ours else None,
                "state": "unchanged" if self._now(mount.path) == mount else "mounted",
            }
            for mount in self._wanted
        ]

    def stop_removed(self, systemd: Systemd) -> None:
        """Unmount and disable what is given up, while systemd still knows the units.

        A unit whose file somebody took away cannot be disabled; what is mounted can be unmounted all the same.
        """
        there = [
            unit for unit in self.removed if self._host.read_text(f"{_hugetlb_mount.UNIT_DIRECTORY}/{unit}") is not None
        ]
        gone = [unit for unit in self.removed if unit not in there]
        self._stopped = there
        systemd.change("disable", there, "--now")
        systemd.change("stop", [unit for unit in gone if unit in map(_hugetlb_mount.unit_name, self.covered)])
        for unit in gone:
            # What starts it at boot may have gone with the unit's file; a link that is left starts nothing.
            with contextlib.suppress(OSError):
                os.unlink(f"{_WANTS}/{unit}")

    def start_removed(self, systemd: Systemd) -> None:
        """What ``stop_removed`` stopped, once its files are back."""
        if self._stopped:
            systemd.daemon_reload()
            systemd.change("enable", self._stopped)
            mounted = [_hugetlb_mount.unit_name(path) for path in self.covered]
            systemd.change("start", [unit for unit in self._stopped if unit in mounted])

    def bring_up(self, systemd: Systemd, reload: bool, enable: t.Sequence[str], disable: t.Sequence[str]) -> None:
        """Make systemd read changed units, enable what is not, and mount; reads back."""
        to_start = self._to_start()
        if reload or enable or disable or self.removed:
            systemd.daemon_reload()
        systemd.change("enable", enable)
        systemd.change("disable", disable)
        systemd.change("restart", [mount.unit for mount in to_start])
        if to_start:
            now = _hugetlb_mount.read_mounts(self._host)
            for mount in to_start:
                there = now.get(mount.path)
                if there is None or there.mount != mount:
                    found = "nothing" if there is None else there.mount.text() if there.mount else there.kind
                    raise HugetlbError(f"mount {mount.path}: wanted {mount.text()}, found {found}")

    def _to_start(self) -> list[_hugetlb_mount.Mount]:
        return [mount for mount in self.ours if self._now(mount.path) != mount]

    def take_down(self, systemd: Systemd, enabled: t.Sequence[str], disabled: t.Sequence[str]) -> None:
        """What ``bring_up`` may have done, before the units' files go back."""
        now = _hugetlb_mount.read_mounts(self._host)
        systemd.change("stop", [mount.unit for mount in self._to_start() if mount.path in now])
        systemd.change("disable", [unit for unit in enabled if self._host.readlink(f"{_WANTS}/{unit}") is not None])
        systemd.change("enable", disabled)

    def mount_again(self, systemd: Systemd) -> None:
        """After the units' files are back: mounts of ours that were to be changed are what they were."""
        systemd.daemon_reload()
        systemd.change("start", [mount.unit for mount in self._to_start() if self._now(mount.path) is not None])


def _units_of(files: Plan) -> list[str]:
    prefix = f"{_hugetlb_mount.UNIT_DIRECTORY}/"
    wanted = (files.manifest_after or {"files": {}})["files"]
    return [path[len(prefix) :] for path in wanted if path.startswith(prefix)]


def _units_changed(files: Plan) -> bool:
    return any(change.path.startswith(f"{_hugetlb_mount.UNIT_DIRECTORY}/") for change in files.files)


def _shortfall(outcomes: t.Iterable[_hugetlb.Outcome], verb: str) -> str:
    """Asked and got of every pool that is not as asked for, with what to do; empty where there is none."""
    short = [outcome for outcome in outcomes if outcome.short and not outcome.needs_boot]
    if not short:
        return ""
    told = "; ".join(outcome.sentence(verb) for outcome in short)
    large = any(outcome.size_kib >= 1024 * 1024 for outcome in short)
    at_boot = " (pages this large are best reserved by the kernel's command line)" if large else ""
    return (
        f"not all huge pages can be had: {told}. Ask for fewer, free memory on the node, or set on_shortfall: warn to"
        f" take what there is{at_boot}"
    )
