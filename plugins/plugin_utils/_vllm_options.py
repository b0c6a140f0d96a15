# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""vLLM's options and environment variables as an inventory may set them.

What follows from the plan, and what would show a secret in it, is refused with what to use instead. Values never appear
in a message: they may be secret.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._plain import describe_type, plain

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARGUMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_.+-]+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY)$", re.IGNORECASE)

_SEVERAL_HOSTS = "the plan sets it: use the model's key `hosts`"
_REPLICAS = "the plan starts independent instances instead: use the model's key `instances`"
_PIPELINE = "use the model's key `pipeline_parallel_size`, or let the plan set it from the nodes an instance spans"
_BINDING = "systemd binds the instance to its node as planned; choose with `memory_policy`"

#: vLLM options that follow from the plan, and what to use instead.
_OWNED_ARGUMENTS = {
    "model": "use the model's key `source`",
    "model-tag": "use the model's key `source`",
    "served-model-name": "use the model's key `served_names`",
    "host": "the plan sets it to the address at which the balancers reach this host",
    "port": "use the model's key `port`",
    "uds": "the balancers reach an instance by address and port: use the model's key `port`",
    "config": "write the options themselves under `arguments`",
    "shutdown-timeout": "use the variable `vllm_shutdown_timeout_seconds`, after which the unit's own limit is set",
    "api-key": "use the variable `vllm_api_key`, which is kept out of files others can read",
    "tensor-parallel-size": "use the model's key `tensor_parallel_size`",
    "tp": "use the model's key `tensor_parallel_size`",
    "pipeline-parallel-size": _PIPELINE,
    "pp": _PIPELINE,
    "device": "use the model's key `device`",
    "device-ids": "use the model's key `gpus`",
    "numa-bind": _BINDING,
    "numa-bind-nodes": _BINDING,
    "numa-bind-cpus": _BINDING,
    "nnodes": _SEVERAL_HOSTS,
    "node-rank": _SEVERAL_HOSTS,
    "master-addr": _SEVERAL_HOSTS,
    "master-port": _SEVERAL_HOSTS,
    "headless": _SEVERAL_HOSTS,
    "dp": _REPLICAS,
    "data-parallel-size": _REPLICAS,
    "data-parallel-size-local": _REPLICAS,
    "data-parallel-rank": _REPLICAS,
    "data-parallel-start-rank": _REPLICAS,
    "data-parallel-address": _REPLICAS,
    "data-parallel-rpc-port": _REPLICAS,
}

_PLANNED_GPUS = "the plan sets it from the GPUs it chose: use the model's key `gpus`"
_PLANNED_CPUS = "the plan sets it from the CPUs it chose"

#: Environment variables that follow from the plan, and what to use instead.
_OWNED_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": _PLANNED_GPUS,
    "NVIDIA_VISIBLE_DEVICES": _PLANNED_GPUS,
    "HIP_VISIBLE_DEVICES": _PLANNED_GPUS,
    "ROCR_VISIBLE_DEVICES": _PLANNED_GPUS,
    "CUDA_DEVICE_ORDER": _PLANNED_GPUS,
    "VLLM_CPU_OMP_THREADS_BIND": _PLANNED_CPUS,
    "CPU_VISIBLE_MEMORY_NODES": "the plan sets it from the nodes it chose",
    "VLLM_HOST_IP": "it is the variable `vllm_group_address`",
    "NUMAPIN_CONFIG_ID": "it marks which configuration an instance runs and is set by the role",
    "VLLM_PORT": "it is vLLM's internal port, one for each instance; the service's port is the model's key `port`",
}


