# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The JSON of vLLM's answers: every key in its order, null where vLLM says null, left out where vLLM leaves it out."""

from __future__ import annotations

import os
import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

    Json = dict[str, t.Any]

_MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
_FRAME = re.compile(r'\n?\s*File "[^"]+", line \d+, in \S+(\n\s+.*)?')
_PATH = re.compile(r"/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:/[\w.\-]+)+")
_FILE = re.compile(r"(?:/[\w\-]+)+/[\w\-]+\.\w+")


def random_id() -> str:
    """16 hexadecimal digits."""
    return os.urandom(8).hex()


def error(message: str, kind: str, status: int, param: str | None = None) -> Json:
    """vLLM's error object."""
    return {"error": {"message": sanitized(message), "type": kind, "param": param, "code": status}}


def sanitized(message: str) -> str:
    """Without addresses, frames and paths, as vLLM tells nobody of them."""
    message = _MEMORY_ADDRESS.sub(">", message)
    message = _FRAME.sub("", message)
    message = _PATH.sub("<path>", message)
    return _FILE.sub("<path>", message).strip()


def model_list(names: t.Sequence[str], root: str, max_model_len: int) -> Json:
    """The answer of ``/v1/models``."""
    now = int(time.time())
    return {"object": "list", "data": [_model_card(name, root, max_model_len, now) for name in names]}


def _model_card(name: str, root: str, max_model_len: int, now: int) -> Json:
    permission = {
        "id": f"modelperm-{random_id()}",
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "vllm",
        "root": root,
        "parent": None,
        "max_model_len": max_model_len,
        "permission": [permission],
    }


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """As it stands in a stream; a whole answer has the details, which are null, as well."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def whole_usage(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        **usage(prompt_tokens, completion_tokens),
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


class Answer:
    """What all parts of one answer share. ``fingerprint`` is the server's."""

    prefix = ""
    whole_object = ""
    chunk_object = ""

    def __init__(self, request_id: str, model: str, fingerprint: str) -> None:
        self.id = f"{self.prefix}-{request_id}"
        self.model = model
        self.created = int(time.time())
        self.fingerprint = fingerprint

    def _chunk(self, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": self.chunk_object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _whole(self, choice: Json, used: Json) -> Json:
        return {
            "id": self.id,
            "object": self.whole_object,
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": self.fingerprint,
            "usage": used,
        }

    def first(self) -> Json | None:
        """The chunk before the first token, where there is one."""
        return None

    def part(self, text: str, finish_reason: str | None) -> Json:
        """A chunk with new text."""
        raise NotImplementedError

    def whole(self, text: str, finish_reason: str, used: Json) -> Json:
        """The answer in one piece."""
        raise NotImplementedError

    def usage_part(self, used: Json) -> Json:
        """The chunk behind the last token that ``stream_options.include_usage`` asks for."""
        return {**self._chunk([]), "usage": used, "system_fingerprint": self.fingerprint}

    def part_usage(self, used: Json) -> Json:
        """The usage that ``stream_options.continuous_usage_stats`` puts into every chunk."""
        return used


class Completion(Answer):
    """``/v1/completions``."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def part(self, text: str, finish_reason: str | None) -> Json:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": None,
        }
        return self._chunk([choice])

    def whole(self, text: str, finish_reason: str, used: Json) -> Json:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
        more = dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))
        return {**self._whole(choice, used), **more}


class Chat(Answer):
    """``/v1/chat/completions``."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first(self) -> Json | None:
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._chunk([choice]), "prompt_token_ids": None, "prompt_text": None}

    def part(self, text: str, finish_reason: str | None) -> Json:
        choice: Json = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish_reason}
        if finish_reason:
            choice["stop_reason"] = None
        return self._chunk([{**choice, "token_ids": None}])

    def whole(self, text: str, finish_reason: str, used: Json) -> Json:
        message = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
        names = ("prompt_logprobs", "prompt_token_ids", "prompt_text")
        more = dict.fromkeys((*names, "kv_transfer_params", "ec_transfer_params", "metrics"))
        return {**self._whole(choice, used), **more}

    def part_usage(self, used: Json) -> Json:
        return {**used, "completion_tokens_details": None}
