# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A new configuration that does not start: the run says why, and the instance is put back as it was."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import typing as t

from site_runs import INVENTORY, REPOSITORY, address_of, deployed_model, run_site

BROKEN = "inference1"
SERVING = "inference2"


def streamed(count: int) -> dict[str, t.Any]:
    """Stream ``count`` completions through the balancer; the load client's report."""
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "tests" / "containers" / "load.py"),
            f"--url=http://{address_of('balancer1')}/v1",
            "--model=tiny",
            f"--api-key-file={INVENTORY.parent / 'api_key'}",
            f"--requests={count}",
            "--concurrency=4",
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


def test_a_host_whose_vllm_does_not_start(tmp_path: pathlib.Path) -> None:
    good = deployed_model()
    broken = {**good, "arguments": {**good["arguments"], "max-model-len": 9_999_999}}
    variables = tmp_path / "variables.json"
    choose = f"{{{{ broken_models if inventory_hostname == '{BROKEN}' else good_models }}}}"
    variables.write_text(
        json.dumps({"broken_models": [broken], "good_models": [good], "vllm_models": choose}), encoding="utf-8"
    )
    try:
        run = run_site(f"--extra-vars=@{variables}")
        assert run.status != 0, run.output
        assert run.recap[BROKEN]["failed"] == 1, run.output
        assert run.recap[SERVING]["failed"] == 0, run.output
        assert run.recap[SERVING]["changed"] == 0, "the other host is left as it is"
        assert "Its previous configuration is back, and it serves." in run.text
        assert "Not changed yet: tiny-n0 on inference1" in run.text
        assert "inference1, tiny-n0:" in run.text
        assert "9999999" in run.text, "the cause from vLLM's own log"
        assert "max_position_embeddings" in run.text, "the cause from vLLM's own log"
        report = streamed(20)
        assert report["failures"] == [], report
        assert set(report["by_upstream"]) == {f"{address_of(host)}:8000" for host in (BROKEN, SERVING)}, report
    finally:
        repaired = run_site()
    assert repaired.status == 0, repaired.output
    assert {name: counts["changed"] for name, counts in repaired.recap.items()} == dict.fromkeys(repaired.recap, 0)
