# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a completion or a chat may ask, checked in vLLM's order and refused in vLLM's words.

Not doubled: several answers or prompts at once, echo, logprobs, tools, stop strings and structured output. Those are
refused with 501 and the word "double", so that no test takes them for vLLM's answer.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

    Json = dict[str, t.Any]

NOT_DOUBLED = (
    "echo", "logprobs", "top_logprobs", "prompt_logprobs", "suffix", "use_beam_search", "stop", "tools", "tool_choice",
    "response_format", "structured_outputs", "prompt_embeds", "truncate_prompt_tokens", "return_token_ids",
)  # fmt: skip
_INTEGERS = ("max_tokens", "max_completion_tokens", "n", "min_tokens", "seed", "priority")
_NULLABLE_INTEGERS = ("max_tokens", "max_completion_tokens", "seed")
_DEFAULT_MAX_TOKENS = 16
_NO_OBJECT = "Input should be a valid dictionary or object to extract fields from"


class Refused(Exception):
    """An answer that is an error: HTTP status, vLLM's error type, message and the parameter it is about."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.param = status, kind, message, param


class Asked:
    """A checked request. ``max_tokens`` is what was asked for; null leaves it to the model's length."""

    def __init__(self, body: Json, is_chat: bool) -> None:
        self.body = body
        self.is_chat = is_chat
        self.model: str | None = body.get("model")
        self.stream = bool(body.get("stream"))
        options = body.get("stream_options") or {}
        self.include_usage = bool(options.get("include_usage"))
        self.continuous_usage = self.include_usage and bool(options.get("continuous_usage_stats"))
        self.min_tokens = int(body.get("min_tokens") or 0)
        self.ignore_eos = bool(body.get("ignore_eos"))
        named = body.get("max_completion_tokens") if is_chat else None
        self.max_tokens_name = "max_tokens" if named is None else "max_completion_tokens"
        given = body.get("max_tokens") if named is None else named
        self.max_tokens: int | None = int(given) if given is not None else None if is_chat else _DEFAULT_MAX_TOKENS


def invalid(kind: str, where: str, message: str, given: t.Any, context: Json | None = None) -> Refused:
    """What FastAPI's validation says in vLLM's wrapping."""
    entry: Json = {"type": kind, "loc": where, "msg": message, "input": summary(given)}
    if context:
        entry["ctx"] = context
    return Refused(400, "Bad Request", f"1 validation error:\n  {entry}", where)


def summary(value: t.Any) -> str:
    """An offending value, bounded."""
    if isinstance(value, str):
        return value if len(value) <= 200 else value[:200] + "...[truncated]"
    if isinstance(value, (list, dict)):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)


def wrong(message: str, param: str, value: t.Any = None) -> Refused:
    """vLLM's own validation error, which names its parameter and value at the end."""
    extras = f"parameter={param}" + ("" if value is None else f", value={value}")
    return Refused(400, "BadRequestError", f"{message} ({extras})", param)


