# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: upstreams
short_description: Turn the plans of all hosts into a balancer's upstreams
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Returns one upstream per model with one server per planned instance, in the order in which the plans first name the
    models.
  - Plans that cannot be balanced are refused - no instance at all, an address that is not an IP address, or two
    instances with one endpoint.
positional: _input, ready, drained
options:
  _input:
    description: The plans, as P(numapin.inference.plan_instances#filter) makes them, one per host.
    type: list
    elements: dict
    required: true
  ready:
    description:
      - For each host the names of the instances that were found ready in this run, or V(null) where the run did not get
        that far. An instance that is not listed is down.
      - When it is V(null) for every host, this run touched no instance, and all are taken as up.
    type: dict
    default: {}
  drained:
    description:
      - For each host the records of its drained instances, as M(numapin.inference.instance_drain) returns them. These
        instances are down.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: See what a balancer would balance
  ansible.builtin.debug:
    msg: "{{ groups['inference'] | map('extract', hostvars, 'vllm_plan') | numapin.inference.upstreams }}"
"""

RETURN = r"""
_value:
  description: One entry per model.
  type: list
  elements: dict
  contains:
    model:
      description: Name of the model.
      type: str
      sample: tiny
    name:
      description: Name of the upstream, unlike any other model's.
      type: str
      sample: numapin_tiny
    served_names:
      description: Names under which clients ask for the model.
      type: list
      elements: str
      sample: [tiny]
    servers:
      description: The instances, each with its C(instance), C(host), C(endpoint), C(weight), C(down) and C(reason).
      type: list
      elements: dict
      sample:
        - instance: tiny-n0
          host: gpu1
          endpoint: 192.0.2.11:8000
          weight: 2
          down: false
          reason:
"""

import typing as t
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._upstreams import upstreams


def upstreams_filter(
    plans: Sequence[Mapping[str, t.Any]],
    ready: Mapping[str, Sequence[str] | None] | None = None,
    drained: Mapping[str, Mapping[str, Mapping[str, t.Any]]] | None = None,
) -> list[dict[str, t.Any]]:
    """The upstreams of ``plans``; what cannot be balanced becomes an error of the filter."""
    if isinstance(plans, str) or not isinstance(plans, Sequence):
        raise AnsibleFilterError(f"upstreams takes a list of plans, given was {type(plans).__name__}")
    try:
        return upstreams(plans, ready, drained)
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from None
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(
            f"upstreams was given something that is not a plan ({error!r}): "
            "give what plan_instances returned, one per host"
        ) from None


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"upstreams": upstreams_filter}
