# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter: topology facts and the models wanted in, one host's placement plan out."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_instances
short_description: Plan where the vLLM instances of a host run
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Works out from the topology of a host and the models wanted which instance gets which NUMA node, CPUs, memory, GPUs
    and port, with a reason for every choice. Nothing is changed, and the host is not asked.
  - By default a model gets one instance on every node that has CPUs, memory and, on a host with GPUs, enough GPUs. The
    GPUs of a tensor-parallel group are of one node, and those of it that are connected best; an instance is on several
    nodes only where that is asked for. Models are placed in the order of the list; GPUs and cores are never given
    twice.
  - Nodes with memory alone, such as those of coherent GPUs, are never used. MIG devices stand for themselves, each on
    the node of its GPU.
  - Some whole cores per node are kept for the system and its interrupts, and on hosts that balance some for nginx. The
    instances of a node divide its other cores in proportion to their GPUs (evenly without GPUs), SMT siblings always
    together.
  - What is said or known of an instance's memory is held against what its node has beside hugepages, as a process that
    is bound to a node that is full is killed.
  - Given the plan of the last run, instances whose node and GPUs are still there keep them, and their names and ports,
    as long as everything wanted still fits.
  - What cannot be planned is an error that says what was asked, what there is, and what would help. All faults of the
    list of models are reported together.
notes:
  - A model's key C(gpus) needs the Python library C(jmespath) on the controller.
