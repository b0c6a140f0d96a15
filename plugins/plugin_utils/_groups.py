# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Which hosts serve one instance together: the groups of the fleet, worked out once for all of its hosts.

A group is ``{name, model, hosts, first_port, members}``: the instance's name, that of its model, its hosts with the
leader first, the first of its own ports, and ``members`` as ``{host, address, interface}`` in the same order. Hosts of
a group are alike: as many usable nodes, and on each as many GPUs of one kind (or cores, on the CPU). A host is in one
group at most, so that all groups can have the same ports.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._last_plan import is_plan
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import Machine
from ansible_collections.numapin.inference.plugins.plugin_utils._models import (
    FIRST_PORT,
    LAST_PORT,
    Model,
    Part,
    host_count,
    join_problems,
    parse_models,
)
from ansible_collections.numapin.inference.plugins.plugin_utils._wishes import RefusedError, read_wish
from ansible_collections.numapin.inference.plugins.plugin_utils._words import count

Group = dict[str, t.Any]

#: Ports of a group on every member, from its first one on: torch's rendezvous, the guards', and vLLM's own from there.
PORTS_PER_GROUP = 64
RENDEZVOUS, GUARD, ENGINE = 0, 1, 2


class GroupsError(NumapinError):
    """Hosts cannot be joined as asked; ``problems`` holds what was asked, what there is and what would help."""

    def __init__(self, problems: t.Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(join_problems("instances over several hosts", self.problems))


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A host of the group ``inference`` as far as this run knows it.

    ``why_not`` says why nothing is known of it, where that is so; ``machine`` is ``None`` then. ``interfaces`` are the
    IP addresses of the host by network interface, ``None`` where they are not known.
    """

    name: str
    models: object
    machine: Machine | None
    address: str = ""
    interfaces: t.Mapping[str, t.Sequence[str]] | None = None
    interface: str = ""
    previous: object = None
    first_port: object = 29500
    why_not: str = ""


# --- on one host ------------------------------------------------------------------------------------------------------


def part_of(model: Model, instance: str) -> Model:
    """What one host has of a model over several hosts, as a model of that host alone."""
    hosts = host_count(model)
    tensor, pipeline = model.tensor_parallel_size, model.pipeline_parallel_size
    if model.across_hosts == "tensor":
        tensor //= hosts
    elif pipeline > 1:
        pipeline //= hosts
    spanning = model.spanning
    if pipeline == 1 and model.pipeline_parallel_size > 1:
        # That stages lie on different hosts says nothing of nodes.
        spanning = "refuse"
    return dataclasses.replace(
        model,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        spanning=spanning,
        instances=1,
        instances_per_node=1,
        hosts=None,
        part=Part(instance, hosts),
    )


def parts_on(
    models: t.Sequence[Model], host: str, groups: t.Sequence[t.Mapping[str, t.Any]]
) -> tuple[tuple[Model, ...], dict[str, t.Mapping[str, t.Any]]]:
    """The models as one host plans them, and its groups by the name of their instance."""
    mine = {group["model"]: group for group in groups if host in group["hosts"]}
    planned = []
    for model in models:
        if model.hosts is None:
            planned.append(model)
        elif model.name in mine:
            planned.append(part_of(model, mine[model.name]["name"]))
    return tuple(planned), {group["name"]: group for group in mine.values()}


def whole_sizes(model: Model, tensor: int, pipeline: int) -> tuple[int, int]:
    """Tensor- and pipeline-parallel sizes of the whole instance, from those that one host came to."""
    hosts = model.part.hosts if model.part else 1
    return (tensor * hosts, pipeline) if model.across_hosts == "tensor" else (tensor, pipeline * hosts)


# --- over all hosts ---------------------------------------------------------------------------------------------------


def plan_groups(candidates: t.Sequence[Candidate]) -> tuple[list[Group], dict[str, list[str]]]:
    """The groups of the fleet, and by host what is worth a warning there; raises ``GroupsError``.

    ``candidates`` are all hosts of the inventory's group, in its order. The groups of the last plans are kept as far as
    their hosts are still there and alike.
    """
    wanted: dict[str, dict[str, Model]] = {}
    for host in candidates:
        for model in parse_models(host.models):
            if model.hosts is not None:
                wanted.setdefault(model.name, {})[host.name] = model
    by_name = {host.name: host for host in candidates}
    groups: list[Group] = []
    problems: list[str] = []
    warnings: dict[str, list[str]] = {}
    for name, models in wanted.items():
        faults = _faults(name, models, by_name)
        if faults:
            problems += faults
            continue
        shapes = {host: _shape(by_name[host], model) for host, model in models.items()}
        sets, left = _sets(name, models, shapes, by_name, problems)
        used = {number for number, _hosts in sets if number is not None}
        fresh = (number for number in range(len(sets) + len(used)) if number not in used)
        for number, hosts in sets:
            groups.append(
                _group(f"{name}-g{next(fresh) if number is None else number}", name, hosts, by_name, problems)
            )
        for lonely in left:
            warnings.setdefault(lonely, []).append(
                f"model {name!r} has no part here: it takes groups of {host_count(models[lonely])} hosts alike,"
                f" and nobody is left for this one, which has {shapes[lonely]}"
            )
    problems += _twice(groups)
    if problems:
        raise GroupsError(problems)
    return sorted(groups, key=lambda group: group["name"]), warnings


def _faults(name: str, models: t.Mapping[str, Model], hosts: t.Mapping[str, Candidate]) -> list[str]:
    """What is wrong with a model's entries before any host is looked at."""
    told = f"model {name!r}"
    first_host, first = next(iter(models.items()))
    other = next((host for host, model in models.items() if model != first), None)
    if other is not None:
        differ = f"{told} has `hosts`, and its entries on {first_host} and {other} differ"
        return [f"{differ}: all hosts of a group need the same one. Set it in one place, such as group_vars."]
    faults = []
    listed = first.hosts if isinstance(first.hosts, tuple) else ()
    strangers = [host for host in listed if host not in hosts]
    if strangers:
        faults.append(
            f"{told}: `hosts` names {', '.join(strangers)}, not in the group inference: {', '.join(hosts)}. Correct the"
            " name, or put the host into the group."
        )
    without = [host for host in listed if host in hosts and host not in models]
    if without:
        faults.append(
            f"{told}: `hosts` names {', '.join(without)}, and vllm_models has no such entry there. Give all of them the"
            " same entry, in group_vars."
        )
    unknown = [host for host in listed or models if host in hosts and hosts[host].machine is None]
    if unknown:
        why = "; ".join(f"{host}: {hosts[host].why_not}" for host in unknown)
        faults.append(
            f"{told} needs all hosts of its groups, and of some nothing is known ({why}). Repair them, or run with all"
            " of them; without them for good, take them out of `hosts` or of the inventory."
        )
    return faults


def _shape(host: Candidate, model: Model) -> str:
    """What hosts of one group have in common, in words that tell two of them apart."""
    machine = host.machine
    if machine is None:
        raise GroupsError([f"{host.name}: {host.why_not}"])
    try:
        wish = read_wish(part_of(model, model.name), machine, None)
    except RefusedError as exc:
        return f"no place for its part ({exc})"
    if wish.device == "cpu":
        cores = sorted(len(node.cores) for node in machine.nodes)
        return f"{count(len(cores), 'node')} with {' and '.join(count(one, 'core') for one in cores)}"
    nodes = []
    for domain in sorted(machine.domains("node")):
        there = [gpu for gpu in wish.gpus if gpu.node in domain]
        kinds = sorted({f"{gpu.name or 'GPU'} of {gpu.entry.get('memory_total_mib')} MiB" for gpu in there})
        nodes.append(f"{len(there)} x {' and '.join(kinds)}" if there else "none")
    return f"GPUs by node: {', '.join(sorted(nodes))}"


def _sets(
    name: str,
    models: t.Mapping[str, Model],
    shapes: t.Mapping[str, str],
    hosts: t.Mapping[str, Candidate],
    problems: list[str],
) -> tuple[list[tuple[int | None, tuple[str, ...]]], list[str]]:
    """Hosts of each group, with the group's number where it has one already; and the hosts that are left over."""
    first = next(iter(models.values()))
    if isinstance(first.hosts, tuple):
        if len({shapes[host] for host in first.hosts}) > 1:
            problems.append(_unlike(name, {host: shapes[host] for host in first.hosts}))
        return [(0, first.hosts)], []
    size = host_count(first)
    sets: list[tuple[int | None, tuple[str, ...]]] = []
    free = list(models)
    for number, members in sorted(_earlier(name, hosts.values())):
        alike = set(members) <= set(free) and len({shapes[host] for host in members}) == 1
        if len(members) == size and alike and number not in [one for one, _hosts in sets]:
            sets.append((number, members))
            free = [host for host in free if host not in members]
    for shape in dict.fromkeys(shapes[host] for host in free):
        alike_hosts = [host for host in free if shapes[host] == shape]
        starts = range(0, len(alike_hosts) - size + 1, size)
        sets.extend((None, tuple(alike_hosts[start : start + size])) for start in starts)
    taken = {host for _number, members in sets for host in members}
    if not sets:
        problems.append(_unlike(name, {host: shapes[host] for host in free}, size))
    return sets, [host for host in free if host not in taken]


def _earlier(name: str, hosts: t.Iterable[Candidate]) -> t.Iterator[tuple[int, tuple[str, ...]]]:
    """The model's groups of the last plans, as their leaders tell of them."""
    for host in hosts:
        previous = host.previous if isinstance(host.previous, t.Mapping) and is_plan(host.previous) else {}
        for entry in previous.get("instances", ()):
            group = entry.get("group") if isinstance(entry, t.Mapping) else None
            number = str(entry.get("name", "")).removeprefix(f"{name}-g") if group else ""
            if isinstance(group, t.Mapping) and entry.get("model") == name and number.isdecimal():
                members = [member.get("host") for member in group.get("members") or () if isinstance(member, t.Mapping)]
                yield int(number), tuple(map(str, members))


def _unlike(name: str, shapes: t.Mapping[str, str], size: int | None = None) -> str:
    has = "; ".join(f"{host} has {shape}" for host, shape in shapes.items())
    asked = f"groups of {size} hosts" if size else "its hosts"
    return (
        f"model {name!r} asks for {asked} that are alike, as vLLM gives each the same share, and there are not: {has}."
        " Choose others with `hosts: [NAME, …]`, or GPUs that all have with the model's `gpus` selector."
    )


def _group(
    name: str, model: str, hosts: t.Sequence[str], by_name: t.Mapping[str, Candidate], problems: list[str]
) -> Group:
    leader = by_name[hosts[0]]
    members = []
    for host in hosts:
        member = by_name[host]
        interface, fault = _interface(member)
        if fault:
            problems.append(f"{name}: {fault}")
        members.append({"host": host, "address": member.address, "interface": interface})
    addresses = [member["address"] for member in members]
    if len(set(addresses)) < len(addresses):
        problems.append(
            f"{name}: two of its hosts have the same address ({', '.join(addresses)}). Give each its own"
            " (vllm_group_address)."
        )
    first = leader.first_port
    if not isinstance(first, int) or isinstance(first, bool) or not FIRST_PORT <= first <= LAST_PORT - PORTS_PER_GROUP:
        problems.append(
            f"{name}: vllm_group_first_port is {first!r} on {hosts[0]}. Allowed is a whole number from {FIRST_PORT} to"
            f" {LAST_PORT - PORTS_PER_GROUP}: the first of {PORTS_PER_GROUP} ports of the group."
        )
    return {"name": name, "model": model, "hosts": list(hosts), "first_port": first, "members": members}


def _interface(host: Candidate) -> tuple[str, str]:
    """The network interface of a member's traffic with the others, and what is wrong with it."""
    what = f"{host.name} has the address {host.address} for the traffic between the hosts of a group"
    try:
        address = ipaddress.ip_address(host.address)
    except ValueError:
        return "", f"{what}, which is no IP address. Set vllm_group_address."
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        return "", f"{what}, which the others cannot reach. Set vllm_group_address to one of its private network."
    if host.interface:
        return host.interface, ""
    if host.interfaces is None:
        return "", f"{what}, and its network interfaces are not known. Set vllm_group_interface."
    for name, addresses in host.interfaces.items():
        if str(address) in addresses:
            return name, ""
    there = "; ".join(f"{name} {', '.join(addresses)}" for name, addresses in host.interfaces.items()) or "none"
    return "", f"{what}, which none of its network interfaces has ({there}). Correct vllm_group_address."


def _twice(groups: t.Sequence[Group]) -> list[str]:
    problems = []
    for host in dict.fromkeys(host for group in groups for host in group["hosts"]):
        mine = [group["name"] for group in groups if host in group["hosts"]]
        if len(mine) > 1:
            problems.append(
                f"{host} would be in the groups {' and '.join(mine)}: a host can be in one. Give the models different"
                " hosts, as in `hosts: [gpu1, gpu2]`."
            )
    return problems
