# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``ansible_facts['numa']`` may look like, whatever the tree looks like: every field's type, and how they relate.

This is written from the documentation (docs/architecture.md, RETURN of numa_facts) and not from the code that builds
the facts.
"""

from __future__ import annotations

import json
import re
import typing as t

PARTS = ("cpus", "memory", "gpus", "links", "nics", "nvme", "infiniband", "kernel")
PATHS = ("PIX", "PXB", "PHB", "NODE", "SYS")
# The kernel counts in 64 bits, which is 20 digits; a number above that was not checked by anybody.
HIGHEST_COUNT = 10**20 - 1
# The cpulist of every second of 16384 CPUs is the longest text that makes sense.
TEXT_LIMIT = 50_000
# A warning is read by a person.
WARNING_LIMIT = 2_000
WARNINGS_LIMIT = 500

Check = t.Callable[[t.Any, str], t.Iterator[str]]
_REGION = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?")


def problems_of(facts: t.Any, parts: frozenset[str]) -> list[str]:
    """Return what is wrong with the facts that were gathered for ``parts``; nothing when they are as documented."""
    found = list(_plain_problems(facts)) or list(_facts(parts)(facts, "numa"))
    # Relations need the types to be right.
    return found or list(_relations(facts))


def _plain_problems(facts: t.Any) -> t.Iterator[str]:
    try:
        text = json.dumps(facts, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        yield f"numa is no plain JSON in UTF-8: {type(error).__name__}: {error}"


# Types


def _integer(lowest: int = 0, highest: int = HIGHEST_COUNT) -> Check:
    def check(value: t.Any, name: str) -> t.Iterator[str]:
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{name} is {_shown(value)}, not an integer"
        elif not lowest <= value <= highest:
            yield f"{name} is {value}, not between {lowest} and {highest}"

    return check


def _number(value: t.Any, name: str) -> t.Iterator[str]:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= HIGHEST_COUNT:
        yield f"{name} is {_shown(value)}, not a positive number"


def _boolean(value: t.Any, name: str) -> t.Iterator[str]:
    if not isinstance(value, bool):
        yield f"{name} is {_shown(value)}, not a boolean"


def _text(limit: int = TEXT_LIMIT, pattern: str = ".*", empty: bool = False) -> Check:
    compiled = re.compile(pattern, re.DOTALL)

    def check(value: t.Any, name: str) -> t.Iterator[str]:
        if not isinstance(value, str):
            yield f"{name} is {_shown(value)}, not a text"
        elif len(value) > limit:
            yield f"{name} has {len(value)} characters, more than {limit}: {_shown(value)}"
        elif not value and not empty:
            yield f"{name} is empty"
        elif value and not compiled.fullmatch(value):
            yield f"{name} is {_shown(value)}, which is not {pattern}"

    return check


def _one_of(*values: str) -> Check:
    def check(value: t.Any, name: str) -> t.Iterator[str]:
        if value not in values:
            yield f"{name} is {_shown(value)}, not one of {', '.join(values)}"

    return check


def _cpulist(value: t.Any, name: str) -> t.Iterator[str]:
    if not isinstance(value, str):
        yield f"{name} is {_shown(value)}, not a cpulist"
        return
    end = -2
    for region in value.split(",") if value else ():
        first, _dash, last = region.partition("-")
        if not _REGION.fullmatch(region) or int(first) <= end + 1 or (last and int(last) <= int(first)):
            yield f"{name} is {_shown(value)}, which is not as the kernel writes a cpulist"
            return
        end = int(last or first)


def _or_null(check: Check) -> Check:
    def check_or_null(value: t.Any, name: str) -> t.Iterator[str]:
        if value is not None:
            yield from check(value, name)

    return check_or_null


def _null(value: t.Any, name: str) -> t.Iterator[str]:
    if value is not None:
        yield f"{name} is {_shown(value)}, although it was not gathered"


def _list_of(check: Check, ascending_by: str | None = None) -> Check:
    def check_list(value: t.Any, name: str) -> t.Iterator[str]:
        if not isinstance(value, list):
            yield f"{name} is {_shown(value)}, not a list"
            return
        found = [problem for index, item in enumerate(value) for problem in check(item, f"{name}[{index}]")]
        yield from found
        if not found and ascending_by:
            keys = [item[ascending_by] for item in value]
            if any(later <= earlier for earlier, later in zip(keys, keys[1:])):
                yield f"{name} is not strictly ascending by {ascending_by}: {_shown(keys)}"

    return check_list


def _record(**fields: Check) -> Check:
    def check_record(value: t.Any, name: str) -> t.Iterator[str]:
        if not isinstance(value, dict):
            yield f"{name} is {_shown(value)}, not a dictionary"
            return
        if set(value) != set(fields):
            missing, surplus = sorted(set(fields) - set(value)), sorted(set(value) - set(fields))
            yield f"{name} lacks {missing} and has {surplus} that are not documented"
        for field, check in fields.items():
            if field in value:
                yield from check(value[field], f"{name}.{field}")

    return check_record


# The shape

_id = _integer(0, 16383)
_count = _integer()
_name = _text(4096)
_pci = _text(16, r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_irqs = _list_of(_integer(1, 2**32))

_hugepages = _record(size_kib=_integer(1), total=_or_null(_count), free=_or_null(_count), surplus=_or_null(_count))
_numastat = _record(**{n: _or_null(_count) for n in ("hit", "miss", "foreign", "interleave_hit", "local", "other")})
_cpu = _record(
    id=_id,
    node=_or_null(_id),
    package=_or_null(_count),
    core=_or_null(_count),
    smt_siblings=_or_null(_cpulist),
    llc_domain=_or_null(_cpulist),
    online=_boolean,
)
_gpu_link = _record(
    pci_address=_pci,
    uuid=_or_null(_name),
    kind=_or_null(_text(8, "NV[0-9]+|" + "|".join(PATHS))),
    nvlinks=_or_null(_count),
    path=_or_null(_one_of(*PATHS)),
    source=_one_of("nvml", "nvidia_smi", "sysfs", "unknown"),
)
_mig_device = _record(uuid=_or_null(_name), name=_or_null(_name), memory_total_mib=_or_null(_integer(1)))
_gpu_fields: dict[str, Check] = {
    "uuid": _or_null(_name),
    "pci_address": _pci,
    "name": _or_null(_name),
    "vendor": _one_of("nvidia", "amd", "intel"),
    "memory_total_mib": _or_null(_integer(1)),
    "node": _or_null(_id),
    "node_source": _one_of("nvml", "nvidia_smi", "sysfs", "override", "unknown"),
    "memory_node": _or_null(_id),
    "cpus": _or_null(_cpulist),
    "source": _one_of("nvml", "nvidia_smi", "sysfs"),
    "mig": _record(enabled=_or_null(_boolean), devices=_list_of(_mig_device)),
}
_nic = _record(
    name=_name,
    pci_address=_or_null(_pci),
    driver=_or_null(_name),
    node=_or_null(_id),
    speed_mbps=_or_null(_integer(1)),
    link=_or_null(_one_of("up", "down")),
    sriov=_or_null(_record(total_vfs=_or_null(_count), vfs=_or_null(_count), physical_function=_or_null(_name))),
    irqs=_irqs,
)
_nvme = _record(
    name=_name,
    pci_address=_or_null(_pci),
    model=_or_null(_name),
    driver=_or_null(_name),
    node=_or_null(_id),
    irqs=_irqs,
)
_port = _record(port=_count, state=_or_null(_name), link_layer=_or_null(_name), rate_gbps=_or_null(_number))
_infiniband = _record(
    name=_name,
    pci_address=_or_null(_pci),
    driver=_or_null(_name),
    node=_or_null(_id),
    netdevs=_list_of(_name),
    ports=_list_of(_port),
    physical_function=_or_null(_pci),
    irqs=_irqs,
)
_pair = _record(
    gpu=_pci,
    gpu_uuid=_or_null(_name),
    nic=_or_null(_name),
    infiniband=_or_null(_name),
    path=_or_null(_one_of("PIX", "PXB", "PHB", "NODE")),
)
_kernel = _record(
    release=_or_null(_name),
    numa_balancing=_or_null(_count),
    zone_reclaim_mode=_or_null(_count),
    transparent_hugepage=_or_null(_name),
    cgroup_version=_or_null(_integer(1, 2)),
    cpuset_enforced=_or_null(_boolean),
    isolated_cpus=_or_null(_cpulist),
    nohz_full_cpus=_or_null(_cpulist),
    virtualization=_or_null(_name),
    container=_or_null(_name),
    irqbalance=_record(active=_or_null(_boolean)),
    tuned=_record(active=_or_null(_boolean), profile=_or_null(_name)),
)


def _warnings(value: t.Any, name: str) -> t.Iterator[str]:
    yield from _list_of(_text(WARNING_LIMIT))(value, name)
    if isinstance(value, list) and len(value) > WARNINGS_LIMIT:
        yield f"{name} has {len(value)} entries: nobody reads more than {WARNINGS_LIMIT}"


def _facts(parts: frozenset[str]) -> Check:
    def part(name: str, check: Check) -> Check:
        return check if name in parts else _null

    node = _record(
        id=_id,
        cpus=_cpulist,
        cpu_count=_count,
        memory_total_mib=_or_null(_count),
        memory_free_mib=_or_null(_count),
        distances=_list_of(_record(node=_id, distance=_count), ascending_by="node"),
        package_ids=part("cpus", _list_of(_count)),
        kind=_one_of("cpu_and_memory", "memory_only", "cpu_only", "empty"),
        hugepages=part("memory", _list_of(_hugepages, ascending_by="size_kib")),
        numastat=part("memory", _or_null(_numastat)),
    )
    gpu = _record(**_gpu_fields, links=part("links", _list_of(_gpu_link)))
    domain = _record(cpus=_cpulist, level=_count, size_kib=_or_null(_integer(1)), nodes=_list_of(_id))
    pairs = "gpus" in parts and ("nics" in parts or "infiniband" in parts)
    return _record(
        gathered=_list_of(_one_of(*PARTS)),
        nodes=_list_of(node, ascending_by="id"),
        offline_nodes=_or_null(_cpulist),
        cpus=part("cpus", _list_of(_cpu, ascending_by="id")),
        offline_cpus=_or_null(_cpulist),
        llc_domains=part("cpus", _list_of(domain)),
        packages=part("cpus", _list_of(_record(id=_or_null(_count), cpus=_cpulist, nodes=_list_of(_id)))),
        gpus=part("gpus", _list_of(gpu, ascending_by="pci_address")),
        nics=part("nics", _list_of(_nic)),
        nvme=part("nvme", _list_of(_nvme)),
        infiniband=part("infiniband", _list_of(_infiniband)),
        gpu_nic_pairs=_list_of(_pair) if pairs else _null,
        kernel=part("kernel", _kernel),
        allowed_cpus=_cpulist,
        warnings=_warnings,
    )


# Relations


def _relations(facts: dict[str, t.Any]) -> t.Iterator[str]:
    nodes = {node["id"]: node for node in facts["nodes"]}
    if not nodes:
        yield "nodes is empty: every machine has one"
    for node in nodes.values():
        if len(members(node["cpus"])) != node["cpu_count"]:
            yield f"node {node['id']} has cpus {node['cpus']} and cpu_count {node['cpu_count']}"
        if (node["kind"] in ("cpu_and_memory", "cpu_only")) != bool(node["cpus"]):
            yield f"node {node['id']} has cpus {node['cpus']!r} and is {node['kind']}"
    if facts["cpus"] is not None:
        online = {cpu["id"] for cpu in facts["cpus"] if cpu["online"]}
        groups = [("allowed_cpus", facts["allowed_cpus"]), *((f"node {n['id']}", n["cpus"]) for n in nodes.values())]
        groups += [(f"package {p['id']}", p["cpus"]) for p in facts["packages"]]
        groups += [("llc_domains", d["cpus"]) for d in facts["llc_domains"]]
        for name, cpus in groups:
            if not members(cpus) <= online:
                yield f"{name} has CPUs that are not online: {_shown(sorted(members(cpus) - online))}"
        yield from _cpu_relations(facts["cpus"], nodes)
    placed = [("gpus", item) for item in facts["gpus"] or ()]
    for kind in ("nics", "nvme", "infiniband"):
        placed += [(kind, item) for item in facts[kind] or ()]
    for kind, item in placed:
        if item["node"] is not None and item["node"] not in nodes:
            yield f"{kind} {item['pci_address']} is on node {item['node']}, which nodes does not have"
    for gpu in facts["gpus"] or ():
        yield from _gpu_relations(gpu, facts["gpus"], nodes)
    addresses = {gpu["pci_address"] for gpu in facts["gpus"] or ()}
    for pair in facts["gpu_nic_pairs"] or ():
        if pair["gpu"] not in addresses or (pair["nic"] is None and pair["infiniband"] is None):
            yield f"gpu_nic_pairs has {pair}, which is no GPU with a NIC"


def _cpu_relations(cpus: list[dict[str, t.Any]], nodes: dict[int, dict[str, t.Any]]) -> t.Iterator[str]:
    node_members = {number: members(node["cpus"]) for number, node in nodes.items()}
    for cpu in cpus:
        if cpu["node"] is not None and cpu["node"] not in nodes and cpu["online"]:
            yield f"CPU {cpu['id']} is on node {cpu['node']}, which nodes does not have"
        elif cpu["online"] and cpu["node"] is not None and cpu["id"] not in node_members[cpu["node"]]:
            yield f"CPU {cpu['id']} is on node {cpu['node']}, whose cpus do not have it"
        for field in ("smt_siblings", "llc_domain"):
            if cpu[field] is not None and cpu["id"] not in members(cpu[field]):
                yield f"CPU {cpu['id']} is not in its own {field} {cpu[field]}"


def _gpu_relations(
    gpu: dict[str, t.Any], gpus: list[dict[str, t.Any]], nodes: dict[int, dict[str, t.Any]]
) -> t.Iterator[str]:
    address = gpu["pci_address"]
    if (gpu["node"] is None) != (gpu["node_source"] == "unknown"):
        yield f"GPU {address} is on node {gpu['node']} by {gpu['node_source']}"
    if gpu["cpus"] != (None if gpu["node"] is None else nodes[gpu["node"]]["cpus"]):
        yield f"GPU {address} on node {gpu['node']} has cpus {gpu['cpus']!r}"
    if gpu["links"]:
        others = [other["pci_address"] for other in gpus if other is not gpu]
        if [link["pci_address"] for link in gpu["links"]] != others:
            yield f"GPU {address} has links to {[link['pci_address'] for link in gpu['links']]}, not to {others}"
        for link in gpu["links"]:
            nvlink = f"NV{link['nvlinks']}" if link["nvlinks"] else link["path"]
            if link["kind"] != nvlink or (link["kind"] is None) != (link["source"] == "unknown"):
                yield f"GPU {address} has a link {link}, whose kind should be {nvlink}"


_members: dict[str, frozenset[int]] = {}


def members(cpulist: str) -> frozenset[int]:
    """Return the ids in a cpulist as the kernel writes it."""
    if cpulist not in _members:
        if len(_members) > 10_000:
            _members.clear()
        ids: set[int] = set()
        for region in cpulist.split(",") if cpulist else ():
            first, _dash, last = region.partition("-")
            ids.update(range(int(first), int(last or first) + 1))
        _members[cpulist] = frozenset(ids)
    return _members[cpulist]


def _shown(value: t.Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
