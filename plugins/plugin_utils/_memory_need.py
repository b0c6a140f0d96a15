# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""How much host memory an instance needs, as far as that is said or can be measured; nothing is guessed.

``memory_mib`` of the model is the whole of it. Without that, what vLLM is told to take counts, and on the CPU the
weights, which stay in host memory there (on a GPU they only pass through the page cache):

* ``--kv-offloading-size``: GiB in all; ``--cpu-offload-gb`` and ``--swap-space``: GiB for each GPU.
* ``--kv-cache-memory-bytes`` or ``VLLM_CPU_KVCACHE_SPACE`` (GiB): the KV cache of each worker, on the CPU.
"""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._models import Model

_GIB = 1024
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmgtKMGT]?)")


def memory_need(model: Model, device: str, workers: int, weights_mib: int | None) -> tuple[int | None, str]:
    """MiB one instance needs at least, ``None`` when nothing is known, and what that is made of.

    ``workers``: GPUs, or processes on the CPU; ``weights_mib``: size of the model's files where it was measured.
    """
    if model.memory_mib is not None:
        return model.memory_mib, "`memory_mib`"
    parts: list[tuple[str, float]] = []
    if device == "gpu":
        for option, times in (("kv-offloading-size", 1), ("cpu-offload-gb", workers), ("swap-space", workers)):
            size = _number(model.arguments.get(option))
            if size:
                parts.append((f"`{option}`", size * times * _GIB))
    else:
        if weights_mib:
            parts.append(("weights", weights_mib))
        cache = _bytes_mib(model.arguments.get("kv-cache-memory-bytes"))
        if cache:
            parts.append(("`kv-cache-memory-bytes`", cache * workers))
        else:
            space = _number(model.environment.get("VLLM_CPU_KVCACHE_SPACE"))
            if space:
                parts.append(("`VLLM_CPU_KVCACHE_SPACE`", space * workers * _GIB))
    if not parts:
        return None, ""
    return math.ceil(sum(mib for _name, mib in parts)), " + ".join(f"{name} {math.ceil(mib)}" for name, mib in parts)


def _number(value: t.Any) -> float:
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def _bytes_mib(value: t.Any) -> float:
    """vLLM's own spelling of sizes: ``1k`` is 1000, ``1K`` is 1024."""
    match = _BYTES.fullmatch(str(value).strip())
    return float(match[1]) * _UNITS[match[2]] / 2**20 if match and not isinstance(value, bool) else 0.0
