# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the hosts' parts as the report of the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_report
short_description: Put the reports of hosts together
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Sorts and counts what P(numapin.inference.report_host#filter) returned for each host. The worst comes first.
  - A host that is expected and has no entry is unreachable.
options:
  _input:
    description: The hosts' entries.
    type: list
    elements: dict
    required: true
  expected:
    description: Names of the hosts that should have one.
    type: list
    elements: str
    default: []
  title:
    description: Title of the report.
    type: str
    required: true
  generated:
    description: When it was made, as ISO 8601.
    type: str
    required: true
  benchmarks:
    description: Results of benchmarks of the fleet, as in C(docs/report.md).
    type: list
    elements: dict
seealso:
  - plugin: numapin.inference.report_host
    plugin_type: filter
  - plugin: numapin.inference.report_page
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Put the reports of hosts together
  ansible.builtin.set_fact:
    report: >-
      {{ groups['inference'] | map('extract', hostvars, 'report_part') | select('defined')
         | numapin.inference.fleet_report(expected=groups['inference'], title='Fleet', generated='2026-11-25') }}
"""

RETURN = r"""
_value:
  description: The report, as in C(docs/report.md).
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._report_data import fleet_report


def put_together(hosts: t.Iterable[t.Any], **options: t.Any) -> dict[str, t.Any]:
    """Return the report, or raise what Ansible shows without a traceback."""
    try:
        return fleet_report(list(hosts), **options)
    except (NumapinError, TypeError) as error:
        raise AnsibleFilterError(f"fleet_report: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"fleet_report": put_together}
