# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: topology and plan of a host as metrics."""

from __future__ import annotations

DOCUMENTATION = r"""
name: placement_metrics
short_description: Show topology and plan as metrics for Prometheus
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Returns text for node_exporter's textfile collector.
  - Its metric C(numapin_cpu_node) says of every CPU on which node it is, and for whom the plan keeps it. With it, what
    is counted by CPU, such as interrupts, can be summed up by node.
options:
  _input:
    description: The topology, C(ansible_facts['numa']).
    type: dict
    required: true
  plan:
    description: The plan, C(vllm_plan).
    type: dict
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ ansible_facts['numa'] | numapin.inference.placement_metrics(plan=vllm_plan) }}"
"""

RETURN = r"""
_value:
  description: The metrics.
  type: str
  sample: |
    # HELP numapin_cpu_node The NUMA node of a CPU, and for whom the plan keeps it.
    # TYPE numapin_cpu_node gauge
    numapin_cpu_node{cpu="0",node="0",role="housekeeping"} 1
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._monitoring import placement_metrics


def metrics(numa: t.Mapping[str, t.Any], plan: t.Mapping[str, t.Any] | None = None) -> str:
    """Return the metrics, or raise what Ansible shows without a traceback."""
    try:
        return placement_metrics(numa, plan)
    except (NumapinError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"placement_metrics: {type(error).__name__}: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"placement_metrics": metrics}
