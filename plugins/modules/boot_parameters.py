#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: boot_parameters
short_description: Give the kernel parameters for the next boot, and be able to take them away again
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - For what a running kernel cannot be told, such as isolated CPUs or many pages of 1 GiB.
  - On Debian and its relatives the parameters stand in C(/etc/default/grub.d/90-numapin.cfg), and C(update-grub) is
    run. On Fedora, RHEL and theirs C(grubby) adds them to every kernel.
  - Where C(grubby) is used, a parameter counts as somebody else's when every kernel has it.
  - Parameters of an earlier run that are no longer given are taken away. Those that others gave are left alone.
  - The host is not booted.
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  diff_mode:
    details:
      - Shows the file, or the parameters that come and go.
options:
  state:
    description:
      - V(present) gives exactly O(parameters).
      - V(restored) takes away what this module gave.
    type: str
    choices: [present, restored]
    default: present
  parameters:
    description: The parameters, one word each, such as V(isolcpus=managed_irq,1-3). Their order is kept.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Reserve pages of 1 GiB while memory is in one piece
  numapin.inference.boot_parameters:
    parameters: ["hugepagesz=1G", "hugepages=0:8,1:8"]
"""

RETURN = r"""
loader:
  description: What was told, V(grub) or V(grubby). Null where nothing was to be done.
  returned: success
  type: str
  sample: grub
not_yet:
  description: Parameters that the running kernel was not given, so that a reboot is needed.
  returned: success
  type: list
  elements: str
  sample: ["hugepagesz=1G", "hugepages=0:8,1:8"]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._boot_parameters import BootParameters
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored"], "default": "present"},
            "parameters": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    parameters = module.params["parameters"] if module.params["state"] == "present" else []
    try:
        done = BootParameters(Host(), check_mode=module.check_mode).converge(parameters)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    for warning in done.warnings:
        module.warn(warning)
    module.exit_json(**done.answer("kernel parameters", module._diff))


if __name__ == "__main__":
    main()
