"""Pictures as users have them: files, read safely, and pictures in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from prunelab.errors import UserError
from prunelab.util import StrPath

Picture: TypeAlias = "StrPath | Image.Image | np.ndarray"
"""A file, a PIL image, or an array (H, W, 3) uint8 of red, green and blue."""
FORMATS = ("JPEG", "PNG")
"""File formats that are opened, told by content."""


def open_picture(path: StrPath) -> Image.Image:
    """Read a JPEG or PNG file whole, in the mode and the orientation that it is stored in.

    Raises:
        UserError: the file is missing, is no JPEG or PNG, is cut off or damaged, or is too large to be a
            picture.
    """
    file = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of more than 89 million pixels and refuses twice as many: we refuse both.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings(
                "ignore", category=UserWarning
            )  # odd metadata does not concern the pixels
            with Image.open(file, formats=FORMATS) as image:
                image.load()
                return image
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such picture") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"{file}: picture is too large; expected at most {Image.MAX_IMAGE_PIXELS} pixels"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{file}: not a picture; expected a JPEG or PNG file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{file}: picture is damaged or cut off ({error}); expected a whole JPEG or PNG file"
        ) from error


def rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode in red, green and blue, turned as its EXIF orientation says.

    Levels of 16 bits are scaled to 8; transparency is left out.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # odd metadata, transparency in palettes
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow would cut the levels off at 255
            upright = Image.fromarray((np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8))
        return upright.convert("RGB")


def read_picture(path: StrPath) -> Image.Image:
    """Read a JPEG or PNG file as an RGB picture, turned as its EXIF orientation says.

    Raises:
        UserError: see `open_picture`.
    """
    return rgb(open_picture(path))


def pixels(picture: Picture) -> np.ndarray:
    """A picture as red, green and blue, (H, W, 3) uint8.

    Raises:
        UserError: see `read_picture`; or an array is of another shape or type.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise UserError(f"picture is {picture.dtype} {picture.shape}, expected uint8 (height, width, 3)")
        return picture
    if isinstance(picture, Image.Image):
        return np.asarray(rgb(picture))
    return np.asarray(read_picture(picture))
