# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: find what a rolling change has to drain on one host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout_changes
short_description: Find what a rolling change has to drain on one host
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Holds the plan of one host against what runs there, and returns the changes that must not be made while clients are
    served by what they touch.
  - What is in no change can be started, restarted and stopped at once.
positional: _input, previous, actions, serving, drained
options:
  _input:
    description: The plan of the host, as P(numapin.inference.plan_instances#filter) makes it.
    type: dict
    required: true
  previous:
    description: The plan that was applied last; none where there was none.
    type: dict
  actions:
    description: What M(numapin.inference.vllm_units) returned in check mode.
    type: list
    elements: dict
    default: []
  serving:
    description: Names of the instances that answer.
    type: list
    elements: str
    default: []
  drained:
    description: Records of drained instances, as M(numapin.inference.deployment_info) returns them.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: See what would be drained
  ansible.builtin.debug:
    msg: "{{ vllm_plan | numapin.inference.rollout_changes(previous_plan, units.actions, ['tiny-n0'], {}) }}"
"""

RETURN = r"""
_value:
  description: The changes, each with the names that go out and come in, and why.
  type: list
  elements: dict
  sample:
    - out: [tiny-n0]
      in: [tiny-n0]
      reason: it runs with another configuration
"""

import typing as t
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._rollout import host_changes


def changes_of(
    plan: Mapping[str, t.Any],
    previous: Mapping[str, t.Any] | None = None,
    actions: Sequence[Mapping[str, t.Any]] = (),
    serving: Sequence[str] = (),
    drained: Mapping[str, Mapping[str, t.Any]] | None = None,
) -> list[dict[str, t.Any]]:
    """Return the changes of one host, or raise what Ansible shows without a traceback."""
    try:
        return host_changes(plan, previous, actions, serving, drained or {})
    except (NumapinError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"rollout_changes was given something that is not a plan: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"rollout_changes": changes_of}
