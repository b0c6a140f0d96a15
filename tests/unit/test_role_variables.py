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
    found = value("vllm", "__vllm_remove_refusals", **given)
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
