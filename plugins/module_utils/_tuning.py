# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Whether a host still is as it was tuned, and stays so: drift of values and pools, and who fights them."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _hugetlb, _hugetlb_boot
from ansible_collections.numapin.inference.plugins.module_utils._competitors import Competitor, sysctl_assignments
from ansible_collections.numapin.inference.plugins.module_utils._kernel_settings import (
    find_competitors,
    read_config,
    read_state,
    settings_of,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

_POOL_SYSCTLS = ("vm.nr_hugepages", "vm.nr_hugepages_mempolicy")
_SHM_GROUP_SYSCTLS = ("vm.hugetlb_shm_group",)


class Tuning(t.NamedTuple):
    """``tuned``: whether an earlier run left anything to look at. ``notes`` are worth knowing, and no problem."""

    tuned: bool
    kernel: list[str]
    hugepages: list[str]
    notes: list[str]

    @property
    def problems(self) -> list[str]:
        """What is not as it was tuned."""
        return self.kernel + self.hugepages


class Drift(t.NamedTuple):
    """A pool that is not what the boot configuration sets, which may be ``allowed``: fewer pages were to do."""

    sentence: str
    allowed: bool


def read_tuning(host: Host, systemd: Systemd) -> Tuning:
    """Hold the host against what was written down when it was tuned. Raises NumapinError for damaged files."""
    settings = read_config(host)
    tuning = Tuning(settings is not None, [], [], [])
    if settings is not None:
        _look_at_settings(host, systemd, settings, tuning)
    if host.read_text(_hugetlb_boot.CONFIG_PATH) is not None:
        tuning = tuning._replace(tuned=True)
        for drift in pool_drift(host, _hugetlb.read_machine(host)):
            (tuning.notes if drift.allowed else tuning.hugepages).append(drift.sentence)
        config = _read_boot_config(host)
        if config is not None:
            competitors = pool_competitors(host, pools=bool(config.pools), shm_group=config.shm_gid is not None)
            tuning.hugepages.extend(f"{found.sentence}: it fights the pools of huge pages" for found in competitors)
    return tuning


def _look_at_settings(host: Host, systemd: Systemd, settings: t.Mapping[str, str], tuning: Tuning) -> None:
    drifted = set()
    for name, wanted in settings.items():
        states = [read_state(host, systemd, setting) for setting in settings_of(host, name, wanted)]
        other = sorted({state.before for state in states if state.before not in (None, state.setting.wanted)} - {None})
        if other:
            drifted.add(name)
            tuning.kernel.append(f"{name} is {', '.join(other)}, tuned was {wanted}")
    for found in find_competitors(host, settings):
        if found.yields and found.name not in drifted:
            tuning.notes.append(f"{found.sentence}, but applies {settings[found.name]} again after that")
        else:
            tuning.kernel.append(f"{found.sentence}, tuned was {settings[found.name]}")


def pool_competitors(host: Host, *, pools: bool, shm_group: bool) -> list[Competitor]:
    """Files that set for the whole host what is set for each node, or the group, where these are ours to set."""
    names = (_POOL_SYSCTLS if pools else ()) + (_SHM_GROUP_SYSCTLS if shm_group else ())
    return sysctl_assignments(host, names)


def _read_boot_config(host: Host) -> _hugetlb_boot.BootConfig | None:
    """``None`` where there is none; a damaged one is told as drift."""
    text = host.read_text(_hugetlb_boot.CONFIG_PATH)
    try:
        return None if text is None else _hugetlb_boot.parse_config(text)
    except _hugetlb.HugetlbError:
        return None


def pool_drift(host: Host, machine: _hugetlb.Machine) -> list[Drift]:
    """Pools that are not what the boot configuration sets."""
    text = host.read_text(_hugetlb_boot.CONFIG_PATH)
    if text is None:
        return []
    try:
        config = _hugetlb_boot.parse_config(text)
    except _hugetlb.HugetlbError as error:
        return [Drift(str(error), allowed=False)]
    drift = []
    for want in config.pools:
        pool = machine.pools.get((want.size_kib, want.node))
        if pool is None or pool.persistent != want.pages:
            now = "no such pool" if pool is None else f"{pool.persistent} pages"
            told = f"{_hugetlb.pool_name(want.size_kib, want.node)}: {want.pages} pages at boot, {now} now"
            fewer = pool is not None and pool.persistent < want.pages
            drift.append(Drift(told, allowed=fewer and config.on_shortfall == "warn"))
    return drift
