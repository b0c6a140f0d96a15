# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine has beside Debian's packages: doubles of GPUs and of vLLM, a model's directory, bytecode that is kept.

NVIDIA's library is a double, its Python binding the real one, from the development environment.
"""

from __future__ import annotations

import json
import pathlib
import shutil

from fleet.console import FleetError, run
from fleet.settings import REPOSITORY, fingerprint

from machines.places import LAB

GPU = LAB / "image" / "gpu"
BYTECODE = LAB / "image" / "lab_bytecode.py"
ENGINE = REPOSITORY / "tests" / "engine"
ENGINE_PYTHON = "/opt/vllm/double/bin/python"
MODEL_SOURCE = "/opt/models/tiny"
MODEL_CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 4096}


def recipe() -> str:
    """Changes with whatever is in it."""
    sources = [*GPU.iterdir(), BYTECODE, ENGINE / "install", *(ENGINE / "package").rglob("*.py"), binding()]
    parts = [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in sorted(sources)]
    return fingerprint([parts, MODEL_CONFIG])


def binding() -> pathlib.Path:
    """The module ``pynvml`` of the development environment."""
    found = sorted((REPOSITORY / ".venv").glob("lib/python3*/site-packages/pynvml.py"))
    if not found:
        raise FleetError(
            "NVIDIA's Python binding is not there: make the development environment first (make types does)."
        )
    return found[-1]


def make(tree: pathlib.Path) -> None:
    """Write the files as they are to lie in the machine; ``build-disk`` installs the engine from /tmp/engine."""
    library = tree / "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
    modules = tree / "usr/lib/python3/dist-packages"
    program = tree / "usr/local/sbin/lab-gpus"
    engine = tree / "tmp/engine"
    config = tree / MODEL_SOURCE.lstrip("/") / "config.json"
    for path in (library, modules / "any", program, engine, config):
        path.parent.mkdir(parents=True, exist_ok=True)
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    run(["gcc", *options, "-o", str(library), str(GPU / "nvml_double.c")], timeout_seconds=120)
    for module in (binding(), BYTECODE):
        shutil.copyfile(module, modules / module.name)
    (modules / "lab_bytecode.pth").write_text("import lab_bytecode\n", encoding="utf-8")
    shutil.copyfile(GPU / "lab-gpus", program)
    program.chmod(0o755)
    shutil.copytree(ENGINE / "package", engine / "package", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ENGINE / "install", engine / "install")
    config.write_text(json.dumps(MODEL_CONFIG) + "\n", encoding="utf-8")
