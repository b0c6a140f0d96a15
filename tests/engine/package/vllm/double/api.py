# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The routes: who may ask, what is asked, and the answer in one piece or as a stream."""

from __future__ import annotations

import json
import threading

from vllm import __version__
from vllm.double import answers, metrics, requests
from vllm.double.answers import random_id
from vllm.double.engine import Engine, EngineBusy, EngineDead, EngineStopping
from vllm.double.requests import Asked, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

    from vllm.double.engine import Generation
    from vllm.double.http import Connection, Request, Stream

    Json = dict[str, t.Any]

# The key is asked for below these, and nowhere else.
GUARDED = ("/v1", "/v2", "/inference", "/cohere")
JSON_TYPE = {"content-type": "application/json"}
ROUTES: dict[str, tuple[str, ...]] = {
    "/health": ("GET",),
    "/ping": ("GET", "POST"),
    "/load": ("GET",),
    "/version": ("GET",),
    "/metrics": ("GET",),
    "/v1/models": ("GET",),
    "/v1/completions": ("POST",),
    "/v1/chat/completions": ("POST",),
}


class Model:
    """What is served: ``names`` as clients call it (the first is in every answer), ``root`` as it was given."""

    def __init__(self, names: list[str], root: str, max_model_len: int, fingerprint: str) -> None:
        self.names, self.root, self.max_model_len, self.fingerprint = names, root, max_model_len, fingerprint


class Features:
    """Options that change answers."""

    def __init__(self, api_keys: list[str], track_load: bool, request_id_headers: bool, always_usage: bool) -> None:
        self.api_keys = [key for key in api_keys if key]
        self.track_load = track_load
        self.request_id_headers = request_id_headers
        self.always_usage = always_usage


