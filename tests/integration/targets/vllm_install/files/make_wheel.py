# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a wheel named vllm, a double that holds nothing, and asks for a package that is nowhere to be had."""

from __future__ import annotations

import sys
import zipfile

directory, version = sys.argv[1:]
metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nRequires-Dist: numapin-not-there\n"
tags = "Wheel-Version: 1.0\nGenerator: make_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
with zipfile.ZipFile(f"{directory}/vllm-{version}-py3-none-any.whl", "w") as wheel:
    info = f"vllm-{version}.dist-info"
    names = ["vllm/__init__.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
    contents = ['"""Not vLLM."""\n', metadata, tags, "".join(f"{name},,\n" for name in names)]
    for name, content in zip(names, contents, strict=True):
        wheel.writestr(name, content)
