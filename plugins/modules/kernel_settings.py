#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kernel_settings
short_description: Set what the kernel does with memory and clocks, now and at boot, and be able to undo it
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Sets sysctls, the mode of transparent huge pages, the cpufreq governor and NVIDIA's persistence mode, reads each
    back, and writes them down for the next boot (C(/etc/sysctl.d/90-numapin.conf), C(/etc/tmpfiles.d/numapin.conf)).
  - A setting that this kernel does not have is told as V(unsupported); it is no failure.
  - Whoever gives one of them another value is named, a file of C(sysctl.d) that is applied later or a profile of
    TuneD, which runs or starts at boot.
  - The values before the first change are kept in C(/var/lib/numapin). A setting that is no longer given goes back to
    what it was; with O(state=restored) all of them do.
  - When a value is refused, those that were set before it are put back.
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  check_mode:
    details:
      - Whether the kernel takes a value only the kernel can say.
  diff_mode:
    details:
      - Shows each value and each file that changes.
options:
  state:
    description:
      - V(present) sets what is given.
      - V(restored) puts everything back to what it was before this module first changed it; nothing else is given then.
    type: str
    choices: [present, restored]
    default: present
  sysctls:
    description:
      - Values by name, such as C(kernel.numa_balancing).
      - Sysctls of huge pages are refused, M(numapin.inference.hugepages) sets them.
    type: dict
    default: {}
  transparent_hugepage:
    description: When the kernel backs memory with huge pages by itself. V(madvise) is for programs that ask for it.
    type: str
    choices: [always, madvise, never]
  cpufreq_governor:
    description: How the clock of every CPU is chosen, such as V(performance).
    type: str
  nvidia_persistence:
    description: Run C(nvidia-persistenced), so that the first program on a GPU does not wait for NVIDIA's driver to
      set it up, and what is set on the GPU stays. Unsupported where it is not installed or the driver is not loaded.
    type: bool
    default: false
  persistent:
    description: Set everything again at every boot.
    type: bool
    default: true
seealso:
  - module: numapin.inference.hugepages
  - module: numapin.inference.tuning_info
"""

EXAMPLES = r"""
- name: Leave memory where it was placed
  numapin.inference.kernel_settings:
    sysctls:
      kernel.numa_balancing: 0
      vm.zone_reclaim_mode: 0
    transparent_hugepage: madvise

- name: As it was before
  numapin.inference.kernel_settings:
    state: restored
"""

RETURN = r"""
settings:
  description: Every setting that was given.
  returned: success
  type: list
  elements: dict
  sample: [{name: kernel.numa_balancing, wanted: '0', before: '1', after: '0', original: '1', state: changed, reason:
    null,
            competitors: []}]
  contains:
    name:
      description: Name of the sysctl, or V(transparent_hugepage), V(cpufreq_governor), V(nvidia_persistence).
      type: str
    wanted:
      description: The value that was given.
      type: str
    before:
      description: The value before. Of several cpufreq policies their different values.
      type: str
    after:
      description: The value now, read back. Null where it is unsupported.
      type: str
    original:
      description: The value before this module first changed it.
      type: str
    state:
      description: V(unchanged), V(changed) or V(unsupported).
      type: str
    reason:
      description: Why it is unsupported, on all CPUs or on some.
      type: str
    competitors:
      description: Who gives it another value, in sentences.
      type: list
      elements: str
restored:
  description: Settings that are no longer given and went back to what they were.
  returned: success
  type: list
  elements: str
  sample: []
unsupported:
  description: Names of the settings this kernel does not have.
  returned: success
  type: list
  elements: str
  sample: [cpufreq_governor]
competitors:
  description:
    - Who gives one of the settings another value, at boot or later. One that C(yields) is overridden by ours each time.
  returned: success
  type: list
  elements: dict
  sample: [{name: kernel.numa_balancing, source: /etc/sysctl.d/99-x.conf line 1, value: '1',
            sentence: /etc/sysctl.d/99-x.conf line 1 sets kernel.numa_balancing = 1, yields: false}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._kernel_settings import (
    KernelSettings,
    KernelSettingsError,
    parse_wanted,
)
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored"], "default": "present"},
            "sysctls": {"type": "dict", "default": {}},
            "transparent_hugepage": {"type": "str", "choices": ["always", "madvise", "never"]},
            "cpufreq_governor": {"type": "str"},
            "nvidia_persistence": {"type": "bool", "default": False},
            "persistent": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        wanted = parse_wanted(
            params["sysctls"],
            params["transparent_hugepage"],
            params["cpufreq_governor"],
            params["nvidia_persistence"],
        )
        if params["state"] == "restored" and wanted:
            raise KernelSettingsError(f"state: restored takes no settings: leave out {', '.join(wanted)}")
        done = KernelSettings(Host(), Systemd(), check_mode=module.check_mode).converge(
            wanted, persistent=params["persistent"]
        )
    except NumapinError as error:
        module.fail_json(msg=str(error))
    for warning in done.warnings:
        module.warn(warning)
    module.exit_json(**done.answer("kernel settings", module._diff))


if __name__ == "__main__":
    main()
