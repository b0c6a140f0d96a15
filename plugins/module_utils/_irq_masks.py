# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Files of the kernel that hold a mask of CPUs and belong to interrupts: XPS and RPS of queues, the default affinity.

Kernel sources: Documentation/networking/scaling.rst, Documentation/ABI/testing/sysfs-class-net-queues (xps_cpus,
rps_cpus; both are lost when the number of queues changes), kernel/irq/proc.c (default_smp_affinity, a mask only).
"""

from __future__ import annotations

import errno
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    format_cpumask,
    parse_cpulist,
    parse_cpumask,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_apply import (
    CHANGED,
    GONE,
    OK,
    REFUSED,
    Writer,
    name_of,
)
from ansible_collections.numapin.inference.plugins.module_utils._irqs import DEFAULT_AFFINITY

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import Plan

_NET = "/sys/class/net"
_QUEUE = re.compile(r"(rx|tx)-([0-9]{1,6})")
_TEXT_LIMIT = 65536


class WantedMask(t.NamedTuple):
    """One file and the CPUs it shall hold."""

    path: str
    kind: str  # xps | rps | default_smp_affinity
    netdev: str | None
    queue: int | None
    cpus: frozenset[int]


class MaskOutcome(t.NamedTuple):
    """What became of one file; CPU sets are cpulists."""

    path: str
    kind: str
    netdev: str | None
    queue: int | None
    before: str | None
    wanted: str
    result: str  # ok | changed | gone | refused
    errno: str | None


def wanted_masks(host: Host, plan: Plan, default_affinity: frozenset[int] | None) -> list[WantedMask]:
    """Return the files that a plan is about; the queues are those there are now."""
    found = []
    if default_affinity is not None:
        found.append(WantedMask(DEFAULT_AFFINITY, "default_smp_affinity", None, None, default_affinity))
    isolated = _cpus_listed(host, "isolated") | _cpus_listed(host, "nohz_full") if plan.queues else frozenset()
    for queues in plan.queues:
        directory = f"{_NET}/{queues.netdev}/queues"
        names = [match for name in host.list_dir(directory) or () if (match := _QUEUE.fullmatch(name))]
        # The kernel takes isolated CPUs out of an RPS mask, and refuses one that has no other.
        rps = None if queues.rps is None else queues.rps - isolated or queues.rps
        for kind, side, cpus in (("xps", "tx", queues.xps), ("rps", "rx", rps)):
            numbers = sorted(int(match[2]) for match in names if match[1] == side)
            # A sender with one queue has no choice, and the kernel no file for it (xps_cpus answers ENOENT).
            if cpus is None or (kind == "xps" and len(numbers) < 2):
                continue
            for place, number in enumerate(numbers):
                own = cpus if kind == "rps" else _share(cpus, place, len(numbers))
                path = f"{directory}/{side}-{number}/{kind}_cpus"
                found.append(WantedMask(path, kind, queues.netdev, number, own))
    return found


def _cpus_listed(host: Host, name: str) -> frozenset[int]:
    try:
        return parse_cpulist(host.read_text(f"/sys/devices/system/cpu/{name}") or "")
    except CpusetError:
        # nohz_full is "(null)" on a kernel that was not told of any.
        return frozenset()


def _share(cpus: frozenset[int], place: int, count: int) -> frozenset[int]:
    """Return the CPUs of one queue: every CPU has one queue, and with more queues than CPUs, every queue one CPU."""
    ordered = sorted(cpus)
    return frozenset(ordered[place::count]) or frozenset({ordered[place % len(ordered)]})


def read_mask(host: Host, path: str) -> str | None:
    """Return what a file holds, as the kernel prints it; ``None`` when it is not there."""
    text = host.read_text(path, _TEXT_LIMIT)
    return None if text is None else text.strip()


def set_mask(host: Host, wanted: WantedMask, *, check_mode: bool, writer: Writer) -> MaskOutcome:
    """Write one file unless it is as wanted, and read it back."""
    text = read_mask(host, wanted.path)
    before = cpus_in(text)
    result, fault = OK, 0
    if text is None:
        result = GONE
    elif before != wanted.cpus:
        result = CHANGED
        if not check_mode:
            fault = writer.write(lambda mask: host.write_text(wanted.path, mask), format_cpumask(wanted.cpus))
            if fault in (errno.ENOENT, errno.ENODEV):
                result = GONE
            elif fault or cpus_in(read_mask(host, wanted.path)) != wanted.cpus:
                result = REFUSED
    return MaskOutcome(
        path=wanted.path,
        kind=wanted.kind,
        netdev=wanted.netdev,
        queue=wanted.queue,
        before=None if before is None else format_cpulist(before),
        wanted=format_cpulist(wanted.cpus),
        result=result,
        errno=name_of(fault),
    )


def cpus_in(mask: str | None) -> frozenset[int] | None:
    """Return the CPUs of a mask; ``None`` for what is none."""
    try:
        return None if mask is None else parse_cpumask(mask)
    except CpusetError:
        return None
