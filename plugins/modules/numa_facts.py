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
  - Reads NUMA nodes, CPUs, packages, caches, memory, huge pages, GPUs and the links between them, network, NVMe and
    InfiniBand devices with their interrupts, and the kernel settings that concern all of these, and returns them as
    C(ansible_facts['numa']).
  - What cannot be known is V(null), never C(0). What the firmware or a driver says and cannot be true is told in
    RV(ansible_facts.numa.warnings).
  - The host needs nothing but Python. GPUs of NVIDIA are asked for through NVML where C(pynvml) (the Python
    distribution C(nvidia-ml-py)) can be imported, else through C(nvidia-smi); without the driver C(/sys) and C(/proc)
    tell what they know, also of AMD's and Intel's.
extends_documentation_fragment:
  - numapin.inference.attributes.looking
attributes:
  facts:
    description: Returns a C(ansible_facts) dictionary that updates the facts of the host.
    support: full
options:
  root:
    description:
      - The directory on the host that holds the C(sys) and C(proc) to read, or an archive that
        M(numapin.inference.host_capture) made, so that a captured machine can be planned for without logging in to it.
      - Links in it are followed inside it only. Libraries and programs are not asked about a captured machine; what
        they answered when it was captured is in the archive.
    type: path
    default: /
  gather:
    description:
      - The parts to read, at least one. A name with C(!) in front leaves a part out; names so excluded alone are taken
        from V(all).
      - V(cpus) are CPUs, packages and caches, V(memory) huge pages and counters of allocations, V(links) the
        connections between GPUs (with V(gpus), which it needs). Nodes with their CPUs, memory and distances are
        always read.
      - Parts that were not read are V(null) in the facts.
    type: list
    elements: str
    choices:
      - all
      - cpus
      - memory
      - gpus
      - links
      - nics
      - nvme
      - infiniband
      - kernel
      - '!cpus'
      - '!memory'
      - '!gpus'
      - '!links'
      - '!nics'
      - '!nvme'
      - '!infiniband'
      - '!kernel'
    default: [all]
  gpu_node_overrides:
    description:
      - NUMA node of GPUs by PCI address (C(0000:17:00.0)) or UUID, for hosts whose firmware does not say it or says it
        wrong. It wins over every other source, which is told as a warning where they differ.
      - An entry for a GPU that the host does not have is told as a warning, so that hosts can share the entries. A node
        that is not online is an error. Where O(gather) leaves GPUs out it has no effect, which is a warning.
    type: dict
    default: {}
  query:
    description:
      - A JMESPath expression that is applied to the facts on the controller, as C(gpus[?node==`0`].uuid); what it picks
        is returned as RV(query_result). An expression that cannot be used fails before the host is asked.
      - Needs the Python library C(jmespath) on the controller, and nothing on the host.
      - Cannot be used in a task with C(async), since the controller gets the facts of such a task elsewhere.
    type: str
seealso:
  - plugin: numapin.inference.topology_table
    plugin_type: filter
  - module: numapin.inference.host_capture
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

- name: Say where GPUs are whose firmware does not
  numapin.inference.numa_facts:
    gpu_node_overrides:
      "0000:17:00.0": 0
      "0000:97:00.0": 1

- name: List the GPUs of node 0, reading nothing else
  numapin.inference.numa_facts:
    gather: [gpus, "!links"]
    query: gpus[?node==`0`].uuid
  register: near

- name: Show them
  ansible.builtin.debug:
    var: near.query_result

