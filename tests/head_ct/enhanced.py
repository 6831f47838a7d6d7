"""Enhanced multi-frame CT files for the tests of this study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from pipelines.head_ct.dicom import ENHANCED_CT
from pipelines.head_ct.writing import Header, add_pixels, dataset_of, save, stored_values, uid_of


def write_enhanced(
    file: Path, header: Header, hu: np.ndarray, positions: Sequence[Sequence[float]], order: Sequence[int] | None = None
) -> None:
    """One enhanced multi-frame file (PS3.3, A.38): hu (frames, rows, columns)."""
    ds = dataset_of(header, ENHANCED_CT, uid_of(header.series_uid, "enhanced"), 1)
    order = list(range(len(hu))) if order is None else list(order)
    ds.NumberOfFrames, ds.Rows, ds.Columns = len(hu), *hu.shape[1:]
    shared, measures, orientation, value = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [float(s) for s in header.spacing]
    if header.thickness is not None:
        measures.SliceThickness = header.thickness
    orientation.ImageOrientationPatient = [float(o) for o in header.orientation]
    value.RescaleSlope, value.RescaleIntercept, value.RescaleType = header.slope, header.intercept, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    shared.PixelValueTransformationSequence = Items([value])
    ds.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for i in order:
        frame, plane = Dataset(), Dataset()
        plane.ImagePositionPatient = [float(p) for p in positions[i]]
        frame.PlanePositionSequence = Items([plane])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Items(frames)
    add_pixels(ds, np.stack([stored_values(header, hu[i]) for i in order]), header)
    file.parent.mkdir(parents=True, exist_ok=True)
    save(ds, file)
