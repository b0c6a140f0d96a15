# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the internal variables of the roles say, of inventories that no other test has."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

TOP = Path(__file__).resolve().parents[2]


def value(role: str, name: str, **given: t.Any) -> t.Any:
    """Return what a default or internal variable of a role is with ``given`` in place of its neighbours."""
    found: dict[str, t.Any] = {}
    for part in ("defaults", "vars"):
        found |= yaml.safe_load((TOP / "roles" / role / part / "main.yml").read_text(encoding="utf-8"))
    templates = {key: trust_as_template(text) if isinstance(text, str) else text for key, text in found.items()}
    return templated("{{ " + name + " }}", {**templates, **given})


def templated(text: str, variables: dict[str, t.Any]) -> t.Any:
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text))


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ([{"name": "digests", "sha256": ["1f3b"]}], ""),
        ([{"name": "digests", "sha256": ["1f3b"]}, {"name": "search", "keys": ["k1", "k2"]}], "k1"),
        ([], "vllms-own"),
    ],
)
def test_nginx_is_asked_with_the_first_key_that_is_known(keys: list[dict[str, t.Any]], key: str) -> None:
    assert value("verify", "verify_balancer_api_key", load_balancer_keys=keys, verify_api_key="vllms-own") == key


@pytest.mark.parametrize(
    ("reached", "changes", "missing"),
    [
        (["a", "b"], ["a", "b"], []),
        (["a"], ["a", "b"], ["b"]),  # it failed after its changes were known
        (["a", "b"], ["a"], ["b"]),  # it failed before
        (["a"], ["a"], ["b"]),
    ],
)
def test_a_host_that_failed_in_this_run_refuses_the_rollout(
    reached: list[str], changes: list[str], missing: list[str]
) -> None:
    refusals = value(
        "vllm",
        "__vllm_rollout_refusals",
        groups={"inference": ["a", "b"]},
        ansible_play_hosts=reached,
        __vllm_rollout_hosts={name: {} for name in changes},
        __vllm_rollout_order={"refusals": []},
        __vllm_balancers=["a"],
        __vllm_balancers_reached=["a"],
    )
    said = f"left out of this run (--limit): {', '.join(missing)}. "
    assert [said in text for text in refusals] == [True] * len(missing)


@pytest.mark.parametrize(
    ("given", "refusals"),
    [
        ({"host": "a,b"}, []),
        ({"host": "a", "instance": "m-n0"}, ["instance is m-n0, and remove.yml takes whole hosts"]),
        ({"instance": ["m-n0", "m-n1"]}, ["instance is m-n0, m-n1, and remove.yml takes", "Which hosts? -e host=HOST"]),
        ({}, ["Which hosts? -e host=HOST"]),
    ],
)
def test_whole_hosts_are_removed_and_nothing_less(given: dict[str, t.Any], refusals: list[str]) -> None:
    plans = {host: {"vllm_plan": {"instances": [{"name": "m-n0"}]}} for host in "ab"}
    found = value("vllm", "__vllm_remove_refusals", groups={"inference": ["a", "b"]}, hostvars=plans, **given)
    assert [text.startswith(start) for text, start in zip(found, refusals, strict=True)] == [True] * len(refusals)


@pytest.mark.parametrize(
    ("may_be_none", "hosts", "start"),
    [
        (False, "b", "No instance is deployed that is meant; deployed are: m-n0"),
        (True, "b", None),
        (True, "c", "host has c, not in the group inference: a, b"),
        (True, "", "Which instances?"),
    ],
)
def test_only_a_removal_goes_on_where_nothing_is_deployed(may_be_none: bool, hosts: str, start: str | None) -> None:
    refusals = value(
        "vllm",
        "__vllm_meant_refusals",
        host=hosts or [],
        groups={"inference": ["a", "b"]},
        hostvars={"a": {"vllm_plan": {"instances": [{"name": "m-n0"}]}}, "b": {"vllm_plan": {"instances": []}}},
        __vllm_all_meant=[],
        __vllm_meant_must_be_said=True,
        __vllm_meant_may_be_none=may_be_none,
    )
    assert [text[: len(start or "")] for text in refusals] == ([start] if start else [])


DEPLOYED, PLANNED = {"host": "a", "instances": ["old"]}, {"host": "a", "instances": ["new"]}


