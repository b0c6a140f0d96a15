# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Whether a host still is as it was tuned, and stays so: drift of values and pools, and who fights them."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _hugetlb, _hugetlb_boot
from ansible_collections.numapin.inference.plugins.module_utils._competitors import sysctl_assignments
from ansible_collections.numapin.inference.plugins.module_utils._kernel_settings import (
    find_competitors,
    read_config,
    read_state,
    settings_of,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

POOL_SYSCTLS = ("vm.nr_hugepages", "vm.nr_hugepages_mempolicy", "vm.hugetlb_shm_group")


class Tuning(t.NamedTuple):
    """``tuned``: whether an earlier run left anything to look at."""

    tuned: bool
    problems: list[str]


def read_tuning(host: Host, systemd: Systemd) -> Tuning:
    """Hold the host against what was written down when it was tuned. Raises NumapinError for damaged files."""
    settings = read_config(host)
    pools = host.read_text(_hugetlb_boot.CONFIG_PATH)
    problems = [] if settings is None else _settings_problems(host, systemd, settings)
    if pools is not None:
        problems += pool_drift(host, _hugetlb.read_machine(host))
        problems += [
            f"{found.sentence}: it fights the pools of huge pages" for found in sysctl_assignments(host, POOL_SYSCTLS)
        ]
    return Tuning(settings is not None or pools is not None, problems)


def _settings_problems(host: Host, systemd: Systemd, settings: t.Mapping[str, str]) -> list[str]:
    problems = []
    for name, wanted in settings.items():
        states = [read_state(host, systemd, setting) for setting in settings_of(host, name, wanted)]
        other = sorted({state.before for state in states if state.before not in (None, state.setting.wanted)} - {None})
        if other:
            problems.append(f"{name} is {', '.join(other)}, tuned was {wanted}")
    return problems + [
        f"{found.sentence}, tuned was {settings[found.name]}" for found in find_competitors(host, settings)
    ]


def pool_drift(host: Host, machine: _hugetlb.Machine) -> list[str]:
    """Pools that are not what the boot configuration sets."""
    text = host.read_text(_hugetlb_boot.CONFIG_PATH)
    if text is None:
        return []
    try:
        config = _hugetlb_boot.parse_config(text)
    except _hugetlb.HugetlbError as error:
        return [str(error)]
    drift = []
    for want in config.pools:
        pool = machine.pools.get((want.size_kib, want.node))
        now = "no such pool" if pool is None else f"{pool.persistent} pages"
        if pool is None or pool.persistent != want.pages:
            drift.append(f"{_hugetlb.pool_name(want.size_kib, want.node)}: {want.pages} pages at boot, {now} now")
    return drift
