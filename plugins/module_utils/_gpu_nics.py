# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Which NICs and InfiniBand devices are close to which GPU."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._devices import Infiniband, Nic
    from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree

_PATHS_BY_DISTANCE = ("PIX", "PXB", "PHB", "NODE", None)


class GpuNicPair(t.NamedTuple):
    """A GPU and a NIC close to it; ``path`` is ``None`` on one node when the way between them is unknown."""

    gpu: str  # PCI address
    gpu_uuid: str | None
    nic: str | None
    infiniband: str | None
    path: str | None  # PIX | PXB | PHB | NODE


class PlacedGpu(t.Protocol):
    """What the pairs need to know of a GPU; ``node`` is the one that was finally decided on."""

    @property
    def pci_address(self) -> str: ...

    @property
    def uuid(self) -> str | None: ...

    @property
    def node(self) -> int | None: ...


def pair_gpus_with_nics(
    gpus: t.Iterable[PlacedGpu], nics: t.Sequence[Nic], infiniband: t.Sequence[Infiniband], pci: PciTree
) -> tuple[GpuNicPair, ...]:
    """Return the NICs and RDMA devices below the host bridge or on the node of each GPU, the nearest first.

    A virtual function whose physical function the host sees is left out: it lies where that lies, and is most often
    a guest's.
    """
    functions = _network_functions(nics, infiniband)
    pairs: list[GpuNicPair] = []
    for gpu in gpus:
        near = []
        for address, names in functions.items():
            # A GPU's node can come from NVML or an override; a NIC's always from sysfs.
            path = pci.path_kind(gpu.pci_address, address, first_node=gpu.node)
            if path != "SYS" and (path is not None or _same_node(pci, gpu, address)):
                near.append((_PATHS_BY_DISTANCE.index(path), address, names, path))
        for _distance, _address, names, path in sorted(near, key=lambda found: found[:2]):
            pairs.extend(GpuNicPair(gpu.pci_address, gpu.uuid, nic, rdma, path) for nic, rdma in names)
    return tuple(pairs)


def _network_functions(
    nics: t.Sequence[Nic], infiniband: t.Sequence[Infiniband]
) -> dict[str, list[tuple[str | None, str | None]]]:
    """Return, by PCI address, each NIC with its RDMA device; the other one is ``None`` where there is only one."""
    rdma_of = {netdev: device.name for device in infiniband for netdev in device.netdevs}
    functions: dict[str, list[tuple[str | None, str | None]]] = {}
    for nic in nics:
        if nic.pci_address and not (nic.sriov and nic.sriov.physical_function):
            functions.setdefault(nic.pci_address, []).append((nic.name, rdma_of.get(nic.name)))
    named = {nic.name for nic in nics}
    for device in infiniband:
        alone = named.isdisjoint(device.netdevs)
        if device.pci_address and alone and device.physical_function is None:
            functions.setdefault(device.pci_address, []).append((None, device.name))
    return functions


def _same_node(pci: PciTree, gpu: PlacedGpu, address: str) -> bool:
    return gpu.node is not None and gpu.node == pci.node(address)
