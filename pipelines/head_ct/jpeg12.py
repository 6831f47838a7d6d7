"""A pydicom decoder plugin for JPEG Extended (process 2 and 4) with 12 bits, which its other decoders do not read."""

from __future__ import annotations

from typing import Any

DECODER_DEPENDENCIES = {"1.2.840.10008.1.2.4.51": ("imagecodecs>=2024.1",)}
NAME = "imagecodecs_12bit"


def is_available(uid: str) -> bool:
    """Whether imagecodecs can be imported (pydicom asks)."""
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return False
    return uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: Any) -> bytearray:
    """One frame as pydicom wants it: little-endian, BitsAllocated wide, clipped to BitsStored (PS3.5, 8.2.1)."""
    import imagecodecs
    import numpy as np

    pixels = imagecodecs.jpeg8_decode(source)
    pixels = np.clip(pixels, 0, 2**runner.bits_stored - 1)
    runner.set_option("bits_allocated", 8 if pixels.dtype.itemsize == 1 else 16)
    return bytearray(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes())


def register() -> None:
    """Add the plugin to pydicom, once."""
    from pydicom.pixels.decoders import JPEGExtended12BitDecoder

    if NAME not in JPEGExtended12BitDecoder.available_plugins:
        JPEGExtended12BitDecoder.add_plugin(NAME, ("pipelines.head_ct.jpeg12", "decode_frame"))
