"""The HTTP side: routes, keys, limits and errors, in front of any model."""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from orchestrator.serving.errors import ApiError
from orchestrator.serving.exchange import Ask, Ended, Event, Model, Piece
from orchestrator.serving.line import Line
from orchestrator.serving.messages import read_messages
from orchestrator.serving.metrics import CONTENT_TYPE, Metrics
from orchestrator.serving.protocol import ChatRequest, Replies, parse_request
from workloads.errors import WorkloadError

_GONE = 499
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AppSettings:
    """What the routes need to know."""

    model: str
    """Name that requests ask for."""
    created: int
    """When serving began, in seconds of Unix time."""
    default_tokens: int = 256
    """Longest answer where a request sets no limit."""
    max_body_bytes: int = 32 << 20
    max_open: int = 64
    """Requests at once, waiting ones included."""
    key_digest: str | None = None
    """`digest_of` the key that clients have to send; None for nobody has to."""


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def build_app(model: Model, settings: AppSettings) -> FastAPI:
    """Routes in front of a model."""
    metrics = Metrics()
    routes = _Routes(model, settings, metrics)
    app = FastAPI(title="gammaray", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/chat/completions", routes.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", routes.models, methods=["GET"])
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", routes.metrics, methods=["GET"], response_model=None)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


class _Routes:
    def __init__(self, model: Model, settings: AppSettings, metrics: Metrics) -> None:
        self._model, self._settings, self._metrics = model, settings, metrics
        self._line = Line(model, metrics, settings.max_open)

    async def chat(self, request: Request) -> Response:
        try:
            return await self._chat(request)
        except ApiError as error:
            self._metrics.answered(error.status)
            raise
        except asyncio.CancelledError:
            self._metrics.answered(_GONE)
            raise
        except WorkloadError as error:
            self._metrics.answered(400)
            raise ApiError(400, str(error), _field_of(error)) from error
        except Exception as error:
            self._metrics.answered(500)
            _LOG.exception("a request failed")
            raise ApiError(500, "the model failed; the server's log has the reason") from error

    async def models(self, request: Request) -> dict[str, Any]:
        self._check_key(request)
        model = {
            "id": self._settings.model,
            "object": "model",
            "created": self._settings.created,
            "owned_by": "gammaray",
        }
        return {"object": "list", "data": [model]}

    async def health(self) -> Response:
        is_ready = await self._model.is_ready()
        return JSONResponse(
            {"status": "ok" if is_ready else "loading"}, status_code=200 if is_ready else 503
        )

    async def metrics(self) -> Response:
        return PlainTextResponse(self._metrics.text(), media_type=CONTENT_TYPE)

    async def _chat(self, request: Request) -> Response:
        self._check_key(request)
        asked = parse_request(await self._body(request))
        if asked.model != self._settings.model:
            raise ApiError(
                404,
                f"there is no model {asked.model!r}; this server has {self._settings.model!r}",
                "model",
                "model_not_found",
            )
        turns, images = read_messages(asked.messages)
        ask = Ask(turns, images, asked.sampling(self._settings.default_tokens))
        events = self._line.answer(ask)
        replies = Replies(self._settings.model)
        if asked.stream:
            # What is wrong with the prompt is known when its batch begins, before the status is.
            await anext(events)
            return StreamingResponse(
                self._stream(asked, replies, events), media_type="text/event-stream"
            )
        text, ended = await _gathered(events)
        self._metrics.answered(200)
        return JSONResponse(replies.whole(text, ended))

    async def _stream(
        self, asked: ChatRequest, replies: Replies, events: AsyncIterator[Event]
    ) -> AsyncGenerator[str, None]:
        status = _GONE
        try:
            yield _sent(replies.chunk({"role": "assistant", "content": ""}))
            async for event in events:
                if isinstance(event, Piece):
                    yield _sent(replies.chunk({"content": event.text}))
                elif isinstance(event, Ended):
                    yield _sent(replies.chunk({}, event))
                    if asked.wants_usage:
                        yield _sent(replies.usage_chunk(event))
            yield "data: [DONE]\n\n"
            status = 200
        except Exception:  # noqa: BLE001 - the status has been sent: the stream itself has to tell
            status = 500
            _LOG.exception("a stream failed")
            yield _sent(
                ApiError(500, "the model failed; the server's log has the reason").document()
            )
        finally:
            await events.aclose()  # type: ignore[attr-defined]
            self._metrics.answered(status)

    def _check_key(self, request: Request) -> None:
        wanted = self._settings.key_digest
        if wanted is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest_of(key.strip()), wanted):
            raise ApiError(
                401, "wrong or missing key: send Authorization: Bearer KEY", None, "invalid_api_key"
            )

    async def _body(self, request: Request) -> bytes:
        most = self._settings.max_body_bytes
        told = request.headers.get("content-length", "0")
        body = bytearray()
        if told.isdecimal() and int(told) <= most:
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    break
            else:
                return bytes(body)
        raise ApiError(
            413, f"the request is larger than {most} bytes; send smaller images", None, "too_large"
        )


async def _gathered(events: AsyncIterator[Event]) -> tuple[str, Ended]:
    pieces: list[str] = []
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Piece):
                pieces.append(event.text)
            elif isinstance(event, Ended):
                return "".join(pieces), event
    raise RuntimeError("an answer did not end")


def _sent(document: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def _field_of(error: WorkloadError) -> str:
    source = str(getattr(error, "source", ""))
    return source if source.startswith("messages.") else "messages"


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else {}
    return JSONResponse(error.document(), status_code=error.status, headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(told.document(), status_code=error.status_code)
