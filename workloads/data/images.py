"""Images: from the bytes of a file to pixels."""

import io
import struct

from PIL import Image, UnidentifiedImageError

_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)
_BOMB = Image.DecompressionBombError


def decode_image(content: bytes) -> Image.Image:
    """Decode all pixels, so that what is damaged is known at once.

    Raises:
        ValueError: With the reason; the same bytes give the same words in every process.
    """
    if not content:
        raise ValueError("the file was missing or empty")
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError as error:
        # Its own text holds an address of memory.
        raise ValueError("it is in no format that Pillow knows") from error
    except (*_DECODER_ERRORS, _BOMB) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return image
