# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Which GPUs the processes of this host really hold, as far as somebody who knows says so.

What can be relied on, in this order:

1. Compute processes. NVML, else nvidia-smi, lists the processes with a context on each GPU; for AMD's, KFD says how
   much of each GPU's memory a process has. Who is not listed does not compute there.
2. Open device files, ``/proc/PID/fd``. A context needs ``/dev/nvidiaN`` open (for AMD ``/dev/dri/renderD*``), so a
   process without it has none. The other way round they prove nothing: whoever asks NVML opens the files of all GPUs,
   and the CUDA driver opens more than ``CUDA_VISIBLE_DEVICES`` names.

Sources: nvml.h (nvmlDeviceGetComputeRunningProcesses); /proc/driver/nvidia/gpus/ADDRESS/information ("Device Minor");
drivers/gpu/drm/amd/amdkfd/kfd_process.c (``/sys/class/kfd/kfd/proc/PID/vram_GPUID``) and kfd_topology.c
(``location_id`` is the PCI bus in bits 8-15, device and function below; ``domain``).
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import NVIDIA_SMI, NVML
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._kernel import container_of

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import GpuUsers
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

KFD, HANDLES = "kfd", "handles"
SAID_BY = {NVML: "NVML", NVIDIA_SMI: "nvidia-smi", KFD: "the kernel (KFD)", HANDLES: "open device files"}

_NVIDIA_GPUS = "/proc/driver/nvidia/gpus"
_KFD_PROCESSES = "/sys/class/kfd/kfd/proc"
_KFD_NODES = "/sys/class/kfd/kfd/topology/nodes"
_INFORMATION = re.compile(r"^(GPU UUID|Device Minor):[ \t]+(\S+)[ \t]*$", re.MULTILINE)
_UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Held(t.NamedTuple):
    """What processes hold, as ``by_gpu``: GPU (UUID of a GPU or MIG device, else PCI address) to their pids.

    ``missing`` are planned GPUs that none of them holds, ``unplanned`` are held and not planned; ``unknown`` are
    planned ones of which nobody says it. ``source`` is who was asked: nvml, nvidia_smi, kfd, handles, or ``None``.
    """

    source: str | None
    by_gpu: dict[str, list[int]]
    missing: list[str]
    unplanned: list[str]
    unknown: list[str]
    unknown_because: str | None