def read_arguments(value: object, refuse: t.Callable[[str], None]) -> dict[str, t.Any]:
    """vLLM's options in its own spelling; ``refuse`` is told what cannot be used."""
    if value is None:
        return {}
    if not isinstance(value, t.Mapping):
        refuse(
            f"`arguments` is {describe_type(value)}. Allowed is a dictionary of vLLM's options without their"
            " dashes, such as `arguments: {max-model-len: 8192}`."
        )
        return {}
    result: dict[str, t.Any] = {}
    for key, item in value.items():
        if not isinstance(key, str) or not _ARGUMENT.fullmatch(key):
            hint = f" Write {key.lstrip('-')!r}." if isinstance(key, str) and key.lstrip("-") != key else ""
            refuse(f"`arguments` has the key {key!r}. Allowed are names of vLLM options without leading dashes.{hint}")
            continue
        option = _canonical(key)
        owner = _owner_of(option.partition(".")[0])
        if owner is not None:
            refuse(f"`arguments` must not hold {key!r}: {_OWNED_ARGUMENTS[owner]}.")
        elif _SECRET.search(option.replace("-", "_")):
            refuse(
                f"`arguments` must not hold {key!r}, which looks like a secret: the plan is readable by everyone."
                " Give it to vLLM by its environment variable, in `vllm_secret_environment` (`HF_TOKEN`, say)."
            )
        elif option in result:
            refuse(f"`arguments` holds {option!r} twice, once with `-` and once with `_`. Leave one out.")
        else:
            fault = _argument_fault(item)
            if fault:
                refuse(f"`arguments`: {key!r} {fault}")
            else:
                result[option] = plain(item)
    return result


def read_environment(value: object, refuse: t.Callable[[str], None]) -> dict[str, str]:
    """Environment variables, all values texts; ``refuse`` is told what cannot be used."""
    if value is None:
        return {}
    if not isinstance(value, t.Mapping):
        refuse(
            f"`environment` is {describe_type(value)}. Allowed is a dictionary of variables, such as"
            ' `environment: {VLLM_LOGGING_LEVEL: "DEBUG"}`.'
        )
        return {}
    result: dict[str, str] = {}
    for key, item in value.items():
        fault = _variable_fault(key, item)
        if fault:
            refuse(f"`environment` {fault}")
        else:
            result[plain(key)] = str(plain(item))
    return result


def _canonical(option: str) -> str:
    """vLLM's own spelling: hyphens up to the first dot (what follows a dot names a key inside a JSON option)."""
    head, dot, tail = str(option).partition(".")
    return head.replace("_", "-") + dot + tail


def _owner_of(option: str) -> str | None:
    """The planned option that ``option`` is, or abbreviates: argparse takes ``tensor-parallel`` for the whole name."""
    if option in _OWNED_ARGUMENTS:
        return option
    return next((owned for owned in _OWNED_ARGUMENTS if owned.startswith(option) and len(option) > 2), None)


def _argument_fault(value: object) -> str | None:
    if value is None:
        return "has no value. Leave the key out, or write true for an option without a value."
    items = value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        # vLLM flattens its configuration into a command line, where such a text would be an option of its own.
        if isinstance(item, str) and (item.startswith("--") or _CONTROL.search(item)):
            return "has a value that starts with `--` or holds a control character, which vLLM would misread."
        if isinstance(value, (list, tuple)) and (item is None or isinstance(item, (list, tuple, t.Mapping))):
            return f"has a list that holds {describe_type(item)}. Allowed in it are texts and numbers."
    try:
        plain(value)
    except TypeError as exc:
        return f"holds {exc}. Allowed are texts, numbers, true/false, lists and dictionaries of these."
    return None


def _variable_fault(key: object, value: object) -> str | None:
    if not isinstance(key, str) or not _VARIABLE.fullmatch(key):
        return f"has the variable {key!r}. Allowed are letters, digits and underscores, the first no digit."
    if key in _OWNED_VARIABLES:
        return f"must not hold {key}: {_OWNED_VARIABLES[key]}."
    if key.upper() == "VLLM_API_KEY":
        return f"must not hold {key}: the plan is readable by everyone. Use the variable `vllm_api_key`."
    if _SECRET.search(key) or key.upper() == "HUGGING_FACE_HUB_TOKEN":
        return (
            f"must not hold {key}, which looks like a secret: the plan is readable by everyone. Use the variable"
            f" `vllm_secret_environment: {{{key}: …}}`."
        )
    if isinstance(value, bool):
        return f'sets {key} to true/false, which programs spell differently. Write the text it wants: "1" or "true".'
    if not isinstance(value, (str, int, float)):
        return f"sets {key} to {describe_type(value)}. Allowed are texts and numbers."
    if isinstance(value, str) and _CONTROL.search(value):
        return f"sets {key} to a text with a line break or control character, which an environment file cannot hold."
    return None
