# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""monitor.yml on the hosts: the distribution's Prometheus sees them all, and says within two scrapes what drifts."""

from __future__ import annotations

import json
import pathlib
import time
import typing as t

import pytest
import yaml
from site_runs import INVENTORY, cpus_to_stray_to, run_playbook

INTERVAL_SECONDS = 5
# What asking over SSH takes.
SLACK_SECONDS = 2
RULES = "/etc/prometheus/numapin/rules.yml"
RESTORE = """
- hosts: inference:load_balancers:monitoring
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: numapin.inference.monitoring, tasks_from: restore}
"""


def prometheus(host: t.Any, path: str) -> t.Any:
    """The data of an answer of Prometheus' own API."""
    answer = json.loads(host.check_output(f"curl -sS -m 10 http://127.0.0.1:9090/api/v1/{path}"))
    assert answer["status"] == "success", answer
    return answer["data"]


def fires(host: t.Any, name: str) -> bool:
    """Whether the drift of that host is an alert."""
    return any(
        alert["state"] == "firing"
        and (alert["labels"]["alertname"], alert["labels"]["host"]) == ("NumapinInstanceNotAsPlanned", name)
        for alert in prometheus(host, "alerts")["alerts"]
    )


def seconds_until(is_so: t.Callable[[], bool], at_most: float) -> float:
    """How long it took to become so."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() < started + at_most, f"not so within {at_most} s"
        time.sleep(0.5)
    return time.monotonic() - started


@pytest.fixture
def inventory(site: t.Any, tmp_path: pathlib.Path) -> pathlib.Path:
    """The scenario's, with its balancer in the group monitoring."""
    content = yaml.safe_load(INVENTORY.read_text(encoding="utf-8"))
    content["all"]["children"]["monitoring"] = {
        "hosts": {site.balancer: {}},
        "vars": {"monitoring_scrape_interval_seconds": INTERVAL_SECONDS},
    }
    (tmp_path / "api_key").write_text(site.api_key, encoding="utf-8")
    path = tmp_path / "inventory.yml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_prometheus_sees_the_hosts_and_what_drifts(
    site: t.Any, inventory: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    watcher = site.hosts[site.balancer]
    preview = run_playbook("monitor.yml", "--check", "--diff", inventory=inventory)
    assert preview.status == 0, preview.output
    assert not watcher.file(RULES).exists
    run = run_playbook("monitor.yml", inventory=inventory)
    assert run.status == 0, run.output
    again = run_playbook("monitor.yml", inventory=inventory)
    assert {name: counts["changed"] for name, counts in again.recap.items()} == dict.fromkeys(again.recap, 0)

    wanted = {("node", name) for name in site.hosts} | {("nginx", site.balancer)}
    wanted |= {("vllm", name) for name in site.inference}

    def all_up() -> bool:
        targets = prometheus(watcher, "targets?state=active")["activeTargets"]
        up = {(one["labels"]["job"], one["labels"]["host"]) for one in targets if one["health"] == "up"}
        return wanted <= up

    seconds_until(all_up, 60)
    name, entry = site.instances()[0]
    host = site.hosts[name]
    online = cpus_to_stray_to(host, entry)
    pid = host.check_output(f"systemctl show --value --property=MainPID {entry['unit']}")
    try:
        host.check_output(f"taskset -cp {online} {pid} && systemctl start numapin-verify.service")
        fired = seconds_until(lambda: fires(watcher, name), 2 * INTERVAL_SECONDS + SLACK_SECONDS)
    finally:
        host.check_output(f"taskset -cp {entry['cpus']} {pid} && systemctl start numapin-verify.service")
    cleared = seconds_until(lambda: not fires(watcher, name), 2 * INTERVAL_SECONDS + SLACK_SECONDS)
    print(f"scraped every {INTERVAL_SECONDS} s: alert {fired:.1f} s after the proof, gone {cleared:.1f} s after it")

    (tmp_path / "restore.yml").write_text(RESTORE, encoding="utf-8")
    undone = run_playbook(str(tmp_path / "restore.yml"), inventory=inventory)
    assert undone.status == 0, undone.output
    assert not watcher.file(RULES).exists
    assert not host.file("/var/lib/prometheus/node-exporter/numapin-plan.prom").exists
    assert "numapin" not in watcher.check_output("cat /etc/prometheus/prometheus.yml /etc/default/prometheus")
    assert watcher.service("prometheus").is_running, "the package's own is left"
    assert watcher.check_output("systemctl --failed --plain --no-legend") == ""
