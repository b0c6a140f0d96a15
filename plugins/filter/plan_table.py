# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the plans of some hosts as a text table for people."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_table
short_description: Show placement plans as a text table
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Lays out what P(numapin.inference.plan_instances#filter) returned, one line per instance, followed by the plans'
    warnings.
  - A GPU or MIG device is shown by the beginning of its UUID. What an instance does not have is shown as C(-).
options:
  _input:
    description: The plan of one host, or a list with the plans of several.
    type: raw
    required: true
  reasons:
    description: Whether to list, below the table, why every instance is where it is.
    type: bool
    default: false
seealso:
  - plugin: numapin.inference.plan_instances
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show who gets what on all inference hosts
  ansible.builtin.debug:
    msg: "{{ (plans | numapin.inference.plan_table).splitlines() }}"
  vars:
    plans: "{{ groups['inference'] | map('extract', hostvars, 'vllm_plan') | list }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: Instances and warnings, as text of several lines without a newline at the end.
  type: str
  sample: |-
    host  instance  model  node  CPUs           housekeeping  GPUs                       port
    ----  --------  -----  ----  -------------  ------------  -------------------------  ----
    gpu1  llama-n0  llama  0     1-31,65-95     0,64          GPU-2c9a7f10,GPU-81d3e4aa  8000
    gpu1  llama-n1  llama  1     33-63,97-127   32,96         GPU-f00dcafe,GPU-90b1c2d3  8001
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._plan_table import plan_table


def show(plans: object, reasons: bool = False) -> str:
    """Return the table, or raise what Ansible shows without a traceback."""
    try:
        return plan_table(plans, reasons)
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"plan_table": show}
