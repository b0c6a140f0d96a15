# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The plan of the last run, for names, places and ports that stay.

Read leniently: the file may be older, or damaged, and a plan must come out all the same.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._models import FIRST_PORT, LAST_PORT


@dataclasses.dataclass(frozen=True)
class LastInstance:
    """Where an instance was; ``nodes`` is empty where the last plan does not say it."""

    nodes: tuple[int, ...]
    gpus: tuple[str, ...]
    port: int | None


@dataclasses.dataclass(frozen=True)
class Last:
    """What is used of the last plan: nodes that took instances, and the instances by name."""

    nodes: frozenset[int]
    instances: t.Mapping[str, LastInstance]


NO_PLAN = Last(frozenset(), {})


def is_plan(value: object) -> bool:
    """Whether ``value`` looks like a plan this collection has made."""
    return isinstance(value, t.Mapping) and isinstance(value.get("instances"), (list, tuple))


def read_last_plan(previous: object) -> Last:
    """What can be used of ``previous``; anything that is no plan counts as none."""
    if not isinstance(previous, t.Mapping) or not is_plan(previous):
        return NO_PLAN
    nodes = [entry.get("node") for entry in _list(previous.get("nodes")) if isinstance(entry, t.Mapping)]
    instances: dict[str, LastInstance] = {}
    for entry in [*previous["instances"], *_list(previous.get("members"))]:
        if not isinstance(entry, t.Mapping) or not isinstance(entry.get("name"), str):
            continue
        spans, port = _list(entry.get("nodes")), entry.get("port")
        is_port = isinstance(port, int) and not isinstance(port, bool) and FIRST_PORT <= port <= LAST_PORT
        instances[str(entry["name"])] = LastInstance(
            nodes=tuple(sorted(map(int, spans))) if all(isinstance(node, int) for node in spans) else (),
            gpus=tuple(str(gpu) for gpu in _list(entry.get("gpus"))),
            port=int(port) if is_port and port is not None else None,
        )
    return Last(frozenset(int(node) for node in nodes if isinstance(node, int)), instances)


def _list(value: object) -> list[t.Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
