#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify_timer
short_description: Repeat the proof of placement on the host, without Ansible
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Puts a systemd timer on the host that holds the instances against the plan as applied (C(/etc/numapin/plan.json)),
    and kernel settings, huge pages and interrupts against what was tuned.
  - Each run leaves C(/run/numapin/verify.json), which says all that was found, and C(/run/numapin/verify.prom), the
    same as metrics in Prometheus' text format. Differences stand in the journal of C(numapin-verify.service), a line
    when one comes and a line when it goes.
  - The service does not fail because of differences, unless O(fail_on_drift=true) asks for it. It fails when the proof
    cannot be made.
  - Returns what the timer saw last, before this run.
requirements:
  - systemd
attributes:
  check_mode:
    support: full
    description: Gives the same answer and writes nothing.
  diff_mode:
    support: full
    description: Shows units and settings that change; the program only by its name.
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
      - V(present) installs the timer and starts it.
      - V(absent) stops it and removes all of it, with what its runs have left.
    type: str
    choices: [present, absent]
    default: present
  interval_seconds:
    description: How often the proof is made, in seconds, from 5 to 86400.
    type: int
    default: 60
  minimum_locality_percent:
    description: As in M(numapin.inference.placement_info).
    type: float
    default: 99
  textfile_directory:
    description:
      - Directory of node_exporter's textfile collector. The metrics are also written there, to C(numapin.prom),
        whenever the directory exists. It need not be root's.
      - When it changes, the file in the former one is removed.
      - Empty for none.
    type: str
    default: /var/lib/prometheus/node-exporter
  cpus:
    description: CPUs on which the program runs, as a cpulist, such as those that the plan keeps out of the instances.
    type: str
    default: ""
  fail_on_drift:
    description: Whether differences make the service fail, so that C(systemctl --failed) lists it.
    type: bool
    default: false
seealso:
  - module: numapin.inference.placement_info
  - module: numapin.inference.tuning_info
"""

EXAMPLES = r"""
- name: Repeat the proof every minute
  numapin.inference.verify_timer:
    cpus: 0,32

- name: Take the timer away
  numapin.inference.verify_timer:
    state: absent
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were (or in check mode would be) written.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/numapin-verify.timer]
removed_files:
  description: Paths of the files that were (or in check mode would be) removed.
  returned: success
  type: list
  elements: str
  sample: []
timer:
  description: What became of the timer, V(started), V(restarted), V(stopped) or V(none).
  returned: success
  type: str
  sample: none
problems:
  description: What is wrong with the timer itself, such as that it has made no proof for long.
  returned: success
  type: list
  elements: str
  sample: []
last:
  description:
    - What the timer saw last, before this run, without the instances; V(null) when it has not run since the boot.
    - Its keys are those of C(/run/numapin/verify.json).
  returned: success
  type: dict
  sample: {success: true, ok: true, problems: [], recent: [], timestamp_seconds: 1793587200.2, interval_seconds: 60}
"""

import sys
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._verify_setup import VerifyTimer, now, wanted_timer


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "interval_seconds": {"type": "int", "default": 60},
            "minimum_locality_percent": {"type": "float", "default": 99},
            "textfile_directory": {"type": "str", "default": "/var/lib/prometheus/node-exporter"},
            "cpus": {"type": "str", "default": ""},
            "fail_on_drift": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        timer = VerifyTimer(
            wanted_timer(module.params) if module.params["state"] == "present" else None,
            python=sys.executable or "/usr/bin/python3",
            check_mode=module.check_mode,
        )
        last = timer.last(now())
        if timer.changed and not module.check_mode:
            timer.apply()
    except NumapinError as error:
        module.fail_json(msg=str(error))
    result: dict[str, t.Any] = {
        "changed": timer.changed,
        "changed_files": timer.changed_files,
        "removed_files": timer.removed_files,
        "timer": timer.action,
        "problems": last.problems,
        "last": last.state and {key: value for key, value in last.state.items() if key != "instances"},
    }
    if module._diff:
        result["diff"] = timer.diff()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
