# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""One run of the module irq_affinity: check, plan, keep originals, write, read back, leave a service behind."""

from __future__ import annotations

import contextlib
import re
import sys
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine
from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import Options, Plan, parse_options, plan
from ansible_collections.numapin.inference.plugins.module_utils._irq_run import (
    MANAGED_SHOWS,
    Run,
    converge,
    let_go,
    restore,
    shows_managed,
    state_directory,
    summary,
    table,
)
from ansible_collections.numapin.inference.plugins.module_utils._irq_setup import Leftovers, Setup
from ansible_collections.numapin.inference.plugins.module_utils._irq_state import Originals, one_at_a_time
from ansible_collections.numapin.inference.plugins.module_utils._kernel import read_kernel

_OPENIB = "/etc/infiniband/openib.conf"
_TUNER = re.compile(r"^[ \t]*RUN_AFFINITY_TUNER[ \t]*=[ \t]*\"?yes", re.MULTILINE | re.IGNORECASE)


class Result(t.NamedTuple):
    """What the module returns; with ``faults`` it fails."""

    values: dict[str, t.Any]
    diff: list[dict[str, str]]
    warnings: tuple[str, ...]
    faults: tuple[str, ...]


def run_module(params: t.Mapping[str, t.Any], *, check_mode: bool) -> Result:
    """Do what the module was asked. Raises ``NumapinError``; then nothing was written, unless it says so."""
    host = Host(params["root"])
    machine = Machine(host)
    present = params["state"] == "present"
    directory = state_directory(host.root)
    options = parse_options(params) if present else None
    # Before anything is written, a lock included.
    wanted = plan(options, machine) if options is not None else None
    with contextlib.nullcontext() if check_mode else one_at_a_time(directory):
        originals = Originals.load(directory)
        setup = _setup(params, options, wanted, originals, host, check_mode) if host.is_running_machine else None
        if setup is not None and setup.changed and not check_mode:
            setup.before_placing()
            machine.look_again()
            wanted = plan(options, machine) if options is not None else None
        if options is not None and wanted is not None:
            run = converge(machine, options, wanted, originals, check_mode=check_mode)
            run = let_go(machine, options, wanted, run, originals, check_mode=check_mode)
        else:
            run = restore(machine, originals, check_mode=check_mode)
            if not check_mode and not run.faults(False):
                originals.forget()
    # The service looks for itself when it starts, and waits until this run lets go.
    if setup is not None and not check_mode:
        setup.after_placing()
    return _result(params, host, run, setup, check_mode)


def _setup(
    params: t.Mapping[str, t.Any],
    options: Options | None,
    wanted: Plan | None,
    originals: Originals,
    host: Host,
    check_mode: bool,
) -> Setup:
    """Return what is to be left on the host; with state restored that is nothing."""
    leftovers = Leftovers(None, "ignore", (), ())
    if options is not None and wanted is not None:
        actions = tuple(rule.value for rule in options.rules if rule.selector == "action")
        configuration = _configuration(params) if params["persistent"] else None
        leftovers = Leftovers(configuration, params["irqbalance"], wanted.devices, actions)
    return Setup(
        leftovers,
        originals,
        check_mode=check_mode,
        python=sys.executable or "/usr/bin/python3",
        state_directory=state_directory(host.root),
    )


def _configuration(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what the service reads: the options as they were written, without what was not."""
    return {
        "rules": [_without_none(rule) for rule in params["rules"]],
        "exclude_cpus": params["exclude_cpus"],
        "default_smp_affinity": params["default_smp_affinity"],
        "check_seconds": params["check_seconds"],
    }


def _without_none(value: dict[str, t.Any]) -> dict[str, t.Any]:
    return {
        key: _without_none(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if inner is not None
    }


def competitors(host: Host, irqbalance: str) -> list[str]:
    """Return who else moves interrupts on this host, a sentence for each."""
    kernel, _warnings = read_kernel(host)
    found = []
    if kernel.tuned.active and kernel.tuned.profile:
        found.append(
            f"TuneD is active with the profile {kernel.tuned.profile}: what its plugins irq, irqbalance or net and"
            " isolated_cores do to interrupts competes with these rules"
        )
    if kernel.irqbalance.active and irqbalance == "ignore":
        found.append(
            "irqbalance is active and moves what is placed here every ten seconds: choose irqbalance: coexist or stop"
        )
    if _TUNER.search(host.read_text(_OPENIB) or ""):
        found.append(
            f"{_OPENIB} has RUN_AFFINITY_TUNER=yes: at the next start of openibd it places the vectors of"
            " Mellanox cards by its own rules"
        )
    return found


def _uncertain(host: Host, run: Run) -> list[str]:
    """Say where check mode cannot know: an older kernel shows that a vector is managed only when it is written."""
    count = sum(one.predicted for one in run.vectors)
    if not count or shows_managed(host):
        return []
    since = ".".join(map(str, MANAGED_SHOWS))
    shown = (host.read_text("/proc/sys/kernel/osrelease", 4096) or "").strip() or "of unknown release"
    text = f"{count} vectors would be moved if the kernel lets them: Linux {shown} shows only on writing which of them"
    return [f"{text} it manages itself (from {since} on it shows before)"]


def _result(params: t.Mapping[str, t.Any], host: Host, run: Run, setup: Setup | None, check_mode: bool) -> Result:
    warnings = [*run.warnings]
    if params["state"] == "present":
        warnings += competitors(host, params["irqbalance"])
    if check_mode:
        warnings += _uncertain(host, run)
    entries = []
    before, after = table(run, after=False), table(run, after=True)
    if before != after:
        header = "interrupt vectors by device"
        entries.append({"before_header": header, "after_header": header, "before": before, "after": after})
    counts: dict[str, int] = {}
    for one in run.vectors:
        counts[one.result] = counts.get(one.result, 0) + 1
    values = {
        "changed": run.changed or (setup is not None and setup.changed),
        "vectors": [{**one._asdict(), "device_name": run.labels.get(one.device or "")} for one in run.vectors],
        "masks": [one._asdict() for one in run.masks],
        "counts": counts,
        "summary": summary(run),
        "files": [],
        "removed_files": [],
        "service": "none",
        "irqbalance": "none",
    }
    if setup is not None:
        values.update(setup.report)
        entries += setup.diff()
    faults = run.faults(bool(params["strict"]))
    return Result(values, entries, tuple(warnings), tuple(faults))
