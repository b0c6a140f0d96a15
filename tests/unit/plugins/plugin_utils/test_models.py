# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``vllm_models`` is read strictly, and every message tells a stranger what to write instead."""

from __future__ import annotations

import datetime
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.plugin_utils._models import Model, ModelError, parse_models
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import model


def problems(*entries: t.Any) -> tuple[str, ...]:
    with pytest.raises(ModelError) as caught:
        parse_models(list(entries))
    return caught.value.problems


def problem(**keys: t.Any) -> str:
    found = problems(model(**keys))
    assert len(found) == 1, found
    assert found[0].startswith("[0] (llama) ")
    return found[0].removeprefix("[0] (llama) ")


def test_defaults() -> None:
    assert parse_models([{"name": "llama-3.1_8b", "source": "meta-llama/Llama-3.1-8B"}]) == (
        Model(
            name="llama-3.1_8b",
            source="meta-llama/Llama-3.1-8B",
            tensor_parallel_size=1,
            pipeline_parallel_size=1,
            instances=None,
            instances_per_node=1,
            scope="node",
            spanning="refuse",
            device="auto",
            gpus=None,
            port=None,
            memory_policy="bind",
            memory_mib=None,
            served_names=("llama-3.1_8b",),
            arguments={},
            environment={},
        ),
    )


def test_everything_given() -> None:
    (found,) = parse_models(
        [
            model(
                tensor_parallel_size=2,
                instances=3,
                device="gpu",
                gpus="[?node == `0`]",
                port=8000,
                memory_policy="preferred",
                served_names=["llama", "meta/llama"],
                arguments={
                    "max_model_len": 8192,
                    "hf_overrides.rope_scaling": "x",
                    "enforce-eager": True,
                    "compilation-config": {"level": 3},
                    "middleware": ["a", "b"],
                },
                environment={"OMP_NUM_THREADS": 8, "RATIO": 0.5, "HF_TOKEN_PATH": "/run/token"},
            )
        ]
    )
    assert (found.tensor_parallel_size, found.instances, found.device, found.port) == (2, 3, "gpu", 8000)
    assert found.arguments == {
        "max-model-len": 8192,
        "hf-overrides.rope_scaling": "x",
        "enforce-eager": True,
        "compilation-config": {"level": 3},
        "middleware": ["a", "b"],
    }
    assert found.environment == {"OMP_NUM_THREADS": "8", "RATIO": "0.5", "HF_TOKEN_PATH": "/run/token"}


def test_no_list() -> None:
    with pytest.raises(ModelError, match=r"vllm_models: must be a list with one entry per model, not a dictionary"):
        parse_models(model())
    with pytest.raises(ModelError, match=r"vllm_models: is not set"):
        parse_models(None)
    assert problems("llama") == ("[0] must be a dictionary with the keys `name` and `source`, not text.",)


def test_an_unknown_key() -> None:
    text = problem(tensor_paralel_size=2)
    assert text == (
        "has the unknown key 'tensor_paralel_size'. Did you mean `tensor_parallel_size`? Allowed keys: name, source,"
        " tensor_parallel_size, pipeline_parallel_size, instances, instances_per_node, scope, spanning,"
        " hosts, across_hosts, device, gpus, port, memory_policy, memory_mib, served_names, arguments, environment."
    )
    assert "has the unknown key 'max-model-len'. Options of vLLM itself go under `arguments`." in problem(
        **{"max-model-len": 1}
    )


def test_what_is_required() -> None:
    assert problems({}) == (
        "[0] has no `name`. Give it one, such as `name: llama-3-70b`.",
        "[0] has no `source`. Give the model's directory on the host (`/opt/models/llama`) or a hub id (`ORG/NAME`).",
    )


@pytest.mark.parametrize("name", ["", "Llama", "-llama", "llama 3", "a/b", "x" * 101, 7, None, "llama\n"])
def test_names(name: object) -> None:
    (text,) = problems({"name": name, "source": "/m"})
    assert f"`name` is {name!r}" in text
    assert "lower-case letters, digits, dots, underscores and hyphens" in text


