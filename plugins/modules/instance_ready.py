#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_ready
short_description: Wait until vLLM instances really serve, and say why one does not
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - An instance is ready when its unit is active, C(/health) answers 200, C(/v1/models) names its model, and a
    completion of one token comes back. For a model that offers no completions, such as an embedding model, its name is
    enough.
  - Waits until all instances are ready, one of them has failed, or O(timeout_seconds) are over.
  - Of an instance that failed it returns the cause from the journal. vLLM logs that far above its last lines.
  - The module does not fail because of an instance; look at RV(ready) and RV(instances).
extends_documentation_fragment:
  - numapin.inference.attributes.looking
attributes:
  idempotent:
    details:
      - This module changes nothing. An answer depends on the moment it is asked for.
  platform:
    details:
      - It needs systemd as the init system.
options:
  instances:
    description: The instances to wait for.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the instance.
        type: str
        required: true
      unit:
        description: Name of its systemd unit.
        type: str
        required: true
      url:
        description: Where it listens, such as V(http://192.0.2.11:8000). Proxies are not used.
        type: str
        required: true
      model:
        description: Name of the model that it must serve.
        type: str
        required: true
      restarts:
        description:
          - How many times systemd had restarted it before the wait began; these are not held against it.
          - The module M(numapin.inference.vllm_units) returns it for every unit.
        type: int
        default: 0
  api_key:
    description: Key of the instances, when they want one.
    type: str
  timeout_seconds:
    description: How long this call waits, in seconds. With V(0) it looks once.
    type: int
    default: 300
  restarts_allowed:
    description: How many times systemd may have restarted an instance that is not ready before it counts as failed.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Wait until both instances serve
  numapin.inference.instance_ready:
    instances:
      - name: tiny-n0
        unit: vllm@tiny-n0.service
        url: http://192.0.2.11:8000
        model: tiny
      - name: tiny-n1
        unit: vllm@tiny-n1.service
        url: http://192.0.2.11:8001
        model: tiny
    api_key: "{{ vllm_api_key }}"
    timeout_seconds: 600
  register: result
  failed_when: not result.ready
"""

RETURN = r"""
ready:
  description: Whether all instances are ready.
  returned: success
  type: bool
  sample: false
summary:
  description: One line that says how many are ready, and how the others are.
  returned: success
  type: str
  sample: "1 of 2 ready; tiny-n1 loading: it does not listen yet"
instances:
  description: How each instance is, in the order they were given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instance.
      type: str
    unit:
      description: Name of its unit.
      type: str
    state:
      description:
        - V(ready); V(loading), when it is not ready yet; V(failed), when it will not become ready by waiting;
          V(absent), when its unit does not exist or is stopped.
      type: str
    detail:
      description: What was found last, of a failed one with the cause.
      type: str
    seconds:
      description: How long this call watched it until it was ready, or altogether, in seconds.
      type: float
    restarts:
      description: How many times systemd has restarted it since it was last started by hand.
      type: int
    log:
      description:
        - Lines of the journal. Of a failed instance first those that say the cause, then V(...) and the last 20 lines;
          of a loading one the last 20 lines; else none. The API key never appears.
      type: list
      elements: str
  sample:
    - name: tiny-n1
      unit: vllm@tiny-n1.service
      state: loading
      detail: it does not listen yet
      seconds: 20.1
      restarts: 0
      log: []
"""

import typing as t
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._readiness import (
    READY,
    Instance,
    ReadinessError,
    check_instances,
    summary,
    wait_until_ready,
)
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd


def main() -> t.NoReturn:
    """Module entry point."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "instances": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": text,
                    "unit": text,
                    "url": text,
                    "model": text,
                    "restarts": {"type": "int", "default": 0},
                },
            },
            "api_key": {"type": "str", "no_log": True},
            "timeout_seconds": {"type": "int", "default": 300},
            "restarts_allowed": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    instances = [Instance(**given) for given in params["instances"]]
    try:
        for option in ("timeout_seconds", "restarts_allowed"):
            if params[option] < 0:
                raise ReadinessError(f"{option} is {params[option]}: it must be 0 or more")
        check_instances(instances)
        answers = wait_until_ready(
            instances,
            Systemd(),
            api_key=params["api_key"],
            timeout_seconds=params["timeout_seconds"],
            restarts_allowed=params["restarts_allowed"],
        )
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        ready=all(answer.state == READY for answer in answers),
        summary=summary(answers),
        instances=[{**asdict(answer), "log": list(answer.log)} for answer in answers],
    )


if __name__ == "__main__":
    main()
