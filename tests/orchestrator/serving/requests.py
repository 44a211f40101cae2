"""Requests as clients send them."""

import base64
import io
from typing import Any

from PIL import Image

MODEL = "tiny"


def png(grey: int = 128) -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (32, 32), grey).save(encoded, "PNG")
    return encoded.getvalue()


def data_url(content: bytes | None = None) -> str:
    return "data:image/png;base64," + base64.b64encode(content or png()).decode()


def image_part(url: str | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url or data_url()}}


def chat(question: str = "which digit is there ?", **options: Any) -> dict[str, Any]:
    """A question about an image."""
    content = [image_part(), {"type": "text", "text": question}]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}]} | options
