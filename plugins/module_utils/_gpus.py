# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The GPUs of a Linux host, the NUMA node of each, and the links between them.

What NVML says (else nvidia-smi) comes as ``GpuAnswers``; sysfs knows every PCI device, its node and the way between two
of them, and NVIDIA's driver tells UUID and name in ``/proc/driver/nvidia`` too. Here they are held against each other.
GPUs are keyed on their PCI address: indices differ between NVML and CUDA. A node that no source is sure about is
``None``, unless the inventory says it.
"""

from __future__ import annotations

import itertools
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import format_cpulist, parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    NVML,
    GpuAnswer,
    GpuAnswers,
    LinkAnswer,
    MigDevice,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import (
    AMD,
    NVIDIA,
    GpuSources,
    gpu_devices,
    has_nvidia_driver,
    is_wsl,
    keeper_of,
)
from ansible_collections.numapin.inference.plugins.module_utils._kernel import container_of
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree, normalised_pci_address

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._topology import Node

_PCI = "/sys/bus/pci/devices"
_PROC_LINE = re.compile(r"^(Model|GPU UUID):[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_MINOR_LINE = re.compile(r"^Device Minor:[ \t]+([0-9]{1,4})[ \t]*$", re.MULTILINE)
_RENDER_NODE = re.compile(r"renderD[0-9]{1,4}")
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SOURCE_NAMES = {NVML: "NVML", "nvidia_smi": "nvidia-smi"}
_UNKNOWN = "unknown"


class GpuOverrideError(NumapinError):
    """An override names a node that is not there, or two nodes for one GPU."""


class Mig(t.NamedTuple):
    """MIG mode; ``enabled`` is ``False`` also on GPUs that have none, and ``None`` when unknown."""

    enabled: bool | None
    devices: tuple[MigDevice, ...]


class GpuLink(t.NamedTuple):
    """The way to another GPU; ``kind`` is what ``nvidia-smi topo -m`` prints."""

    pci_address: str
    uuid: str | None
    kind: str | None  # NV and the number of NVLinks, else path
    nvlinks: int | None  # active ones between the two
    path: str | None  # over PCIe: PIX | PXB | PHB | NODE | SYS
    source: str  # who says kind: nvml | nvidia_smi | sysfs | unknown


class Gpu(t.NamedTuple):
    """One GPU; ``cpus`` are the online CPUs of its node."""

    uuid: str | None
    pci_address: str
    name: str | None
    vendor: str  # nvidia | amd | intel
    memory_total_mib: int | None
    node: int | None
    node_source: str  # nvml | nvidia_smi | sysfs | override | unknown
    memory_node: int | None
    cpus: str | None
    source: str  # nvml | nvidia_smi | sysfs
    mig: Mig
    links: tuple[GpuLink, ...]


def read_gpus(
    host: Host,
    nodes: t.Sequence[Node],
    pci: PciTree,
    sources: GpuSources,
    overrides: t.Mapping[str, int],
    want_links: bool = True,
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Return the GPUs, ascending by PCI address, and the warnings (those about PCI devices are in ``pci.warnings``).

    ``overrides`` are nodes by PCI address or UUID. Raises ``GpuOverrideError``.
    """
    return _Reader(host, nodes, pci).read(sources, overrides, want_links)


def collect_answers(host: Host, pci: PciTree, sources: GpuSources, want_links: bool = True) -> GpuAnswers | None:
    """Return what NVML, else nvidia-smi, says; ``None`` when nobody is asked: no NVIDIA GPU or driver, no source."""
    has_nvidia = any(vendor == NVIDIA and not keeper_of(device) for device, vendor in gpu_devices(pci))
    return _asked(host, has_nvidia, sources, want_links)


def _asked(host: Host, has_nvidia: bool, sources: GpuSources, want_links: bool) -> GpuAnswers | None:
    if sources.recorded is not None:
        return sources.recorded
    if not has_nvidia and not has_nvidia_driver(host):
        return None
    if sources == GpuSources():
        return None
    # Compiling what asks takes a tenth of a run that has nobody to ask.
    from ansible_collections.numapin.inference.plugins.module_utils._gpu_asking import ask

    return ask(host, sources, want_links)


