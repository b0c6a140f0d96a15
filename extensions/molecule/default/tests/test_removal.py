# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An instance that the plan no longer has is stopped and removed, and the balancer asks it no more."""

from __future__ import annotations

import json
import pathlib
import typing as t

from site_runs import deployed_model, run_site

GONE = "inference2"


def test_an_instance_no_longer_planned_is_removed(site: t.Any, tmp_path: pathlib.Path) -> None:
    (entry,) = site.plans[GONE]["instances"]
    (kept,) = (plan for name, plan in site.plans.items() if name != GONE)
    host = site.hosts[GONE]
    traces = (
        f"ls -d /etc/vllm/{entry['name']}.* /etc/systemd/system/{entry['unit']}.d"
        f" /etc/systemd/system/vllm.target.wants/{entry['unit']} 2>/dev/null"
    )
    assert len(host.run(traces).stdout.split()) == 4
    variables = tmp_path / "variables.json"
    choose = f"{{{{ [] if inventory_hostname == '{GONE}' else models }}}}"
    variables.write_text(json.dumps({"models": [deployed_model()], "vllm_models": choose}), encoding="utf-8")
    try:
        run = run_site(f"--extra-vars=@{variables}")
        assert run.status == 0, run.output
        assert host.run(traces).stdout == ""
        assert host.check_output(f"systemctl show --value --property=ActiveState {entry['unit']}") == "inactive"
        assert host.run("pgrep -u vllm").stdout == ""
        upstreams = site.hosts[site.balancer].check_output("cat /etc/nginx/numapin/upstreams.conf")
        assert f"{site.plans[GONE]['address']}:" not in upstreams
        assert f"{kept['address']}:" in upstreams
    finally:
        back = run_site()
    assert back.status == 0, back.output
    assert len(host.run(traces).stdout.split()) == 4
    assert json.loads(host.file("/etc/numapin/plan.json").content_string) == site.plans[GONE], (
        "same name, port and CPUs"
    )
