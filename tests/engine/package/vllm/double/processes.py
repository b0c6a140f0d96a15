# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vLLM is several processes: the API server starts EngineCore, EngineCore one worker per rank. So is the double.

The children hold memory and threads, so that their placement can be proved; the answers are the API server's work. Each
child ends when its parent's end of a pipe is closed, however the parent ended: vLLM's workers do so, its EngineCore
does not (after ``kill -9`` of the API server it is systemd that ends it).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from vllm.double.log import log, write
from vllm.double.numa import Binding, cpus_in
from vllm.double.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import typing as t

# Threads that only wait, as most of vLLM's 22 do.
_IDLE_THREADS = 3
_THREADS_OF_UNBOUND_WORKER = 4
_READY = b"ready"
# linux/mman.h, from Linux 5.14 on; the module mmap does not name it.
_MADV_POPULATE_WRITE = 23
_STOP_SECONDS = 10.0
# Set in EngineCore from when its workers end because it told them to.
_STOPPING = threading.Event()
_TRACEBACK = """EngineCore failed to start.
Traceback (most recent call last):
  File "vllm/v1/engine/core.py", line 1485, in run_engine_core
    engine_core = EngineCoreProc(*args, engine_index=dp_rank, **kwargs)
  File "vllm/v1/engine/core.py", line 251, in __init__
    num_gpu_blocks, num_cpu_blocks, kv_cache_config = self._initialize_kv_caches(vllm_config)
ValueError: {message}"""


class StartError(RuntimeError):
    """EngineCore ended before it was ready."""


class Ranks:
    """How many workers there are, what each is called, and where each is bound."""

    def __init__(self, tensor_parallel_size: int, pipeline_parallel_size: int) -> None:
        self.tensor, self.pipeline = max(tensor_parallel_size, 1), max(pipeline_parallel_size, 1)
        self.binding = Binding([], [])

    def names(self) -> list[str]:
        names = []
        for pp in range(self.pipeline):
            for tp in range(self.tensor):
                parts = [f"PP{pp}"] if self.pipeline > 1 else []
                parts += [f"TP{tp}"] if self.tensor > 1 else []
                names.append("_".join(["Worker", *parts]))
        return names