- name: Read the topology of a machine that was captured, on the controller
  numapin.inference.numa_facts:
    root: captures/gpu1.tar.gz
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
        gathered:
          description: The parts that were read, of those that O(gather) names. The others are V(null) below.
          type: list
          elements: str
          returned: success
          sample: [cpus, memory, gpus, links, nics, nvme, infiniband, kernel]
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
              description: The packages its online CPUs are in; V(null) when CPUs were not read.
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
              description: Its pools of huge pages, ascending by size; V(null) when not read.
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
            numastat:
              description:
                - The kernel's counters of allocations on this node since boot, in pages; V(null) when not read or not
                  readable. See C(Documentation/admin-guide/numastat.rst).
              type: dict
              returned: success
              contains:
                hit:
                  description: Pages that were wanted here and allocated here.
                  type: int
                  returned: success
                miss:
                  description: Pages allocated here although another node was preferred.
                  type: int
                  returned: success
                foreign:
                  description: Pages wanted here and allocated on another node.
                  type: int
                  returned: success
                interleave_hit:
                  description: Interleaved pages that were allocated here as intended.
                  type: int
                  returned: success
                local:
                  description: Pages allocated here by a process that ran here.
                  type: int
                  returned: success
                other:
                  description: Pages allocated here by a process that ran on another node.
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
        offline_nodes:
          description:
            - Nodes that the machine could have and that are not online, as a cpulist; empty for none, V(null) where the
              kernel does not say.
          type: str
          returned: success
        offline_cpus:
          description: CPUs that are present and not online, as a cpulist; empty when there are none.
          type: str
          returned: success
          sample: "5"
        llc_domains:
          description: The groups of CPUs that share a last-level cache, ascending by their first CPU.
          type: list
          elements: dict
          returned: success
          contains:
            cpus:
              description: The online CPUs that share it, as a cpulist.
              type: str
              returned: success
            level:
              description: Level of the cache, usually 3.
              type: int
              returned: success
            size_kib:
              description: Its size in KiB, V(null) when unknown.
              type: int
              returned: success
            nodes:
              description: The nodes of its CPUs.
              type: list
              elements: int
              returned: success
        packages:
          description: The packages (sockets) with online CPUs, ascending by id, those without an id last.
          type: list
          elements: dict
          returned: success
          contains:
            id:
              description:
                - The firmware's id of the package; V(null) on architectures that have none. Several packages can have
                  the same id on some (s390, ia64).
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
            - Without NVML these are the 3D controllers, display controllers and processing accelerators of NVIDIA and
              AMD, NVIDIA's VGA controllers and Intel's display controllers, without integrated graphics.
            - Left out with a warning are those that a driver such as C(vfio-pci) keeps for virtual machines, and in a
              container those of the host without a device node there.
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
              description:
                - Who says so - V(nvml), V(nvidia_smi), V(sysfs), V(override) (the option O(gpu_node_overrides)), or
                  V(unknown).
              type: str
              returned: success
            memory_node:
              description:
                - The node that is the GPU's own memory, on coherent systems such as Grace; V(null) on all others. It is
                  not where the GPU is attached, and never a place for an instance's memory.
              type: int
              returned: success
            cpus:
              description: The online CPUs of that node as a cpulist; V(null) when the node is unknown.
              type: str
              returned: success
            source:
              description: Where the GPU was found - V(nvml), V(nvidia_smi) or V(sysfs).
              type: str
              returned: success
            mig:
              description: Whether the GPU is cut into instances (Multi-Instance GPU), and which.
              type: dict
              returned: success
              contains:
                enabled:
                  description: Whether MIG is on; V(null) when unknown.
                  type: bool
                  returned: success
                devices:
                  description: The MIG devices. They are on the node of their GPU.
                  type: list
                  elements: dict
                  returned: success
                  contains:
                    uuid:
                      description: UUID as C(CUDA_VISIBLE_DEVICES) takes it, V(null) when unknown.
                      type: str
                      returned: success
                      sample: MIG-4a1ad42c-9d43-5aab-8ab9-8f2c1b8d4a01
                    name:
                      description: Name of the device with its profile, V(null) when unknown.
                      type: str
                      returned: success
                    memory_total_mib:
                      description: Its memory in MiB, V(null) when unknown.
                      type: int
                      returned: success
            links:
              description:
                - How it is connected to every other GPU, as C(nvidia-smi topo -m) prints it; V(null) when not read.
              type: list
              elements: dict
              returned: success
              contains:
                pci_address:
                  description: PCI address of the other GPU.
                  type: str
                  returned: success
                uuid:
                  description: UUID of the other GPU, V(null) when unknown.
                  type: str
                  returned: success
                kind:
                  description: V(NV) and the number of bonded NVLinks where there are any, else the path; or V(null).
                  type: str
                  returned: success
                  sample: NV18
                nvlinks:
                  description: The number of active NVLinks between the two; V(null) when unknown, as from sysfs alone.
                  type: int
                  returned: success
                path:
                  description:
                    - What a transfer over PCIe crosses - V(PIX) at most one PCIe bridge, V(PXB) several, V(PHB) the
                      host bridge, V(NODE) several host bridges of one node, V(SYS) the connection between nodes;
                      V(null) when unknown.
                  type: str
                  returned: success
                source:
                  description: Who says so - V(nvml), V(nvidia_smi) or V(sysfs); V(unknown) when nobody does.
                  type: str
                  returned: success
        nics:
          description: The network interfaces of devices (not bridges, bonds and the like), ascending by name.
          type: list
          elements: dict
          returned: success
          contains:
            name:
              description: Name of the interface.
              type: str
              returned: success
            pci_address:
              description: PCI address of its device, V(null) when it is not on a PCI bus.
              type: str
              returned: success
            driver:
              description: The driver of the interface, V(null) when unknown.
              type: str
              returned: success
            node:
              description: Its node, V(null) when unknown.
              type: int
              returned: success
            speed_mbps:
              description: Speed of the link in Mbit/s, V(null) when unknown or down.
              type: int
              returned: success
            link:
              description: V(up) or V(down), V(null) when unknown.
              type: str
              returned: success
            sriov:
              description: Virtual functions; V(null) when the device can have none and is none.
              type: dict
              returned: success
              contains:
                total_vfs:
                  description: How many it can have, V(null) for a virtual function.
                  type: int
                  returned: success
                vfs:
                  description: How many it has, V(null) for a virtual function.
                  type: int
                  returned: success
                physical_function:
                  description: PCI address of the device it is a function of, V(null) when it is none.
                  type: str
                  returned: success
            irqs:
              description: Numbers of its interrupts (MSI vectors, else the one line of the device).
              type: list
              elements: int
              returned: success
        nvme:
          description: The NVMe controllers, ascending by name.
          type: list
          elements: dict
          returned: success
          contains:
            name:
              description: Name of the controller.
              type: str
              returned: success
              sample: nvme0
            pci_address:
              description: PCI address, V(null) for one that is reached over a network.
              type: str
              returned: success
            model:
              description: Name of the product, V(null) when unknown.
              type: str
              returned: success
            driver:
              description: Its driver, V(null) when unknown.
              type: str
              returned: success
            node:
              description: Its node, V(null) when unknown.
              type: int
              returned: success
            irqs:
              description: Numbers of its interrupts.
              type: list
              elements: int
              returned: success
        infiniband:
          description: The InfiniBand and RoCE devices, ascending by name.
          type: list
          elements: dict
          returned: success
          contains:
            name:
              description: Name of the device.
              type: str
              returned: success
              sample: mlx5_0
            pci_address:
              description: PCI address, V(null) when it is not on a PCI bus.
              type: str
              returned: success
            driver:
              description: Its driver, V(null) when unknown.
              type: str
              returned: success
            node:
              description: Its node, V(null) when unknown.
              type: int
              returned: success
            netdevs:
              description: The network interfaces of the same device.
              type: list
              elements: str
              returned: success
            ports:
              description: Its ports.
              type: list
              elements: dict
              returned: success
              contains:
                port:
                  description: Number of the port, from 1 on.
                  type: int
                  returned: success
                state:
                  description: State such as V(active), V(init) or V(down), V(null) when unknown.
                  type: str
                  returned: success
                link_layer:
                  description: V(InfiniBand) or V(Ethernet), V(null) when unknown.
                  type: str
                  returned: success
                rate_gbps:
                  description: Rate in Gbit/s, V(null) when unknown.
                  type: float
                  returned: success
            physical_function:
              description: PCI address of the device it is a virtual function of; V(null) when it is none.
              type: str
              returned: success
            irqs:
              description: Numbers of its interrupts.
              type: list
              elements: int
              returned: success
        gpu_nic_pairs:
          description:
            - GPUs and network or InfiniBand devices that are near each other - below one host bridge, or on one node.
              By GPU, the nearest first. V(null) when either was not read.
          type: list
          elements: dict
          returned: success
          contains:
            gpu:
              description: PCI address of the GPU.
              type: str
              returned: success
            gpu_uuid:
              description: Its UUID, V(null) when unknown.
              type: str
              returned: success
            nic:
              description: Name of the network interface, V(null) for a device that has none.
              type: str
              returned: success
            infiniband:
              description: Name of the InfiniBand device, V(null) when there is none.
              type: str
              returned: success
            path:
              description:
                - What is between them - V(PIX), V(PXB), V(PHB) or V(NODE), as for the links of GPUs; V(null) for two on
                  one node when the way between them is unknown.
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
            cpuset_enforced:
              description:
                - Whether C(AllowedCPUs) and C(AllowedMemoryNodes) of a unit are enforced, which needs the cpuset
                  controller of cgroup version 2; V(null) when unknown.
              type: bool
              returned: success
            isolated_cpus:
              description: CPUs that the scheduler leaves alone (C(isolcpus)), as a cpulist; V(null) when unknown.
              type: str
              returned: success
            nohz_full_cpus:
              description: CPUs without a periodic tick (C(nohz_full)), as a cpulist; V(null) when unknown.
              type: str
              returned: success
            virtualization:
              description:
                - The hypervisor the machine runs on, in the words of C(systemd-detect-virt --vm), V(none) on bare
                  metal, V(null) when unknown.
              type: str
              returned: success
              sample: kvm
            container:
              description: The kind of container this host is, V(none), or V(null) when unknown.
              type: str
              returned: success
            irqbalance:
              description: The service that moves interrupts.
              type: dict
              returned: success
              contains:
                active:
                  description: Whether it runs; V(null) when unknown.
                  type: bool
                  returned: success
            tuned:
              description: The tuning service TuneD.
              type: dict
              returned: success
              contains:
                active:
                  description: Whether it runs; V(null) when unknown.
                  type: bool
                  returned: success
                profile:
                  description: The profile it was told to apply, V(null) when there is none.
                  type: str
                  returned: success
        allowed_cpus:
          description:
            - The online CPUs that services of this host may use (cpulist) - those of its cpuset, without isolated CPUs.
              A container may see more than these.
            - C(CPUAffinity=) in C(system.conf) does not count, since services can widen it.
          type: str
          returned: success
          sample: 0-127
        warnings:
          description: What is missing, contradictory or cannot be true.
          type: list
          elements: str
          returned: success
