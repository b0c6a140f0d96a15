# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole of site.yml on doubles of hosts: nothing to change, another strategy, a host that goes away meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.numapin.inference.tests.fleet.doubles import Fleet, as_wanted

SITE = "numapin.inference.site"


@pytest.mark.parametrize("strategy", ["linear", "free"])
def test_nothing_to_change(tmp_path: Path, strategy: str) -> None:
    ran = Fleet(3, tmp_path).run(SITE, ANSIBLE_STRATEGY=strategy)
    assert as_wanted(ran) == {}, ran.said
    assert ran.recap.keys() == {"localhost", "gpu000", "gpu001", "gpu002", "lb0", "lb1"}


def test_a_host_that_is_gone_from_the_beginning(tmp_path: Path) -> None:
    """Nothing is changed anywhere: the plan play ends for all, and the balancers refuse to lose its instances."""
    fleet = Fleet(3, tmp_path)
    ran = fleet.run(SITE, NUMAPIN_FLEET_GONE=f"{fleet.address(1)}:numa_facts")
    assert ran.code != 0
    assert ran.recap["gpu001"]["unreachable"] == 1
    assert "Set what the kernel does" not in ran.said
    assert "Render the configuration" not in ran.said
    assert ran.recap["lb0"]["failed"] == 1
    assert "The balancer would lose their instances" in ran.said


def test_a_host_that_goes_away_while_it_is_tuned(tmp_path: Path) -> None:
    """The others are done, it is told, and the balancers keep what they have."""
    fleet = Fleet(3, tmp_path)
    ran = fleet.run(SITE, NUMAPIN_FLEET_GONE=f"{fleet.address(1)}:kernel_settings")
    assert ran.code != 0
    assert ran.recap["gpu001"]["unreachable"] == 1
    others = {host: counts["failed"] + counts["changed"] for host, counts in ran.recap.items() if host != "gpu001"}
    assert others == dict.fromkeys(["localhost", "gpu000", "gpu002", "lb0", "lb1"], 0), ran.said
    assert ran.recap["gpu000"]["ok"] > 30
    assert "nginx: llama at http://127.0.0.1:80, answers" in ran.said
