# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The interrupt vectors of a Linux host, by device and place on it: numbers change whenever a driver asks for new ones.

Kernel sources: Documentation/core-api/irq/irq-affinity.rst, kernel/irq/proc.c (smp_affinity_list is the request, which
is what was written; effective_affinity_list is the choice of the interrupt controller's driver, a subset of it, and is
missing where the kernel does not know), kernel/irq/irqdesc.c (/sys/kernel/irq/N/actions, since Linux 4.9),
Documentation/ABI/testing/sysfs-bus-pci (msi_irqs).
"""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
    parse_cpumask,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree

_IRQ = "/proc/irq"
_PCI = "/sys/bus/pci/devices"
DEFAULT_AFFINITY = f"{_IRQ}/default_smp_affinity"
# What the kernel puts into /proc/irq/N; anything else there is a directory with the name of an action.
_FILES = frozenset(
    {
        "affinity_hint",
        "effective_affinity",
        "effective_affinity_list",
        "node",
        "smp_affinity",
        "smp_affinity_list",
        "spurious",
    }
)
_TEXT_LIMIT = 65536


class IrqError(NumapinError):
    """What was asked of interrupts cannot be done; the message names the rule and the value."""


class Vector(t.NamedTuple):
    """One interrupt. ``queue`` is its place among its device's vectors, or among those of the same name without one."""

    number: int
    device: str | None  # PCI address
    queue: int
    name: str  # of its actions, with commas between them; empty when nothing has requested it

    @property
    def key(self) -> tuple[str, str]:
        """What stays the same when the number changes: device, or name in brackets, and place."""
        return self.device or f"[{self.name}]", str(self.queue)


class Vectors:
    """The vectors of a host, read when somebody asks; make a new one to read again."""

    def __init__(self, host: Host, pci: PciTree) -> None:
        self._host = host
        self._pci = pci
        if not host.is_running_machine:
            # In a tree every directory could be a link: two looks at all of them at once save thousands.
            host.list_directories(_IRQ)
            host.list_directories("/sys/kernel/irq")
        self._by_name: list[Vector] | None = None

    def of_device(self, address: str) -> list[Vector]:
        """Return the vectors of a PCI device, ascending by number."""
        return [
            Vector(number, address, place, self._name(number)) for place, number in enumerate(self._numbers(address))
        ]

    def all(self) -> list[Vector]:
        """Return every interrupt with an action, ascending by number."""
        if self._by_name is None:
            owners: dict[int, tuple[str, int]] = {}
            for address in self._host.list_dir(_PCI) or ():
                for place, number in enumerate(self._numbers(address)):
                    owners.setdefault(number, (address, place))
            self._by_name = []
            seen: dict[str, int] = {}
            for number in sorted(int(name) for name in self._host.list_dir(_IRQ) or () if name.isdecimal()):
                name = self._name(number)
                if not name:
                    continue
                device, place = owners.get(number, (None, seen.get(name, 0)))
                if device is None:
                    seen[name] = place + 1
                self._by_name.append(Vector(number, device, place, name))
        return self._by_name

    def _numbers(self, address: str) -> tuple[int, ...]:
        """Return the numbers of a device's interrupts; a pin is one only when a driver uses it."""
        numbers = self._pci.irqs(address)
        if self._pci.has_pin_only(address):
            device = self._pci.device(address)
            if device is None or device.driver is None or not self._name(numbers[0]):
                return ()
        return numbers

    def _name(self, number: int) -> str:
        text = self._host.read_text(f"/sys/kernel/irq/{number}/actions", _TEXT_LIMIT)
        if text is not None:
            return text.strip()
        return ",".join(name for name in self._host.list_dir(f"{_IRQ}/{number}") or () if name not in _FILES)


class Affinities:
    """Requests and effective CPUs of vectors; equal texts, of which a host has few, are parsed once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parsed: dict[str, frozenset[int] | None] = {}
        self._formatted: dict[frozenset[int], str] = {}

    def request(self, number: int) -> str | None:
        """Return the requested cpulist as the kernel prints it; ``None`` for a vector that is not there."""
        text = self._host.read_text(f"{_IRQ}/{number}/smp_affinity_list", _TEXT_LIMIT)
        if text is not None:
            return text.strip()
        mask = self._host.read_text(f"{_IRQ}/{number}/smp_affinity", _TEXT_LIMIT)
        if mask is None:
            return None
        try:
            return format_cpulist(parse_cpumask(mask))
        except CpusetError:
            return mask.strip()

    def effective(self, number: int) -> str | None:
        """Return the cpulist of where it really goes; ``None`` where the kernel does not say."""
        text = self._host.read_text(f"{_IRQ}/{number}/effective_affinity_list", _TEXT_LIMIT)
        return None if text is None else text.strip() or None

    def writable(self, number: int) -> bool:
        """Whether the file has write bits; from Linux 6.12 that of a managed vector has none."""
        mode = self._host.mode(path_of(number))
        return mode is None or bool(mode & 0o222)

    def write(self, number: int, text: str) -> None:
        """Request CPUs. Raises ``OSError``."""
        self._host.write_text(path_of(number), text)

    def parse(self, text: str) -> frozenset[int] | None:
        """Return the CPUs in a cpulist; ``None`` for what is none."""
        if text not in self._parsed:
            try:
                self._parsed[text] = parse_cpulist(text)
            except CpusetError:
                self._parsed[text] = None
        return self._parsed[text]

    def format(self, cpus: frozenset[int]) -> str:
        """Return the cpulist of CPUs."""
        text = self._formatted.get(cpus)
        if text is None:
            text = self._formatted[cpus] = format_cpulist(cpus)
            self._parsed[text] = cpus
        return text


def path_of(number: int) -> str:
    """Return the file that holds, and takes, the request of a vector."""
    return f"{_IRQ}/{number}/smp_affinity_list"
