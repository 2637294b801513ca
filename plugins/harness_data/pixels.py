"""Encoded pictures: what their headers say, and their pixels."""

from __future__ import annotations

import io
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import SuiteError, first_line
from harness_data.names import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BACKGROUND", "FORMATS", "SUFFIXES", "Header", "decode", "header_of", "nature", "read_file"]

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "ICO": (".ico",),
    "ICNS": (".icns",),
    "PCX": (".pcx",),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "TGA": (".tga",),
}
"""The formats that are read, by Pillow's names, with the endings of their files. Formats of which Pillow knows only the
name, or for which it starts another program (EPS, WMF), are not among them."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
BACKGROUND = "white"
"""The colour that transparent pixels show."""
MOST_BYTES = 2**30
"""The size of the largest file that is read as a picture."""

SHALLOW = ("JPEG", "MPO", "WEBP", "GIF", "BMP")
"""Formats of 8 bits per channel, of which no more is asked."""
DEEP_PIXELS = re.compile(r";16[BLN]")
"""What Pillow's raw modes of 16 bits per channel hold: RGB;16B, LA;16N ..."""
ORIENTATION = 0x0112  # the EXIF tag
EXIF_KEYS = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}
"""Where Pillow keeps data that may state an orientation."""
PNG_METADATA = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What a PNG holds that has such data."""
GREY_MODES = ("1", "L", "LA", "La")
LFS_POINTER = b"version https://git-lfs"
STARTS = {
    LFS_POINTER: "it is a Git LFS pointer; fetch the file itself with: git lfs pull",
    b"\x1f\x8b": "it is gzip-compressed",
    b"PK\x03\x04": "it is a zip archive",
    b"\x78\x01": "it is zlib-compressed",
    b"\x78\x9c": "it is zlib-compressed",
    b"\x78\xda": "it is zlib-compressed",
    b"PAR1": "it is a Parquet file",
}


class Header(NamedTuple):
    """What the header of an encoded picture says.

    ``codec``: Pillow's name of its format. ``grey``: whether it has no colours. ``traits``: those of
    :data:`harness_data.survey.TRAITS` that it has.
    """

    codec: str
    grey: bool
    traits: tuple[str, ...]


def header_of(data: bytes, where: str) -> Header:
    """Return what the header of an encoded picture says. No pixel is decoded.

    Raises:
        SuiteError: the picture cannot be read. The message begins with ``where``.
    """
    with _opened(data, where) as picture:
        if picture.format == "PNG" and any(name in data for name in PNG_METADATA):
            picture.load()  # they may follow the pixels, and Pillow then finds them on decoding only
        traits = {
            "turned": _orientation(picture) != 1,
            "transparent": _transparent(picture),
            "frames": picture.format != "PSD" and getattr(picture, "is_animated", False),
            "profile": _foreign_profile(picture),
        }
        present = tuple(name for name, value in traits.items() if value)
        return Header(str(picture.format), picture.mode in GREY_MODES, present)


def decode(data: bytes | Path, channels: int | None, crop: str, where: str) -> NDArray[np.uint8]:
    """Return an encoded picture as uint8 [height, width, channels], upright and opaque.

    The rotation that its EXIF data say is applied. Transparent pixels show :data:`BACKGROUND`. Of several frames the
    first is read. For ``channels`` None, grey pictures have 1 channel, others 3. With ``crop`` "center" the result is
    the middle square.

    Raises:
        SuiteError: the picture cannot be decoded. The message begins with ``where``.
    """

    import numpy as np
    from PIL import Image, ImageOps

    encoded = data if isinstance(data, bytes) else read_file(data)
    with _opened(encoded, where) as picture:
        grey = channels == 1 or (channels is None and picture.mode in GREY_MODES)
        picture.load()
        turned = picture.format != "TIFF" and _orientation(picture) != 1  # Pillow turns TIFFs itself
        upright: Any = ImageOps.exif_transpose(picture) if turned else picture
        if _transparent(upright):
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, BACKGROUND), upright)
        pixels = np.asarray(upright.convert("L" if grey else "RGB"))
    pixels = pixels.reshape(*pixels.shape[:2], 1 if grey else 3)
    if crop == "center" and pixels.shape[0] != pixels.shape[1]:
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    return pixels


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        SuiteError: it is no regular file, too large, or cannot be read.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise SuiteError(f"{shown(str(path))}: not a regular file")
        if status.st_size > MOST_BYTES:
            raise SuiteError(
                f"{shown(str(path))}: {status.st_size:,} bytes; a picture has at most {MOST_BYTES:,}"
            )
        return Path(path).read_bytes()
    except OSError as error:
        raise SuiteError(f"{shown(str(path))}: {error.strerror or first_line(error)}") from None


def nature(data: bytes) -> str:
    """Return a few words on what data is that is not what it should be."""
    if not data:
        return "it is empty"
    if data[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page"
    known = next((words for start, words in STARTS.items() if data.startswith(start)), None)
    return known or f"it begins with {data[:12]!r}"


# --- Pillow -------------------------------------------------------------------------------------


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Any]:
    """Yield Pillow's picture of ``data``, whose pixels are not decoded yet. Pillow's warnings are not shown.

    Raises:
        SuiteError: it cannot be read, here or in the body of the ``with`` statement.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on sizes that are still read, and on metadata
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as picture:
                if _deep(picture, data):
                    raise SuiteError(
                        f"{where}: more than 8 bits per channel ({picture.mode}); convert it first"
                    )
                yield picture
        except SuiteError:
            raise
        except UnidentifiedImageError:
            raise SuiteError(f"{where}: not an image that can be decoded: {nature(data)}") from None
        except Exception as error:  # noqa: BLE001 - Pillow's readers raise almost anything on damaged data
            reason = re.sub(r" *<_io\.\w+ object at 0x[0-9a-f]+>", "", first_line(error))
            raise SuiteError(f"{where}: not an image that can be decoded: {reason}") from None


@cache
def _formats() -> tuple[str, ...]:
    """Return those of :data:`FORMATS` that this Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _deep(picture: Any, data: bytes) -> bool:
    """Return whether a channel has more than 8 bits. Of such a picture Pillow may give the high bytes only."""
    if picture.mode[0] in "IF":
        return True
    if picture.format in SHALLOW:
        return False
    if picture.format == "JPEG2000":
        start = data.index(b"\xff\x4f\xff\x51")  # of its code stream: SOC, SIZ
        count = struct.unpack_from(">H", data, start + 40)[0]
        components = data[start + 42 : start + 42 + 3 * count : 3]
        return any((depth & 0x7F) + 1 > 8 for depth in components)
    for tile in picture.tile:
        options = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if picture.format == "PPM" and any(isinstance(option, int) and option > 255 for option in options):
            return True
        if any(isinstance(option, str) and DEEP_PIXELS.search(option) for option in options):
            return True
    return bool(picture.format == "SGI" and len(data) > 3 and data[3] == 2)


def _orientation(picture: Any) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 where it is absent or not readable."""
    if picture.format in ("JPEG", "PNG") and not picture.info.keys() & EXIF_KEYS:
        return 1  # most pictures; Pillow would decode a PNG to look further
    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - of damaged EXIF data; the pixels may still be right
        return 1
    return orientation if orientation in range(1, 9) else 1


def _transparent(picture: Any) -> bool:
    return picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info


def _foreign_profile(picture: Any) -> bool:
    """Return whether a picture has a colour profile that does not name sRGB."""
    profile = picture.info.get("icc_profile") or b""
    return bool(profile) and b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile
