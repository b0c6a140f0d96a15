# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filters as templates use them: addresses, types as Ansible hands them over, errors without a traceback."""

from __future__ import annotations

import socket
import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible.template import trust_as_template
from ansible.utils.display import Display

from ansible_collections.numapin.inference.plugins.filter import plan_instances as module
from ansible_collections.numapin.inference.plugins.filter import plan_table as table_module
from ansible_collections.numapin.inference.tests.unit.plugins.plugin_utils.machines import (
    cpu_only,
    eight_gpus,
    machine,
    mig,
    mig_uuid,
    model,
)

plan_instances = module.FilterModule().filters()["plan_instances"]
plan_table = table_module.FilterModule().filters()["plan_table"]


def answers(*addresses: str) -> t.Callable[..., t.Any]:
    """A resolver that knows these addresses."""

    def getaddrinfo(*args: t.Any, **kwargs: t.Any) -> list[t.Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    return getaddrinfo


def fails(*args: t.Any, **kwargs: t.Any) -> t.NoReturn:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize("address", ["192.0.2.11", "2001:db8::11", "127.0.0.1"])
def test_an_ip_address_is_taken_as_it_is(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert plan_instances(cpu_only(), [model()], "h", address)["address"] == address


@pytest.mark.parametrize(
    ("known", "taken"),
    [
        (["192.0.2.12", "192.0.2.11"], "192.0.2.11"),
        (["2001:db8::1", "192.0.2.11"], "192.0.2.11"),
        (["127.0.1.1", "192.0.2.11"], "192.0.2.11"),
        (["fe80::1%eth0", "2001:db8::1"], "2001:db8::1"),
        (["::1", "127.0.0.1"], "127.0.0.1"),
    ],
)
def test_a_name_is_looked_up(known: list[str], taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers(*known))
    assert plan_instances(cpu_only(), [model()], "h", "gpu1.example")["address"] == taken


def test_a_name_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(AnsibleFilterError) as caught:
        plan_instances(cpu_only(), [model()], "h", "gpu1.example")
    text = str(caught.value)
    assert "host h: the address 'gpu1.example' at which balancers are to reach its instances cannot be resolved" in text
    assert "Give its IP address (vllm_address), such as 192.0.2.11" in text


@pytest.mark.parametrize(
    ("address", "message"),
    [("", "is not an IP address or a name"), (None, "is not an IP"), ("0.0.0.0", "no single host's"), ("::", "is ::")],
)
def test_an_address_nobody_can_reach(address: object, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        plan_instances(cpu_only(), [model()], "h", address)


def test_numbers_given_on_the_command_line() -> None:
    as_text = plan_instances(cpu_only(), [model()], "h", "192.0.2.1", None, "8", "2")
    as_number = plan_instances(cpu_only(), [model()], "h", "192.0.2.1", None, 8, 2)
    assert as_text == as_number
    assert as_text["nodes"][1] == {"node": 1, "instance_cpus": "11-15", "housekeeping_cpus": "9-10"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": [model(prot=1)]}, "Did you mean `port`?"),
        ({"models": [model(tensor_parallel_size=2)]}, "host h cannot be planned"),
        ({"facts": {}}, "numapin.inference.numa_facts"),
        ({"reserved_cpus": "x"}, "reserved_cpus"),
        ({"housekeeping_cores": "x"}, "housekeeping_cores is 'x'"),
    ],
)
def test_what_is_wrong_is_an_error_of_the_filter(arguments: dict[str, t.Any], message: str) -> None:
    given = {"facts": cpu_only(), "models": [model()], "host": "h", "address": "192.0.2.1", **arguments}
    with pytest.raises(AnsibleFilterError) as caught:
        plan_instances(**given)
    assert message in str(caught.value)


def test_a_last_plan_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Display, "warning", lambda _self, text: told.append(text))
    plan_instances(cpu_only(), [model()], "h", "192.0.2.1", "garbage")
    assert told == ["h: the plan of the last run is not a plan and is not used, so instances may get other ports"]
    result = plan_instances(cpu_only(), [model()], "h", "192.0.2.1", {})
    plan_instances(cpu_only(), [model()], "h", "192.0.2.1", result)
    assert len(told) == 1


def test_texts_that_carry_tags() -> None:
    """Ansible's texts are subclasses of ``str``, which JMESPath does not know and which must not reach the plan."""
    models = tagged([model(gpus="[?starts_with(uuid, 'GPU-')]", arguments={"dtype": "auto"})])
    assert models[0]["name"].__class__ is not str
    result = plan_instances(tagged(eight_gpus()), models, tagged("h"), tagged("192.0.2.1"))
    assert [entry["name"] for entry in result["instances"]] == ["llama-n0", "llama-n1"]
    (entry, _other) = result["instances"]
    assert {type(entry[key]) for key in ("name", "model", "source", "memory_policy", "cpus")} == {str}
    assert entry["gpus"][0].__class__ is str
    assert entry["arguments"]["dtype"].__class__ is str


def tagged(value: t.Any) -> t.Any:
    """Mark every text in ``value`` as Ansible marks the texts of an inventory."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: tagged(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tagged(item) for item in value]
    return value


@pytest.mark.parametrize("given", [None, "text", [3]])
def test_a_table_of_something_else(given: object) -> None:
    with pytest.raises(AnsibleFilterError, match="is not a plan"):
        plan_table(given)


def test_defaults_are_arguments_that_a_model_does_not_set_itself() -> None:
    defaults = {"max-model-len": 4096, "enforce-eager": True}
    models = [model(arguments={"max_model_len": 8192}), model(name="other")]
    instances = plan_instances(eight_gpus(), models, "h", "192.0.2.1", default_arguments=defaults)["instances"]
    assert {entry["model"]: entry["arguments"] for entry in instances} == {
        "llama": {"enforce-eager": True, "max-model-len": 8192},
        "other": {"enforce-eager": True, "max-model-len": 4096},
    }
    with pytest.raises(AnsibleFilterError, match="must not hold 'port': use the model's key `port`"):
        plan_instances(eight_gpus(), [model()], "h", "192.0.2.1", default_arguments={"port": 9999})
    with pytest.raises(AnsibleFilterError, match="vllm_models: must be a list"):
        plan_instances(eight_gpus(), "llama", "h", "192.0.2.1", default_arguments=defaults)


def test_a_play_can_word_its_own_error() -> None:
    result = plan_instances(eight_gpus(), [model(prot=1)], "h", "192.0.2.1", fail=False)
    assert list(result) == ["problems"]
    assert "has the unknown key 'prot'. Did you mean `port`?" in result["problems"][0]


def test_cores_and_memory_by_their_options() -> None:
    given = {"balancer_cores": "1", "api_server_cores": "1", "reserved_memory_mib": "100"}
    result = plan_instances(
        cpu_only(), [model()], "h", "192.0.2.1", weights_mib={"/opt/models/llama": 7}, **tagged(given)
    )
    assert result["balancer"]["cpus"] == "1"
    (first, _other) = result["instances"]
    assert (first["cpus"], first["omp_cpus"], first["api_server_cpus"], first["memory_mib"]) == ("2-7", "3-7", "2", 7)
    assert any("(515000 less 100 reserved)" in reason for reason in first["reasons"])
    with pytest.raises(AnsibleFilterError, match="reserved_memory_mib is 'x'"):
        plan_instances(cpu_only(), [model()], "h", "192.0.2.1", reserved_memory_mib="x")


def test_a_mig_device_by_its_tags() -> None:
    """What numa_facts says arrives tagged, and a selector has to find it all the same."""
    facts = tagged(machine({0: "0-3"}, [mig(0, 0, "NVIDIA H100 MIG 1g.10gb", "NVIDIA H100 MIG 3g.40gb")]))
    (entry,) = plan_instances(facts, tagged([model(gpus="[?contains(name, '3g')]")]), "h", "192.0.2.1")["instances"]
    assert entry["gpus"] == [mig_uuid(0, 1)]
    assert entry["gpus"][0].__class__ is str
