# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: all hosts of the fleet in, the groups out that serve one instance together."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_groups
short_description: Find the hosts that serve one instance together
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Joins hosts to groups for the models that have the key C(hosts). Hosts of a group are alike, and groups of the last
    run are kept as far as their hosts are still there.
  - Every host comes to the same groups, as all are given the same.
options:
  _input:
    description:
      - All hosts of the inventory's group, in its order - for each its C(models), its topology C(facts), the C(address)
        and, when it is not to be found from that, the C(interface) of the traffic between hosts, the IP addresses by
        C(interfaces), its C(previous) plan, the C(first_port) of its group's own ports, and C(why_not) where nothing is
        known of it. C(settings) are C(reserved_cpus), C(housekeeping_cores), C(balancer_cores) and
        C(reserved_memory_mib) as for P(numapin.inference.plan_instances#filter).
    type: dict
    required: true
  fail:
    description:
      - Whether hosts that cannot be joined as asked are an error.
      - When V(false), what is wrong is returned as C(problems), beside no group at all.
    type: bool
    default: true
seealso:
  - plugin: numapin.inference.plan_instances
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Find the groups
  ansible.builtin.set_fact:
    fleet: "{{ hosts | numapin.inference.plan_groups }}"
"""

RETURN = r"""
_value:
  description: The C(groups), C(warnings) by host, and C(problems).
  type: dict
  sample:
    groups:
      - name: big-g0
        model: big
        hosts: [gpu1, gpu2]
        first_port: 29500
        members:
          - {host: gpu1, address: 192.0.2.11, interface: eth1}
          - {host: gpu2, address: 192.0.2.12, interface: eth1}
    warnings: {}
    problems: []
"""

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.filter.plan_instances import AddressError, number, resolve
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._groups import Candidate, GroupsError, plan_groups
from ansible_collections.numapin.inference.plugins.plugin_utils._machine import read_machine
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import Settings, kept_from


def groups(hosts: Mapping[str, Mapping[str, t.Any]], fail: bool = True) -> dict[str, t.Any]:
    """Return the groups of the fleet; what cannot be joined is raised, or returned as ``problems``."""
    try:
        found, warnings = plan_groups([_candidate(name, about) for name, about in hosts.items()])
    except NumapinError as error:
        if not fail:
            problems = error.problems if isinstance(error, GroupsError) else (str(error),)
            return {"groups": [], "warnings": {}, "problems": list(problems)}
        raise AnsibleFilterError(str(error)) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"plan_groups was given something it cannot use: {error!r}") from error
    return {"groups": found, "warnings": warnings, "problems": []}


def _candidate(name: str, about: Mapping[str, t.Any]) -> Candidate:
    """A host as it is known; of what it refuses on its own its plan tells, so that here it only is not there."""
    why_not = str(about.get("why_not") or "")
    machine, address = None, ""
    if not why_not:
        try:
            settings: dict[str, t.Any] = {key: number(value) for key, value in about["settings"].items()}
            # A single CPU is a number in YAML, and none may be said as null.
            reserved = about["settings"].get("reserved_cpus")
            settings["reserved_cpus"] = "" if reserved is None else str(reserved)
            machine = read_machine(about["facts"], kept_from(Settings(**settings), name))
            address = resolve(name, about["address"])
        except AddressError as error:
            why_not, machine = str(error), None
        except NumapinError as error:
            why_not = str(error)
    return Candidate(
        name=name,
        models=about["models"],
        machine=machine,
        address=address,
        interfaces=about.get("interfaces"),
        interface=str(about.get("interface") or ""),
        previous=about.get("previous"),
        first_port=number(about.get("first_port", 29500)),
        why_not=why_not,
    )


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"plan_groups": groups}
