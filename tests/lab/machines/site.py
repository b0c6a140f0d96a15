# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's fleet: two dual-socket machines that serve, four instances in all, and a balancer."""

from __future__ import annotations

import typing as t

from fleet.console import FleetError, say, show, step
from fleet.service import make_api_key
from fleet.settings import REPOSITORY, ansible_playbook

from machines import inventory, machine, shapes, warm
from machines.image import Image
from machines.payload import ENGINE_PYTHON, MODEL_SOURCE
from machines.places import RUNNING

INFERENCE, BALANCERS = "inference", "load_balancers"
MODEL = "tiny"
SITE_SECONDS = 900
# A machine has each piece of code in memory once, on whatever node read it first: an instance of two workers needs
# memory of its own, as a model has, for that (19 MiB were seen, from all of its processes) to be less than a hundredth.
WORKER_MEMORY_MIB = 1300


class Member(t.NamedTuple):
    """One machine of the fleet."""

    name: str
    shape: str
    group: str


MEMBERS = (
    Member("inference1", "gpu-server", INFERENCE),
    Member("inference2", "gpu-server", INFERENCE),
    Member("balancer1", "balancer", BALANCERS),
)


def up(purpose: str, image: Image) -> list[machine.Machine]:
    """Start those members that do not run, clean, and write the inventory."""
    running = {one.name: one for one in machine.running(purpose)}
    fresh = [
        warm.Wanted(member.name, shapes.read(member.shape), number)
        for number, member in enumerate(MEMBERS, 1)
        if member.name not in running
    ]
    running |= {one.name: one for one in warm.up(purpose, fresh, image)}
    make_api_key(f"{RUNNING.name}/{purpose}")
    write_inventory(purpose)
    return [running[member.name] for member in MEMBERS]


def write_inventory(purpose: str) -> inventory.Files:
    """The inventory of what runs, the fleet's members in their groups with what site.yml needs."""
    running = machine.running(purpose)
    groups = {
        group: [one.name for one in running if one.name in {member.name for member in MEMBERS if member.group == group}]
        for group in (INFERENCE, BALANCERS)
    }
    return inventory.write(purpose, running, groups, variables())


def variables() -> dict[str, dict[str, object]]:
    """Variables of site.yml by group."""
    return {
        "lab": {"vllm_api_key": "{{ lookup('ansible.builtin.file', inventory_dir ~ '/api_key') }}"},
        BALANCERS: {"load_balancer_upstream_header": True},
        INFERENCE: {
            "vllm_models": [
                {
                    "name": MODEL,
                    "source": MODEL_SOURCE,
                    "tensor_parallel_size": 2,
                    "arguments": {"max-model-len": 4096},
                    "environment": {"NUMAPIN_ENGINE_WORKER_MEMORY_MIB": str(WORKER_MEMORY_MIB)},
                }
            ],
            "vllm_install_method": "existing",
            "vllm_existing_python": ENGINE_PYTHON,
            # One machine with each.
            "vllm_binding": "{{ 'numactl' if inventory_hostname == 'inference2' else 'systemd' }}",
            # SSH comes by a forwarded port of the machine that QEMU runs on, balancers by the fleet's network.
            "vllm_address": "{{ lab_fleet_address }}",
            "vllm_shutdown_timeout_seconds": 20,
            "vllm_start_timeout_seconds": 240,
            # A test waits for the timer twice.
            "verify_timer_interval_seconds": 30,
        },
    }


def url(purpose: str) -> str:
    """Where the fleet's balancer answers on this machine; raises ``FleetError`` when it does not run."""
    names = [member.name for member in MEMBERS if member.group == BALANCERS]
    for one in machine.running(purpose):
        if one.name in names:
            return f"http://127.0.0.1:{one.http_port}/v1"
    raise FleetError(f"No balancer of purpose {purpose} runs: make lab starts the fleet.")


def converge(purpose: str) -> None:
    """Run site.yml on the fleet."""
    files = write_inventory(purpose)
    command, environment = ansible_playbook(
        f"--inventory={files.inventory}", str(REPOSITORY / "playbooks" / "site.yml")
    )
    with step("Running playbooks/site.yml on the fleet"):
        show(command, timeout_seconds=SITE_SECONDS, environment=environment)
    say(f"The fleet answers at {url(purpose)}")
