# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: put the changes of all hosts into an order that keeps every model served."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout_batches
short_description: Put the changes of all hosts into an order that keeps every model served
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Returns the order in which the changes of all hosts are made, and what is refused because too few
    instances of a model would go on serving.
positional: _input, shared, batch, minimum_healthy, allow_downtime
options:
  _input:
    description:
      - For each host its C(plan), its plan as it is now (C(serving)), its C(changes), the names of instances that
        answer (C(ready)), the records of C(drained) ones, and whether a balancer sends it requests (C(balanced)).
    type: dict
    required: true
  shared:
    description: Whether the same balancers serve all hosts. Otherwise each host balances for itself.
    type: bool
    default: true
  batch:
    description: How many instances of one model may be out at a time.
    type: int
    default: 1
  minimum_healthy:
    description: How many instances of a model must go on serving.
    type: int
    default: 1
  allow_downtime:
    description:
      - Whether a model may go without a serving instance for a while. What would be refused becomes a warning.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: See the order
  ansible.builtin.debug:
    msg: "{{ hosts | numapin.inference.rollout_batches(batch=2) }}"
"""

RETURN = r"""
_value:
  description: The order in C(batches), C(refusals) that forbid to begin, and C(warnings).
  type: dict
  sample:
    batches:
      - hosts: {gpu1: {out: [tiny-n0], in: [tiny-n0]}}
        title: tiny-n0 on gpu1
    refusals: []
    warnings: []
"""

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._rollout import batches


def order(
    hosts: Mapping[str, Mapping[str, t.Any]],
    shared: bool = True,
    batch: int = 1,
    minimum_healthy: int = 1,
    allow_downtime: bool = False,
) -> dict[str, list[t.Any]]:
    """Return the order, or raise what Ansible shows without a traceback."""
    try:
        # Values given as -e name=value are texts.
        return batches(
            hosts,
            shared=shared,
            batch=int(batch),
            minimum_healthy=int(minimum_healthy),
            allow_downtime=allow_downtime,
        )
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"rollout_batches was given something it cannot use: {error!r}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"rollout_batches": order}
