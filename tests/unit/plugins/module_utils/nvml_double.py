# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A double of ``pynvml``: answers with the names, units and types of the real binding, and fails where told to.

``test_nvml.py`` holds its functions, constants and errors against the real binding.
"""

from __future__ import annotations

import ctypes
import typing as t
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
UNKNOWN_ERROR = 999

TEXTS = {
    INVALID_ARGUMENT: "Invalid Argument",
    NOT_SUPPORTED: "Not Supported",
    NOT_FOUND: "Not Found",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    TIMEOUT: "Timeout",
    FUNCTION_NOT_FOUND: "Function Not Found",
    GPU_IS_LOST: "GPU is lost",
    UNKNOWN_ERROR: "Unknown Error",
}

GPU, IBM_NPU, SWITCH = 0, 1, 2
# Links of a GPU lead to another one (its index), to a switch or an NPU, or are inactive.
TO_SWITCH = "switch"
TO_NPU = "npu"
INACTIVE = None


class NVMLError(Exception):
    """What the real binding raises."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return TEXTS[self.value]


@dataclass(frozen=True)
class DoubleMig:
    """A MIG device, in the slot of its GPU that it has."""

    slot: int
    uuid: str
    name: str
    memory_bytes: int
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class DoubleGpu:
    """One GPU as NVML sees it; masks are sets of ids. ``None`` is what a GPU does not support."""

    bus_id: str | bytes
    uuid: str | bytes = "GPU-00000000-0000-0000-0000-000000000000"
    name: str | bytes = "NVIDIA H100 80GB HBM3"
    memory_bytes: int = 81559 * 1024 * 1024
    near_nodes: frozenset[int] = frozenset()
    near_cpus: frozenset[int] = frozenset()
    memory_node: int | None = None
    mig: tuple[DoubleMig, ...] | None = None
    mig_enabled: bool = False
    links: tuple[int | str | None, ...] = ()
    pids: tuple[int, ...] = ()


