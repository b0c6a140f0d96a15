# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Topology facts and ``vllm_models`` in, one host's placement plan out; pure functions, a reason for every choice.

The plan is worked out in five steps: what there is (``_machine``), what each model may use and in which shape
(``_wishes``), which nodes and GPUs each instance gets (``_placing``), how the cores of a node are divided between its
instances (``_cores``), and ports (``_ports``).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._board import Slot
from ansible_collections.numapin.inference.plugins.plugin_utils._cores import Share, divide_cores, share_cores
from ansible_collections.numapin.inference.plugins.plugin_utils._groups import (
    ENGINE,
    GUARD,
    PORTS_PER_GROUP,
    RENDEZVOUS,
    parts_on,
    whole_sizes,
)
from ansible_collections.numapin.inference.plugins.plugin_utils._last_plan import read_last_plan
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Kept, Machine, flatten, read_machine
from ansible_collections.numapin.inference.plugins.plugin_utils._models import join_problems, parse_models
from ansible_collections.numapin.inference.plugins.plugin_utils._placing import place_all
from ansible_collections.numapin.inference.plugins.plugin_utils._ports import give_ports
from ansible_collections.numapin.inference.plugins.plugin_utils._reasons import reasons_of

NO_FENCE = (
    "systemd cannot fence the instances in: cgroup v2 has no cpuset controller here (cgroup v1, or hybrid). They start"
    " on their CPUs and memory nodes (CPUAffinity and NUMAPolicy, or numactl, work), but AllowedCPUs and"
    " AllowedMemoryNodes are not enforced, so nothing keeps a process there that moves itself; numapin-verify.timer"
    " watches instead. With the kernel parameter systemd.unified_cgroup_hierarchy=1 the host has cgroup v2"
)


