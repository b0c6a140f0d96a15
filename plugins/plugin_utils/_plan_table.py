# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Plans as a text table for people: one line per instance, then what deserves attention, and why it is so."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._tables import format_table

HEADERS = ("host", "instance", "model", "node", "CPUs", "housekeeping", "GPUs", "port")

# "GPU-" or "MIG-" and the first group of a UUID: enough to tell a host's GPUs apart.
_UUID_START = 12


class PlanTableError(NumapinError):
    """What was given is no plan."""


def plan_table(plans: object, reasons: bool = False) -> str:
    """Lay out one plan or a list of plans (shape: ``vllm_plan`` in docs/architecture.md), without a final newline.

    ``reasons``: list those of every instance as well.
    """
    if not isinstance(plans, (t.Mapping, list, tuple)):
        raise PlanTableError(_no_plan(plans))
    listed: t.Sequence[t.Any] = [plans] if isinstance(plans, t.Mapping) else plans
    rows: list[tuple[object, ...]] = []
    warnings: list[str] = []
    choices: list[str] = []
    for plan in listed:
        rows.extend(_rows(plan))
        choices.extend(_choices(plan))
        warnings.extend(f"{plan['host']}: {warning}" for warning in plan["warnings"])
    if not rows:
        return "no host is planned"
    text = format_table(HEADERS, rows)
    if warnings:
        text += "\n\nwarnings\n" + "\n".join(f"- {warning}" for warning in warnings)
    if reasons and choices:
        text += "\n\nreasons\n" + "\n".join(choices)
    return text


def _choices(plan: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    balancer = plan.get("balancer")
    if balancer:
        yield f"{plan['host']} nginx: CPUs {balancer['cpus']}, {balancer['reason']}"
    for instance in [*plan["instances"], *plan.get("members", [])]:
        yield f"{plan['host']} {instance['name']}:"
        yield from (f"- {reason}" for reason in instance["reasons"])


def _no_plan(given: object) -> str:
    return (
        f"{str(given)[:60]!r} is not a plan. Give what the filter numapin.inference.plan_instances returned for a host,"
        " or a list of these."
    )


def _rows(plan: object) -> list[tuple[object, ...]]:
    if not isinstance(plan, t.Mapping) or not {"host", "instances", "warnings"} <= set(plan):
        raise PlanTableError(_no_plan(plan))
    entries = [*plan["instances"], *plan.get("members", [])]
    if not entries:
        return [(plan["host"], "no instance", *[None] * (len(HEADERS) - 2))]
    try:
        return [_row(plan["host"], instance) for instance in entries]
    except (KeyError, TypeError, AttributeError) as exc:
        raise PlanTableError(_no_plan(plan)) from exc


def _row(host: object, instance: t.Mapping[str, t.Any]) -> tuple[object, ...]:
    return (
        host,
        instance["name"],
        instance["model"],
        ",".join(str(node) for node in instance["nodes"]),
        instance["cpus"],
        instance["housekeeping_cpus"] or None,
        ",".join(gpu[:_UUID_START] if gpu.startswith(("GPU-", "MIG-")) else gpu for gpu in instance["gpus"]) or None,
        _port(instance),
    )


def _port(instance: t.Mapping[str, t.Any]) -> object:
    """A follower has none of its own."""
    group = instance.get("group")
    return f"of {group['members'][0]['host']}" if group and group["rank"] else instance["port"]