@pytest.mark.parametrize(
    ("facts", "serving"),
    [
        ({"__vllm_deployment": {"previous_plan": DEPLOYED}}, DEPLOYED),
        ({"__vllm_deployment": {"previous_plan": None}}, PLANNED),
        ({}, PLANNED),
    ],
)
def test_balance_alone_balances_what_is_deployed(facts: dict[str, t.Any], serving: dict[str, t.Any]) -> None:
    play = yaml.safe_load((TOP / "playbooks" / "balance.yml").read_text(encoding="utf-8"))[0]
    task = play["tasks"][1]
    assert task["when"] == "vllm_serving_plan is not defined"
    text = task["ansible.builtin.set_fact"]["vllm_serving_plan"]
    assert templated(text, {"vllm_plan": PLANNED, **facts}) == serving


@pytest.mark.parametrize(("state", "ready"), [("ready", ["m-n0", "m-n1"]), ("failed", ["m-n0"]), ("loading", ["m-n0"])])
def test_an_instance_that_does_not_answer_replaces_nobody_that_is_drained(state: str, ready: list[str]) -> None:
    hosts = value(
        "vllm",
        "__vllm_drain_hosts",
        hostvars={
            "a": {"__vllm_meant": ["m-n0"], "__vllm_others_found": {"instances": [{"name": "m-n1", "state": state}]}},
            "b": {"__vllm_meant": []},
        },
        __vllm_rollout_hosts={"a": {"ready": ["m-n0", "m-n1"]}, "b": {"ready": []}},
    )
    assert hosts == {
        "a": {"ready": ready, "changes": [{"out": ["m-n0"], "in": ["m-n0"], "reason": ""}]},
        "b": {"ready": [], "changes": []},
    }


def test_those_that_go_on_serving_are_asked_before_a_drain() -> None:
    names = ["m-n0", "m-n1", "m-n2"]
    instances = [{"name": name, "unit": f"vllm@{name}.service", "served_names": ["m"]} for name in names]
    given: dict[str, t.Any] = {
        "vllm_plan": {"instances": instances},
        "vllm_drained": {"m-n2": {}},
        "__vllm_meant": ["m-n0"],
        "__vllm_previous_urls": dict.fromkeys(names, "http://192.0.2.1:8000"),
    }
    assert [one["name"] for one in value("vllm", "__vllm_others_probes", **given)] == ["m-n1"]
    assert value("vllm", "__vllm_others_probes") == []


@pytest.mark.parametrize(
    ("monitoring", "addresses"),
    [
        (None, []),
        (["watcher"], ["192.0.2.9", "10.0.0.9"]),
        (["192.0.2.8"], ["192.0.2.8"]),
        (["gpu1"], ["192.0.2.1", "10.0.0.1"]),
    ],
)
def test_connections_of_prometheus_do_not_count(monitoring: list[str] | None, addresses: list[str]) -> None:
    hostvars: dict[str, t.Any] = {
        "gpu1": {"ansible_host": "192.0.2.1"},
        "watcher": {"ansible_host": "192.0.2.9", "monitoring_address": "10.0.0.9"},
        "192.0.2.8": {},
    }
    groups = {"inference": ["gpu1"]} | ({} if monitoring is None else {"monitoring": monitoring})
    given = {"groups": groups, "hostvars": hostvars, "inventory_hostname": "gpu1", "vllm_plan": {"address": "10.0.0.1"}}
    assert value("vllm", "vllm_rollout_ignored_peers", **given) == addresses


@pytest.mark.parametrize(
    ("variables", "watcher", "exporters", "nginx"),
    [
        ({}, "watcher", ["node", "nginx"], (9113, None)),
        ({"load_balancer_exporter": True}, "watcher", ["node"], (None, "127.0.0.1")),
        ({"load_balancer_exporter": True, "load_balancer_exporter_port": 9200}, "lb", ["node"], (9200, "127.0.0.1")),
    ],
)
def test_nginx_exporter_belongs_to_one_role(
    variables: dict[str, t.Any], watcher: str, exporters: list[str], nginx: tuple[int | None, str | None]
) -> None:
    given: dict[str, t.Any] = {"groups": {"inference": [], "load_balancers": ["lb"]}, "hostvars": {"lb": variables}}
    assert value("monitoring", "__monitoring_exporters", **given, inventory_hostname="lb", **variables) == exporters
    (scraped,) = value("monitoring", "__monitoring_scraped", **given, inventory_hostname=watcher)
    assert (scraped["nginx_port"], scraped["nginx_address"]) == nginx
    assert scraped["node_port"] == 9100


# --- Instances over several hosts: a leads m-g0, b follows, c has m-n0 alone ------------------------------------------


