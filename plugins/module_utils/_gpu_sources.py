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
_VENDORS = {0x10DE: NVIDIA, 0x1002: AMD, 0x8086: "intel"}
# PCI classes (base class and subclass): 0300 VGA, 0302 3D controller, 0380 other display, 1200 processing accelerator.
# VGA counts for NVIDIA only: with the others it is the console's adapter or an integrated GPU.
_CLASSES = {NVIDIA: (0x0300, 0x0302, 0x1200), AMD: (0x0302, 0x0380, 0x1200), "intel": (0x0380, 0x1200)}


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
    """Return the devices that are GPUs by class and vendor, with the vendor's name."""
    found = []
    # The class first: most devices need no second read.
    for device in pci.devices(lambda pci_class: pci_class >> 16 in (0x03, 0x12)):
        vendor = _VENDORS.get(device.vendor or 0)
        if vendor is not None and device.pci_class >> 8 in _CLASSES[vendor]:
            found.append((device, vendor))
    return found


def has_nvidia_driver(host: Host) -> bool:
    """Whether NVIDIA's driver is loaded; a container can have its GPUs without seeing the PCI bus."""
    return host.exists("/proc/driver/nvidia/version")
