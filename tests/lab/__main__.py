# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run as a directory: python3 tests/lab COMMAND."""

from __future__ import annotations

import pathlib
import sys

if sys.version_info < (3, 11):
    sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")

# Console, cache and SSH key are those of the containers.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "containers"))

from machines.cli import main

sys.exit(main())
