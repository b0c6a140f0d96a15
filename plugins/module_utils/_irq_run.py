# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Bring a host's interrupts to what rules want, or back to what they were: for the module and the service alike."""

from __future__ import annotations

import fnmatch
import os
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import CpusetError, parse_cpumask
from ansible_collections.numapin.inference.plugins.module_utils._irq_apply import (
    CHANGED,
    FAILURES,
    GONE,
    OK,
    REFUSED,
    UNCHANGEABLE,
    Outcome,
    Seen,
    Writer,
    look,
    place,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_masks import (
    MaskOutcome,
    WantedMask,
    cpus_in,
    read_mask,
    set_mask,
    wanted_masks,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import Options, Plan, Wanted
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import STATE_DIRECTORY, Originals
from ansible_collections.numapin.inference.plugins.module_utils._irqs import DEFAULT_AFFINITY, IrqError, Vector

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine

_NET = "/sys/class/net/"
# What the kernel does not let be moved was never moved.
_BACK = frozenset({OK, CHANGED, UNCHANGEABLE})
_TOLD = FAILURES | {CHANGED}
_RELEASE = re.compile(r"([0-9]+)\.([0-9]+)")
# From this Linux on the file of a managed vector has no write bits, and a look tells.
MANAGED_SHOWS = (6, 12)


class Run(t.NamedTuple):
    """What became of everything, in the order of the rules."""

    vectors: tuple[Outcome, ...]
    masks: tuple[MaskOutcome, ...]
    devices: tuple[str, ...]
    labels: dict[str, str]  # PCI address -> as people call the device
    warnings: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, written."""
        return CHANGED in [*(one.result for one in self.vectors), *(one.result for one in self.masks)]

    def faults(self, strict: bool) -> list[str]:
        """Return what makes a run fail, a line for each."""
        bad = FAILURES | {UNCHANGEABLE} if strict else FAILURES
        lines = [
            f"interrupt {one.irq} ({one.name}, {self.labels.get(one.device or '', 'no device')}): {one.result}"
            f"{f' ({one.errno})' if one.errno else ''}, it is {one.before} and shall be {one.wanted}"
            f"{f': {one.message}' if one.message else ''}"
            for one in self.vectors
            if one.result in bad
        ]
        lines += [
            f"{one.path}: refused{f' ({one.errno})' if one.errno else ''}, it holds {one.before or 'no CPU'} and shall"
            f" hold {one.wanted}"
            for one in self.masks
            if one.result in bad
        ]
        return lines


def shows_managed(host: Host) -> bool:
    """Whether this kernel shows without a write which vectors it manages itself."""
    match = _RELEASE.match(host.read_text("/proc/sys/kernel/osrelease", 4096) or "")
    return match is not None and (int(match[1]), int(match[2])) >= MANAGED_SHOWS


def state_directory(root: str) -> str:
    """Return where originals are kept: on the host, or in a laid-out tree below its root."""
    return os.path.join(root, STATE_DIRECTORY.lstrip("/"))


def converge(
    machine: Machine,
    options: Options,
    wanted: Plan,
    originals: Originals,
    *,
    check_mode: bool,
    writer: Writer | None = None,
) -> Run:
    """Write what is not as wanted; originals are kept first."""
    writer = writer or Writer()
    seen = look(machine.affinities, wanted.vectors)
    masks = wanted_masks(machine.host, wanted, options.default_smp_affinity)
    if not check_mode:
        _keep(machine, seen, masks, originals)
    placed = place(machine.affinities, seen, check_mode=check_mode, writer=writer)
    labels = {one.vector.device: one.device for one in wanted.vectors if one.vector.device}
    return Run(
        tuple(placed),
        tuple(set_mask(machine.host, mask, check_mode=check_mode, writer=writer) for mask in masks),
        wanted.devices,
        labels,
        (*wanted.warnings, *wanted.idle),
    )


def _keep(machine: Machine, seen: t.Iterable[Seen], masks: t.Iterable[WantedMask], originals: Originals) -> None:
    """Keep what is there before the first write, also where it is as wanted: a driver's reload makes it otherwise."""
    for mask in masks:
        text = read_mask(machine.host, mask.path)
        if text is not None and cpus_in(text) is not None:
            originals.masks.setdefault(mask.path, text)
    default = cpus_in(originals.masks.get(DEFAULT_AFFINITY))
    now = cpus_in(read_mask(machine.host, DEFAULT_AFFINITY))
    for one in seen:
        if one.request is None or one.before is None:
            continue
        request = one.request
        # One that came into being since has the default that we set: without us it would have the one before.
        if default and now is not None and now != default and one.before <= now:
            request = machine.affinities.format(default)
        originals.keep(one.wanted.vector, request)
    originals.save()


def restore(machine: Machine, originals: Originals, *, check_mode: bool, writer: Writer | None = None) -> Run:
    """Put back what was kept. What is not there any more is ``gone``: there is nothing to put back."""
    writer = writer or Writer()
    wanted, gone, substitutes = _originals_as_wanted(machine, originals)
    placed = [
        one._replace(message=one.message or substitutes.get(one.irq))
        for one in place(machine.affinities, look(machine.affinities, wanted), check_mode=check_mode, writer=writer)
    ]
    masks = []
    for path, text in sorted(originals.masks.items()):
        mask = _mask_as_wanted(machine, path, text)
        masks.append(set_mask(machine.host, mask, check_mode=check_mode, writer=writer))
    labels = {one.vector.device: one.device for one in wanted if one.vector.device}
    return Run((*placed, *gone), tuple(masks), (), labels, ())


def let_go(
    machine: Machine, options: Options, wanted: Plan, run: Run, originals: Originals, *, check_mode: bool
) -> Run:
    """Put back what no rule selects any more, forget what is back, and return the run with what was moved."""
    left = Originals(os.path.dirname(originals.path))
    left.vectors = _left_vectors(options, wanted, originals)
    queues = {(mask.netdev, mask.kind) for mask in run.masks}
    for path, text in originals.masks.items():
        mask = _mask_as_wanted(machine, path, text)
        if (mask.netdev, mask.kind) not in queues:
            left.masks[path] = text
    if not (left.vectors or left.masks):
        return run
    back = restore(machine, left, check_mode=check_mode)
    if not check_mode:
        originals.drop(
            [one.key for one in back.vectors if one.result in _BACK],
            [one.path for one in back.masks if one.result in _BACK],
        )
        originals.save()
    # What is not there now may come again: it is neither reported nor forgotten.
    return run._replace(
        vectors=(*run.vectors, *(one for one in back.vectors if one.result in _TOLD)),
        masks=(*run.masks, *(one for one in back.masks if one.result in _TOLD)),
        labels={**back.labels, **run.labels},
    )


def _left_vectors(options: Options, wanted: Plan, originals: Originals) -> dict[str, dict[str, str]]:
    """Return the originals of vectors that no rule selects; those of a selected device are selected, there or not."""
    keys = {one.vector.key for one in wanted.vectors}
    patterns = [rule.value for rule in options.rules if rule.selector == "action"]
    left: dict[str, dict[str, str]] = {}
    for device, places in originals.vectors.items():
        names = device.strip("[]").split(",") if device.startswith("[") else []
        by_name = any(fnmatch.fnmatchcase(name.strip(), pattern) for name in names for pattern in patterns)
        if device not in wanted.devices and not by_name:
            own = {place: request for place, request in places.items() if (device, place) not in keys}
            if own:
                left[device] = own
    return left


def _originals_as_wanted(
    machine: Machine, originals: Originals
) -> tuple[list[Wanted], list[Outcome], dict[int | None, str]]:
    """Return what to put back, what is not there, and by number why a vector gets something else."""
    wanted, gone = [], []
    substitutes: dict[int | None, str] = {}
    by_key: dict[tuple[str, str], Vector] = {}
    if any(device.startswith("[") for device in originals.vectors):
        by_key = {vector.key: vector for vector in machine.vectors.all()}
    for device, places in originals.vectors.items():
        if not device.startswith("["):
            by_key.update({vector.key: vector for vector in machine.vectors.of_device(device)})
        label = device if device.startswith("[") else machine.device(device).label
        for queue, request in sorted(places.items(), key=lambda item: int(item[0])):
            cpus = machine.affinities.parse(request)
            vector = by_key.get((device, queue))
            if vector is None or cpus is None:
                address = None if device.startswith("[") else device
                message = f"{device} has no such vector now: there is nothing to put back"
                gone.append(
                    Outcome(None, address, int(queue), "", "", None, request, None, False, False, GONE, None, message)
                )
                continue
            cpus &= machine.possible
            if not cpus & machine.online:
                cpus = _default(machine, originals)
                substitutes[vector.number] = (
                    f"none of the CPUs {request} that it had is online: it goes to the default,"
                    f" {machine.affinities.format(cpus)}"
                )
            wanted.append(Wanted(vector, label, "the state before", cpus, cpus))
    return wanted, gone, substitutes


def _default(machine: Machine, originals: Originals) -> frozenset[int]:
    """Return the default affinity that was kept, else the one in force, as far as it can be had."""
    text = originals.masks.get(DEFAULT_AFFINITY) or read_mask(machine.host, DEFAULT_AFFINITY)
    cpus = (cpus_in(text) or frozenset()) & machine.possible
    return cpus if cpus & machine.online else machine.online


def _mask_as_wanted(machine: Machine, path: str, text: str) -> WantedMask:
    try:
        cpus = parse_cpumask(text)
    except CpusetError as error:
        raise IrqError(f"{path}: the value kept for it is damaged: {error}") from error
    cpus &= machine.possible
    if not path.startswith(_NET):
        # The kernel takes no default without a CPU that is online.
        cpus = cpus if cpus & machine.online else machine.online
        return WantedMask(path, "default_smp_affinity", None, None, cpus)
    netdev, _queues, queue, file = path[len(_NET) :].split("/")
    return WantedMask(path, file.partition("_")[0], netdev, int(queue.partition("-")[2]), cpus)


def summary(run: Run) -> str:
    """Return one line about a run: how many vectors are how."""
    counts: dict[str, int] = {}
    for one in run.vectors:
        counts[one.result] = counts.get(one.result, 0) + 1
    said = {
        "ok": "as wanted",
        CHANGED: "moved",
        UNCHANGEABLE: "that the kernel does not let be moved",
        "no_vector_space": "without room on their CPU",
        GONE: "that went away",
        REFUSED: "refused",
    }
    parts = [f"{counts[result]} {text}" for result, text in said.items() if result in counts]
    moved = sum(one.result == CHANGED for one in run.masks)
    if moved:
        parts.append(f"{moved} masks written")
    return f"{len(run.vectors)} vectors: {', '.join(parts)}" if parts else "no vectors"


def moves(run: Run) -> list[str]:
    """Return what was moved, a line for each device: ``eth1 (0000:41:00.0): queue 0 0-3 -> 2, queue 1 0-3 -> 3``."""
    by_device: dict[str, list[str]] = {}
    for one in run.vectors:
        if one.result == CHANGED:
            label = run.labels.get(one.device or "", one.device or one.name)
            by_device.setdefault(label, []).append(f"queue {one.queue} {one.before} -> {one.wanted}")
    for mask in run.masks:
        if mask.result == CHANGED:
            what = mask.kind if mask.queue is None else f"{mask.kind} of queue {mask.queue}"
            by_device.setdefault(mask.netdev or "default", []).append(f"{what} {mask.before} -> {mask.wanted}")
    return [f"{device}: {', '.join(each)}" for device, each in by_device.items()]


def table(run: Run, after: bool) -> str:
    """Return the vectors of every device with a change as a table, before or after, for ``--diff``."""
    concerned = {one.device or one.name for one in run.vectors if one.result == CHANGED}
    rows = []
    for one in run.vectors:
        device = one.device or one.name
        if device in concerned:
            cpus = one.wanted if after and one.result == CHANGED else one.before
            rows.append((run.labels.get(device, device), str(one.queue), str(one.irq or "-"), one.name, cpus or "-"))
    for mask in run.masks:
        if mask.result == CHANGED:
            cpus = mask.wanted if after else mask.before
            queue = "-" if mask.queue is None else str(mask.queue)
            rows.append((mask.netdev or "any device", queue, "-", mask.kind, cpus or "-"))
    if not rows:
        return ""
    rows.insert(0, ("device", "queue", "irq", "name", "CPUs"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths)), row[4]]).rstrip() for row in rows)
    return "\n".join(lines) + "\n"
