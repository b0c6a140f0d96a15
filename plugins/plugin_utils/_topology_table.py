# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The topology of one host as text: what ``numactl -H`` and ``nvidia-smi topo -m`` print, together."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._tables import format_table

_LEGEND = """X    the GPU itself
NV#  # bonded NVLinks
PIX  at most one PCIe bridge
PXB  several PCIe bridges, not the host bridge
PHB  the PCIe host bridge
NODE several host bridges of one node
SYS  the connection between nodes
-    unknown"""


class TableError(NumapinError):
    """What was given to be shown is not what the table shows."""


def topology_table(numa: object) -> str:
    """Show the facts of one host: nodes and distances, GPUs and how they reach one another and the NICs, the warnings.

    Parts that were not gathered are left out.

    ``numa`` has the shape of ``ansible_facts['numa']``; anything else raises ``TableError``.
    """
    if not isinstance(numa, dict) or not isinstance(numa.get("nodes"), list):
        raise TableError(
            f"topology_table got {_shown(numa)}; give it ansible_facts['numa'], as the module"
            " numapin.inference.numa_facts returns it"
        )
    try:
        return "\n\n".join(_topology_parts(numa))
    except (KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"topology_table got facts it cannot read ({type(error).__name__}: {error}); gather them with the module"
            " numapin.inference.numa_facts of this version of the collection"
        ) from error


def _topology_parts(numa: dict[str, t.Any]) -> list[str]:
    nodes = numa["nodes"]
    gpus = numa["gpus"] or []
    parts = [_node_table(nodes, gpus)]
    offline = [
        f"offline {what}: {numa[key]}"
        for what, key in (("nodes", "offline_nodes"), ("CPUs", "offline_cpus"))
        if numa[key]
    ]
    if offline:
        parts.append("\n".join(offline))
    distances = {node["id"]: {entry["node"]: entry["distance"] for entry in node["distances"]} for node in nodes}
    columns = sorted({other for row in distances.values() for other in row})
    if columns:
        rows = [[number, *(row.get(other) for other in columns)] for number, row in distances.items()]
        parts.append("node distances\n" + format_table(["node", *map(str, columns)], rows))
    devices = _network_devices(numa)
    if gpus:
        parts.append(_gpu_table(gpus))
    if devices:
        parts.append(_network_table(devices))
    if gpus and (devices or any(gpu["links"] for gpu in gpus)):
        parts.append(_connections(gpus, devices, numa["gpu_nic_pairs"] or []))
    if numa["warnings"]:
        parts.append("warnings\n" + "\n".join(f"- {warning}" for warning in numa["warnings"]))
    return parts


def _node_table(nodes: list[dict[str, t.Any]], gpus: list[dict[str, t.Any]]) -> str:
    headers = ["node", "kind", "packages", "CPUs", "CPU list", "memory MiB", "free MiB", "GPUs"]
    rows = [
        [
            node["id"],
            node["kind"].replace("_", " "),
            ",".join(str(package) for package in node["package_ids"] or ()),
            node["cpu_count"],
            node["cpus"],
            node["memory_total_mib"],
            node["memory_free_mib"],
            sum(gpu["node"] == node["id"] for gpu in gpus),
        ]
        for node in nodes
    ]
    return format_table(headers, rows)


def _gpu_table(gpus: list[dict[str, t.Any]]) -> str:
    headers = ["GPU", "address", "node", "said by", "memory MiB", "MIG", "name", "UUID"]
    rows = [
        [
            f"GPU{number}",
            gpu["pci_address"],
            gpu["node"],
            gpu["node_source"] if gpu["node"] is not None else None,
            gpu["memory_total_mib"],
            _mig(gpu["mig"]),
            gpu["name"] or f"{gpu['vendor']} (name unknown)",
            gpu["uuid"],
        ]
        for number, gpu in enumerate(gpus)
    ]
    return format_table(headers, rows)


