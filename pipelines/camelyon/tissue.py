"""Where the tissue of a slide is: Otsu's threshold of the saturation at a low magnification, cleaned.

Wang et al. 2016, section 2: Otsu's threshold in the HSV colour space; a grey-level rule may be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipelines.camelyon.config import TissueSection
from pipelines.camelyon.slides import Slide
from pipelines.shared.errors import BadFile, UnusableRecord
from pipelines.shared.files import output_name
from pipelines.shared.run_folder import read_file, write_png

NONE = "no tissue found"
PICTURE = 640  # longest side of a mask's picture
NEARLY_BLACK = 40  # of 255, mean of the three colours: darker than any stained tissue at a low magnification
EDGE = 3  # pixels beside a black area that are mixed with it, by the median and by the slide's own levels


@dataclass(frozen=True)
class Tissue:
    """A mask (rows, columns) bool over the whole slide, and the level-0 pixels per cell (x, y)."""

    mask: np.ndarray
    cell: tuple[float, float]

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether level-0 positions lie in tissue; outside the slide nothing does. x and y are broadcast: of a grid, a
        row of x and a column of y are enough."""
        column = np.floor(np.asarray(x) / self.cell[0]).astype(int)
        row = np.floor(np.asarray(y) / self.cell[1]).astype(int)
        rows, columns = self.mask.shape
        inside = (row >= 0) & (row < rows) & ((column >= 0) & (column < columns))
        tissue: np.ndarray = inside & self.mask[row.clip(0, rows - 1), column.clip(0, columns - 1)]
        return tissue


def find_tissue(slide: Slide, settings: TissueSection) -> Tissue:
    """The tissue of a slide. The mask may be empty."""
    width, height = slide.at(settings.mpp)
    mask = tissue_mask(slide.read(0, 0, width, height, settings.mpp), settings)
    return Tissue(mask, (slide.properties.width / width, slide.properties.height / height))


def tissue_mask(picture: np.ndarray, settings: TissueSection) -> np.ndarray:
    """Tissue in a picture (rows, columns, 3) of `settings.mpp`: (rows, columns) bool."""
    pixel = (settings.mpp / 1000) ** 2  # mm2
    smooth = cv2.medianBlur(picture, 5)
    scanned = ~_black(smooth, settings.smallest / pixel)
    saturation = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1]
    # Otsu always divides, also a slide of glass alone: what is all but grey is never tissue.
    mask = scanned & (saturation > max(_otsu(saturation[scanned]), settings.min_saturation))
    if settings.grey:
        grey = cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY)
        mask &= grey <= _otsu(grey[scanned])  # Otsu puts the threshold itself into the lower part
    mask = _without_small(mask, settings.smallest / pixel)
    return ~_without_small(~mask, settings.largest_hole / pixel)


def _black(smooth: np.ndarray, pixels: float) -> np.ndarray:
    """What a scanner filled because it never scanned it, and its edge: (rows, columns) bool.

    Black with any tint, of which compression leaves some, is of high saturation: it would count as tissue, and Otsu's
    threshold would part it from everything else.
    """
    # A sum with weights: numpy would make doubles of the whole picture.
    mean = cv2.transform(smooth, np.full((1, 3), 1 / 3, np.float32))
    black = _without_small(mean < NEARLY_BLACK, pixels)
    if not black.any():
        return black
    return cv2.dilate(black.astype(np.uint8), np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)) > 0


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold of uint8 values (n,)."""
    return cv2.threshold(values.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] if values.size else 0.0


def _without_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The 8-connected parts of a mask that have at least so many pixels."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] >= pixels
    large[0] = False  # what is not in the mask
    return large[labels] if count > 1 else np.zeros_like(mask)


def require_tissue(slide: Slide, settings: TissueSection) -> float:
    """The area of tissue in mm2.

    Raises:
        UnusableRecord: there is none.
    """
    area = float(find_tissue(slide, settings).mask.sum()) * (settings.mpp / 1000) ** 2
    if area == 0:
        raise UnusableRecord(NONE)
    return area


# --- files of a run ---


def write_tissue(folder: Path, name: str, tissue: Tissue, slide: Slide) -> None:
    """`masks/<slide>.png` (0 and 255, a pixel per cell) and `<slide>.png`, the slide with the tissue's outline."""
    mpp = max(slide.properties.width, slide.properties.height) * slide.properties.mpp[0] / PICTURE
    width, height = slide.at(mpp)
    picture = slide.read(0, 0, width, height, mpp)
    large = cv2.resize(tissue.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    write_png(folder / f"{output_name(name)}.png", outlined(picture, large, (20, 140, 50)))
    write_png(mask_file(folder, name), tissue.mask.astype(np.uint8) * 255)


def mask_file(folder: Path, name: str) -> Path:
    """Where `write_tissue` puts the mask, the last of its files."""
    return folder / "masks" / f"{output_name(name)}.png"


def read_tissue(folder: Path, name: str, slide: Slide, settings: TissueSection) -> Tissue:
    """A mask that `write_tissue` wrote.

    Raises:
        RunError: missing or damaged.
        BadFile: it is of another size than the slide.
    """

    def read() -> np.ndarray:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("L")) > 127

    file = mask_file(folder, name)
    mask = read_file(file, read)
    width, height = slide.at(settings.mpp)
    if mask.shape != (height, width):
        raise BadFile(
            f"its tissue mask has {mask.shape[1]} x {mask.shape[0]} pixels, the slide {width} x {height} at "
            f"{settings.mpp:g} microns: the mask is of another slide"
        )
    return Tissue(mask, (slide.properties.width / width, slide.properties.height / height))


def outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of a picture with the outlines of a mask of the same size."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thick = max(1, round(max(picture.shape[:2]) / 320))
    return cv2.drawContours(np.ascontiguousarray(picture).copy(), contours, -1, colour, thick)
