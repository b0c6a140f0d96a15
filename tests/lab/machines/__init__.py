# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines of the lab: servers of any shape under QEMU, each with a kernel, sockets, nodes and devices of its own.

Standard library only (Python 3.11 or newer), and what tests/containers shares.
"""
