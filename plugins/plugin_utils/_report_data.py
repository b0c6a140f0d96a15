# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What is known of hosts → the report for machines (docs/report.md has its shape): no opinion on how it looks.

A host's part is made where its variables are; the fleet is those parts, and a host without one did not answer. What
goes into a report is named here, key by key: an instance's environment and vLLM's arguments may hold secrets.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._plain import describe_type, plain
from ansible_collections.numapin.inference.plugins.plugin_utils._words import count

FORMAT = "numapin.inference/report"
VERSION = 1

AS_PLANNED, DRIFTED, NOT_DEPLOYED, NOT_VERIFIED = "as_planned", "drifted", "not_deployed", "not_verified"
FAILED, UNREACHABLE = "failed", "unreachable"
# Worst first: in this order the fleet is looked at.
STATES = (UNREACHABLE, FAILED, DRIFTED, NOT_DEPLOYED, NOT_VERIFIED, AS_PLANNED)

_PLANNED = (
    *("name", "model", "served_names", "unit", "nodes", "cpus", "omp_cpus", "api_server_cpus", "memory_nodes"),
    *("memory_policy", "memory_mib", "device", "gpus", "tensor_parallel_size", "pipeline_parallel_size", "port"),
    *("weight", "housekeeping_cpus", "reasons"),
)
_TOPOLOGY = (
    *("nodes", "packages", "llc_domains", "gpus", "nics", "nvme", "infiniband", "gpu_nic_pairs", "kernel"),
    *("allowed_cpus", "offline_cpus", "offline_nodes"),
)
# The kernel itself spreads the interrupts of disks over all CPUs, and lets nobody move them.
_MOVABLE_KINDS = frozenset({"nic", "infiniband", "gpu"})

Dict = dict[str, t.Any]


class ReportError(NumapinError):
    """What was given to be reported is not what the roles found; the message names it."""


def host_report(
    name: str,
    *,
    roles: Sequence[str] = ("inference",),
    numa: object = None,
    plan: object = None,
    verified: object = None,
    vectors: object = None,
    benchmarks: object = None,
    error: str | None = None,
) -> Dict:
    """Return one host's part of the report.

    ``numa`` is its ``ansible_facts['numa']``, ``plan`` its ``vllm_plan``, ``verified`` the role verify's
    ``verify_result``, ``vectors`` those of the module irq_info, ``benchmarks`` as docs/report.md says; each may be
    null. ``error`` says why the host could not be looked at. Raises ``ReportError`` for anything else.
    """
    facts = _dictionary(numa, "numa", name, ("nodes", "cpus"))
    planned = _dictionary(plan, "plan", name, ("instances", "nodes"))
    result = _dictionary(verified, "verified", name, ("ok", "problems", "instances"))
    interrupts = _dictionaries(vectors, "vectors", name)
    return {
        "name": str(name),
        "address": planned.get("address") if planned else None,
        "roles": [str(role) for role in roles],
        "state": _state(result, error),
        "error": error,
        "problems": list(result["problems"]) if result else [],
        "warnings": _warnings(facts, planned, interrupts),
        "notes": list((result.get("tuning") or {}).get("notes") or []) if result else [],
        "not_deployed": list(result.get("not_deployed") or []) if result else [],
        "topology": _topology(facts) if facts else None,
        "plan": _plan(planned) if planned else None,
        "placement": list(result["instances"]) if result else None,
        "service": list(result.get("service") or []) if result else None,
        "tuning": result.get("tuning") if result else None,
        "models": list(result.get("models") or []) if result else [],
        "interrupts": interrupts,
        "benchmarks": _dictionaries(benchmarks, "benchmarks", name) or [],
    }


def fleet_report(
    hosts: object, *, expected: Sequence[str] = (), title: str, generated: str, benchmarks: object = None
) -> Dict:
    """Put the hosts' parts together; an expected host without one is unreachable. Raises ``ReportError``."""
    parts = _dictionaries(hosts, "hosts", "the fleet") or []
    for part in parts:
        if not {"name", "state", "topology"} <= set(part):
            raise ReportError(f"{str(part)[:60]!r} is no part of a report: give what the filter report_host returns")
    known = {part["name"] for part in parts}
    missing = [str(name) for name in expected if name not in known]
    parts += [host_report(name, error="The host did not answer.") | {"state": UNREACHABLE} for name in missing]
    parts.sort(key=lambda part: (STATES.index(part["state"]), part["name"]))
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": title,
        "generated": generated,
        "summary": _summary(parts),
        "hosts": parts,
        "benchmarks": _dictionaries(benchmarks, "benchmarks", "the fleet") or [],
    }


def _state(result: Dict | None, error: str | None) -> str:
    if error is not None:
        return FAILED
    if result is None:
        return NOT_VERIFIED
    if not result["ok"]:
        return DRIFTED
    return NOT_DEPLOYED if result.get("not_deployed") else AS_PLANNED


