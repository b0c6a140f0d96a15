# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: find models of which too few instances would go on serving now."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout_too_few
short_description: Find models of which too few instances would go on serving now
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Holds one batch of a rollout against what the other instances answered just before it, and returns what forbids it.
positional: _input, batch, answers, shared, minimum_healthy, seen
options:
  _input:
    description: The hosts, as P(numapin.inference.rollout_batches#filter) takes them.
    type: dict
    required: true
  batch:
    description: One element of what that filter returns as C(batches).
    type: dict
    required: true
  answers:
    description: For each host what M(numapin.inference.instance_ready) returned as C(instances).
    type: dict
    required: true
  shared:
    description: Whether the same balancers serve all hosts. Otherwise each host balances for itself.
    type: bool
    default: true
  minimum_healthy:
    description: How many instances of a model must go on serving.
    type: int
    default: 1
  seen:
    description:
      - For each balancer what M(numapin.inference.instance_traffic) returned there as C(instances), each named
        C(INSTANCE on HOST). One that a balancer does not reach does not count.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: See what forbids to begin
  ansible.builtin.debug:
    msg: "{{ hosts | numapin.inference.rollout_too_few(order.batches[0], answers) }}"
"""

RETURN = r"""
_value:
  description: One text for each model of which too few answer; empty when the batch may begin.
  type: list
  elements: str
  sample: []
"""

import typing as t
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.plugin_utils._rollout import too_few


def missing(
    hosts: Mapping[str, Mapping[str, t.Any]],
    batch: Mapping[str, t.Any],
    answers: Mapping[str, Sequence[Mapping[str, t.Any]]],
    shared: bool = True,
    minimum_healthy: int = 1,
    seen: Mapping[str, Sequence[Mapping[str, t.Any]]] | None = None,
) -> list[str]:
    """Return what forbids the batch, or raise what Ansible shows without a traceback."""
    try:
        return too_few(hosts, batch, answers, shared=shared, minimum_healthy=int(minimum_healthy), seen=seen)
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"rollout_too_few was given something it cannot use: {error!r}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"rollout_too_few": missing}
