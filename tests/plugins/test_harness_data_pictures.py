"""Pictures that other tools read in another way: each is read right and noted, or refused in one line."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms

from harness.data.opened import open_data
from harness.errors import SuiteError
from harness.types import DataInfo, DatasetEntry
from harness.types.data import DataChoice
from harness_data import plugin
from harness_data.pixels import decode, header_of

ENTRIES: dict[str, DatasetEntry] = {entry.name: entry for entry in plugin.harness_datasets()}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def own_cache_and_no_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of a library would reach the user's terminal
        yield


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def plain(value: Any, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, value)


def half_blue(size: tuple[int, int] = (32, 16)) -> Image.Image:
    """A red picture whose left quarter is blue."""
    picture = plain(RED, size=size)
    picture.paste(BLUE, (0, 0, size[0] // 4, size[1]))
    return picture


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(colour_type: int, channels: int) -> bytes:
    """A PNG of 2 x 2 pixels with 16 bits per channel."""

    pixels = zlib.compress((b"\0" + b"\x01\x02" * channels * 2) * 2)
    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
    )


def folder_of(path: Path, pictures: dict[str, bytes]) -> Path:
    """A folder with the classes a and b, and further pictures: path inside the folder -> bytes."""
    usual = {
        f"{split}/{name}/0.png": encoded(plain((number, number, number)))
        for number, (split, name) in enumerate([("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")])
    }
    for name, data in {**usual, **pictures}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def table_of(path: Path, train: list[bytes], test: list[bytes] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for split, images in (("train", train), ("test", train[:2] if test is None else test)):
        structs = pa.array([{"bytes": image, "path": None} for image in images])
        labels = pa.array([index % 2 for index in range(len(images))])
        pq.write_table(pa.table({"image": structs, "label": labels}), path / f"{split}.parquet")
    return path


def describe(name: str, path: Path, **params: Any) -> DataInfo:
    return ENTRIES[name].describe(ENTRIES[name].params(path=str(path), **params))


def pixels_of(data: bytes, channels: int | None = None) -> Any:
    return decode(data, channels, "none", "here")


# --- rotation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "shape", "blue_at"),
    [(2, (16, 32), "right"), (3, (16, 32), "right"), (6, (32, 16), "top"), (8, (32, 16), "bottom")],
)
def test_the_rotation_of_exif_is_applied(
    form: str, orientation: int, shape: tuple[int, int], blue_at: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(half_blue(), form, exif=exif)
    pixels = pixels_of(data)
    assert pixels.shape == (*shape, 3)
    corner = {"right": pixels[0, -1], "top": pixels[0, 0], "bottom": pixels[-1, 0]}[blue_at]
    other = {"right": pixels[0, 0], "top": pixels[-1, 0], "bottom": pixels[0, 0]}[blue_at]
    assert corner.argmax() == 2
    assert other.argmax() == 0
    assert header_of(data, "here").traits == ("turned",)


@pytest.mark.parametrize("key", ["eXIf", "zTXt"])
def test_exif_data_after_the_pixels_of_a_png_are_found(key: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(half_blue())
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    if key == "zTXt":
        profile = b"\nexif\n%8d\n" % (len(content) + 6) + (b"Exif\0\0" + content).hex().encode()
        content = b"Raw profile type exif\0\0" + zlib.compress(profile)
    chunk = png_chunk(key.encode(), content)
    end = data.rindex(b"IEND") - 4
    late = data[:end] + chunk + data[end:]
    assert pixels_of(late).shape == (32, 16, 3)
    assert header_of(late, "here").traits == ("turned",)


def test_the_header_of_a_plain_png_is_read_without_its_pixels() -> None:
    cut = encoded(half_blue((200, 200)))[:200]
    assert header_of(cut, "here").codec == "PNG"
    with pytest.raises(SuiteError, match="not an image that can be decoded"):
        pixels_of(cut)


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_rotated_pictures_are_counted_in_the_note(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright, turned = encoded(half_blue(), "JPEG"), encoded(half_blue(), "JPEG", exif=exif)
    for number, pictures in enumerate(([upright, upright], [upright, turned])):
        path = tmp_path / str(number)
        if name == "parquet":
            table_of(path, pictures, [encoded(plain(1)), encoded(plain(2))])
        else:
            folder_of(path, {f"train/a/{index}.jpg": data for index, data in enumerate(pictures)})
    without, with_rotation = (describe(name, tmp_path / number) for number in "01")
    total = sum(with_rotation.sizes.values())
    assert f"EXIF rotation applied to 1 of {total} pictures" in with_rotation.note
    assert "EXIF" not in without.note


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert pixels_of(encoded(half_blue(), "JPEG", exif=exif)).shape == (16, 32, 3)


def test_damaged_exif_data_cost_no_picture() -> None:
    for rubbish in (
        b"Exif\0\0rubbish",
        b"Exif\0\0MM\0*\0\0\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
    ):
        data = encoded(half_blue(), "JPEG", exif=rubbish)
        assert pixels_of(data).shape == (16, 32, 3)
        assert header_of(data, "here").traits == ()


# --- depth --------------------------------------------------------------------------------------


def jpeg2000_of_16_bits() -> bytes:
    data = bytearray(encoded(plain(RED), "JPEG2000"))
    start = data.index(b"\xff\x4f\xff\x51")
    data[start + 42 : start + 51 : 3] = bytes([15, 15, 15])
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(deep_png(2, 3), id="RGB"),
        pytest.param(deep_png(6, 4), id="RGBA"),
        pytest.param(deep_png(4, 2), id="grey and alpha"),
        pytest.param(deep_png(0, 1), id="grey"),
        pytest.param(b"P6 2 2 65535\n" + b"\x01\x02" * 12, id="PPM"),
        pytest.param(b"P5 2 2 65535\n" + b"\x01\x02" * 4, id="PGM"),
        pytest.param(encoded(plain(70_000, "I"), "TIFF"), id="32 bits"),
        pytest.param(encoded(plain(1.5, "F"), "TIFF"), id="floating point"),
        pytest.param(jpeg2000_of_16_bits(), id="JPEG 2000"),
    ],
)
def test_more_than_8_bits_per_channel_are_refused(tmp_path: Path, data: bytes) -> None:
    for read in (lambda: header_of(data, "here"), lambda: pixels_of(data)):
        with pytest.raises(SuiteError, match="here: more than 8 bits per channel"):
            read()
    with pytest.raises(SuiteError, match=r"train\.parquet: row 1: more than 8 bits per channel"):
        describe("parquet", table_of(tmp_path, [encoded(plain(0)), data]))


def test_fewer_bits_are_scaled_to_the_full_range() -> None:
    assert pixels_of(b"P5 2 1 100\n\x00\x64")[0, :, 0].tolist() == [0, 255]
    assert pixels_of(encoded(plain(1, "1")))[0, 0].tolist() == [255]


# --- transparency -------------------------------------------------------------------------------


def palette() -> Image.Image:
    picture = plain(1, "P")
    picture.putpalette([0, 0, 0, *RED])
    return picture


@pytest.mark.parametrize(
    ("data", "pixel"),
    [
        pytest.param(encoded(palette(), transparency=1), [255, 255, 255], id="palette, one entry"),
        pytest.param(encoded(palette(), transparency=bytes([255, 128])), [255, 127, 127], id="palette, all"),
        pytest.param(encoded(plain((0, 0, 0, 0), "RGBA")), [255, 255, 255], id="RGBA"),
        pytest.param(encoded(plain((*RED, 128), "RGBA")), [255, 127, 127], id="RGBA, half"),
        pytest.param(encoded(plain((*RED, 255), "RGBA")), [255, 0, 0], id="RGBA, opaque"),
        pytest.param(encoded(plain((200, 0), "LA")), [255], id="LA"),
        pytest.param(
            encoded(plain((1, 2, 3)), transparency=(1, 2, 3)), [255, 255, 255], id="RGB, one colour"
        ),
        pytest.param(encoded(plain(7, "L"), transparency=7), [255], id="grey, one level"),
        pytest.param(encoded(plain(0, "1"), transparency=0), [255], id="one bit"),
        pytest.param(encoded(plain((0, 0, 0, 0), "RGBA"), "WEBP", lossless=True), [255] * 3, id="WebP"),
        pytest.param(encoded(plain((0, 0, 0, 0), "RGBA"), "TIFF"), [255, 255, 255], id="TIFF"),
    ],
)
def test_transparent_pixels_show_white(data: bytes, pixel: list[int]) -> None:
    assert pixels_of(data)[0, 0].tolist() == pixel
    assert header_of(data, "here").traits == ("transparent",)


def test_transparency_is_counted_with_its_background(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {"train/a/1.png": encoded(palette(), transparency=1)})
    assert "alpha channel of 1 of 5 pictures composed on white" in describe("imagefolder", path).note


# --- colours ------------------------------------------------------------------------------------


def test_one_coloured_picture_makes_the_set_rgb(tmp_path: Path) -> None:
    grey, colour = encoded(plain(9, "L")), encoded(plain(RED))
    path = table_of(tmp_path / "mixed", [grey, colour, grey], [grey])
    info = describe("parquet", path)
    assert info.shape == (3, 8, 8)
    assert "3 of 4 pictures are grey, read as RGB" in info.note
    entry = ENTRIES["parquet"]
    data = open_data(entry, entry.params(path=str(path)), DataChoice(name="parquet", validation=0))
    assert data.train.raw([0, 1, 2])[:, 0, 0].tolist() == [[9, 9, 9], [255, 0, 0], [9, 9, 9]]

    only_last = describe("parquet", table_of(tmp_path / "last", [grey, grey], [colour]))
    assert only_last.shape == (3, 8, 8)
    all_grey = describe("parquet", table_of(tmp_path / "grey", [grey, grey]))
    assert (all_grey.shape, "grey" in all_grey.note) == ((1, 8, 8), False)
    asked = describe("parquet", path, shape=(1, 8, 8))
    assert "1 of 4 pictures are in colour, read as grey" in asked.note
    assert asked.fingerprint != info.fingerprint


def test_cmyk_is_read_in_its_colours() -> None:
    assert pixels_of(encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG"))[0, 0].tolist() == [255, 0, 0]


def test_a_colour_profile_that_is_not_applied_is_counted(tmp_path: Path) -> None:
    profiles = [ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "LAB")]
    pictures = {
        f"train/a/{index + 1}.png": encoded(plain(index), icc_profile=profile)
        for index, profile in enumerate(profiles)
    }
    note = describe("imagefolder", folder_of(tmp_path, pictures)).note
    assert "colour profile of 1 of 6 pictures not applied (not sRGB)" in note


# --- several frames -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_read_and_counted(tmp_path: Path, form: str) -> None:
    frames = [plain((value, 0, 0)) for value in (50, 100, 150)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert pixels_of(data)[0, 0, 0] == 50
    ending = {"WEBP": ".webp", "TIFF": ".tiff"}.get(form, f".{form.lower()}")
    note = describe("imagefolder", folder_of(tmp_path, {f"train/a/1{ending}": data})).note
    assert "first of several frames read of 1 of 5 pictures" in note


# --- what is no picture -------------------------------------------------------------------------

JPEG = encoded(half_blue(), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"<html><body>404</body></html>", "it is an HTML page"),
        (b"\n<!DOCTYPE HTML>", "it is an HTML page"),
        (gzip.compress(JPEG), "it is gzip-compressed"),
        (zlib.compress(JPEG), "it is zlib-compressed"),
        (LFS, "it is a Git LFS pointer; fetch the file itself with: git lfs pull"),
        (b"no image", "it begins with b'no image'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it begins with b'%!PS-Adobe-3'"),
        (JPEG[:400], ""),
        (encoded(half_blue())[:60], ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"GIF89a", ""),
        (b"II*\0\x08\0\0\0\xff\xff", ""),
        (b"BM" + b"\xff" * 60, ""),
    ],
)
def test_what_is_no_picture_is_named_with_its_file(tmp_path: Path, data: bytes, reason: str) -> None:
    path = folder_of(tmp_path / "folder", {})
    (path / "train" / "b" / "0.png").write_bytes(data)
    with pytest.raises(SuiteError, match=r"train/b/0\.png: not an image that can be decoded: ") as caught:
        describe_and_read("imagefolder", path)
    message = str(caught.value)
    assert reason in message
    assert "object at 0x" not in message
    assert "\n" not in message
    table = table_of(tmp_path / "table", [JPEG, data], [JPEG])
    with pytest.raises(SuiteError, match=r"train\.parquet: row 1: not an image that can be decoded"):
        describe_and_read("parquet", table)


def describe_and_read(name: str, path: Path) -> None:
    """Describe a data set and decode its training pictures: the header of one may be whole, and its pixels not."""
    describe(name, path)
    images = ENTRIES[name].load(ENTRIES[name].params(path=str(path)), "train")
    for index in range(len(images)):
        images.image(index)


def test_a_picture_of_144_million_pixels_is_read_in_silence() -> None:
    data = encoded(plain(1, "1", (12_000, 12_000)))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert header_of(data, "here").grey
        assert pixels_of(data).shape == (12_000, 12_000, 1)
    assert not shown


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    data = encoded(plain(1, "1", (20_000, 20_000)))
    with pytest.raises(SuiteError, match=r"here: not an image .*\(400000000 pixels\)"):
        header_of(data, "here")


def test_damaged_pictures_end_in_one_line() -> None:
    draw = np.random.default_rng(0)
    forms = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA")
    refused = [
        message
        for source in (encoded(half_blue(), form) for form in forms)
        for _ in range(60)
        for message in refusals(bytearray(source), draw)
    ]
    assert len(refused) > 100
    assert not [message for message in refused if "object at 0x" in message or "\n" in message]


def refusals(data: bytearray, draw: np.random.Generator) -> Iterator[str]:
    """Damage four bytes, then yield why the picture is refused, if it is. No other error passes."""
    for at in draw.integers(0, min(len(data), 200), 4):
        data[at] = draw.integers(256)
    for read in (header_of, lambda picture, where: decode(picture, None, "none", where)):
        try:
            read(bytes(data), "here")
        except SuiteError as error:
            yield str(error)
