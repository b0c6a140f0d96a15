#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vllm_units
short_description: Run exactly these vLLM instances, each with its present configuration
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Makes the given instances of a systemd template unit enabled and running, and stops and disables every other one.
  - A restart is decided by the variable E(NUMAPIN_CONFIG_ID) in the environment that the unit's running main process
    was started with. It is compared with O(instances[].config_id). So a run that was interrupted between writing the
    configuration and restarting is finished by the next one.
  - Units start and restart in parallel. This module waits until their start jobs are done, not until the model is
    loaded; see M(numapin.inference.instance_ready).
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  check_mode:
    details:
      - Units that do not exist yet are to be started.
  diff_mode:
    details:
      - Shows the state of each unit that changes.
  idempotent:
    details:
      - A unit that has failed in between is started again.
  platform:
    details:
      - It needs systemd as the init system.
options:
  instances:
    description:
      - The instances that shall run on this host. All others of O(template) are stopped and disabled.
      - With an empty list O(target) is stopped and disabled as well.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the instance, what stands between V(@) and V(.service) in the name of its unit.
        type: str
        required: true
      config_id:
        description: The value of E(NUMAPIN_CONFIG_ID) in the unit's environment file.
        type: str
        required: true
  hold:
    description:
      - Names of instances that are left exactly as they are - neither started, restarted, stopped, nor enabled -
        whether they are among O(instances) or not. A rollout changes them one after the other.
    type: list
    elements: str
    default: []
  template:
    description: Name of the template unit, up to its V(@).
    type: str
    default: vllm@
  target:
    description: The target unit that wants all instances. It is enabled and started with them.
    type: str
    default: vllm.target
  timeout_seconds:
    description:
      - How long to wait for start jobs, in seconds. To a stop or restart the unit's own stop timeout is added.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Run the two instances of the plan
  numapin.inference.vllm_units:
    instances:
      - name: tiny-n0
        config_id: 3f786850e387550fdab836ed7e6dc881de23001b
      - name: tiny-n1
        config_id: 89e6c98d92887913cadf06b2adb97f26cde4849b

- name: Stop every instance of this host
  numapin.inference.vllm_units:
    instances: []
"""

RETURN = r"""
actions:
  description:
    - One entry for each given instance, then for each that is held back, then for each that is no longer wanted.
  returned: always
  type: list
  elements: dict
  contains:
    unit:
      description: Name of the unit.
      type: str
    action:
      description: What was (or in check mode would be) done - V(none), V(start), V(restart) or V(stop).
      type: str
    reason:
      description: Why.
      type: str
    restarts:
      description: How many times systemd has restarted it by itself. V(0) for a unit that this module starts.
      type: int
  sample:
    - unit: vllm@tiny-n0.service
      action: restart
      reason: it runs with another configuration
      restarts: 0
reloaded:
  description: Whether systemd had to read its unit files again.
  returned: success
  type: bool
  sample: true
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._systemd import (
    Systemd,
    SystemdError,
    UnitsPlan,
    converge,
    plan_units,
    unit_names,
)


def diff(plan: UnitsPlan, target: str) -> dict[str, str]:
    """The units that change, one line each, before and after."""
    before: list[str] = ["systemd: unit files changed on disk\n"] if plan.reload else []
    after: list[str] = ["systemd: unit files read again\n"] if plan.reload else []
    for action in plan.actions:
        changes = action.action != "none" or action.unit in (*plan.enable, *plan.disable)
        if changes:
            off = " (not enabled)" if action.unit in plan.enable and action.before != "absent" else ""
            before.append(f"{action.unit}: {action.before}{off}\n")
            after.append(f"{action.unit}: {action.after}\n")
    for units, was, will in ((plan.enable, "not enabled", "enabled"), (plan.disable, "enabled", "not enabled")):
        if target in units:
            before.append(f"{target}: {was}\n")
            after.append(f"{target}: {will}\n")
    for acts, was, will in ((plan.start_target, "inactive", "active"), (plan.stop_target, "active", "inactive")):
        if acts:
            before.append(f"{target}: {was}\n")
            after.append(f"{target}: {will}\n")
    return {"before_header": "units", "after_header": "units", "before": "".join(before), "after": "".join(after)}


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "instances": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "config_id": {"type": "str", "required": True, "no_log": True},
                },
            },
            "hold": {"type": "list", "elements": "str", "default": []},
            "template": {"type": "str", "default": "vllm@"},
            "target": {"type": "str", "default": "vllm.target"},
            "timeout_seconds": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    target = params["target"]
    systemd = Systemd()
    result: dict[str, t.Any] = {"changed": False, "actions": []}
    try:
        if params["timeout_seconds"] < 1:
            raise SystemdError(f"timeout_seconds is {params['timeout_seconds']}: it must be 1 or more")
        if not target.endswith(".target"):
            raise SystemdError(f"target {target!r} must be the name of a target unit, such as vllm.target")
        instances = [(one["name"], one["config_id"]) for one in params["instances"]]
        held = list(unit_names([(name, "held") for name in params["hold"]], params["template"]))
        given = unit_names(instances, params["template"])
        wanted = {unit: config_id for unit, config_id in given.items() if unit not in held}
        plan = plan_units(systemd, wanted, params["template"], target, held)
        result["changed"] = plan.changed
        result["actions"] = [
            {"unit": act.unit, "action": act.action, "reason": act.reason, "restarts": act.restarts}
            for act in plan.actions
        ]
        result["reloaded"] = plan.reload
        if module._diff and plan.changed:
            result["diff"] = diff(plan, target)
        if plan.changed and not module.check_mode:
            converge(systemd, plan, wanted, target, params["timeout_seconds"])
    except NumapinError as error:
        module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