class PlanError(NumapinError):
    """The wishes do not fit the host; ``problems`` holds what was asked, what there is and what would help."""

    def __init__(self, host: str, problems: t.Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(join_problems(f"host {host} cannot be planned", self.problems))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a host keeps from instances and what is known of the models on it; the filter's options by the same names.

    ``weights_mib``: size of the models' files by ``source``, where it was measured.
    """

    reserved_cpus: str = ""
    housekeeping_cores: int = 1
    balancer_cores: int = 0
    api_server_cores: int = 0
    reserved_memory_mib: int = 0
    weights_mib: t.Mapping[str, int] = dataclasses.field(default_factory=dict)


def plan_host(
    facts: object,
    models: object,
    *,
    host: str,
    address: str,
    previous: object = None,
    fleet: t.Mapping[str, t.Any] | None = None,
    **settings: t.Any,
) -> dict[str, t.Any]:
    """Plan one host.

    ``facts``: ``ansible_facts['numa']``; ``models``: ``vllm_models``; ``address``: the IP address at which balancers
    reach the instances; ``previous``: the plan of the last run, for stable names and ports (anything that is no plan
    counts as none); ``fleet``: its ``groups`` and ``warnings`` by host (``_groups``); ``settings``: those of
    ``Settings``. Returns the dictionary documented as ``vllm_plan`` in docs/architecture.md. What the host has of
    instances that another one leads is under ``members``, with neither port nor URL: ``joined`` puts them in.

    Raises ``ModelError``, ``FactsError`` and ``PlanError`` with all that is wrong at that stage. Changes no argument.
    """
    parsed = parse_models(models)
    wanted, mine = parts_on(parsed, host, (fleet or {}).get("groups", ()))
    given = Settings(**settings)
    machine = read_machine(facts, kept_from(given, host))
    last = read_last_plan(previous)
    slots, warnings, problems = place_all(wanted, machine, given.weights_mib, last)
    if problems:
        raise PlanError(host, problems)
    led = [slot for slot in slots if slot.name not in mine or mine[slot.name]["hosts"][0] == host]
    ports, port_reasons, problems = give_ports(led, wanted, machine, last)
    problems += _ports_of_groups(ports, mine)
    if problems:
        raise PlanError(host, problems)
    cores = divide_cores(slots, machine)
    shares = {slot.name: share_cores(slot, machine, cores[slot.name], given.api_server_cores) for slot in slots}
    warnings += (fleet or {}).get("warnings", {}).get(host, ())
    if fleet is None:
        warnings += [
            f"model {model.name!r} is left out here: instances over several hosts are planned with all of the fleet"
            for model in parsed
            if model.hosts is not None
        ]
    if not parsed:
        warnings.insert(0, "vllm_models is empty: this host serves nothing")
    if slots and machine.fenced is False:
        warnings.append(NO_FENCE)
    entries = {
        slot.name: {
            **_instance(slot, machine, shares[slot.name]),
            "host": host,
            **({"group": _group(slot, mine[slot.name], host, facts)} if slot.name in mine else {}),
        }
        for slot in slots
    }
    reasons = {
        slot.name: [
            *reasons_of(slot, slots, machine, shares[slot.name]),
            *(_reasons_of_group(slot, mine[slot.name], host) if slot.name in mine else ()),
        ]
        for slot in slots
    }
    members = [
        {**entries[slot.name], "port": None, "url": None, "reasons": reasons[slot.name]}
        for slot in slots
        if slot.name not in ports
    ]
    return {
        "host": host,
        "address": address,
        "nodes": [
            {
                "node": node.id,
                "instance_cpus": format_cpulist(flatten(node.cores)),
                "housekeeping_cpus": format_cpulist(flatten(node.housekeeping)),
            }
            for node in machine.nodes
        ],
        "balancer": _balancer(machine),
        "instances": [
            {
                **entries[slot.name],
                "port": ports[slot.name],
                "url": _url(address, ports[slot.name]),
                "reasons": [*reasons[slot.name], port_reasons[slot.name]],
            }
            for slot in led
        ],
        **({"members": members} if members else {}),
        "warnings": [*machine.warnings, *warnings],
    }


def joined(plan: t.Mapping[str, t.Any], plans: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """A host's plan with port and URL of the instances that it is a member of, from their leaders' plans by host."""
    if "members" not in plan:
        return dict(plan)
    members = []
    for entry in plan["members"]:
        leader = entry["group"]["members"][0]["host"]
        there = [one for one in plans.get(leader, {}).get("instances", []) if one["name"] == entry["name"]]
        if not there:
            raise PlanError(plan["host"], [f"{entry['name']} is led by {leader}, which is not planned in this run."])
        if ipaddress.ip_address(plans[leader]["address"]).is_loopback:
            where = plans[leader]["address"]
            told = f"{entry['name']}: its leader {leader} serves at {where}, where its other hosts cannot ask it"
            raise PlanError(plan["host"], [f"{told}. Set vllm_address there, or have a group load_balancers."])
        members.append({**entry, "port": there[0]["port"], "url": there[0]["url"]})
    return {**plan, "members": members}


def _ports_of_groups(ports: t.Mapping[str, int], mine: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """Instances whose port is one of those that a group has on all of its hosts."""
    problems = []
    for group in mine.values():
        first, last = group["first_port"], group["first_port"] + PORTS_PER_GROUP - 1
        problems += [
            f"instance {name} has port {port}, and {group['name']} has ports {first} to {last} on its hosts. Give its"
            " model another `port`, or set vllm_group_first_port."
            for name, port in ports.items()
            if first <= port <= last
        ]
    return problems


def _group(slot: Slot, group: t.Mapping[str, t.Any], host: str, facts: object) -> dict[str, t.Any]:
    """What a member has to know of its group."""
    first = group["first_port"]
    tensor = slot.wish.model.across_hosts == "tensor"
    return {
        "rank": group["hosts"].index(host),
        "members": [dict(member) for member in group["members"]],
        "across": "tensor" if tensor else "pipeline",
        "ib_hcas": _nearest_hcas(slot, facts),
        "rendezvous_port": first + RENDEZVOUS,
        "guard_port": first + GUARD,
        "engine_port": first + ENGINE,
        "last_port": first + PORTS_PER_GROUP - 1,
    }


def _nearest_hcas(slot: Slot, facts: object) -> list[str]:
    """The InfiniBand devices next to the instance's GPUs: of each GPU those that are reached in the same, best way."""
    pairs = (facts.get("gpu_nic_pairs") if isinstance(facts, t.Mapping) else None) or ()
    found: list[str] = []
    for gpu in slot.gpus:
        mine = [
            pair for pair in pairs if pair.get("infiniband") and pair.get("path") and pair.get("gpu") == gpu.pci_address
        ]
        # They are listed the nearest first.
        found += [pair["infiniband"] for pair in mine if pair["path"] == mine[0]["path"]]
    return list(dict.fromkeys(found))


def _reasons_of_group(slot: Slot, group: t.Mapping[str, t.Any], host: str) -> t.Iterator[str]:
    hosts, model = group["hosts"], slot.wish.model
    rank = hosts.index(host)
    role = "leads" if rank == 0 else f"follows {hosts[0]} as number {rank}"
    member = group["members"][rank]
    tensor, pipeline = whole_sizes(model, slot.wish.tensor, slot.wish.pipeline)
    how = (
        "one tensor-parallel group over all of them, as `across_hosts: tensor` asks for"
        if model.across_hosts == "tensor"
        else "tensor-parallel inside a host and pipeline-parallel between them"
    )
    yield (
        f"hosts: {', '.join(hosts)} serve it together, {host} {role}; {tensor} x {pipeline} workers in all, {how}; they"
        f" reach this one at {member['address']} on {member['interface']}"
    )


def kept_from(given: Settings, host: str) -> Kept:
    """What instances do not get; raises ``PlanError`` for settings that cannot be meant."""
    problems = []
    for name, meaning in (
        ("housekeeping_cores", "cores per node"),
        ("balancer_cores", "cores of one node of the host"),
        ("api_server_cores", "cores of each instance on the CPU"),
        ("reserved_memory_mib", "MiB per node"),
    ):
        value = getattr(given, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            problems.append(f"{name} is {value!r}. Allowed is a whole number from 0 on: {meaning}.")
    cpus: frozenset[int] = frozenset()
    if not isinstance(given.reserved_cpus, str):
        problems.append(f'reserved_cpus is {given.reserved_cpus!r}. Allowed is a cpulist as text, such as "0-3,8".')
    else:
        try:
            cpus = parse_cpulist(given.reserved_cpus)
        except CpusetError as exc:
            problems.append(f"reserved_cpus: {exc}. Allowed is a cpulist such as 0-3,8.")
    if problems:
        raise PlanError(host, problems)
    return Kept(cpus, given.housekeeping_cores, given.balancer_cores, given.reserved_memory_mib)


def _url(address: str, port: int) -> str:
    """Where an instance answers; an IPv6 address stands in brackets."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _balancer(machine: Machine) -> dict[str, t.Any] | None:
    """The cores that are kept for nginx; ``None`` where there are none."""
    for node in machine.nodes:
        if node.balancer:
            return {
                "node": node.id,
                "cpus": format_cpulist(flatten(node.balancer)),
                "reason": f"node {node.id} is {machine.balancer_why}",
            }
    return None


def _cpus_on(node_id: int | None, share: Share, machine: Machine) -> str:
    """The instance's CPUs on one of its nodes.

    vLLM gives a worker all CPUs of its node, or some that it deems fast, where it is not told which.
    """
    there = {core for node in machine.nodes if node.id == node_id for core in node.cores}
    return format_cpulist(flatten(core for core in share.cores if core in there))


def _instance(slot: Slot, machine: Machine, share: Share) -> dict[str, t.Any]:
    """Everything of an instance but its host, port and reasons."""
    wish, model = slot.wish, slot.wish.model
    housekeeping = [core for node_id in slot.nodes for core in machine.node(node_id).housekeeping]
    on_cpu = wish.device == "cpu"
    # Inside one domain an instance is placed as a whole; only where its workers are on different nodes does vLLM have
    # to tell each of them its own. Interleaved memory is nobody's own.
    bound = slot.gpus if wish.spread == "pipeline" else ()
    tensor, pipeline = whole_sizes(model, wish.tensor, wish.pipeline) if model.part else (wish.tensor, wish.pipeline)
    return {
        "name": slot.name,
        "model": model.name,
        "source": model.source,
        "served_names": list(model.served_names),
        "unit": f"vllm@{slot.name}.service",
        "nodes": list(slot.nodes),
        "cpus": format_cpulist(flatten(share.cores)),
        # As VLLM_CPU_OMP_THREADS_BIND wants it: a cpulist for each worker.
        "omp_cpus": "|".join(format_cpulist(core[0] for core in worker) for worker in share.workers)
        if on_cpu
        else None,
        "api_server_cpus": format_cpulist(flatten(share.api_server)) if on_cpu else None,
        "memory_nodes": list(slot.nodes),
        "memory_policy": wish.memory_policy,
        "memory_mib": wish.memory_mib,
        "device": wish.device,
        "gpus": [gpu.key for gpu in slot.gpus],
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "numa_bind_nodes": [gpu.node for gpu in bound],
        "numa_bind_cpus": [_cpus_on(gpu.node, share, machine) for gpu in bound],
        "weight": slot.weight * (model.part.hosts if model.part and slot.gpus else 1),
        "housekeeping_cpus": format_cpulist(flatten(housekeeping)),
        "arguments": dict(model.arguments),
        "environment": dict(model.environment),
    }
