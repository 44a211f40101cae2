"""OpenAI's chat completions: which requests are taken, and what answers look like."""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from orchestrator.serving.errors import ApiError
from orchestrator.serving.exchange import Ended

Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any] | dict[str, Any], Field(max_length=0)]
StopText = Annotated[str, StringConstraints(min_length=1)]
StopTexts = Annotated[
    list[StopText],
    Field(max_length=4),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Part):
    """What a stream ends with."""

    include_usage: bool = False


class TextFormat(_Part):
    """The only format of answers."""

    type: Literal["text"]


class ChatRequest(_Part):
    """A request; what would change its meaning and is not supported is refused by name."""

    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Checked by `orchestrator.serving.messages`."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: StopTexts | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None

    # Taken where they ask for what is done anyway.
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Nothing | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none"] | None = None

    # These do not change an answer.
    metadata: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None

    def sampling(self, default_tokens: int) -> dict[str, Any]:
        """Fields of `workloads.generation.Sampling`; an answer is greedy unless asked otherwise."""
        return {
            "max_new_tokens": self.max_completion_tokens or self.max_tokens or default_tokens,
            "temperature": self.temperature or 0.0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "stop": tuple(self.stop or ()),
            "seed": self.seed,
        }

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse_request(body: bytes) -> ChatRequest:
    """Check a request's shape.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _refusal(first["type"], first["loc"], first["msg"], first["input"]) from None


def _refusal(kind: str, loc: Sequence[int | str], message: str, value: object) -> ApiError:
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {message}")
    # Behind the field and its numbers pydantic names the members of a union.
    field = ".".join(str(part) for part in loc if isinstance(part, int) or part in _FIELDS)
    if kind == "extra_forbidden":
        unknown = ".".join(str(part) for part in loc)
        return ApiError(400, f"{unknown} is not supported", unknown, "unsupported_parameter")
    if kind == "missing":
        return ApiError(400, f"{field} is missing", field)
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return ApiError(400, f"{field}: {message[:1].lower()}{message[1:]}, got {shown}", field)


_FIELDS = {*ChatRequest.model_fields, *StreamOptions.model_fields, *TextFormat.model_fields}
_SHOWN = 80


class Replies:
    """Builds the documents of one answer.

    Args:
        model: Name to answer under.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, text: str, ended: Ended) -> dict[str, Any]:
        """An answer in one piece."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"message": message, "finish_reason": ended.reason, "logprobs": None}
        return self._document("chat.completion", choice) | usage(ended) | extension(ended)

    def chunk(self, delta: Mapping[str, str], ended: Ended | None = None) -> dict[str, Any]:
        """A part of a stream; the last of its answer has the reason and what was measured."""
        reason = None if ended is None else ended.reason
        choice = {"delta": dict(delta), "finish_reason": reason, "logprobs": None}
        document = self._document("chat.completion.chunk", choice)
        return document if ended is None else document | extension(ended)

    def usage_chunk(self, ended: Ended) -> dict[str, Any]:
        """What ends a stream that was asked for its usage."""
        document = self._document("chat.completion.chunk", None)
        return document | usage(ended) | extension(ended)

    def _document(self, kind: str, choice: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": [] if choice is None else [{"index": 0, **choice}],
        }


def usage(ended: Ended) -> dict[str, Any]:
    """Token counts."""
    return {
        "usage": {
            "prompt_tokens": ended.prompt_tokens,
            "completion_tokens": ended.completion_tokens,
            "total_tokens": ended.prompt_tokens + ended.completion_tokens,
        }
    }


def extension(ended: Ended) -> dict[str, Any]:
    """What OpenAI's answers have no field for."""
    return {"gammaray": {"skip": ended.skip}}
