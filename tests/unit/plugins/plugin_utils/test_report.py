# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the report says about hosts, for machines and for the page: states, CPUs by role, warnings, no secrets."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.filter.fleet_report import put_together
from ansible_collections.numapin.inference.plugins.filter.report_host import report_host
from ansible_collections.numapin.inference.plugins.filter.report_page import show
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.plugins.plugin_utils._report_data import fleet_report, host_report
from ansible_collections.numapin.inference.plugins.plugin_utils._report_page import report_page
from ansible_collections.numapin.inference.plugins.plugin_utils._report_view import fleet_view, host_view
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    cpu_only,
    eight_gpus,
    gpu,
    machine,
    mig,
    mig_uuid,
    model,
    uuid,
)

Dict = dict[str, t.Any]


def planned(facts: Dict, *models: Dict, **options: t.Any) -> Dict:
    return plan_host(facts, list(models) or [model()], host="gpu1", address="192.0.2.1", **options)


def vector(
    cpu: str | None, *, device: str = "0000:40:00.0", kind: str = "nic", node: int | None = 0, **more: t.Any
) -> Dict:
    return {
        "irq": 1,
        "device": device,
        "device_names": ["eth0"],
        "kinds": [kind],
        "node": node,
        "queue": 0,
        "name": "a",
        "requested": cpu,
        "effective": cpu,
        **more,
    }


def found(plan: Dict, **changes: t.Any) -> Dict:
    instances = [{"name": one["name"], "ok": True, "stray_thread_count": 0} for one in plan["instances"]]
    return {"ok": True, "problems": [], "instances": instances, **changes}


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({}, "not_verified"),
        ({"verified": found({"instances": []})}, "as_planned"),
        ({"verified": found({"instances": []}, ok=False, problems=["x"])}, "drifted"),
        ({"verified": found({"instances": []}, not_deployed=["llama-n0"])}, "not_deployed"),
        ({"verified": found({"instances": []}, ok=False, problems=["x"], not_deployed=["llama-n0"])}, "drifted"),
        ({"error": "it broke"}, "failed"),
        # What an earlier play found does not make up for what cannot be looked at now.
        ({"verified": found({"instances": []}), "error": "it broke"}, "failed"),
    ],
)
def test_the_state_of_a_host(options: Dict, state: str) -> None:
    assert host_report("gpu1", **options)["state"] == state


def test_an_expected_host_without_a_part_is_unreachable() -> None:
    report = fleet_report([host_report("b")], expected=["a", "b"], title="T", generated="now")
    assert [(part["name"], part["state"]) for part in report["hosts"]] == [("a", "unreachable"), ("b", "not_verified")]
    assert report["summary"]["states"]["unreachable"] == 1
    assert report["summary"]["hosts"] == 2


def test_the_worst_comes_first() -> None:
    parts = [
        host_report("a", verified=found({"instances": []})),
        host_report("b", verified=found({"instances": []}, ok=False, problems=["x"])),
        host_report("c", error="it broke"),
    ]
    assert [part["name"] for part in fleet_report(parts, title="T", generated="now")["hosts"]] == ["c", "b", "a"]


def test_what_is_counted() -> None:
    facts = eight_gpus()
    plan = planned(facts, model(tensor_parallel_size=2, instances_per_node=2))
    result = found(plan)
    result["instances"][1] |= {"ok": False, "stray_thread_count": 3}
    parts = [host_report("gpu1", numa=facts, plan=plan, verified=result), host_report("gpu2", numa=facts, plan=plan)]
    summary = fleet_report(parts, title="T", generated="now")["summary"]
    assert summary["instances"] == 8
    assert (summary["instances_verified"], summary["instances_as_planned"], summary["stray_threads"]) == (4, 3, 3)
    assert (summary["nodes"], summary["gpus"], summary["models"]) == (4, 16, ["llama"])


def test_no_secret_gets_into_a_report() -> None:
    plan = planned(cpu_only(), model(environment={"SOME": "geheim"}, arguments={"some": "geheim"}))
    assert json.dumps(plan).count("geheim") == 4
    part = host_report("gpu1", numa=cpu_only(), plan=plan)
    assert "geheim" not in json.dumps(part)
    assert "geheim" not in json.dumps(host_view(part))


def test_cores_are_listed_once_and_under_their_node() -> None:
    nodes = host_report("gpu1", numa=eight_gpus())["topology"]["nodes"]
    assert nodes[0]["cores"][:2] == ["0,64", "1,65"]
    assert (len(nodes[0]["cores"]), len(nodes[1]["cores"])) == (32, 32)
    assert "cpus" not in host_report("gpu1", numa=eight_gpus())["topology"]


def roles(part: Dict) -> dict[str, str]:
    names = [one["name"] for one in host_view(part)["instances"]]
    return {
        one["role"] if one["instance"] is None else f"{one['role']} {names[one['instance']]}": one["cpus"]
        for one in host_view(part)["cpus"]
    }


def test_every_cpu_has_one_role() -> None:
    facts = machine({0: "0-7", 1: "8-14"}, offline="15", allowed="0-6,8-14")
    facts["offline_cpus"] = "15"
    plan = planned(facts, balancer_cores=1, api_server_cores=1)
    nginx = plan["balancer"]["cpus"]
    assert roles(host_report("gpu1", numa=facts, plan=plan)) == {
        "offline": "15",
        "nginx": nginx,
        "api_server llama-n0": plan["instances"][0]["api_server_cpus"],
        "instance llama-n0": plan["instances"][0]["omp_cpus"],
        "api_server llama-n1": plan["instances"][1]["api_server_cpus"],
        "instance llama-n1": plan["instances"][1]["omp_cpus"],
        "housekeeping": "0,8",
        "isolated": "7",
    }