def _mig(mig: dict[str, t.Any]) -> str | None:
    if mig["enabled"] is None:
        return None
    if not mig["enabled"]:
        return "off"
    devices = len(mig["devices"])
    return f"{devices} device" if devices == 1 else f"{devices} devices"


def _network_devices(numa: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    """Return the network devices with a fixed place, without virtual functions: {name, nic, infiniband, node, …}.

    A network interface and an InfiniBand device of one PCI function are one device, as ``nvidia-smi`` counts.
    """
    infiniband = [entry for entry in numa["infiniband"] or [] if entry["physical_function"] is None]
    by_address = {entry["pci_address"]: entry["name"] for entry in infiniband if entry["pci_address"]}
    devices = []
    seen = set()
    for nic in numa["nics"] or []:
        if nic["sriov"] is not None and nic["sriov"]["physical_function"] is not None:
            continue
        other = by_address.get(nic["pci_address"])
        seen.add(other)
        speed = nic["speed_mbps"]
        devices.append(
            {
                "name": "/".join(name for name in (nic["name"], other) if name),
                "nic": nic["name"],
                "infiniband": other,
                "pci_address": nic["pci_address"],
                "node": nic["node"],
                "driver": nic["driver"],
                "link": nic["link"] if speed is None else f"{nic['link']}, {speed} Mbit/s",
                "vectors": len(nic["irqs"]),
            }
        )
    for entry in infiniband:
        if entry["name"] not in seen:
            states = sorted({port["state"] for port in entry["ports"] if port["state"]})
            devices.append(
                {
                    "name": entry["name"],
                    "nic": None,
                    "infiniband": entry["name"],
                    "pci_address": entry["pci_address"],
                    "node": entry["node"],
                    "driver": entry["driver"],
                    "link": ", ".join(states) or None,
                    "vectors": len(entry["irqs"]),
                }
            )
    return devices


def _network_table(devices: list[dict[str, t.Any]]) -> str:
    headers = ["NIC", "device", "address", "node", "driver", "link", "vectors"]
    rows = [
        [f"NIC{number}", *(device[key] for key in ("name", "pci_address", "node", "driver", "link", "vectors"))]
        for number, device in enumerate(devices)
    ]
    return format_table(headers, rows)


def _connections(gpus: list[dict[str, t.Any]], devices: list[dict[str, t.Any]], pairs: list[dict[str, t.Any]]) -> str:
    """Return the matrix of ``nvidia-smi topo -m``; its GPUs are numbered by PCI address."""
    near = {(pair["gpu"], name): pair["path"] for pair in pairs for name in (pair["nic"], pair["infiniband"]) if name}
    headers = [
        "",
        *(f"GPU{number}" for number in range(len(gpus))),
        *(f"NIC{number}" for number in range(len(devices))),
    ]
    headers += ["CPU affinity", "NUMA affinity", "GPU NUMA id"]
    rows = []
    for number, gpu in enumerate(gpus):
        links = {link["pci_address"]: link["kind"] for link in gpu["links"] or ()}
        row: list[object] = [f"GPU{number}"]
        row += ["X" if other is gpu else links.get(other["pci_address"]) for other in gpus]
        row += [_to_network(gpu, device, near) for device in devices]
        rows.append([*row, gpu["cpus"], gpu["node"], gpu["memory_node"]])
    return f"connections\n{format_table(headers, rows)}\n\n{_LEGEND}"


def _to_network(gpu: dict[str, t.Any], device: dict[str, t.Any], near: dict[tuple[str, str], str]) -> str | None:
    for name in (device["nic"], device["infiniband"]):
        path = near.get((gpu["pci_address"], name))
        if path is not None:
            return path
    # Only pairs on one node are listed; what is on two known nodes is connected through both.
    if None in (gpu["node"], device["node"]) or gpu["node"] == device["node"]:
        return None
    return "SYS"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
