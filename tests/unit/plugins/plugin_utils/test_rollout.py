# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is drained, in which order, and what is refused: pure functions on plans."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.filter.rollout_batches import FilterModule
from ansible_collections.numapin.inference.plugins.filter.rollout_too_few import FilterModule as TooFew
from ansible_collections.numapin.inference.plugins.plugin_utils._rollout import (
    RolloutError,
    batches,
    host_changes,
    serving_plan,
    too_few,
)
from ansible_collections.numapin.inference.plugins.plugin_utils._upstreams import upstreams

Entry = dict[str, t.Any]
Plan = dict[str, t.Any]


def entry(name: str, **more: t.Any) -> Entry:
    """An instance ``MODEL-nNODE`` on the CPU, each on CPUs and a port of its own."""
    model, _dash, node = name.rpartition("-n")
    number = int(node.replace("-", ""))
    place = {"device": "cpu", "cpus": str(number), "gpus": [], "port": 8000 + number}
    return {
        "name": name,
        "model": model,
        "unit": f"vllm@{name}.service",
        "served_names": [model],
        "weight": 1,
        **place,
    } | more


def gpu(name: str, *gpus: str, **more: t.Any) -> Entry:
    return entry(name, device="gpu", gpus=list(gpus), **more)


def plan(*entries: Entry, host: str = "h1", address: str = "192.0.2.1") -> Plan:
    return {"host": host, "address": address, "instances": list(entries)}


def action(name: str, what: str) -> Entry:
    return {"unit": f"vllm@{name}.service", "action": what, "reason": f"it has to {what}", "restarts": 0}


def record(by: str = "rollout", rollout: str = "r1") -> dict[str, str]:
    return {"since": "2026-11-25T02:40:11Z", "by": by, "reason": "", "rollout": rollout}


def names(changes: list[Entry]) -> list[tuple[list[str], list[str]]]:
    return [(change["out"], change["in"]) for change in changes]


# On one host


def test_nothing_to_do_is_no_change() -> None:
    one = plan(entry("m-n0"))
    assert host_changes(one, one, [action("m-n0", "none")], ["m-n0"], {}) == []


def test_what_serves_is_changed_by_itself_and_what_does_not_at_once() -> None:
    both = plan(entry("m-n0"), entry("m-n1"))
    actions = [action("m-n0", "restart"), action("m-n1", "restart")]
    changes = host_changes(both, both, actions, ["m-n1"], {})
    assert changes == [{"out": ["m-n1"], "in": ["m-n1"], "reason": "it has to restart"}]
    assert names(host_changes(both, both, actions, ["m-n0", "m-n1"], {})) == [
        (["m-n0"], ["m-n0"]),
        (["m-n1"], ["m-n1"]),
    ]


def test_a_first_start_holds_nobody_up() -> None:
    actions = [action("m-n0", "none"), action("m-n1", "start")]
    assert host_changes(plan(entry("m-n0"), entry("m-n1")), plan(entry("m-n0")), actions, ["m-n0"], {}) == []


def test_what_is_no_longer_planned_is_drained_before_it_goes() -> None:
    before, after = plan(entry("m-n0"), entry("old-n1")), plan(entry("m-n0"))
    actions = [action("m-n0", "none"), action("old-n1", "stop")]
    assert names(host_changes(after, before, actions, ["m-n0", "old-n1"], {})) == [(["old-n1"], [])]
    assert host_changes(after, before, actions, ["m-n0"], {}) == [], "nobody is served by it"


def test_new_instances_wait_for_what_others_still_hold() -> None:
    before = plan(gpu("m-n0", "A", "B", port=8000))
    after = plan(gpu("m-n0-1", "A", port=8010), gpu("m-n0-2", "B", port=8011), gpu("m-n1", "C"))
    actions = [action(name, "start") for name in ("m-n0-1", "m-n0-2", "m-n1")] + [action("m-n0", "stop")]
    assert names(host_changes(after, before, actions, ["m-n0"], {})) == [(["m-n0"], ["m-n0-1", "m-n0-2"])]


