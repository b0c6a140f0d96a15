# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Made-up hosts as the roles would find them: the planner's own plans, and what verify would say."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import parse_cpulist
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host
from ansible_collections.numapin.inference.plugins.plugin_utils._report_data import fleet_report, host_report
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    connect,
    gpu,
    machine,
    model,
    uuid,
)

Dict = dict[str, t.Any]
GENERATED = "2026-11-25T12:00:00Z"


def gpu_server(number: int = 0) -> Dict:
    """The facts of an HGX-shaped host: 128 CPUs, eight GPUs, all of them connected, a NIC and a disk on each node."""
    nvlinks = {
        (one, other): (18, "NODE" if one // 4 == other // 4 else "SYS") for one in range(8) for other in range(one)
    }
    gpus = connect([gpu(index, index // 4, uuid=uuid(1000 * number + index)) for index in range(8)], nvlinks)
    for entry in gpus:
        entry["links"] = [{**link, "kind": f"NV{link['nvlinks']}"} for link in entry["links"]]
    facts = machine({0: "0-31,64-95", 1: "32-63,96-127"}, gpus, smt=64, huge_mib={1: 4096})
    facts["llc_domains"] = [
        {
            "cpus": f"{first}-{first + 15},{first + 64}-{first + 79}",
            "level": 3,
            "size_kib": 65536,
            "nodes": [first // 32],
        }
        for first in (0, 16, 32, 48)
    ]
    facts["nics"] = [
        {"name": f"eth{node}", "pci_address": f"0000:{0x40 + node:02x}:00.0", "driver": "mlx5_core", "node": node}
        | {"speed_mbps": 400000, "link": "up", "sriov": None, "irqs": []}
        for node in (0, 1)
    ]
    facts["nvme"] = [
        {"name": "nvme0", "pci_address": "0000:50:00.0", "model": "disk", "driver": "nvme", "node": 0, "irqs": []}
    ]
    return facts


def vectors(facts: Dict, cpus: t.Sequence[str] = ("0", "64", "32", "96")) -> list[Dict]:
    """Four interrupts of every NIC, on housekeeping CPUs."""
    return [
        {"irq": 100 + index, "device": nic["pci_address"], "device_names": [nic["name"]], "kinds": ["nic"]}
        | {"node": nic["node"], "queue": index, "name": f"mlx5_comp{index}", "requested": cpu, "effective": cpu}
        for nic in facts["nics"]
        for index, cpu in enumerate([*cpus[2 * nic["node"] : 2 * nic["node"] + 2]] * 2)
    ]


def placed(instance: Dict, stray_on: int | None = None) -> Dict:
    """What placement_info says about an instance. ``stray_on``: one thread may run anywhere, and ran on that CPU."""
    node = instance["memory_nodes"][0]
    strays = []
    allowed = [{"cpus": instance["cpus"], "threads": 212}]
    problems = []
    if stray_on is not None:
        allowed.append({"cpus": "0-127", "threads": 1})
        strays = [
            {"pid": 4711, "tid": 4720, "comm": "python3", "cpus_allowed": "0-127", "last_cpu": stray_on}
            | {"planned_cpus": instance["cpus"]}
        ]
        where = f"outside the planned CPUs {instance['cpus']}"
        problems = [f"1 of 213 threads may run {where}: thread 4720 (python3) of process 4711 on CPUs 0-127"]
    return {
        "name": instance["name"],
        "unit": instance["unit"],
        "ok": not problems,
        "problems": problems,
        "state": "running",
        "summary": "",
        "processes": [
            {"pid": 4711, "comm": "VLLM::Worker", "thread_count": 212, "last_cpu": min(parse_cpulist(instance["cpus"]))}
            | {"pages_mib_by_node": [pages(node, 61840.2)], "pages_unknown_because": None}
        ],
        "thread_count": 212 + len(strays),
        "cpus_allowed": allowed,
        "mems_allowed": [{"nodes": str(node), "threads": 212}],
        "stray_thread_count": len(strays),
        "stray_threads": strays,
        "pages_mib_by_node": [pages(node, 61840.2)] + ([pages(1 - node, 2048.0)] if strays else []),
        "pages_unknown_because": None,
        "memory_policies": [{"policy": f"bind:{node}", "mib": 61840.2}],
        "locality_percent": 96.7 if strays else 100.0,
        "own_locality_percent": 99.9,
    }


def pages(node: int, mib: float) -> Dict:
    """An entry of ``pages_mib_by_node``."""
    return {"node": node, "total": mib, "anonymous": mib, "file": 0.0, "huge": 0.0}


def verified(plan: Dict, stray_on: int | None = None) -> Dict:
    """What role verify finds; the first instance has a misplaced thread when ``stray_on`` says where it ran."""
    instances = [placed(one, stray_on if index == 0 else None) for index, one in enumerate(plan["instances"])]
    problems = [f"{one['name']}: {problem}" for one in instances for problem in one["problems"]]
    service = [{"name": one["name"], "state": "ready", "detail": ""} for one in instances]
    tuning = {"tuned": True, "problems": [], "notes": []}
    return {
        "ok": not problems,
        "problems": problems,
        "instances": instances,
        "not_deployed": [],
        "models": ["llama-3-70b"],
    } | {
        "service": service,
        "tuning": tuning,
    }


def host(name: str, number: int = 0, *, stray_on: int | None = None, is_verified: bool = True, **more: t.Any) -> Dict:
    """One host's part of the report: four instances of two models, and cores of its own for nginx."""
    facts = gpu_server(number)
    facts["nics"][0]["irqs"] = facts["nics"][1]["irqs"] = [1]
    models = [model("llama-3-70b", tensor_parallel_size=2), model("qwen-3-8b", tensor_parallel_size=2)]
    plan = plan_host(facts, models, host=name, address="192.0.2.1", balancer_cores=1)
    return host_report(
        name,
        roles=["inference"],
        numa=facts,
        plan=plan,
        verified=verified(plan, stray_on) if is_verified else None,
        vectors=vectors(facts),
        **more,
    )


def fleet(parts: t.Sequence[Dict], **options: t.Any) -> Dict:
    """A report of these hosts."""
    return fleet_report(parts, **{"title": "NUMA placement of the fleet", "generated": GENERATED, **options})


def thousand() -> Dict:
    """A thousand such hosts, copies of two; every hundredth has a misplaced thread."""
    kinds = {stray: host("template", stray_on=stray) for stray in (None, 40)}
    parts = []
    for number in range(1000):
        part = dict(kinds[40 if number % 100 == 7 else None])
        part["name"] = f"gpu-{number:04d}"
        parts.append(part)
    return fleet(parts)
