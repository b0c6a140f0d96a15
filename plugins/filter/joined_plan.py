# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the plan of a host with what it has to know of the leaders of its instances."""

from __future__ import annotations

DOCUMENTATION = r"""
name: joined_plan
short_description: Complete a host's plan with what its leaders planned
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Fills in port and URL of the instances that the host is a member of and another host leads.
  - A plan without such instances is returned as it is.
positional: plans
options:
  _input:
    description: The plan of the host.
    type: dict
    required: true
  plans:
    description: The plans of all hosts, by host.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Complete the plan
  ansible.builtin.set_fact:
    vllm_plan: "{{ planned | numapin.inference.joined_plan(plans) }}"
"""

RETURN = r"""
_value:
  description: The plan.
  type: dict
"""

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import joined


def joined_plan(plan: Mapping[str, t.Any], plans: Mapping[str, Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Return the plan, or raise what Ansible shows without a traceback."""
    try:
        return joined(plan, plans)
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"joined_plan was given something it cannot use: {error!r}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"joined_plan": joined_plan}
