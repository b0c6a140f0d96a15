# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A double of hosts: every module is answered as a host answers it that is as wanted, without a process of its own.

What a fleet costs the controller is measured with it (tests/figures/fleet_cost.py), and what becomes of a run when a
host goes away in the middle (tests/fleet). A module that it does not know is an error, so that no new one goes unseen.
"""

from __future__ import annotations

import ast
import json
import os
import re
import typing as t
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: answering
short_description: Answers modules as a host that is as wanted
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - A double, for measurements.
options: {}
"""

Answer = dict[str, t.Any]
# What AnsiballZ hands to its wrapper, each on a line of its own.
GIVEN = re.compile(r"^\s*(module_fqn|params)=(['\"].*),$", re.MULTILINE)
# One process for each task of each host: what one host remembers is in a file.
DIRECTORY = Path(os.environ["NUMAPIN_FLEET_DIRECTORY"])
# ADDRESS:MODULE: from the moment on that this module is to run there, that host does not answer any more.
GONE = os.environ.get("NUMAPIN_FLEET_GONE", "")


class Connection(ConnectionBase):
    """To nobody."""

    transport = "answering"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        if not in_data:
            # Home and temporary directory, which some actions ask for before their module.
            made = re.search(r"echo (ansible-tmp-[\w.-]+)=", cmd)
            return 0, (f"{made[1]}=/root/.ansible/tmp/{made[1]}\n" if made else "/root\n").encode(), b""
        given = {name: ast.literal_eval(value) for name, value in GIVEN.findall(in_data.decode())}
        module = given["module_fqn"].rpartition(".")[2]
        if module not in ANSWERS:
            raise AnsibleConnectionFailure(f"this double does not know the module {module}: add its answer")
        host = self._play_context.remote_addr
        gone = DIRECTORY / f"{host}.gone"
        if f"{host}:{module}" == GONE:
            gone.touch()
        if gone.exists():
            raise AnsibleConnectionFailure(f"{host} does not answer: this double was told to go away")
        arguments = json.loads(given["params"])["ANSIBLE_MODULE_ARGS"]
        answer = {"changed": False, **ANSWERS[module](arguments, host)}
        return 0, json.dumps(answer).encode(), b""

    def put_file(self, in_path: str, out_path: str) -> None:
        raise AnsibleConnectionFailure("this double takes no files")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        raise AnsibleConnectionFailure("this double gives no files")

    def close(self) -> None:
        self._connected = False


def numa_facts(_arguments: Answer, _host: str) -> Answer:
    return {"ansible_facts": {"numa": json.loads((DIRECTORY / "facts.json").read_text(encoding="utf-8"))}}


def deployment_info(arguments: Answer, _host: str) -> Answer:
    there = {"exists": True, "is_directory": True, "weights_mib": 1000}
    return {
        "previous_plan": None,
        "drained": {},
        "paths": dict.fromkeys(arguments.get("paths") or [], there),
        "stamp": None,
        "python": {"exists": True, "vllm": True, "version": "0.33.0", "error": None},
        "shared_memory_total_mib": 64386,
        "warnings_found": [],
    }


def config_files(arguments: Answer, host: str) -> Answer:
    for file in arguments["files"]:
        if file["path"].endswith("/status.conf"):
            (DIRECTORY / f"{host}.version").write_text(file["content"], encoding="utf-8")
    return {
        "changed_files": [],
        "changed_directories": [],
        "removed_files": [],
        "drifted_files": [],
        "validated": True,
        "diff": [],
    }


def instance_ready(arguments: Answer, _host: str) -> Answer:
    found = [
        {
            "name": one["name"],
            "unit": one["unit"],
            "state": "ready",
            "detail": "",
            "seconds": 0.1,
            "restarts": 0,
            "log": [],
        }
        for one in arguments["instances"]
    ]
    return {"ready": True, "summary": f"{len(found)} of {len(found)} ready", "instances": found}


def placement_info(arguments: Answer, _host: str) -> Answer:
    found = [
        {
            "name": one["name"],
            "unit": one["unit"],
            "ok": True,
            "problems": [],
            "notes": [],
            "summary": f"{one['name']}: as planned",
            "state": "running",
            "processes": [{"pid": 1, "comm": "VLLM::Worker", "thread_count": 200}] * 4,
        }
        for one in arguments["instances"]
    ]
    return {"ok": True, "cpuset_enforced": True, "gpu_warnings": [], "instances": found}


def uri(arguments: Answer, host: str) -> Answer:
    content = json.dumps({"data": [{"id": "llama"}], "choices": [{}], "usage": {"completion_tokens": 1}})
    if arguments["url"].endswith("/version"):
        content = re.findall(r"[0-9a-f]{16}", (DIRECTORY / f"{host}.version").read_text(encoding="utf-8"))[0]
    found: Answer = {"status": 200, "content": content, "url": arguments["url"], "msg": "OK"}
    return {**found, "json": json.loads(content)} if content.startswith("{") else found


def nginx(_arguments: Answer, _host: str) -> Answer:
    """What the balancer's role asks by a shell."""
    return {
        "rc": 0,
        "stdout": "",
        "stderr": "nginx version: nginx/1.26.3\nconfigure arguments: --user=www-data",
        "cmd": "",
    }


def always(**answer: t.Any) -> t.Callable[[Answer, str], Answer]:
    return lambda _arguments, _host: answer


ANSWERS: dict[str, t.Callable[[Answer, str], Answer]] = {
    "ping": always(ping="pong"),
    "numa_facts": numa_facts,
    "deployment_info": deployment_info,
    "config_files": config_files,
    "instance_ready": instance_ready,
    "placement_info": placement_info,
    "uri": uri,
    "command": nginx,
    "user": always(name="vllm", uid=999),
    "systemd_service": always(name="nginx", state="started", status={"NeedDaemonReload": "no"}),
    "vllm_units": always(actions=[], reloaded=False),
    "tuning_info": always(tuned=True, problems=[], kernel=[], hugepages=[], interrupts=[], notes=[]),
    "instance_watchdog": always(changed_files=[], removed_files=[], service="none"),
    "verify_timer": always(changed_files=[], removed_files=[], timer="none", problems=[], last=None),
    "kernel_settings": always(settings=[], restored=[], unsupported=[], competitors=[]),
    "hugepages": always(pools=[], mounts=[], reboot_required=False, reboot_reasons=[], drift=[], competitors=[]),
    "irq_affinity": always(vectors=[], masks=[], counts={}, summary=""),
}
