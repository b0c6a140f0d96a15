// Copyright (c) 2026, numapin.inference contributors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Managed by numapin.inference.load_balancer.
// nginx itself cannot hash: this gives it the SHA-256 of the key that a request brings, so that no file holds a key.

import crypto from 'crypto';

// OpenAI's clients say "Authorization: Bearer KEY", Anthropic's "X-Api-Key: KEY". This runs for every request, hence without
// regular expressions.
function digest(r) {
    const authorization = r.headersIn['Authorization'] || '';
    let key = authorization.slice(0, 7).toLowerCase() === 'bearer ' ? authorization.slice(7).trim() : '';
    if (!key || key.includes(' ')) {
        key = r.headersIn['X-Api-Key'] || '';
    }
    return key ? crypto.createHash('sha256').update(key).digest('hex') : '';
}

export default { digest };