@pytest.mark.parametrize("source", ["./models", "~/models", "", "a/b/c", "s3://bucket/model", None, 3, "/m\n", ["/m"]])
def test_sources(source: object) -> None:
    text = problem(source=source)
    assert f"`source` is {source!r}. Allowed is the absolute path of a directory on the host" in text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tensor_parallel_size": 0}, "`tensor_parallel_size` is 0. Allowed is a whole number from 1 on"),
        ({"tensor_parallel_size": True}, "`tensor_parallel_size` is True. Allowed is a whole number"),
        (
            {"tensor_parallel_size": "2"},
            "`tensor_parallel_size` is '2'. Allowed is a whole number from 1 on without quo",
        ),
        ({"tensor_parallel_size": 1.0}, "`tensor_parallel_size` is 1.0."),
        (
            {"instances": "per-node"},
            "`instances` is 'per-node'. Allowed are per_node (one on every usable NUMA node) or",
        ),
        ({"instances": 0}, "take it out of this host's list"),
        ({"instances": "2"}, "`instances` is '2'."),
        ({"device": "cuda"}, "`device` is 'cuda'. Allowed are auto, gpu, cpu."),
        ({"device": None}, "`device` is None."),
        ({"memory_policy": "prefered"}, "Allowed are bind, preferred, interleave. Did you mean preferred?"),
        ({"gpus": 4}, "`gpus` is 4. Allowed is a JMESPath expression"),
        ({"gpus": "[*]", "device": "cpu"}, "has `device: cpu` and a `gpus` selector, which exclude each other"),
        ({"port": 80}, "`port` is 80. Allowed is a whole number from 1024 to 65535"),
        ({"port": 65536}, "`port` is 65536."),
        ({"port": "8000"}, "`port` is '8000'. Allowed is a whole number from 1024 to 65535 without quotes"),
        ({"served_names": "llama"}, "`served_names` is 'llama'. Allowed is a list of at least one name"),
        ({"served_names": []}, "`served_names` is []."),
        ({"served_names": ["a", "b c"]}, "`served_names` holds 'b c'."),
        ({"served_names": ["a", "a"]}, "`served_names` holds a name twice: a, a."),
        ({"arguments": ["--x"]}, "`arguments` is a list. Allowed is a dictionary of vLLM's options"),
        ({"environment": "A=1"}, "`environment` is text. Allowed is a dictionary of variables"),
    ],
)
def test_values(keys: dict[str, t.Any], message: str) -> None:
    assert message in problem(**keys)


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("model", "`source`"),
        ("host", "address"),
        ("port", "`port`"),
        ("uds", "`port`"),
        ("config", "under `arguments`"),
        ("api-key", "`vllm_api_key`"),
        ("api_key", "`vllm_api_key`"),
        ("tensor-parallel-size", "`tensor_parallel_size`"),
        ("tensor_parallel_size", "`tensor_parallel_size`"),
        ("tensor-parallel", "`tensor_parallel_size`"),
        ("tp", "`tensor_parallel_size`"),
        ("pipeline_parallel_size", "from the nodes an instance spans"),
        ("served-model-name", "`served_names`"),
        ("device-ids", "`gpus`"),
        ("data-parallel-size", "`instances`"),
        ("numa-bind", "`memory_policy`"),
        ("nnodes", "`hosts`"),
        ("model.x", "`source`"),
    ],
)
def test_arguments_that_follow_from_the_plan(option: str, instead: str) -> None:
    text = problem(arguments={option: "hush"})
    assert text.startswith(f"`arguments` must not hold {option!r}: ")
    assert instead in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"--max-model-len": 1},
            "has the key '--max-model-len'. Allowed are names of vLLM options without leading dashes.",
        ),
        ({"--max-model-len": 1}, "Write 'max-model-len'."),
        ({3: 1}, "has the key 3."),
        ({"seed": None}, "'seed' has no value. Leave the key out"),
        ({"seed": "--port=1"}, "'seed' has a value that starts with `--`"),
        ({"middleware": ["a", "--port"]}, "'middleware' has a value that starts with `--`"),
        ({"middleware": ["a", ["b"]]}, "'middleware' has a list that holds a list"),
        ({"chat-template": "a\nb"}, "control character"),
        ({"revision": datetime.date(2026, 1, 1)}, "'revision' holds a value of type date; put it in quotes"),
        ({"max-model-len": 1, "max_model_len": 1}, "holds 'max-model-len' twice, once with `-` and once with `_`"),
    ],
)
def test_arguments(arguments: dict[t.Any, t.Any], message: str) -> None:
    assert message in problem(arguments=arguments)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"VLLM_API_KEY": "hush"},
            "must not hold VLLM_API_KEY: the plan is readable by everyone. Use the variable `vllm_api_k",
        ),
        ({"HF_TOKEN": "hush"}, "`vllm_secret_environment: {HF_TOKEN: …}`"),
        ({"HUGGING_FACE_HUB_TOKEN": "hush"}, "`vllm_secret_environment"),
        ({"AWS_SECRET_ACCESS_KEY": "hush"}, "`vllm_secret_environment"),
        ({"s3_password": "hush"}, "`vllm_secret_environment"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "must not hold CUDA_VISIBLE_DEVICES: the plan sets it from the GPUs it chose"),
        ({"VLLM_CPU_OMP_THREADS_BIND": "0-3"}, "the plan sets it from the CPUs it chose"),
        ({"VLLM_PORT": 1}, "internal port"),
        ({"NUMAPIN_CONFIG_ID": "x"}, "set by the role"),
        ({"A-B": "x"}, "has the variable 'A-B'. Allowed are letters, digits and underscores"),
        ({7: "x"}, "has the variable 7."),
        ({"A": True}, 'Write the text it wants: "1" or "true".'),
        ({"A": ["hush"]}, "sets A to a list. Allowed are texts and numbers."),
        ({"A": None}, "sets A to nothing (null)."),
        ({"A": "hush\n"}, "sets A to a text with a line break"),
    ],
)
def test_environment(environment: dict[t.Any, t.Any], message: str) -> None:
    text = problem(environment=environment)
    assert message in text
    assert "hush" not in text


