# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Topology facts of made-up machines, in the shape that numa_facts returns."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist, parse_cpulist

Facts = dict[str, t.Any]


def uuid(index: int) -> str:
    """The UUID that ``gpu(index)`` has by default."""
    return f"GPU-{index:08x}-0000-4000-8000-000000000000"


def gpu(index: int, node: int | None, **changes: t.Any) -> Facts:
    """An H100 with 80 GB on ``node``; PCI addresses ascend with ``index``."""
    entry: Facts = {
        "uuid": uuid(index),
        "pci_address": f"0000:{0x10 + index:02x}:00.0",
        "name": "NVIDIA H100",
        "vendor": "nvidia",
        "memory_total_mib": 81559,
        "node": node,
        "node_source": "nvml" if node is not None else "unknown",
        "cpus": None,
        "links": [],
        "source": "nvml",
    }
    return {**entry, **changes}


def mig(index: int, node: int | None, *names: str, **changes: t.Any) -> Facts:
    """A GPU divided into MIG devices called ``names``, whose UUIDs are ``mig_uuid(index, 0)`` and so on."""
    devices = [
        {"uuid": mig_uuid(index, number), "name": name, "memory_total_mib": 9856} for number, name in enumerate(names)
    ]
    return gpu(index, node, mig={"enabled": True, "devices": devices}, **changes)


def mig_uuid(index: int, number: int) -> str:
    """The UUID of a MIG device of ``mig(index, …)``."""
    return f"MIG-{index:08x}-0000-4000-8000-{number:012x}"


def connect(gpus: t.Sequence[Facts], links: t.Mapping[tuple[int, int], tuple[int, str]]) -> list[Facts]:
    """``gpus`` with links; ``links``: NVLinks and PCIe path by pairs of indices, all others are none and ``SYS``."""
    connected = []
    for index, entry in enumerate(gpus):
        ends = []
        for other, end in enumerate(gpus):
            if other != index:
                nvlinks, path = links.get((index, other)) or links.get((other, index)) or (0, "SYS")
                ends.append({"pci_address": end["pci_address"], "nvlinks": nvlinks, "path": path})
        connected.append({**entry, "links": ends})
    return connected


def machine(
    nodes: dict[int, str],
    gpus: t.Sequence[Facts] = (),
    *,
    smt: int | None = None,
    kinds: dict[int, str] | None = None,
    offline: str = "",
    allowed: str | None = None,
    packages: t.Sequence[t.Sequence[int]] | None = None,
    memory_mib: t.Mapping[int, int | None] | None = None,
    huge_mib: t.Mapping[int, int] | None = None,
    nics: t.Sequence[Facts] = (),
) -> Facts:
    """A machine with one package per node.

    ``nodes``: online CPUs by node id; ``smt``: CPU ``c`` and CPU ``c + smt`` are one core; ``kinds``: of nodes that are
    not ``cpu_and_memory``; ``offline``: CPUs that exist and are off; ``allowed``: default all; ``packages``: the nodes
    of each; ``memory_mib``, ``huge_mib``: of nodes, default 515000 and none.
    """
    if packages is None:
        packages = [[node_id] for node_id in nodes]
    package_of = {node_id: number for number, members in enumerate(packages) for node_id in members}
    node_of = {cpu: node_id for node_id, cpus in reversed(nodes.items()) for cpu in parse_cpulist(cpus)}
    online = frozenset(node_of)
    return {
        "nodes": [
            {
                "id": node_id,
                "cpus": cpus,
                "cpu_count": len(parse_cpulist(cpus)),
                "memory_total_mib": (memory_mib or {}).get(node_id, 515000),
                "memory_free_mib": 500000,
                "distances": [{"node": other, "distance": 10 if other == node_id else 21} for other in nodes],
                "package_ids": [package_of[node_id]] if node_id in package_of else [],
                "kind": (kinds or {}).get(node_id, "cpu_and_memory"),
                "hugepages": [
                    {"size_kib": 2048, "total": (huge_mib or {}).get(node_id, 0) // 2, "free": 0, "surplus": 0}
                ],
            }
            for node_id, cpus in nodes.items()
        ],
        "cpus": [
            {
                "id": cpu,
                "node": node_of.get(cpu),
                "package": package_of.get(node_of[cpu]) if cpu in node_of else None,
                "core": cpu % smt if smt else cpu,
                "smt_siblings": format_cpulist({cpu, (cpu + smt) % (2 * smt)} & online) if smt else str(cpu),
                "llc_domain": nodes[node_of[cpu]] if cpu in node_of else None,
                "online": cpu in online,
            }
            for cpu in sorted(online | parse_cpulist(offline))
        ],
        "packages": [
            {
                "id": number,
                "cpus": format_cpulist(cpu for cpu, node_id in node_of.items() if node_id in members),
                "nodes": list(members),
            }
            for number, members in enumerate(packages)
        ],
        "gpus": list(gpus),
        "nics": list(nics),
        "kernel": {"release": "6.1.0", "numa_balancing": 1},
        "allowed_cpus": format_cpulist(online) if allowed is None else allowed,
        "warnings": [],
    }


def model(name: str = "llama", **keys: t.Any) -> Facts:
    """An entry of ``vllm_models``."""
    return {"name": name, "source": f"/opt/models/{name}", **keys}


def eight_gpus() -> Facts:
    """Two packages with 32 cores, SMT, and four GPUs each: the HGX shape."""
    return machine({0: "0-31,64-95", 1: "32-63,96-127"}, [gpu(index, index // 4) for index in range(8)], smt=64)


def cpu_only() -> Facts:
    """Two packages with 8 cores each and nothing else."""
    return machine({0: "0-7", 1: "8-15"})
