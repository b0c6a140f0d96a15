# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an engine must answer, asked of the double and of a real vLLM alike, and the differences between the two.

``questions`` is the list of requests, as data; ``scenarios`` what takes several of them or a process (``Server``) to
start and stop; ``normal`` takes out what must differ (ids, times, generated text, numbers of tokens that depend on the
tokenizer); ``compare`` tells the differences. The result of a run is plain JSON, so that a real vLLM can be asked in
one place (a container) and compared in another. Standard library only: it runs wherever vLLM does.
"""
