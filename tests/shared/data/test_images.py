from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from pipelines.shared.data.images import NARROW, SUFFIXES, read_image, read_picture
from pipelines.shared.errors import BadFile

# pytest undoes the filter that the module sets; that nothing leaks is tested in a process of its own.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(Corrupt EXIF|Truncated File|End of file|Tag data|Metadata Warning):UserWarning"
)

HEIGHT, WIDTH = 36, 48


def photo(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth colour picture without symmetry, so that lossy formats stay close and no orientation is missed."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    return np.rint(np.stack([40 + 180 * x, 220 - 170 * y, 60 + 120 * x * y], axis=2)).astype(np.uint8)


GREY = photo()[..., 0]


def write(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def refused(path: Path, **options: int) -> str:
    with pytest.raises(BadFile) as failure:
        read_image(path, **options)
    reason = str(failure.value)
    assert str(path.parent) not in reason
    assert path.name not in reason
    assert "\n" not in reason
    return reason


# --- formats and modes that are read ---


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("b.tif", {"compression": "tiff_deflate"}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_lossless_formats_come_back_exactly(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    pixels = read_image(write(tmp_path, name, Image.fromarray(photo()), **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, photo())


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {}), ("b.jpg", {"progressive": True}), ("c.webp", {})])
def test_lossy_formats_come_back_closely(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    pixels = read_image(write(tmp_path, name, Image.fromarray(photo()), quality=95, **options))
    assert np.abs(pixels.astype(int) - photo()).max() <= 8


def test_jpeg_pixels_are_those_of_pillow(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jpg", Image.fromarray(photo()), quality=60)
    np.testing.assert_array_equal(read_image(path), np.array(Image.open(path)))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    pixels = read_image(write(tmp_path, f"a.{suffix}", Image.fromarray(GREY)))
    np.testing.assert_array_equal(pixels, np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_one_bit_becomes_black_and_white(tmp_path: Path, suffix: str) -> None:
    mask = GREY > 100
    pixels = read_image(write(tmp_path, f"a.{suffix}", Image.fromarray(mask)))
    np.testing.assert_array_equal(pixels, np.stack([mask * np.uint8(255)] * 3, axis=2))


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(photo()).quantize(32)
    np.testing.assert_array_equal(read_image(write(tmp_path, "a.png", image)), np.array(image.convert("RGB")))


def test_palette_with_transparency_is_laid_on_black(tmp_path: Path) -> None:
    image = Image.fromarray(photo()).quantize(32)
    hole = int(np.array(image)[0, 0])
    pixels = read_image(write(tmp_path, "a.png", image, transparency=hole))
    expected = np.array(image.convert("RGB"))
    expected[np.array(image) == hole] = 0
    assert (expected == 0).all(axis=2).any()
    np.testing.assert_array_equal(pixels, expected)


def test_colour_key_transparency_is_laid_on_black(tmp_path: Path) -> None:
    picture = photo()
    picture[:5, :5] = (1, 2, 3)
    pixels = read_image(write(tmp_path, "a.png", Image.fromarray(picture), transparency=(1, 2, 3)))
    picture[:5, :5] = 0
    np.testing.assert_array_equal(pixels, picture)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_opaque_alpha_is_dropped(tmp_path: Path, suffix: str) -> None:
    rgba = np.dstack([photo(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    np.testing.assert_array_equal(read_image(write(tmp_path, f"a.{suffix}", Image.fromarray(rgba))), photo())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_composited_on_black(tmp_path: Path, suffix: str) -> None:
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    rgba = np.dstack([photo(), alpha])
    pixels = read_image(write(tmp_path, f"a.{suffix}", Image.fromarray(rgba)))
    exact = photo() * (alpha[..., None] / 255.0)
    assert np.abs(pixels - exact).max() <= 0.5 + 1e-9
    assert (pixels[:, 0] == 0).all()


def test_grey_with_alpha(tmp_path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :10] = 0
    pixels = read_image(write(tmp_path, "a.png", Image.fromarray(np.dstack([GREY, alpha]))))
    expected = np.where(alpha == 0, 0, GREY)
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, axis=2))


def test_transparent_everywhere_is_refused(tmp_path: Path) -> None:
    rgba = np.dstack([photo(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert "transparent everywhere" in refused(write(tmp_path, "a.png", Image.fromarray(rgba)))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    """Pillow writes JPEG as Adobe does, inverted: read the wrong way round, white would be black."""
    cmyk = Image.fromarray(photo()).convert("CMYK")
    options = {"quality": 95} if suffix == "jpg" else {}
    pixels = read_image(write(tmp_path, f"a.{suffix}", cmyk, **options))
    assert np.abs(pixels.astype(int) - photo()).max() <= 10


# --- more than 8 bits ---


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_divided_by_257(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    pixels = read_image(write(tmp_path, f"a.{suffix}", Image.fromarray(values)))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(values / 257))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_16_bit_big_endian_tiff(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=">", photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 1], np.rint(values / 257))


def test_12_bit_content_in_16_bits_keeps_the_declared_scale(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    assert read_image(write(tmp_path, "a.png", Image.fromarray(values))).max() == round(4095 / 257)


def tiff_with(values: bytes, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A little-endian TIFF of one uncompressed strip, WIDTH x HEIGHT, one sample per pixel."""
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, HEIGHT)]
    tags += [(279, len(values)), (339, sample_format)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + directory + struct.pack("<I", 0)


def test_12_bit_tiff_is_divided_by_its_declared_range(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    first, second = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    (tmp_path / "a.tif").write_bytes(tiff_with(packed.tobytes(), bits=12))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], np.rint(values / 4095 * 255))


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_negative_tiff_is_inverted(tmp_path: Path, dtype: type, top: int) -> None:
    values = np.linspace(0, top, HEIGHT * WIDTH).astype(dtype).reshape(HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    pixels = read_image(tmp_path / "a.tif")[..., 0]
    np.testing.assert_array_equal(pixels, np.rint((top - values.astype(float)) / top * 255))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_colour_keeps_the_high_byte(tmp_path: Path, compression: str | None) -> None:
    values = photo().astype(np.uint16) * 256 + 77
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), photo())


def test_float_tiff_from_0_to_1(tmp_path: Path) -> None:
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    pixels = read_image(write(tmp_path, "a.tif", Image.fromarray(values)))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(values.astype(float) * 255))


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (-0.25, "-0.25"), (np.nan, "nan"), (np.inf, "inf")])
def test_float_tiff_of_another_range_is_refused(tmp_path: Path, value: float, shown: str) -> None:
    values = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    values[3, 4] = value
    reason = refused(write(tmp_path, "a.tif", Image.fromarray(values)))
    assert shown in reason
    assert "0 to 1" in reason


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_integers_without_a_known_white_are_refused(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.arange(HEIGHT * WIDTH, dtype=dtype).reshape(HEIGHT, WIDTH))
    assert "8 or 16 bit" in refused(tmp_path / "a.tif")


# --- orientation, names, frames ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    path = write(tmp_path, f"a.{suffix}", Image.fromarray(photo()), exif=exif, **options)
    tagged = Image.fromarray(photo())
    tagged.getexif()[0x0112] = orientation
    expected = np.array(ImageOps.exif_transpose(tagged))
    pixels = read_image(path)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 8


def test_rotated_by_the_camera_means_first_column_is_top(tmp_path: Path) -> None:
    """Orientation 6 (camera turned 90 degrees): the stored left edge is the picture's top (EXIF 2.3, 4.6.4)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = read_image(write(tmp_path, "a.png", Image.fromarray(photo()), exif=exif))
    np.testing.assert_array_equal(pixels[0], photo()[::-1, 0])


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_matter(tmp_path: Path, exif: bytes) -> None:
    path = write(tmp_path, "a.jpg", Image.fromarray(photo()), quality=95, exif=exif)
    assert np.abs(read_image(path).astype(int) - photo()).max() <= 8


@pytest.mark.parametrize(("real", "name"), [("PNG", "a.jpg"), ("JPEG", "a.png"), ("TIFF", "a.dcm"), ("PNG", "a")])
def test_content_counts_not_the_name(tmp_path: Path, real: str, name: str) -> None:
    path = write(tmp_path, name, Image.fromarray(photo()), format=real)
    assert read_image(path).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp"])
def test_several_frames_are_refused_with_their_count(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(photo() // k) for k in (1, 2, 3)]
    path = write(tmp_path, name, frames[0], save_all=True, append_images=frames[1:])
    assert "3 frames or pages" in refused(path)


def test_jpeg_with_further_pictures_is_read_as_its_first(tmp_path: Path) -> None:
    second = Image.fromarray(photo()[:20, :20])
    path = write(tmp_path, "a.jpg", Image.fromarray(photo()), format="MPO", save_all=True, append_images=[second])
    assert read_image(path).shape == (HEIGHT, WIDTH, 3)


# --- files that are refused ---


def test_missing_folder_empty(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.png") == "does not exist"
    (tmp_path / "folder.png").mkdir()
    assert "folder" in refused(tmp_path / "folder.png")
    (tmp_path / "empty.png").touch()
    assert "0 bytes" in refused(tmp_path / "empty.png")
    assert "cannot be opened" in refused(tmp_path / ("x" * 300 + ".png"))
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert "cannot be opened" in refused(tmp_path / "loop.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", Image.fromarray(photo()))
    path.chmod(0)
    assert "Permission denied" in refused(path)


@pytest.mark.parametrize("text", [b"this is no picture\n", b"\x89PN", b"%PDF-1.7" + bytes(200), bytes(500)])
def test_something_else_named_png(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.png").write_bytes(text)
    assert "is not a JPEG, PNG" in refused(tmp_path / "a.png")


def test_too_small(tmp_path: Path) -> None:
    reason = refused(write(tmp_path, "a.png", Image.new("RGB", (1, 1))))
    assert "1 x 1 px" in reason
    assert "16" in reason
    assert "48 x 15 px" in refused(write(tmp_path, "b.png", Image.new("RGB", (48, 15))))
    assert read_image(write(tmp_path, "c.png", Image.new("RGB", (16, 16)))).shape == (16, 16, 3)
    assert read_image(write(tmp_path, "d.png", Image.new("RGB", (1, 1))), min_side=1).shape == (1, 1, 3)


def png_declaring(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png_declaring(100_000, 100_000))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    reason = refused(tmp_path / "a.png")
    assert "100000 x 100000 px" in reason
    assert "200,000,000" in reason


def test_limit_on_pixels_is_the_callers_not_pillows(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", Image.fromarray(photo()))
    assert "more than the limit" in refused(path, max_pixels=HEIGHT * WIDTH - 1)
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS = 10  # Pillow's own global would refuse this picture
    try:
        assert read_image(path, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    finally:
        Image.MAX_IMAGE_PIXELS = before[0]
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


ENCODINGS = {
    "jpeg": {"format": "JPEG"},
    "progressive": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "tiff": {"format": "TIFF"},
    "bmp": {"format": "BMP"},
    "webp": {"format": "WEBP"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cut_file_is_refused_or_complete(tmp_path: Path, encoding: str) -> None:
    """Cut anywhere, a file is never read as a picture with a part missing."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, **ENCODINGS[encoding])
    content = buffer.getvalue()
    path = tmp_path / "a.img"
    path.write_bytes(content)
    whole = read_image(path)
    cuts = sorted({*range(1, len(content), max(1, len(content) // 60)), *range(len(content) - 12, len(content))})
    complete = []
    for cut in cuts:
        path.write_bytes(content[:cut])
        try:
            pixels = read_image(path)
        except BadFile:
            continue
        complete.append(cut)
        np.testing.assert_array_equal(pixels, whole)
    assert len(content) - min(complete, default=len(content)) <= 4  # a PNG may lack its last checksum


@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.95])
def test_jpeg_filled_up_with_zeros_is_refused(tmp_path: Path, fraction: float) -> None:
    """As a download leaves it whose space was reserved first: decoders make a picture of the zeros."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = write(tmp_path, "a.jpg", Image.fromarray(noise))
    content = path.read_bytes()
    cut = int(len(content) * fraction)
    path.write_bytes(content[:cut] + bytes(len(content) - cut))
    assert Image.open(path).convert("RGB").size == (96, 64)
    assert "truncated" in refused(path)


def test_cut_jpeg_with_a_whole_thumbnail_in_its_header(tmp_path: Path) -> None:
    """The thumbnail has an end marker of its own, which must not be taken for the picture's."""
    thumbnail = io.BytesIO()
    Image.fromarray(photo()[:16, :16]).save(thumbnail, format="JPEG")
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail.getvalue()
    path = write(tmp_path, "a.jpg", Image.fromarray(photo()), exif=exif)
    assert read_image(path).shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(path.read_bytes()[:-30])
    assert "truncated" in refused(path)


def test_png_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", Image.fromarray(photo()))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert "PNG" in refused(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(encoding=st.sampled_from(sorted(ENCODINGS)), data=st.data())
def test_random_damage_gives_a_picture_or_a_reason(tmp_path: Path, encoding: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, **ENCODINGS[encoding])
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(300, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.img"
    path.write_bytes(bytes(content))
    try:
        pixels = read_image(path, max_pixels=1_000_000)
    except BadFile:  # anything else that is raised fails the test
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def test_nothing_leaks_to_the_screen(tmp_path: Path) -> None:
    """Files that make Pillow and pydicom warn: damaged EXIF, oversized TIFF tag, invalid DICOM values."""
    write(tmp_path, "a.jpg", Image.fromarray(photo()), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40))
    Image.fromarray(photo()).quantize(8).save(tmp_path / "b.png", transparency=bytes([0, 128, 255, 9, 9, 9, 9, 9]))
    content = bytearray(tiff_with(GREY.tobytes(), bits=8))
    content[-4 - 12 + 4 : -4 - 12 + 8] = struct.pack("<I", 2**30)  # count of the last tag
    (tmp_path / "c.tif").write_bytes(bytes(content))
    dicom(tmp_path / "d.dcm", GREY, StudyInstanceUID="not.a.uid.!!", PatientBirthDate="tomorrow")
    script = f"""
        import warnings
        from pathlib import Path
        from pipelines.shared.data.images import NARROW, SUFFIXES, read_image, read_picture
        for name in ("a.jpg", "b.png", "c.tif", "d.dcm"):
            try:
                read_image(Path({str(tmp_path)!r}) / name)
            except Exception as failure:
                assert type(failure).__name__ == "BadFile", failure
    """
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_module_does_not_import_pydicom() -> None:
    script = "import sys, pipelines.shared.data.images; sys.exit('pydicom' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[3]).returncode == 0


def test_threads(tmp_path: Path) -> None:
    good = write(tmp_path, "a.png", Image.fromarray(photo()))
    bad = tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:-40])

    def read(index: int) -> bool:
        try:
            return bool((read_image(bad if index % 2 else good) == photo()).all())
        except BadFile:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(200))) == [index % 2 == 0 for index in range(200)]


# --- DICOM ---


def dicom(path: Path, pixels: np.ndarray, **attributes: object) -> Path:
    """Write a single-frame DICOM file; `attributes` override or add elements by keyword (None removes)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    bits = pixels.dtype.itemsize * 8
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "4711"
    frame = pixels.shape[1:] if "NumberOfFrames" in attributes else pixels.shape
    dataset.Rows, dataset.Columns = frame[:2]
    dataset.SamplesPerPixel = 3 if len(frame) == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if len(frame) == 3 else "MONOCHROME2"
    if len(frame) == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        if "BitsStored" in attributes:
            dataset.HighBit = dataset.BitsStored - 1
        dataset.save_as(path, enforce_file_format=True)
    return path


RAMP = np.linspace(0, 4095, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)


def test_dicom_8_bit_grey_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.dcm", "IM0001", "a.png"):
        pixels = read_image(dicom(tmp_path / name, GREY))
        np.testing.assert_array_equal(pixels, np.stack([GREY] * 3, axis=2))


def test_dicom_whose_decoder_is_not_installed_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from pydicom import dcmread
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder
    from pydicom.uid import JPEGLSLossless

    dataset = dcmread(dicom(tmp_path / "a.dcm", GREY))
    dataset.compress(JPEGLSLossless)
    dataset.save_as(tmp_path / "a.dcm")
    assert read_image(tmp_path / "a.dcm").shape == (*GREY.shape, 3)
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    monkeypatch.setitem(sys.modules, "jpeg_ls", None)
    with pytest.raises(BadFile, match=r"not installed: pyjpegls\. Install the extra: .*\[dicom\]"):
        read_image(tmp_path / "a.dcm")


def test_dicom_without_preamble_is_known_by_its_name(tmp_path: Path) -> None:
    content = dicom(tmp_path / "a.dcm", GREY).read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[132:])
    np.testing.assert_array_equal(read_image(tmp_path / "b.dcm")[..., 0], GREY)
    (tmp_path / "c.dcm").write_text("not an image at all, but named like one")
    assert "no pixel data" in refused(tmp_path / "c.dcm")


def test_dicom_without_window_takes_the_declared_range(tmp_path: Path) -> None:
    pixels = read_image(dicom(tmp_path / "a.dcm", RAMP, BitsStored=12))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(RAMP / 4095 * 255))
    signed = read_image(dicom(tmp_path / "b.dcm", RAMP.astype(np.int16) - 2048, BitsStored=12))
    np.testing.assert_array_equal(signed, pixels)
    rescaled = read_image(
        dicom(tmp_path / "c.dcm", RAMP, BitsStored=12, RescaleSlope="2", RescaleIntercept="-1000"),
    )
    np.testing.assert_array_equal(rescaled, pixels)


def test_dicom_monochrome1_is_inverted(tmp_path: Path) -> None:
    plain = read_image(dicom(tmp_path / "a.dcm", GREY))
    inverted = read_image(dicom(tmp_path / "b.dcm", GREY, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - plain)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (0.5, 100)])
def test_dicom_window_agrees_with_pydicom(tmp_path: Path, function: str | None, slope: float, intercept: float) -> None:
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_windowing

    extra = {"VOILUTFunction": function} if function else {}
    path = dicom(
        tmp_path / "a.dcm",
        RAMP,
        BitsStored=12,
        RescaleSlope=str(slope),
        RescaleIntercept=str(intercept),
        WindowCenter=["700", "40"],
        WindowWidth=["900", "80"],
        **extra,
    )
    dataset = dcmread(path)
    shown = apply_windowing(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    expected = (shown - intercept) / (4095 * slope) * 255
    assert np.abs(read_image(path)[..., 0] - expected).max() <= 0.5 + 1e-6
    assert read_image(path).max() == 255


def test_dicom_window_of_width_1_is_a_threshold(tmp_path: Path) -> None:
    """PS3.3 C.11.2.1.2.1: with width 1, y is the minimum for x <= centre - 0.5, else the maximum."""
    path = dicom(tmp_path / "a.dcm", RAMP, BitsStored=12, WindowCenter="1000", WindowWidth="1")
    np.testing.assert_array_equal(read_image(path)[..., 0], np.where(RAMP > 999.5, 255, 0))


@pytest.mark.parametrize(
    ("attributes", "part"),
    [
        ({"WindowCenter": "40", "WindowWidth": "0"}, "window width of 0"),
        ({"WindowCenter": "40", "WindowWidth": "80", "VOILUTFunction": "LOG"}, "LOG"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "slope"),
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"PixelData": None}, "no pixel data"),
        ({"Rows": None}, "Rows"),
        ({"Rows": 8}, "48 x 8 px"),
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535"),
        ({"Rows": 2 * HEIGHT}, "less than expected"),
    ],
)
def test_dicom_refused(tmp_path: Path, attributes: dict[str, object], part: str) -> None:
    reason = refused(dicom(tmp_path / "a.dcm", GREY, **attributes))
    assert part in reason
    assert "Doe" not in reason
    assert "4711" not in reason


def test_dicom_voi_lut(tmp_path: Path) -> None:
    from pydicom import Dataset

    item = Dataset()
    item.LUTDescriptor = [256, 0, 12]
    table = (np.linspace(0, 1, 256) ** 2 * 4095).astype(np.uint16)
    item.LUTData = table.tobytes()
    path = dicom(tmp_path / "a.dcm", GREY, VOILUTSequence=[item], WindowCenter="10", WindowWidth="10")
    np.testing.assert_array_equal(read_image(path)[..., 0], np.rint(table[GREY] / 4095 * 255))


def test_dicom_modality_lut(tmp_path: Path) -> None:
    from pydicom import Dataset

    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    table = (np.linspace(1, 0, 256) * 65535).astype(np.uint16)
    item.LUTData = table.tobytes()
    item.ModalityLUTType = "US"
    path = dicom(tmp_path / "a.dcm", GREY, ModalityLUTSequence=[item])
    np.testing.assert_array_equal(read_image(path)[..., 0], np.rint(table[GREY] / 257))


def test_dicom_colour(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "a.dcm", photo())), photo())
    planes = np.ascontiguousarray(photo().transpose(2, 0, 1))
    path = dicom(tmp_path / "b.dcm", photo(), PlanarConfiguration=1, PixelData=planes.tobytes())
    np.testing.assert_array_equal(read_image(path), photo())
    ycbcr = np.array(Image.fromarray(photo()).convert("YCbCr"))
    path = dicom(tmp_path / "c.dcm", ycbcr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(read_image(path).astype(int) - photo()).max() <= 3
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "d.dcm", photo().astype(np.uint16) * 257)), photo())


def test_dicom_palette(tmp_path: Path) -> None:
    colours = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    tables = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)]).astype(np.uint16) * 257
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        colours[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    path = dicom(tmp_path / "a.dcm", GREY, PhotometricInterpretation="PALETTE COLOR", **colours)
    np.testing.assert_array_equal(read_image(path), np.dstack([GREY, 255 - GREY, np.full_like(GREY, 7)]))


def test_dicom_frames(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", np.stack([GREY] * 4), NumberOfFrames=4)
    assert "4 frames" in refused(path)
    one = dicom(tmp_path / "b.dcm", GREY[None], NumberOfFrames=1)
    np.testing.assert_array_equal(read_image(one)[..., 0], GREY)


def test_dicom_behind_a_tiff_header_is_dicom(tmp_path: Path) -> None:
    content = bytearray(dicom(tmp_path / "a.dcm", GREY).read_bytes())
    content[:8] = b"II*\0\x10\0\0\0"
    (tmp_path / "a.dcm").write_bytes(bytes(content))
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm")[..., 0], GREY)


@pytest.mark.parametrize("cut", [140, 400, 900, -100, -1])
def test_dicom_cut(tmp_path: Path, cut: int) -> None:
    path = dicom(tmp_path / "a.dcm", GREY)
    path.write_bytes(path.read_bytes()[:cut])
    assert refused(path)


def test_dicom_with_jpeg_inside(tmp_path: Path) -> None:
    from pydicom import dcmread
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, format="JPEG", quality=95)
    dataset = dcmread(dicom(tmp_path / "a.dcm", GREY))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "b.dcm")
    assert np.abs(read_image(tmp_path / "b.dcm")[..., 0].astype(int) - GREY).max() <= 4
    content = (tmp_path / "b.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[: len(content) - len(buffer.getvalue()) // 3])
    refused(tmp_path / "b.dcm")


# --- what a reader should know about a picture that is read ---


def notes_of(path: Path) -> list[str]:
    return read_picture(path)[1]


def test_few_grey_levels_of_many_bits_are_worth_a_word(tmp_path: Path) -> None:
    narrow = GREY.astype(np.uint16) * 16  # 12 bits in 16
    assert notes_of(write(tmp_path, "a.png", Image.fromarray(narrow))) == [NARROW]
    tifffile.imwrite(tmp_path / "a.tif", narrow)
    assert notes_of(tmp_path / "a.tif") == [NARROW]
    assert notes_of(write(tmp_path, "b.png", Image.fromarray(narrow * 16))) == []
    assert notes_of(write(tmp_path, "c.png", Image.fromarray(GREY // 16))) == [], "8 bits are what they are"
    assert notes_of(dicom(tmp_path / "a.dcm", narrow)) == [NARROW]
    assert notes_of(dicom(tmp_path / "b.dcm", narrow, WindowCenter=2048, WindowWidth=4096)) == []


def test_letters_and_hot_pixels_do_not_hide_that_the_rest_is_black(tmp_path: Path) -> None:
    narrow = GREY.astype(np.uint16).repeat(9, 0).repeat(9, 1) * 16
    narrow[3, 2] = narrow[4, 5:8] = 65535
    assert notes_of(write(tmp_path, "a.png", Image.fromarray(narrow))) == [NARROW]
    assert notes_of(write(tmp_path, "b.png", Image.fromarray(narrow // 64))) == [NARROW], "one level is left"


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_looked_at_too(tmp_path: Path, channels: int) -> None:
    colour = np.repeat(GREY.astype(np.uint16)[..., None] * 16, channels, axis=2)
    colour[..., 3:] = 65535
    for name, values, expected in (("a.tif", colour, [NARROW]), ("b.tif", colour * 16, [])):
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extrasamples=["unassalpha"] * (channels - 3))
        assert notes_of(tmp_path / name) == expected
    eight = np.repeat(GREY[..., None] // 16, channels, axis=2)
    eight[..., 3:] = 255
    assert notes_of(write(tmp_path, "c.png", Image.fromarray(eight))) == []


def test_a_tiff_may_say_its_largest_value(tmp_path: Path) -> None:
    narrow = GREY.astype(np.uint16) * 16
    tifffile.imwrite(tmp_path / "a.tif", narrow, extratags=[(281, "H", 1, 4095, True)])
    pixels, notes = read_picture(tmp_path / "a.tif")
    assert notes == []
    np.testing.assert_array_equal(pixels[..., 0], np.rint(narrow / 4095 * 255))


@pytest.mark.parametrize("name", ["plain.dcm", "plain"])
def test_dicom_without_file_meta_is_read_in_the_standards_default(tmp_path: Path, name: str) -> None:
    from pydicom import dcmread

    whole, bare = dicom(tmp_path / "whole.dcm", GREY.astype(np.uint16) * 16, BitsStored=12), tmp_path / name
    dataset = dcmread(whole)
    del dataset.file_meta, dataset.preamble
    dataset.save_as(bare, implicit_vr=True, little_endian=True)
    assert bare.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_image(bare), read_image(whole))
    assert [n for n in notes_of(bare) if "without file meta" in n]
    assert notes_of(whole) == []


@pytest.mark.parametrize(("name", "options"), [
    ("a.gif", {}), ("a.jp2", {}), ("a.j2k", {}), ("a.pgm", {}), ("a.jfif", {}), ("a.avif", {"quality": 100}),
])  # fmt: skip
def test_what_pillow_reads_is_read(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    path = tmp_path / name
    Image.fromarray(GREY).save(path, format="JPEG" if name == "a.jfif" else None, **options)
    assert path.suffix in SUFFIXES
    assert np.abs(read_image(path)[..., 0].astype(int) - GREY).max() <= 12


def test_an_animated_gif_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert "2 frames" in refused(tmp_path / "a.gif")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grey16", "float", "rgba"])
def test_memory_is_a_few_times_the_pixels(tmp_path: Path, kind: str) -> None:
    side = 5000
    values = np.linspace(0, 1, side * side, dtype=np.float32).reshape(side, side)
    if kind == "grey16":
        Image.fromarray((values * 65535).astype(np.uint16)).save(tmp_path / "a.png", compress_level=1)
    elif kind == "float":
        tifffile.imwrite(tmp_path / "a.tif", values)
    else:
        rgba = np.repeat((values * 255).astype(np.uint8)[..., None], 4, axis=2)
        Image.fromarray(rgba).save(tmp_path / "a.png", compress_level=1)
    code = (
        "import resource, sys; from pathlib import Path; from pipelines.shared.data.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_image(Path(sys.argv[1]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    file = next(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 13 * side * side