def _topology(facts: Dict) -> Dict:
    """The facts as they are, with the CPUs as cores: their SMT siblings, ascending, below the node they are on."""
    topology = {key: facts.get(key) for key in _TOPOLOGY}
    cores: dict[int | None, list[str]] = {}
    seen: set[str] = set()
    for cpu in facts["cpus"] or []:
        siblings = cpu["smt_siblings"] or str(cpu["id"])
        if cpu["online"] and siblings not in seen:
            seen.add(siblings)
            cores.setdefault(cpu["node"], []).append(siblings)
    topology["nodes"] = [{**node, "cores": cores.get(node["id"], [])} for node in facts["nodes"]]
    return topology


def _plan(plan: Dict) -> Dict:
    return {
        "nodes": plan["nodes"],
        "balancer": plan.get("balancer"),
        "instances": [{key: instance.get(key) for key in _PLANNED} for instance in _all_of(plan)],
    }


def _all_of(plan: Dict) -> list[Dict]:
    """With what the host has of instances that another one leads."""
    return [*plan["instances"], *plan.get("members", [])]


def _warnings(facts: Dict | None, plan: Dict | None, vectors: Sequence[Dict] | None) -> list[Dict]:
    """Return what deserves attention and is no difference from the plan: ``{source, text}``."""
    found = [{"source": "topology", "text": text} for text in (facts or {}).get("warnings") or ()]
    found += [{"source": "plan", "text": text} for text in (plan or {}).get("warnings") or ()]
    if vectors:
        found += [{"source": "interrupts", "text": text} for text in _interrupts_in_the_way(facts, plan, vectors)]
    return found


def _interrupts_in_the_way(facts: Dict | None, plan: Dict | None, vectors: Sequence[Dict]) -> t.Iterator[str]:
    """Say which devices interrupt CPUs of instances, and which land on another node than their own; a line a device."""
    owners = {cpu: one["name"] for one in (plan or {}).get("instances", ()) for cpu in cpus_of(one.get("cpus"))}
    node_cpus = {node["id"]: cpus_of(node["cpus"]) for node in (facts or {}).get("nodes", ())}
    by_device: dict[str, list[Dict]] = {}
    for vector in vectors:
        if _MOVABLE_KINDS & set(vector["kinds"]):
            by_device.setdefault(vector["device"], []).append(vector)
    for device, mine in by_device.items():
        landing = [cpus_of(lands_on(vector)) for vector in mine]
        what = ", ".join(mine[0]["device_names"]) or device
        disturbed = [cpus & owners.keys() for cpus in landing if cpus & owners.keys()]
        if disturbed:
            cpus = frozenset().union(*disturbed)
            names = sorted({owners[cpu] for cpu in cpus})
            yield (
                f"{what}: {len(disturbed)} of {count(len(mine), 'interrupt')} land on CPUs of instances"
                f" ({format_cpulist(cpus)} of {', '.join(names)})"
            )
        own = node_cpus.get(mine[0]["node"])
        away = [cpus for cpus in landing if own and cpus and not cpus & own]
        if away:
            yield (
                f"{what}: {len(away)} of {count(len(mine), 'interrupt')} land on another node than its own,"
                f" {mine[0]['node']} (CPUs {format_cpulist(frozenset().union(*away))})"
            )


def lands_on(vector: Mapping[str, t.Any]) -> str | None:
    """The CPUs on which a vector lands: what the kernel made of the request, or the request where it does not say."""
    found = vector["effective"] or vector["requested"]
    return None if found is None else str(found)


def cpus_of(cpulist: object) -> frozenset[int]:
    """The CPUs of a cpulist; none for what is unknown. Raises ``ReportError`` for what is no cpulist."""
    if cpulist is None:
        return frozenset()
    try:
        return parse_cpulist(str(cpulist))
    except CpusetError as error:
        raise ReportError(f"a report cannot be made: {error}") from error


def _summary(parts: Sequence[Dict]) -> Dict:
    placements = [one for part in parts for one in part["placement"] or ()]
    planned = [one for part in parts for one in (part["plan"] or {}).get("instances", ())]
    return {
        "hosts": len(parts),
        "states": {state: sum(part["state"] == state for part in parts) for state in STATES},
        "instances": len(planned),
        "instances_verified": len(placements),
        "instances_as_planned": sum(bool(one["ok"]) for one in placements),
        "stray_threads": sum(one.get("stray_thread_count") or 0 for one in placements),
        "nodes": sum(len((part["topology"] or {}).get("nodes") or ()) for part in parts),
        "gpus": sum(len((part["topology"] or {}).get("gpus") or ()) for part in parts),
        "models": sorted({one["model"] for one in planned}),
        "problems": sum(len(part["problems"]) for part in parts),
        "warnings": sum(len(part["warnings"]) for part in parts),
    }


def _dictionary(value: object, what: str, host: str, keys: Sequence[str]) -> Dict | None:
    if value is None or value == {}:
        return None
    if not isinstance(value, Mapping) or not set(keys) <= set(value):
        raise ReportError(
            f"{host}: {what} is {describe_type(value)} ({str(value)[:60]!r}), but a report needs a dictionary with"
            f" {', '.join(keys)}; docs/report.md says which role or module gives it"
        )
    found = plain(value)
    return dict(found)


def _dictionaries(value: object, what: str, whose: str) -> list[Dict] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, Mapping) for one in value):
        raise ReportError(
            f"{whose}: {what} is {describe_type(value)} ({str(value)[:60]!r}), but it must be a list of dictionaries"
        )
    found = plain(value)
    return list(found)
