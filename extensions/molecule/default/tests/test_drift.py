# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes wrong after a deployment: verify names it, and a broken balancer configuration never gets in."""

from __future__ import annotations

import typing as t

from site_runs import cpus_to_stray_to, run_playbook


def test_a_thread_moved_by_hand_is_named(site: t.Any) -> None:
    name, entry = site.instances()[0]
    host = site.hosts[name]
    online = cpus_to_stray_to(host, entry)
    pid = host.check_output(f"systemctl show --value --property=MainPID {entry['unit']}")
    tid = host.check_output(f"ls /proc/{pid}/task | sort -n | tail -n 1")
    host.check_output(f"taskset -cp {online} {tid}")
    try:
        run = run_playbook("verify.yml")
    finally:
        host.check_output(f"taskset -cp {entry['cpus']} {tid}")
    assert run.status != 0, run.output
    assert run.recap[name]["failed"] == 1, run.output
    assert f"may run outside the planned CPUs {entry['cpus']}" in run.text
    assert f"thread {tid} " in run.text
    assert f"on CPUs {online}" in run.text
    again = run_playbook("verify.yml")
    assert again.status == 0, again.output
    assert {host: counts["changed"] for host, counts in again.recap.items()} == dict.fromkeys(again.recap, 0)


def test_a_broken_balancer_configuration_does_not_get_in(site: t.Any) -> None:
    balancer = site.hosts[site.balancer]
    before = balancer.check_output("cat /etc/nginx/nginx.conf /etc/nginx/numapin/*")
    run = run_playbook("balance.yml", "--extra-vars=load_balancer_http_snippet='proxy_bufering off;'")
    assert run.status != 0, run.output
    assert run.recap[site.balancer]["failed"] == 1, run.output
    assert run.recap[site.balancer]["changed"] == 0, run.output
    assert 'unknown directive "proxy_bufering"' in run.text
    assert balancer.check_output("cat /etc/nginx/nginx.conf /etc/nginx/numapin/*") == before
    assert run_playbook("verify.yml").status == 0, "the balancer goes on with the configuration it had"
