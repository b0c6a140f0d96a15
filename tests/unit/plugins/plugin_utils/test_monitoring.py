# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus scrapes, from the plans; the plan as metrics."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.filter.scrape_targets import targets
from ansible_collections.numapin.inference.plugins.plugin_utils._monitoring import placement_metrics, scrape_targets
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import cpu_only, machine, model


def host(address: str = "192.0.2.1", **changes: t.Any) -> dict[str, t.Any]:
    plan = plan_host(cpu_only(), [model()], host="gpu1", address=address)
    return {"name": "gpu1", "address": "gpu1.example", "plan": plan, "node_port": 9100, **changes}


def endpoints(jobs: dict[str, list[dict[str, t.Any]]]) -> dict[str, list[str]]:
    return {job: [one["targets"][0] for one in groups] for job, groups in jobs.items()}


def test_every_instance_and_every_exporter_with_a_port() -> None:
    jobs = scrape_targets([host(nginx_port=None, dcgm_port=9400)])
    assert endpoints(jobs) == {
        "node": ["gpu1.example:9100"],
        "nginx": [],
        "vllm": ["192.0.2.1:8000", "192.0.2.1:8001"],
        "dcgm": ["gpu1.example:9400"],
    }
    assert jobs["vllm"][1]["labels"] == {"host": "gpu1", "vllm_instance": "llama-n1", "model": "llama"}
    assert jobs["node"][0]["labels"] == {"host": "gpu1"}


def test_an_exporter_can_have_an_address_of_its_own() -> None:
    jobs = scrape_targets([host(nginx_port=9113, nginx_address="127.0.0.1"), host(nginx_port=9113, nginx_address=None)])
    assert endpoints(jobs)["nginx"] == ["127.0.0.1:9113", "gpu1.example:9113"]


def test_addresses_of_version_6_stand_in_brackets() -> None:
    jobs = scrape_targets([host(address="2001:db8::1")])
    assert endpoints(jobs)["vllm"] == ["[2001:db8::1]:8000", "[2001:db8::1]:8001"]


@pytest.mark.parametrize(("scraper", "count"), [("watcher", 0), (None, 0), ("gpu1", 2)])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback_is_scraped_from_its_own_host_only(address: str, scraper: str | None, count: int) -> None:
    assert len(scrape_targets([host(address=address)], scraper=scraper)["vllm"]) == count


def test_a_host_without_a_plan_has_its_exporters() -> None:
    assert endpoints(scrape_targets([{"name": "lb1", "address": "192.0.2.9", "nginx_port": 9113}])) == {
        "node": [],
        "nginx": ["192.0.2.9:9113"],
        "vllm": [],
        "dcgm": [],
    }


@pytest.mark.parametrize(
    ("given", "message"), [({"name": "a", "address": ""}, "a: its address is empty"), ({}, "name")]
)
def test_what_cannot_be_scraped_is_refused(given: dict[str, t.Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        targets([given])


def test_every_cpu_has_its_node_and_its_owner() -> None:
    facts = machine({0: "0-3", 2: "4-7"})
    plan = plan_host(facts, [model()], host="gpu1", address="192.0.2.1", balancer_cores=1)
    lines = placement_metrics(facts, plan).splitlines()
    assert lines[0].startswith("# HELP numapin_cpu_node ")
    assert lines[1] == "# TYPE numapin_cpu_node gauge"
    assert lines[2:] == [
        *(
            f'numapin_cpu_node{{cpu="{cpu}",node="0",role="{role}"}} 1'
            for cpu, role in enumerate(roles_of(plan, range(4)))
        ),
        *(
            f'numapin_cpu_node{{cpu="{4 + cpu}",node="2",role="{role}"}} 1'
            for cpu, role in enumerate(roles_of(plan, range(4, 8)))
        ),
    ]
    assert {line.split('role="')[1].split('"')[0] for line in lines[2:]} == {"housekeeping", "nginx", "instance"}


def roles_of(plan: dict[str, t.Any], cpus: range) -> list[str]:
    nginx = int(plan["balancer"]["cpus"])
    return ["housekeeping" if cpu in (0, 4) else "nginx" if cpu == nginx else "instance" for cpu in cpus]


def test_without_a_plan_every_cpu_is_somebody_elses() -> None:
    assert placement_metrics(machine({0: "0"}), None).splitlines()[2:] == [
        'numapin_cpu_node{cpu="0",node="0",role="other"} 1'
    ]
