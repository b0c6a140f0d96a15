# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The whole proof of a host: instances against the plan as applied, the kernel, huge pages and interrupts as tuned.

Reads only. The shape of what comes out, and of the metrics, is told in docs/verification.md.
"""

from __future__ import annotations

import json
import os
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)
from ansible_collections.numapin.inference.plugins.module_utils._drained import PERSON, read_records
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY
from ansible_collections.numapin.inference.plugins.module_utils._irq_drift import read_irq_drift
from ansible_collections.numapin.inference.plugins.module_utils._metrics import Metrics
from ansible_collections.numapin.inference.plugins.module_utils._placement import read_placement
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd
from ansible_collections.numapin.inference.plugins.module_utils._tuning import read_tuning

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._commands import Runner
    from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

PLAN = "/etc/numapin/plan.json"
PLACEMENT, GPU, KERNEL, HUGEPAGES, INTERRUPTS = PARTS = ("placement", "gpu", "kernel", "hugepages", "interrupts")
VERSION = 1
# A model's processes open their GPUs this long after their start at the latest.
STARTING_SECONDS = 180
RECENT_SECONDS = 3600

_ONLINE_NODES = "/sys/devices/system/node/online"
_LARGEST_PLAN_BYTES = 16 * 1024 * 1024
# What varies from run to run while the difference stays the same.
_VARIES = re.compile(r"\d+(\.\d+)? (MiB|%)|\d+ of \d+ threads|, last on \d+|; and \d+ more")


class ProofError(NumapinError):
    """Nothing can be proved: there is no plan, or it is damaged."""


class Found(t.NamedTuple):
    """What was found; a problem is ``part``, ``instance`` (or null) and ``text``."""

    problems: list[dict[str, t.Any]]
    notes: list[str]
    instances: list[dict[str, t.Any]]


def prove(host: Host, minimum_locality_percent: float, run: Runner, gpu_sources: GpuSources) -> Found:
    """Read and judge everything. Raises NumapinError when the instances cannot be held against a plan at all."""
    plan = _read_plan(host)
    placement = read_placement(
        host,
        plan,
        minimum_locality_percent,
        run,
        gpu_sources=gpu_sources,
        starting_seconds=STARTING_SECONDS,
    )
    found = Found([], list(placement["gpu_warnings"]), [])
    drained = _drained_by_a_person(host, found)
    for one in placement["instances"]:
        one["drained"] = one["name"] in drained
        about_gpus = (one["gpus"] or {}).get("problems", ())
        for text in one["problems"]:
            if one["drained"]:
                found.notes.append(f"{one['name']}, drained by a person: {text}")
                continue
            found.problems.append(_problem(GPU if text in about_gpus else PLACEMENT, text, one["name"]))
        found.notes.extend(f"{one['name']}: {note}" for note in one["notes"])
        found.instances.append({key: value for key, value in one.items() if key != "processes"})
    _look_at_the_kernel(host, Systemd(run), found)
    return found


def _drained_by_a_person(host: Host, found: Found) -> set[str]:
    """What a person keeps out of the balancers may be anything; what a rollout does shall be as planned at its end."""
    try:
        records = read_records(os.path.join(host.root, STATE_DIRECTORY.lstrip("/")))
    except NumapinError as error:
        found.problems.append(_problem(PLACEMENT, str(error)))
        return set()
    return {name for name, record in records.items() if record["by"] == PERSON}


def _look_at_the_kernel(host: Host, systemd: Systemd, found: Found) -> None:
    """A part that cannot be read is a problem of its own, and keeps none of the others from being told."""
    try:
        tuning = read_tuning(host, systemd)
        found.problems.extend(_problem(KERNEL, text) for text in tuning.kernel)
        found.problems.extend(_problem(HUGEPAGES, text) for text in tuning.hugepages)
        found.notes.extend(tuning.notes)
    except NumapinError as error:
        found.problems.append(_problem(KERNEL, str(error)))
    try:
        interrupts = read_irq_drift(host, systemd)
        found.problems.extend(_problem(INTERRUPTS, text) for text in interrupts.problems)
        found.notes.extend(interrupts.notes)
    except NumapinError as error:
        found.problems.append(_problem(INTERRUPTS, str(error)))


def _problem(part: str, text: str, instance: str | None = None) -> dict[str, t.Any]:
    return {"part": part, "instance": instance, "text": text}


def _read_plan(host: Host) -> list[dict[str, t.Any]]:
    text = host.read_text(PLAN, _LARGEST_PLAN_BYTES)
    if text is None:
        raise ProofError(f"{PLAN} cannot be read: deploy this host (inference.yml), or set verify_timer: false")
    try:
        plan = json.loads(text)
        instances = plan["instances"]
        # What this host has of instances that another one leads is where it was planned as well.
        members = plan.get("members", [])
        for part in (instances, members):
            if not isinstance(part, list) or not all(isinstance(one, dict) for one in part):
                raise TypeError("instances is no list of dictionaries")
    except (ValueError, KeyError, TypeError) as error:
        raise ProofError(f"{PLAN} is damaged ({error}): deploy this host again (inference.yml)") from error
    return [*instances, *members]


# --- Over time -----------------------------------------------------------------------------------------------------


class Changes(t.NamedTuple):
    """Problems that were not there the time before, and those that are gone."""

    new: list[dict[str, t.Any]]
    gone: list[dict[str, t.Any]]


def key_of(problem: t.Mapping[str, t.Any]) -> tuple[t.Any, ...]:
    """Return what stays the same of a problem while amounts vary."""
    return problem.get("part"), problem.get("instance"), _VARIES.sub("", str(problem.get("text")))


def with_times(
    problems: t.Iterable[dict[str, t.Any]], before: t.Mapping[str, t.Any], now_seconds: float
) -> tuple[list[dict[str, t.Any]], list[dict[str, t.Any]], Changes]:
    """Return the problems with ``since_seconds``, those of the last hour that are gone, and what changed.

    ``before`` is the state that the run before left, empty when there is none.
    """
    earlier = {key_of(one): one for one in before.get("problems", ())}
    current = {key_of(one): one for one in problems}
    since = {key: one.get("since_seconds", now_seconds) for key, one in earlier.items()}
    told = [{**one, "since_seconds": since.get(key, now_seconds)} for key, one in current.items()]
    gone = [{**one, "until_seconds": now_seconds} for key, one in earlier.items() if key not in current]
    recent = [
        one
        for one in (*before.get("recent", ()), *gone)
        if one.get("until_seconds", 0) > now_seconds - RECENT_SECONDS and key_of(one) not in current
    ]
    latest = {key_of(one): one for one in recent}
    return told, list(latest.values()), Changes([one for one in told if key_of(one) not in earlier], gone)


# --- Metrics -------------------------------------------------------------------------------------------------------


def metrics_of(host: Host, state: t.Mapping[str, t.Any]) -> str:
    """Return the state as metrics; a proof that could not be made leaves only the first three."""
    metrics = Metrics()
    metrics.gauge("numapin_verify_success", "Whether the proof could be made (1), or not (0).", int(state["success"]))
    metrics.gauge(
        "numapin_verify_last_run_timestamp_seconds", "When the proof was made last.", state["timestamp_seconds"]
    )
    metrics.gauge("numapin_verify_duration_seconds", "How long it took.", state["duration_seconds"])
    if not state["success"]:
        return metrics.text()
    count = {part: sum(one["part"] == part for one in state["problems"]) for part in PARTS}
    for part in PARTS:
        about = "Differences from plan and tuning, by part."
        metrics.gauge("numapin_verify_problems", about, count[part], part=part)
    nodes = _online_nodes(host)
    for one in state["instances"]:
        _add_instance(metrics, one, nodes)
    metrics.gauge("numapin_tuning_drift", "Kernel settings that are not as tuned.", count[KERNEL])
    metrics.gauge("numapin_hugepages_drift", "Pools of huge pages that are not as set.", count[HUGEPAGES])
    metrics.gauge("numapin_irq_drift", "Interrupts and masks that are not as the rules want them.", count[INTERRUPTS])
    return metrics.text()


def _add_instance(metrics: Metrics, one: t.Mapping[str, t.Any], nodes: frozenset[int]) -> None:
    name, up = one["name"], one["state"] == "running"
    planned = frozenset(one["planned_memory_nodes"])
    # What alerts look at is left out for what a person has drained, and so is meant to be otherwise.
    judged = not one.get("drained")
    if judged:
        about = "Whether the unit has processes."
        metrics.gauge("numapin_instance_up", about, int(up), instance=name, unit=one["unit"])
        about = "Whether the instance is as planned."
        metrics.gauge("numapin_instance_as_planned", about, int(one["ok"]), instance=name)

    def gauge(metric: str, about: str, value: float | None, **labels: str) -> None:
        metrics.gauge(metric, about, value if up else None, instance=name, **labels)

    gauge("numapin_instance_threads", "Threads of all its processes.", one["thread_count"])
    about = "Threads that may run outside the planned CPUs."
    gauge("numapin_instance_stray_threads", about, one["stray_thread_count"])
    percent = one["own_locality_percent"]
    gauge(
        "numapin_instance_locality_ratio",
        "Share of its own pages (anonymous, huge) that is on the planned nodes.",
        percent / 100 if judged and percent is not None else None,
        node=format_cpulist(planned),
    )
    pages = one["pages_mib_by_node"]
    for row in pages or ():
        for kind in ("anonymous", "file", "huge"):
            about = "Pages of its processes by the node they are on."
            gauge("numapin_instance_memory_bytes", about, _bytes(row[kind]), node=str(row["node"]), kind=kind)
    if pages is not None:
        away = {row["node"]: row["mib"] for row in one["misplaced_mib"]}
        for node in sorted((nodes | away.keys()) - planned):
            about = "Its own pages (anonymous, huge) on a node that is not planned."
            gauge("numapin_instance_misplaced_bytes", about, _bytes(away.get(node, 0)), node=str(node))
    gpus = one["gpus"]
    about = "GPUs that are held and not planned, or planned and not held."
    gauge("numapin_gpu_mismatch", about, len(gpus["problems"]) if judged and gpus is not None else None)


def _bytes(mib: float) -> int:
    return round(mib * 1024 * 1024)


def _online_nodes(host: Host) -> frozenset[int]:
    try:
        return frozenset(parse_cpulist(host.read_text(_ONLINE_NODES) or ""))
    except CpusetError:
        return frozenset()
