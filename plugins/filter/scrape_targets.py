# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: the hosts' plans as targets for Prometheus."""

from __future__ import annotations

DOCUMENTATION = r"""
name: scrape_targets
short_description: Say what Prometheus scrapes
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Returns, by job, what a file for Prometheus' C(file_sd_configs) holds - node_exporter, nginx' exporter, every
    planned instance of vLLM, and DCGM's exporter.
options:
  _input:
    description: >-
      The hosts, each with C(name), C(address), C(plan), C(node_port), C(nginx_port), C(dcgm_port) and
      C(nginx_address) where nginx' exporter has one of its own. What has no port is not scraped.
    type: list
    elements: dict
    required: true
  scraper:
    description: Name of the host on which Prometheus runs. Instances that listen on loopback are scraped there only.
    type: str
"""

EXAMPLES = r"""
- name: Show what would be scraped
  ansible.builtin.debug:
    msg: "{{ [host] | numapin.inference.scrape_targets }}"
  vars:
    host: {name: gpu1, address: 192.0.2.11, plan: "{{ vllm_plan }}", node_port: 9100}
"""

RETURN = r"""
_value:
  description: Groups of targets by job.
  type: dict
  sample:
    node: [{targets: ["192.0.2.11:9100"], labels: {host: gpu1}}]
    nginx: []
    dcgm: []
    vllm: [{targets: ["192.0.2.11:8000"], labels: {host: gpu1, vllm_instance: llama-n0, model: llama}}]
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._monitoring import scrape_targets


def targets(hosts: t.Sequence[t.Mapping[str, t.Any]], scraper: str | None = None) -> dict[str, t.Any]:
    """Return the targets, or raise what Ansible shows without a traceback."""
    try:
        return scrape_targets(list(hosts), scraper=scraper)
    except (NumapinError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"scrape_targets: {type(error).__name__}: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"scrape_targets": targets}
