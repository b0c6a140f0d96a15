# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The units as systemd runs them: kept to what they need, and what is around them works."""

from __future__ import annotations

import typing as t

# As systemd-analyze wants it: 3.0.
EXPOSURE_AT_MOST = 30


def exposure(host: t.Any, unit: str) -> str:
    """What systemd-analyze says of the unit as it runs; it fails above the limit."""
    done = host.run(f"systemd-analyze security --no-pager --threshold={EXPOSURE_AT_MOST} {unit}")
    last = str(done.stdout.strip().splitlines()[-1])
    assert done.rc == 0, last
    return last


def status_of(host: t.Any, unit: str) -> dict[str, str]:
    """/proc/PID/status of its main process."""
    pid = host.check_output(f"systemctl show --value --property=MainPID {unit}")
    lines = host.check_output(f"cat /proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


def test_units_are_kept_to_what_they_need(site: t.Any) -> None:
    """Not what the files say, but what the processes were started with: all other tests run against these."""
    units = [(name, entry["unit"]) for name, entry in site.instances()] + [(site.balancer, "nginx.service")]
    for name, unit in units:
        print(f"{name}: {exposure(site.hosts[name], unit)}")
        status = status_of(site.hosts[name], unit)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), f"{unit} on {name}"
    for name, entry in site.instances():
        status = status_of(site.hosts[name], entry["unit"])
        assert (int(status["CapBnd"], 16), int(status["CapEff"], 16)) == (0, 0), f"{entry['unit']} on {name}"


def test_nginx_goes_on_logging_after_a_rotation(site: t.Any) -> None:
    host = site.hosts[site.balancer]
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/v1/models"
    host.check_output("logrotate --force /etc/logrotate.d/nginx")
    assert host.check_output(ask) == "401"
    assert '"status":401' in host.check_output("tail -n 1 /var/log/nginx/access.log")
    assert site.hosts[site.balancer].file("/var/log/nginx/access.log.1").exists
    assert host.check_output("systemctl is-active nginx") == "active"


def test_nginx_counters_are_told_to_this_host_only(site: t.Any) -> None:
    host = site.hosts[site.balancer]
    lines = host.check_output("curl -sS -m 5 http://127.0.0.1:9113/metrics").splitlines()
    assert "nginx_up 1" in lines
    assert host.check_output("ss -Hltn 'sport = :9113' | awk '{print $4}'") == "127.0.0.1:9113"
