#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts module: the NUMA topology of a host and the GPUs on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: numa_facts
short_description: Gather the NUMA topology of a Linux host
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Reads NUMA nodes, CPUs, packages, GPUs and the kernel settings that concern them, and returns them as
    C(ansible_facts['numa']).
  - What cannot be known is V(null), never C(0). What the firmware or a driver says and cannot be true is told in
    RV(ansible_facts.numa.warnings).
  - The host needs nothing but Python. Where C(pynvml) (the Python distribution C(nvidia-ml-py)) can be imported and the
    NVIDIA driver is loaded, NVML tells UUID, name, memory and node of NVIDIA GPUs; else C(/sys) and C(/proc) tell what
    they know.
attributes:
  check_mode:
    description: Can run in check mode and return the same as without it.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, in diff mode.
    support: N/A
    details:
      - This module changes nothing.
  facts:
    description: Returns a C(ansible_facts) dictionary that updates the facts of the host.
    support: full
  idempotent:
    description: Running it twice in a row changes nothing the second time.
    support: full
    details:
      - This module changes nothing.
  platform:
    description: The operating systems it runs on.
    support: full
    platforms: linux
options:
  root:
    description:
      - The directory on the host that holds the C(sys) and C(proc) to read, so that a captured machine can be planned
        for without logging in to it.
      - Links in it are followed inside it only. NVML is not asked for a captured machine.
    type: path
    default: /
seealso:
  - plugin: numapin.inference.topology_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Read the topology of every inference host
  numapin.inference.numa_facts:

- name: Show it
  ansible.builtin.debug:
    msg: "{{ (ansible_facts['numa'] | numapin.inference.topology_table).splitlines() }}"

- name: Refuse hosts on which a GPU's node is unknown
  ansible.builtin.assert:
    that:
      - ansible_facts['numa']['gpus'] | selectattr('node', 'none') | length == 0
    fail_msg: "{{ ansible_facts['numa']['warnings'] | join('\n') }}"

- name: Read the topology of a machine that was captured into a directory on the controller
  numapin.inference.numa_facts:
    root: /srv/captures/gpu1
  delegate_to: localhost
  delegate_facts: false
