# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine double: a small OpenAI-compatible server that behaves towards its surroundings as vLLM 0.32 does.

It stands for vLLM where the real one cannot run (virtual machines that are emulated, 10 to 20 times slower). Standard
library only, for Python 3.9 and newer, and few modules of that: every import is paid for at each start.

Rooms, top-down: ``main`` (start to exit status) → ``server`` (connections, signals, shutdown, over ``http``) → ``api``
(routes) → ``requests`` (what is refused), ``answers`` (the JSON), ``engine`` (what runs, at what pace, how it ends) →
``metrics``. ``processes`` has EngineCore and workers, ``options`` and ``config_file`` the command line,
``settings`` the environment.

What it says and when was read in vLLM 0.32's sources; ``tests/engine/contract`` holds it against a real one.
"""
