# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Whether a Linux host has GPUs, and whom to ask about them: all that a run on a host without any has to load."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._gpu_answers import GpuAnswers
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._nvidia_smi import Ask
    from ansible_collections.numapin.inference.plugins.module_utils._pci import PciDevice, PciTree

NVIDIA = "nvidia"
AMD = "amd"
INTEL = "intel"
_VENDORS = {0x10DE: NVIDIA, 0x1002: AMD, 0x8086: INTEL}
# PCI classes (base class and subclass): 0300 VGA, 0302 3D controller, 0380 other display, 1200 processing accelerator.
# VGA counts for NVIDIA only: with the others it is the console's adapter or an integrated GPU. Intel's accelerators are
# NPUs (intel_vpu) and FPGAs, its GPUs for servers are display controllers.
_CLASSES = {NVIDIA: (0x0300, 0x0302, 0x1200), AMD: (0x0302, 0x0380, 0x1200), INTEL: (0x0380,)}
_DISPLAY = 0x0380
# First byte of the PCI ids of AMD's processors with graphics (drivers/gpu/drm/amd/amdgpu/amdgpu_drv.c).
_AMD_INTEGRATED = frozenset({0x13, 0x15, 0x16, 0x96, 0x98, 0x99})
# Where Intel's integrated graphics always are.
_INTEL_INTEGRATED = "0000:00:02."
# Drivers that keep a device for virtual machines or for nobody; vfio-pci has variants such as nvgrace_gpu_vfio_pci.
_KEEPERS = frozenset({"pci-stub", "pciback", "xen-pciback"})
# How WSL hands out GPUs: not as PCI devices, and NVIDIA's driver is the one of Windows.
_WSL_GPUS = "/dev/dxg"


class GpuSources(t.NamedTuple):
    """Whom to ask about GPUs beside sysfs. ``recorded`` are answers of a capture: then nobody else is asked.

    ``nvml`` returns a module like ``pynvml`` or raises ``ImportError``. ``nvidia_smi`` takes arguments, returns the
    standard output and raises ``NumapinError``. With ``nvml_timeout_seconds`` NVML is asked in a child process.
    ``this_machine`` stands for the running machine's own, which are looked for only where there is a GPU to ask about.
    """

    nvml: t.Callable[[], t.Any] | None = None
    nvidia_smi: Ask | None = None
    recorded: GpuAnswers | None = None
    nvml_timeout_seconds: float | None = None
    this_machine: bool = False


def gpu_devices(pci: PciTree) -> list[tuple[PciDevice, str]]:
    """Return the devices that are GPUs by class and vendor, with the vendor's name; no integrated graphics."""
    found = []
    # The class first: most devices need no second read.
    for device in pci.devices(lambda pci_class: pci_class >> 16 in (0x03, 0x12)):
        vendor = _VENDORS.get(device.vendor or 0)
        if vendor is not None and device.pci_class >> 8 in _CLASSES[vendor] and not _is_integrated(device, vendor):
            found.append((device, vendor))
    return found


def _is_integrated(device: PciDevice, vendor: str) -> bool:
    if device.pci_class >> 8 != _DISPLAY:
        return False
    if vendor == INTEL:
        return device.address.startswith(_INTEL_INTEGRATED)
    return (device.device or 0) >> 8 in _AMD_INTEGRATED


def keeper_of(device: PciDevice) -> str | None:
    """Return the driver that keeps a device from this host's own programs; ``None`` when none does."""
    driver = device.driver or ""
    return driver if driver in _KEEPERS or "vfio" in driver else None


def has_nvidia_driver(host: Host) -> bool:
    """Whether NVIDIA's driver may be there without a GPU on the PCI bus: in a container, or in WSL."""
    return host.exists("/proc/driver/nvidia/version") or is_wsl(host)


def is_wsl(host: Host) -> bool:
    """Whether Windows hands out GPUs to this Linux."""
    return host.exists(_WSL_GPUS)
