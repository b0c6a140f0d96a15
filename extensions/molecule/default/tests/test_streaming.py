# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streamed completions through the balancer, with both hosts up and with one instance killed in between."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import typing as t
import urllib.request

import pytest
from site_runs import REPOSITORY

REQUESTS = 200
CONCURRENCY = 8
BACK_WITHIN_SECONDS = 120


def start_load(site: t.Any, *more: str) -> subprocess.Popen[str]:
    """Start the load client; its result will be on standard output, its progress on standard error."""
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "containers" / "load.py"),
        "--url",
        site.url,
        "--model",
        site.model,
        "--api-key-file",
        str(site.api_key_path),
    ]
    counts = ["--requests", str(REQUESTS), "--concurrency", str(CONCURRENCY), "--progress", *more]
    return subprocess.Popen([*command, *counts], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(load: subprocess.Popen[str], timeout_seconds: int = 400) -> dict[str, t.Any]:
    """Wait for the load to end."""
    try:
        output, errors = load.communicate(timeout=timeout_seconds)
    finally:
        load.kill()
    assert output, f"the load client said nothing: {errors}"
    result: dict[str, t.Any] = json.loads(output)
    return result


def endpoint(entry: dict[str, t.Any], plan: dict[str, t.Any]) -> str:
    """ADDRESS:PORT of an instance, as the balancer names it."""
    return f"{plan['address']}:{entry['port']}"


def test_every_completion_is_whole_and_both_hosts_serve(site: t.Any) -> None:
    """200 streams, 8 at a time: [DONE], finish reason and exact token count for each."""
    result = result_of(start_load(site))
    assert result["failures"] == []
    assert result["completed"] == REQUESTS
    endpoints = {endpoint(entry, site.plans[name]) for name, entry in site.instances()}
    assert set(result["by_upstream"]) == endpoints
    assert min(result["by_upstream"].values()) >= REQUESTS // 10, result["by_upstream"]


def test_a_killed_instance_costs_only_what_it_was_answering(site: t.Any) -> None:
    """kill -9 in the middle of a load: everything else completes, and systemd has the instance back and serving."""
    name, entry = site.instances()[0]
    host = site.hosts[name]
    killed = endpoint(entry, site.plans[name])
    show = f"systemctl show --value --property=%s {entry['unit']}"
    old_pid = int(host.check_output(show % "MainPID"))
    assert old_pid > 0
    load = start_load(site)
    assert load.stderr is not None
    for line in load.stderr:
        if line.strip() == f"done {REQUESTS // 5}":
            break
    else:
        pytest.fail(f"the load ended early: {result_of(load)}")
    before_kill = time.time()
    host.check_output(f"kill -9 {old_pid}")
    after_kill = time.time()
    back_after = wait_until_back(site, name, entry, old_pid, after_kill)
    result = result_of(load)

    # A failure is excused only when the killed instance had begun to answer it before, and it ended by the kill.
    inexcusable = [
        failure
        for failure in result["failures"]
        if not (
            failure["upstream"] == killed
            and failure["started"] <= after_kill
            and before_kill <= failure["ended"] <= after_kill + 5
        )
    ]
    assert inexcusable == []
    assert len(result["failures"]) <= CONCURRENCY
    assert result["completed"] == REQUESTS - len(result["failures"])
    assert back_after <= BACK_WITHIN_SECONDS
    assert int(host.check_output(show % "NRestarts")) >= 1


def wait_until_back(site: t.Any, name: str, entry: dict[str, t.Any], old_pid: int, killed_at: float) -> float:
    """Seconds after the kill until a new process of the instance gave a token when asked directly."""
    address = endpoint(entry, site.plans[name])
    body = json.dumps({"model": site.model, "prompt": "Back?", "max_tokens": 1}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {site.api_key}"}
    problem = "not asked yet"
    while time.time() < killed_at + BACK_WITHIN_SECONDS:
        request = urllib.request.Request(f"http://{address}/v1/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                answer = json.load(response)
            pid = int(site.hosts[name].check_output(f"systemctl show --value --property=MainPID {entry['unit']}"))
            if answer["usage"]["completion_tokens"] == 1 and pid not in (0, old_pid):
                return time.time() - killed_at
            problem = f"main process {pid}, answer {answer}"
        except OSError as error:
            problem = str(error)
        time.sleep(1)
    log = site.hosts[name].check_output(f"journalctl --unit={entry['unit']} --lines=30 --no-pager")
    raise AssertionError(f"{entry['unit']} was not back {BACK_WITHIN_SECONDS} s after kill -9 ({problem}):\n{log}")
