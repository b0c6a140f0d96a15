# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every machine is rebooted, and nobody comes to help: all is as it was. Then Ansible has nothing to do."""

from __future__ import annotations

import subprocess
import typing as t

import checks
import pytest
from inside import Inside
from scenario import REPOSITORY
from site_runs import run_site

REBOOT_SECONDS = 600


@pytest.fixture(scope="module")
def seen(lab: t.Any) -> dict[str, Inside]:
    """One look at each machine, after all have booted anew and served."""
    boots = {name: host.check_output("cat /proc/sys/kernel/random/boot_id") for name, host in lab.hosts.items()}
    lab.hang_up()
    subprocess.run(
        ["python3", str(REPOSITORY / "tests" / "lab"), "--purpose=molecule", "reboot"],
        check=True,
        timeout=REBOOT_SECONDS,
    )
    now = {name: host.check_output("cat /proc/sys/kernel/random/boot_id") for name, host in lab.hosts.items()}
    assert not set(boots.values()) & set(now.values())
    checks.serves_soon(lab)
    checks.service(lab)
    return checks.looked_at(lab)


def test_placement_is_the_same(lab: t.Any, seen: dict[str, Inside]) -> None:
    """The same plans as before, held again."""
    for name, inside in seen.items():
        checks.placement(name, lab.plans[name], inside, "rebooted")


def test_gpus_are_the_same(lab: t.Any, seen: dict[str, Inside]) -> None:
    """By UUID, whatever order the kernel found them in."""
    for name, inside in seen.items():
        checks.gpus(name, lab.plans[name], inside)


def test_tuning_is_the_same(seen: dict[str, Inside]) -> None:
    """Without Ansible."""
    for name, inside in seen.items():
        checks.tuning(name, inside)


@pytest.mark.usefixtures("seen")
def test_nothing_complains_after_the_boot(lab: t.Any) -> None:
    """A boot with our configuration says nothing that a clean one does not."""
    for name, host in lab.hosts.items():
        checks.health(name, host)


@pytest.mark.usefixtures("seen")
def test_ansible_has_nothing_to_do(lab: t.Any) -> None:
    """site.yml on the rebooted fleet."""
    run = run_site()
    assert run.status == 0, run.output
    changed = {name: counts["changed"] for name, counts in run.recap.items()}
    assert changed == dict.fromkeys(["localhost", *lab.hosts], 0), run.output
