# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fleet of the demo and of molecule: two inference hosts and one balancer, serving one model."""

from __future__ import annotations

import dataclasses
import os
import secrets
import typing as t

from fleet import cpus, hosts, inventory, vllm
from fleet.settings import BUILD, MODEL_SOURCE, VLLM_PYTHON, Settings

INFERENCE_HOSTS = ("inference1", "inference2")
BALANCER = "balancer1"
MODEL = "tiny"
PORT = 80
# The engine double loads for a while, and writes long answers for ten seconds.
DOUBLE = {"NUMAPIN_ENGINE_START_SECONDS": "5", "NUMAPIN_ENGINE_TOKENS_PER_SECOND": "150"}


@dataclasses.dataclass(frozen=True)
class Service:
    """What ``up`` wrote, and where the balancer will answer once site.yml has run."""

    files: inventory.Files
    url: str


def up(
    purpose: str,
    settings: Settings,
    inference_hosts: t.Sequence[str] = INFERENCE_HOSTS,
    balancers: t.Sequence[str] = (BALANCER,),
    python: str = VLLM_PYTHON,
    mounts: tuple[str, ...] = (),
) -> Service:
    """Start the hosts and write their inventory. Another ``python`` than vLLM's comes with one of the ``mounts``."""
    shared = vllm.ready(settings).mounts() + mounts
    wanted = [hosts.Host(name, "inference", 11 + i, shared) for i, name in enumerate(inference_hosts)]
    wanted += [hosts.Host(name, "load_balancers", 21 + i) for i, name in enumerate(balancers)]
    running = hosts.up(purpose, wanted, settings)
    make_api_key(purpose)
    reserved = cpus.reserved_for_each(len(inference_hosts))
    own = {name: {"vllm_reserved_cpus": text} for name, text in zip(inference_hosts, reserved, strict=True)}
    balancing: dict[str, t.Any] = {"load_balancer_port": PORT, "load_balancer_upstream_header": True}
    if purpose == "molecule":
        # The role has to install numactl there: the image has none.
        own[inference_hosts[1]]["vllm_binding"] = "numactl"
        balancing |= {"load_balancer_hardening": True, "load_balancer_exporter": True}
    files = inventory.write(
        purpose,
        running,
        {
            "load_balancers": balancing,
            "all": {"vllm_api_key": "{{ lookup('ansible.builtin.file', inventory_dir ~ '/api_key') }}"},
            "inference": {
                "vllm_models": models(double=python != VLLM_PYTHON),
                "vllm_install_method": "existing",
                "vllm_existing_python": python,
                # The two hosts share this machine's CPUs: each is told which belong to the other.
                "vllm_housekeeping_cores": 0,
            },
        },
        own,
    )
    balancer = next(host for host in running if host.name == balancers[0])
    return Service(files, f"http://{balancer.address}:{PORT}/v1" if PORT != 80 else f"http://{balancer.address}/v1")


def models(double: bool = False) -> list[dict[str, t.Any]]:
    """What is served, by vLLM or by its double."""
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    return [
        {
            "name": MODEL,
            "source": MODEL_SOURCE,
            "instances": 1,
            "device": "cpu",
            # Left alone, vLLM 0.32 makes float32 bfloat16, and that dies of an illegal instruction on processors with
            # AMX. float32 is what every processor computes with.
            "arguments": {"load-format": "dummy", "enforce-eager": True, "max-model-len": 4096, "dtype": "float32"},
            "environment": environment | (DOUBLE if double else {}),
        }
    ]


def make_api_key(purpose: str, name: str = "api_key") -> None:
    """Write a random key, once, that only its owner can read."""
    path = BUILD / purpose / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(secrets.token_urlsafe(32) + "\n")
        part.rename(path)