def test_a_host_without_a_plan_is_free() -> None:
    assert roles(host_report("gpu1", numa=cpu_only())) == {"free": "0-15"}


def test_a_gpu_belongs_to_whom_it_was_given() -> None:
    facts = machine({0: "0-7", 1: "8-15"}, [mig(0, 0, "1g.10gb", "1g.10gb"), gpu(1, 1)])
    plan: Dict = {"nodes": [], "instances": [{"name": "a", "gpus": [mig_uuid(0, 1)]}, {"name": "b", "gpus": [uuid(1)]}]}
    for instance in plan["instances"]:
        instance |= {"model": "m", "cpus": "0", "memory_nodes": [0], "port": 1}
    view = host_view(host_report("gpu1", numa=facts, plan=plan))
    assert [one["instances"] for one in view["gpus"]] == [[0], [1]]
    assert [one["gpu_numbers"] for one in view["instances"]] == [[0], [1]]
    assert [one["label"] for one in view["instances"]] == ["A", "B"]


def test_a_gpu_that_is_held_and_not_given_is_told_apart() -> None:
    facts = eight_gpus()
    plan = planned(facts, model(tensor_parallel_size=4))
    result = found(plan)
    result["instances"][0]["gpus"] = {
        "held": [{"gpu": uuid(0), "pids": [1]}, {"gpu": uuid(7), "pids": [1]}],
        "problems": ["!"],
    }
    view = host_view(host_report("gpu1", numa=facts, plan=plan, verified=result))
    assert [(one["instances"], one["held_by"]) for one in view["gpus"]][::7] == [([0], [0]), ([1], [0])]
    assert view["instances"][0]["gpus"] == plan["instances"][0]["gpus"]


def test_letters_of_many_instances() -> None:
    instances = [
        {"name": f"i{number}", "model": "m", "cpus": "0", "memory_nodes": [0], "port": number} for number in range(54)
    ]
    view = host_view(host_report("gpu1", plan={"nodes": [], "instances": instances}))
    labels = [one["label"] for one in view["instances"]]
    assert (labels[25], labels[26], labels[51], labels[52], labels[53]) == ("Z", "AA", "AZ", "BA", "BB")


@pytest.mark.parametrize(
    ("vectors", "texts"),
    [
        ([vector("0")], []),
        ([vector("1"), vector("0")], ["eth0: 1 of 2 interrupts land on CPUs of instances (1 of llama-n0)"]),
        ([vector("8")], ["eth0: 1 of 1 interrupt land on another node than its own, 0 (CPUs 8)"]),
        # The kernel spreads a disk's queues over all CPUs, and lets nobody move them.
        ([vector("1", kind="nvme")], []),
        ([vector("8", node=None)], []),
        ([vector(None)], []),
        ([vector("0-15", effective="0")], []),
    ],
)
def test_interrupts_that_are_in_the_way(vectors: list[Dict], texts: list[str]) -> None:
    part = host_report("gpu1", numa=cpu_only(), plan=planned(cpu_only()), vectors=vectors)
    assert [one["text"] for one in part["warnings"] if one["source"] == "interrupts"] == texts


def test_interrupts_of_a_device_are_one_line() -> None:
    part = host_report("gpu1", numa=cpu_only(), vectors=[vector("0"), vector("0"), vector("1,2")])
    assert host_view(part)["interrupts"] == [
        {"device": "eth0", "kinds": ["nic"], "node": 0, "vectors": 3, "landing": [["0", 2], ["1,2", 1]]}
    ]


def test_cores_below_their_cache() -> None:
    facts = eight_gpus()
    facts["llc_domains"] = [{"cpus": "0-15,64-79", "level": 3, "size_kib": 1024, "nodes": [0]}]
    caches = host_view(host_report("gpu1", numa=facts))["nodes"][0]["caches"]
    assert [(one["level"], len(one["cores"].split(" "))) for one in caches] == [(3, 16), (None, 16)]
    assert caches[0]["cores"].startswith("0,64 1,65 ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: report_host("gpu1", numa=["no"]), "gpu1: numa is a list .* nodes, cpus"),
        (lambda: report_host("gpu1", numa={"nodes": []}), "a report needs a dictionary with nodes, cpus"),
        (
            lambda: report_host("gpu1", numa={"nodes": [{"id": 0}], "cpus": [{"id": 0}]}),
            "cannot read what is known of it",
        ),
        (lambda: report_host("gpu1", plan={"nodes": []}), "gpu1: plan is a dictionary .* instances, nodes"),
        (lambda: report_host("gpu1", vectors="x"), "gpu1: vectors is text .* must be a list of dictionaries"),
        (lambda: put_together([{"name": "x"}], title="T", generated="now"), "is no part of a report"),
        (lambda: put_together([5], title="T", generated="now"), "must be a list of dictionaries"),
        (lambda: show({"format": "other"}, "", "", []), "is no numapin.inference/report of version 1"),
    ],
)
def test_what_is_no_report_is_refused(call: t.Callable[[], object], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        call()


def test_the_page_escapes_and_runs_no_other_script() -> None:
    name = "</script><b>\u2028&"
    report = fleet_report([host_report(name, error=name)], title=name, generated="now")
    template = "{{ view.title }}|{{ data }}|{{ script }}|{{ script_hash }}"
    title, data, script, script_hash = report_page(report, template=template, style="", scripts=["a < b;", "c"]).split(
        "|"
    )
    assert title == "&lt;/script&gt;&lt;b&gt;\u2028&amp;"
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data) == fleet_view(report)
    assert script == "a < b;\nc"
    # printf 'a < b;\nc' | openssl dgst -sha256 -binary | base64
    assert script_hash == "sha256-iHIMxtKtRJ03Ila+JBn1CzzOtXcJUb4SFJ8dMVGrbMQ="
