"""Messages of a chat to turns and images; nothing is fetched on a client's behalf."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.serving.errors import ApiError
from orchestrator.serving.exchange import EncodedImage
from workloads.data import Turn
from workloads.data.records import IMAGE_MARK, Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
}
_HOW = "send the image itself as data:image/png;base64,... (or jpeg, webp, gif)"


def read_messages(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[tuple[Turn, ...], tuple[EncodedImage, ...]]:
    """Turns that end with an empty answer to be given, and the images in the order of their marks.

    Raises:
        ApiError: 400, naming the field.
    """
    turns: list[Turn] = []
    images: list[EncodedImage] = []
    for number, message in enumerate(messages):
        field = f"messages.{number}"
        role = _role(field, message)
        text = _text(f"{field}.content", message.get("content"), images)
        turns.append(Turn(role, text))
    if turns[-1].role != "human":
        last = f"messages.{len(turns) - 1}.role"
        raise ApiError(400, f"{last}: the last message must be the user's", last)
    return (*turns, Turn("gpt", "")), tuple(images)


def _role(field: str, message: Mapping[str, Any]) -> Role:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        field = f"{field}.role"
        raise ApiError(400, f"{field}: must be one of {known}, got {role!r}", field)
    return _ROLES[role]


def _text(field: str, content: object, images: list[EncodedImage]) -> str:
    if isinstance(content, str):
        return _plain(field, content)
    if not isinstance(content, list) or not content:
        kind = type(content).__name__
        raise ApiError(400, f"{field}: must be text or a list of parts, got {kind}", field)
    return "".join(_part(f"{field}.{n}", part, images) for n, part in enumerate(content))


def _part(field: str, part: object, images: list[EncodedImage]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in ("text", "image_url"):
        raise ApiError(
            400, f"{field}.type: must be text or image_url, got {kind!r}", f"{field}.type"
        )
    if kind == "text":
        return _plain(f"{field}.text", part.get("text"))
    source = part.get("image_url")
    field = f"{field}.image_url.url"
    url = source.get("url") if isinstance(source, dict) else None
    images.append(EncodedImage(field, _content(field, url)))
    return IMAGE_MARK


def _plain(field: str, text: object) -> str:
    if not isinstance(text, str):
        raise ApiError(400, f"{field}: must be text, got {type(text).__name__}", field)
    if IMAGE_MARK in text:
        raise ApiError(400, f"{field}: must not hold {IMAGE_MARK!r}, which marks images", field)
    return text


def _content(field: str, url: object) -> bytes:
    if not isinstance(url, str):
        raise ApiError(400, f"{field}: must be text, got {type(url).__name__}", field)
    head, comma, payload = url.partition(",")
    if not head.startswith("data:"):
        shown = url[:40]
        raise ApiError(
            400,
            f"{field}: {shown!r} is not fetched, neither from the net nor from a disk; {_HOW}",
            field,
            "image_url_refused",
        )
    if not comma or not head.endswith(";base64"):
        raise ApiError(400, f"{field}: {head[:40]!r} is not in base64; {_HOW}", field)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{field}: is no valid base64 ({error}); {_HOW}", field) from error
