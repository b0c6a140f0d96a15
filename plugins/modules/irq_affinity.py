#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: irq_affinity
short_description: Place interrupts on CPUs by device, and keep them there
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Rules select interrupt vectors by device, never by number, and say on which CPUs they are handled. Every rule is
    checked against the host before the first write; a fault names the rule and the value.
  - Vectors are written only where they differ, are read back, and every refusal of the kernel is reported by vector.
  - A vector's request (C(smp_affinity_list)) is compared. Where it really goes (C(effective_affinity_list)) is
    reported, because the kernel may choose any CPU of the request.
  - The affinities before the first change are kept in C(/var/lib/numapin/irq-affinity.json) by device and place, and
    O(state=restored) brings them back, after a reboot as well.
  - With O(persistent=true) a service that runs the same code without Ansible does it again at boot, when a device or a
    link comes up, when a driver is loaded anew or changes its number of queues, and when somebody else moved a vector.
requirements:
  - root
  - systemd, for O(persistent=true) and O(irqbalance)
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  check_mode:
    details:
      - Before Linux 6.12 the kernel shows only on writing that it manages a vector itself. Such a vector is then given
        as V(changed) with RV(vectors[].predicted) true, and a warning says so.
  diff_mode:
    details:
      - Shows the vectors of every device with a change as a table, and the files that are written.
options:
  state:
    description:
      - V(present) places what O(rules) select. What rules of an earlier run selected and these do not is put back.
      - V(restored) puts every vector and mask back to what it was before the first run, removes the service and its
        files, and gives irqbalance back what it had. O(rules) is not looked at.
    type: str
    choices: [present, restored]
    default: present
  rules:
    description:
      - What is placed where. Two rules may select the same vector only when they want the same for it.
      - Required with O(state=present).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the rule, for messages.
        type: str
      devices:
        description: What the rule is about. Give V(node), with V(kinds) or without, or exactly one of the others.
        type: dict
        required: true
        suboptions:
          node:
            description: Devices that are attached to this NUMA node.
            type: int
          kinds:
            description: Which kinds of them. All of them when left out.
            type: list
            elements: str
            choices: [nic, infiniband, nvme, gpu]
          netdev:
            description: A network interface with a PCI device, such as V(eth0).
            type: str
          pci_address:
            description: A PCI device, such as V(0000:41:00.0).
            type: str
          nvme:
            description: An NVMe controller, such as V(nvme0).
            type: str
          infiniband:
            description: An RDMA device, such as V(mlx5_0).
            type: str
          driver:
            description: Every PCI device with this driver, such as V(mlx5_core) or V(virtio_net).
            type: str
          gpu:
            description: A GPU by UUID (NVIDIA) or PCI address.
            type: str
          action:
            description:
              - Vectors with an action whose name, as in C(/proc/interrupts), matches this shell pattern.
              - For interrupts without a PCI device. A device is selected more safely by the other keys.
            type: str
      target:
        description:
          - "V(local) is the NUMA node of each device, V({node: 1}) that one."
          - A device of which the firmware tells no node is an error; give the node, or O(rules[].cpus).
          - The default is V(local) unless O(rules[].cpus) is given.
        type: raw
      cpus:
        description:
          - CPUs as a cpulist, instead of O(rules[].target).
          - A CPU that does not exist is an error, one that is offline is left out with a warning.
        type: str
      policy:
        description:
          - V(spread) gives every vector one CPU, counted over all rules. Cores take turns, and second SMT siblings come
            last.
          - V(all) gives every vector all of the CPUs.
        type: str
        choices: [spread, all]
        default: spread
      xps:
        description:
          - Also sets which transmit queue senders use (XPS), for the rule's network interfaces with several queues.
          - The CPUs of the target are dealt out to the queues, also those in O(exclude_cpus) because senders run there.
        type: bool
        default: false
      rps:
        description: Also sets the CPUs that work on received packets (RPS) to the rule's CPUs, for every receive queue.
        type: bool
        default: false
      optional:
        description: Whether it is right that the rule matches nothing. Otherwise that is an error.
        type: bool
        default: false
  exclude_cpus:
    description: CPUs that no vector is placed on, as a cpulist; those that the plan gave to instances.
    type: str
    default: ''
  default_smp_affinity:
    description: CPUs for vectors that come into being later, as a cpulist. Left alone when not given.
    type: str
  irqbalance:
    description:
      - V(coexist) lets irqbalance go on with what no rule selects. A policy script bans the selected devices, so that
        the bans survive rescans and new numbers. It is added to C(IRQBALANCE_ARGS); a policy script of the
        administrator's is asked first. irqbalance is restarted only when the bans change, and only when it runs.
      - V(stop) stops and disables it.
      - V(ignore) leaves it alone, and takes bans of an earlier run away.
    type: str
    choices: [coexist, stop, ignore]
    default: coexist
  persistent:
    description:
      - Whether a service keeps the vectors where they are, C(numapin-irq-affinity.service). C(systemctl status) of it
        says what it did.
      - It does not look at O(strict). A device that is not there yet is no error for it.
    type: bool
    default: true
  check_seconds:
    description:
      - How often the service looks, in seconds, when no event wakes it. C(ethtool -L) makes no event.
      - At least 1.
    type: int
    default: 10
  strict:
    description: Whether a vector that the kernel does not let be moved makes the module fail.
    type: bool
    default: false
  root:
    description:
      - A laid-out tree with C(sys) and C(proc) instead of the running machine, for tests.
      - Affinities and the state are then read and written below it. The service and irqbalance are left alone.
    type: path
    default: /
