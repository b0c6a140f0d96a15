# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``--numa-bind``: each worker on the CPUs and the memory node that it is told.

vLLM starts a worker through numactl, the double's worker asks the kernel itself for the same. It never finds a GPU's
node by itself: ``--numa-bind-nodes`` has to say it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vllm.double.options import Options

_MPOL_BIND = 2
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_MOST_NODES = 64


class Binding:
    """Node, and CPUs where they are said, of each worker; no nodes when nothing is to be bound."""

    def __init__(self, nodes: list[int], cpus: list[str]) -> None:
        self.nodes = nodes
        self.cpus = cpus

    @classmethod
    def of(cls, options: Options, workers: int) -> Binding:
        """Raises ValueError and RuntimeError with vLLM's words."""
        nodes, cpus = options.texts("numa-bind-nodes"), options.texts("numa-bind-cpus")
        if not options.flag("numa-bind"):
            if nodes or cpus:
                raise ValueError("numa_bind_nodes and numa_bind_cpus require numa_bind=True.")
            return cls([], [])
        if workers == 1:
            return cls([], [])
        if not nodes:
            raise RuntimeError(
                "NUMA binding was requested, but vLLM could not detect the GPU-to-NUMA topology automatically. Pass"
                " --numa-bind-nodes explicitly or disable --numa-bind."
            )
        for name, given in (("numa_bind_nodes", nodes), ("numa_bind_cpus", cpus)):
            if given and len(given) < workers:
                raise ValueError(
                    f"GPU index {len(given)} exceeds {name} size {len(given)}. Ensure the binding lists cover every"
                    " visible GPU."
                )
        return cls([int(node) for node in nodes], cpus)

    def take(self, rank: int) -> None:
        """Bind this process, which has one thread so far."""
        if not self.nodes:
            return
        node = self.nodes[rank]
        os.sched_setaffinity(0, cpus_in(self.cpus[rank] if self.cpus else _cpus_of(node)))
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        mask = ctypes.c_ulong(1 << node)
        number = _SET_MEMPOLICY[os.uname().machine]
        if libc.syscall(number, _MPOL_BIND, ctypes.byref(mask), ctypes.c_ulong(_MOST_NODES + 1)):
            raise OSError(ctypes.get_errno(), f"set_mempolicy: {os.strerror(ctypes.get_errno())}")


def cpus_in(text: str) -> list[int]:
    """The CPUs of a list such as ``0-3,8``."""
    cpus: list[int] = []
    for part in text.split(","):
        first, _dash, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _cpus_of(node: int) -> str:
    with open(f"/sys/devices/system/node/node{node}/cpulist", encoding="ascii") as handle:
        return handle.read().strip()