class _Reader:
    def __init__(self, host: Host, nodes: t.Sequence[Node], pci: PciTree) -> None:
        self._host = host
        self._pci = pci
        self._cpus_text = {node.id: node.cpus for node in nodes}
        self._cpus = {node.id: parse_cpulist(node.cpus) for node in nodes}
        self._nodes_with_cpus = frozenset(node.id for node in nodes if node.cpus)
        self._warnings: list[str] = []

    def read(
        self, sources: GpuSources, overrides: t.Mapping[str, int], want_links: bool
    ) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        vendors = self._vendors()
        answers = _asked(self._host, NVIDIA in vendors.values(), sources, want_links) or GpuAnswers(None)
        self._warnings.extend(answers.warnings)
        if answers.source is None and is_wsl(self._host):
            self._warnings.append(
                "this is WSL, which shows its GPUs to NVML and nvidia-smi alone (/dev/dxg), and neither of them"
                " answers: GPUs are unknown"
            )
        for address in self._withheld([address for address in vendors if address not in answers.gpus], vendors):
            del vendors[address]
        silent = [a for a, vendor in vendors.items() if vendor == NVIDIA and a not in answers.gpus]
        if silent and answers.source is not None:
            self._warnings.append(
                f"{_SOURCE_NAMES[answers.source]} does not answer for {', '.join(silent)}: of these NVIDIA devices only"
                " sysfs is known"
            )
        vendors.update(dict.fromkeys(answers.gpus, NVIDIA))
        gpus = {}
        for address in sorted(vendors):
            answer = answers.gpus.get(address)
            if answer is not None and answers.source is not None:
                gpus[address] = self._from_answer(address, answer, answers.source)
            else:
                gpus[address] = self._from_sysfs(address, vendors[address])
        gpus.update(self._overridden(gpus, overrides))
        if want_links:
            links = self._links(gpus, answers)
            gpus = {address: gpu._replace(links=links[address]) for address, gpu in gpus.items()}
        return tuple(gpus.values()), tuple(self._warnings)

    # Whom a GPU is known from

    def _vendors(self) -> dict[str, str]:
        """Return the vendor of every GPU on the PCI buses by its address."""
        vendors = {}
        for device, vendor in gpu_devices(self._pci):
            keeper = keeper_of(device)
            if keeper is not None:
                self._warnings.append(
                    f"GPU {device.address} is left out: its driver {keeper} keeps it for virtual machines"
                )
            elif self._pci.physical_function(device.address) is None:
                # What has a physical function is a slice for a virtual machine, and no further GPU.
                vendors[device.address] = vendor
        return vendors

    def _withheld(self, addresses: list[str], vendors: t.Mapping[str, str]) -> list[str]:
        """Return those of the GPUs that are the host's and were not given to this container: /sys shows all of them."""
        if not addresses or container_of(self._host) in (None, "none"):
            return []
        withheld = [address for address in addresses if self._has_no_device_node(address, vendors[address])]
        if withheld:
            self._warnings.append(
                f"left out are the GPUs {', '.join(withheld)}: they are the host's, and this container has no device"
                " node for them"
            )
        return withheld

    def _has_no_device_node(self, address: str, vendor: str) -> bool:
        """Whether the file is missing below /dev without which a GPU cannot be used."""
        if vendor == NVIDIA:
            if not self._host.exists("/proc/driver/nvidia/version"):
                return False
            information = self._host.read_text(f"/proc/driver/nvidia/gpus/{address}/information")
            minor = _MINOR_LINE.search(information or "")
            # NVIDIA's container toolkit hides these directories of the other GPUs.
            return minor is None or not self._host.exists(f"/dev/nvidia{minor[1]}")
        names = self._host.list_dir(f"{_PCI}/{address}/drm") or ()
        nodes = [f"/dev/dri/{name}" for name in names if _RENDER_NODE.fullmatch(name)]
        return bool(nodes) and not any(self._host.exists(node) for node in nodes)

    def _from_answer(self, address: str, answer: GpuAnswer, source: str) -> Gpu:
        memory_node = self._memory_node(address, answer.memory_node, source)
        node, node_source = self._node(address, answer, memory_node, source)
        return Gpu(
            uuid=answer.uuid,
            pci_address=address,
            name=answer.name,
            vendor=NVIDIA,
            memory_total_mib=answer.memory_total_mib,
            node=node,
            node_source=node_source,
            memory_node=memory_node,
            cpus=None if node is None else self._cpus_text[node],
            source=source,
            mig=Mig(answer.mig_enabled, answer.mig_devices),
            links=(),
        )

    def _from_sysfs(self, address: str, vendor: str) -> Gpu:
        node = self._sysfs_node(address, None)
        uuid = name = memory_total_mib = None
        if vendor == NVIDIA:
            information = self._host.read_text(f"/proc/driver/nvidia/gpus/{address}/information")
            said = dict(_PROC_LINE.findall(information or ""))
            name = said.get("Model")
            # The driver shows question marks until something has opened the GPU for the first time.
            uuid = said.get("GPU UUID") if _UUID.fullmatch(said.get("GPU UUID", "")) else None
        elif vendor == AMD:
            # Documentation/gpu/amdgpu/driver-misc.rst
            name = (self._host.read_text(f"{_PCI}/{address}/product_name", 4096) or "").strip() or None
            memory_total_mib = (self._host.read_int(f"{_PCI}/{address}/mem_info_vram_total") or 0) // 1024**2 or None
        return Gpu(
            uuid=uuid,
            pci_address=address,
            name=name,
            vendor=vendor,
            memory_total_mib=memory_total_mib,
            node=node,
            node_source=_UNKNOWN if node is None else "sysfs",
            memory_node=None,
            cpus=None if node is None else self._cpus_text[node],
            source="sysfs",
            # MIG is NVIDIA's, and only its driver knows.
            mig=Mig(None if vendor == NVIDIA else False, ()),
            links=(),
        )

    # Nodes

    def _node(self, address: str, answer: GpuAnswer, memory_node: int | None, source: str) -> tuple[int | None, str]:
        """Return the node next to the GPU and who says so.

        An affinity to several nodes, as virtual machines report it for every GPU, says nothing; and a GPU's own memory
        is next to nothing.
        """
        said_by = _SOURCE_NAMES[source]
        from_sysfs = self._sysfs_node(address, memory_node)
        by_nodes = self._only(parse_cpulist(answer.near_nodes or "") & self._nodes_with_cpus)
        near_cpus = parse_cpulist(answer.near_cpus or "")
        by_cpus = self._only(node for node in self._nodes_with_cpus if self._cpus[node] & near_cpus)
        if None not in (by_nodes, by_cpus) and by_nodes != by_cpus:
            self._warnings.append(
                f"GPU {address}: {said_by} puts it on node {by_nodes} and next to the CPUs of node {by_cpus}; node"
                f" {by_nodes} is used"
            )
        node = by_cpus if by_nodes is None else by_nodes
        if node is None:
            return from_sysfs, _UNKNOWN if from_sysfs is None else "sysfs"
        if from_sysfs not in (None, node):
            self._warnings.append(
                f"GPU {address}: {said_by} puts it on node {node}, sysfs on node {from_sysfs}; {said_by}'s answer is"
                " used"
            )
        return node, source

    def _memory_node(self, address: str, node: int | None, source: str) -> int | None:
        if node is None or node in self._nodes_with_cpus:
            # A node with CPUs is the host's: the driver may name it where the GPU's memory is no node of its own.
            return None
        if node not in self._cpus:
            self._warnings.append(
                f"GPU {address}: {_SOURCE_NAMES[source]} says that its memory is node {node}, which is not online: that"
                " is left out"
            )
            return None
        return node

    def _sysfs_node(self, address: str, memory_node: int | None) -> int | None:
        device = self._pci.device(address)
        return None if device is None or device.node == memory_node else device.node

    def _only(self, nodes: t.Iterable[int]) -> int | None:
        different = list(nodes)
        return different[0] if len(different) == 1 else None

    def _overridden(self, gpus: t.Mapping[str, Gpu], overrides: t.Mapping[str, int]) -> dict[str, Gpu]:
        """Return the GPUs whose node the inventory says."""
        addresses = {gpu.uuid.lower(): address for address, gpu in gpus.items() if gpu.uuid}
        changed: dict[str, Gpu] = {}
        unused = []
        for key, node in overrides.items():
            address = normalised_pci_address(key) or addresses.get(key.lower(), "")
            if address not in gpus:
                unused.append(key)
                continue
            if node not in self._cpus:
                raise GpuOverrideError(
                    f"GPU {key} is put on node {node}, which is not online: give one of the nodes of this host,"
                    f" {format_cpulist(self._cpus)}"
                )
            if changed.get(address, gpus[address]).node != node and address in changed:
                raise GpuOverrideError(
                    f"GPU {address} is put on node {changed[address].node} by one key and on node {node} by {key}: keep"
                    " one of them"
                )
            changed[address] = gpus[address]._replace(node=node, node_source="override", cpus=self._cpus_text[node])
        if unused:
            self._warnings.append(
                f"the overrides of GPU nodes name {', '.join(unused)}, which is no PCI address or UUID of a GPU of this"
                f" host (it has {', '.join(gpus) or 'none'})"
            )
        return changed

    # Links

    def _links(self, gpus: t.Mapping[str, Gpu], answers: GpuAnswers) -> dict[str, tuple[GpuLink, ...]]:
        links: dict[str, list[GpuLink]] = {address: [] for address in gpus}
        for first, second in itertools.combinations(gpus, 2):
            said = answers.links.get((first, second), LinkAnswer())
            nvlinks, path = said.nvlinks, said.path
            if nvlinks is None and {gpus[first].vendor, gpus[second].vendor} != {NVIDIA}:
                nvlinks = 0
            source = answers.source if path or nvlinks else None
            if path is None:
                nodes = {"first_node": gpus[first].node, "second_node": gpus[second].node}
                path = self._pci.path_kind(first, second, **nodes)
                source = source or ("sysfs" if path else _UNKNOWN)
            kind = f"NV{nvlinks}" if nvlinks else path
            for one, other in ((first, second), (second, first)):
                links[one].append(GpuLink(other, gpus[other].uuid, kind, nvlinks, path, source or _UNKNOWN))
        return {address: tuple(sorted(ends, key=lambda link: link.pci_address)) for address, ends in links.items()}