seealso:
  - module: numapin.inference.numa_facts
"""

EXAMPLES = r"""
- name: Keep each node's network and GPU interrupts on that node's housekeeping CPUs
  numapin.inference.irq_affinity:
    rules:
      - name: node 0
        devices: {node: 0, kinds: [nic, infiniband, gpu]}
        cpus: "0,64"
      - name: node 1
        devices: {node: 1, kinds: [nic, infiniband, gpu]}
        cpus: "32,96"
    exclude_cpus: "1-31,33-63,65-95,97-127"
    default_smp_affinity: "0,32,64,96"

- name: See what would change on one card, as a table
  numapin.inference.irq_affinity:
    rules:
      - devices: {netdev: eth0}
        target: local
        xps: true
    persistent: false
  check_mode: true
  diff: true

- name: Put everything back as it was
  numapin.inference.irq_affinity:
    state: restored
"""

RETURN = r"""
vectors:
  description: Every vector that a rule selects, in the order of the rules.
  returned: success, and failure after the first write
  type: list
  elements: dict
  contains:
    irq:
      description: Number of the interrupt now. Null for one that is to be restored and is not there.
      type: int
    device:
      description: PCI address; null for an interrupt without a PCI device.
      type: str
    device_name:
      description: Names and address of the device; null for an interrupt without a PCI device.
      type: str
    queue:
      description: Place among the vectors of its device, from 0, ascending by number.
      type: int
    name:
      description: Name of the action that requested it.
      type: str
    rule:
      description: The rule that selected it.
      type: str
    before:
      description: The request before this run, as a cpulist.
      type: str
    wanted:
      description: The request that is wanted, as a cpulist.
      type: str
    effective:
      description: Where it goes after this run, as a cpulist; null where the kernel does not say.
      type: str
    pending:
      description: Whether the kernel has taken the request, and moves it when the next interrupt arrives.
      type: bool
    predicted:
      description: Whether the result is what check mode expects, and only a write could prove.
      type: bool
    result:
      description:
        - V(ok) is as wanted, V(changed) was moved.
        - V(unchangeable) is managed by the kernel itself, as the queues of NVMe and virtio disks are.
        - V(no_vector_space) means that no CPU it may have has an interrupt vector left.
        - V(gone) means that nothing has requested the vector, or not any more.
        - V(refused) is any other refusal. It and V(no_vector_space) make the module fail.
      type: str
    errno:
      description: >-
        Name of the kernel's error, such as V(EIO). Where the file has no write bits, nothing is written, and V(EPERM)
        is what a write would have got.
      type: str
    message:
      description: What the error means and what to do, where that is known.
      type: str
  sample:
    - irq: 132
      device: "0000:41:00.0"
      device_name: "eth0, mlx5_0 (0000:41:00.0)"
      queue: 1
      name: mlx5_comp0@pci:0000:41:00.0
      rule: rule 1 (node 0)
      before: 0-127
      wanted: "64"
      effective: "64"
      pending: false
      predicted: false
      result: changed
      errno: null
      message: null
