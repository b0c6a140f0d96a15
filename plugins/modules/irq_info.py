#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: irq_info
short_description: Tell where the interrupts of devices land
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Reads, for every interrupt vector of a network card, an RDMA device, an NVMe disk or a GPU, which CPUs were
    requested, and where the kernel lets it land.
  - What cannot be read is V(null), never V(0).
attributes:
  check_mode:
    support: full
    description: Gives the same answer, because it only reads.
  diff_mode:
    support: none
    description: Shows nothing, because it changes nothing.
  idempotent:
    support: full
    description: It never changes anything.
  platform:
    support: full
    platforms: linux
    description: The systems this module runs on.
options:
  root:
    description:
      - Directory that holds the C(sys) and C(proc) of a captured machine, or the archive with them that
        M(numapin.inference.host_capture) made.
    type: path
    default: /
seealso:
  - module: numapin.inference.irq_affinity
  - module: numapin.inference.host_capture
"""

EXAMPLES = r"""
- name: Read where interrupts land
  numapin.inference.irq_info:
  register: interrupts

- name: Show those that land on CPU 3
  ansible.builtin.debug:
    msg: "{{ interrupts.vectors | selectattr('effective', 'equalto', '3') }}"
"""

RETURN = r"""
vectors:
  description: One entry per vector, by PCI address and place.
  returned: success
  type: list
  elements: dict
  contains:
    irq:
      description: Number of the interrupt now.
      type: int
    device:
      description: PCI address of its device.
      type: str
    device_names:
      description: Names of the device, of its network interfaces, RDMA devices or disks.
      type: list
      elements: str
    kinds:
      description: What the device is, of C(nic), C(infiniband), C(nvme) and C(gpu).
      type: list
      elements: str
    node:
      description: NUMA node of the device. V(null) when the firmware does not say.
      type: int
    queue:
      description: Place among the vectors of its device, from 0, ascending by number.
      type: int
    name:
      description: Names of the actions that requested it. V(null) in a captured tree.
      type: str
    requested:
      description: CPUs that were requested for it, as a cpulist.
      type: str
    effective:
      description: CPUs on which it lands, as a cpulist. V(null) where the kernel does not say.
      type: str
  sample:
    - irq: 132
      device: "0000:41:00.0"
      device_names: [eth0, mlx5_0]
      kinds: [infiniband, nic]
      node: 1
      queue: 1
      name: mlx5_comp0@pci:0000:41:00.0
      requested: 32,96
      effective: "32"
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._archive import opened_root
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._irq_info import read_vectors


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(argument_spec={"root": {"type": "path", "default": "/"}}, supports_check_mode=True)
    root = module.params["root"]
    try:
        with opened_root(root, module.tmpdir if root != "/" else None) as directory:
            vectors = read_vectors(Host(directory))
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, vectors=vectors)


if __name__ == "__main__":
    main()
