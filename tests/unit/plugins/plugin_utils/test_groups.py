# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Instances over several hosts: which hosts are joined, what each member is given, what is refused."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.filter.plan_groups import groups as plan_groups
from ansible_collections.numapin.inference.plugins.filter.plan_instances import plan_instances
from ansible_collections.numapin.inference.plugins.plugin_utils._models import ModelError, parse_models
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import PlanError, joined
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    Facts,
    eight_gpus,
    gpu,
    machine,
    model,
)

SETTINGS = {"reserved_cpus": "", "housekeeping_cores": 1, "balancer_cores": 0, "reserved_memory_mib": 256}


def host(number: int, models: object, facts: Facts | None = None, **about: t.Any) -> Facts:
    """One host as the role tells of it."""
    address = f"192.0.2.{number}"
    return {
        "models": models,
        "facts": eight_gpus() if facts is None else facts,
        "address": address,
        "interfaces": {"lo": ["127.0.0.1"], "eth1": [address]},
        "settings": SETTINGS,
        **about,
    }


def hosts(number: int, models: object, **facts: Facts) -> dict[str, Facts]:
    return {f"gpu{one}": host(one, models, facts.get(f"gpu{one}")) for one in range(1, number + 1)}


def plans(fleet: dict[str, Facts], **options: t.Any) -> dict[str, dict[str, t.Any]]:
    """The plans of all hosts, as the role makes them."""
    found = plan_groups(fleet)
    planned = {
        name: plan_instances(about["facts"], about["models"], name, about["address"], fleet=found, **options)
        for name, about in fleet.items()
    }
    return {name: joined(plan, planned) for name, plan in planned.items()}