def check(body: t.Any, is_chat: bool) -> Asked:
    """The request's shape; Refused."""
    if not isinstance(body, dict):
        raise invalid("model_attributes_type", "body", _NO_OBJECT, body)
    if not is_chat and body.get("prompt") in (None, ""):
        raise wrong("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if body.get("stream_options") and not body.get("stream"):
        raise wrong("Stream options can only be defined when `stream=True`.", "stream_options")
    if is_chat:
        _check_messages(body)
    if body.get("stream_options") is not None and not isinstance(body["stream_options"], dict):
        raise invalid("model_attributes_type", "body.stream_options", _NO_OBJECT, body["stream_options"])
    for name in _INTEGERS:
        _check_integer(body, name)
    _check_temperature(body)
    if body.get("model") is not None and not isinstance(body["model"], str):
        raise invalid("string_type", "body.model", "Input should be a valid string", body["model"])
    _check_doubled(body, is_chat)
    return Asked(body, is_chat)


def _check_messages(body: Json) -> None:
    if "messages" not in body:
        raise invalid("missing", "body.messages", "Field required", body)
    if not isinstance(body["messages"], list):
        raise invalid("list_type", "body.messages", "Input should be a valid list", body["messages"])


def _check_integer(body: Json, name: str) -> None:
    value = body.get(name)
    if value is None and (name not in body or name in _NULLABLE_INTEGERS):
        return
    where = f"body.{name}"
    if isinstance(value, str):
        try:
            body[name] = int(value)
        except ValueError:
            text = "Input should be a valid integer, unable to parse string as an integer"
            raise invalid("int_parsing", where, text, value) from None
    elif isinstance(value, float):
        if value != int(value):
            text = "Input should be a valid integer, got a number with a fractional part"
            raise invalid("int_from_float", where, text, value)
        body[name] = int(value)
    elif not isinstance(value, int):
        raise invalid("int_type", where, "Input should be a valid integer", value)


def _check_temperature(body: Json) -> None:
    value = body.get("temperature")
    try:
        if value is not None:
            body["temperature"] = float(value)
    except ValueError:
        text = "Input should be a valid number, unable to parse string as a number"
        raise invalid("float_parsing", "body.temperature", text, value) from None
    except TypeError:
        raise invalid("float_type", "body.temperature", "Input should be a valid number", value) from None


def _check_doubled(body: Json, is_chat: bool) -> None:
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt) and len(prompt) != 1
    unknown = [name for name in NOT_DOUBLED if body.get(name) not in (None, False, [], "", 0, "none", "auto")]
    if body.get("n", 1) != 1:
        unknown.append("n")
    if not is_chat and several:
        unknown.append("several prompts")
    if unknown:
        raise Refused(501, "NotImplementedError", f"the engine double does not know {', '.join(unknown)}")


def prompt_tokens(asked: Asked) -> tuple[int, bool]:
    """How many tokens the prompt has, about, and whether they were counted by the client (given as token ids)."""
    if asked.is_chat:
        return max(sum(_message_tokens(message) for message in asked.body["messages"]), 1), False
    prompt = asked.body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, list):
        return len(prompt), True
    return _text_tokens(str(prompt)), False


def _text_tokens(text: str) -> int:
    return max((len(text.encode("utf-8", "replace")) + 3) // 4, 1)


def _message_tokens(message: t.Any) -> int:
    if not isinstance(message, dict):
        return 1
    content = message.get("content") or ""
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return _text_tokens(f"{message.get('role', '')}: {content}")


def check_lengths(asked: Asked, count: int, counted: bool, max_model_len: int) -> None:
    """Against the model's length, before the prompt is read; Refused."""
    if asked.max_tokens is not None and asked.max_tokens > max_model_len:
        text = f"{asked.max_tokens_name}={asked.max_tokens} cannot be greater than max_model_len={max_model_len}. "
        raise wrong(text + "Please request fewer output tokens.", asked.max_tokens_name, asked.max_tokens)
    if count > max_model_len:
        # A text is cut one token beyond the limit before it is counted.
        told = count if counted else max_model_len + 1
        least = "at least " if told == max_model_len + 1 else ""
        raise wrong(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
            f"{least}{told} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
            "length of the input prompt.",
            "input_tokens",
            told,
        )


def sampling(asked: Asked, count: int, max_model_len: int) -> int:
    """The number of tokens to make; Refused for what vLLM's SamplingParams refuse."""
    room = max_model_len - count
    tokens = room if asked.max_tokens is None else min(asked.max_tokens, room)
    temperature = asked.body.get("temperature")
    if temperature is not None and temperature < 0:
        raise wrong(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    if temperature is not None and temperature > 2:
        raise wrong(f"temperature must be in [0, 2], got {temperature}.", "temperature", temperature)
    if tokens < 1:
        raise wrong(f"max_tokens must be at least 1, got {tokens}.", "max_tokens", tokens)
    if asked.min_tokens > tokens:
        text = f"min_tokens must be less than or equal to max_tokens={tokens}, got {asked.min_tokens}."
        raise Refused(400, "BadRequestError", text)
    return tokens