@dataclass
class NvmlDouble:
    """The calls the collection makes.

    ``failing`` maps a call, or (call, index of the GPU), to the code of its error. ``answers`` maps a call to what it
    answers instead.
    """

    gpus: t.Sequence[DoubleGpu]
    failing: dict[str | tuple[str, int], int] = field(default_factory=dict)
    answers: dict[str, t.Any] = field(default_factory=dict)
    levels: dict[tuple[int, int], int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    mask_words: dict[str, int] = field(default_factory=dict)

    def _answer(self, call: str, index: int | None, answer: t.Callable[[], t.Any]) -> t.Any:
        self.calls.append(call)
        code = self.failing.get(call)
        if code is None and index is not None:
            code = self.failing.get((call, index))
        if code is not None:
            raise NVMLError(code)
        return self.answers[call] if call in self.answers else answer()

    def nvmlInit(self) -> None:
        self._answer("nvmlInit", None, lambda: None)

    def nvmlShutdown(self) -> None:
        self._answer("nvmlShutdown", None, lambda: None)

    def nvmlDeviceGetCount(self) -> t.Any:
        return self._answer("nvmlDeviceGetCount", None, lambda: len(self.gpus))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> t.Any:
        def handle() -> int:
            if index >= len(self.gpus):
                raise NVMLError(INVALID_ARGUMENT)
            return index

        return self._answer("nvmlDeviceGetHandleByIndex", index, handle)

    def nvmlDeviceGetPciInfo(self, handle: int) -> t.Any:
        return self._answer("nvmlDeviceGetPciInfo", handle, lambda: SimpleNamespace(busId=self.gpus[handle].bus_id))

    def nvmlDeviceGetUUID(self, handle: int | DoubleMig) -> t.Any:
        return self._answer("nvmlDeviceGetUUID", self._index(handle), lambda: self._described(handle).uuid)

    def nvmlDeviceGetName(self, handle: int | DoubleMig) -> t.Any:
        return self._answer("nvmlDeviceGetName", self._index(handle), lambda: self._described(handle).name)

    def nvmlDeviceGetMemoryInfo(self, handle: int | DoubleMig) -> t.Any:
        return self._answer(
            "nvmlDeviceGetMemoryInfo",
            self._index(handle),
            lambda: SimpleNamespace(total=self._described(handle).memory_bytes, free=0, used=0),
        )

    def nvmlDeviceGetMemoryAffinity(self, handle: int, words: int, scope: int) -> t.Any:
        assert scope == 0, "NVML_AFFINITY_SCOPE_NODE"
        call = "nvmlDeviceGetMemoryAffinity"
        return self._answer(call, handle, lambda: self._mask("node", self.gpus[handle].near_nodes, words))

    def nvmlDeviceGetCpuAffinity(self, handle: int, words: int) -> t.Any:
        call = "nvmlDeviceGetCpuAffinity"
        return self._answer(call, handle, lambda: self._mask("cpu", self.gpus[handle].near_cpus, words))

    def nvmlDeviceGetNumaNodeId(self, handle: int) -> t.Any:
        return self._answer("nvmlDeviceGetNumaNodeId", handle, lambda: _supported(self.gpus[handle].memory_node))

    def nvmlDeviceGetMigMode(self, handle: int) -> t.Any:
        def mode() -> list[int]:
            _supported(self.gpus[handle].mig)
            return [int(self.gpus[handle].mig_enabled)] * 2

        return self._answer("nvmlDeviceGetMigMode", handle, mode)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int | DoubleMig) -> t.Any:
        return self._answer(
            "nvmlDeviceGetComputeRunningProcesses",
            self._index(handle),
            lambda: [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self._described(handle).pids],
        )

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> t.Any:
        return self._answer("nvmlDeviceGetMaxMigDeviceCount", handle, lambda: 7)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, index: int) -> t.Any:
        def device() -> DoubleMig:
            for one in _supported(self.gpus[handle].mig):
                if one.slot == index:
                    return t.cast("DoubleMig", one)
            raise NVMLError(NOT_FOUND)

        return self._answer("nvmlDeviceGetMigDeviceHandleByIndex", handle, device)

    def nvmlDeviceGetTopologyCommonAncestor(self, one: int, other: int) -> t.Any:
        def level() -> int:
            same = self.gpus[one].near_nodes == self.gpus[other].near_nodes
            return self.levels.get((one, other), 40 if same else 50)

        return self._answer("nvmlDeviceGetTopologyCommonAncestor", one, level)

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> t.Any:
        return self._answer("nvmlDeviceGetNvLinkState", handle, lambda: int(self._end(handle, link) is not INACTIVE))

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: int, link: int) -> t.Any:
        def device_type() -> int:
            end = self._end(handle, link)
            return GPU if isinstance(end, int) else SWITCH if end == TO_SWITCH else IBM_NPU

        return self._answer("nvmlDeviceGetNvLinkRemoteDeviceType", handle, device_type)

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle: int, link: int) -> t.Any:
        def info() -> SimpleNamespace:
            end = self._end(handle, link)
            return SimpleNamespace(busId=self.gpus[end].bus_id if isinstance(end, int) else "00000000:C4:00.0")

        return self._answer("nvmlDeviceGetNvLinkRemotePciInfo", handle, info)

    def nvmlDeviceGetP2PStatus(self, one: int, other: int, index: int) -> t.Any:
        assert index == 2, "NVML_P2P_CAPS_INDEX_NVLINK"

        def status() -> int:
            switched = TO_SWITCH in self.gpus[one].links and TO_SWITCH in self.gpus[other].links
            return 0 if switched or other in self.gpus[one].links else 5

        return self._answer("nvmlDeviceGetP2PStatus", one, status)

    def _index(self, handle: t.Any) -> int | None:
        return handle if isinstance(handle, int) else None

    def _described(self, handle: int | DoubleMig) -> DoubleGpu | DoubleMig:
        return handle if isinstance(handle, DoubleMig) else self.gpus[handle]

    def _end(self, handle: int, link: int) -> int | str | None:
        links = self.gpus[handle].links
        if not links:
            raise NVMLError(NOT_SUPPORTED)
        if link >= len(links):
            raise NVMLError(INVALID_ARGUMENT)
        return links[link]

    def _mask(self, kind: str, ids: frozenset[int], words: int) -> t.Any:
        self.mask_words[kind] = words
        # The real binding hands out a ctypes array, and the driver cuts off what does not fit.
        return (ctypes.c_ulonglong * words)(*(sum(1 << (i % 64) for i in ids if i // 64 == w) for w in range(words)))


class Without:
    """A binding that lacks some calls, as older ones do."""

    def __init__(self, double: NvmlDouble, *lacking: str) -> None:
        self._double = double
        self._lacking = lacking

    def __getattr__(self, name: str) -> t.Any:
        if name in self._lacking:
            raise AttributeError(f"module 'pynvml' has no attribute {name!r}")
        return getattr(self._double, name)


def _supported(value: t.Any) -> t.Any:
    if value is None:
        raise NVMLError(NOT_SUPPORTED)
    return value


BUSES = ("17", "2A", "3D", "60", "97", "AA", "BD", "E0")


def uuid_of(index: int) -> str:
    """Return the UUID of the GPU number ``index`` of the doubles below."""
    return f"GPU-0000000{index}-1111-2222-3333-444444444444"


def eight_gpus_double() -> NvmlDouble:
    """NVML on the machine of ``trees.eight_gpus``; it knows the node of the last one too."""
    return NvmlDouble(
        [
            DoubleGpu(
                f"00000000:{bus}:00.0",
                uuid_of(index),
                near_nodes=frozenset({index // 4}),
                near_cpus=frozenset(range(4) if index < 4 else range(4, 8)),
                mig=(),
            )
            for index, bus in enumerate(BUSES)
        ]
    )


def with_links(double: NvmlDouble, *links: tuple[int | str | None, ...]) -> NvmlDouble:
    """Return the double with the NVLinks of every GPU, given for each of them or once for all."""
    each = links * len(double.gpus) if len(links) == 1 else links
    return replace(double, gpus=[replace(gpu, links=ends) for gpu, ends in zip(double.gpus, each)])
