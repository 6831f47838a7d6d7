"""Every file is used or has its reason; what is used has the geometry and the HU that its header says."""

from __future__ import annotations

import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from bare_dicom import bare
from enhanced import write_enhanced

from pipelines.head_ct import dicom, pseudonyms, series, volumes
from pipelines.head_ct.dicom import NotASlice, read_rows
from pipelines.head_ct.pixels import read_hu
from pipelines.head_ct.pseudonyms import Names, salt_of
from pipelines.head_ct.series import Kernels, choose, scan
from pipelines.head_ct.volumes import NO_DATA, Grid, load, onto_grid
from pipelines.head_ct.writing import Header, write_slices
from pipelines.shared.data.dicom_files import ASSUMED
from pipelines.shared.errors import BadFile, DataError
from pipelines.shared.files import find_files

NAMES = Names("salt")
KERNELS = Kernels(["H3\\d.*", "STANDARD"], ["H[67]\\d.*", "BONE"])
HEADER = Header(
    patient_id="MRN-4711", patient_name="Doe^Jane", accession="ACC-99", study_uid="1.2.3", series_uid="1.2.3.4",
    spacing=(2.0, 2.0), thickness=5.0,
)  # fmt: skip
AXIAL = [1, 0, 0, 0, 1, 0]
DATA = Path(pydicom.__file__).parent / "data"


def head(n=20, size=64, spacing=2.0, step=5.0, tilt=0.0, seed=0):
    """A tilted stack through a ball of 40 HU with a rod of 200 HU along its normal: HU (n, size, size), positions."""
    angle = np.radians(tilt)
    column = np.array([0, np.cos(angle), -np.sin(angle)])
    centres = np.stack([np.zeros(n), np.zeros(n), (np.arange(n) - (n - 1) / 2) * step], axis=1)
    half = (size - 1) / 2 * spacing
    first = centres - half * np.array([1, 0, 0]) - half * column
    grid = np.arange(size) * spacing
    points = first[:, None, None] + grid[None, None, :, None] * [1, 0, 0] + grid[None, :, None, None] * column
    hu = np.full(points.shape[:3], -1000.0)
    hu[np.linalg.norm(points, axis=3) < 55] = 40
    hu[np.hypot(points[..., 0] - 20, points @ column) < 7] = 200
    return hu, first, [1, 0, 0, *column]


def write(folder, header=HEADER, hu=None, positions=None, keep=None, order=None):
    if hu is None:
        hu, positions, orientation = head(tilt=header.tilt)
        header = replace(header, orientation=orientation)
    chosen = [i for i in (order or range(len(hu))) if keep is None or keep(i)]
    names = [f"f{k:03d}" for k in range(len(chosen))]
    write_slices(folder, header, [hu[i] for i in chosen], [positions[i] for i in chosen], names)
    return folder


def study_of(folder, thickness=5.0):
    slices, faults = scan(folder, NAMES)
    studies, left = choose(slices, faults, KERNELS, thickness)
    return studies, left


def change(file, **changes):
    ds = pydicom.dcmread(file)
    for name, value in changes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.save_as(file)


# --- HU ---


@pytest.mark.slow
def test_hounsfield_of_the_real_series_are_those_of_an_independent_reading(real_sample):
    folder = real_sample("head_ct")
    (study,), left = study_of(folder)
    assert left == []
    volume = load(study.stack, folder)
    assert volume.hu.shape == (28, 512, 512)
    assert np.all(np.diff(volume.along) > 0)
    for k in (0, 13, 14, 27):
        ds = pydicom.dcmread(folder / study.stack.files[k])
        stored = ds.pixel_array.astype(float)
        expected = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        inside = stored != ds.PixelPaddingValue
        assert np.array_equal(volume.hu[k][inside], expected[inside].astype(np.float32))
        assert np.isnan(volume.hu[k][~inside]).all()
    assert any("gantry tilt" in w and "48.2 mm" in w for w in study.warnings)
    assert any(w.startswith("spacing uneven: 1.08 to 7.00") for w in study.warnings)
    assert not any("missing" in w for w in study.warnings)


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian", "rle", "jpeg2000", "jpegls"])
@pytest.mark.parametrize("signed", [False, True])
def test_every_way_to_store_pixels_gives_the_same_hu(tmp_path, syntax, signed):
    hu = np.random.default_rng(0).integers(-1000, 2000, (1, 32, 40)).astype(float)
    header = replace(HEADER, syntax=syntax, signed=signed, intercept=-1024.0 if not signed else 0.0)
    write_slices(tmp_path, header, list(hu), [(0, 0, 0)], ["a"])
    ((_, found),) = read_hu(tmp_path / "a")
    assert np.array_equal(found, hu[0].astype(np.float32))