def test_two_models_with_one_name() -> None:
    (text,) = problems(model(), model("other"), model())
    assert text == "the name 'llama' is given to entries [0] and [2]. Names must differ."


def test_two_models_on_one_port() -> None:
    (text,) = problems(model("a", port=8000), model("b", port=8000))
    assert text.startswith("models 'a' and 'b' both ask for port 8000. Give one of them another `port`")


def test_all_faults_of_all_entries_are_told_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        parse_models(
            [
                model("a", prot=1, tensor_parallel_size=0),
                model("b", port=8000, memory_policy="none"),
                model("b", port=8000, arguments={"port": 1, "host": 2}),
            ]
        )
    assert [text.split(" ")[0] for text in caught.value.problems] == ["[0]"] * 2 + ["[1]"] + ["[2]"] * 2 + [
        "the",
        "models",
    ]
    assert str(caught.value).startswith(
        "vllm_models: 7 problems\n- [0] (a) has the unknown key 'prot'. Did you mean `port`?"
    )


@pytest.mark.parametrize("key", ["hf-token", "hf_token", "ssl-keyfile-password"])
def test_arguments_that_look_like_secrets(key: str) -> None:
    (text,) = problems(model(arguments={key: "x"}))
    assert f"must not hold {key!r}, which looks like a secret" in text
    assert "`vllm_secret_environment`" in text


def test_the_shutdown_time_belongs_to_the_unit_too() -> None:
    (text,) = problems(model(arguments={"shutdown-timeout": 600}))
    assert "`vllm_shutdown_timeout_seconds`" in text


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"scope": "packge"}, "`scope` is 'packge'. Allowed are node, package. Did you mean package?"),
        ({"scope": None}, "`scope` is None. Allowed are node, package."),
        ({"spanning": "pipe"}, "`spanning` is 'pipe'. Allowed are refuse, pipeline, interleave."),
        ({"spaning": "refuse"}, "has the unknown key 'spaning'. Did you mean `spanning`?"),
        ({"memory_mb": 1}, "has the unknown key 'memory_mb'. Did you mean `memory_mib`?"),
        ({"memory_mib": 0}, "`memory_mib` is 0. Allowed is a whole number from 1 on: the host memory in MiB"),
        ({"memory_mib": "64"}, "from 1 on without quotes"),
        ({"pipeline_parallel_size": 0}, "`pipeline_parallel_size` is 0. Allowed is a whole number from 1 on"),
        ({"instances_per_node": 0}, "`instances_per_node` is 0. Allowed is a whole number from 1 on"),
        ({"instances": 2, "instances_per_node": 2}, "which exclude each other"),
    ],
)
def test_keys_about_shape_that_are_wrong(keys: dict[str, t.Any], told: str) -> None:
    assert told in problem(**keys)


def test_a_pipeline_asked_for_may_span_nodes() -> None:
    (asked,) = parse_models([model(pipeline_parallel_size=2)])
    (refused,) = parse_models([model(pipeline_parallel_size=2, spanning="refuse", instances="per_node")])
    assert (asked.spanning, refused.spanning) == ("pipeline", "refuse")