def test_two_that_swap_gpus_are_changed_together() -> None:
    before = plan(gpu("m-n0", "A"), gpu("m-n1", "B"), gpu("m-n2", "C"))
    after = plan(gpu("m-n0", "B"), gpu("m-n1", "A"), gpu("m-n2", "C"))
    actions = [action(name, "restart") for name in ("m-n0", "m-n1", "m-n2")]
    changes = names(host_changes(after, before, actions, ["m-n0", "m-n1", "m-n2"], {}))
    assert changes == [(["m-n0", "m-n1"], ["m-n0", "m-n1"]), (["m-n2"], ["m-n2"])]


def test_cpus_of_gpu_instances_may_overlap_for_a_moment_but_not_of_cpu_instances() -> None:
    before, after = (
        (entry("m-n0", cpus="0-3"), entry("m-n1", cpus="4-7")),
        (entry("m-n0", cpus="0-4"), entry("m-n1", cpus="5-7")),
    )
    actions = [action("m-n0", "restart"), action("m-n1", "restart")]
    serving = ["m-n0", "m-n1"]
    assert len(host_changes(plan(*after), plan(*before), actions, serving, {})) == 1
    on_gpus = [plan(*({**one, "device": "gpu", "gpus": [one["name"]]} for one in group)) for group in (after, before)]
    assert len(host_changes(on_gpus[0], on_gpus[1], actions, serving, {})) == 2


def test_what_an_earlier_rollout_left_is_taken_up_whatever_it_does_now() -> None:
    one = plan(entry("m-n0"))
    (change,) = host_changes(one, one, [action("m-n0", "none")], [], {"m-n0": record()})
    assert (change["out"], change["in"]) == (["m-n0"], ["m-n0"])
    assert "2026-11-25T02:40:11Z" in change["reason"]
    gone = host_changes(plan(), one, [], [], {"m-n0": record()})
    assert names(gone) == [(["m-n0"], [])]
    assert host_changes(one, one, [action("m-n0", "none")], [], {"m-n0": record("person", "")}) == []


# The plan as it is now


def test_held_instances_are_what_they_were() -> None:
    before = plan(entry("m-n0", port=8000), entry("old-n1"))
    after = plan(entry("m-n0", port=9000), entry("m-n2"), entry("m-n3"))
    now = serving_plan(after, before, ["m-n0", "old-n1", "m-n3"])
    assert [(one["name"], one["port"]) for one in now["instances"]] == [
        ("m-n0", 8000),
        ("m-n2", 8002),
        ("old-n1", 8001),
    ]
    assert serving_plan(after, before, []) == after
    assert serving_plan(after, None, ["m-n0"])["instances"] == after["instances"][1:]


def test_a_held_instance_keeps_the_address_at_which_it_listens() -> None:
    before, after = plan(entry("m-n0"), address="127.0.0.1"), plan(entry("m-n0"), entry("m-n1"), address="192.0.2.1")
    now = serving_plan(after, before, ["m-n0"])
    (upstream,) = upstreams([now])
    assert [server["endpoint"] for server in upstream["servers"]] == ["127.0.0.1:8000", "192.0.2.1:8001"]


# Over all hosts


def about(*entries: Entry, host: str, change: t.Sequence[str] = (), **more: t.Any) -> Entry:
    """A host that serves ``entries`` and restarts those named in ``change``."""
    whole = plan(*entries, host=host)
    changes = [{"out": [name], "in": [name], "reason": ""} for name in change]
    ready = [one["name"] for one in entries]
    return {"plan": whole, "serving": whole, "changes": changes, "ready": ready, "drained": {}, "balanced": True} | more


def fleet(count: int, *models: str, **more: t.Any) -> dict[str, Entry]:
    """Hosts that each serve one instance of each model and restart them all."""
    entries = [entry(f"{model}-n{number}") for number, model in enumerate(models)]
    return {
        f"h{number}": about(*entries, host=f"h{number}", change=[one["name"] for one in entries], **more)
        for number in range(count)
    }


def order(hosts: dict[str, Entry], **more: t.Any) -> list[str]:
    planned = batches(hosts, shared=more.pop("shared", True), **more)
    assert planned["refusals"] == []
    return [batch["title"] for batch in planned["batches"]]


def test_one_instance_of_a_model_at_a_time() -> None:
    assert order(fleet(3, "m")) == ["m-n0 on h0", "m-n0 on h1", "m-n0 on h2"]


def test_different_models_are_changed_at_the_same_time() -> None:
    assert order(fleet(2, "a", "b")) == ["a-n0 on h0; b-n1 on h0", "a-n0 on h1; b-n1 on h1"]


