#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_drain
short_description: Remember on a host which vLLM instances balancers shall not send requests to
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Keeps a record of each drained instance - since when, by a person or a rollout, why - in C(drained.json).
  - The module talks to no balancer. The role P(numapin.inference.load_balancer#role) renders drained instances as
    C(down).
  - For a rollout it also keeps the files that an instance had, and puts them back when the new ones do not work.
attributes:
  check_mode:
    support: full
    description: Gives the same answer and writes nothing.
  diff_mode:
    support: none
    description: Records are in RV(drained).
  idempotent:
    support: full
    description: A second run with the same options changes nothing.
  platform:
    support: full
    platforms: linux
    description: The systems this module runs on.
options:
  instances:
    description: Names of the instances.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(drained) records that they are out. Without O(rollout) a person wants it, and the record stays until a person
        ends it. With O(rollout) the record is the rollout's, and O(keep_files) are kept as they are now; what
        an unfinished rollout kept before is not overwritten.
      - V(undrained) ends that. Without O(rollout) for a person; with O(rollout) the rollout is done with them, and
        what it kept is forgotten. An instance that a person drained stays drained.
      - V(restored) puts the kept files back.
    type: str
    choices: [drained, undrained, restored]
    required: true
  reason:
    description: Why, in a few words.
    type: str
    default: ""
  rollout:
    description: Which rollout does this. Empty when a person does.
    type: str
    default: ""
  keep_files:
    description: For each instance the absolute paths of the files that the rollout may change.
    type: dict
    default: {}
  state_directory:
    description: Where records and kept files are.
    type: path
    default: /var/lib/numapin
"""

EXAMPLES = r"""
- name: Keep an instance out of the balancers
  numapin.inference.instance_drain:
    instances: [tiny-n0]
    state: drained
    reason: memory module to be exchanged
"""

RETURN = r"""
drained:
  description: The records of all drained instances of this host, by name.
  returned: success
  type: dict
  sample:
    tiny-n0:
      since: "2026-11-25T02:40:11Z"
      by: person
      reason: memory module to be exchanged
      rollout: ""
restored_files:
  description: Paths of the files that were put back.
  returned: success
  type: list
  elements: str
  sample: []
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._drained import (
    DrainedError,
    Drains,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY


def kept_files(given: dict[str, t.Any]) -> dict[str, list[str]]:
    """Return ``keep_files``; what is no list of absolute paths for each instance is refused."""
    for name, paths in given.items():
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise DrainedError(f"keep_files has {paths!r} for {name}: give a list of absolute paths for each instance")
    relative = sorted({path for paths in given.values() for path in paths if not os.path.isabs(path)})
    if relative:
        raise DrainedError(f"keep_files has {', '.join(relative)}: paths must be absolute")
    return given


def apply(drains: Drains, params: dict[str, t.Any]) -> None:
    """Do what ``state`` says."""
    names, rollout, reason = params["instances"], params["rollout"], params["reason"]
    files = kept_files(params["keep_files"])
    if params["state"] == "restored":
        drains.restore(names)
    elif params["state"] == "drained" and rollout:
        drains.begin(names, rollout, reason, files)
    elif params["state"] == "drained":
        drains.drain(names, reason)
    elif rollout:
        drains.close(names)
    else:
        drains.undrain(names)


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "undrained", "restored"], "required": True},
            "reason": {"type": "str", "default": ""},
            "rollout": {"type": "str", "default": ""},
            "keep_files": {"type": "dict", "default": {}},
            "state_directory": {"type": "path", "default": STATE_DIRECTORY},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    try:
        drains = Drains(params["state_directory"], check_mode=module.check_mode)
        apply(drains, params)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=drains.changed, drained=drains.records, restored_files=drains.restored_files)


if __name__ == "__main__":
    main()
