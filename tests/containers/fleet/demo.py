# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo: from a bare machine to a streamed answer."""

from __future__ import annotations

import json
import shlex
import sys
import time

from fleet import service
from fleet.console import STARTED, run, say, show, step
from fleet.settings import CONTAINERS, Settings, ansible_playbook

QUESTION = "Where does a pinned thread find its memory?"


def run_demo(settings: Settings, purpose: str = "demo") -> None:
    """Bring the hosts up, run site.yml on them, show what it did, stream one answer."""
    ready = service.up(purpose, settings)
    files, url = ready.files, ready.url
    command, environment = ansible_playbook(f"--inventory={files.inventory}", "numapin.inference.site")
    with step("Running site.yml on them"):
        show(command, timeout_seconds=1800, environment=environment)
    command, environment = ansible_playbook(f"--inventory={files.inventory}", str(CONTAINERS / "show.yml"))
    with step("Reading what runs where"):
        run(command, timeout_seconds=300, environment=environment)
    print("\n" + (files.directory / "what_runs_where.txt").read_text(encoding="utf-8"), flush=True)
    key_path = files.directory / "api_key"
    say(f"Streaming one chat completion from {url} (random weights: the words mean nothing)")
    stream = [sys.executable, str(CONTAINERS / "stream.py"), "--url", url, "--model", service.MODEL]
    show([*stream, "--api-key-file", str(key_path), QUESTION], timeout_seconds=180)
    message = {"role": "user", "content": "Hello"}
    body = json.dumps({"model": service.MODEL, "stream": True, "max_tokens": 60, "messages": [message]})
    down = "make demo-down" if purpose == "demo" else f"python3 tests/containers down {purpose}"
    print(
        f"\nReady after {time.monotonic() - STARTED:.0f} s. It stays up until `{down}`. Try it:\n\n"
        f'curl -N {url}/chat/completions -H "Authorization: Bearer $(cat {shlex.quote(str(key_path))})" '
        f"-H 'Content-Type: application/json' -d '{body}'\n\n"
        f"  URL        {url}\n"
        f"  API key    {key_path}\n"
        f"  inventory  {files.inventory}\n"
        f"  log in     ssh -F {shlex.quote(str(files.ssh_config))} {service.INFERENCE_HOSTS[0]}",
        flush=True,
    )