class Api:
    """Answers one request at a time per connection. ``on_engine_dead`` is called when a request met a dead engine."""

    def __init__(self, model: Model, features: Features, engine: Engine, page: metrics.Metrics) -> None:
        self._model = model
        self._features = features
        self._engine = engine
        self._page = page
        self._load = 0
        self._lock = threading.Lock()
        # The server's part.
        self.on_engine_dead: t.Callable[[], None] = lambda: None

    def handle(self, request: Request, connection: Connection) -> int:
        """Answer; the HTTP status, for the log. OSError and ClientGone when the client left."""
        refusal = self._refusal(request)
        if refusal is not None:
            return self._answer(connection, request, *refusal)
        if request.path in ("/v1/completions", "/v1/chat/completions"):
            return self._complete(request, connection)
        if request.path == "/metrics":
            body = self._page.exposition().encode()
            connection.answer(request, 200, body, self._with_id(request, {"content-type": metrics.CONTENT_TYPE}))
            return 200
        if request.path in ("/health", "/ping"):
            status = 503 if self._engine.dead else 200
            connection.answer(request, status, b"", self._with_id(request, {}))
            return status
        return self._answer(connection, request, 200, self._information(request.path))

    def _refusal(self, request: Request) -> tuple[int, Json, dict[str, str]] | None:
        """401, 404, 405 or a redirect, before the body is looked at."""
        if request.method != "OPTIONS" and request.path.startswith(GUARDED) and not self._has_key(request):
            return 401, {"error": "Unauthorized"}, {}
        methods = ROUTES.get(request.path)
        if methods is None and ROUTES.get(request.path.rstrip("/")) and request.path.endswith("/"):
            host = request.headers.get("host", "")
            return 307, {}, {"location": f"http://{host}{request.path.rstrip('/')}"}
        if methods is None:
            return 404, {"detail": "Not Found"}, {}
        if request.method not in methods:
            return 405, {"detail": "Method Not Allowed"}, {"allow": methods[0]}
        return None

    def _has_key(self, request: Request) -> bool:
        if not self._features.api_keys:
            return True
        scheme, _space, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and given in self._features.api_keys

    def _information(self, path: str) -> Json:
        if path == "/version":
            return {"version": __version__}
        if path == "/load":
            return {"server_load": self._load}
        return answers.model_list(self._model.names, self._model.root, self._model.max_model_len)

    def _answer(
        self,
        connection: Connection,
        request: Request,
        status: int,
        content: Json,
        headers: dict[str, str] | None = None,
    ) -> int:
        kind = JSON_TYPE if content else {}
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() if content else b""
        connection.answer(request, status, body, self._with_id(request, {**kind, **(headers or {})}))
        return status

    def _with_id(self, request: Request, headers: dict[str, str]) -> dict[str, str]:
        if self._features.request_id_headers:
            return {**headers, "x-request-id": request.headers.get("x-request-id", random_id() + random_id())}
        return headers

    # Completions

    def _complete(self, request: Request, connection: Connection) -> int:
        tracked = False
        try:
            asked = requests.check(_body(request), request.path == "/v1/chat/completions")
            tracked = self._track(1)
            generation = self._admit(asked)
            answer = self._answer_for(request, asked)
            if asked.stream:
                self._stream(request, connection, asked, generation, answer)
                return 200
            return self._whole(request, connection, generation, answer)
        except Refused as refused:
            error = answers.error(refused.message, refused.kind, refused.status, refused.param)
            return self._answer(connection, request, refused.status, error)
        except EngineBusy as busy:
            return self._answer(connection, request, 503, answers.error(str(busy), "Service Unavailable", 503))
        except EngineStopping as stopping:
            # uvicorn closes a connection on which the application raised.
            request.keep_alive = False
            return self._answer(connection, request, 500, _internal(stopping))
        except EngineDead as dead:
            status = self._answer(connection, request, 500, _internal(dead))
            self.on_engine_dead()
            return status
        finally:
            if tracked:
                self._track(-1)

    def _track(self, change: int) -> bool:
        if self._features.track_load:
            with self._lock:
                self._load += change
        return self._features.track_load

    def _admit(self, asked: Asked) -> Generation:
        """In the order in which vLLM looks: model, engine, lengths, tokenizer, sampling."""
        self._check_model(asked.model)
        self._engine.check_admission()
        count, counted = requests.prompt_tokens(asked)
        requests.check_lengths(asked, count, counted, self._model.max_model_len)
        self._engine.check_tokenizer()
        tokens = requests.sampling(asked, count, self._model.max_model_len)
        return self._engine.generation(count, tokens, asked.min_tokens, asked.ignore_eos)

    def _check_model(self, name: str | None) -> None:
        if name and name not in self._model.names:
            aliases = ", ".join(self._model.names)
            message = f"The model `{name}` does not exist. Valid aliases: {aliases}."
            raise Refused(404, "NotFoundError", message, "model")

    def _answer_for(self, request: Request, asked: Asked) -> answers.Answer:
        kind = answers.Chat if asked.is_chat else answers.Completion
        given = request.headers.get("x-request-id") or asked.body.get("request_id") or random_id()
        return kind(str(given), self._model.names[0], self._model.fingerprint)

    def _whole(self, request: Request, connection: Connection, generation: Generation, answer: answers.Answer) -> int:
        for _new in generation.steps(connection.socket):
            pass
        text = generation.text(0, generation.produced)
        used = answers.whole_usage(generation.prompt_tokens, generation.produced)
        return self._answer(connection, request, 200, answer.whole(text, generation.finish_reason or "", used))

    def _stream(
        self,
        request: Request,
        connection: Connection,
        asked: Asked,
        generation: Generation,
        answer: answers.Answer,
    ) -> None:
        stream = connection.begin_stream(request, "text/event-stream; charset=utf-8")
        include_usage = asked.include_usage or self._features.always_usage
        steps = generation.steps(connection.socket)
        try:
            self._stream_tokens(stream, steps, generation, answer, asked, include_usage)
            if include_usage:
                used = answers.usage(generation.prompt_tokens, generation.produced)
                stream.write(_event(answer.usage_part(used)))
        except EngineDead as dead:
            stream.write(f"data: {json.dumps(_internal(dead))}\n\n")
        finally:
            steps.close()
        stream.write("data: [DONE]\n\n")
        stream.end()

    def _stream_tokens(
        self,
        stream: Stream,
        steps: t.Iterator[int],
        generation: Generation,
        answer: answers.Answer,
        asked: Asked,
        include_usage: bool,
    ) -> None:
        continuous = asked.continuous_usage or self._features.always_usage
        opening = answer.first()
        for new in steps:
            done = generation.produced
            if opening is not None:
                stream.write(_event(self._counted(opening, answer, generation, 0, continuous)))
                opening = None
            if not done:  # aborted before its first token
                return
            part = answer.part(generation.text(done - new, done), generation.finish_reason)
            if generation.finish_reason and not include_usage:
                part["system_fingerprint"] = self._model.fingerprint
            stream.write(_event(self._counted(part, answer, generation, done, continuous)))

    def _counted(self, part: Json, answer: answers.Answer, generation: Generation, done: int, wanted: bool) -> Json:
        """The chunk with the usage so far, where that was asked for."""
        if not wanted:
            return part
        used = answer.part_usage(answers.usage(generation.prompt_tokens, done))
        keys = list(part)
        head = {key: part[key] for key in keys[: keys.index("choices") + 1]}
        return {**head, "usage": used, **{key: part[key] for key in keys if key not in head}}


def _body(request: Request) -> t.Any:
    """The body as JSON; Refused as FastAPI and vLLM refuse."""
    media_type = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    content: t.Any = None
    if request.body and (media_type == "application/json" or media_type.endswith("+json")):
        try:
            content = json.loads(request.body)
        except json.JSONDecodeError as error:
            where = f"body.{error.pos}"
            raise requests.invalid("json_invalid", where, "JSON decode error", {}, {"error": error.msg}) from None
        except ValueError:
            raise Refused(400, "Bad Request", "There was an error parsing the body") from None
    if media_type != "application/json":
        text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Refused(400, "Bad Request", text)
    if content is None:
        raise requests.invalid("missing", "body", "Field required", None)
    return content


def _event(content: Json) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _internal(error: Exception) -> Json:
    return answers.error(str(error), "InternalServerError", 500)