def test_slope_monochrome1_padding_and_unused_bits(tmp_path):
    hu = np.arange(32 * 32).reshape(1, 32, 32) * 2.0 - 1000
    hu[0, 0, :5] = np.nan
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        header = replace(HEADER, slope=2.0, intercept=-1000.0, photometric=photometric, padding=40000)
        write_slices(tmp_path / photometric, header, list(hu), [(0, 0, 0)], ["a"])
        ((_, found),) = read_hu(tmp_path / photometric / "a")
        assert np.array_equal(found, hu[0].astype(np.float32), equal_nan=True)
    # A 12-bit picture with an overlay in its four unused bits, and padding written as the unsigned twin of -2000.
    write_slices(
        tmp_path / "bits", replace(HEADER, signed=True, intercept=0.0), [np.zeros((32, 32))], [(0, 0, 0)], ["a"]
    )
    ds = pydicom.dcmread(tmp_path / "bits" / "a")
    ds.BitsStored, ds.HighBit = 12, 11
    stored = np.full((32, 32), 0x4000 | 100, np.uint16)
    stored[1] = 0x4000 | (4096 - 50)
    stored[2] = np.array(-2000, np.int16).view(np.uint16)
    ds.PixelData = stored.tobytes()
    ds.add_new("PixelPaddingValue", "US", 65536 - 2000)
    ds.save_as(tmp_path / "bits" / "a")
    ((_, found),) = read_hu(tmp_path / "bits" / "a")
    assert (found[0] == 100).all()
    assert (found[1] == -50).all()
    assert np.isnan(found[2]).all()


def test_twelve_bit_jpeg_is_read_through_the_plugin(tmp_path):
    ds = pydicom.dcmread(DATA / "test_files" / "JPGExtended.dcm")
    ds.SOPClassUID, ds.Modality, ds.RescaleSlope, ds.RescaleIntercept = dicom.CT, "CT", 1, -1024
    ds.file_meta.MediaStorageSOPClassUID = dicom.CT
    ds.save_as(tmp_path / "a.dcm")
    ((_, found),) = read_hu(tmp_path / "a.dcm")
    assert found.shape == (int(ds.Rows), int(ds.Columns))
    assert found.min() >= -1024
    assert found.max() <= 4095 - 1024
    assert found.std() > 10


# --- geometry ---


def rod(volume, grid):
    """Centre of what is denser than 120 HU in each slice of a grid, in mm from its middle; NaN without."""
    middle = (grid.size - 1) / 2
    found = []
    for plane in volume:
        rows, columns = np.nonzero(plane > 120)
        found.append([np.nan, np.nan] if len(rows) == 0 else [columns.mean() - middle, rows.mean() - middle])
    return np.array(found) * grid.pixel


