# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the report of the fleet as one HTML file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report_page
short_description: Show the report of a fleet as one HTML file
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Returns a page that needs nothing besides itself. Whatever hosts and users named is data in it, and never markup.
options:
  _input:
    description: The report, as P(numapin.inference.fleet_report#filter) returns it.
    type: dict
    required: true
  template:
    description: Jinja template of the page. Values are escaped in it.
    type: str
    required: true
  style:
    description: The page's style sheet.
    type: str
    required: true
  scripts:
    description: The page's scripts, one behind the other.
    type: list
    elements: str
    required: true
seealso:
  - plugin: numapin.inference.fleet_report
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    content: "{{ report | numapin.inference.report_page(template=template, style=style, scripts=[script]) }}"
    dest: report.html
    mode: "0640"
  vars:
    template: "{{ lookup('ansible.builtin.file', 'page/page.html.j2') }}"
    style: "{{ lookup('ansible.builtin.file', 'page/style.css') }}"
    script: "{{ lookup('ansible.builtin.file', 'page/page.js') }}"
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._report_page import report_page


def show(report: object, template: str, style: str, scripts: t.Sequence[str]) -> str:
    """Return the page, or raise what Ansible shows without a traceback."""
    try:
        return report_page(report, template=template, style=style, scripts=scripts)
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"report_page": show}
