# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: measurements of a host's locality as verdicts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: benchmark_result
short_description: Make verdicts of what was measured
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Takes the measurements of P(numapin.inference.locality_benchmark#module) and returns medians and spread, a verdict
    with its interval for every placement that is compared with the first one, what to keep, and plots for the role
    P(numapin.inference.report#role). The shape is in C(docs/benchmark.md).
  - Placements are compared round by round. The interval is the exact one of Wilcoxon's signed-rank test at 95 %.
options:
  _input:
    description: RV(numapin.inference.locality_benchmark#module:measured).
    type: dict
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  generated:
    description: When it was measured.
    type: str
    required: true
  smallest_effect_percent:
    description: A smaller difference counts as none.
    type: float
    default: 2
  left_out:
    description: RV(numapin.inference.locality_benchmark#module:left_out).
    type: list
    elements: dict
    default: []
  settings:
    description: What it was measured with, to be written down beside it.
    type: dict
seealso:
  - module: numapin.inference.locality_benchmark
  - plugin: numapin.inference.benchmark_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the verdicts
  ansible.builtin.debug:
    msg: >-
      {{ (benchmark.measured | numapin.inference.benchmark_result(host=inventory_hostname, generated='today')).verdicts
         | map(attribute='text') }}
"""

RETURN = r"""
_value:
  description: The result.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._benchmark import result


def benchmark_result(
    measured: t.Any, host: str, generated: str, smallest_effect_percent: float = 2, **known: t.Any
) -> dict[str, t.Any]:
    """Return the result, or raise what Ansible shows without a traceback."""
    try:
        return result(
            measured,
            host=host,
            generated=generated,
            smallest_effect_percent=float(smallest_effect_percent),
            **known,
        )
    except NumapinError as error:
        raise AnsibleFilterError(f"{host}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnsibleFilterError(
            f"{host}: these are no measurements of the module locality_benchmark ({type(error).__name__}: {error})"
        ) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"benchmark_result": benchmark_result}
