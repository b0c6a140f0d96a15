# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Sets the pools of huge pages early while a host boots, from what the module ``hugepages`` wrote; needs no Ansible."""

from __future__ import annotations

import json
import sys
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import (
    HugetlbError,
    Wanted,
    plan_pools,
    pool_name,
    read_machine,
    set_pools,
)

CONFIG_PATH = "/etc/numapin/hugepages.json"
SHM_GROUP = "/proc/sys/vm/hugetlb_shm_group"
_VERSION = 1


class BootConfig(t.NamedTuple):
    """What is to be set at boot. ``shm_gid`` None leaves the kernel's value; ``warn``: fewer pages are no failure."""

    pools: tuple[Wanted, ...]
    floor_mib: int
    drop_caches: bool
    shm_gid: int | None
    on_shortfall: str = "rollback"


def config_text(config: BootConfig) -> str:
    """What stands in the file."""
    return (
        json.dumps(
            {"version": _VERSION, **config._asdict(), "pools": [pool._asdict() for pool in config.pools]}, indent=2
        )
        + "\n"
    )


def parse_config(text: str) -> BootConfig:
    """The file's content; raises HugetlbError for one that we did not write."""
    try:
        given = json.loads(text)
        if given.pop("version") != _VERSION:
            raise ValueError(f"its version is not {_VERSION}")
        pools = tuple(Wanted(**pool) for pool in given.pop("pools"))
        if not all(isinstance(number, int) for pool in pools for number in pool):
            raise ValueError("a pool is not three whole numbers")
        return BootConfig(pools=pools, **given)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HugetlbError(
            f"{CONFIG_PATH} is damaged ({error}): run the playbook that tunes this host again"
        ) from error


class AtBoot(t.NamedTuple):
    """Sentences on what is not as wanted: what is wrong, and what was to be taken as it comes."""

    problems: list[str]
    notes: list[str]


def set_at_boot(host: Host) -> AtBoot:
    """Set everything. Raises NumapinError."""
    text = host.read_text(CONFIG_PATH)
    if text is None:
        raise HugetlbError(f"{CONFIG_PATH} cannot be read: run the playbook that tunes this host again")
    config = parse_config(text)
    machine = read_machine(host)
    missing = [pool for pool in config.pools if (pool.size_kib, pool.node) not in machine.pools]
    problems = [f"{pool_name(pool.size_kib, pool.node)}: this host has no such pool any more" for pool in missing]
    steps = plan_pools(machine, [pool for pool in config.pools if pool not in missing], floor_mib=config.floor_mib)
    outcomes = set_pools(host, machine, steps, drop_caches=config.drop_caches)
    short = [outcome.sentence() for outcome in outcomes if outcome.short]
    if config.on_shortfall != "warn":
        problems += short
    if config.shm_gid is not None:
        try:
            host.write_text(SHM_GROUP, f"{config.shm_gid}\n")
        except OSError as error:
            problems.append(f"vm.hugetlb_shm_group: the kernel refused {config.shm_gid} ({error.strerror or error})")
    return AtBoot(problems, short if config.on_shortfall == "warn" else [])


def main(_arguments: list[str]) -> int:
    """Entry of the program; what is not as wanted is said in the journal, and the unit fails."""
    try:
        problems, notes = set_at_boot(Host())
    except NumapinError as error:
        problems, notes = [str(error)], []
    for sentence in (*problems, *notes):
        sys.stderr.write(f"numapin-hugepages: {sentence}\n")
    return 1 if problems else 0
