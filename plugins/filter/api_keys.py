# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: api_keys
short_description: Turn a balancer's API keys into digests and classes of limits
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Checks the clients of role P(numapin.inference.load_balancer#role) and returns what nginx needs of them. Keys become
    their SHA-256, and clients with the same limits share a zone.
  - What cannot be used is refused, all of it at once, without a key in the message.
options:
  _input:
    description:
      - Clients, each with its C(name), its C(keys) or their digests in C(sha256), and, where they are its own, the
        limits C(requests_per_second), C(burst) and C(streams).
      - Empty means that everybody is let in, and that the limits are for every address.
    type: list
    elements: dict
    required: true
  requests_per_second:
    description: Requests per second of a client that has no such limit of its own. V(0) is no limit.
    type: float
    default: 0
  burst:
    description: How many requests a client may be ahead of its rate.
    type: int
    default: 0
  streams:
    description: Requests that a client may have under way at once. V(0) is no limit.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: See how clients are limited
  ansible.builtin.debug:
    msg: "{{ (load_balancer_keys | numapin.inference.api_keys(requests_per_second=5, burst=10)).rates }}"
"""

RETURN = r"""
_value:
  description: Digests of keys and classes of limits.
  type: dict
  contains:
    digests:
      description: One entry per key, C(sha256) and C(name).
      type: list
      elements: dict
    rates:
      description: Clients that share a rate, C(zone), C(per_minute), C(burst) and C(names).
      type: list
      elements: dict
    streams:
      description: Clients that share a number of streams, C(zone), C(limit) and C(names).
      type: list
      elements: dict
"""

import typing as t
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._api_keys import api_keys


def api_keys_filter(clients: Sequence[Mapping[str, t.Any]], **limits: t.Any) -> dict[str, t.Any]:
    """What nginx needs of ``clients``; what cannot be used becomes an error of the filter."""
    if (
        isinstance(clients, (str, Mapping))
        or not isinstance(clients, Sequence)
        or not all(isinstance(client, Mapping) for client in clients)
    ):
        raise AnsibleFilterError(
            "api_keys takes a list of clients, each {name: NAME, keys: [KEY]}; given was something else"
        )
    unknown = sorted(set(limits) - {"requests_per_second", "burst", "streams"})
    if unknown:
        raise AnsibleFilterError(
            f"api_keys got {', '.join(unknown)}: allowed are requests_per_second, burst and streams"
        )
    try:
        return api_keys(clients, **limits)
    except NumapinError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filter, for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"api_keys": api_keys_filter}
