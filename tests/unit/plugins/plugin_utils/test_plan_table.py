# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans as people read them."""

from __future__ import annotations

import pytest

from ansible_collections.numapin.inference.plugins.plugin_utils._plan_table import PlanTableError, plan_table
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    cpu_only,
    eight_gpus,
    machine,
    mig,
    model,
)


def test_two_hosts_and_their_warnings() -> None:
    plans = [
        plan_host(eight_gpus(), [model(tensor_parallel_size=4)], host="gpu1", address="192.0.2.11"),
        plan_host(machine({0: "0"}), [model("tiny")], host="small", address="192.0.2.12"),
    ]
    gpus0 = ",".join(f"GPU-{i:08x}" for i in range(4))
    gpus1 = ",".join(f"GPU-{i:08x}" for i in range(4, 8))
    dashes = "-" * len(gpus0)
    assert plan_table(plans) == (
        f"host   instance  model  node  CPUs          housekeeping  {'GPUs':{len(gpus0)}}  port\n"
        f"-----  --------  -----  ----  ------------  ------------  {dashes}  ----\n"
        f"gpu1   llama-n0  llama  0     1-31,65-95    0,64          {gpus0}  8000\n"
        f"gpu1   llama-n1  llama  1     33-63,97-127  32,96         {gpus1}  8001\n"
        f"small  tiny-n0   tiny   0     0             -             {'-':{len(gpus0)}}  8000\n"
        "\n"
        "warnings\n"
        "- small: node 0 has 1 core and keeps none of them for housekeeping instead of 1, so that one is left for"
        " instances"
    )


def test_one_plan() -> None:
    plan = plan_host(cpu_only(), [model("tiny")], host="h", address="192.0.2.1")
    assert plan_table(plan) == plan_table([plan])
    assert "warnings" not in plan_table(plan)


def test_nothing_planned() -> None:
    plan = plan_host(cpu_only(), [], host="h", address="192.0.2.1")
    assert plan_table(plan).splitlines()[2].split() == ["h", "no", "instance", *["-"] * 6]
    assert plan_table([]) == "no host is planned"


@pytest.mark.parametrize("given", [None, "text", 3, {}, [None], [{"host": "h", "instances": [{}], "warnings": []}]])
def test_what_is_no_plan(given: object) -> None:
    with pytest.raises(PlanTableError, match=r"is not a plan. Give what the filter numapin.inference.plan_instances"):
        plan_table(given)


def test_reasons() -> None:
    plan = plan_host(cpu_only(), [model("tiny", instances=1)], host="h", address="192.0.2.1", balancer_cores=1)
    assert plan_table(plan, reasons=True) == plan_table(plan) + "\n" + "\n".join(
        [
            "",
            "reasons",
            "h nginx: CPUs 1, node 0 is the first node, as the node of no network card that is up is known",
            "h tiny-n0:",
            *(f"- {reason}" for reason in plan["instances"][0]["reasons"]),
        ]
    )


def test_a_mig_device_is_short() -> None:
    plan = plan_host(machine({0: "0-3"}, [mig(3, 0, "1g")]), [model()], host="h", address="192.0.2.1")
    assert " MIG-00000003 " in plan_table(plan)