def of_group(rank: int) -> dict[str, t.Any]:
    members = [{"host": "a", "address": "192.0.2.1"}, {"host": "b", "address": "192.0.2.2"}]
    entry = {"name": "m-g0", "unit": "vllm@m-g0.service", "url": "http://192.0.2.1:8000", "served_names": ["m"]}
    return {**entry, "group": {"rank": rank, "members": members}}


PLANS: dict[str, dict[str, t.Any]] = {
    "a": {"instances": [of_group(0)]},
    "b": {"instances": [], "members": [of_group(1)]},
    "c": {"instances": [{"name": "m-n0", "unit": "vllm@m-n0.service", "url": "http://192.0.2.3:8000"}]},
}
HOSTS = {"groups": {"inference": ["a", "b", "c"]}, "ansible_play_hosts": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, {"a": ["m-g0"], "b": [], "c": ["m-n0"]}),
        ({"instance": "m-g0"}, {"a": ["m-g0"], "b": [], "c": []}),
        ({"host": "b"}, {"a": ["m-g0"], "b": [], "c": []}),
        ({"host": "a,c"}, {"a": ["m-g0"], "b": [], "c": ["m-n0"]}),
        ({"host": "b", "instance": "m-n0"}, {"a": [], "b": [], "c": []}),
    ],
)
def test_an_instance_of_several_hosts_is_meant_with_any_of_them(
    given: dict[str, t.Any], meant: dict[str, list[str]]
) -> None:
    for host, plan in PLANS.items():
        found = value("vllm", "__vllm_meant_here", inventory_hostname=host, __vllm_previous=plan, **given)
        assert found == meant[host], host


@pytest.mark.parametrize(
    ("hosts", "refused"), [("a", ["a has m-g0 together with b"]), ("b", ["b has m-g0 together with a"]), ("a,b", [])]
)
def test_hosts_that_have_an_instance_together_are_removed_together(hosts: str, refused: list[str]) -> None:
    known = {host: {"vllm_plan": plan} for host, plan in PLANS.items()}
    found = value("vllm", "__vllm_remove_refusals", hostvars=known, host=hosts, **HOSTS)
    assert [text.partition(", which could not")[0] for text in found] == refused


@pytest.mark.parametrize(
    ("leader", "own", "serving"),
    [
        ({"serving": ["m-g0"], "stalled": []}, [], ["m-g0"]),
        # The leader's host decides: what it restarts at once may not be held back here.
        ({"serving": [], "stalled": []}, ["m-g0"], []),
        ({"serving": ["m-g0"], "stalled": ["m-g0"]}, ["m-g0"], []),
        (None, ["m-g0"], ["m-g0"]),
        (None, [], []),
    ],
)
def test_a_follower_is_held_back_where_its_leader_is(
    leader: dict[str, t.Any] | None, own: list[str], serving: list[str]
) -> None:
    found = value(
        "vllm",
        "__vllm_found_serving",
        hostvars={"a": {"__vllm_traffic": leader} if leader is not None else {}},
        inventory_hostname="b",
        __vllm_previous=PLANS["b"],
        __vllm_touched=["m-g0"],
        __vllm_traffic={"serving": own, "stalled": []},
        **HOSTS,
    )
    assert found == serving


def test_a_follower_waits_for_its_leader() -> None:
    (probe,) = value(
        "vllm",
        "__vllm_probes",
        vllm_plan=PLANS["b"],
        vllm_drained={},
        __vllm_held=[],
        __vllm_asked={"actions": [{"unit": "vllm@m-g0.service", "restarts": 2}]},
        __vllm_units={},
    )
    assert probe == {
        "name": "m-g0",
        "unit": "vllm@m-g0.service",
        "url": "http://192.0.2.1:8000",
        "model": "m",
        "restarts": 5,
    }


def test_what_fails_on_one_host_fails_on_all_that_have_the_instance() -> None:
    batch = {"hosts": {"a": {"out": ["m-g0"], "in": ["m-g0"], "with": ["b"]}}}
    known = {
        "a": {},
        "b": {"__vllm_failure": ["it broke."], "__vllm_placement": {"instances": [{"problems": ["astray"]}]}},
    }
    given = {"inventory_hostname": "a", "__vllm_batch": batch, "hostvars": known}
    assert value("vllm", "__vllm_failures_with", **given) == ["b, which has it together with this host: it broke."]
    assert value("vllm", "__vllm_misplaced_together", **given) == ["b: astray"]
