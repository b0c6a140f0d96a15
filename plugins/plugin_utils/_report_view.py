# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The report for machines → what its page draws: who has which CPU, where threads and interrupts are, what to search.

CPU sets stay cpulists, which are short; the page takes a set apart when it draws it.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist
from ansible_collections.numapin.inference.plugins.plugin_utils._report_data import Dict, cpus_of, lands_on


def fleet_view(report: Mapping[str, t.Any]) -> Dict:
    """Return what the page draws of ``report`` (as ``fleet_report`` returns it)."""
    return {
        "title": report["title"],
        "generated": report["generated"],
        "summary": report["summary"],
        "benchmarks": report["benchmarks"],
        "hosts": [host_view(host) for host in report["hosts"]],
    }


def host_view(host: Mapping[str, t.Any]) -> Dict:
    """Return what the page draws of one host."""
    topology = host["topology"] or {}
    plan = host["plan"] or {"nodes": [], "balancer": None, "instances": []}
    gpus = [_gpu(number, gpu, plan["instances"]) for number, gpu in enumerate(topology.get("gpus") or ())]
    instances = _instances(host, plan, gpus)
    for gpu in gpus:
        gpu["held_by"] = [
            number for number, instance in enumerate(instances) if gpu["names"] & set(instance["held_gpus"] or ())
        ]
        del gpu["names"]
    view = {key: host[key] for key in ("name", "address", "state", "error", "problems", "warnings", "notes", "models")}
    return {
        **view,
        "host_roles": host["roles"],
        "not_deployed": host["not_deployed"],
        "benchmarks": host["benchmarks"],
        "served": sorted({instance["model"] for instance in plan["instances"]}),
        "strays": sum(instance["stray_thread_count"] or 0 for instance in instances),
        "instances": instances,
        "cpus": _cpu_roles(topology, plan),
        "packages": _packages(topology),
        "nodes": [_node(node, topology, instances) for node in topology.get("nodes") or ()],
        "gpus": gpus,
        "nics": _nics(topology),
        "nvme": [_picked(one, "name", "pci_address", "node", "model") for one in topology.get("nvme") or ()],
        "interrupts": _interrupts(host["interrupts"]),
        "kernel": _kernel(topology.get("kernel"), host["tuning"]),
        "search": _search_text(host, plan, topology),
    }


def _cpu_roles(topology: Mapping[str, t.Any], plan: Mapping[str, t.Any]) -> list[Dict]:
    """Return who has which CPUs, each CPU once: ``{role, instance, cpus}``; what comes first has it."""
    claims: list[tuple[str, int | None, frozenset[int]]] = [("offline", None, cpus_of(topology.get("offline_cpus")))]
    if plan["balancer"]:
        claims.append(("nginx", None, cpus_of(plan["balancer"]["cpus"])))
    for number, instance in enumerate(plan["instances"]):
        claims.append(("api_server", number, cpus_of(instance["api_server_cpus"] or None)))
        claims.append(("instance", number, cpus_of(instance["cpus"])))
    claims.append(
        ("housekeeping", None, frozenset().union(*(cpus_of(one["housekeeping_cpus"]) for one in plan["nodes"])))
    )
    everything = frozenset().union(*(cpus_of(node["cpus"]) for node in topology.get("nodes") or ()))
    allowed = topology.get("allowed_cpus")
    if allowed is not None:
        claims.append(("isolated", None, everything - cpus_of(allowed)))
    claims.append(("free", None, everything))
    taken: frozenset[int] = frozenset()
    roles = []
    for role, owner, cpus in claims:
        if cpus - taken:
            roles.append({"role": role, "instance": owner, "cpus": format_cpulist(cpus - taken)})
        taken |= cpus
    return roles


def _instances(host: Mapping[str, t.Any], plan: Mapping[str, t.Any], gpus: Sequence[Dict]) -> list[Dict]:
    placed = {one["name"]: one for one in host["placement"] or ()}
    service = {one["name"]: one for one in host["service"] or ()}
    return [
        {
            **instance,
            "label": _letters(number),
            "gpu_numbers": [gpu["number"] for gpu in gpus if number in gpu["instances"]],
            "not_deployed": instance["name"] in host["not_deployed"],
            "answers": (service.get(instance["name"]) or {}).get("state"),
            **_placed(placed.get(instance["name"])),
        }
        for number, instance in enumerate(plan["instances"])
    ]


def _placed(found: Mapping[str, t.Any] | None) -> Dict:
    """Where an instance really is; all null where nobody looked."""
    keys = (
        *("ok", "state", "problems", "summary", "thread_count", "cpus_allowed", "mems_allowed", "stray_thread_count"),
        *("stray_threads", "processes", "pages_mib_by_node", "memory_policies", "locality_percent"),
        *("own_locality_percent", "last_cpus", "notes"),
    )
    placed = {key: (found or {}).get(key) for key in keys}
    # The plan's own ``gpus`` are those that it was given.
    held = (found or {}).get("gpus") or {}
    placed["held_gpus"] = [entry["gpu"] for entry in held["held"]] if held.get("held") is not None else None
    placed["gpu_problems"] = held.get("problems") or []
    return placed


