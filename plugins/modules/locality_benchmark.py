#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: locality_benchmark
short_description: Measure what NUMA locality is worth on a host
version_added: 0.1.0
author:
  - numapin.inference contributors (@numapin)
description:
  - Measures memory of every node from the CPUs of every node, a loop of C(torch.nn.Linear), and the planned instances
    of a model under the load of C(vllm bench serve), each in several placements that take turns.
  - Uses the Python of the vLLM that is installed on the host, and installs nothing. All it runs are transient units of
    systemd called C(numapin-benchmark-*). They are stopped and what they wrote is removed before the module returns.
  - The instances are temporary ones on ports of loopback, with a key of their own. Deployed ones are never asked. The
    module refuses a host on which any runs, unless O(use_serving) is set, as both would take the CPUs, memory and GPUs
    from each other.
  - Returns measurements. P(numapin.inference.benchmark_result#filter) makes verdicts of them.
requirements:
  - root
  - systemd with transient units
extends_documentation_fragment:
  - numapin.inference.attributes
attributes:
  check_mode:
    details:
      - Returns what would be run, and runs nothing.
  diff_mode:
    support: N/A
    details:
      - This module leaves nothing changed.
  idempotent:
    support: N/A
    details:
      - Every run measures again.
options:
  numa:
    description: The topology, C(ansible_facts['numa']).
    type: dict
    required: true
  instances:
    description: The planned instances of the host, C(vllm_plan.instances).
    type: list
    elements: dict
    required: true
  python:
    description: The Python of the installed vLLM.
    type: path
    required: true
  user:
    description: User that runs what is measured.
    type: str
    default: vllm
  parts:
    description: What is measured.
    type: list
    elements: str
    choices: [host, linear, service]
    default: [host, linear, service]
  placements:
    description:
      - The placements that are compared. The first one is what the others are held against.
      - V(local) is as planned. V(remote) has the memory, and beside a GPU the CPUs too, on the node that is farthest
        away. V(floating) is not placed at all. V(vllm) is what vLLM does by itself. V(again) is V(local) once more, and
        shows how far two equal placements seem apart.
    type: list
    elements: str
    choices: [local, remote, floating, vllm, again]
    default: [local, remote, floating, vllm]
  model:
    description: The model whose instances are measured, of C(vllm_models). Empty takes the first one.
    type: str
    default: ""
  rounds:
    description: How often every placement is measured, 6 at least.
    type: int
    default: 8
  requests:
    description: Requests to each instance in a round.
    type: int
    default: 64
  concurrency:
    description: How many of them are in flight at a time.
    type: int
    default: 8
  input_tokens:
    description: Length of a prompt.
    type: int
    default: 256
  output_tokens:
    description: Length of an answer.
    type: int
    default: 128
  buffer_mib:
    description: Size of a buffer in MiB when memory is measured. It should be a few times what the caches hold.
    type: int
    default: 512
  linear_size:
    description: Inputs and outputs of the layer of C(torch.nn.Linear).
    type: int
    default: 4096
  keep_running:
    description:
      - V(true) starts the instances of all placements once, and only one placement has load at a time. There must be
        memory for all of them. Not with GPUs.
      - V(false) starts those of a placement anew in every round, so that each start's luck counts once.
    type: bool
    default: false
  start_timeout_seconds:
    description: How long instances may take until they answer.
    type: int
    default: 1800
  limit_seconds:
    description: When anything that was started ends by itself.
    type: int
    default: 14400
  reserved_cpus:
    description:
      - CPUs of this host that belong to somebody else, as a cpulist. What is not placed stays away from them too.
    type: str
    default: ""
  use_serving:
    description:
      - V(true) measures although deployed instances run. They become slower meanwhile, and what is measured as well.
    type: bool
    default: false
  clean_up_only:
    description: V(true) measures nothing, and removes what a benchmark that was killed has left.
    type: bool
    default: false
  wait_for_job:
    description:
      - Path of the file in which Ansible keeps the answer of a benchmark that runs in the background (C(results_file)
        of a task with C(async)). With it the module measures nothing, and waits for a minute until the answer is there.
      - RV(state) says whether it is. Ansible itself would ask for the answer of a benchmark that was killed, or whose
        host was restarted, until the time of the task is over.
    type: path
seealso:
  - plugin: numapin.inference.benchmark_result
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Measure memory and the service, as planned and unbound
  numapin.inference.locality_benchmark:
    numa: "{{ ansible_facts['numa'] }}"
    instances: "{{ vllm_plan.instances }}"
    python: /opt/vllm/0.33.0/bin/python
    parts: [host, service]
    placements: [local, floating]
  register: benchmark
"""

RETURN = r"""
state:
  description: With O(wait_for_job), V(running), V(ended) (its answer is there) or V(lost) (nobody is left to give one).
  returned: with O(wait_for_job)
  type: str
  sample: ended
runs:
  description: What was run, or would be.
  returned: success
  type: list
  elements: str
  sample: ["memory: CPUs of node 0, memory of node 1"]
left_out:
  description: What is left out (C(what)) of which part (C(part)), and why (C(why)).
  returned: success
  type: list
  elements: dict
  sample: [{part: host, what: copies between host and GPU, why: this host has no GPU}]
measured:
  description: The measurements; V(null) in check mode.
  returned: success
  type: dict
  contains:
    pairs:
      description: For each pair of nodes the bandwidth of all its CPUs (STREAM's triad) and the latency of one load.
      type: list
      elements: dict
      sample: [{cpu_node: 0, memory_node: 1, gib_per_second: 98.1, nanoseconds: 141.2}]
    gpu_copies:
      description: Bandwidth of copies between pinned memory of each node and each GPU.
      type: list
      elements: dict
      sample: []
    linear:
      description: Milliseconds of one pass, one value for each round, by placement.
      type: dict
      sample: {local: [4.1, 4.2], floating: [4.3, 4.1]}
    service:
      description: One entry for each round, by placement. C(local_memory_percent) is V(null) where it cannot be read.
      type: dict
      sample:
        local: [{tokens_per_second: 812.0, ttft_p50_ms: 41.0, ttft_p99_ms: 80.2, tpot_p50_ms: 9.1, tpot_p99_ms: 9.9,
                 latency_p50_ms: 1200.0, latency_p99_ms: 1340.0, local_memory_percent: 100.0}]
    problems:
      description: What could not be measured although it was tried.
      type: list
      elements: str
      sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils import _bench_client, _bench_probe
from ansible_collections.numapin.inference.plugins.module_utils._bench_plan import PLACEMENTS, BenchmarkError
from ansible_collections.numapin.inference.plugins.module_utils._bench_run import PARTS, Settings, measure, plan, told
from ansible_collections.numapin.inference.plugins.module_utils._bench_units import LOCK, Units
from ansible_collections.numapin.inference.plugins.module_utils._bench_wait import wait_for_end
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

# Run on the host as files of their own; Ansible sends what is imported.
_SENT = (_bench_client, _bench_probe)
_WAIT_SECONDS = 60
_DEFAULT_PLACEMENTS = ["local", "remote", "floating", "vllm"]
# name: default, least
_NUMBERS = {
    "rounds": (8, 6),
    "requests": (64, 1),
    "concurrency": (8, 1),
    "input_tokens": (256, 1),
    "output_tokens": (128, 2),
    "buffer_mib": (512, 16),
    "linear_size": (4096, 16),
    "start_timeout_seconds": (1800, 1),
    "limit_seconds": (14400, 60),
}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "numa": {"type": "dict", "required": True},
            "instances": {"type": "list", "elements": "dict", "required": True},
            "python": {"type": "path", "required": True},
            "user": {"type": "str", "default": "vllm"},
            "parts": {"type": "list", "elements": "str", "choices": list(PARTS), "default": list(PARTS)},
            "placements": {
                "type": "list",
                "elements": "str",
                "choices": list(PLACEMENTS),
                "default": _DEFAULT_PLACEMENTS,
            },
            "model": {"type": "str", "default": ""},
            "keep_running": {"type": "bool", "default": False},
            "reserved_cpus": {"type": "str", "default": ""},
            "use_serving": {"type": "bool", "default": False},
            "clean_up_only": {"type": "bool", "default": False},
            "wait_for_job": {"type": "path"},
            # Numbers of tokens of a text: nothing here is a secret.
            **{
                name: {"type": "int", "default": default, "no_log": False}
                for name, (default, _least) in _NUMBERS.items()
            },
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **_answer(module.params, module.check_mode))
    except NumapinError as error:
        module.fail_json(msg=str(error))


def _answer(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    units = Units(params["user"], params["python"], params["limit_seconds"])
    if params["wait_for_job"]:
        state = wait_for_end(params["wait_for_job"], LOCK, _WAIT_SECONDS)
        return {"runs": [], "left_out": [], "measured": None, "state": state}
    if params["clean_up_only"]:
        if not check_mode:
            with units.alone():
                units.clean_up()
        return {"runs": [], "left_out": [], "measured": None}
    for name, (_default, least) in _NUMBERS.items():
        if params[name] < least:
            raise BenchmarkError(f"benchmark_{name} is {params[name]}; it must be {least} or more")
    if len(set(params["placements"])) != len(params["placements"]) or not params["placements"]:
        raise BenchmarkError(f"benchmark_placements is {params['placements']}; give one or more, each once")
    settings = Settings(**{name: params[name] for name in Settings._fields})
    work = plan(settings, params["numa"], params["instances"], params["reserved_cpus"])
    serving = units.serving()
    if serving and not params["use_serving"]:
        raise BenchmarkError(
            f"{', '.join(serving)} run on this host, and both would slow each other down. Drain the host with"
            " playbooks/drain.yml and stop them (systemctl stop vllm.target 'vllm@*'), or measure nevertheless with -e"
            " benchmark_use_serving=true"
        )
    answer: dict[str, t.Any] = {
        "runs": told(work, settings),
        "left_out": [one._asdict() for one in work.skipped],
        "measured": None,
    }
    if check_mode:
        return answer
    with units.alone():
        try:
            units.prepare()
            answer["measured"] = measure(units, settings, work)
        finally:
            units.clean_up()
    return answer


if __name__ == "__main__":
    main()
