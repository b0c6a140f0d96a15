# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program ``vllm``: ``vllm serve MODEL --config FILE.yaml``, ``vllm --version``."""

from __future__ import annotations

import sys

from vllm.double.main import command_line


def main() -> int:
    """Run what the command line asks for; the exit status."""
    return command_line(sys.argv[1:])
