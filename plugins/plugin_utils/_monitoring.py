# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The plans of all hosts, seen from Prometheus: what to scrape, and which CPU is on which node and whose.

Targets carry the labels ``host``, and ``vllm_instance`` and ``model`` where they are instances. ``instance`` stays what
Prometheus makes it, the address that was scraped.
"""

from __future__ import annotations

import ipaddress
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

Group = dict[str, t.Any]


class MonitoringError(NumapinError):
    """Hosts that cannot be scraped as they are described; the message names the host and the value."""


def scrape_targets(hosts: Sequence[Mapping[str, t.Any]], *, scraper: str | None = None) -> dict[str, list[Group]]:
    """Return, by job (``node``, ``nginx``, ``vllm``, ``dcgm``), the groups of a file for ``file_sd_configs``.

    A host is ``{name, address, plan, node_port, nginx_port, dcgm_port}``; a port that is null is not scraped, and
    ``nginx_address`` is where nginx' exporter is when it is not at ``address``.
    ``scraper`` is the name of the host on which Prometheus runs: an instance that listens on loopback only can be
    scraped from its own host, and is left out for any other.
    """
    jobs: dict[str, list[Group]] = {"node": [], "nginx": [], "vllm": [], "dcgm": []}
    for host in hosts:
        name, address = str(host["name"]), str(host["address"])
        if not address:
            raise MonitoringError(
                f"{name}: its address is empty; set monitoring_address to where Prometheus reaches it"
            )
        for job in ("node", "nginx", "dcgm"):
            port = host.get(f"{job}_port")
            if port is not None:
                jobs[job].append(_group(str(host.get(f"{job}_address") or address), port, host=name))
        plan = host.get("plan") or {}
        for instance in plan.get("instances") or ():
            if name == scraper or not _is_loopback(plan["address"]):
                jobs["vllm"].append(
                    _group(
                        plan["address"],
                        instance["port"],
                        host=name,
                        vllm_instance=instance["name"],
                        model=instance["model"],
                    )
                )
    return jobs


def placement_metrics(numa: Mapping[str, t.Any], plan: Mapping[str, t.Any] | None) -> str:
    """Return the plan as metrics for node_exporter's textfile collector.

    ``numapin_cpu_node`` says on which node every CPU is, and whose it is: instance, housekeeping, nginx or other.
    """
    roles: dict[int, str] = {}
    for node in (plan or {}).get("nodes") or ():
        roles.update(dict.fromkeys(_cpus(node["housekeeping_cpus"]), "housekeeping"))
    for instance in [*((plan or {}).get("instances") or ()), *((plan or {}).get("members") or ())]:
        roles.update(dict.fromkeys(_cpus(instance["cpus"]), "instance"))
    if (plan or {}).get("balancer"):
        roles.update(dict.fromkeys(_cpus(plan["balancer"]["cpus"] if plan else ""), "nginx"))
    lines = [
        "# HELP numapin_cpu_node The NUMA node of a CPU, and for whom the plan keeps it.",
        "# TYPE numapin_cpu_node gauge",
    ]
    for node in numa["nodes"]:
        lines += [
            f'numapin_cpu_node{{cpu="{cpu}",node="{node["id"]}",role="{roles.get(cpu, "other")}"}} 1'
            for cpu in sorted(_cpus(node["cpus"]))
        ]
    return "\n".join(lines) + "\n"


def _group(address: str, port: int, **labels: str) -> Group:
    return {"targets": [f"[{address}]:{port}" if ":" in address else f"{address}:{port}"], "labels": labels}


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _cpus(cpulist: str | None) -> frozenset[int]:
    return parse_cpulist(cpulist or "")