def test_batches_are_as_large_as_asked_for_and_leave_enough() -> None:
    assert [title.count("on") for title in order(fleet(5, "m"), batch=2)] == [2, 2, 1]
    assert [title.count("on") for title in order(fleet(3, "m"), batch=3)] == [2, 1], "one has to go on serving"
    assert [title.count("on") for title in order(fleet(3, "m"), batch=3, minimum_healthy=2)] == [1, 1, 1]


def test_the_last_instance_is_refused_unless_that_is_wanted() -> None:
    refused = batches(fleet(1, "m"), shared=True)
    (message,) = refused["refusals"]
    assert (
        message == "model m: of 1 instances that serve it (m-n0 on h0) only 0 would be left while m-n0 on h0 is changed"
    )
    allowed = batches(fleet(1, "m"), shared=True, allow_downtime=True)
    assert (allowed["refusals"], allowed["warnings"]) == ([], [message])
    assert [batch["title"] for batch in allowed["batches"]] == ["m-n0 on h0"]
    by_number = batches(fleet(1, "m"), shared=True, minimum_healthy=0)
    assert (by_number["refusals"], by_number["warnings"]) == ([], [message])


def test_who_is_drained_or_down_does_not_count() -> None:
    whys: list[Entry] = [{"drained": {"m-n0": record("person", "")}}, {"ready": []}]
    for missing in whys:
        hosts = fleet(2, "m")
        hosts["h1"] = about(entry("m-n0"), host="h1", **missing)
        assert len(batches(hosts, shared=True)["refusals"]) == 1, missing


def test_a_drained_one_can_be_changed_at_any_time_and_stays_out_for_a_person() -> None:
    hosts = fleet(2, "m")
    hosts["h0"]["drained"] = {"m-n0": record("person", "")}
    refused = batches(hosts, shared=True)
    assert [batch["title"] for batch in refused["batches"]] == ["m-n0 on h0", "m-n0 on h1"]
    assert len(refused["refusals"]) == 1, "h1 would leave none: h0 stays drained"


def test_an_unfinished_rollout_is_finished_first_and_counts_from_then_on() -> None:
    hosts = fleet(2, "m")
    hosts["h1"]["drained"] = {"m-n0": record()}
    assert order(hosts) == ["m-n0 on h1", "m-n0 on h0"]


def test_each_host_for_itself_where_it_balances_for_itself() -> None:
    assert len(batches(fleet(2, "m"), shared=False)["refusals"]) == 2
    two = {name: about(entry("m-n0"), entry("m-n1"), host=name, change=["m-n0", "m-n1"]) for name in ("h0", "h1")}
    assert order(two, shared=False) == ["m-n0 on h0; m-n0 on h1", "m-n1 on h0; m-n1 on h1"]


def test_without_a_balancer_nobody_is_served() -> None:
    assert order(fleet(2, "m", balanced=False)) == ["m-n0 on h0; m-n0 on h1"]


def test_what_goes_is_last_and_a_model_that_goes_needs_no_peers() -> None:
    hosts = fleet(2, "m")
    old = entry("old-n5")
    hosts["h0"]["serving"] = plan(entry("m-n0"), old, host="h0")
    hosts["h0"]["ready"] = ["m-n0", "old-n5"]
    hosts["h0"]["changes"].insert(0, {"out": ["old-n5"], "in": [], "reason": ""})
    assert order(hosts) == ["m-n0 on h0; old-n5 on h0 (goes: old-n5)", "m-n0 on h1"]


def test_a_host_that_gives_a_model_up_leaves_fewer() -> None:
    hosts = fleet(2, "m")
    hosts["h1"] = about(host="h1", serving=plan(entry("m-n0"), host="h1"), ready=["m-n0"])
    hosts["h1"]["changes"] = [{"out": ["m-n0"], "in": [], "reason": ""}]
    assert order(hosts) == ["m-n0 on h0", "m-n0 on h1 (goes: m-n0)"]


@pytest.mark.parametrize(("option", "value"), [("batch", 0), ("minimum_healthy", -1)])
def test_numbers_that_make_no_sense(option: str, value: int) -> None:
    given: dict[str, t.Any] = {option: value}
    with pytest.raises(RolloutError, match=f"rollout_{option} is {value}"):
        batches({}, shared=True, **given)


