# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What an inventory asks for: ``vllm_models``, read strictly.

Nothing here knows a host. Every entry is checked to its end, and all faults of all entries are reported together, so
that an inventory is put right in one go. Values that may be secret (``environment``, ``arguments``) never appear in a
message.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

FIRST_PORT = 1024
LAST_PORT = 65535

DEVICES = ("auto", "gpu", "cpu")
MEMORY_POLICIES = ("bind", "preferred", "interleave")
KEYS = (
    "name",
    "source",
    "tensor_parallel_size",
    "instances",
    "device",
    "gpus",
    "port",
    "memory_policy",
    "served_names",
    "arguments",
    "environment",
)

# The name becomes part of a systemd unit and of file names, which may have 255 characters with all their decoration.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?(:[A-Za-z0-9._-]+)?")
_DIRECTORY = re.compile(r"/[^\x00-\x1f\x7f]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARGUMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_.+-]+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY)$", re.IGNORECASE)

_ONE_HOST = "an instance stays on one host so far"
_REPLICAS = "the plan starts independent instances instead: use the model's key `instances`"
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
    "pipeline-parallel-size": "the plan sets it from the nodes an instance spans",
    "pp": "the plan sets it from the nodes an instance spans",
    "device": "use the model's key `device`",
    "device-ids": "use the model's key `gpus`",
    "numa-bind": _BINDING,
    "numa-bind-nodes": _BINDING,
    "numa-bind-cpus": _BINDING,
    "nnodes": _ONE_HOST,
    "node-rank": _ONE_HOST,
    "master-addr": _ONE_HOST,
    "master-port": _ONE_HOST,
    "headless": _ONE_HOST,
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
    "NUMAPIN_CONFIG_ID": "it marks which configuration an instance runs and is set by the role",
    "VLLM_PORT": "it is vLLM's internal port, one for each instance; the service's port is the model's key `port`",
}