def four_gpus() -> Facts:
    return machine({0: "0-31,64-95", 1: "32-63,96-127"}, [gpu(index, index // 2) for index in range(4)], smt=64)


def cpu_host() -> Facts:
    return machine({0: "0-3"})


def refused(fleet: dict[str, Facts]) -> str:
    return "\n".join(plan_groups(fleet, fail=False)["problems"])


def test_tensor_inside_a_node_then_pipeline_over_nodes_and_hosts() -> None:
    made = plans(hosts(2, [model("big", hosts=2, tensor_parallel_size=8, spanning="pipeline")]))
    leader = made["gpu1"]["instances"][0]
    follower = made["gpu2"]["members"][0]
    assert made["gpu2"]["instances"] == []
    assert "members" not in made["gpu1"]
    for entry, rank in ((leader, 0), (follower, 1)):
        assert entry["name"] == "big-g0"
        assert entry["unit"] == "vllm@big-g0.service"
        assert (entry["tensor_parallel_size"], entry["pipeline_parallel_size"]) == (4, 4)
        assert entry["numa_bind_nodes"] == [0] * 4 + [1] * 4
        assert len(entry["gpus"]) == 8
        assert entry["group"]["rank"] == rank
        assert (entry["port"], entry["url"]) == (8000, "http://192.0.2.1:8000")
    assert leader["group"] | {"rank": 1} == follower["group"]
    assert leader["group"]["members"] == [
        {"host": "gpu1", "address": "192.0.2.1", "interface": "eth1"},
        {"host": "gpu2", "address": "192.0.2.2", "interface": "eth1"},
    ]
    assert [leader["group"][f"{name}_port"] for name in ("rendezvous", "guard", "engine", "last")] == [
        *(29500, 29501, 29502),
        29563,
    ]
    assert leader["weight"] == 16


def test_one_stage_per_host_stays_inside_one_node() -> None:
    entry = plans(hosts(2, [model("big", hosts=2, tensor_parallel_size=4)]))["gpu1"]["instances"][0]
    assert (entry["tensor_parallel_size"], entry["pipeline_parallel_size"]) == (4, 2)
    assert (entry["nodes"], entry["numa_bind_nodes"]) == ([0], [])


def test_stages_on_all_hosts_are_counted_together() -> None:
    asked = [model("big", hosts=2, tensor_parallel_size=4, pipeline_parallel_size=4)]
    entry = plans(hosts(2, asked))["gpu1"]["instances"][0]
    assert (entry["tensor_parallel_size"], entry["pipeline_parallel_size"], entry["nodes"]) == (4, 4, [0, 1])


def test_stages_on_different_hosts_ask_for_no_span_of_nodes() -> None:
    asked = [model("big", hosts=2, tensor_parallel_size=8, pipeline_parallel_size=2)]
    with pytest.raises(Exception, match="8 GPUs"):
        plans(hosts(2, asked))


def test_tensor_over_hosts_only_when_asked_for() -> None:
    asked = [model("tiny", hosts=2, device="cpu", tensor_parallel_size=2, across_hosts="tensor")]
    made = plans(hosts(2, asked, gpu1=cpu_host(), gpu2=cpu_host()))
    leader, follower = made["gpu1"]["instances"][0], made["gpu2"]["members"][0]
    for entry in (leader, follower):
        assert (entry["tensor_parallel_size"], entry["pipeline_parallel_size"]) == (2, 1)
        assert entry["omp_cpus"] == "1-3"
        assert entry["group"]["across"] == "tensor"
    assert leader["weight"] == 1


def test_groups_are_made_in_the_order_of_the_inventory_and_kept() -> None:
    asked = [model("big", hosts=2, tensor_parallel_size=4)]
    fleet = hosts(5, asked)
    made = plans(fleet)
    assert [group["hosts"] for group in plan_groups(fleet)["groups"]] == [["gpu1", "gpu2"], ["gpu3", "gpu4"]]
    assert "nobody is left for this one" in made["gpu5"]["warnings"][0]
    # gpu1 leaves: the other group stays, and the two that are alone find one another under the name that is free.
    left = {name: about | {"previous": made[name]} for name, about in fleet.items() if name != "gpu1"}
    again = plan_groups(left)["groups"]
    assert [(group["name"], group["hosts"]) for group in again] == [
        ("big-g0", ["gpu2", "gpu5"]),
        ("big-g1", ["gpu3", "gpu4"]),
    ]


def test_an_unlike_host_is_left_out_of_groups_by_number() -> None:
    asked = [model("big", hosts=2, tensor_parallel_size=2)]
    fleet = hosts(3, asked, gpu2=four_gpus())
    assert [group["hosts"] for group in plan_groups(fleet)["groups"]] == [["gpu1", "gpu3"]]
    assert plans(fleet)["gpu2"]["instances"] == []


def test_planning_again_gives_the_same_plan() -> None:
    asked = [model("small"), model("big", hosts=2, tensor_parallel_size=2, pipeline_parallel_size=2)]
    fleet = hosts(2, asked)
    first = plans(fleet)
    for name, about in fleet.items():
        about["previous"] = first[name]
    found = plan_groups(fleet)
    second = {
        name: plan_instances(about["facts"], asked, name, about["address"], previous=first[name], fleet=found)
        for name, about in fleet.items()
    }
    assert {name: joined(plan, second) for name, plan in second.items()} == first


def test_hosts_without_groups_plan_as_if_there_were_none() -> None:
    asked = [model("small")]
    alone = plan_instances(eight_gpus(), asked, "gpu1", "192.0.2.1")
    assert plans(hosts(2, asked))["gpu1"] == alone
    assert "members" not in alone
    assert all("group" not in entry for entry in alone["instances"])


def test_the_devices_next_to_the_gpus_are_named() -> None:
    facts = eight_gpus()
    facts["gpu_nic_pairs"] = [
        {"gpu": one["pci_address"], "nic": "eth1", "infiniband": f"mlx5_{number}", "path": path}
        for one in facts["gpus"]
        for number, path in ((one["node"], "PIX"), (5, "NODE"))
    ]
    asked = [model("big", hosts=2, tensor_parallel_size=8, spanning="pipeline")]
    made = plans(hosts(2, asked, gpu1=facts, gpu2=facts))
    assert made["gpu1"]["instances"][0]["group"]["ib_hcas"] == ["mlx5_0", "mlx5_1"]


@pytest.mark.parametrize("reserved", ["0", 0, "0-1", None])
def test_reserved_cpus_as_text_number_or_nothing(reserved: object) -> None:
    asked = [model("big", hosts=2, device="cpu")]
    about = {"facts": machine({0: "0-7"}), "settings": {**SETTINGS, "reserved_cpus": reserved}}
    fleet = {f"gpu{number}": host(number, asked) | about for number in (1, 2)}
    assert plan_groups(fleet)["groups"][0]["hosts"] == ["gpu1", "gpu2"]


# --- refused ----------------------------------------------------------------------------------------------------------


def test_three_hosts_of_which_one_has_half_the_gpus() -> None:
    asked = [model("big", hosts=["gpu1", "gpu2", "gpu3"], tensor_parallel_size=2)]
    message = refused(hosts(3, asked, gpu3=four_gpus()))
    assert "that are alike" in message
    assert "gpu1 has GPUs by node: 4 x NVIDIA H100" in message
    assert "gpu3 has GPUs by node: 2 x NVIDIA H100" in message
    assert "that are alike" in refused(hosts(3, [model("big", hosts=3, tensor_parallel_size=2)], gpu3=four_gpus()))


def test_a_host_in_two_groups() -> None:
    asked = [model("one", hosts=["gpu1", "gpu2"]), model("two", hosts=["gpu2", "gpu3"])]
    assert "gpu2 would be in the groups one-g0 and two-g0" in refused(hosts(3, asked))


def test_a_host_that_was_not_reached() -> None:
    asked = [model("big", hosts=2)]
    fleet = hosts(2, asked) | {"gpu2": host(2, asked, why_not="it was not reached")}
    assert "gpu2: it was not reached" in refused(fleet)


def test_a_host_that_is_not_in_the_inventory() -> None:
    assert "`hosts` names gpu7, not in the group inference: gpu1, gpu2" in refused(
        hosts(2, [model("big", hosts=["gpu1", "gpu7"])])
    )


def test_a_host_without_the_entry() -> None:
    asked = [model("big", hosts=["gpu1", "gpu2"])]
    assert "`hosts` names gpu2, and vllm_models has no such entry there" in refused(
        hosts(1, asked) | {"gpu2": host(2, [])}
    )


def test_entries_that_differ() -> None:
    fleet = {"gpu1": host(1, [model("big", hosts=2)]), "gpu2": host(2, [model("big", hosts=2, port=9000)])}
    assert "entries on gpu1 and gpu2 differ" in refused(fleet)


def test_addresses_that_nobody_reaches_or_has() -> None:
    asked = [model("big", hosts=2)]
    assert "the others cannot reach" in refused(hosts(1, asked) | {"gpu2": host(2, asked, address="127.0.0.1")})
    strange = hosts(1, asked) | {"gpu2": host(2, asked, address="192.0.2.99")}
    assert "192.0.2.99" in refused(strange)
    assert "eth1 192.0.2.2" in refused(strange)


def test_an_interface_can_be_said() -> None:
    asked = [model("big", hosts=2)]
    fleet = hosts(1, asked) | {"gpu2": host(2, asked, interfaces=None, interface="bond0")}
    assert plan_groups(fleet)["groups"][0]["members"][1]["interface"] == "bond0"


def test_ports_of_a_group_belong_to_no_instance() -> None:
    with pytest.raises(Exception, match="has ports 29500 to 29563"):
        plans(hosts(2, [model("big", hosts=2, tensor_parallel_size=4), model("small", port=29501)]))


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(Exception, match="16 GPUs"):
        plans(hosts(2, [model("big", hosts=2, tensor_parallel_size=16)]))


def test_a_leader_without_a_plan_is_told() -> None:
    made = plans(hosts(2, [model("big", hosts=2)]))
    with pytest.raises(PlanError, match="led by gpu1"):
        joined(made["gpu2"], {})


def test_a_leader_that_serves_its_own_host_alone() -> None:
    made = plans(hosts(2, [model("big", hosts=2)]))
    made["gpu1"]["address"] = "127.0.0.1"
    with pytest.raises(PlanError, match="where its other hosts cannot ask it"):
        joined(made["gpu2"], made)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hosts": 1}, "`hosts` is 1"),
        ({"hosts": ["gpu1"]}, "`hosts` is"),
        ({"hosts": ["gpu1", "gpu1"]}, "names gpu1 twice"),
        ({"hosts": 2, "instances": 2}, "has `hosts` and `instances`"),
        ({"across_hosts": "tensor"}, "has `across_hosts` and no `hosts`"),
        ({"hosts": 2, "across_hosts": "both"}, "`across_hosts` is 'both'"),
        ({"hosts": 2, "across_hosts": "tensor", "tensor_parallel_size": 3}, "Allowed are multiples of 2"),
        ({"hosts": 2, "across_hosts": "tensor", "tensor_parallel_size": 2, "pipeline_parallel_size": 2}, "exclude"),
        ({"hosts": 2, "pipeline_parallel_size": 3}, "Allowed are multiples of 2"),
        ({"hosts": 2, "spanning": "interleave"}, "`spanning: interleave`"),
    ],
)
def test_wishes_that_cannot_be_meant(keys: dict[str, t.Any], said: str) -> None:
    with pytest.raises(ModelError, match=said.replace("[", r"\[")):
        parse_models([model("big", **keys)])


def test_a_preview_without_the_fleet_leaves_it_out() -> None:
    plan = plan_instances(eight_gpus(), [model("big", hosts=2)], "gpu1", "192.0.2.1")
    assert plan["instances"] == []
    assert "planned with all of the fleet" in plan["warnings"][0]
