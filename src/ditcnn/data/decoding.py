"""Pixels of image files, errors in one line."""

import io
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError

from ditcnn.system.errors import InputError

__all__ = ["BadImage", "decode"]


class BadImage(InputError):
    """The bytes of an image cannot be decoded; the message names the image."""


def decode(content: bytes, where: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return an image, decoded and converted.

    Raises:
        BadImage: The bytes are no whole image, or one of more than 8 bits, whose conversion would clip it; the message
            names ``where``.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise BadImage(f"{where} has more than 8 bits a channel ({image.mode}); convert it to 8 bits first.")
        return convert(image)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # damaged files raise anything, from struct.error in EXIF on
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(f"{where} is not a readable image: {reason}.") from None
