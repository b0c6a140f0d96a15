# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A double of ``pynvml``: answers with the names, units and types of the real binding, and fails where told to."""

from __future__ import annotations

import ctypes
import typing as t
from dataclasses import dataclass, field
from types import SimpleNamespace


class NVMLError(Exception):
    """What the real binding raises."""


@dataclass
class DoubleGpu:
    """One GPU as NVML sees it; masks are sets of ids."""

    bus_id: str | bytes
    uuid: str | bytes = "GPU-00000000-0000-0000-0000-000000000000"
    name: str | bytes = "NVIDIA H100 80GB HBM3"
    memory_bytes: int = 81559 * 1024 * 1024
    near_nodes: frozenset[int] = frozenset()
    near_cpus: frozenset[int] = frozenset()


@dataclass
class NvmlDouble:
    """The calls the collection makes. ``failing`` maps a call, or (call, index), to the text of its error."""

    gpus: list[DoubleGpu]
    failing: dict[str | tuple[str, int], str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    mask_words: dict[str, int] = field(default_factory=dict)

    def _enter(self, call: str, index: int | None = None) -> None:
        self.calls.append(call)
        text = self.failing.get(call) or (None if index is None else self.failing.get((call, index)))
        if text:
            raise NVMLError(text)

    def nvmlInit(self) -> None:
        self._enter("nvmlInit")

    def nvmlShutdown(self) -> None:
        self._enter("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:
        self._enter("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._enter("nvmlDeviceGetHandleByIndex", index)
        return index

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        self._enter("nvmlDeviceGetPciInfo", handle)
        return SimpleNamespace(busId=self.gpus[handle].bus_id)

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        self._enter("nvmlDeviceGetUUID", handle)
        return self.gpus[handle].uuid

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        self._enter("nvmlDeviceGetName", handle)
        return self.gpus[handle].name

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        self._enter("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(total=self.gpus[handle].memory_bytes, free=0, used=0)

    def nvmlDeviceGetMemoryAffinity(self, handle: int, words: int, scope: int) -> t.Any:
        self._enter("nvmlDeviceGetMemoryAffinity", handle)
        if scope != 0:
            raise NVMLError(f"scope {scope} is not NVML_AFFINITY_SCOPE_NODE")
        return self._mask("node", self.gpus[handle].near_nodes, words)

    def nvmlDeviceGetCpuAffinity(self, handle: int, words: int) -> t.Any:
        self._enter("nvmlDeviceGetCpuAffinity", handle)
        return self._mask("cpu", self.gpus[handle].near_cpus, words)

    def _mask(self, kind: str, ids: frozenset[int], words: int) -> t.Any:
        self.mask_words[kind] = words
        # The real binding hands out a ctypes array, and the driver cuts off what does not fit.
        return (ctypes.c_ulonglong * words)(*(sum(1 << (i % 64) for i in ids if i // 64 == w) for w in range(words)))


def eight_gpus_double() -> NvmlDouble:
    """NVML on the machine of ``trees.eight_gpus``; it knows the node of the last one too."""
    buses = ["17", "2A", "3D", "60", "97", "AA", "BD", "E0"]
    uuid = "GPU-0000000{}-1111-2222-3333-444444444444"
    nodes = [frozenset({0})] * 4 + [frozenset({1})] * 4
    return NvmlDouble(
        [DoubleGpu(f"00000000:{bus}:00.0", uuid.format(i), near_nodes=nodes[i]) for i, bus in enumerate(buses)]
    )
