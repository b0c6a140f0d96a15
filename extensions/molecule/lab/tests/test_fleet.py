# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fleet as site.yml left it, seen from inside with the machines' own tools."""

from __future__ import annotations

import typing as t

import checks
import pytest
from inside import Inside, parse_list


@pytest.fixture(scope="module")
def seen(lab: t.Any) -> dict[str, Inside]:
    """One look at each machine, after it has served."""
    checks.service(lab)
    return checks.looked_at(lab)


def test_every_thread_and_page_is_where_the_plan_says(lab: t.Any, seen: dict[str, Inside]) -> None:
    """Four instances, one on each node of two machines."""
    assert len(lab.endpoints()) == 4
    for name, inside in seen.items():
        checks.placement(name, lab.plans[name], inside, "deployed")


def test_systemd_binds_one_machine_and_numactl_the_other(lab: t.Any, seen: dict[str, Inside]) -> None:
    """What holds above holds for either; the fence is systemd's on both."""
    for name, policy in (("inference1", "NUMAPolicy=bind"), ("inference2", "NUMAPolicy=n/a")):
        for entry in lab.plans[name]["instances"]:
            starts = seen[name].units[entry["unit"]].starts
            (node,) = entry["nodes"]
            by_numactl = f"/usr/bin/numactl --cpunodebind={node} --membind={node}"
            assert policy in starts.split(), starts
            assert (by_numactl in starts) is (name == "inference2"), starts


def test_gpus_by_uuid_are_the_nodes_own(lab: t.Any, seen: dict[str, Inside]) -> None:
    """What the processes see, held against sysfs and lspci."""
    for name, inside in seen.items():
        checks.gpus(name, lab.plans[name], inside)


def test_the_kernel_is_tuned(seen: dict[str, Inside]) -> None:
    """Settings and interrupts, as the kernel's own files say."""
    for name, inside in seen.items():
        checks.tuning(name, inside)


def test_no_thread_can_leave(lab: t.Any, seen: dict[str, Inside]) -> None:
    """The fence: even root cannot move a thread to a CPU that its control group does not have."""
    name = lab.inference[0]
    host, unit = lab.hosts[name], next(iter(seen[name].units.values()))
    pid = unit.processes[-1].pid
    every = ",".join(str(cpu) for cpus in seen[name].node_cpus.values() for cpu in sorted(cpus))
    (outside, *_more) = sorted(parse_list(every) - unit.cpus)
    refused = host.run(f"taskset -acp {outside} {pid}")
    assert refused.rc != 0
    assert "Invalid argument" in refused.stderr
    host.run(f"taskset -acp {every} {pid}")
    now = host.check_output(f"taskset -acp {pid}")
    assert {parse_list(line.rpartition(": ")[2]) for line in now.splitlines()} == {unit.cpus}


def test_nothing_complains(lab: t.Any) -> None:
    """Journal, kernel log and units."""
    for name, host in lab.hosts.items():
        checks.health(name, host)
