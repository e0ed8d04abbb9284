"""Pixels of image files: which formats are read, how large an image may be, errors in one line."""

import io
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ditcnn.system.errors import InputError
from ditcnn.system.text import in_words

__all__ = ["MAX_IMAGE_BYTES", "BadImage", "as_picture", "decode", "decode_image", "decode_rgb", "image_size", "resize"]

# Pillow reads some forty formats, EPS among them, for which it starts another program; a name says nothing of the format.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
MAX_IMAGE_BYTES = 2**28
# Validation resizes the shorter side to some 250 pixels: at this ratio that makes 16 million of them, 64 MB.
MAX_ASPECT = 256


class BadImage(InputError):
    """The bytes of an image cannot be decoded; the message names the image."""


def decode_rgb(content: bytes, where: str, upright: bool = False) -> Image.Image:
    """Return an image as RGB, as timm and torchvision do: grey is repeated, alpha dropped. Errors as those of `decode`."""
    return decode(content, where, upright=upright)


def decode_image(content: bytes, where: str, upright: bool = True) -> NDArray[np.uint8]:
    """Return an image as ``[H, W]`` if it is grey, else as RGB ``[H, W, 3]``; errors as those of `decode`."""
    return np.asarray(decode(content, where, grey=True, upright=upright))


def decode(content: bytes, where: str, *, grey: bool = False, upright: bool = False) -> Image.Image:
    """Return an image, decoded.

    Args:
        content: Bytes of its file.
        where: What messages call it.
        grey: Leave a grey one grey; else all become RGB.
        upright: Turn it as its EXIF orientation says. Published ImageNet figures are of images as they are stored.

    Raises:
        BadImage: The bytes are no whole image of one of `FORMATS`; one of more than 8 bits, whose conversion would clip it;
            one of more pixels than Pillow's limit; or one so narrow that validation would blow it up to gigabytes.
    """
    try:
        image = _open(content)
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise BadImage(f"{where} has more than 8 bits a channel ({image.mode}); convert it to 8 bits first.")
        width, height = image.size
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise BadImage(
                f"{where} has {width:,} x {height:,} pixels; one side may be at most {MAX_ASPECT} times the other."
            )
        image = ImageOps.exif_transpose(image) if upright else image
        return image.convert("L" if grey and image.mode in ("1", "L", "LA") else "RGB")
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage(f"{where} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first.") from None
    except Exception as error:  # damaged files raise anything, from struct.error in EXIF on
        words = in_words(error)
        if isinstance(error, UnidentifiedImageError):
            words = f"none of the formats that are read ({', '.join(FORMATS)})" if content else "it is empty"
        raise BadImage(f"{where} is not a readable image: {words}.") from None


def as_picture(image: Any) -> Image.Image | None:
    """Return a PIL image, bytes ``[H, W]`` or ``[H, W, C]`` of an array, or ``[C, H, W]`` of a tensor as a PIL image.

    Anything else is None.
    """
    if isinstance(image, Tensor) and image.dtype == torch.uint8:
        image = (image.permute(1, 2, 0) if image.ndim == 3 else image).cpu().numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
        if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4)):
            return Image.fromarray(np.ascontiguousarray(pixels))
    return image if isinstance(image, Image.Image) else None


def resize(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return an image ``[H, W]`` or ``[H, W, 3]`` brought to ``size`` by ``size``, bicubic; its aspect is not kept."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def image_size(content: bytes) -> tuple[int, int, str] | None:
    """Return height, width and Pillow's mode of an image by its first bytes; None where they do not tell."""
    try:
        image = _open(content)
    except Exception:  # as in `decode`
        return None
    return image.height, image.width, image.mode


def _open(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(content), formats=FORMATS)
