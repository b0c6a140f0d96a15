# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the result of a benchmark as text."""

from __future__ import annotations

DOCUMENTATION = r"""
name: benchmark_table
short_description: Show the result of a benchmark as text
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Takes what P(numapin.inference.benchmark_result#filter) returns.
options:
  _input:
    description: The result.
    type: dict
    required: true
seealso:
  - plugin: numapin.inference.benchmark_result
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the result
  ansible.builtin.debug:
    msg: "{{ (found | numapin.inference.benchmark_table).splitlines() }}"
  vars:
    found: "{{ lookup('ansible.builtin.file', 'numapin-benchmarks/gpu1.json') | from_json }}"
"""

RETURN = r"""
_value:
  description: The text.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.plugin_utils._benchmark import table


def benchmark_table(result: t.Any) -> str:
    """Return the text, or raise what Ansible shows without a traceback."""
    try:
        return table(result)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnsibleFilterError(
            f"this is no result of the filter benchmark_result ({type(error).__name__}: {error})"
        ) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"benchmark_table": benchmark_table}