"""

RETURN = r"""
ansible_facts:
  description: The facts, added to C(ansible_facts).
  returned: success
  type: dict
  contains:
    numa:
      description: The topology.
      type: dict
      returned: success
      contains:
        nodes:
          description:
            - The NUMA nodes that are online, ascending by id. Ids may have gaps.
            - A machine without NUMA has one node 0 with all online CPUs, and a warning says so.
          type: list
          elements: dict
          returned: success
          contains:
            id:
              description: Number of the node.
              type: int
              returned: success
            cpus:
              description: Its online CPUs as a cpulist, empty when it has none.
              type: str
              returned: success
              sample: 0-31,64-95
            cpu_count:
              description: How many these are.
              type: int
              returned: success
            memory_total_mib:
              description: Its memory in MiB, V(null) when unknown.
              type: int
              returned: success
            memory_free_mib:
              description: Its free memory in MiB, without what the page cache could give back; V(null) when unknown.
              type: int
              returned: success
            distances:
              description: Distance from this node to every online node, as the firmware gives it; empty when unknown.
              type: list
              elements: dict
              returned: success
              contains:
                node:
                  description: Number of the other node.
                  type: int
                  returned: success
                distance:
                  description: 10 is the node itself.
                  type: int
                  returned: success
            package_ids:
              description: The packages its online CPUs are in.
              type: list
              elements: int
              returned: success
            kind:
              description:
                - V(cpu_and_memory) can hold an instance. V(memory_only) is expansion memory or that of a GPU,
                  V(cpu_only) has no memory of its own (or none that is known, see the warnings), V(empty) neither.
              type: str
              returned: success
              sample: cpu_and_memory
            hugepages:
              description: Its pools of huge pages, ascending by size.
              type: list
              elements: dict
              returned: success
              contains:
                size_kib:
                  description: Size of one page in KiB.
                  type: int
                  returned: success
                total:
                  description: Pages in the pool, surplus pages included; V(null) when unknown.
                  type: int
                  returned: success
                free:
                  description: Pages nobody uses; V(null) when unknown.
                  type: int
                  returned: success
                surplus:
                  description: Pages above the persistent size of the pool; V(null) when unknown.
                  type: int
                  returned: success
        cpus:
          description: The CPUs that are present, ascending by id.
          type: list
          elements: dict
          returned: success
          contains:
            id:
              description: Number of the CPU.
              type: int
              returned: success
            node:
              description: Its node, V(null) when unknown or when two nodes claim it.
              type: int
              returned: success
            package:
              description: Its package (socket), V(null) when unknown or offline.
              type: int
              returned: success
            core:
              description:
                - The kernel's id of its core, V(null) when unknown or offline. It is unique at most within a package;
                  CPUs of one core are best found by C(smt_siblings).
              type: int
              returned: success
            smt_siblings:
              description: The online CPUs of its core, itself included, as a cpulist; V(null) when unknown or offline.
              type: str
              returned: success
              sample: 0,64
            llc_domain:
              description: The online CPUs that share its last-level cache (cpulist); V(null) when unknown or offline.
              type: str
              returned: success
              sample: 0-7,64-71
            online:
              description: Whether it is online.
              type: bool
              returned: success
        packages:
          description: The packages (sockets) with online CPUs, ascending by id.
          type: list
          elements: dict
          returned: success
          contains:
            id:
              description: The kernel's id of the package.
              type: int
              returned: success
            cpus:
              description: Its online CPUs as a cpulist.
              type: str
              returned: success
            nodes:
              description: The nodes these belong to.
              type: list
              elements: int
              returned: success
        gpus:
          description:
            - The GPUs, ascending by PCI address.
            - Without NVML these are the 3D controllers, display controllers and processing accelerators of NVIDIA, AMD
              and Intel (of NVIDIA also VGA controllers), without those that C(vfio-pci) keeps for virtual machines.
          type: list
          elements: dict
          returned: success
          contains:
            uuid:
              description: UUID as C(CUDA_VISIBLE_DEVICES) takes it, V(null) when neither NVML nor the driver tells it.
              type: str
              returned: success
              sample: GPU-6a1ad42c-9d43-4aab-8ab9-8f2c1b8d4a01
            pci_address:
              description: PCI address as in C(/sys/bus/pci/devices).
              type: str
              returned: success
              sample: "0000:17:00.0"
            name:
              description: Name of the product, V(null) when unknown.
              type: str
              returned: success
              sample: NVIDIA H100 80GB HBM3
            vendor:
              description: V(nvidia), V(amd) or V(intel).
              type: str
              returned: success
            memory_total_mib:
              description: Its own memory in MiB, V(null) when unknown.
              type: int
              returned: success
            node:
              description: The host's node it is attached to, V(null) when unknown.
              type: int
              returned: success
            node_source:
              description: Who says so - V(nvml), V(sysfs), V(override), or V(unknown).
              type: str
              returned: success
            cpus:
              description: The online CPUs of that node as a cpulist; V(null) when the node is unknown.
              type: str
              returned: success
            links:
              description: Links to other GPUs. Always empty in this version.
              type: list
              elements: dict
              returned: success
            source:
              description: Where the GPU was found - V(nvml) or V(sysfs).
              type: str
              returned: success
        kernel:
          description: Settings of the running kernel. V(null) is a kernel without the feature.
          type: dict
          returned: success
          contains:
            release:
              description: The kernel's release.
              type: str
              returned: success
              sample: 6.1.0-40-amd64
            numa_balancing:
              description: Bit mask C(kernel.numa_balancing). 0 is off, 1 is on, 2 is memory tiering.
              type: int
              returned: success
            zone_reclaim_mode:
              description: Bit mask C(vm.zone_reclaim_mode).
              type: int
              returned: success
            transparent_hugepage:
              description: V(always), V(madvise) or V(never).
              type: str
              returned: success
            cgroup_version:
              description: 2 for the unified hierarchy, 1 for hosts with version 1 controllers (hybrid ones included).
              type: int
              returned: success
        allowed_cpus:
          description: The online CPUs that the host's init may use (cpulist). A container may see more CPUs than that.
          type: str
          returned: success
          sample: 0-127
        warnings:
          description: What is missing, contradictory or cannot be true.
          type: list
          elements: str
          returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._gpus import (
    GpuSources,
    read_gpus,
    running_machine_sources,
)
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology, to_plain


def gather(host: Host, sources: GpuSources) -> dict[str, t.Any]:
    """Return ``ansible_facts['numa']`` of ``host``; raises ``NumapinError`` when it has no topology to read."""
    topology = read_topology(host)
    pci = PciTree(host, topology.nodes)
    gpus, gpu_warnings = read_gpus(host, topology.nodes, pci, sources, {})
    facts: dict[str, t.Any] = to_plain(topology)
    facts["gpus"] = to_plain(gpus)
    facts["warnings"].extend([*gpu_warnings, *pci.warnings])
    return facts


def main() -> t.NoReturn:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "default": "/"}},
        supports_check_mode=True,
    )
    try:
        host = Host(module.params["root"])
        facts = gather(host, running_machine_sources() if host.is_running_machine else GpuSources())
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, ansible_facts={"numa": facts})


if __name__ == "__main__":
    main()