masks:
  description: XPS, RPS and default_smp_affinity, as far as they are wanted. CPU sets are cpulists.
  returned: success, and failure after the first write
  type: list
  elements: dict
  sample:
    - {path: /sys/class/net/eth0/queues/tx-0/xps_cpus, kind: xps, netdev: eth0, queue: 0, before: '', wanted: "0,2",
       result: changed, errno: null}
counts:
  description: How many vectors have which result.
  returned: success, and failure after the first write
  type: dict
  sample: {ok: 60, changed: 4, unchangeable: 64}
summary:
  description: The same in words.
  returned: success, and failure after the first write
  type: str
  sample: "128 vectors: 60 as wanted, 4 moved, 64 that the kernel does not let be moved"
files:
  description: Paths of the files that were (or in check mode would be) written.
  returned: success, and failure after the first write
  type: list
  elements: str
  sample: [/etc/numapin/irq-affinity.json]
removed_files:
  description: Paths of the files that were (or in check mode would be) removed.
  returned: success, and failure after the first write
  type: list
  elements: str
  sample: []
service:
  description: >-
    What was (or in check mode would be) done with the service - V(restarted), V(started), V(stopped) or V(none).
  returned: success, and failure after the first write
  type: str
  sample: restarted
irqbalance:
  description: >-
    What was (or in check mode would be) done with irqbalance - V(restarted), V(configured) without a restart because it
    does not run, V(stopped), V(started) again after V(stopped), V(none).
  returned: success, and failure after the first write
  type: str
  sample: restarted
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._irq_affinity import run_module

_DEVICES = {
    "node": {"type": "int"},
    "kinds": {"type": "list", "elements": "str", "choices": ["nic", "infiniband", "nvme", "gpu"]},
    "netdev": {"type": "str"},
    "pci_address": {"type": "str"},
    "nvme": {"type": "str"},
    "infiniband": {"type": "str"},
    "driver": {"type": "str"},
    "gpu": {"type": "str"},
    "action": {"type": "str"},
}


def main() -> t.NoReturn:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored"], "default": "present"},
            "rules": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str"},
                    "devices": {"type": "dict", "required": True, "options": _DEVICES},
                    "target": {"type": "raw"},
                    "cpus": {"type": "str"},
                    "policy": {"type": "str", "choices": ["spread", "all"], "default": "spread"},
                    "xps": {"type": "bool", "default": False},
                    "rps": {"type": "bool", "default": False},
                    "optional": {"type": "bool", "default": False},
                },
            },
            "exclude_cpus": {"type": "str", "default": ""},
            "default_smp_affinity": {"type": "str"},
            "irqbalance": {"type": "str", "choices": ["coexist", "stop", "ignore"], "default": "coexist"},
            "persistent": {"type": "bool", "default": True},
            "check_seconds": {"type": "int", "default": 10},
            "strict": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/"},
        },
        required_if=[("state", "present", ["rules"])],
        supports_check_mode=True,
    )
    if module.params["check_seconds"] < 1:
        module.fail_json(msg=f"check_seconds is {module.params['check_seconds']}: it must be 1 or more")
    try:
        result = run_module(module.params, check_mode=module.check_mode)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    for warning in result.warnings:
        module.warn(warning)
    values = dict(result.values)
    if module._diff:
        values["diff"] = result.diff
    if result.faults:
        shown = "\n".join(result.faults[:20])
        more = f"\nand {len(result.faults) - 20} more" if len(result.faults) > 20 else ""
        module.fail_json(msg=f"{result.values['summary']}\n{shown}{more}", **values)
    module.exit_json(**values)


if __name__ == "__main__":
    main()
