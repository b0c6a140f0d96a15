# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Prometheus and real exporters on loopback, and the role's configuration for them."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import threading
import time
import typing as t
import urllib.request
from pathlib import Path

from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import cpu_only, model

HERE = Path(__file__).resolve().parent
# What nginx' module stub_status answers.
STUB_STATUS = "Active connections: 3 \nserver accepts handled requests\n 11 11 21 \nReading: 0 Writing: 1 Waiting: 2 \n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def wait_for(what: t.Callable[[], t.Any], seconds: float) -> t.Any:
    """Return what ``what`` returns once that is true; it may fail to answer until then."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            found = what()
            if found:
                return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def running(*command: str) -> t.Iterator[None]:
    """A program that is there until the block ends."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def stub_status() -> t.Iterator[str]:
    """A double of nginx' own counters; gives their URL."""

    class Counters(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(STUB_STATUS.encode())

        def log_message(self, *_arguments: t.Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counters) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/stub_status"
        server.shutdown()


def render(where: Path, **variables: t.Any) -> Path:
    """Let the role render its files below ``where``: for one host, gpu1, which is planned; returns the directory."""
    plan = plan_host(cpu_only(), [model()], host="gpu1", address="192.0.2.11")
    host = {"ansible_connection": "local", "vllm_plan": plan, "monitoring_address": "127.0.0.1"}
    inventory = {
        "inference": {"hosts": {"gpu1": host}},
        "monitoring": {"hosts": {"watcher": {"ansible_connection": "local"}}},
        "all": {
            "vars": {
                "monitoring_prometheus_directory": str(where / "prometheus"),
                "monitoring_grafana_directory": str(where / "grafana"),
                "monitoring_grafana": True,
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                **variables,
            }
        },
    }
    (where / "inventory.yml").write_text(json.dumps(inventory), encoding="utf-8")
    done = subprocess.run(
        ["ansible-playbook", "-i", str(where / "inventory.yml"), str(HERE / "render.yml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return where
