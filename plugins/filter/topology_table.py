# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the topology of a host as a text table for people."""

from __future__ import annotations

DOCUMENTATION = r"""
name: topology_table
short_description: Show the NUMA topology of a host as a text table
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Lays out what P(numapin.inference.numa_facts#module) found, as C(numactl -H) and C(nvidia-smi topo -m) would,
    together. GPUs are numbered by their PCI address. Virtual functions of network devices are left out, and so are
    parts that were not gathered.
  - Memory is in MiB. What is unknown is shown as C(-).
options:
  _input:
    description: The facts of one host, C(ansible_facts['numa']).
    type: dict
    required: true
seealso:
  - module: numapin.inference.numa_facts
"""

EXAMPLES = r"""
- name: Read the topology
  numapin.inference.numa_facts:

- name: Show it
  ansible.builtin.debug:
    msg: "{{ (ansible_facts['numa'] | numapin.inference.topology_table).splitlines() }}"
"""

RETURN = r"""
_value:
  description: Nodes, distances, GPUs and warnings, as text of several lines without a newline at the end.
  type: str
  sample: |-
    node  kind            packages  CPUs  CPU list     memory MiB  free MiB  GPUs
    ----  --------------  --------  ----  -----------  ----------  --------  ----
       0  cpu and memory  0           64  0-31,64-95       515000    500000     4
       1  cpu and memory  1           64  32-63,96-127     516000    501000     4

    node distances
    node   0   1
    ----  --  --
       0  10  21
       1  21  10
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._topology_table import topology_table


def show(numa: object) -> str:
    """Return the table, or raise what Ansible shows without a traceback."""
    try:
        return topology_table(numa)
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"topology_table": show}
