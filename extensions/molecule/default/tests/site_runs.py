# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs of playbooks/site.yml against the scenario's containers, with other variables than it was converged with."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import typing as t

import pytest
import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[4]
INVENTORY = pathlib.Path(os.environ.get("NUMAPIN_INVENTORY", REPOSITORY / "build" / "molecule" / "inventory.yml"))

Model = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished ansible-playbook: its output, and the recap as {host: {"ok": 3, "changed": 0, …}}."""

    status: int
    output: str
    recap: dict[str, dict[str, int]]

    @property
    def text(self) -> str:
        """The output as one line, so that a message is found however it was wrapped."""
        return " ".join(self.output.split())


def run_site(*arguments: str, inventory: pathlib.Path = INVENTORY) -> Run:
    return run_playbook("site.yml", *arguments, inventory=inventory)


def run_playbook(name: str, *arguments: str, inventory: pathlib.Path = INVENTORY) -> Run:
    """Run one of the collection's playbooks to its end."""
    done = subprocess.run(
        ["ansible-playbook", f"--inventory={inventory}", str(REPOSITORY / "playbooks" / name), *arguments],
        cwd=REPOSITORY,
        env={
            # molecule asks for colours, which would hide the recap from the expression below.
            **{name: value for name, value in os.environ.items() if name != "ANSIBLE_FORCE_COLOR"},
            "ANSIBLE_CONFIG": str(REPOSITORY / "tests" / "containers" / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "build" / "dev"),
            "ANSIBLE_NOCOLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    recap = {}
    for host, counts in re.findall(r"^(\S+)\s+: (ok=\d+.*)$", done.stdout, flags=re.MULTILINE):
        recap[host] = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", counts)}
    return Run(done.returncode, done.stdout, recap)


def cpus_to_stray_to(host: t.Any, entry: t.Mapping[str, t.Any]) -> str:
    """Every CPU of the machine, for a thread that is let out by hand; skips where the plan has them all."""
    online = str(host.check_output("cat /sys/devices/system/cpu/online"))
    if online == entry["cpus"]:
        pytest.skip(f"every CPU of this machine ({online}) is planned: there is nowhere to stray to")
    return online


def with_models(*models: Model) -> str:
    return f"--extra-vars={json.dumps({'vllm_models': models})}"


def _groups() -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", yaml.safe_load(INVENTORY.read_text(encoding="utf-8"))["all"]["children"])


def address_of(host: str) -> str:
    """IP address of a container."""
    (address,) = [group["hosts"][host]["ansible_host"] for group in _groups().values() if host in group["hosts"]]
    return str(address)


def deployed_model() -> Model:
    """The entry of ``vllm_models`` that the scenario deployed."""
    (model,) = _groups()["inference"]["vars"]["vllm_models"]
    return t.cast("Model", model)
