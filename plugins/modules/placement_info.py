#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: placement_info
short_description: Prove where the threads, the memory and the GPUs of instances are
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Reads the CPUs, memory nodes, memory policies and pages of every process and thread of the instances' systemd units
    from C(/proc), and holds them against the plan.
  - A difference does not fail the module. It makes RV(ok) false and is named in RV(instances[].problems); the role
    P(numapin.inference.verify#role) fails on it.
  - Every thread must be allowed to run on planned CPUs only, and all threads together on every planned CPU.
  - Memory policy V(bind) is kept when no thread may use memory of other nodes, where the host enforces cpusets (cgroup
    v2 with the C(cpuset) controller); elsewhere, when every mapping that has pages is bound to planned nodes.
    V(preferred) and V(interleave) are always read from the mappings.
  - With V(bind) at least O(minimum_locality_percent) of the memory that the processes placed themselves must be on the
    planned nodes.
  - GPUs are looked at where an entry has C(gpus). Who holds them is what NVML lists as compute processes, else
    nvidia-smi, and for AMD's GPUs the memory that KFD counts for a process. A GPU that is held and not planned, and one
    that is planned and not held, are differences.
  - Where none of them answers, a process that does not have a GPU's device file open does not hold it. An open file
    proves nothing, as libraries open those of GPUs that they do not use.
  - Processes and threads that end while they are read are left out. What cannot be read is V(null), never V(0).
requirements:
  - root, to read the memory of other users' processes
extends_documentation_fragment:
  - numapin.inference.attributes.looking
attributes:
  idempotent:
    details:
      - This module changes nothing. Processes may do, between one reading and the next.
options:
  instances:
    description:
      - Entries of C(vllm_plan.instances). Of each, these keys are looked at, all others are ignored.
      - C(name) is the name of the instance, C(unit) the full name of its systemd service.
      - C(cpus) is a cpulist such as V(0-3,8), C(memory_nodes) a list of NUMA node ids.
      - C(memory_policy) is V(bind) (the default), V(preferred) or V(interleave).
      - C(numa_bind_nodes) and C(numa_bind_cpus) are a NUMA node id and a cpulist for each worker of a pipeline over
        nodes, by its rank, which its title and C(tensor_parallel_size) (1 when left out) tell. Each worker is then held
        against its own entry as well. When they are left out or empty, only the whole instance is looked at.
      - C(group) with C(rank) is this host's place among those that have an instance together. Titles of workers count
        those of all hosts.
      - C(gpus) is a list of UUIDs of GPUs or MIG devices, and of PCI addresses of GPUs without one. When it is left
        out, GPUs are not looked at.
    type: list
    elements: dict
    required: true
  minimum_locality_percent:
    description:
      - With memory policy V(bind), how many per cent of the pages that the processes placed themselves (anonymous
        and shared memory, hugepages) must be on the planned nodes.
      - Pages of files do not count here. They belong to the page cache, and are where the first reader was.
    type: float
    default: 99
  root:
    description:
      - Directory that holds the C(sys) and C(proc) of a captured machine.
      - With anything but V(/), systemd is not asked, and units are found by the names of their control groups.
    type: path
    default: /
seealso:
  - module: numapin.inference.numa_facts
  - module: numapin.inference.instance_ready
"""

EXAMPLES = r"""
- name: Read where the instances of this host are
  numapin.inference.placement_info:
    instances: "{{ vllm_plan.instances }}"
  register: placement

- name: Show it
  ansible.builtin.debug:
    msg: "{{ placement.instances | map(attribute='summary') }}"

- name: Hold one service against a hand-made plan
  numapin.inference.placement_info:
    instances:
      - name: database
        unit: postgresql@15-main.service
        cpus: 32-63
        memory_nodes: [1]
"""

RETURN = r"""
ok:
  description: Whether every instance is as planned.
  returned: success
  type: bool
  sample: true
cpuset_enforced:
  description: Whether cgroup v2 has the C(cpuset) controller, so that a unit's C(AllowedMemoryNodes) is a fence.
  returned: success
  type: bool
  sample: true
gpu_warnings:
  description: Why NVML or nvidia-smi did not answer, or not for all GPUs.
  returned: success
  type: list
  elements: str
  sample: []
instances:
  description: One entry per entry of O(instances), in the same order.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instance.
      type: str
      sample: llama-3-70b-n0
    unit:
      description: Its systemd unit.
      type: str
      sample: vllm@llama-3-70b-n0.service
    planned_cpus:
      description: CPUs of the plan, as a cpulist.
      type: str
      sample: 1-31
    planned_memory_nodes:
      description: Memory nodes of the plan.
      type: list
      elements: int
      sample: [0]
    ok:
      description: Whether it is as planned.
      type: bool
      sample: true
    problems:
      description: What is not as planned, in sentences that name processes, threads, CPUs and nodes.
      type: list
      elements: str
      sample: []
    notes:
      description: What is worth knowing and no difference, such as GPUs of which nobody says who holds them.
      type: list
      elements: str
      sample: []
    summary:
      description: One line for people.
      type: str
      sample: "llama-3-70b-n0: as planned - CPUs 1-31, 212 threads in 4 processes, 61840 MiB on node 0, 100.0 % local"
    state:
      description:
        - V(running) when the unit has processes, V(stopped) when it has none, V(absent) when there is no such unit.
      type: str
      sample: running
    processes:
      description: Its processes, by pid.
      type: list
      elements: dict
      contains:
        pid:
          description: Process id.
          type: int
          sample: 4711
        comm:
          description: Name of the process.
          type: str
          sample: VLLM::Worker
        thread_count:
          description: How many threads it has.
          type: int
          sample: 106
        last_cpu:
          description: CPU its main thread ran on last.
          type: int
          sample: 3
        pages_mib_by_node:
          description: Its pages, as RV(instances[].pages_mib_by_node).
          type: list
          elements: dict
          sample: [{node: 0, total: 30720.5, anonymous: 30204.1, file: 516.4, huge: 0.0}]
        pages_unknown_because:
          description: Why RV(instances[].processes[].pages_mib_by_node) is V(null).
          type: str
          sample: null
    thread_count:
      description: How many threads its processes have.
      type: int
      sample: 212
    cpus_allowed:
      description:
        - The different sets of CPUs its threads may run on, as cpulists (C(cpus)), and how many C(threads) have each.
      type: list
      elements: dict
      sample: [{cpus: 1-31, threads: 212}]
    mems_allowed:
      description: The different sets of memory nodes its threads may use (C(nodes)), and how many C(threads) have each.
      type: list
      elements: dict
      sample: [{nodes: "0", threads: 212}]
    last_cpus:
      description:
        - On which CPUs its threads ran last (C(cpu)), and how many C(threads) on each. A thread that was moved and
          sleeps since shows the CPU from before.
      type: list
      elements: dict
      sample: [{cpu: 1, threads: 40}, {cpu: 2, threads: 172}]
    stray_thread_count:
      description: How many threads may run outside the planned CPUs.
      type: int
      sample: 0
    stray_threads:
      description: The first 20 of them.
      type: list
      elements: dict
      contains:
        pid:
          description: Process id.
          type: int
          sample: 4711
        tid:
          description: Thread id.
          type: int
          sample: 4720
        comm:
          description: Name of the thread.
          type: str
          sample: python3
        cpus_allowed:
          description: CPUs it may run on, as a cpulist.
          type: str
          sample: 0-63
        last_cpu:
          description: CPU it ran on last.
          type: int
          sample: 33
        planned_cpus:
          description: CPUs of the plan, as a cpulist; of a pipeline's worker its own.
          type: str
          sample: 1-31
    pages_mib_by_node:
      description:
        - Pages in MiB by the node they are on. C(total) is the sum of C(anonymous) memory, to which shared memory
          belongs, pages of files (C(file)) and hugepages of hugetlbfs (C(huge)). Pages that processes share count once
          for each.
        - V(null) when the pages of one of its processes cannot be read.
      type: list
      elements: dict
      sample: [{node: 0, total: 61840.2, anonymous: 60112.9, file: 1727.3, huge: 0.0}]
    pages_unknown_because:
      description: Why RV(instances[].pages_mib_by_node) is V(null).
      type: str
      sample: null
    memory_policies:
      description:
        - The different memory policies of its mappings, as the kernel prints them, with the pages in MiB under each.
      type: list
      elements: dict
      sample: [{policy: "bind:0", mib: 61840.2}]
    locality_percent:
      description:
        - How many per cent of all its pages are on the planned nodes, rounded down. V(null) when that is unknown.
      type: float
      sample: 99.7
    own_locality_percent:
      description: The same of the pages that its processes placed themselves - anonymous, shared, and hugepages.
      type: float
      sample: 100.0
    misplaced_mib:
      description:
        - How much of what its processes placed themselves is on nodes that are not planned, in MiB by node. V(null)
          when that is unknown.
      type: list
      elements: dict
      sample: [{node: 1, mib: 12.5}]
    gpus:
      description: Which GPUs its processes hold; V(null) where the entry has no C(gpus) or it has no process.
      type: dict
      contains:
        planned:
          description: GPUs of the plan.
          type: list
          elements: str
          sample: [GPU-00000000-1111-2222-3333-444444444444]
        held:
          description: GPUs that its processes hold (C(gpu)), and by which of them (C(pids)).
          type: list
          elements: dict
          sample: [{gpu: GPU-00000000-1111-2222-3333-444444444444, pids: [4711]}]
        missing:
          description: GPUs that are planned and not held.
          type: list
          elements: str
          sample: []
        unplanned:
          description: GPUs that are held and not planned.
          type: list
          elements: str
          sample: []
        unknown:
          description: GPUs that are planned, and of which nobody says who holds them.
          type: list
          elements: str
          sample: []
        unknown_because:
          description: Why there are such.
          type: str
          sample: null
        source:
          description: Who says so - V(nvml), V(nvidia_smi), V(kfd), V(handles) (open device files), or V(null).
          type: str
          sample: nvml
        problems:
          description: Those of RV(instances[].problems) that are about GPUs.
          type: list
          elements: str
          sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._commands import run
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._placement import read_placement


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "list", "elements": "dict", "required": True},
            "minimum_locality_percent": {"type": "float", "default": 99},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    try:
        host = Host(module.params["root"])
        placement = read_placement(
            host,
            module.params["instances"],
            module.params["minimum_locality_percent"],
            run,
            gpu_sources=GpuSources(this_machine=host.is_running_machine),
        )
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **placement)


if __name__ == "__main__":
    main()
