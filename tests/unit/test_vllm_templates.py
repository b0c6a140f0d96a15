# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role vllm writes for an instance says what its plan says, whatever kind of plan it is."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    Facts,
    cpu_only,
    eight_gpus,
    gpu,
    machine,
    mig,
    mig_uuid,
    model,
    uuid,
)

TEMPLATES = Path(__file__).resolve().parents[2] / "roles" / "vllm" / "templates"


def first_instance(facts: Facts, **keys: t.Any) -> dict[str, t.Any]:
    entry: dict[str, t.Any] = plan_host(facts, [model(**keys)], host="gpu1", address="192.0.2.11")["instances"][0]
    return entry


def render(name: str, instance: dict[str, t.Any]) -> str:
    variables = {"instance": instance, "vllm_listen_address": "192.0.2.11", "vllm_shutdown_timeout_seconds": 120}
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    return str(Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text)))


def placement(facts: Facts, **keys: t.Any) -> dict[str, str]:
    """The settings of placement.conf, those of Environment= by the names of their variables."""
    text = render("placement.conf.j2", first_instance(facts, **keys))
    pairs = [
        row.removeprefix("Environment=").partition("=") for row in text.splitlines() if "=" in row and row[0] != "#"
    ]
    return {key: value for key, _equals, value in pairs}


def config(facts: Facts, **keys: t.Any) -> dict[str, t.Any]:
    found: dict[str, t.Any] = yaml.safe_load(render("instance.yaml.j2", first_instance(facts, **keys)))
    return found


def chosen(found: t.Mapping[str, t.Any], *keys: str) -> list[t.Any]:
    return [found.get(key) for key in keys]


FENCE = ("CPUAffinity", "AllowedCPUs", "NUMAPolicy", "NUMAMask", "AllowedMemoryNodes")
PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "numa-bind", "numa-bind-nodes")
BOTH = "1-31,33-63,65-95,97-127"


def test_an_instance_inside_a_node() -> None:
    found = placement(eight_gpus(), tensor_parallel_size=4)
    assert chosen(found, *FENCE) == ["1-31,65-95", "1-31,65-95", "bind", "0", "0"]
    assert found["CUDA_VISIBLE_DEVICES"] == ",".join(uuid(index) for index in range(4))
    # vLLM refuses numa-bind where the process is bound already, and ignores it for a single worker.
    assert chosen(config(eight_gpus(), tensor_parallel_size=4), *PARALLEL) == [4, 1, None, None]


def test_a_pipeline_over_nodes() -> None:
    keys = {"tensor_parallel_size": 8, "spanning": "pipeline"}
    assert chosen(placement(eight_gpus(), **keys), *FENCE) == [BOTH, BOTH, "bind", "0,1", "0,1"]
    assert chosen(config(eight_gpus(), **keys), *PARALLEL) == [4, 2, True, [0, 0, 0, 0, 1, 1, 1, 1]]


def test_a_group_interleaved_over_nodes() -> None:
    keys = {"tensor_parallel_size": 8, "spanning": "interleave"}
    assert chosen(placement(eight_gpus(), **keys), *FENCE) == [BOTH, BOTH, "interleave", "0,1", "0,1"]
    assert chosen(config(eight_gpus(), **keys), *PARALLEL) == [8, 1, None, None]


def test_a_package() -> None:
    facts = machine({0: "0-3", 1: "4-7"}, [gpu(0, 0), gpu(1, 1)], packages=[[0, 1]])
    keys = {"tensor_parallel_size": 2, "scope": "package"}
    assert chosen(placement(facts, **keys), *FENCE) == ["1-3,5-7", "1-3,5-7", "bind", "0,1", "0,1"]
    assert chosen(config(facts, **keys), *PARALLEL) == [2, 1, None, None]


def test_a_mig_device() -> None:
    found = placement(machine({0: "0-3"}, [mig(0, 0, "1g", "1g")]))
    assert found["CUDA_VISIBLE_DEVICES"] == mig_uuid(0, 0)


@pytest.mark.parametrize(
    ("keys", "omp", "policy"),
    [
        ({"spanning": "pipeline", "tensor_parallel_size": 2}, "1-7|9-15", "bind"),
        ({"spanning": "interleave", "tensor_parallel_size": 2}, "1-7|9-15", "interleave"),
        ({"spanning": "interleave", "memory_mib": 600000}, "1-7,9-15", "interleave"),
    ],
)
def test_workers_on_the_cpu(keys: Facts, omp: str, policy: str) -> None:
    found = placement(cpu_only(), **keys)
    assert chosen(found, "AllowedCPUs", "NUMAPolicy", "NUMAMask") == ["1-7,9-15", policy, "0,1"]
    assert chosen(found, "VLLM_CPU_OMP_THREADS_BIND", "CPU_VISIBLE_MEMORY_NODES") == [omp, "0,1"]
    assert "numa-bind" not in config(cpu_only(), **keys)


def test_preferred_memory_is_not_fenced() -> None:
    assert chosen(placement(cpu_only(), memory_policy="preferred"), *FENCE[2:]) == ["preferred", "0", None]
