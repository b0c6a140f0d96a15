# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""NVIDIA's management library (NVML), read through its Python binding ``pynvml`` into ``GpuAnswers``.

A call that fails makes its answer ``None`` and is named in a warning, once for all GPUs with the same error. "Not
Supported" from a call that many GPUs rightly do not support (MIG, NVLink, memory of its own) is an answer.

Sources: nvml.h and the module ``pynvml`` of the distribution nvidia-ml-py.
"""

from __future__ import annotations

import importlib
import itertools
import typing as t
import warnings as python_warnings

from ansible_collections.numapin.inference.plugins.module_utils._child import (
    ChildError,
    ChildTimeoutError,
    answer_of_child,
)
from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    ids_from_words,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import (
    HIGHEST_COUNT,
    NVML,
    GpuAnswer,
    GpuAnswers,
    GpuUsers,
    LinkAnswer,
    MigDevice,
    from_plain,
)
from ansible_collections.numapin.inference.plugins.module_utils._pci import normalised_pci_address

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

# nvml.h
NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED
INVALID_ARGUMENT = 2  # NVML_ERROR_INVALID_ARGUMENT
NOT_FOUND = 6  # NVML_ERROR_NOT_FOUND
AFFINITY_SCOPE_NODE = 0
MIG_ENABLED = 1  # NVML_DEVICE_MIG_ENABLE
LINK_ACTIVE = 1  # NVML_FEATURE_ENABLED
REMOTE_GPU = 0  # NVML_NVLINK_DEVICE_TYPE_GPU
REMOTE_NPU = 1  # NVML_NVLINK_DEVICE_TYPE_IBMNPU: a POWER processor
REMOTE_SWITCH = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH
REMOTE_UNKNOWN = 255  # NVML_NVLINK_DEVICE_TYPE_UNKNOWN
P2P_NVLINK = 2  # NVML_P2P_CAPS_INDEX_NVLINK
P2P_OK = 0  # NVML_P2P_STATUS_OK
P2P_UNKNOWN = 6  # NVML_P2P_STATUS_UNKNOWN, the highest
# nvmlGpuTopologyLevel_t; two GPUs on one board (INTERNAL) have its bridge between them.
TOPOLOGY_PATHS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}

_WORD_BITS = 64
# A kernel is built for at most 8192 CPUs and 1024 nodes.
_HIGHEST_ID_OF_ANY_KERNEL = 8191
# NVML_NVLINK_MAX_LINKS is 36 in 2026, and grows.
_LINK_LIMIT = 72
_MIG_LIMIT = 64
_NAMED = 8


class NvmlTimeoutError(NumapinError):
    """NVML did not answer in time; a driver that hangs also hangs nvidia-smi."""


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


def read_nvml(module: t.Any, host: Host, want_links: bool = True) -> GpuAnswers:
    """Return what NVML says; its ``source`` is ``None`` when it does not work at all. Raises nothing.

    ``module`` is ``pynvml``. ``host`` is asked for the highest ids, for which NVML's masks must have room.
    """
    return _Reader(module, host).read(want_links)


def read_nvml_within(seconds: float, module: t.Any, host: Host, want_links: bool = True) -> GpuAnswers:
    """As ``read_nvml``, in a child process: a library that hangs in the driver or crashes takes nobody along.

    Raises ``NvmlTimeoutError``.
    """
    try:
        said = answer_of_child(seconds, lambda: read_nvml(module, host, want_links).to_plain())
    except ChildTimeoutError as error:
        raise NvmlTimeoutError(
            f"NVML did not answer within {seconds:g} seconds: the NVIDIA driver or a GPU hangs (see the kernel's"
            " messages); GPUs are what sysfs says"
        ) from error
    except ChildError as error:
        return GpuAnswers(None, warnings=(f"NVML: {error}",))
    try:
        return from_plain(said)
    except NumapinError:
        return GpuAnswers(None, warnings=("NVML: the process that read it gave an answer that cannot be read",))


def read_nvml_processes(module: t.Any) -> tuple[dict[str, GpuUsers], tuple[str, ...]]:
    """Return by PCI address which processes compute on each GPU, and warnings; raises nothing.

    A process is one with a context (nvmlDeviceGetComputeRunningProcesses): a device file that is open, as NVML itself
    opens those of all GPUs, makes none. The pids are those of the pid namespace that the driver sees, the host's. A GPU
    that does not answer is left out.
    """
    calls = _Calls(module)
    users: dict[str, GpuUsers] = {}
    if calls.ask("nvmlInit", None, read=_is_answer):
        for address, handle in _handles(calls).items():
            found = _users(calls, address, handle)
            if found is not None:
                users[address] = found
        calls.ask("nvmlShutdown", None)
    return users, calls.warnings()


def _users(calls: _Calls, address: str, handle: t.Any) -> GpuUsers | None:
    call = "nvmlDeviceGetComputeRunningProcesses"
    uuid = calls.ask("nvmlDeviceGetUUID", address, handle, read=_text)
    if not calls.ask("nvmlDeviceGetMigMode", address, handle, read=_mig_mode, codes={NOT_SUPPORTED: False}):
        pids = calls.ask(call, address, handle, read=_pids)
        return None if pids is None else GpuUsers(uuid, pids, {})
    # In MIG mode a GPU's own answer is the sum of its devices', and for the privileged only.
    by_device: dict[str, tuple[int, ...]] = {}
    for device in _mig_handles(calls, address, handle):
        name = calls.ask("nvmlDeviceGetUUID", address, device, read=_text)
        pids = calls.ask(call, address, device, read=_pids)
        if name is None or pids is None:
            return None
        by_device[name] = pids
    return GpuUsers(uuid, (), by_device)


class _Links(t.NamedTuple):
    """The active NVLinks of one GPU: how many to each other GPU, to switches, and to what is no GPU of this host."""

    to_gpus: dict[str, int]
    to_switches: int
    to_others: int
    are_located: bool  # False: some lead to a GPU, and NVML does not say to which


class _Reader:
    def __init__(self, module: t.Any, host: Host) -> None:
        self._host = host
        self._calls = _Calls(module)
        self._mask_words = (
            self._words("/sys/devices/system/node/possible"),
            self._words("/sys/devices/system/cpu/possible"),
        )

    def read(self, want_links: bool) -> GpuAnswers:
        calls = self._calls
        works = False
        gpus: dict[str, GpuAnswer] = {}
        links: dict[tuple[str, str], LinkAnswer] = {}
        if calls.ask("nvmlInit", None, read=_is_answer):
            count = calls.ask("nvmlDeviceGetCount", None, read=_number)
            if count is not None:
                works = True
                handles = _handles(calls, count)
                gpus = {address: self._gpu(address, handle) for address, handle in handles.items()}
                if want_links and len(handles) > 1:
                    links = self._links(handles)
            calls.ask("nvmlShutdown", None)
        return GpuAnswers(NVML if works else None, gpus, links, calls.warnings())

    def _gpu(self, address: str, handle: t.Any) -> GpuAnswer:
        ask = self._calls.ask
        mig_enabled = ask("nvmlDeviceGetMigMode", address, handle, read=_mig_mode, codes={NOT_SUPPORTED: False})
        node_words, cpu_words = self._mask_words
        return GpuAnswer(
            uuid=ask("nvmlDeviceGetUUID", address, handle, read=_text),
            name=ask("nvmlDeviceGetName", address, handle, read=_text),
            memory_total_mib=ask("nvmlDeviceGetMemoryInfo", address, handle, read=_total_mib),
            near_nodes=ask("nvmlDeviceGetMemoryAffinity", address, handle, node_words, AFFINITY_SCOPE_NODE, read=_ids),
            near_cpus=ask("nvmlDeviceGetCpuAffinity", address, handle, cpu_words, read=_ids),
            memory_node=ask("nvmlDeviceGetNumaNodeId", address, handle, read=_node, codes={NOT_SUPPORTED: None}),
            mig_enabled=mig_enabled,
            mig_devices=self._mig_devices(address, handle) if mig_enabled else (),
        )

    def _words(self, possible_path: str) -> int:
        """Return the size of a mask for NVML: room for the highest id that may ever appear, not for their count."""
        try:
            possible = parse_cpulist(self._host.read_text(possible_path) or "")
        except CpusetError:
            possible = frozenset()
        # Without the list: room for whatever there can be.
        return max(possible, default=_HIGHEST_ID_OF_ANY_KERNEL) // _WORD_BITS + 1

    def _mig_devices(self, address: str, handle: t.Any) -> tuple[MigDevice, ...]:
        ask = self._calls.ask
        return tuple(
            MigDevice(
                uuid=ask("nvmlDeviceGetUUID", address, device, read=_text),
                name=ask("nvmlDeviceGetName", address, device, read=_text),
                memory_total_mib=ask("nvmlDeviceGetMemoryInfo", address, device, read=_total_mib),
            )
            for device in _mig_handles(self._calls, address, handle)
        )

    def _links(self, handles: t.Mapping[str, t.Any]) -> dict[tuple[str, str], LinkAnswer]:
        ends = {address: self._links_of(address, handle, handles) for address, handle in handles.items()}
        links = {}
        for first, second in itertools.combinations(handles, 2):
            pair = f"{first} with {second}"
            both = (handles[first], handles[second])
            path = self._calls.ask("nvmlDeviceGetTopologyCommonAncestor", pair, *both, read=_path)
            links[first, second] = LinkAnswer(self._between(first, second, ends, both), path)
        return links

    def _links_of(self, address: str, handle: t.Any, gpus: t.Container[str]) -> _Links | None:
        """Return where the active NVLinks of one GPU lead; ``None`` when it does not tell which are active."""
        ask = self._calls.ask
        to_gpus: dict[str, int] = {}
        to_switches = to_others = 0
        are_located = True
        for link in range(_LINK_LIMIT):
            state = ask(
                "nvmlDeviceGetNvLinkState",
                address,
                handle,
                link,
                read=_link_state,
                codes={NOT_SUPPORTED: "none", INVALID_ARGUMENT: "last"},
            )
            if state is None:
                return None
            # Above the last link is an invalid argument; a GPU without NVLink supports none.
            if state == "last" or (state == "none" and link == 0):
                break
            if state != LINK_ACTIVE:
                continue
            if to_switches:
                # A board has switches or it has not: the other links lead there too.
                to_switches += 1
                continue
            remote_type = ask("nvmlDeviceGetNvLinkRemoteDeviceType", address, handle, link, read=_remote_type)
            if remote_type == REMOTE_SWITCH:
                to_switches += 1
            elif remote_type != REMOTE_NPU:
                remote = ask("nvmlDeviceGetNvLinkRemotePciInfo", address, handle, link, read=_address_of)
                if remote is None:
                    are_located = False
                elif remote in gpus:
                    to_gpus[remote] = to_gpus.get(remote, 0) + 1
                elif remote_type != REMOTE_GPU:
                    to_others += 1
        return _Links(to_gpus, to_switches, to_others, are_located)

    def _between(
        self, first: str, second: str, ends: t.Mapping[str, _Links | None], handles: tuple[t.Any, t.Any]
    ) -> int | None:
        """Return the number of active NVLinks between two GPUs, as ``nvidia-smi topo -m`` counts them."""
        known = [
            (links, peer)
            for links, peer in ((ends[first], second), (ends[second], first))
            if links is not None and links.are_located
        ]
        direct = [links.to_gpus.get(peer, 0) for links, peer in known]
        if any(direct):
            # A link has two ends, and is there when both say so.
            return min(direct)
        shared = [links.to_switches + links.to_others for links, _peer in known]
        if not all(shared):
            return 0
        if len(known) < 2:
            return None
        # Machines with several boards have switches that do not reach one another.
        pair = f"{first} with {second}"
        status = self._calls.ask("nvmlDeviceGetP2PStatus", pair, *handles, P2P_NVLINK, read=_p2p_status)
        if status in (None, P2P_UNKNOWN):
            return min(links.to_switches for links, _peer in known) or None
        return min(shared) if status == P2P_OK else 0


class _Calls:
    """Calls into NVML that cannot raise; the same error of several GPUs becomes one warning."""

    def __init__(self, module: t.Any) -> None:
        self._module = module
        self._errors: dict[tuple[str, str], list[str]] = {}

    def ask(
        self,
        call: str,
        gpu: str | None,
        *arguments: t.Any,
        read: t.Callable[[t.Any], t.Any] | None = None,
        codes: t.Mapping[int, t.Any] | None = None,
    ) -> t.Any:
        """Return what ``call`` answers, as ``read`` reads it; ``None`` when that fails. ``gpu`` is for the warning.

        ``codes`` are NVML's error codes that are answers, and what they mean.
        """
        try:
            answer = getattr(self._module, call)(*arguments)
            return read(answer) if read else answer
        except Exception as error:
            # Not NVMLError alone: older bindings lack calls (AttributeError) and stumble over answers.
            code = getattr(error, "value", None)
            if codes and isinstance(code, int) and code in codes:
                return codes[code]
            gpus = self._errors.setdefault((call, _said(error)), [])
            if gpu is not None:
                gpus.append(gpu)
            return None

    def warnings(self) -> tuple[str, ...]:
        return tuple(
            f"NVML: {call}: {text}" + (f" (GPU {_named(gpus)})" if gpus else "")
            for (call, text), gpus in self._errors.items()
        )


def _handles(calls: _Calls, count: int | None = None) -> dict[str, t.Any]:
    """Return the handles of the GPUs by address; ``count`` is asked for where it is not given."""
    if count is None:
        count = calls.ask("nvmlDeviceGetCount", None, read=_number) or 0
    handles: dict[str, t.Any] = {}
    for index in range(min(count, HIGHEST_COUNT)):
        handle = calls.ask("nvmlDeviceGetHandleByIndex", f"number {index}", index)
        if handle is None:
            continue
        address = calls.ask("nvmlDeviceGetPciInfo", f"number {index}", handle, read=_address_of)
        if address is not None:
            handles.setdefault(address, handle)
    return dict(sorted(handles.items()))


def _mig_handles(calls: _Calls, address: str, handle: t.Any) -> list[t.Any]:
    slots = calls.ask("nvmlDeviceGetMaxMigDeviceCount", address, handle, read=_number) or 0
    call = "nvmlDeviceGetMigDeviceHandleByIndex"
    # A slot without a device is "Not Found".
    found = [
        calls.ask(call, address, handle, index, codes={NOT_FOUND: None}) for index in range(min(slots, _MIG_LIMIT))
    ]
    return [device for device in found if device is not None]


def _said(error: Exception) -> str:
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:
        # The text of an NVML error comes from the library, which may be what is broken.
        text = ""
    return text or type(error).__name__


def _named(gpus: t.Sequence[str]) -> str:
    different = list(dict.fromkeys(gpus))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    return ", ".join(different[:_NAMED]) + more


def _is_answer(_nothing: t.Any) -> bool:
    return True


def _number(value: t.Any) -> int:
    # No count of anything, and no size in bytes, is larger.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    raise ValueError(f"the answer is {value!r:.60}, which is not a count or a code")


def _pids(processes: t.Iterable[t.Any]) -> tuple[int, ...]:
    return tuple(sorted({_number(process.pid) for process in processes}))


def _node(value: t.Any) -> int | None:
    # -1 is a GPU whose memory is not a node.
    return None if value == -1 else _number(value)


def _mig_mode(value: t.Any) -> bool:
    current, _pending = value
    return _one_of((0, MIG_ENABLED), current) == MIG_ENABLED


def _link_state(value: t.Any) -> int:
    return _one_of((0, LINK_ACTIVE), value)


def _remote_type(value: t.Any) -> int:
    return _one_of((REMOTE_GPU, REMOTE_NPU, REMOTE_SWITCH, REMOTE_UNKNOWN), value)


def _p2p_status(value: t.Any) -> int:
    return _one_of(range(P2P_UNKNOWN + 1), value)


def _one_of(allowed: t.Container[int], value: t.Any) -> int:
    if _number(value) not in allowed:
        raise ValueError(f"the answer is {value}, which means nothing")
    return int(value)


def _path(level: t.Any) -> str:
    if _number(level) not in TOPOLOGY_PATHS:
        raise ValueError(f"the answer is {level}, which is not a level of nvmlGpuTopologyLevel_t")
    return TOPOLOGY_PATHS[level]


def _ids(words: t.Iterable[int]) -> str:
    # Masks are unsigned words, of which every bit counts.
    return format_cpulist(ids_from_words(_word(word) for word in words))


def _word(value: t.Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << _WORD_BITS:
        return value
    raise ValueError(f"the answer holds {value!r:.60}, which is not a word of {_WORD_BITS} bits")


def _address_of(pci_info: t.Any) -> str:
    said = _text(pci_info.busId)
    address = normalised_pci_address(said)
    if address is None:
        raise ValueError(f"{said!r:.60} is not a PCI address")
    return address


def _total_mib(memory_info: t.Any) -> int | None:
    return _number(memory_info.total) // (1024 * 1024) or None


def _text(value: t.Any) -> str:
    # Bindings before 11.5 return bytes.
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the answer is {value!r:.60}, which is not a text")
    return text.strip()[:200]