class EngineProcess:
    """EngineCore as the API server sees it."""

    def __init__(self, pid: int, lifeline: int, ready: int) -> None:
        self.pid = pid
        self._lifeline = lifeline
        self._ready = ready
        self.gone = False

    def wait_until_ready(self) -> None:
        """Return when all workers have their memory; StartError when EngineCore has ended instead."""
        said = os.read(self._ready, 64)
        os.close(self._ready)
        if said != _READY:
            status = self.collect(block=True)
            raise StartError(
                "Engine core initialization failed. See root cause above. Failed core proc(s): "
                f"{{'EngineCore': {os.waitstatus_to_exitcode(status or 0)}}}"
            )

    def collect(self, block: bool = False) -> int | None:
        """The exit status once it has ended."""
        if self.gone:
            return None
        pid, status = os.waitpid(self.pid, 0 if block else os.WNOHANG)
        if pid == 0:
            return None
        self.gone = True
        return status

    def stop(self) -> None:
        """End it and its workers, and wait until they are gone."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        end = time.monotonic() + _STOP_SECONDS
        while not self.gone and time.monotonic() < end:
            if self.collect() is None and not self.gone:
                time.sleep(0.005)
        if not self.gone:
            os.kill(self.pid, signal.SIGKILL)
            self.collect(block=True)


def start(settings: Settings, ranks: Ranks, to_close: list[int]) -> EngineProcess:
    """Fork EngineCore, before this process has threads. ``to_close``: descriptors the children must not keep."""
    pid, lifeline, ready = _fork(lambda tie, tell: _engine_core(settings, ranks, tie, tell), to_close)
    return EngineProcess(pid, lifeline, ready)


def _fork(child: t.Callable[[int, int], None], to_close: list[int]) -> tuple[int, int, int]:
    """Fork; ``child`` gets the ends of its lifeline and of the pipe it says ready on, and never returns here."""
    tie, lifeline = os.pipe()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tie)
        os.close(tell)
        return pid, lifeline, ready
    status = 1
    try:
        for descriptor in (lifeline, ready, *to_close):
            os.close(descriptor)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # An interrupt at the terminal reaches all; the API server decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child(tie, tell)
        status = 0
    except BaseException as error:
        write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(status)


def _engine_core(settings: Settings, ranks: Ranks, tie: int, tell: int) -> None:
    set_title("EngineCore")
    names = ranks.names()
    masks = _masks(settings.omp_threads_bind, len(names))
    if settings.fault == "fail-at-start":
        log("EngineCore", "ERROR", "core.py:1510", _TRACEBACK.format(message=settings.fault_message))
        os._exit(1)
    workers: dict[int, tuple[str, int, int]] = {}
    for rank, (name, mask) in enumerate(zip(names, masks)):
        # What keeps one worker alive is none of the next one's business.
        others = [end for _name, lifeline, ready in workers.values() for end in (lifeline, ready)]
        pid, lifeline, ready = _fork(
            # mypy cannot infer a lambda that binds a loop's name by its default.
            lambda worker_tie, worker_tell, rank=rank, name=name, mask=mask: _worker(  # type: ignore[misc]
                name, settings, ranks.binding, rank, mask, worker_tie, worker_tell
            ),
            [tie, tell, *others],
        )
        workers[pid] = (name, lifeline, ready)
    for name, _lifeline, ready in workers.values():
        if os.read(ready, 64) != _READY:
            raise StartError(f"{name} failed to start")
        os.close(ready)
    _end_with(tie, lambda: _end_workers(list(workers)))
    _idle(_IDLE_THREADS)
    if settings.fault == "hang-at-start":
        signal.pause()
    os.write(tell, _READY)
    pid, _status = os.wait()
    if _STOPPING.is_set():
        _wait_for_ever()
    log(
        "EngineCore",
        "ERROR",
        "multiproc_executor.py:273",
        f"{workers[pid][0]} died unexpectedly, shutting down executor.",
    )
    log("EngineCore", "ERROR", "core.py:1512", "EngineCore encountered a fatal error.")
    os._exit(1)


def _worker(
    name: str, settings: Settings, binding: Binding, rank: int, cpus: list[int] | None, tie: int, tell: int
) -> None:
    set_title(name)
    binding.take(rank)
    memory = touched(settings.worker_memory_mib)
    _end_with(tie)
    _idle(_IDLE_THREADS)
    if cpus is None:
        _idle(_THREADS_OF_UNBOUND_WORKER)
    for cpu in cpus or []:
        threading.Thread(target=_bound_thread, args=(cpu,), daemon=True).start()
    os.write(tell, _READY)
    while memory:
        signal.pause()


def touched(mib: int) -> mmap.mmap:
    """Anonymous private memory, every page of it written to, so that it lies where the memory policy puts it."""
    import mmap

    size = max(mib, 1) * 2**20
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # As PyTorch does with THP_MEM_ALLOC_ENABLE; a kernel without huge pages refuses.
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    try:
        # An older kernel refuses, and is made to do it page by page.
        memory.madvise(_MADV_POPULATE_WRITE)
    except OSError:
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1
    return memory


def _masks(text: str, workers: int) -> list[list[int] | None]:
    """One list of CPUs per worker from VLLM_CPU_OMP_THREADS_BIND, such as ``0-3|4-7``; None leaves a worker unbound."""
    if text in ("auto", "nobind"):
        return [None] * workers
    lists = text.split("|")
    if len(lists) != workers:
        raise StartError(
            f"AssertionError: Given number of CPU id list {lists} doesn't match local world size {workers}."
        )
    return [cpus_in(part) for part in lists]


def _bound_thread(cpu: int) -> None:
    """An OpenMP thread: it stays on its CPU. One that is not allowed there stays where it may be, as libgomp's does."""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:
        write(f"libgomp: CPU {cpu} is not to be had: {error.strerror}\n")
    _wait_for_ever()


def _idle(count: int) -> None:
    for _number in range(count):
        threading.Thread(target=_wait_for_ever, daemon=True).start()


def _wait_for_ever() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _end_workers(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        with contextlib.suppress(ChildProcessError):  # the main thread was told of that one
            os.waitpid(pid, 0)


def _end_with(tie: int, last: t.Callable[[], None] | None = None) -> None:
    """End this process, with ``last`` before, when the other end of ``tie`` is closed."""

    def watch() -> None:
        while os.read(tie, 1):
            pass
        if last is not None:
            _STOPPING.set()
            last()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def set_title(name: str) -> None:
    """Name this process VLLM::NAME in ``ps`` (command line) and ``top`` (comm), as setproctitle does for vLLM."""
    title = f"VLLM::{name}".encode()
    try:
        with open("/proc/self/comm", "wb") as handle:
            handle.write(title[:15])
        with open("/proc/self/stat", "rb") as handle:
            # Fields 48 and 49 of proc(5): where the command line lies. The second field may hold anything, in brackets.
            fields = handle.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(title[: end - start - 1].ljust(end - start, b"\0"))
    except OSError:  # a title is for people
        pass
