# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The vLLM environment and the model that all inference hosts share read-only: built once, in a container, cached."""

from __future__ import annotations

import dataclasses
import pathlib
import platform

from fleet import hosts, inventory, passthrough
from fleet.console import as_root, run, say, show, step
from fleet.podman import podman
from fleet.settings import (
    CACHE,
    CONTAINERS,
    VLLM_PACKAGE,
    VLLM_PYTHON,
    VLLM_VERSION,
    Settings,
    ansible_playbook,
    cache_lock,
    fingerprint,
)

# The package index has builds of these for another torch than the CPU's; vLLM serves text without them.
EXCLUDED_PACKAGES = ["torchvision", "torchaudio", "torchcodec"]
# The hosts mount the environment read-only: without this, each of an instance's three processes would compile the
# sources anew at each start (31 s of CPU time instead of 15). Compiling everything takes minutes.
WARM_UP = (
    "import vllm.entrypoints.openai.api_server, vllm.v1.engine.core, vllm.v1.worker.cpu_worker, "
    "vllm.model_executor.models.llama"
)
MODEL_SCRIPT = CONTAINERS / "make_model.py"


@dataclasses.dataclass(frozen=True)
class Shared:
    """Directories of this machine that inference hosts mount at /opt/vllm and /opt/models."""

    environment: pathlib.Path
    models: pathlib.Path

    def mounts(self) -> tuple[str, ...]:
        """As podman's --volume wants them, read-only."""
        return (f"{self.environment}:/opt/vllm:ro", f"{self.models}:/opt/models:ro")


def ready(settings: Settings) -> Shared:
    """Make sure that both are in the cache, each whole, and return where."""
    variables = role_variables()
    # A virtual environment belongs to the interpreter it was made with, and that to the image.
    image_key = fingerprint(settings.image) if settings.image else settings.suite
    recipe = fingerprint([variables, WARM_UP, (CONTAINERS / "build_vllm.yml").read_text(encoding="utf-8")])
    environment = CACHE / f"vllm-{VLLM_VERSION}-{image_key}-{platform.machine()}-{recipe}"
    models = CACHE / f"models-{fingerprint(MODEL_SCRIPT.read_text(encoding='utf-8'))}"
    if environment.exists() and models.exists():
        say(f"{VLLM_PACKAGE} {VLLM_VERSION} and the model are in the cache")
        return Shared(environment, models)
    with cache_lock("vllm"):
        build_environment(environment, variables, settings)
        build_model(models, environment, settings)
    return Shared(environment, models)


def role_variables() -> dict[str, object]:
    """Variables of the vllm role for a build on this machine's settings."""
    found = passthrough.from_machine()
    has_torch = found.holds_wheel("torch")
    return {
        "vllm_install_method": "venv",
        "vllm_version": VLLM_VERSION,
        "vllm_package": VLLM_PACKAGE,
        "vllm_prefix": "/opt/vllm",
        "vllm_excluded_packages": EXCLUDED_PACKAGES,
        "vllm_torch_backend": "" if has_torch else "cpu",
        "vllm_wheel_directories": found.wheel_directories,
    }


def build_environment(target: pathlib.Path, variables: dict[str, object], settings: Settings) -> None:
    """Run the collection's role in a builder container; the result gets its name when it is whole."""
    if target.exists():
        return
    part = fresh_part(target)
    try:
        builder = start_builder([f"{part}:/opt/vllm:rw"], settings)
        files = inventory.write("builder", [builder], {"builders": variables})
        command, environment = ansible_playbook(f"--inventory={files.inventory}", str(CONTAINERS / "build_vllm.yml"))
        with step(f"Installing {VLLM_PACKAGE} {VLLM_VERSION} with the collection's role (downloads about 1 GB)"):
            show(command, timeout_seconds=3600, environment=environment)
        with step("Compiling what every start imports"):
            podman("exec", builder.container, VLLM_PYTHON, "-c", WARM_UP, timeout_seconds=600)
    finally:
        hosts.down("builder")
    part.rename(target)


def build_model(target: pathlib.Path, vllm_environment: pathlib.Path, settings: Settings) -> None:
    """Write the model with the tokenizer library that vLLM itself uses."""
    if target.exists():
        return
    part = fresh_part(target)
    try:
        builder = start_builder([f"{vllm_environment}:/opt/vllm:ro", f"{part}:/opt/models:rw"], settings)
        with step("Making the tiny model"):
            script = MODEL_SCRIPT.read_text(encoding="utf-8")
            podman("exec", "--interactive", builder.container, VLLM_PYTHON, "-", "/opt/models/tiny", stdin=script)
    finally:
        hosts.down("builder")
    part.rename(target)


def fresh_part(target: pathlib.Path) -> pathlib.Path:
    """An empty directory under a name that never counts as finished."""
    part = target.with_name(target.name + ".part")
    if part.exists():
        run(as_root(["rm", "-rf", "--one-file-system", str(part)]), timeout_seconds=300)
    part.mkdir(mode=0o755, parents=True)
    return part


def start_builder(mounts: list[str], settings: Settings) -> hosts.RunningHost:
    """One container to build in."""
    return hosts.up("builder", [hosts.Host("builder1", "builders", 31, tuple(mounts))], settings)[0]
