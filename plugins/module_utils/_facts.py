# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""``ansible_facts['numa']`` from its readers: which parts are wanted, and what one run of them returns."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._devices import (
    read_infiniband,
    read_nics,
    read_nvme,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import (
    GpuSources,
    gpu_devices,
    has_nvidia_driver,
)
from ansible_collections.numapin.inference.plugins.module_utils._kernel import read_kernel
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree, normalised_pci_address
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology, to_plain

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._gpu_nics import GpuNicPair
    from ansible_collections.numapin.inference.plugins.module_utils._gpus import Gpu
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

PARTS = ("cpus", "memory", "gpus", "links", "nics", "nvme", "infiniband", "kernel")
ALL = "all"
# What `gather` takes: everything, a part, or everything but a part.
GATHER_CHOICES = (ALL, *PARTS, *(f"!{part}" for part in PARTS))


_GPU_UUID = re.compile(r"GPU-[0-9a-fA-F-]{8,64}")


class OverrideError(NumapinError):
    """An override that is not a GPU and its node."""


class GatherError(NumapinError):
    """The parts that were asked for leave nothing, or are none."""


def wanted_parts(gather: t.Sequence[str]) -> frozenset[str]:
    """Return the parts that a list such as ``["gpus"]`` or ``["all", "!links"]`` asks for.

    Exclusions alone are taken from everything. Links are those of GPUs: asking for them asks for GPUs too, and without
    GPUs there are none. Raises ``GatherError`` for no name, an unknown name and a part both asked for and excluded.
    """
    if not gather:
        raise GatherError(
            f"gather is empty: give {ALL}, or the parts to read ({', '.join(PARTS)}); nodes are always read, and !PART"
            " leaves a part out"
        )
    unknown = [name for name in gather if name not in GATHER_CHOICES]
    if unknown:
        raise GatherError(f"gather has {unknown[0]!r}; it can have {', '.join(GATHER_CHOICES)}")
    named = {name for name in gather if not name.startswith("!") and name != ALL}
    excluded = {name[1:] for name in gather if name.startswith("!")}
    if "links" in named:
        named.add("gpus")
    both = sorted(named & excluded)
    if both:
        raise GatherError(f"gather both asks for {both[0]} and excludes it (!{both[0]}): leave one of them out")
    if "gpus" in excluded:
        excluded.add("links")
    everything = not named or ALL in gather
    return frozenset(PARTS if everything else named) - excluded


def parse_overrides(given: t.Mapping[t.Any, t.Any]) -> dict[str, int]:
    """Return nodes by PCI address (as the kernel writes it) or UUID; raises ``OverrideError`` for anything else."""
    overrides: dict[str, int] = {}
    for key, value in given.items():
        text = str(key)
        name = normalised_pci_address(text) or (text if _GPU_UUID.fullmatch(text) else None)
        if name is None:
            raise OverrideError(
                f"gpu_node_overrides has the key {text!r}, which is neither a PCI address such as 0000:17:00.0 nor a"
                " UUID such as GPU-6a1ad42c-9d43-4aab-8ab9-8f2c1b8d4a01 (write it in quotes)"
            )
        if isinstance(value, bool) or not re.fullmatch("[0-9]{1,5}", str(value)):
            raise OverrideError(
                f"gpu_node_overrides puts {text} on node {value!r}: give the number of a NUMA node, such as 0"
            )
        if overrides.setdefault(name, int(value)) != int(value):
            raise OverrideError(f"gpu_node_overrides names {name} twice, with the nodes {overrides[name]} and {value}")
    return overrides


def gather(host: Host, parts: frozenset[str], overrides: t.Mapping[str, int], sources: GpuSources) -> dict[str, t.Any]:
    """Return ``ansible_facts['numa']`` of ``host``: lists and dictionaries, ``None`` for parts that were not wanted.

    ``overrides`` are nodes of GPUs by PCI address or UUID. ``sources`` are the libraries and programs that know GPUs.
    Raises ``NumapinError`` when the host has no topology to read, or an override names a
    node that is not there.
    """
    topology = read_topology(host, parts & {"cpus", "memory"})
    pci = PciTree(host, topology.nodes)
    warnings = list(topology.warnings)
    facts: dict[str, t.Any] = {"gathered": [part for part in PARTS if part in parts], **to_plain(topology)}

    gpus: tuple[Gpu, ...] | None = None
    if "gpus" in parts:
        gpus = ()
        if overrides or sources.recorded or gpu_devices(pci) or has_nvidia_driver(host):
            # Most of a run on a small host is the compiling of what it loads.
            from ansible_collections.numapin.inference.plugins.module_utils._gpus import read_gpus

            gpus, said = read_gpus(host, topology.nodes, pci, sources, overrides, want_links="links" in parts)
            warnings.extend(said)
    elif overrides:
        warnings.append(
            f"the nodes of GPUs are given by hand for {', '.join(overrides)}, and gpus are not among the parts that"
            " were read: they have no effect"
        )
    nics = read_nics(host, pci) if "nics" in parts else None
    nvme = read_nvme(host, pci) if "nvme" in parts else None
    infiniband = read_infiniband(host, pci) if "infiniband" in parts else None
    wants_pairs = gpus is not None and (nics is not None or infiniband is not None)
    pairs: tuple[GpuNicPair, ...] | None = () if wants_pairs else None
    if gpus and wants_pairs:
        from ansible_collections.numapin.inference.plugins.module_utils._gpu_nics import pair_gpus_with_nics

        pairs = pair_gpus_with_nics(gpus, nics or (), infiniband or (), pci)
    kernel = None
    if "kernel" in parts:
        kernel, said = read_kernel(host)
        warnings.extend(said)
    warnings.extend(pci.warnings)
    read = {
        "gpus": gpus,
        "nics": nics,
        "nvme": nvme,
        "infiniband": infiniband,
        "gpu_nic_pairs": pairs,
        "kernel": kernel,
        "warnings": list(dict.fromkeys(warnings)),
    }
    facts.update({name: to_plain(value) for name, value in read.items()})
    if "links" not in parts:
        for gpu in facts["gpus"] or ():
            gpu["links"] = None
    return facts