def _letters(number: int) -> str:
    """A, B, …, Z, AA, AB, …: what stands in the CPUs of an instance, so that colours are not all there is."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def _packages(topology: Mapping[str, t.Any]) -> list[Dict]:
    return [{"id": one["id"], "nodes": one["nodes"]} for one in topology.get("packages") or ()]


def _node(node: Mapping[str, t.Any], topology: Mapping[str, t.Any], instances: Sequence[Mapping[str, t.Any]]) -> Dict:
    pages = [
        {"instance": number, "mib": entry["total"], "planned": node["id"] in instance["memory_nodes"]}
        for number, instance in enumerate(instances)
        for entry in instance["pages_mib_by_node"] or ()
        if entry["node"] == node["id"]
    ]
    return {
        **_picked(node, "id", "kind", "cpus", "memory_total_mib", "memory_free_mib", "hugepages", "numastat"),
        "distances": node.get("distances"),
        "caches": _caches(node, topology.get("llc_domains")),
        "pages": pages,
    }


def _caches(node: Mapping[str, t.Any], domains: Sequence[Mapping[str, t.Any]] | None) -> list[Dict]:
    """The node's cores by the last-level cache above them: ``{level, size_kib, cores}``; cores as ``"0,64 1,65"``."""
    remaining = {core: cpus_of(core) for core in node["cores"]}
    groups = []
    for domain in domains or ():
        shared = cpus_of(domain["cpus"])
        below = [core for core, cpus in remaining.items() if cpus & shared]
        if below:
            groups.append({"level": domain["level"], "size_kib": domain["size_kib"], "cores": " ".join(below)})
            for core in below:
                del remaining[core]
    if remaining:
        groups.append({"level": None, "size_kib": None, "cores": " ".join(remaining)})
    return groups


def _gpu(number: int, gpu: Mapping[str, t.Any], instances: Sequence[Mapping[str, t.Any]]) -> Dict:
    devices = (gpu.get("mig") or {}).get("devices") or ()
    own = {gpu["pci_address"], gpu.get("uuid"), *(one["uuid"] for one in devices)}
    return {
        **_picked(gpu, "uuid", "pci_address", "name", "vendor", "memory_total_mib", "node", "node_source"),
        "number": number,
        "names": own,
        "mig": [one["name"] for one in devices],
        "instances": [index for index, one in enumerate(instances) if own & set(one["gpus"] or ())],
        "links": [_picked(link, "pci_address", "kind", "nvlinks", "path") for link in gpu.get("links") or ()],
    }


def _nics(topology: Mapping[str, t.Any]) -> list[Dict]:
    """Network devices without virtual functions; one PCI function is one device."""
    rdma = {one["pci_address"]: one for one in topology.get("infiniband") or () if one.get("physical_function") is None}
    found = []
    for nic in topology.get("nics") or ():
        if (nic.get("sriov") or {}).get("physical_function") is None:
            other = rdma.pop(nic["pci_address"], None)
            name = f"{nic['name']}/{other['name']}" if other else nic["name"]
            found.append({**_picked(nic, "pci_address", "node", "driver", "speed_mbps", "link"), "name": name})
    found += [_picked(one, "name", "pci_address", "node", "driver", "speed_mbps", "link") for one in rdma.values()]
    return found


def _interrupts(vectors: Sequence[Mapping[str, t.Any]] | None) -> list[Dict] | None:
    """By device: ``{device, kinds, node, vectors, landing}``, ``landing`` as ``[[cpulist, how many vectors], …]``."""
    if vectors is None:
        return None
    devices: dict[str, Dict] = {}
    for vector in vectors:
        device = devices.setdefault(
            vector["device"],
            {
                "device": ", ".join(vector["device_names"]) or vector["device"],
                "kinds": vector["kinds"],
                "node": vector["node"],
                "vectors": 0,
                "landing": {},
            },
        )
        device["vectors"] += 1
        where = lands_on(vector)
        device["landing"][where] = device["landing"].get(where, 0) + 1
    return [{**device, "landing": list(map(list, device["landing"].items()))} for device in devices.values()]


def _kernel(kernel: Mapping[str, t.Any] | None, tuning: Mapping[str, t.Any] | None) -> list[list[t.Any]]:
    """Rows ``[setting, value]`` for people."""
    rows = [
        [key.replace("_", " "), value]
        for key, value in (kernel or {}).items()
        if not isinstance(value, Mapping) and value not in (None, "")
    ]
    for service in ("irqbalance", "tuned"):
        state = (kernel or {}).get(service)
        if state:
            rows.append([service, "active" if state.get("active") else "not active"])
    if tuning:
        held = "as tuned" if not tuning.get("problems") else "not as tuned"
        rows.append(["host_tuning", held if tuning.get("tuned") else "not tuned by this collection"])
    return rows


def _search_text(host: Mapping[str, t.Any], plan: Mapping[str, t.Any], topology: Mapping[str, t.Any]) -> str:
    """What the search looks through, in small letters: names, models, GPUs, devices, what is wrong."""
    words = [host["name"], host["address"] or "", host["state"].replace("_", " "), *host["roles"], host["error"] or ""]
    for instance in plan["instances"]:
        words += [instance["name"], instance["model"], *(instance["served_names"] or ()), f":{instance['port']}"]
    gpus = topology.get("gpus") or ()
    words += [gpu.get("uuid") or "" for gpu in gpus]
    words += sorted({gpu.get("name") or "" for gpu in gpus})
    words += [nic["name"] for nic in topology.get("nics") or ()]
    words += [*host["problems"], *(warning["text"] for warning in host["warnings"])]
    return "\n".join(word for word in words if word).lower()


def _picked(entry: Mapping[str, t.Any], *keys: str) -> Dict:
    return {key: entry.get(key) for key in keys}
