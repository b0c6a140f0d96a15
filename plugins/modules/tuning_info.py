#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: tuning_info
short_description: Say whether a host still is as it was tuned, and who fights that
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Holds the running kernel against what M(numapin.inference.kernel_settings) and M(numapin.inference.hugepages) wrote
    down when they tuned the host, and its interrupts against the rules that the service of
    M(numapin.inference.irq_affinity) keeps.
  - Names every value that is another now, and whoever will give it another one, a file of C(sysctl.d) that is applied
    later or a profile of TuneD, which runs or starts at boot.
extends_documentation_fragment:
  - numapin.inference.attributes.looking
options: {}
seealso:
  - module: numapin.inference.kernel_settings
  - module: numapin.inference.hugepages
  - module: numapin.inference.irq_affinity
  - module: numapin.inference.verify_timer
"""

EXAMPLES = r"""
- name: Ask whether the host still is as it was tuned
  numapin.inference.tuning_info:
  register: tuning
"""

RETURN = r"""
tuned:
  description: Whether the host was tuned at all, so as to last over a boot, its interrupts included.
  returned: success
  type: bool
  sample: true
problems:
  description: What is not as it was tuned, or will not stay so, in sentences.
  returned: success
  type: list
  elements: str
  sample: ["kernel.numa_balancing is 1, tuned was 0"]
kernel:
  description: Those of RV(problems) that are about settings of the kernel.
  returned: success
  type: list
  elements: str
  sample: ["kernel.numa_balancing is 1, tuned was 0"]
hugepages:
  description: Those of RV(problems) that are about huge pages.
  returned: success
  type: list
  elements: str
  sample: []
interrupts:
  description:
    - Those of RV(problems) that are about interrupts - what M(numapin.inference.irq_affinity) would move, and a service
      that does not run.
  returned: success
  type: list
  elements: str
  sample: []
notes:
  description:
    - What is worth knowing and no problem, in sentences. Fewer huge pages than asked for with C(on_shortfall=warn), and
      sysctls of a TuneD profile that are overridden by C(/etc/sysctl.d) each time (C(reapply_sysctl)).
  returned: success
  type: list
  elements: str
  sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._irq_drift import read_irq_drift
from ansible_collections.numapin.inference.plugins.module_utils._systemd import Systemd
from ansible_collections.numapin.inference.plugins.module_utils._tuning import read_tuning


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        host, systemd = Host(), Systemd()
        tuning = read_tuning(host, systemd)
        interrupts = read_irq_drift(host, systemd)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        tuned=tuning.tuned or interrupts.kept,
        problems=[*tuning.problems, *interrupts.problems],
        kernel=tuning.kernel,
        hugepages=tuning.hugepages,
        interrupts=interrupts.problems,
        notes=[*tuning.notes, *interrupts.notes],
    )


if __name__ == "__main__":
    main()
