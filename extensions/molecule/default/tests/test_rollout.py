# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An argument of one instance is changed under load: every answer is whole, and a drained one stays drained."""

from __future__ import annotations

import json
import pathlib
import typing as t

from site_runs import deployed_model, run_playbook
from test_streaming import result_of, start_load

CHANGED = "inference2"
OTHER = "inference1"
UPSTREAMS = "cat /etc/nginx/numapin/upstreams.conf"
RECORDS = "/var/lib/numapin/drained.json"


def test_a_rollout_under_load_loses_nothing(site: t.Any, tmp_path: pathlib.Path) -> None:
    model = deployed_model()
    changed = {**model, "arguments": {**model["arguments"], "max-num-seqs": 64}}
    choose = f"{{{{ changed if inventory_hostname == '{CHANGED}' else as_it_is }}}}"
    variables = tmp_path / "variables.json"
    variables.write_text(
        json.dumps({"changed": [changed], "as_it_is": [model], "vllm_models": choose}), encoding="utf-8"
    )
    stop = tmp_path / "stop"
    # Few and not too long: the load takes the processors from the instance that starts. Thousands of long ones are what
    # `make rollout-load` sends.
    lengths = ("--min-tokens=1", "--max-tokens=500", "--lengths=log")
    load = start_load(site, "--requests=100", "--concurrency=4", "--per-second=3", *lengths, f"--until={stop}")
    try:
        run = run_playbook("inference.yml", f"--extra-vars=@{variables}")
    finally:
        stop.touch()
    result = result_of(load)
    assert run.status == 0, run.output
    assert run.recap[OTHER]["changed"] == 0, "the other host is left as it is"
    assert result["failures"] == []
    assert result["completed"] >= 100
    host = site.hosts[CHANGED]
    assert "max-num-seqs: 64" in host.check_output("cat /etc/vllm/tiny-n0.yaml")
    assert not host.file(RECORDS).exists
    assert " down;" not in site.hosts[site.balancer].check_output(UPSTREAMS)


def test_what_is_drained_stays_out_until_it_is_put_back(site: t.Any) -> None:
    without = run_playbook("drain.yml", f"--extra-vars=host={CHANGED}")
    assert without.status != 0
    assert "Why are they drained?" in without.text
    drained = run_playbook("drain.yml", f"--extra-vars=host={CHANGED}", "--extra-vars=reason=fan")
    assert drained.status == 0, drained.output
    try:
        # As it was deployed first: the drained one is changed back, and stays out.
        site_again = run_playbook("rollout.yml")
        assert site_again.status == 0, site_again.output
        assert "max-num-seqs" not in site.hosts[CHANGED].check_output("cat /etc/vllm/tiny-n0.yaml")
        assert "tiny-n0: DRAINED since" in site_again.text
        assert site.hosts[site.balancer].check_output(UPSTREAMS).count(" down;") == 1
        last = run_playbook("drain.yml", f"--extra-vars=host={OTHER}", "--extra-vars=reason=fan")
        assert last.status != 0
        assert "of 1 instances that serve it" in last.text
    finally:
        back = run_playbook("undrain.yml", f"--extra-vars=host={CHANGED}")
    assert back.status == 0, back.output
    assert " down;" not in site.hosts[site.balancer].check_output(UPSTREAMS)
    assert not site.hosts[CHANGED].file(RECORDS).exists
