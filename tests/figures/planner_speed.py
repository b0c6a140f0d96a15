# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long does it take to plan 1,000 hosts with 8 instances each?

Every host is a server of the usual size: two packages of 56 cores with SMT, four GPUs in each, all eight connected by
an NVSwitch; the facts are as large as those that numa_facts returns for it. Each host is planned once as if it were new
and once with its last plan, through the filter plan_instances, as a play does it. The slower of the two counts, each
the best of three rounds, as the machine does other things as well.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build" / "dev"))

# Importable only now (E402): a script finds what lies beside it through the path that was just set.
from ansible_collections.numapin.inference.plugins.filter.plan_instances import plan_instances  # noqa: E402
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (  # noqa: E402
    connect,
    gpu,
    machine,
    model,
)

HOSTS = 1000
INSTANCES = 8
ROUNDS = 3
MODELS = [
    model("large", tensor_parallel_size=2, gpus="[?memory_total_mib >= `80000`]", memory_mib=65536),
    model("small", instances_per_node=2, arguments={"max-model-len": 8192}),
    model("embedder", device="cpu", environment={"VLLM_CPU_KVCACHE_SPACE": "8"}),
]


def usual_server() -> dict[str, t.Any]:
    """The facts of one host."""
    links = {
        (one, other): (18, "NODE" if one // 4 == other // 4 else "SYS") for one in range(8) for other in range(one)
    }
    nics = [
        {"name": f"ens{i}", "node": i // 4, "link": "up", "speed_mbps": 400000, "irqs": list(range(64))}
        for i in range(8)
    ]
    gpus = connect([gpu(index, index // 4) for index in range(8)], links)
    return machine({0: "0-55,112-167", 1: "56-111,168-223"}, gpus, smt=112, nics=nics)


def plan_all(fleet: t.Sequence[dict[str, t.Any]], plans: t.Sequence[object]) -> tuple[list[dict[str, t.Any]], float]:
    """Return the plans of all hosts, and the seconds they took."""
    started = time.perf_counter()
    planned = [
        plan_instances(
            facts,
            MODELS,
            f"gpu{index}",
            f"10.{index // 250}.{index % 250}.1",
            plans[index],
            balancer_cores=2,
            reserved_memory_mib=256,
        )
        for index, facts in enumerate(fleet)
    ]
    return planned, time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    facts = usual_server()
    # Hosts of their own: what is read once could otherwise be kept for all of them.
    fleet = [copy.deepcopy(facts) for _host in range(HOSTS)]
    new: list[dict[str, t.Any]] = []
    again: list[dict[str, t.Any]] = []
    new_seconds = again_seconds = float("inf")
    for _round in range(ROUNDS):
        new, seconds = plan_all(fleet, [None] * HOSTS)
        new_seconds = min(new_seconds, seconds)
        again, seconds = plan_all(fleet, new)
        again_seconds = min(again_seconds, seconds)
    if again != new or any(len(plan["instances"]) != INSTANCES for plan in new):
        sys.exit("planning again changed a plan, or a plan has not the instances that this measures")
    detail = f"{HOSTS} hosts x {INSTANCES} instances: {new_seconds:.2f} s new, {again_seconds:.2f} s with the last plan"
    print(json.dumps({"value": round(max(new_seconds, again_seconds), 2), "detail": detail}))


if __name__ == "__main__":
    main()
