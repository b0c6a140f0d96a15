# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What an instance can be given of a host's GPUs: whole GPUs, and MIG devices; and which of them belong together.

A GPU that is divided into MIG devices runs nothing as a whole. Each device stands for itself, on the node of its GPU.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import typing as t
from collections.abc import Mapping

from ansible_collections.numapin.inference.plugins.plugin_utils._facts_reader import broken, entries, integer
from ansible_collections.numapin.inference.plugins.plugin_utils._plain import plain

# PCIe paths from the farthest to the nearest, as `nvidia-smi topo -m` names them; 0 is unknown.
_PATHS = {"SYS": 1, "NODE": 2, "PHB": 3, "PXB": 4, "PIX": 5}
# All groups are compared as long as there are not more: 8 of 16 GPUs are 12,870.
_MOST_GROUPS = 20_000


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU or a MIG device; ``entry`` is what the facts say of it (a MIG device's GPU in ``parent_uuid``)."""

    uuid: str | None
    pci_address: str
    name: str | None
    vendor: str | None
    node: int | None
    is_mig: bool
    entry: t.Mapping[str, t.Any] = dataclasses.field(repr=False, compare=False)

    @property
    def key(self) -> str:
        """What tells this GPU from every other one of its host."""
        return self.uuid or self.pci_address

    @property
    def label(self) -> str:
        """The GPU in words, with everything that is known to recognise it by."""
        return " ".join(part for part in (self.name or "GPU", self.pci_address, self.uuid) if part)

    @functools.cached_property
    def links(self) -> dict[str, tuple[int, int]]:
        """NVLinks and rank of the PCIe path by the other GPU's address."""
        listed = self.entry.get("links")
        found = {}
        for link in listed if isinstance(listed, (list, tuple)) else ():
            if isinstance(link, (dict, Mapping)) and isinstance(link.get("pci_address"), str):
                nvlinks = link.get("nvlinks")
                found[str(link["pci_address"])] = (
                    nvlinks if isinstance(nvlinks, int) else 0,
                    _PATHS.get(str(link.get("path")), 0),
                )
        return found

    @property
    def facts(self) -> dict[str, t.Any]:
        """The whole entry made of plain types, for selectors."""
        copy: dict[str, t.Any] = plain(self.entry)
        return copy


def labels(gpus: t.Iterable[Gpu]) -> str:
    """GPUs in words."""
    return ", ".join(gpu.label for gpu in gpus)


def read_gpus(facts: t.Mapping[str, t.Any], warnings: list[str]) -> tuple[Gpu, ...]:
    """The GPUs and MIG devices by PCI address; raises ``FactsError``."""
    gpus: dict[str, Gpu] = {}
    for index, entry in enumerate(entries(facts, "gpus")):
        for gpu in _units(entry, f"gpus[{index}]", warnings):
            gpus.setdefault(gpu.key, gpu)
    return tuple(sorted(gpus.values(), key=lambda gpu: gpu.pci_address))


def _units(entry: t.Mapping[str, t.Any], where: str, warnings: list[str]) -> list[Gpu]:
    address = entry.get("pci_address")
    if not isinstance(address, str) or not address:
        raise broken(f"{where}.pci_address", address, "a PCI address such as 0000:17:00.0")
    node = None if entry.get("node") is None else integer(entry, "node", where)
    mig = entry.get("mig")
    if not isinstance(mig, t.Mapping) or not mig.get("enabled"):
        return [_gpu(entry, str(plain(address)), node, is_mig=False)]
    devices = mig.get("devices")
    if not isinstance(devices, (list, tuple)) or not all(isinstance(device, t.Mapping) for device in devices):
        raise broken(f"{where}.mig.devices", devices, "a list of dictionaries")
    if not devices:
        warnings.append(
            f"GPU {address} is left out: it is in MIG mode and has no MIG device. Make some (`nvidia-smi mig -cgi …"
            " -C`), or end MIG mode (`nvidia-smi -mig 0`)"
        )
    whole = {key: value for key, value in entry.items() if key not in ("mig", "links")}
    return [
        _gpu(
            {**whole, **device, "parent_uuid": entry.get("uuid"), "mig": {"enabled": True, "devices": []}, "links": []},
            str(plain(address)),
            node,
            is_mig=True,
        )
        for device in devices
    ]


def _gpu(entry: t.Mapping[str, t.Any], address: str, node: int | None, is_mig: bool) -> Gpu:
    return Gpu(
        uuid=plain(entry.get("uuid")) or None,
        pci_address=address,
        name=plain(entry.get("name")),
        vendor=plain(entry.get("vendor")),
        node=node,
        is_mig=is_mig,
        entry=entry,
    )


def best_group(gpus: t.Sequence[Gpu], size: int) -> tuple[Gpu, ...]:
    """The ``size`` best-connected of ``gpus``; of equally good groups the first by address.

    What counts is, in this order: the fewest NVLinks between any two of the group, all its NVLinks, the longest PCIe
    path between any two, all its paths; and then that the GPUs left over are well connected as well.
    """
    if size >= len(gpus) or size < 1:
        return tuple(gpus[: max(size, 0)])
    if len({link for gpu in gpus for link in _between(gpus, gpu)}) == 1:
        return tuple(gpus[:size])
    if math.comb(len(gpus), size) > _MOST_GROUPS:
        return _grown_group(gpus, size)
    best = max(
        itertools.combinations(range(len(gpus)), size),
        key=lambda chosen: (
            _connection([gpus[index] for index in chosen]),
            _connection([gpu for index, gpu in enumerate(gpus) if index not in chosen]),
            [-index for index in chosen],
        ),
    )
    return tuple(gpus[index] for index in best)


def describe_links(group: t.Sequence[Gpu]) -> str:
    """How the GPUs of a group are connected, in words; empty where there is nothing to say."""
    pairs = [link for gpu in group for link in _between(group, gpu)]
    if not pairs or all(link == (0, 0) for link in pairs):
        return ""
    fewest, most = min(nvlinks for nvlinks, _path in pairs), max(nvlinks for nvlinks, _path in pairs)
    if fewest:
        return f"{fewest} NVLinks between any two" if fewest == most else f"{fewest} to {most} NVLinks between any two"
    names = {number: name for name, number in _PATHS.items()}
    farthest = names.get(min(path for _nvlinks, path in pairs), "an unknown path")
    return f"{farthest} at most between any two" + (", some with NVLinks" if most else "")


def _grown_group(gpus: t.Sequence[Gpu], size: int) -> tuple[Gpu, ...]:
    """Among very many groups: from each GPU the nearest to those chosen so far, and then the best of these groups."""
    groups: list[tuple[Gpu, ...]] = []
    for seed in gpus:
        group: tuple[Gpu, ...] = (seed,)
        while len(group) < size:
            wider = [(*group, gpu) for gpu in gpus if gpu not in group]
            group = max(wider, key=_connection)
        groups.append(tuple(sorted(group, key=gpus.index)))
    return max(groups, key=_connection)


def _between(group: t.Sequence[Gpu], gpu: Gpu) -> list[tuple[int, int]]:
    return [gpu.links.get(other.pci_address, (0, 0)) for other in group if other is not gpu]


def _connection(group: t.Sequence[Gpu]) -> tuple[int, int, int, int]:
    pairs = [one.links.get(other.pci_address, (0, 0)) for one, other in itertools.combinations(group, 2)] or [(0, 0)]
    nvlinks = [link[0] for link in pairs]
    paths = [link[1] for link in pairs]
    return min(nvlinks), sum(nvlinks), min(paths), sum(paths)