def test_the_filter_takes_numbers_as_texts() -> None:
    rollout_batches = FilterModule().filters()["rollout_batches"]
    assert rollout_batches(fleet(3, "m"), batch="2") == batches(fleet(3, "m"), shared=True, batch=2)


# Just before a batch


def test_those_that_stay_must_answer_now() -> None:
    hosts = fleet(3, "m")
    first = batches(hosts, shared=True)["batches"][0]
    good = {"name": "m-n0", "state": "ready", "detail": ""}
    bad = {"name": "m-n0", "state": "loading", "detail": "/health answers 503"}
    assert too_few(hosts, first, {"h1": [bad], "h2": [good]}, shared=True, minimum_healthy=1) == []
    (problem,) = too_few(hosts, first, {"h1": [bad], "h2": [good]}, shared=True, minimum_healthy=2)
    assert problem == (
        "model m: 1 other instances answer, but 2 must while m-n0 on h0 is changed; m-n0 on h1: /health answers 503"
    )
    assert "m-n0 on h2: not asked" in too_few(hosts, first, {"h1": [bad]}, shared=True, minimum_healthy=1)[0]


def test_those_that_stay_must_be_reached_by_every_balancer() -> None:
    hosts = fleet(2, "m")
    first = batches(hosts, shared=True)["batches"][0]
    answers = {"h1": [{"name": "m-n0", "state": "ready", "detail": ""}]}
    there = {"name": "m-n0 on h1", "serving": True, "detail": "idle"}
    gone = {"name": "m-n0 on h1", "serving": False, "detail": "/health does not answer: timeout"}
    asked = TooFew().filters()["rollout_too_few"]
    assert asked(hosts, first, answers, seen={"b1": [there], "b2": []}) == []
    (problem,) = asked(hosts, first, answers, seen={"b1": [there], "b2": [gone]})
    assert problem.endswith("m-n0 on h1: b2 does not reach it (/health does not answer: timeout)")


def test_nobody_is_asked_for_where_nothing_is_balanced() -> None:
    hosts = fleet(1, "m", balanced=False)
    first = batches(hosts, shared=True)["batches"][0]
    assert too_few(hosts, first, {}, shared=True, minimum_healthy=1) == []


# --- Instances over several hosts -------------------------------------------------------------------------------------


def part(rank: int, **keys: t.Any) -> dict[str, t.Any]:
    """What one of two hosts has of big-g0."""
    members = [{"host": host, "address": "192.0.2.1", "interface": "eth1"} for host in ("gpu1", "gpu2")]
    entry = {"name": "big-g0", "model": "big", "port": 8000, "gpus": [f"GPU-{rank}"], "device": "gpu", "cpus": "0-3"}
    return {**entry, "group": {"rank": rank, "members": members}, **keys}


def pair(*changed: str, out: tuple[str, ...] = ("big-g0",), into: tuple[str, ...] = ("big-g0",)) -> dict[str, t.Any]:
    """Two hosts that have big-g0 together, and one that has big-n0 of the same model."""
    alone = {"name": "big-n0", "model": "big", "port": 8000, "gpus": ["GPU-9"], "device": "gpu", "cpus": "0-3"}
    plans: dict[str, dict[str, t.Any]] = {
        "gpu1": {"instances": [part(0)]},
        "gpu2": {"instances": [], "members": [part(1)]},
        "gpu3": {"instances": [alone]},
    }
    change = {"out": list(out), "in": list(into), "reason": "it runs with another configuration"}
    single = {"out": ["big-n0"], "in": ["big-n0"], "reason": "it runs with another configuration"}
    return {
        host: {
            "plan": plan if into or host == "gpu3" else {"instances": []},
            "serving": plan,
            "changes": [single if host == "gpu3" else change] if host in changed else [],
            "ready": [entry["name"] for entry in plan["instances"]],
            "drained": {},
            "balanced": True,
        }
        for host, plan in plans.items()
    }


