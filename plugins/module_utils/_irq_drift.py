# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Whether interrupts still are where the rules want them, and whether their service keeps them there; reads only."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine
from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import parse_options, plan
from ansible_collections.numapin.inference.plugins.module_utils._irq_run import (
    converge,
    moves,
    shows_managed,
    state_directory,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import CONFIGURATION, SERVICE, Originals
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._irq_apply import Outcome
    from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd

# The kernel manages queues of storage devices itself, of these none.
_NEVER_MANAGED = frozenset({"nic", "infiniband", "gpu"})


class IrqDrift(t.NamedTuple):
    """``kept``: whether a service is to keep rules at all. ``notes`` are worth knowing, and no problem."""

    kept: bool
    problems: list[str]
    notes: list[str]


def read_irq_drift(host: Host, systemd: Systemd) -> IrqDrift:
    """Hold the host's interrupts against the rules of the service. Raises NumapinError for damaged ones."""
    text = host.read_text(CONFIGURATION)
    if text is None:
        return IrqDrift(False, [], [])
    try:
        options = parse_options(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise IrqError(f"{CONFIGURATION} is damaged ({error}): run the module irq_affinity again") from error
    machine = Machine(host)
    nothing_kept = Originals(state_directory(host.root))
    run = converge(machine, options, plan(options, machine, lenient=True), nothing_kept, check_mode=True)
    certain = run._replace(vectors=tuple(one for one in run.vectors if not _may_be_managed(host, machine, one)))
    problems = [f"interrupts are not where the rules want them: {line}" for line in moves(certain)]
    problems += certain.faults(False)
    unit = systemd.show([SERVICE])[SERVICE]
    if unit.active_state != "active":
        problems.append(f"{SERVICE} is {unit.state}: nobody keeps interrupts where the rules want them")
    left = len(run.vectors) - len(certain.vectors)
    notes = list(run.warnings)
    if left:
        notes.append(f"{left} vectors are elsewhere, and may be those that this kernel does not let be moved")
    return IrqDrift(True, problems, notes)


def _may_be_managed(host: Host, machine: Machine, one: Outcome) -> bool:
    if not one.predicted or shows_managed(host):
        return False
    return one.device is None or not machine.device(one.device).kinds & _NEVER_MANAGED
