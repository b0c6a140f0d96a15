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
from ansible_collections.numapin.inference.plugins.plugin_utils._plain import describe_type, plain
from ansible_collections.numapin.inference.plugins.plugin_utils._vllm_options import read_arguments, read_environment

FIRST_PORT = 1024
LAST_PORT = 65535

DEVICES = ("auto", "gpu", "cpu")
MEMORY_POLICIES = ("bind", "preferred", "interleave")
SCOPES = ("node", "package")
SPANNINGS = ("refuse", "pipeline", "interleave")
ACROSS_HOSTS = ("pipeline", "tensor")
KEYS = (
    "name",
    "source",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "instances",
    "instances_per_node",
    "scope",
    "spanning",
    "hosts",
    "across_hosts",
    "device",
    "gpus",
    "port",
    "memory_policy",
    "memory_mib",
    "served_names",
    "arguments",
    "environment",
)

# The name becomes part of a systemd unit and of file names, which may have 255 characters with all their decoration.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?(:[A-Za-z0-9._-]+)?")
_DIRECTORY = re.compile(r"/[^\x00-\x1f\x7f]*")


class ModelError(NumapinError):
    """``vllm_models`` cannot be understood; ``problems`` holds one sentence or two for each fault."""

    def __init__(self, problems: t.Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(join_problems("vllm_models", self.problems))


@dataclasses.dataclass(frozen=True)
class Part:
    """What one host has of an instance that several hosts have together: which instance, and how many hosts."""

    instance: str
    hosts: int


@dataclasses.dataclass(frozen=True)
class Model:
    """One entry of ``vllm_models`` with its defaults filled in.

    ``instances`` is ``None`` for ``instances_per_node`` on every node (or package, by ``scope``). ``hosts`` is a number
    of hosts for each instance, or the names of those of its one instance; ``None`` for instances on one host. ``part``
    is set while one host of such an instance is planned; the sizes are those on that host then.
    """

    name: str
    source: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    instances: int | None
    instances_per_node: int
    scope: str
    spanning: str
    device: str
    gpus: str | None
    port: int | None
    memory_policy: str
    memory_mib: int | None
    served_names: tuple[str, ...]
    arguments: t.Mapping[str, t.Any]
    environment: t.Mapping[str, str]
    hosts: int | tuple[str, ...] | None = None
    across_hosts: str = "pipeline"
    part: Part | None = None


def host_count(model: Model) -> int:
    """Hosts of one instance."""
    return model.hosts if isinstance(model.hosts, int) else len(model.hosts or ("",))


def join_problems(subject: str, problems: t.Sequence[str]) -> str:
    """One problem as one line, several as a list under a heading."""
    if len(problems) == 1:
        return f"{subject}: {problems[0]}"
    return "\n".join([f"{subject}: {len(problems)} problems", *(f"- {problem}" for problem in problems)])


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
        pipeline = self._count("pipeline_parallel_size", 1, "groups of GPUs, one behind the other, of one instance")
        model = Model(
            name=name,
            source=self._source(),
            tensor_parallel_size=self._count("tensor_parallel_size", 1, "GPUs of one instance"),
            pipeline_parallel_size=pipeline,
            instances=self._instances(),
            instances_per_node=self._instances_per_node(),
            scope=self._choice("scope", SCOPES, "node"),
            # Who asks for groups one behind the other has asked for what crosses nodes.
            spanning=self._choice("spanning", SPANNINGS, "refuse" if pipeline == 1 else "pipeline"),
            device=self._choice("device", DEVICES, "auto"),
            gpus=self._gpus(),
            port=self._port(),
            memory_policy=self._choice("memory_policy", MEMORY_POLICIES, "bind"),
            memory_mib=self._memory(),
            served_names=self._served_names(name),
            arguments=read_arguments(self._entry.get("arguments"), self._refuse),
            environment=read_environment(self._entry.get("environment"), self._refuse),
            hosts=self._hosts(),
            across_hosts=self._choice("across_hosts", ACROSS_HOSTS, "pipeline"),
        )
        self._shape_over_hosts(model)
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

    def _instances_per_node(self) -> int:
        if "instances_per_node" in self._entry and self._entry.get("instances", "per_node") != "per_node":
            self._refuse(
                "has a number of `instances` and `instances_per_node`, which exclude each other: the one counts the"
                " instances of a host, the other those of every node. Leave one of them out."
            )
        return self._count("instances_per_node", 1, "instances on every usable NUMA node")

    def _hosts(self) -> int | tuple[str, ...] | None:
        value = self._entry.get("hosts")
        if value is None:
            if "across_hosts" in self._entry:
                self._refuse(
                    "has `across_hosts` and no `hosts`. Say over how many hosts an instance is to go: `hosts: 2`."
                )
            return None
        for key in ("instances", "instances_per_node"):
            if key in self._entry:
                self._refuse(
                    f"has `hosts` and `{key}`, which exclude each other: with `hosts` there is one instance for every"
                    " group of hosts. Leave one of them out."
                )
        if isinstance(value, int) and not isinstance(value, bool) and value >= 2:
            return int(value)
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) and item for item in value):
            names = tuple(str(plain(item)) for item in value)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                self._refuse(f"`hosts` names {', '.join(twice)} twice. Every host has one place in a group.")
                return None
            if len(names) >= 2:
                return names
        self._refuse(
            f"`hosts` is {value!r}. Allowed is a whole number from 2 on, of hosts for each instance, or a list of at"
            " least two names of hosts, the leader first. Leave it out for instances on one host."
        )
        return None

    def _shape_over_hosts(self, model: Model) -> None:
        """Sizes that hosts can have equal parts of."""
        if model.hosts is None:
            return
        number = host_count(model)
        tensor, pipeline = model.tensor_parallel_size, model.pipeline_parallel_size
        if model.across_hosts == "tensor":
            if pipeline != 1:
                self._refuse(
                    f"has `across_hosts: tensor` and `pipeline_parallel_size: {pipeline}`, which exclude each other:"
                    " one tensor-parallel group over all hosts has no stages. Leave one of them out."
                )
            if tensor % number:
                self._refuse(
                    f"`tensor_parallel_size` is {tensor}, which {number} hosts cannot have equal parts of"
                    f" (`across_hosts: tensor`). Allowed are multiples of {number}."
                )
        elif pipeline != 1 and pipeline % number:
            self._refuse(
                f"`pipeline_parallel_size` is {pipeline}, which {number} hosts cannot have equal parts of. Allowed are"
                f" multiples of {number}: the stages on all hosts together. Without it every host is one stage."
            )
        if model.spanning == "interleave":
            self._refuse("has `hosts` and `spanning: interleave`. On each host allowed are refuse and pipeline.")

    def _memory(self) -> int | None:
        if self._entry.get("memory_mib") is None:
            return None
        return self._count("memory_mib", 1, "host memory in MiB that one instance is expected to need, all in all")

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