@pytest.mark.parametrize("changed", [("gpu1",), ("gpu2",), ("gpu1", "gpu2")])
def test_all_hosts_of_an_instance_are_changed_at_once(changed: tuple[str, ...]) -> None:
    order = batches(pair(*changed), shared=True)
    both = {"out": ["big-g0"], "in": ["big-g0"]}
    assert order["refusals"] == []
    assert [batch["hosts"] for batch in order["batches"]] == [
        {"gpu1": {**both, "with": ["gpu2"]}, "gpu2": {**both, "with": ["gpu1"]}}
    ]


def test_a_group_and_another_instance_of_its_model_go_one_after_the_other() -> None:
    order = batches(pair("gpu1", "gpu2", "gpu3"), shared=True)
    assert order["refusals"] == []
    assert [sorted(batch["hosts"]) for batch in order["batches"]] == [["gpu1", "gpu2"], ["gpu3"]]


def test_a_group_that_serves_alone_is_not_taken_out() -> None:
    hosts = pair("gpu1", "gpu2")
    hosts["gpu3"]["ready"] = []
    assert "big-g0 on gpu1" in batches(hosts, shared=True)["refusals"][0]


def test_a_group_that_goes_is_stopped_everywhere() -> None:
    order = batches(pair("gpu1", into=()), shared=True)
    gone = {"out": ["big-g0"], "in": []}
    assert order["batches"][0]["hosts"] == {"gpu1": {**gone, "with": ["gpu2"]}, "gpu2": {**gone, "with": ["gpu1"]}}


def test_a_followers_part_is_changed_where_the_group_serves() -> None:
    plan = {"instances": [], "members": [part(1, cpus="0-1")]}
    previous = {"instances": [], "members": [part(1)]}
    actions = [{"unit": "vllm@big-g0.service", "action": "restart", "reason": "it runs with another configuration"}]
    assert host_changes(plan, previous, actions, ["big-g0"], {})[0]["out"] == ["big-g0"]
    assert host_changes(plan, previous, actions, [], {}) == []


def test_what_is_held_stays_a_member() -> None:
    plan = {"address": "192.0.2.2", "instances": [], "members": [part(1, cpus="0-1")]}
    previous = {"address": "192.0.2.2", "instances": [], "members": [part(1)]}
    assert serving_plan(plan, previous, ["big-g0"])["members"][0]["cpus"] == "0-3"
    assert serving_plan(plan, previous, [])["members"][0]["cpus"] == "0-1"
    gone = {"address": "192.0.2.2", "instances": []}
    assert serving_plan(gone, previous, ["big-g0"])["members"] == previous["members"]
    assert serving_plan(gone, previous, []) == gone


def test_a_follower_has_no_port_that_another_could_want() -> None:
    """Port 8000 is the leader's: an instance of the follower's host with that port is none of its business."""
    alone = {"name": "big-n0", "model": "big", "port": 8000, "gpus": ["GPU-9"], "device": "gpu", "cpus": "0-3"}
    plan = {"instances": [alone], "members": [part(1)]}
    actions = [
        {"unit": "vllm@big-g0.service", "action": "restart", "reason": ""},
        {"unit": "vllm@big-n0.service", "action": "start", "reason": ""},
    ]
    changes = host_changes(plan, {"instances": [], "members": [part(1)]}, actions, ["big-g0"], {})
    assert [change["in"] for change in changes] == [["big-g0"]]


def test_instances_of_two_hosts_make_room_for_one_that_they_have_together() -> None:
    """Both are out at once, whatever the batch is, as long as another one serves."""
    hosts = pair("gpu1", "gpu2")
    for host in ("gpu1", "gpu2"):
        old = {"name": "big-n0", "model": "big", "port": 8000, "gpus": ["GPU-0"], "device": "gpu", "cpus": "0-3"}
        change = {"out": ["big-n0"], "in": ["big-g0"], "reason": "it is no longer planned"}
        hosts[host] |= {"serving": {"instances": [old]}, "ready": ["big-n0"], "changes": [change]}
    order = batches(hosts, shared=True)
    assert order["refusals"] == []
    assert [batch["hosts"] for batch in order["batches"]] == [
        {
            "gpu1": {"out": ["big-n0"], "in": ["big-g0"], "with": ["gpu2"]},
            "gpu2": {"out": ["big-n0"], "in": ["big-g0"], "with": ["gpu1"]},
        }
    ]
    hosts["gpu3"]["ready"] = []
    assert "only 1 would be left" in batches(hosts, shared=True, minimum_healthy=2)["refusals"][0]