class GpuUse:
    """The GPUs of this host and who computes on them, read once for all instances. Raises nothing."""

    def __init__(self, host: Host, sources: GpuSources) -> None:
        self._host = host
        self.warnings: tuple[str, ...] = ()
        self._address: dict[str, str] = {}  # by UUID, address and MIG UUID in small letters: what it is kept as below
        self._names: dict[str, str] = {}  # as people know it
        self._files: dict[str, str] = {}  # device file -> GPU
        self._users: dict[str, set[int]] = {}  # GPUs whose compute processes are known
        self._sources: dict[str, str] = {}
        self._read_driver()
        self._read_kfd()
        if sources != GpuSources():
            # Loaded only where somebody can be asked.
            from ansible_collections.numapin.inference.plugins.module_utils._gpu_asking import ask_users

            source, users, self.warnings = ask_users(sources)
            if source is not None and self._are_our_pids(source, users):
                self._add_users(source, users)

    def _know(self, key: str, name: str, *aliases: str) -> None:
        self._names[key] = name
        self._address.update((alias.lower(), key) for alias in (key, name, *aliases))

    def _read_driver(self) -> None:
        for address in self._host.list_dir(_NVIDIA_GPUS) or ():
            said = dict(_INFORMATION.findall(self._host.read_text(f"{_NVIDIA_GPUS}/{address}/information") or ""))
            # The driver shows question marks until something has opened the GPU for the first time.
            uuid = said.get("GPU UUID", "")
            self._know(address, uuid if _UUID.fullmatch(uuid) else address)
            if said.get("Device Minor", "").isdecimal():
                self._files[f"/dev/nvidia{said['Device Minor']}"] = address

    def _are_our_pids(self, source: str, users: t.Mapping[str, GpuUsers]) -> bool:
        """Whether the driver's pids are those of this pid namespace; in a container it often lists none at all."""
        pids = {
            pid
            for one in users.values()
            for pid in (*one.pids, *(p for found in one.by_mig_device.values() for p in found))
        }
        if any(self._host.exists(f"/proc/{pid}") for pid in pids):
            return True
        if not pids and container_of(self._host) in (None, "none"):
            return True
        self.warnings += (f"{SAID_BY[source]} lists no process of this pid namespace: run the proof on the host",)
        return False

    def _add_users(self, source: str, users: t.Mapping[str, GpuUsers]) -> None:
        for address, found in users.items():
            self._know(address, found.uuid or self._names.get(address, address))
            devices = {uuid.lower(): pids for uuid, pids in found.by_mig_device.items()}
            for uuid in found.by_mig_device:
                self._know(uuid.lower(), uuid)
            for key, pids in {address: found.pids, **devices}.items():
                self._users[key] = set(pids)
                self._sources[key] = source

    def _read_kfd(self) -> None:
        if not self._host.exists(_KFD_PROCESSES):
            return
        by_id: dict[str, str] = {}
        for node in self._host.list_dir(_KFD_NODES) or ():
            number = self._host.read_int(f"{_KFD_NODES}/{node}/gpu_id")
            lines = (self._host.read_text(f"{_KFD_NODES}/{node}/properties") or "").splitlines()
            said = dict(line.split(" ", 1) for line in lines if " " in line)
            # A node of CPUs has number 0.
            if not number or not said.get("location_id", "").isdecimal():
                continue
            location, domain = int(said["location_id"]), int(said.get("domain", "0"))
            address = f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"
            by_id[str(number)] = address
            self._know(address, address)
            self._users[address] = set()
            self._sources[address] = KFD
            minor = said.get("drm_render_minor", "")
            if minor.isdecimal():
                self._files[f"/dev/dri/renderD{minor}"] = address
        for pid in self._host.list_dir(_KFD_PROCESSES) or ():
            for gpu_id, address in by_id.items():
                if (self._host.read_int(f"{_KFD_PROCESSES}/{pid}/vram_{gpu_id}") or 0) > 0 and pid.isdecimal():
                    self._users[address].add(int(pid))

    # Held against a plan

    def held(self, planned: t.Sequence[str], pids: t.Collection[int]) -> Held:
        """Hold what ``pids`` hold against the planned GPUs (UUIDs, or PCI addresses of GPUs without one)."""
        keys = {self._address.get(gpu.lower(), gpu): gpu for gpu in planned}
        by_gpu = {gpu: sorted(users & set(pids)) for gpu, users in self._users.items() if users & set(pids)}
        missing = [gpu for key, gpu in keys.items() if key in self._users and key not in by_gpu]
        without_users = [key for key in keys if key not in self._users]
        unknown, because = [keys[key] for key in without_users], None
        if without_users:
            opened, because = self._opened(pids)
            by_file = set(self._files.values())
            if opened is not None and by_file >= set(without_users):
                unknown = []
                missing += [keys[key] for key in without_users if key not in opened]
                by_gpu.update({key: opened[key] for key in without_users if key in opened})
            elif because is None:
                because = "; ".join(self.warnings) or "nobody on this host knows these GPUs"
        sources = {self._sources.get(key, HANDLES) for key in (*keys, *by_gpu) if keys.get(key) not in unknown}
        return Held(
            source=min(sources, key=list(SAID_BY).index) if sources else None,
            by_gpu={keys.get(key, self._names.get(key, key)): users for key, users in by_gpu.items()},
            missing=missing,
            unplanned=[self._names.get(key, key) for key in by_gpu if key not in keys],
            unknown=unknown,
            unknown_because=because if unknown else None,
        )

    def _opened(self, pids: t.Iterable[int]) -> tuple[dict[str, list[int]] | None, str | None]:
        """Return who has which GPU's device file open, or why that cannot be read."""
        opened: dict[str, list[int]] = {}
        for pid in sorted(pids):
            names = self._host.list_dir(f"/proc/{pid}/fd")
            if names is None:
                if self._host.exists(f"/proc/{pid}/stat"):
                    return None, f"/proc/{pid}/fd cannot be read: that needs root and, in a container, CAP_SYS_PTRACE"
                continue
            targets = {self._host.readlink(f"/proc/{pid}/fd/{name}") for name in names}
            for gpu in {self._files[target] for target in targets if target in self._files}:
                opened.setdefault(gpu, []).append(pid)
        return opened, None


def read_gpu_use(host: Host, sources: GpuSources, *, wanted: bool) -> GpuUse | None:
    """Return who uses the GPUs; ``None`` where none is ``wanted`` by a plan and no driver of GPUs is loaded."""
    if not wanted and not host.exists(_NVIDIA_GPUS) and not host.exists(_KFD_PROCESSES):
        return None
    return GpuUse(host, sources)
