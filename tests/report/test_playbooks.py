# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks write a report, whatever the hosts are like: captured, as planned or not, refused, gone."""

from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.tests.report.made_up_fleet import gpu_server, verified
from ansible_collections.numapin.inference.tests.report.pages import TOP, Open
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import model

MODELS = [{"name": "llama", "source": "example/llama", "device": "cpu"}]


def run(playbook: str, inventory: dict[str, t.Any], where: Path, *options: str) -> str:
    """Run a playbook of the collection in ``where`` and return what it said."""
    (where / "inventory.yml").write_text(json.dumps(inventory), encoding="utf-8")
    done = subprocess.run(
        ["ansible-playbook", "-i", "inventory.yml", f"numapin.inference.{playbook}", *options],
        cwd=where,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def by_name(report: dict[str, t.Any]) -> dict[str, t.Any]:
    return {part["name"]: part for part in report["hosts"]}


def test_captured_hosts(tmp_path: Path, open_page: Open) -> None:
    hosts: dict[str, t.Any] = {"gpu-server": {}, "four-nodes": {}}
    inventory = {"inference": {"hosts": hosts, "vars": {"vllm_models": MODELS, "vllm_housekeeping_cores": 0}}}
    run("report_captured", inventory, tmp_path, "-e", f"capture_directory={TOP / 'tests' / 'captures'}")
    report = json.loads((tmp_path / "numapin-report.json").read_text(encoding="utf-8"))
    assert (report["format"], report["version"]) == ("numapin.inference/report", 1)
    assert report["summary"]["states"]["not_verified"] == report["summary"]["hosts"] == 2
    parts = by_name(report)
    assert [one["cpus"] for one in parts["gpu-server"]["plan"]["instances"]] == ["0-1", "2-3"]
    assert parts["four-nodes"]["topology"]["nodes"][3]["kind"] == "memory_only"
    assert "enp65s0: 3 of 3 interrupts land on CPUs of instances (0-1 of llama-n0)" in [
        warning["text"] for warning in parts["gpu-server"]["warnings"]
    ]
    page = open_page(tmp_path / "numapin-report.html")
    assert page.locator('details[data-host="four-nodes"] [data-cpu]').count() == 4
    assert page.locator('details[data-host="gpu-server"] [data-gpu]').count() == 4


@pytest.fixture
def running() -> dict[str, t.Any]:
    """This machine as two hosts, one with another's plan and a misplaced thread, one refused; and one that is gone."""
    plan = plan_host(gpu_server(), [model()], host="here", address="127.0.0.1")
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    hosts = {
        # First, so that the report is written in the name of a host that does not answer.
        "gone": {"ansible_host": "127.0.0.1", "ansible_port": 1},
        "here": {**local, "vllm_plan": plan, "verify_result": verified(plan, stray_on=1)},
        "refused": {**local, "vllm_reserved_cpus": "0-4095"},
    }
    return {
        "inference": {"hosts": hosts, "vars": {"vllm_models": MODELS, "ansible_ssh_common_args": "-o BatchMode=yes"}}
    }


def test_running_hosts(tmp_path: Path, running: dict[str, t.Any], open_page: Open) -> None:
    run(
        "report",
        running,
        tmp_path,
        "-e",
        "report_file=fleet/page.html",
        "-e",
        "report_title='{{ inventory_hostname }} <b>'",
    )
    assert sorted(path.name for path in (tmp_path / "fleet").iterdir()) == ["page.html", "page.json"]
    report = json.loads((tmp_path / "fleet" / "page.json").read_text(encoding="utf-8"))
    assert {name: part["state"] for name, part in by_name(report).items()} == {
        "here": "drifted",
        "refused": "failed",
        "gone": "unreachable",
    }
    parts = by_name(report)
    assert "reserved_cpus" in parts["refused"]["error"]
    assert parts["refused"]["topology"]["nodes"]
    assert parts["here"]["placement"][0]["stray_thread_count"] == 1
    # Secrets stand in environments and arguments.
    assert not {"environment", "arguments", "source"} & set(parts["here"]["plan"]["instances"][0])
    assert (tmp_path / "fleet" / "page.html").stat().st_mode & 0o777 == 0o640
    page = open_page(tmp_path / "fleet" / "page.html")
    assert page.locator("h1").text_content() == "gone <b>"
    assert page.locator("details[data-host]").count() == 3
    assert page.locator('details[data-host="here"] > summary').inner_text().count("! 1 misplaced thread") == 1


def test_check_mode_writes_nothing(tmp_path: Path, running: dict[str, t.Any]) -> None:
    said = run("report", running, tmp_path, "--check", "--diff", "--limit", "here")
    assert [path.name for path in tmp_path.iterdir()] == ["inventory.yml"]
    assert said.count("changed: [here -> localhost]") == 2


def test_a_report_sets_up_no_timer(tmp_path: Path, running: dict[str, t.Any]) -> None:
    hosts = running["inference"]["hosts"]
    here = hosts.pop("here")
    # Proved by this very run: nothing is planned on it. A timer would need systemd.
    hosts["empty"] = {**here, "vllm_plan": {**here["vllm_plan"], "instances": []}, "verify_timer": False}
    del hosts["empty"]["verify_result"]
    said = run("report", running, tmp_path, "--limit", "empty")
    tasks = {text.partition("]")[0].rpartition(" : ")[2]: text for text in said.split("TASK [")}
    assert "skipping: [empty]" in tasks["Have the host repeat the proof, and ask what it saw lately"]
    assert "ok: [empty]" in tasks["Ask what the host saw lately"]
    report = json.loads((tmp_path / "numapin-report.json").read_text(encoding="utf-8"))
    assert by_name(report)["empty"]["error"] is None
