# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts for the demo and for molecule: containers with systemd inside, and what they need, built once and cached.

Standard library only (Python 3.10 or newer): it runs before the development environment exists.
"""
