# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The GPUs of a Linux host and the NUMA node of each: from NVML where it answers, else from sysfs.

NVML knows UUIDs, names, memory and affinities, but NVIDIA GPUs only; sysfs knows every PCI device and its node, and the
NVIDIA driver tells UUID and name in ``/proc/driver/nvidia`` too. GPUs are keyed on their PCI address: indices differ
between NVML and CUDA. A node that no source is sure about is ``None``.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import typing as t
import warnings as python_warnings
from dataclasses import dataclass

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    ids_from_words,
    parse_cpulist,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._topology import Node

_PCI = "/sys/bus/pci/devices"
_NVIDIA = "nvidia"
_VENDORS = {0x10DE: _NVIDIA, 0x1002: "amd", 0x8086: "intel"}
# PCI classes (base class and subclass): 0300 VGA, 0302 3D controller, 0380 other display, 1200 processing accelerator.
# VGA counts for NVIDIA only: with the others it is the console's adapter or an integrated GPU.
_CLASSES = {_NVIDIA: (0x0300, 0x0302, 0x1200), "amd": (0x0302, 0x0380, 0x1200), "intel": (0x0380, 0x1200)}
_PCI_ADDRESS = re.compile(r"([0-9a-fA-F]{1,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")
_PROC_LINE = re.compile(r"^(Model|GPU UUID):[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SCOPE_NODE = 0  # NVML_AFFINITY_SCOPE_NODE in nvml.h
_WORD_BITS = 64


@dataclass(frozen=True)
class Gpu:
    """One GPU; ``cpus`` are the online CPUs of its node."""

    uuid: str | None
    pci_address: str
    name: str | None
    vendor: str
    memory_total_mib: int | None
    node: int | None
    node_source: str  # nvml | sysfs | override | unknown
    cpus: str | None
    links: tuple[t.Any, ...]
    source: str  # nvml | sysfs


def load_nvml() -> t.Any:
    """Import ``pynvml`` and return it; raises ``ImportError`` whatever it is that keeps it from being imported."""
    try:
        with python_warnings.catch_warnings():
            # The retired distribution of the same name tells everybody on stderr that it is retired.
            python_warnings.simplefilter("ignore")
            return importlib.import_module("pynvml")
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from error


def read_gpus(
    host: Host, nodes: t.Sequence[Node], get_nvml: t.Callable[[], t.Any] | None
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Return the GPUs, ascending by PCI address, and the warnings.

    ``get_nvml`` returns a module like ``pynvml`` or raises ``ImportError``; it is called only when the host has an
    NVIDIA device or its driver. ``None`` leaves NVML out: it answers for the running machine, not for a captured tree.
    """
    return _Reader(host, nodes).read(get_nvml)


def normalised_pci_address(text: str) -> str | None:
    """Return ``0000:17:00.0`` for ``00000000:17:00.0``, as the kernel writes it; ``None`` for what is no address."""
    match = _PCI_ADDRESS.fullmatch(text.strip())
    if match is None:
        return None
    return f"{int(match[1], 16):04x}:{match[2]}:{match[3]}.{match[4]}".lower()


class _Reader:
    def __init__(self, host: Host, nodes: t.Sequence[Node]) -> None:
        self._host = host
        self._cpus_text = {node.id: node.cpus for node in nodes}
        self._cpus = {node.id: parse_cpulist(node.cpus) for node in nodes}
        self._nodes_with_cpus = frozenset(node.id for node in nodes if node.cpus)
        self._warnings: list[str] = []

    def read(self, get_nvml: t.Callable[[], t.Any] | None) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        vendors = self._pci_devices()
        gpus: dict[str, Gpu] = {}
        if get_nvml and (_NVIDIA in vendors.values() or self._host.exists("/proc/driver/nvidia/version")):
            nvml_gpus = self._from_nvml(get_nvml)
            if nvml_gpus is not None:
                gpus = nvml_gpus
                silent = sorted(a for a, vendor in vendors.items() if vendor == _NVIDIA and a not in gpus)
                if silent:
                    self._warnings.append(
                        f"NVML does not answer for {', '.join(silent)}: of these NVIDIA devices only sysfs is known"
                    )
        for address, vendor in vendors.items():
            if address not in gpus:
                gpus[address] = self._from_sysfs(address, vendor)
        return tuple(gpus[address] for address in sorted(gpus)), tuple(self._warnings)

    # sysfs

    def _pci_devices(self) -> dict[str, str]:
        """Return the vendor of every GPU on the PCI buses by its address."""
        vendors: dict[str, str] = {}
        for name in self._host.list_dir(_PCI) or ():
            address = normalised_pci_address(name)
            pci_class = self._hex_in(f"{_PCI}/{name}/class")
            # The class first: most devices need no second read.
            if address is None or pci_class is None or pci_class >> 16 not in (0x03, 0x12):
                continue
            vendor = _VENDORS.get(self._hex_in(f"{_PCI}/{name}/vendor") or 0)
            if vendor is None or pci_class >> 8 not in _CLASSES[vendor]:
                continue
            driver = (self._host.readlink(f"{_PCI}/{name}/driver") or "").rpartition("/")[2]
            if driver == "vfio-pci":
                self._warnings.append(f"GPU {address} is left out: its driver vfio-pci keeps it for virtual machines")
                continue
            vendors[address] = vendor
        return vendors

    def _from_sysfs(self, address: str, vendor: str) -> Gpu:
        node = self._sysfs_node(address)
        uuid = name = None
        if vendor == _NVIDIA:
            information = self._host.read_text(f"/proc/driver/nvidia/gpus/{address}/information")
            said = dict(_PROC_LINE.findall(information or ""))
            name = said.get("Model")
            # The driver shows question marks until something has opened the GPU for the first time.
            uuid = said.get("GPU UUID") if _UUID.fullmatch(said.get("GPU UUID", "")) else None
        placed = (node, "unknown" if node is None else "sysfs")
        return self._gpu(address, vendor, uuid=uuid, name=name, memory_total_mib=None, placed=placed, source="sysfs")

    def _sysfs_node(self, address: str) -> int | None:
        node = self._host.read_int(f"{_PCI}/{address}/numa_node")
        if node is None or node < 0:
            return None
        if node not in self._cpus:
            self._warnings.append(f"GPU {address}: sysfs puts it on node {node}, which is not online: that is left out")
            return None
        return node

    def _gpu(
        self,
        address: str,
        vendor: str,
        *,
        uuid: str | None,
        name: str | None,
        memory_total_mib: int | None,
        placed: tuple[int | None, str],
        source: str,
    ) -> Gpu:
        node, node_source = placed
        cpus = None if node is None else self._cpus_text[node]
        return Gpu(uuid, address, name, vendor, memory_total_mib, node, node_source, cpus, (), source)

    def _hex_in(self, path: str) -> int | None:
        try:
            return int(self._host.read_text(path, 4096) or "", 16)
        except ValueError:
            return None

    # NVML

    def _from_nvml(self, get_nvml: t.Callable[[], t.Any]) -> dict[str, Gpu] | None:
        """Return NVML's GPUs by PCI address; ``None`` when it does not work at all."""
        try:
            nvml = _Nvml(get_nvml())
        except ImportError as error:
            self._warnings.append(
                f"NVML is not asked: Python cannot import pynvml ({error}); the memory of NVIDIA GPUs is unknown and"
                " their node is what sysfs says (install nvidia-ml-py for the Python that Ansible uses on this host)"
            )
            return None
        gpus = None
        if nvml.ask("nvmlInit", None, read=_is_answer):
            gpus = self._gpus_of(nvml)
            nvml.ask("nvmlShutdown", None)
        self._warnings.extend(nvml.warnings())
        return gpus

    def _gpus_of(self, nvml: _Nvml) -> dict[str, Gpu] | None:
        count = nvml.ask("nvmlDeviceGetCount", None, read=int)
        if count is None:
            return None
        gpus: dict[str, Gpu] = {}
        for index in range(count):
            handle = nvml.ask("nvmlDeviceGetHandleByIndex", f"number {index}", index)
            if handle is None:
                continue
            address = nvml.ask("nvmlDeviceGetPciInfo", f"number {index}", handle, read=_address_of)
            if address is None:
                continue
            gpus[address] = self._gpu(
                address,
                _NVIDIA,
                uuid=nvml.ask("nvmlDeviceGetUUID", address, handle, read=_text),
                name=nvml.ask("nvmlDeviceGetName", address, handle, read=_text),
                memory_total_mib=nvml.ask("nvmlDeviceGetMemoryInfo", address, handle, read=_total_mib),
                placed=self._nvml_node(nvml, address, handle),
                source="nvml",
            )
        return gpus

    def _nvml_node(self, nvml: _Nvml, address: str, handle: t.Any) -> tuple[int | None, str]:
        """Return the node next to the GPU and who says so.

        ``nvmlDeviceGetNumaNodeId`` is not asked: that is the GPU's *own* memory node on coherent systems (Grace). An
        affinity to several nodes, as virtual machines report it for every GPU, says nothing.
        """
        words = self._words("/sys/devices/system/node/possible", self._cpus)
        call = "nvmlDeviceGetMemoryAffinity"
        near = nvml.ask(call, address, handle, words, _SCOPE_NODE, read=ids_from_words) or frozenset()
        near &= self._nodes_with_cpus
        if len(near) != 1:
            words = self._words("/sys/devices/system/cpu/possible", frozenset().union(*self._cpus.values()))
            cpus = nvml.ask("nvmlDeviceGetCpuAffinity", address, handle, words, read=ids_from_words) or frozenset()
            near = frozenset(node for node in self._nodes_with_cpus if self._cpus[node] & cpus)
        from_sysfs = self._sysfs_node(address)
        if len(near) != 1:
            return from_sysfs, "unknown" if from_sysfs is None else "sysfs"
        (node,) = near
        if from_sysfs not in (None, node):
            self._warnings.append(
                f"GPU {address}: NVML puts it on node {node}, sysfs on node {from_sysfs}; NVML's answer is used"
            )
        return node, "nvml"

    def _words(self, possible_path: str, ids: t.Iterable[int]) -> int:
        """Return the size of a mask for NVML: room for the highest id that may ever appear, not for their count."""
        possible: frozenset[int] = frozenset()
        with contextlib.suppress(CpusetError):
            possible = parse_cpulist(self._host.read_text(possible_path) or "")
        return max(possible.union(ids), default=0) // _WORD_BITS + 1


class _Nvml:
    """Calls into NVML that cannot raise; the same error of several GPUs becomes one warning."""

    def __init__(self, module: t.Any) -> None:
        self._module = module
        self._errors: dict[tuple[str, str], list[str]] = {}

    def ask(
        self, call: str, gpu: str | None, *arguments: t.Any, read: t.Callable[[t.Any], t.Any] | None = None
    ) -> t.Any:
        """Return what ``call`` answers, as ``read`` reads it; ``None`` when that fails. ``gpu`` is for the warning."""
        try:
            answer = getattr(self._module, call)(*arguments)
            return read(answer) if read else answer
        except Exception as error:
            # Not NVMLError alone: older bindings lack calls (AttributeError) and stumble over answers.
            gpus = self._errors.setdefault((call, str(error) or type(error).__name__), [])
            if gpu is not None:
                gpus.append(gpu)
            return None

    def warnings(self) -> list[str]:
        return [
            f"NVML: {call}: {text}" + (f" (GPU {', '.join(gpus)})" if gpus else "")
            for (call, text), gpus in self._errors.items()
        ]


def _is_answer(_nothing: t.Any) -> bool:
    return True


def _address_of(pci_info: t.Any) -> str:
    said = _text(pci_info.busId)
    address = normalised_pci_address(said)
    if address is None:
        raise ValueError(f"{said!r} is not a PCI address")
    return address


def _total_mib(memory_info: t.Any) -> int | None:
    return int(memory_info.total) // (1024 * 1024) or None


def _text(value: t.Any) -> str:
    # Bindings before 11.5 return bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
