# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our reader against hwloc, on every machine that was captured for hwloc's own tests.

The kernel's files are compared as two independent programs understand them: ids, CPUs, memory and pages of nodes,
distances, packages, cores, last-level caches, and the node of PCI devices. A difference is an error in one of the two:
it is mended in ours, or stands in ``KNOWN`` with the kernel's source that proves ours right.
"""

from __future__ import annotations

import fnmatch
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist, parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree, normalised_pci_address
from ansible_collections.numapin.inference.plugins.module_utils._topology import Topology, read_topology
from ansible_collections.numapin.inference.tests.oracle import lstopo

if t.TYPE_CHECKING:
    from pathlib import Path

# What is compared: a name such as "node 3: cpus", and what the one and the other say.
Values = dict[str, object]


class Known(t.NamedTuple):
    """A difference that is hwloc's: tree and value (both as shell patterns), and the proof.

    Names of trees are patterns where later releases of hwloc call the same tree something longer.
    """

    tree: str
    what: str
    reason: str


_NODE_OF_EACH = (
    "hwloc takes what is near the first device of a host bridge for all below it; the kernel tells the node of each"
    " device, -1 when it does not know it (numa_node_show in drivers/pci/pci-sysfs.c)"
)
_OVERLAP = (
    "one mask of each kind is made up (0000000f, without the kernel's zeros) and overlaps others: hwloc drops what does"
    " not fit into its tree, we show every set and warn. The kernel puts CPUs of one package id, and those of one APIC"
    " id without its low bits, into one set: such sets never overlap (set_cpu_sibling_map in arch/x86/kernel/smpboot.c,"
    " cache_shared_cpu_map_setup in arch/x86/kernel/cpu/intel_cacheinfo.c, as they were then)"
)
_NO_BUSES = (
    "hwloc leaves out a bridge without buses behind it (secondary and subordinate 0 in its config); the kernel shows it"
    " as a device with a node before it looks for these (pci_scan_child_bus, in later kernels"
    " pci_scan_child_bus_extend, in drivers/pci/probe.c)"
)
_PROBED = "hwloc puts what it knows of Xeon Phi in the place of what the kernel says"
KNOWN = [
    Known(
        "linux/2ps3-2t",
        "node 0: memory in MiB",
        "there is no /proc/meminfo in the tree (fs/proc/meminfo.c tells MemTotal); hwloc has no word for unknown but 0",
    ),
    Known(
        "linux/2pa-pcidomain32bits",
        "pci 10000:*",
        "Debian's hwloc leaves out domains above 16 bits; the kernel has them (pci_setup_device, drivers/pci/probe.c)",
    ),
    Known("linux/32em64t-2n8c+*mic*", "pci 0000:00:02.0: node", _NODE_OF_EACH),
    Known("linux/32em64t-2n8c+*mic*", "pci 0000:00:11.0: node", _NO_BUSES),
    Known("linux/40intel64-2g2n4c+pci*", "pci 0000:43:00.0: node", _NODE_OF_EACH),
    Known("linux/40intel64-4n10c+pci-conflicts", "last-level cache of *", _OVERLAP),
    Known("linux/40intel64-4n10c+pci-conflicts", "package of *", _OVERLAP),
    Known(
        "linux/64intel64-fakeKNL-A2A-cache",
        "last-level cache of *",
        f"{_PROBED}: memory as a cache, which the kernel shows below a node if at all (node_add_cache in"
        " drivers/base/node.c), never among the caches of a CPU",
    ),
    Known(
        "linux/64intel64-fakeKNL-SNC4-hybrid",
        "distance from *",
        f"{_PROBED}: it drops the distances (node_read_distance in drivers/base/node.c)",
    ),
    *(
        Known(
            f"linux/{tree}",
            "last-level cache of *",
            "the mask is empty: the firmware does not tell who shares the cache, or names no CPU there is"
            " (cache_shared_cpu_map_setup in arch/ia64/kernel/topology.c); hwloc takes the core for it, we leave it"
            " unknown",
        )
        for tree in ("8ia64-2n2s2c", "8ia64-2s2c2t", "8ia64-4s2c")
    ),
]


def test_as_hwloc_sees_it(tree: tuple[str, Path], tally: t.Callable[[int], None]) -> None:
    name, root = tree
    ours, theirs = compared(root)
    tally(len(ours.keys() | theirs.keys()))
    differences = {
        what: f"{what}: ours {ours.get(what)!r}, hwloc's {theirs.get(what)!r}"
        for what in sorted(ours.keys() | theirs.keys())
        if ours.get(what, "nothing") != theirs.get(what, "nothing")
    }
    known = [entry for entry in KNOWN if fnmatch.fnmatchcase(name, entry.tree)]
    unexplained = [
        text for what, text in differences.items() if not any(fnmatch.fnmatchcase(what, entry.what) for entry in known)
    ]
    assert not unexplained, "\n".join(unexplained)
    needless = [entry.what for entry in known if not fnmatch.filter(differences, entry.what)]
    assert not needless, f"no longer different, take it out of KNOWN: {needless}"


def compared(root: Path) -> tuple[Values, Values]:
    """Return what we and what hwloc see in a tree, both under the same names."""
    host = Host(str(root))
    topology = read_topology(host)
    seen = lstopo.look_at(root)
    ours = _our_values(topology)
    theirs = _their_values(seen)
    _near_instead_of_none(topology, seen, ours, theirs)
    pci = PciTree(host, topology.nodes)
    for device in pci.devices(lambda _class: True):
        ours[f"pci {device.address}: node"] = device.node
    for address, near in seen.cpus_near_pci.items():
        theirs[f"pci {normalised_pci_address(address)}: node"] = _node_with(near, topology)
    return ours, theirs


def _our_values(topology: Topology) -> Values:
    assert topology.cpus is not None
    assert topology.packages is not None
    assert topology.llc_domains is not None
    described = [cpu for cpu in topology.cpus if cpu.online and cpu.smt_siblings is not None]
    values: Values = {"cpus": format_cpulist(cpu.id for cpu in topology.cpus if cpu.online)}
    for node in topology.nodes:
        values[f"node {node.id}: cpus"] = node.cpus
        values[f"node {node.id}: memory in MiB"] = node.memory_total_mib
        for pool in node.hugepages or ():
            values[f"node {node.id}: pages of {pool.size_kib} KiB"] = pool.total
        # hwloc does not ask a single node how far it is from itself.
        for distance in node.distances if len(topology.nodes) > 1 else ():
            values[f"distance from {node.id} to {distance.node}"] = distance.distance
    for package in topology.packages:
        values[f"package of {package.cpus}: id"] = package.id
    for cpu in described:
        values[f"core of {cpu.smt_siblings}: id"] = cpu.core
    for domain in topology.llc_domains:
        values[f"last-level cache of {domain.cpus}: level, KiB"] = (domain.level, domain.size_kib)
    return values


def _their_values(seen: lstopo.Seen) -> Values:
    values: Values = {"cpus": format_cpulist(seen.cpus)}
    for number, node in seen.nodes.items():
        values[f"node {number}: cpus"] = format_cpulist(node.cpus)
        values[f"node {number}: memory in MiB"] = node.memory_bytes // 1024 // 1024
        for size_kib, count in node.pages.items():
            values[f"node {number}: pages of {size_kib} KiB"] = count
    for (one, other), distance in seen.distances.items():
        values[f"distance from {one} to {other}"] = distance
    for package_id, cpus in seen.packages:
        values[f"package of {format_cpulist(cpus)}: id"] = package_id
    for core_id, cpus in seen.cores:
        values[f"core of {format_cpulist(cpus)}: id"] = core_id
    for cache in seen.last_level_caches:
        values[f"last-level cache of {format_cpulist(cache.cpus)}: level, KiB"] = (cache.level, cache.size_kib)
    return values


def _near_instead_of_none(topology: Topology, seen: lstopo.Seen, ours: Values, theirs: Values) -> None:
    """Compare nodes without CPUs: hwloc shows the CPUs near them, all of which then belong to other nodes."""
    others: dict[int, int] = {}
    for node in topology.nodes:
        others.update(dict.fromkeys(parse_cpulist(node.cpus), node.id))
    for node in topology.nodes:
        near = seen.nodes.get(node.id)
        if not node.cpus and near is not None and all(cpu in others for cpu in near.cpus):
            theirs[f"node {node.id}: cpus"] = ""


def _node_with(near: lstopo.Cpus, topology: Topology) -> int | None:
    """Return the only node whose CPUs are all of those near a device."""
    nodes = [node.id for node in topology.nodes if node.cpus and parse_cpulist(node.cpus) == near]
    return nodes[0] if len(nodes) == 1 else None
