# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m vllm.entrypoints.openai.api_server --config FILE.yaml``, as roles/vllm starts it."""

from __future__ import annotations

import sys

from vllm.double.main import api_server

if __name__ == "__main__":
    sys.exit(api_server(sys.argv[1:]))