class ModelError(NumapinError):
    """``vllm_models`` cannot be understood; ``problems`` holds one sentence or two for each fault."""

    def __init__(self, problems: t.Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(join_problems("vllm_models", self.problems))


@dataclasses.dataclass(frozen=True)
class Model:
    """One entry of ``vllm_models`` with its defaults filled in. ``instances`` is ``None`` for one per node."""

    name: str
    source: str
    tensor_parallel_size: int
    instances: int | None
    device: str
    gpus: str | None
    port: int | None
    memory_policy: str
    served_names: tuple[str, ...]
    arguments: t.Mapping[str, t.Any]
    environment: t.Mapping[str, str]


def join_problems(subject: str, problems: t.Sequence[str]) -> str:
    """One problem as one line, several as a list under a heading."""
    if len(problems) == 1:
        return f"{subject}: {problems[0]}"
    return "\n".join([f"{subject}: {len(problems)} problems", *(f"- {problem}" for problem in problems)])


def plain(value: t.Any) -> t.Any:
    """A deep copy made of Python's own types only.

    ansible-core hands over subclasses of ``str``, ``int``, ``dict`` and ``list`` that carry tags; JMESPath looks at the
    exact type of what it is given. Whatever JSON does not have (dates, sets) raises ``TypeError``.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, t.Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise TypeError(describe_type(value))


def describe_type(value: object) -> str:
    """The type of a value in the words of YAML."""
    if value is None:
        return "nothing (null)"
    for kinds, words in (
        (bool, "true/false"),
        (str, "text"),
        (int, "a whole number"),
        (float, "a fraction"),
        (t.Mapping, "a dictionary"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kinds):
            return words
    return f"a value of type {type(value).__name__}; put it in quotes if text was meant"


def parse_models(raw: object) -> tuple[Model, ...]:
    """Check ``vllm_models`` and fill in the defaults; raises ``ModelError`` with all faults."""
    if raw is None:
        raise ModelError(["is not set. Give a list with `name` and `source` for each model to serve."])
    if not isinstance(raw, (list, tuple)):
        raise ModelError(
            [f"must be a list with one entry per model, not {describe_type(raw)}. Begin each entry with `- name: …`."]
        )
    problems: list[str] = []
    models: list[Model] = []
    for index, entry in enumerate(raw):
        reader = _Reader(index, entry)
        model = reader.read()
        problems.extend(reader.problems)
        if model is not None:
            models.append(model)
    problems.extend(_clashes(raw))
    if problems:
        raise ModelError(problems)
    return tuple(models)


def _clashes(raw: t.Sequence[object]) -> list[str]:
    """Names and ports that two entries have in common, read from the raw entries so that no other fault hides them."""
    problems: list[str] = []
    names: dict[str, int] = {}
    ports: dict[int, str] = {}
    for index, entry in enumerate(raw):
        if not isinstance(entry, t.Mapping):
            continue
        name, port = entry.get("name"), entry.get("port")
        if isinstance(name, str):
            if name in names:
                problems.append(
                    f"the name {name!r} is given to entries [{names[name]}] and [{index}]. Names must differ."
                )
            names.setdefault(name, index)
        if isinstance(port, int) and not isinstance(port, bool):
            label = f"{name!r}" if isinstance(name, str) else f"entry [{index}]"
            if port in ports:
                problems.append(
                    f"models {ports[port]} and {label} both ask for port {port}. Give one of them another `port`, or"
                    " leave `port` out and the plan takes free ones. A model uses one port per instance of a host,"
                    " counted from `port`."
                )
            ports.setdefault(port, label)
    return problems


class _Reader:
    """Reads one entry and collects what is wrong with it."""

    def __init__(self, index: int, entry: object) -> None:
        self.problems: list[str] = []
        self._entry: t.Mapping[t.Any, t.Any] = entry if isinstance(entry, t.Mapping) else {}
        self._is_mapping = isinstance(entry, t.Mapping)
        self._given = describe_type(entry)
        name = self._entry.get("name")
        self._label = f"[{index}] ({name})" if isinstance(name, str) and name else f"[{index}]"

    def read(self) -> Model | None:
        """The model, or ``None`` when ``problems`` says why there is none."""
        if not self._is_mapping:
            self._refuse(f"must be a dictionary with the keys `name` and `source`, not {self._given}.")
            return None
        self._unknown_keys()
        name = self._name()
        model = Model(
            name=name,
            source=self._source(),
            tensor_parallel_size=self._count("tensor_parallel_size", 1, "GPUs of one instance"),
            instances=self._instances(),
            device=self._choice("device", DEVICES, "auto"),
            gpus=self._gpus(),
            port=self._port(),
            memory_policy=self._choice("memory_policy", MEMORY_POLICIES, "bind"),
            served_names=self._served_names(name),
            arguments=self._arguments(),
            environment=self._environment(),
        )
        return None if self.problems else model

    def _refuse(self, text: str) -> None:
        self.problems.append(f"{self._label} {text}")

    def _unknown_keys(self) -> None:
        for key in self._entry:
            if key in KEYS:
                continue
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.6)
            hint = f" Did you mean `{near[0]}`?" if near else " Options of vLLM itself go under `arguments`."
            self._refuse(f"has the unknown key {str(key)!r}.{hint} Allowed keys: {', '.join(KEYS)}.")

    def _name(self) -> str:
        value = self._entry.get("name")
        if isinstance(value, str) and _NAME.fullmatch(value):
            return str(plain(value))
        if "name" not in self._entry:
            self._refuse("has no `name`. Give it one, such as `name: llama-3-70b`.")
        else:
            given = repr(value) if isinstance(value, str) else f"{value!r}, which is {describe_type(value)}"
            self._refuse(
                f"`name` is {given}. Allowed are 1 to 100 lower-case letters, digits, dots, underscores and hyphens,"
                " the first a letter or digit (it becomes part of a systemd unit's name); clients may be given other"
                " names with `served_names`."
            )
        return ""

    def _source(self) -> str:
        value = self._entry.get("source")
        if "source" not in self._entry:
            self._refuse(
                "has no `source`. Give the model's directory on the host (`/opt/models/llama`) or a hub id"
                " (`ORG/NAME`)."
            )
            return ""
        if isinstance(value, str) and (_HUB_ID.fullmatch(value) or _DIRECTORY.fullmatch(value)):
            return str(plain(value))
        self._refuse(
            f"`source` is {value!r}. Allowed is the absolute path of a directory on the host (`/opt/models/llama`) or"
            " a hub id (`ORG/NAME`)."
        )
        return ""

    def _count(self, key: str, default: int, meaning: str) -> int:
        value = self._entry.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return int(value)
        quotes = " without quotes" if isinstance(value, str) and value.isdigit() else ""
        self._refuse(f"`{key}` is {value!r}. Allowed is a whole number from 1 on{quotes}: the {meaning}.")
        return default

    def _instances(self) -> int | None:
        value = self._entry.get("instances", "per_node")
        if value == "per_node":
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return int(value)
        hint = " To serve the model on no instance, take it out of this host's list." if value == 0 else ""
        self._refuse(
            f"`instances` is {value!r}. Allowed are per_node (one on every usable NUMA node) or a whole number from 1"
            f" on: the instances on one host.{hint}"
        )
        return None

    def _choice(self, key: str, allowed: t.Sequence[str], default: str) -> str:
        value = self._entry.get(key, default)
        if isinstance(value, str) and value in allowed:
            return str(plain(value))
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        self._refuse(f"`{key}` is {value!r}. Allowed are {', '.join(allowed)}.{hint}")
        return default

    def _gpus(self) -> str | None:
        value = self._entry.get("gpus")
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            self._refuse(
                f"`gpus` is {value!r}. Allowed is a JMESPath expression over the host's GPUs, as text:"
                ' `gpus: "[?memory_total_mib >= `80000`]"`. How many GPUs an instance gets is `tensor_parallel_size`.'
            )
            return None
        if self._entry.get("device") == "cpu":
            self._refuse("has `device: cpu` and a `gpus` selector, which exclude each other. Leave one of them out.")
        return str(plain(value))

    def _port(self) -> int | None:
        value = self._entry.get("port")
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and FIRST_PORT <= value <= LAST_PORT:
            return int(value)
        quotes = " without quotes" if isinstance(value, str) and value.isdigit() else ""
        self._refuse(
            f"`port` is {value!r}. Allowed is a whole number from {FIRST_PORT} to {LAST_PORT}{quotes}: the port of the"
            " model's first instance on a host. Without `port` the plan takes free ones from 8000 on and keeps them."
        )
        return None

    def _served_names(self, name: str) -> tuple[str, ...]:
        value = self._entry.get("served_names")
        if value is None:
            return (name,)
        if not isinstance(value, (list, tuple)) or not value:
            self._refuse(
                f"`served_names` is {value!r}. Allowed is a list of at least one name: `served_names: [llama]`."
                " Without it clients use `name`."
            )
            return (name,)
        for item in value:
            if not isinstance(item, str) or not _SERVED_NAME.fullmatch(item):
                self._refuse(
                    f"`served_names` holds {item!r}. Allowed are names of letters, digits and . _ / : @ -, the first a"
                    " letter or digit."
                )
        names = tuple(str(item) for item in value)
        if len(set(names)) != len(names):
            self._refuse(f"`served_names` holds a name twice: {', '.join(names)}. Leave one out.")
        return names

    def _arguments(self) -> dict[str, t.Any]:
        value = self._entry.get("arguments")
        if value is None:
            return {}
        if not isinstance(value, t.Mapping):
            self._refuse(
                f"`arguments` is {describe_type(value)}. Allowed is a dictionary of vLLM's options without their"
                " dashes, such as `arguments: {max-model-len: 8192}`."
            )
            return {}
        result: dict[str, t.Any] = {}
        for key, item in value.items():
            if not isinstance(key, str) or not _ARGUMENT.fullmatch(key):
                hint = f" Write {key.lstrip('-')!r}." if isinstance(key, str) and key.lstrip("-") != key else ""
                self._refuse(
                    f"`arguments` has the key {key!r}. Allowed are names of vLLM options without leading dashes.{hint}"
                )
                continue
            option = _canonical(key)
            owner = _owner_of(option.partition(".")[0])
            if owner is not None:
                self._refuse(f"`arguments` must not hold {key!r}: {_OWNED_ARGUMENTS[owner]}.")
            elif _SECRET.search(option.replace("-", "_")):
                self._refuse(
                    f"`arguments` must not hold {key!r}, which looks like a secret: the plan is readable by everyone."
                    " Give it to vLLM by its environment variable, in `vllm_secret_environment` (`HF_TOKEN`, say)."
                )
            elif option in result:
                self._refuse(f"`arguments` holds {option!r} twice, once with `-` and once with `_`. Leave one out.")
            else:
                fault = _argument_fault(item)
                if fault:
                    self._refuse(f"`arguments`: {key!r} {fault}")
                else:
                    result[option] = plain(item)
        return result

    def _environment(self) -> dict[str, str]:
        value = self._entry.get("environment")
        if value is None:
            return {}
        if not isinstance(value, t.Mapping):
            self._refuse(
                f"`environment` is {describe_type(value)}. Allowed is a dictionary of variables, such as"
                ' `environment: {VLLM_LOGGING_LEVEL: "DEBUG"}`.'
            )
            return {}
        result: dict[str, str] = {}
        for key, item in value.items():
            fault = _variable_fault(key, item)
            if fault:
                self._refuse(f"`environment` {fault}")
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
