# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ansible-test runs to put pip into an empty virtual environment, without the download it would do by itself.

``tools/ansible-test`` lays it where ansible-test looks for its downloaded script. The arguments name the pip version
that the download would have had; any pip does, because ansible-test removes it once the packages are installed.
"""

from __future__ import annotations

import subprocess
import sys

subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
# ensurepip of Python 3.11 and older adds these; ansible-test expects them to be absent.
subprocess.run(
    [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", "wheel"],
    check=True,
    stderr=subprocess.DEVNULL,
)
