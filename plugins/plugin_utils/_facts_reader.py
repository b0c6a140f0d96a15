# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""``ansible_facts['numa']`` read strictly: what is not as ``numa_facts`` returns it raises ``FactsError``."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import CpusetError, parse_cpulist
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

# A fleet has hundreds of thousands of entries: the plain check is by far the fastest.
_MAPPINGS = (dict, Mapping)


class FactsError(NumapinError):
    """The topology facts are missing, or are not what ``numa_facts`` returns."""


def entries(facts: t.Mapping[str, t.Any], key: str) -> list[t.Mapping[str, t.Any]]:
    """A list of dictionaries in the facts."""
    value = facts.get(key)
    if value is None and key in ("cpus", "gpus") and key in facts:
        raise FactsError(
            f"the topology facts (ansible_facts['numa']) were gathered without {key}, which planning needs: let"
            " numapin.inference.numa_facts gather cpus and gpus (by default it gathers everything)"
        )
    if not isinstance(value, (list, tuple)) or not all(isinstance(entry, _MAPPINGS) for entry in value):
        raise broken(key, value, "a list of dictionaries")
    return list(value)


def integer(entry: t.Mapping[str, t.Any], key: str, where: str) -> int:
    """A whole number in an entry of the facts."""
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise broken(f"{where}.{key}", value, "a whole number from 0 on")
    return int(value)


def cpulist(entry: t.Mapping[str, t.Any], key: str, where: str) -> frozenset[int] | None:
    """A cpulist in an entry of the facts; ``None`` where it is unknown."""
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise broken(f"{where}.{key}", value, "a cpulist such as 0-3,8")
    try:
        return parse_cpulist(value)
    except CpusetError as exc:
        raise FactsError(f"the topology facts cannot be used: {where}.{key}: {exc}") from exc


def broken(where: str, value: object, allowed: str) -> FactsError:
    """The error for a value that the facts cannot have."""
    return FactsError(
        f"the topology facts (ansible_facts['numa']) cannot be used: {where} is {str(value)[:60]!r}, it must be"
        f" {allowed}. Gather them again with the module numapin.inference.numa_facts of this release."
    )
