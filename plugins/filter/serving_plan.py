# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the plan of a host as it is while a rollout goes on."""

from __future__ import annotations

DOCUMENTATION = r"""
name: serving_plan
short_description: The plan of a host as it is while a rollout goes on
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Returns the plan with instances that are held back as they were deployed before, and without those of
    them that were not there yet.
  - An instance that is still reached at another address than the plan says carries it as C(address).
positional: _input, previous, held
options:
  _input:
    description: The plan of the host, as P(numapin.inference.plan_instances#filter) makes it.
    type: dict
    required: true
  previous:
    description: The plan that was applied last; none where there was none.
    type: dict
  held:
    description: Names of the instances that were not changed yet.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: See what balancers send requests to now
  ansible.builtin.debug:
    msg: "{{ vllm_plan | numapin.inference.serving_plan(previous_plan, ['tiny-n0']) }}"
"""

RETURN = r"""
_value:
  description: A plan.
  type: dict
  sample:
    host: gpu1
    address: 192.0.2.11
    instances: []
"""

import typing as t
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.plugin_utils._rollout import serving_plan


def plan_now(
    plan: Mapping[str, t.Any], previous: Mapping[str, t.Any] | None = None, held: Sequence[str] = ()
) -> dict[str, t.Any]:
    """Return the plan as it is now, or raise what Ansible shows without a traceback."""
    try:
        return serving_plan(plan, previous, held)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"serving_plan was given something that is not a plan: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"serving_plan": plan_now}
