# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans of several hosts become one upstream per model."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.filter.upstreams import FilterModule
from ansible_collections.numapin.inference.plugins.plugin_utils._upstreams import UpstreamsError, upstreams


def instance(
    model: str, node: int, port: int, weight: int = 1, served_names: list[str] | None = None
) -> dict[str, t.Any]:
    return {
        "name": f"{model}-n{node}",
        "model": model,
        "served_names": served_names or [model],
        "port": port,
        "weight": weight,
    }


def plan(host: str, address: str, *instances: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"host": host, "address": address, "instances": list(instances), "warnings": []}


ONE = plan("gpu1", "192.0.2.11", instance("big", 0, 8000, 4), instance("tiny", 0, 8010), instance("tiny", 1, 8011))
TWO = plan("gpu2", "2001:db8::2", instance("tiny", 0, 8010, 2))


def endpoints(upstream: dict[str, t.Any]) -> list[tuple[str, int, bool]]:
    return [(server["endpoint"], server["weight"], server["down"]) for server in upstream["servers"]]


def test_models_keep_the_order_of_the_plans_and_gather_the_instances_of_all_hosts() -> None:
    big, tiny = upstreams([ONE, TWO])
    assert (big["model"], big["name"], big["served_names"]) == ("big", "numapin_big", ["big"])
    assert endpoints(big) == [("192.0.2.11:8000", 4, False)]
    assert endpoints(tiny) == [
        ("192.0.2.11:8010", 1, False),
        ("192.0.2.11:8011", 1, False),
        ("[2001:db8::2]:8010", 2, False),
    ]
    assert [(server["instance"], server["host"]) for server in tiny["servers"]] == [
        ("tiny-n0", "gpu1"),
        ("tiny-n1", "gpu1"),
        ("tiny-n0", "gpu2"),
    ]


def test_served_names_of_all_instances_are_listed_once() -> None:
    (upstream,) = upstreams(
        [plan("a", "192.0.2.1", instance("m", 0, 1, 1, ["x", "y"]), instance("m", 1, 2, 1, ["y", "z"]))]
    )
    assert upstream["served_names"] == ["x", "y", "z"]


def test_names_that_differ_only_in_punctuation_stay_apart() -> None:
    names = ["a.b", "a-b", "a_b"]
    result = upstreams([plan("a", "192.0.2.1", *(instance(name, 0, 8000 + i) for i, name in enumerate(names)))])
    assert [upstream["name"] for upstream in result] == ["numapin_a.b", "numapin_a-b", "numapin_a_b"]


@pytest.mark.parametrize(
    ("ready", "down"),
    [
        (None, [False, False, False]),
        ({"gpu1": None, "gpu2": None}, [False, False, False]),
        ({"gpu1": ["big-n0", "tiny-n0", "tiny-n1"], "gpu2": ["tiny-n0"]}, [False, False, False]),
        ({"gpu1": ["tiny-n0"], "gpu2": ["tiny-n0"]}, [False, True, False]),
        ({"gpu1": ["tiny-n0", "tiny-n1"], "gpu2": None}, [False, False, True]),
        ({"gpu1": [], "gpu2": None}, [True, True, True]),
    ],
)
def test_what_was_not_ready_in_this_run_is_down(ready: dict[str, list[str] | None] | None, down: list[bool]) -> None:
    tiny = upstreams([ONE, TWO], ready)[1]
    assert [server["down"] for server in tiny["servers"]] == down
    assert [server["reason"] is not None for server in tiny["servers"]] == down


def test_two_instances_with_one_endpoint_are_refused() -> None:
    with pytest.raises(
        UpstreamsError, match=r"big-n0 on gpu1 and x-n0 on gpu9 have the same endpoint 192\.0\.2\.11:8000.*vllm_address"
    ):
        upstreams([ONE, plan("gpu9", "192.0.2.11", instance("x", 0, 8000))])


def test_a_name_instead_of_an_address_is_refused() -> None:
    with pytest.raises(UpstreamsError, match=r"gpu1: .*'gpu1\.example'.*vllm_address"):
        upstreams([plan("gpu1", "gpu1.example", instance("x", 0, 8000))])


def test_a_model_name_that_nginx_could_misread_is_refused() -> None:
    with pytest.raises(UpstreamsError, match=r"'a;b'"):
        upstreams([plan("gpu1", "192.0.2.1", instance("a;b", 0, 8000))])


@pytest.mark.parametrize("plans", [[], [plan("a", "192.0.2.1"), plan("b", "192.0.2.2")]])
def test_where_nothing_is_planned_there_is_no_upstream(plans: list[dict[str, t.Any]]) -> None:
    """So that the last instance of a fleet can be removed as well."""
    assert upstreams(plans) == []


def test_the_filter_gives_the_same_and_no_traceback() -> None:
    upstreams_filter = FilterModule().filters()["upstreams"]
    assert upstreams_filter([ONE, TWO]) == upstreams([ONE, TWO])
    with pytest.raises(AnsibleFilterError, match=r"not a plan \(KeyError\('address'\)\)"):
        upstreams_filter([{"instances": [instance("x", 0, 1)]}])
    with pytest.raises(AnsibleFilterError, match="list of plans, given was str"):
        upstreams_filter("plan")


def test_what_is_drained_is_down_whatever_else_is_known() -> None:
    record = {"since": "2026-11-25T02:40:11Z", "by": "person", "reason": "fan;\n} x", "rollout": ""}
    drained: dict[str, t.Any] = {"gpu1": {"tiny-n1": record}, "gpu2": {}}
    found = upstreams([ONE, TWO], {"gpu1": ["big-n0", "tiny-n0", "tiny-n1"], "gpu2": ["tiny-n0"]}, drained)
    servers = [server for upstream in found for server in upstream["servers"]]
    assert [server["instance"] for server in servers if server["down"]] == ["tiny-n1"]
    assert servers[2]["reason"] == "drained since 2026-11-25T02:40:11Z by a person: fan; } x", "one line, as a comment"