positional: models
options:
  _input:
    description: The facts of the host, C(ansible_facts['numa']).
    type: dict
    required: true
  models:
    description: The models to serve, in order of precedence.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the model and beginning of its instances' names. Lower-case letters, digits, dots, underscores and
            hyphens.
        type: str
        required: true
      source:
        description: Directory of the model on the host, or its hub id (C(ORG/NAME)).
        type: str
        required: true
      tensor_parallel_size:
        description:
          - How many GPUs, all of one node, an instance gets.
          - On the CPU more than V(1) needs O(models[].spanning), as vLLM gives each worker a node of its own there.
        type: int
        default: 1
      pipeline_parallel_size:
        description:
          - How many tensor-parallel groups, one behind the other, an instance gets. They are of one node where one has
            enough GPUs.
        type: int
        default: 1
      instances:
        description:
          - How many instances the host runs.
          - V(per_node) is O(models[].instances_per_node) on every node that has room; a number is spread evenly over
            the nodes.
        type: raw
        default: per_node
      instances_per_node:
        description: How many instances every node gets, or as many of them as it has room for.
        type: int
        default: 1
      scope:
        description:
          - What an instance stays inside of.
          - With V(package) it may use GPUs, CPUs and memory of all nodes of a package, for hosts that divide their
            packages (SNC, NPS). "Per node" then means per package.
        type: str
        choices: [node, package]
        default: node
      spanning:
        description:
          - What to do with an instance that needs more GPUs than any node has.
          - V(refuse) makes it an error.
          - V(pipeline) makes it several tensor-parallel groups of GPUs, each as large as fits inside a node, one behind
            the other. vLLM binds each worker to its node.
          - V(interleave) lets the tensor-parallel group cross nodes, with its memory interleaved over them. This costs,
            and the plan warns of it. On the CPU it also takes an instance that needs more memory than any node has.
          - The default is V(refuse), or V(pipeline) where O(models[].pipeline_parallel_size) is greater than V(1).
        type: str
        choices: [refuse, pipeline, interleave]
      hosts:
        description:
          - Makes one instance of several hosts, which vLLM's own distributed engine joins. A number takes groups of so
            many hosts that are alike; a list names the hosts of one instance, the leader first.
          - O(models[].tensor_parallel_size) then is the size inside a host. O(models[].pipeline_parallel_size) counts
            the stages on all hosts; without it every host is one stage.
        type: raw
      across_hosts:
        description:
          - How hosts share an instance. With V(pipeline) each has its stages.
          - With V(tensor) one tensor-parallel group goes over all of them, of all the O(models[].tensor_parallel_size)
            workers. That needs a network as fast as the links inside a host.
        type: str
        choices: [pipeline, tensor]
        default: pipeline
      device:
        description: What the model runs on. V(auto) is GPUs on hosts that have any, else the CPU.
        type: str
        choices: [auto, gpu, cpu]
        default: auto
      gpus:
        description:
          - JMESPath expression that picks GPUs from C(gpus) of the facts. All of them by default.
          - With a selector the model never falls back to the CPU.
        type: str
      port:
        description:
          - Port of the first instance, V(1024) to V(65535). The others follow, counted by node and by instance.
          - By default the port of the last run, else a free one from 8000 on.
        type: int
      memory_policy:
        description: How the instance's memory is bound to its node.
        type: str
        choices: [bind, preferred, interleave]
        default: bind
      memory_mib:
        description:
          - Host memory in MiB that one instance is expected to need, all in all. What does not fit is refused.
          - Without it only what is certain counts. On GPUs that is C(kv-offloading-size), C(cpu-offload-gb) and
            C(swap-space); on the CPU the weights (O(weights_mib)) and the KV cache (C(kv-cache-memory-bytes),
            C(VLLM_CPU_KVCACHE_SPACE)).
        type: int
      served_names:
        description: Names under which clients ask for the model. By default its O(models[].name).
        type: list
        elements: str
      arguments:
        description:
          - Options of vLLM, without the leading dashes, as in the configuration file of C(vllm serve).
          - Options that follow from the plan (model, address, port, parallel sizes, API key) are refused.
        type: dict
        default: {}
      environment:
        description:
          - Environment variables. Values are texts or numbers.
          - Secrets are refused, as the plan can be read by everyone on the host.
        type: dict
        default: {}
  host:
    description: Name of the host in the plan, C(inventory_hostname).
    type: str
    required: true
  address:
    description:
      - IP address at which balancers reach the host's instances.
      - A name is looked up on the controller, IPv4 before IPv6.
    type: str
    required: true
  default_arguments:
    description:
      - vLLM options for every model that does not set them itself. They are held to the same rules as
        O(models[].arguments).
    type: dict
    default: {}
  fail:
    description:
      - Whether what cannot be planned is an error.
      - When V(false), it is returned as the list C(problems), and nothing else is, for a play that words its own error.
    type: bool
    default: true
  previous:
    description:
      - The plan of the last run as it was read from the host, V(none) when there is none.
      - Something that is not a plan counts as none, with a warning.
    type: dict
  reserved_cpus:
    description: CPUs that belong to somebody else on the host, as a cpulist such as V(0-3,64-67).
    type: str
    default: ''
  housekeeping_cores:
    description:
      - How many whole cores of every node no instance gets, those with the lowest core ids.
      - A node always leaves at least one core to instances, so that a node with a single core keeps none.
    type: int
    default: 1
  balancer_cores:
    description:
      - How many whole cores no instance gets because nginx does, on the node of the fastest network card that is up.
      - V(0) for hosts that do not run nginx, or let it share the housekeeping cores.
    type: int
    default: 0
  api_server_cores:
    description:
      - How many of the cores of an instance on the CPU its worker threads leave to its API server and scheduler.
      - A worker keeps at least one core.
    type: int
    default: 0
  reserved_memory_mib:
    description: MiB of every node that instances cannot have, for the system and for hugepages still to be made.
    type: int
    default: 0
  weights_mib:
    description: Size of the models' weights in MiB by their O(models[].source), as far as it is known.
    type: dict
    default: {}
  fleet:
    description:
      - The groups of hosts that serve one instance together, as P(numapin.inference.plan_groups#filter) found them.
      - Without it, models with O(models[].hosts) are left out, with a warning.
    type: dict
seealso:
  - plugin: numapin.inference.plan_groups
    plugin_type: filter
  - module: numapin.inference.numa_facts
  - plugin: numapin.inference.plan_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Read the topology
  numapin.inference.numa_facts:

- name: One instance with two GPUs on every NUMA node
  ansible.builtin.set_fact:
    vllm_plan: >-
      {{ ansible_facts['numa']
         | numapin.inference.plan_instances(models, host=inventory_hostname, address=ansible_host) }}
  vars:
    models:
      - name: llama-3-70b
        source: /opt/models/llama-3-70b
        tensor_parallel_size: 2
        arguments: {max-model-len: 8192}

- name: A large model on the large GPUs, and a small one on the CPU
  ansible.builtin.set_fact:
    vllm_plan: >-
      {{ ansible_facts['numa']
         | numapin.inference.plan_instances(models, host=inventory_hostname, address='192.0.2.11',
                                            reserved_cpus='0-3', housekeeping_cores=2) }}
  vars:
    models:
      - name: llama-3-70b
        source: /opt/models/llama-3-70b
        tensor_parallel_size: 4
        gpus: "[?memory_total_mib >= `80000`]"
        port: 8000
      - name: embedder
        source: BAAI/bge-small-en-v1.5
        device: cpu
        instances: 1

- name: Show the plan
  ansible.builtin.debug:
    msg: "{{ (vllm_plan | numapin.inference.plan_table).splitlines() }}"
"""

RETURN = r"""
_value:
  description: The plan of the host.
  type: dict
  contains:
    host:
      description: Name of the host.
      type: str
      sample: gpu1
    address:
      description: IP address at which balancers reach the instances.
      type: str
      sample: 192.0.2.11
    nodes:
      description: The nodes that take instances.
      type: list
      elements: dict
      contains:
        node:
          description: Number of the node.
          type: int
        instance_cpus:
          description: CPUs for instances, as a cpulist.
          type: str
          sample: 1-31,65-95
        housekeeping_cpus:
          description: CPUs kept from instances, as a cpulist, empty when there are none.
          type: str
          sample: 0,64
    balancer:
      description: Cores kept for nginx; V(null) when there are none.
      type: dict
      contains:
        node:
          description: Number of the node.
          type: int
        cpus:
          description: Their CPUs, as a cpulist.
          type: str
          sample: 1,65
        reason:
          description: Why on this node.
          type: str
    instances:
      description: The instances, in the order of the models, then of nodes.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the instance, C(MODEL-nNODE), for the second and later on a node C(MODEL-nNODE-K).
          type: str
          sample: llama-3-70b-n0
        model:
          description: Name of the model.
          type: str
        source:
          description: Where the model is.
          type: str
        served_names:
          description: Names under which clients ask for it.
          type: list
          elements: str
        host:
          description: Name of the host.
          type: str
        unit:
          description: Name of the systemd unit.
          type: str
          sample: vllm@llama-3-70b-n0.service
        nodes:
          description: Nodes the instance spans.
          type: list
          elements: int
        cpus:
          description: Its CPUs, as a cpulist.
          type: str
          sample: 1-31,65-95
        omp_cpus:
          description:
            - The first CPU of each core of its worker threads, as a cpulist, and with several workers one for each,
              separated by C(|); V(null) on GPUs.
          type: str
          sample: 1-31
        api_server_cpus:
          description: CPUs of it that worker threads leave to the API server, as a cpulist; V(null) on GPUs.
          type: str
          sample: ''
        memory_nodes:
          description: Nodes whose memory it may use.
          type: list
          elements: int
        memory_policy:
          description: How its memory is bound, V(bind), V(preferred) or V(interleave).
          type: str
        memory_mib:
          description: MiB of host memory that it needs as far as is known; V(null) when nothing is.
          type: int
        device:
          description: What it runs on, V(gpu) or V(cpu).
          type: str
        gpus:
          description: UUIDs of its GPUs or MIG devices, in the order of vLLM's workers.
          type: list
          elements: str
        tensor_parallel_size:
          description: GPUs of one tensor-parallel group.
          type: int
        pipeline_parallel_size:
          description: Groups one behind the other.
          type: int
        numa_bind_nodes:
          description: Node of each of its workers, where vLLM has to bind them because they are on different ones.
          type: list
          elements: int
        numa_bind_cpus:
          description: The instance's CPUs on that node for each of these workers, as cpulists.
          type: list
          elements: str
        port:
          description: Port it listens on.
          type: int
          sample: 8000
        url:
          description: Where it answers.
          type: str
          sample: http://192.0.2.11:8000
        weight:
          description: Its share of the requests - the number of its GPUs, or 1 on the CPU.
          type: int
        housekeeping_cpus:
          description: CPUs of its nodes that are kept from instances, as a cpulist, empty when there are none.
          type: str
          sample: 0,64
        arguments:
          description: Options of vLLM, spelled with hyphens.
          type: dict
        environment:
          description: Environment variables, all values texts.
          type: dict
        group:
          description:
            - Of an instance of several hosts, what this one has to know - its C(rank), all C(members) with C(host),
              C(address) and C(interface), what goes C(across) the hosts, the InfiniBand devices next to its GPUs
              (C(ib_hcas)), and the ports C(rendezvous_port), C(guard_port), C(engine_port) and C(last_port).
          returned: for instances of several hosts
          type: dict
        reasons:
          description: Why it is where it is.
          type: list
          elements: str
    members:
      description:
        - What the host has of instances that another one leads, in the shape of C(instances).
        - P(numapin.inference.joined_plan#filter) fills in C(port) and C(url).
      returned: when there are some
      type: list
      elements: dict
    warnings:
      description: What was planned around and may not be meant, such as GPUs without an instance.
      type: list
      elements: str
"""

import ipaddress
import socket
import typing as t

from ansible.errors import AnsibleFilterError
from ansible.utils.display import Display

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.plugin_utils._last_plan import is_plan
from ansible_collections.numapin.inference.plugins.plugin_utils._planner import plan_host


def plan_instances(
    facts: object,
    models: object,
    host: str,
    address: str,
    previous: object = None,
    reserved_cpus: str | int | None = "",
    housekeeping_cores: int | str = 1,
    default_arguments: t.Mapping[str, t.Any] | None = None,
    fail: bool = True,
    balancer_cores: int | str = 0,
    api_server_cores: int | str = 0,
    reserved_memory_mib: int | str = 0,
    weights_mib: t.Mapping[str, int] | None = None,
    fleet: t.Mapping[str, t.Any] | None = None,
) -> dict[str, t.Any]:
    """Return the plan of one host; what cannot be planned is raised, or returned as ``{"problems": […]}``."""
    if previous and not is_plan(previous):
        Display().warning(
            f"{host}: the plan of the last run is not a plan and is not used, so instances may get other ports"
        )
    # A single CPU in YAML is a number.
    if reserved_cpus is None:
        reserved_cpus = ""
    elif isinstance(reserved_cpus, int) and not isinstance(reserved_cpus, bool):
        reserved_cpus = str(reserved_cpus)
    try:
        return plan_host(
            facts,
            with_defaults(models, default_arguments or {}),
            host=host,
            address=resolve(host, address),
            previous=previous,
            reserved_cpus=reserved_cpus,
            housekeeping_cores=number(housekeeping_cores),
            balancer_cores=number(balancer_cores),
            api_server_cores=number(api_server_cores),
            reserved_memory_mib=number(reserved_memory_mib),
            weights_mib=weights_mib or {},
            fleet=fleet,
        )
    except NumapinError as error:
        if not fail:
            return {"problems": [str(error)]}
        raise AnsibleFilterError(str(error)) from error


def number(value: object) -> object:
    """Values given with ``--extra-vars key=value`` are texts."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def with_defaults(models: object, defaults: t.Mapping[str, t.Any]) -> object:
    """Give every model the arguments it does not set itself, in either spelling; what is no model stays as it is."""
    if not isinstance(models, (list, tuple)):
        return models
    completed: list[object] = []
    for entry in models:
        own = (entry.get("arguments") or {}) if isinstance(entry, t.Mapping) else None
        if isinstance(own, t.Mapping):
            set_already = {str(key).replace("_", "-") for key in own}
            missing = {key: value for key, value in defaults.items() if key.replace("_", "-") not in set_already}
            completed.append({**t.cast("t.Mapping[str, t.Any]", entry), "arguments": {**missing, **own}})
        else:
            completed.append(entry)
    return completed


class AddressError(NumapinError):
    """A host's address cannot be used by balancers."""


def resolve(host: str, address: object) -> str:
    """An IP address as it is; a name as the controller knows it, IPv4 before IPv6, and the same one in every run."""
    what = f"host {host}: the address {address!r} at which balancers are to reach its instances"
    advice = "Give its IP address (vllm_address), such as 192.0.2.11"
    if not isinstance(address, str) or not address:
        raise AddressError(f"{what} is not an IP address or a name. {advice}.")
    try:
        found = {ipaddress.ip_address(address)}
    except ValueError:
        found = _look_up(address, what, advice)
    # A host's own name often means 127.0.1.1 in its /etc/hosts: anything that others can reach is better.
    chosen = min(found, key=lambda ip: (ip.is_loopback or ip.is_link_local, ip.version, int(ip)))
    if chosen.is_unspecified or chosen.is_multicast:
        raise AddressError(f"{what} is {chosen}, which is no single host's address. {advice}.")
    return str(chosen)


def _look_up(name: str, what: str, advice: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise AddressError(
            f"{what} cannot be resolved on the controller: {exc}. {advice}, or add the name to DNS."
        ) from exc
    return {ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers}


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"plan_instances": plan_instances}
