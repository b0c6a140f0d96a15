# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: what is known of one host as its part of the report."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report_host
short_description: Put together what a report says about one host
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Takes the topology, the plan and what the role P(numapin.inference.verify#role) found, each as far as it is known,
    and returns the host's entry of the report. Its shape is in C(docs/report.md).
  - An instance's environment and vLLM's arguments may hold secrets, and are left out.
options:
  _input:
    description: Name of the host.
    type: str
    required: true
  roles:
    description: What the host is for, of V(inference) and V(load_balancer).
    type: list
    elements: str
    default: [inference]
  numa:
    description: The topology, C(ansible_facts['numa']).
    type: dict
  plan:
    description: The plan, C(vllm_plan).
    type: dict
  verified:
    description: What was found, C(verify_result).
    type: dict
  vectors:
    description: Where interrupts land, C(vectors) of P(numapin.inference.irq_info#module).
    type: list
    elements: dict
  benchmarks:
    description: Results of benchmarks on this host, as in C(docs/report.md).
    type: list
    elements: dict
  error:
    description: Why the host could not be looked at.
    type: str
seealso:
  - plugin: numapin.inference.fleet_report
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Note what the report says about this host
  ansible.builtin.set_fact:
    report_part: "{{ inventory_hostname | numapin.inference.report_host(numa=ansible_facts['numa'], plan=vllm_plan) }}"
"""

RETURN = r"""
_value:
  description: The host's entry of the report.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._report_data import host_report


def report_host(name: str, **known: t.Any) -> dict[str, t.Any]:
    """Return the host's entry, or raise what Ansible shows without a traceback."""
    try:
        return host_report(name, **known)
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise AnsibleFilterError(
            f"{name}: the report cannot read what is known of it ({type(error).__name__}: {error}); gather it with the"
            " modules and roles of this version of the collection"
        ) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"report_host": report_host}
