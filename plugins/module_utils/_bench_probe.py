# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What is measured inside one process: memory, a loop of torch.nn.Linear, copies to and from a GPU.

Runs on the host with the Python of the vLLM that is installed there, as a file of its own; it is bound from outside.
Prints one JSON object. numba, which vLLM depends on, compiles the chase of pointers; STREAM's triad is torch's.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import typing as t
from importlib import import_module

MIB = 2**20


def main(arguments: t.Sequence[str]) -> int:
    """Run the measurement that the first argument names with the numbers that follow."""
    measure: dict[str, t.Callable[..., dict[str, t.Any]]] = {"memory": memory, "linear": linear, "gpu": gpu}
    found = measure[arguments[0]](*(int(number) for number in arguments[1:]))
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


def threads() -> int:
    """As many as CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def memory(buffer_mib: int) -> dict[str, t.Any]:
    """Bandwidth of all CPUs (STREAM's triad) and latency of one dependent load."""
    return {"gib_per_second": triad(buffer_mib), **latency(buffer_mib)}


def triad(buffer_mib: int) -> float:
    """GiB/s of a = b + s * c, three buffers; the median of nine passes."""
    torch = import_module("torch")
    torch.set_num_threads(threads())
    a, b, c = (torch.ones(buffer_mib * MIB // 8, dtype=torch.float64) for _name in "abc")
    seconds = timed(lambda: torch.add(b, c, alpha=3.0, out=a), passes=9)
    return round(3 * buffer_mib / 1024 / seconds, 3)


def latency(buffer_mib: int) -> dict[str, t.Any]:
    """Nanoseconds from one load to the next that needs its answer, along a random cycle through the buffer."""
    try:
        numba = import_module("numba")
        numpy = import_module("numpy")
    except ImportError as error:
        return {"nanoseconds": None, "why": f"no latency: {error}"}
    line = 8  # a step for every cache line of 64 bytes, so that none answers twice
    count = buffer_mib * MIB // 64
    order = numpy.random.default_rng(1).permutation(count).astype(numpy.int64) * line
    cycle = numpy.zeros(count * line, dtype=numpy.int64)
    cycle[order] = numpy.roll(order, -1)

    def walk(cycle: t.Any, steps: int) -> int:
        at = 0
        for _step in range(steps):
            at = cycle[at]
        return at

    chase = numba.njit(walk)
    steps = min(count, 2_000_000)
    chase(cycle, 10)
    return {"nanoseconds": round(timed(lambda: chase(cycle, steps), passes=5) / steps * 1e9, 2)}


def linear(size: int, seconds: int, wanted_threads: int) -> dict[str, t.Any]:
    """Milliseconds of one pass of torch.nn.Linear, the median of as many as fit into ``seconds``."""
    torch = import_module("torch")
    torch.set_num_threads(wanted_threads)
    torch.manual_seed(0)
    layer = torch.nn.Linear(size, size)
    given = torch.randn(64, size)
    passes: list[float] = []
    with torch.inference_mode():
        for _warm_up in range(5):
            layer(given)
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(passes) < 5:
            started = time.perf_counter()
            layer(given)
            passes.append(time.perf_counter() - started)
    return {"milliseconds": round(statistics.median(passes) * 1e3, 5), "passes": len(passes)}


def gpu(buffer_mib: int) -> dict[str, t.Any]:
    """GiB/s of copies between pinned host memory and the one visible GPU."""
    torch = import_module("torch")
    if not torch.cuda.is_available():
        return {"to_gpu_gib_per_second": None, "why": "torch sees no GPU"}
    host = torch.ones(buffer_mib * MIB, dtype=torch.uint8).pin_memory()
    device = torch.empty_like(host, device="cuda")

    def copy(to: t.Any, source: t.Any) -> None:
        to.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    there = timed(lambda: copy(device, host), passes=9)
    back = timed(lambda: copy(host, device), passes=9)
    return {
        "to_gpu_gib_per_second": round(buffer_mib / 1024 / there, 3),
        "from_gpu_gib_per_second": round(buffer_mib / 1024 / back, 3),
    }


def timed(work: t.Callable[[], t.Any], passes: int) -> float:
    """Seconds of ``work``, the median of ``passes`` after two to warm up."""
    work()
    work()
    found = []
    for _number in range(passes):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
