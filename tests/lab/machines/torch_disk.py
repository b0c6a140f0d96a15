# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk with the torch and numba of the containers' vLLM, which machines have as their NVMe disk of kind ``torch``.

Both machines and containers are Debian of one suite: what was built in the one runs in the other.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

from fleet import vllm
from fleet.console import FleetError, run, step
from fleet.settings import VLLM_VERSION, Settings, cache_lock, fingerprint

from machines.places import CACHE

MOUNTED = "/opt/torch"
PYTHON = f"{MOUNTED}/bin/python"
LABEL = "torch"
# What they import; vLLM itself stays away, it would take minutes to start in an emulated machine.
PACKAGES = (
    *("torch", "torchgen", "functorch", "numba", "llvmlite", "numpy", "numpy.libs", "sympy", "mpmath", "networkx"),
    *("fsspec", "filelock", "jinja2", "markupsafe", "typing_extensions.py"),
)
LEFT_OUT = ("include", "test", "*.a")


def made() -> pathlib.Path:
    """The file of the disk, from the cache."""
    environment = vllm.ready(Settings.from_environment()).environment / VLLM_VERSION
    (packages,) = environment.glob("lib/python3*/site-packages")
    target = CACHE / f"torch-{fingerprint([environment.parent.name, PACKAGES, LEFT_OUT])}.ext4"
    with cache_lock("lab-torch"):
        if not target.exists():
            for old in CACHE.glob("torch-*.ext4"):
                old.unlink()
            with step("Making a disk with torch and numba"), tempfile.TemporaryDirectory(dir=CACHE) as name:
                tree = pathlib.Path(name)
                fill(tree, environment, packages)
                part = target.with_suffix(".part")
                size = sum(path.lstat().st_size for path in tree.rglob("*")) // 2**20
                part.unlink(missing_ok=True)
                words = ["mkfs.ext4", "-q", "-L", LABEL, "-d", str(tree), str(part), f"{size + size // 5 + 64}M"]
                run(words, timeout_seconds=600)
                part.rename(target)
    return target


def fill(tree: pathlib.Path, environment: pathlib.Path, packages: pathlib.Path) -> None:
    """A virtual environment with these packages alone, compiled: an emulated machine takes its time for that."""
    tree.chmod(0o755)
    to = tree / packages.relative_to(environment)
    to.mkdir(parents=True)
    shutil.copytree(
        environment / "bin",
        tree / "bin",
        symlinks=True,
        ignore=lambda _place, names: set(names) - {"python", "python3"},
    )
    (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n", encoding="utf-8")
    ignored = shutil.ignore_patterns(*LEFT_OUT)
    for package in PACKAGES:
        source = packages / package
        if source.is_dir():
            shutil.copytree(source, to / package, symlinks=True, ignore=ignored if package == "torch" else None)
        elif source.exists():
            shutil.copyfile(source, to / package)
        else:
            raise FleetError(f"{source} is not there: torch's packages changed, correct PACKAGES in {__file__}")
    python = os.path.realpath(environment / "bin" / "python")
    run([python, "-m", "compileall", "-q", "-j", "0", str(to / "numba"), str(to / "llvmlite")], timeout_seconds=300)