query_result:
  description: What the expression O(query) picks from RV(ansible_facts.numa).
  returned: success, when O(query) is given
  type: raw
  sample: [GPU-6a1ad42c-9d43-4aab-8ab9-8f2c1b8d4a01]
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._facts import (
    GATHER_CHOICES,
    gather,
    parse_overrides,
    wanted_parts,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host


def facts_of(module: AnsibleModule) -> dict[str, t.Any]:
    """Return ``ansible_facts['numa']`` as the module's options ask for it; raises ``NumapinError``."""
    parts = wanted_parts(module.params["gather"])
    overrides = parse_overrides(module.params["gpu_node_overrides"])
    root = module.params["root"]
    # What no path can be is Host's to refuse.
    if "\0" in root or os.path.realpath(root) == "/":
        return gather(Host(root), parts, overrides, GpuSources(this_machine=True))
    # Code that a run on the machine itself does not need is not loaded by it: it would be compiled anew every time.
    from ansible_collections.numapin.inference.plugins.module_utils._archive import opened_root, recorded_answers

    with opened_root(root, module.tmpdir if os.path.isfile(root) else None) as directory:
        host = Host(directory)
        return gather(host, parts, overrides, GpuSources(recorded=recorded_answers(host)))


def main() -> t.NoReturn:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "gather": {"type": "list", "elements": "str", "choices": list(GATHER_CHOICES), "default": ["all"]},
            "gpu_node_overrides": {"type": "dict", "default": {}},
            # Answered on the controller, by the action plugin of this name.
            "query": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        facts = facts_of(module)
    except NumapinError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, ansible_facts={"numa": facts})


if __name__ == "__main__":
    main()
