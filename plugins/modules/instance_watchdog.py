#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_watchdog
short_description: Have vLLM instances that hang killed and started again on the host, without Ansible
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Puts a service on the host that looks at every instance of the plan as applied (C(/etc/numapin/plan.json)) every few
    seconds. One that hangs is killed with SIGKILL, all of its processes, and systemd starts it again.
  - An instance hangs that has requests and whose engine has computed nothing for O(stalled_seconds) without a break,
    and then does not bring one token when it is asked for one either. What an engine computes its own counters say -
    tokens given, prompts read, steps, the share of the KV cache in use - so one that reads a long prompt does not hang.
    Or an instance hangs that listens and leaves C(/health) without an answer for as long.
  - Left alone is what does not listen (it loads, or is down), whose counters cannot be read, and what a person has
    drained.
  - Lines in the journal of C(numapin-watchdog.service) say what was killed and why; C(/run/numapin/watchdog.json) and
    the metrics how often, and when last.
requirements:
  - systemd
attributes:
  check_mode:
    support: full
    description: Gives the same answer and writes nothing.
  diff_mode:
    support: full
    description: Shows unit and settings that change; the program only by its name.
  idempotent:
    support: full
    description: A second run with the same options changes nothing.
  platform:
    support: full
    platforms: linux
    description: The systems this module runs on.
options:
  state:
    description:
      - V(present) installs the service and starts it.
      - V(absent) stops it and removes all of it, with what it has left.
    type: str
    choices: [present, absent]
    default: present
  stalled_seconds:
    description:
      - How long an instance may compute nothing for its requests, in seconds, from 10 to 86400.
      - Longer than one step of the engine takes, such as reading C(max_num_batched_tokens) of a prompt.
    type: int
    default: 120
  textfile_directory:
    description:
      - Directory of node_exporter's textfile collector. Metrics are written there, to C(numapin-watchdog.prom),
        whenever the directory exists.
      - Empty for none.
    type: str
    default: /var/lib/prometheus/node-exporter
  cpus:
    description: CPUs on which the service runs, as a cpulist, such as those that the plan keeps out of the instances.
    type: str
    default: ""
seealso:
  - module: numapin.inference.instance_traffic
  - module: numapin.inference.vllm_units
"""

EXAMPLES = r"""
- name: Have instances that hang started again
  numapin.inference.instance_watchdog:
    stalled_seconds: 120
    cpus: 0,32

- name: Take the watchdog away
  numapin.inference.instance_watchdog:
    state: absent
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were (or in check mode would be) written.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/numapin-watchdog.service]
removed_files:
  description: Paths of the files that were (or in check mode would be) removed.
  returned: success
  type: list
  elements: str
  sample: []
service:
  description: What became of the service, V(started), V(restarted), V(stopped) or V(none).
  returned: success
  type: str
  sample: none
"""

import sys
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._watchdog_setup import WatchdogService, wanted_watchdog


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "stalled_seconds": {"type": "int", "default": 120},
            "textfile_directory": {"type": "str", "default": "/var/lib/prometheus/node-exporter"},
            "cpus": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        service = WatchdogService(
            wanted_watchdog(module.params) if module.params["state"] == "present" else None,
            python=sys.executable or "/usr/bin/python3",
            check_mode=module.check_mode,
        )
        if service.changed and not module.check_mode:
            service.apply()
    except NumapinError as error:
        module.fail_json(msg=str(error))
    result: dict[str, t.Any] = {
        "changed": service.changed,
        "changed_files": service.changed_files,
        "removed_files": service.removed_files,
        "service": service.action,
    }
    if module._diff:
        result["diff"] = service.diff()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