@pytest.mark.parametrize("tilt", [0.0, 18.5, -12.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_rod_along_the_normal_stays_upright_under_tilt_and_any_order(tmp_path, tilt, reverse):
    order = list(range(20))
    random.Random(1).shuffle(order)
    write(tmp_path, replace(HEADER, tilt=tilt), order=order if reverse else None)
    (study,), left = study_of(tmp_path)
    assert left == []
    grid = Grid(12, 8.0, 64, 160.0)
    volume, facts = onto_grid(study.stack, tmp_path, grid)
    places = rod(volume, grid)
    places = places[~np.isnan(places[:, 0])]
    assert len(places) > 8
    assert np.ptp(places[:, 0]) < 1.5
    assert facts["faults"] == []
    # Sheared slices taken as they come would lean it by tan(tilt) x 90 mm: 30 mm at 18.5 degrees.
    assert np.ptp(places[:, 1]) < 1.5


@pytest.mark.slow
def test_flipped_and_turned_pictures_come_out_alike(tmp_path):
    hu, positions, _ = head()
    write(tmp_path / "a", HEADER, hu, positions)
    grid = Grid(10, 10.0, 64, 160.0)
    (study,), _ = study_of(tmp_path / "a")
    plain, _ = onto_grid(study.stack, tmp_path / "a", grid)
    edge = 63 * 2.0
    cases = {
        "flipped": ([-1, 0, 0, 0, 1, 0], hu[:, :, ::-1], positions + np.array([edge, 0, 0])),
        "upside": ([1, 0, 0, 0, -1, 0], hu[:, ::-1], positions + np.array([0, edge, 0])),
        "turned": ([0, 1, 0, 1, 0, 0], hu.transpose(0, 2, 1), positions),
        "round": ([-1, 0, 0, 0, -1, 0], hu[:, ::-1, ::-1], positions + np.array([edge, edge, 0])),
    }
    for name, (orientation, pictures, first) in cases.items():
        folder = write(tmp_path / name, replace(HEADER, orientation=orientation), pictures, first)
        (study,), _ = study_of(folder)
        found, _ = onto_grid(study.stack, folder, grid)
        assert np.array_equal(found, plain), name


def test_a_gap_is_found_and_stays_empty(tmp_path):
    write(tmp_path, keep=lambda i: i not in (10, 11, 12))
    (study,), _ = study_of(tmp_path)
    assert "slices are missing: 1 gap" in study.warnings
    volume, _ = onto_grid(study.stack, tmp_path, Grid(20, 5.0, 32, 160.0))
    empty = (volume == NO_DATA).all(axis=(1, 2))
    assert 2 <= empty[2:-3].sum() <= 3
    whole, _ = onto_grid(*_whole(tmp_path / "whole"), Grid(20, 5.0, 32, 160.0))
    assert not (whole == NO_DATA).all(axis=(1, 2))[:18].any()


def _whole(folder):
    write(folder)
    (study,), _ = study_of(folder)
    return study.stack, folder


def test_uneven_spacing_is_no_gap_and_heights_stay_true(tmp_path):
    hu, positions, _ = head(n=40, step=2.5)
    # every slice below, every second above: 2.5 mm and 5 mm
    keep = [i for i in range(40) if i < 20 or i % 2 == 0]
    write(tmp_path, replace(HEADER, thickness=2.5), hu[keep], positions[keep])
    (study,), _ = study_of(tmp_path)
    assert any("uneven" in w for w in study.warnings)
    assert not any("missing" in w for w in study.warnings)
    grid = Grid(20, 5.0, 32, 160.0)
    volume, _ = onto_grid(study.stack, tmp_path, grid)
    areas = (volume > 20).sum(axis=(1, 2)) * grid.pixel**2
    top = np.argmax(areas > 0)
    # A ball is alike above and below its equator, though its lower half was cut twice as finely.
    middle = top + 9
    assert areas[middle] == areas.max()
    assert np.allclose(areas[middle - 8 : middle], areas[middle + 1 : middle + 9][::-1], rtol=0.06)


def test_duplicates_and_copies_are_left_out(tmp_path):
    write(tmp_path / "a")
    shutil.copy(tmp_path / "a" / "f003", tmp_path / "copy.dcm")
    hu, positions, _ = head()
    other = replace(HEADER, series_uid=HEADER.series_uid)
    ds = tmp_path / "b"
    write_slices(ds, other, [hu[5]], [positions[5]], ["again"])
    change(ds / "again", SOPInstanceUID="1.2.3.4.999")
    (study,), left = study_of(tmp_path)
    assert len(study.stack.files) == 20
    reasons = sorted(f.reason for f in left)
    assert reasons == ["is a copy of another file (same SOPInstanceUID)", "is a second slice at the same place"]


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg2000"])
def test_enhanced_multiframe_gives_the_volume_of_its_slices(tmp_path, syntax):
    hu, positions, orientation = head(tilt=10)
    header = replace(HEADER, orientation=orientation, tilt=10.0)
    write(tmp_path / "single", header, hu, positions)
    order = list(range(20))
    random.Random(3).shuffle(order)
    write_enhanced(tmp_path / "multi" / "e.dcm", replace(header, syntax=syntax), hu, positions, order)
    grid = Grid(12, 8.0, 32, 160.0)
    found = []
    for name in ("single", "multi"):
        (study,), left = study_of(tmp_path / name)
        assert left == []
        found.append(onto_grid(study.stack, tmp_path / name, grid)[0])
    assert np.array_equal(*found)


def test_the_top_of_the_head_hangs_at_the_top_of_the_grid(tmp_path):
    stack, folder = _whole(tmp_path)
    volume, _ = onto_grid(stack, folder, Grid(12, 10.0, 32, 160.0))
    areas = (volume > 20).sum(axis=(1, 2))
    assert areas[0] > 0
    assert areas[0] < areas[4]


# --- choosing a series ---


def test_the_right_series_is_chosen_and_the_others_have_their_reason(tmp_path):
    write(tmp_path / "soft", replace(HEADER, series_uid="1.1"))
    write(tmp_path / "bone", replace(HEADER, series_uid="1.2", kernel="H70h", thickness=1.0))
    write(tmp_path / "derived", replace(HEADER, series_uid="1.3", image_type=("DERIVED", "SECONDARY", "MPR")))
    write(tmp_path / "short", replace(HEADER, series_uid="1.4"), keep=lambda i: i < 4)
    write(tmp_path / "cor", replace(HEADER, series_uid="1.5", orientation=[1, 0, 0, 0, 0, -1]), *head()[:2])
    scout = replace(HEADER, series_uid="1.6", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    write_slices(tmp_path / "scout", scout, [np.zeros((32, 32))], [(0, 0, 0)], ["s"])
    (study,), left = study_of(tmp_path)
    assert all(f.startswith("soft") for f in study.stack.files)
    assert "soft kernel H31s, 5 mm, 20 slices" in study.rule
    assert "out of 4 series" in study.rule
    reasons = {f.file.split("/")[0]: f.reason for f in left}
    assert reasons == {
        "bone": "belongs to another series than the one chosen",
        "derived": "belongs to another series than the one chosen",
        "short": "belongs to another series than the one chosen",
        "cor": "is a coronal or sagittal slice",
        "scout": "is a localiser",
    }
    assert not any(f.faulty for f in left)


def test_two_series_mixed_in_one_folder_and_mixed_orientations_in_one_series(tmp_path):
    write(tmp_path, replace(HEADER, series_uid="1.1"))
    hu, positions, _ = head()
    names = [f"g{i}" for i in range(20)]
    write_slices(tmp_path, replace(HEADER, series_uid="1.2", study_uid="9.9"), list(hu), list(positions), names)
    odd = replace(HEADER, series_uid="1.1", orientation=[0, 1, 0, 0, 0, -1])
    write_slices(tmp_path, odd, [hu[0]], [positions[0]], ["odd"])
    change(tmp_path / "odd", SOPInstanceUID="1.77")
    studies, left = study_of(tmp_path)
    assert [len(s.stack.files) for s in studies] == [20, 20]
    assert [(f.file, f.reason) for f in left] == [("odd", "is a coronal or sagittal slice")]


def test_one_slice_is_a_volume_of_one(tmp_path):
    write(tmp_path, keep=lambda i: i == 10)
    (study,), _ = study_of(tmp_path)
    assert "one slice only" in study.warnings
    volume, facts = onto_grid(study.stack, tmp_path, Grid(8, 10.0, 32, 160.0))
    assert (volume != NO_DATA).any(axis=(1, 2)).tolist() == [True] + [False] * 7
    assert facts["coverage"] == 1 / 8


@pytest.mark.slow
def test_one_slice_at_a_time_is_at_full_resolution(tmp_path):
    import tracemalloc

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        write_slices(
            folder,
            replace(HEADER, thickness=80 / count, spacing=(0.5, 0.5)),
            [np.full((256, 256), 40.0)],
            [(0, 0, 1000.25)],
            ["one"],
        )
        template = (folder / "one").read_bytes()
        uid = bytes(str(pydicom.dcmread(folder / "one").SOPInstanceUID), "ascii")
        (folder / "one").unlink()
        for i in range(count):  # as so many files would be written, faster
            data = template.replace(b"1000.25", b"%7.2f" % (1000 + 80 / count * i)).replace(uid, uid[:-4] + b"%04d" % i)
            (folder / f"s{i:04d}").write_bytes(data)
        (study,), left = study_of(folder)
        assert left == []
        tracemalloc.start()
        volume, _ = onto_grid(study.stack, folder, Grid(16, 10.0, 32, 128.0))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (volume[:8] != NO_DATA).any()
        return most

    few, many = peak(20), peak(100)
    assert many < few + 2e6, (few, many)  # of 80 slices the pixels alone would be 10 MB as int16


# --- faults ---


def reason_of(file):
    def read():
        read_rows(file, NAMES)
        list(read_hu(file))

    with pytest.raises(BadFile) as failure:
        read()
    return str(failure.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"ImageOrientationPatient": None}, "ImageOrientationPatient is missing"),
        ({"PixelSpacing": None}, "PixelSpacing is missing"),
        ({"RescaleSlope": None}, "RescaleSlope is missing"),
        ({"RescaleIntercept": None}, "RescaleIntercept is missing"),
        ({"RescaleSlope": 0}, "RescaleSlope 0 cannot be"),
        ({"SeriesInstanceUID": None}, "SeriesInstanceUID is missing"),
        ({"StudyInstanceUID": ""}, "StudyInstanceUID is missing"),
        ({"PixelSpacing": [0, 0]}, "PixelSpacing 0 x 0 mm cannot be"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two perpendicular unit vectors"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "is not 6 numbers"),
        ({"Rows": None}, "Rows is missing"),
        ({"Rows": 60000, "Columns": 60000}, "more than 4096 on a side"),
        ({"NumberOfFrames": 3}, "holds 3 frames"),
        ({"BitsStored": 20}, "BitsStored is missing or larger"),
        ({"PixelRepresentation": None}, "PixelRepresentation (signed or not) is missing"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not grey"),
        ({"Rows": 640}, "truncated"),
        ({"PixelData": None}, "truncated"),
        ({"SOPClassUID": None}, "missing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "Encapsulated PDF"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, "X-Ray Radiation Dose SR"),
        ({"SOPClassUID": "1.2.3.4.5"}, "unknown SOP class"),
    ],
)
def test_a_fault_is_named(tmp_path, changes, expected):
    write(tmp_path, keep=lambda i: i == 0)
    file = tmp_path / "f000"
    if changes == {"SOPClassUID": None}:
        ds = pydicom.dcmread(file)
        del ds.SOPClassUID
        ds.file_meta.MediaStorageSOPClassUID = ""
        ds.save_as(file, enforce_file_format=False)
    else:
        change(file, **changes)
    assert expected in reason_of(file)


def test_every_fault_of_a_file_is_named_at_once(tmp_path):
    write(tmp_path, keep=lambda i: i == 0)
    change(tmp_path / "f000", PixelSpacing=None, RescaleSlope=None, ImagePositionPatient=None)
    reason = reason_of(tmp_path / "f000")
    for tag in ("PixelSpacing", "RescaleSlope", "ImagePositionPatient"):
        assert tag in reason


def test_truncated_and_unknown_pixels(tmp_path):
    for syntax in ("explicit", "rle", "jpeg2000", "jpegls"):
        write(tmp_path / syntax, replace(HEADER, syntax=syntax), keep=lambda i: i == 5)
        file = tmp_path / syntax / "f000"
        data = file.read_bytes()
        at = data.rfind(b"\xe0\x7f\x10\x00")
        file.write_bytes(data[: at + (len(data) - at) * 2 // 3])
        assert "truncated" in reason_of(file) or "cannot be" in reason_of(file), syntax
    write(tmp_path / "odd", keep=lambda i: i == 5)
    file = tmp_path / "odd" / "f000"
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    assert "transfer syntax" in reason_of(file)


def test_what_is_no_dicom_or_cannot_be_opened(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text.dcm").write_text("This is no picture.")
    (tmp_path / "broken.dcm").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "preamble.dcm").write_bytes(b"\0" * 128 + b"DICM")
    os.mkfifo(tmp_path / "pipe")
    slices, faults = scan(tmp_path, NAMES)
    assert slices == []
    found = {f.file: f.reason for f in faults}
    assert set(found) == {"empty", "text.dcm", "broken.dcm", "preamble.dcm"}
    assert found["empty"] == "is empty (0 bytes)"
    assert found["text.dcm"] == "is not a DICOM file"
    assert "broken link" in found["broken.dcm"]


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_suffix_are_read_and_it_is_told(tmp_path, implicit):
    """As an old scanner or a network node leaves them: the data set alone."""
    write(tmp_path / "whole")
    for file in (tmp_path / "whole").iterdir():
        for name in (file.name, f"{file.name}.IMA"):
            (tmp_path / "bare").mkdir(exist_ok=True)
            (tmp_path / "bare" / name).write_bytes(bare(pydicom.dcmread(file), implicit))
    (whole,), _ = study_of(tmp_path / "whole")
    (study,), left = study_of(tmp_path / "bare")
    assert [f.reason for f in left] == ["is a copy of another file (same SOPInstanceUID)"] * 20
    assert ASSUMED in study.warnings
    assert ASSUMED not in whole.warnings
    grid = Grid(12, 8.0, 32, 160.0)
    expected, found = (onto_grid(s.stack, tmp_path / n, grid)[0] for s, n in ((whole, "whole"), (study, "bare")))
    assert np.array_equal(found, expected)


def test_a_name_may_be_any_bytes(tmp_path):
    write(tmp_path / "in")
    (tmp_path / "in" / "f003").rename(tmp_path / "in" / os.fsdecode(b"f\xe9\xff"))
    for _ in range(2):  # read, then from the cache
        slices, left = scan(tmp_path / "in", NAMES, tmp_path / "cache")
        assert left == []
        ((study,), _) = choose(slices, left, KERNELS, 5.0)
        assert len(study.stack.files) == 20
    onto_grid(study.stack, tmp_path / "in", Grid(12, 8.0, 32, 160.0))
    assert NAMES.of("f", "a") != NAMES.of("f", "a ")


def test_whatever_one_file_does_the_others_are_read(tmp_path, monkeypatch):
    write(tmp_path)
    failures = {"f002": MemoryError(), "f005": OSError(5, "Input/output error")}

    def read(path, names):
        if path.name in failures:
            raise failures[path.name]
        return read_rows(path, names)

    monkeypatch.setattr(series, "read_rows", read)
    (study,), left = study_of(tmp_path)
    assert len(study.stack.files) == 18
    assert {f.file: f.faulty for f in left} == {"f002": True, "f005": True}
    assert "memory" in left[0].reason


def test_unreadable_slices_are_missing_slices_and_too_many_are_a_reason(tmp_path):
    write(tmp_path, replace(HEADER, syntax="rle"))
    for i in range(8):
        file = tmp_path / f"f{i:03d}"
        file.write_bytes(file.read_bytes()[:-400])
        if i == 1:
            (study,), _ = study_of(tmp_path)
            volume, facts = onto_grid(study.stack, tmp_path, Grid(12, 10.0, 32, 160.0))
            assert len(facts["faults"]) == 2
            assert facts["warnings"][0].startswith("slices cannot be read: 2 (")
            assert (volume != NO_DATA).any()
    (study,), _ = study_of(tmp_path)
    with pytest.raises(BadFile, match="8 of 20 slices cannot be read"):
        onto_grid(study.stack, tmp_path, Grid(12, 10.0, 32, 160.0))


def test_a_wrong_intercept_is_noticed(tmp_path):
    hu, positions, _ = head()
    write(tmp_path, replace(HEADER, spacing=(4.0, 4.0)), hu, positions)
    for file in tmp_path.iterdir():
        change(file, RescaleIntercept=0)
    (study,), _ = study_of(tmp_path)
    _, facts = onto_grid(study.stack, tmp_path, Grid(12, 10.0, 64, 240.0))
    assert any("rescale intercept" in w for w in facts["warnings"])


def test_pydicoms_own_odd_files_are_used_or_named():
    used, reasons = [], {}
    for file in find_files(DATA):
        try:
            rows = read_rows(DATA / file, NAMES)
            assert rows
            for _, hu in read_hu(DATA / file):
                assert hu.ndim == 2
            used.append(str(file))
        except NotASlice as reason:
            reasons[str(file)] = str(reason)
        except BadFile as reason:
            reasons[str(file)] = str(reason)
    assert len(used) == 12
    assert "test_files/CT_small.dcm" in used
    assert "test_files/693_J2KI.dcm" in used
    assert len(used) + len(reasons) > 200
    assert all(reasons.values())


@pytest.mark.slow
def test_damaged_bytes_never_crash_or_hang(tmp_path, real_sample):
    """Bytes changed, cut out and repeated at random places of good files."""
    rng = random.Random(0)
    write(tmp_path / "good", keep=lambda i: i == 5)
    write(tmp_path / "rle", replace(HEADER, syntax="rle"), keep=lambda i: i == 5)
    hu, positions, _ = head(n=4)
    write_enhanced(tmp_path / "multi" / "e.dcm", HEADER, hu, positions)
    sources = [tmp_path / "good" / "f000", tmp_path / "rle" / "f000", tmp_path / "multi" / "e.dcm"]
    sources.append(real_sample("head_ct") / "01.dcm")
    file = tmp_path / "damaged.dcm"
    said = []
    for k in range(240):
        data = bytearray(sources[k % 4].read_bytes())
        limit = len(data) if k % 3 else min(len(data), 3000)
        for _ in range(rng.randint(1, 12)):
            data[rng.randrange(limit)] = rng.randrange(256)
        if k % 5 == 0:
            at = rng.randrange(limit)
            del data[at : at + rng.randrange(1, 200)]
        file.write_bytes(bytes(data))
        try:
            read_rows(file, NAMES)
            for _, picture in read_hu(file):
                assert picture.dtype == np.float32
        except BadFile as reason:
            said.append(str(reason))
    assert len(said) > 20
    assert all(said)
    assert not any("Doe" in text for text in said)


# --- privacy ---


def test_names_are_keyed_hashes_and_reasons_quote_nobody(tmp_path):
    write(tmp_path, keep=lambda i: i == 5)
    (row,) = read_rows(tmp_path / "f000", NAMES)
    text = str(row)
    for secret in ("MRN-4711", "Doe", "Jane", "ACC-99", "1.2.3"):
        assert secret not in text.replace(str(row["spacing"]), "")
    assert row["group"] == NAMES.of("pt", "MRN-4711")
    assert Names("other").of("pt", "MRN-4711") != row["group"]
    change(tmp_path / "f000", PatientID="", PixelSpacing=None)
    assert "1.2.3" not in reason_of(tmp_path / "f000")


def test_the_salt_is_made_once_and_kept_from_others(tmp_path):
    first = salt_of(tmp_path / "deep" / "salt")
    assert salt_of(tmp_path / "deep" / "salt") == first
    assert len(first) == 32
    assert (tmp_path / "deep" / "salt").stat().st_mode & 0o077 == 0


def test_a_salt_that_is_being_made_is_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "salt"
    with ThreadPoolExecutor() as pool:
        others = []

        def slowly(size):
            others.append(pool.submit(salt_of, file))
            wait(others, timeout=0.2)
            return "ab" * size

        monkeypatch.setattr(pseudonyms.secrets, "token_hex", slowly)
        assert salt_of(file) == others[0].result() == "ab" * 16
        assert len(others) == 1
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="empty"):
        salt_of(tmp_path / "empty")


def test_a_picture_is_a_volume_of_one(tmp_path):
    grey = np.zeros((100, 120), np.uint8)
    grey[20:80, 30:90] = 128
    volume, _ = volumes.picture_onto_grid(grey, (40, 80), 240.0, Grid(4, 10.0, 48, 240.0))
    assert (volume != NO_DATA).any(axis=(1, 2)).tolist() == [True, False, False, False]
    middle = volume[0][24, 24]
    assert middle == 40
    with pytest.raises(BadFile, match="black"):
        volumes.picture_onto_grid(np.zeros((50, 50), np.uint8), (40, 80), 240.0, Grid(4, 10.0, 48, 240.0))
