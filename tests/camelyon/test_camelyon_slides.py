"""Slides, tissue, patches and adapters: read at a wanted scale, refused with a reason, sampled where they should be."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from asap import read_annotation
from conftest import compose, phantom_settings
from tifffile import TiffFile

from pipelines.camelyon import data, pcam, slides
from pipelines.camelyon.annotations import EMPTY
from pipelines.camelyon.heatmap import heatmap_file
from pipelines.camelyon.masks import tumour_mask
from pipelines.camelyon.measures import slide_measures
from pipelines.camelyon.outlines import CROSSING
from pipelines.camelyon.patches import PatchReader, annotation_of, normal_tissue, read_patch, sample_slide, with_slide
from pipelines.camelyon.phantom.dataset import make_slide, slide_names, write_annotation, write_pyramid
from pipelines.camelyon.slides import COARSE, NO_MPP, OTHER_MPP, Slide, fingerprint
from pipelines.camelyon.tissue import Tissue, find_tissue, read_tissue, tissue_mask, write_tissue
from pipelines.shared.data.ranges import beyond, ranges_of
from pipelines.shared.errors import BadFile, ConfigError, DataError, UnusableRecord

SMALL = phantom_settings("camelyon", slides=12, test=4, smallest=1536, largest=1536)


def tissue_settings(**changes):
    return compose("camelyon").tissue.model_copy(update=changes)


def pattern(height=512, width=640):
    """A picture whose colours tell the position: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tumour and a normal slide of the phantom, in its folders, and two test slides."""
    root = tmp_path_factory.mktemp("phantom")
    for i, (_name, _, _) in enumerate(slide_names(SMALL)):
        if i in (0, 1, 4, 5, 8, 9, 10, 11):
            make_slide(i, root, SMALL)
    tests = [f"{n},{'Tumor' if t else 'Normal'}," for n, t, part in slide_names(SMALL) if part == "testing"]
    (root / "testing" / "reference.csv").write_text("\n".join(tests) + "\n")
    return root


# --- slides ---


def test_a_region_has_the_asked_scale_on_any_level(tmp_path):
    write_pyramid(tmp_path / "a.tif", pattern(), 0.25, quality=95)
    slide = Slide(tmp_path / "a.tif")
    assert (slide.properties.width, slide.properties.height) == (1280, 1024)
    assert slide.properties.mpp == pytest.approx((0.25, 0.25))
    assert len(slide.properties.downsamples) > 1
    for mpp in (0.25, 0.4, 0.5, 1.0, 2.0):
        found = slide.read(320, 256, 64, 48, mpp).astype(int)
        step = mpp / 0.25
        x, y = 320 + (np.arange(64) + 0.5) * step, 256 + (np.arange(48) + 0.5) * step
        assert np.abs(found[24, :, 0] - np.minimum(x, 1279) * 200 / 1280)[x < 1270].max() < 5, mpp
        assert np.abs(found[:, 32, 1] - np.minimum(y, 1023) * 200 / 1024)[y < 1014].max() < 5, mpp


def test_beyond_the_border_is_white(tmp_path):
    write_pyramid(tmp_path / "a.tif", pattern(), 0.25)
    slide = Slide(tmp_path / "a.tif")
    assert (slide.read(-400, -400, 64, 64, 1.0) == 255).all()
    assert slide.overview(64).shape == (64, 64, 3)
    assert (slide.overview(64)[0] > 250).all()  # a wide slide lies in the middle of its square


def test_a_slide_with_one_level_is_read_at_any_scale(real_sample):
    file = next(real_sample("slides").glob("*.svs"))
    slide = Slide(file)
    assert len(slide.properties.downsamples) == 1
    fine, coarse = slide.read(300, 300, 128, 128, 0.499), slide.read(300, 300, 64, 64, 0.998)
    reduced = cv2.resize(fine, (64, 64), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(reduced - coarse).mean() < 4


@pytest.mark.slow
def test_what_is_no_slide_has_its_reason(tmp_path):
    (tmp_path / "empty.tif").touch()
    (tmp_path / "words.tif").write_text("no slide")
    write_pyramid(tmp_path / "whole.tif", pattern(2048, 2048), 0.25)
    content = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "short.tif").write_bytes(content[: len(content) // 2])
    for name, word in (("gone", "does not exist"), ("empty", "0 bytes"), ("words", "no slide")):
        with pytest.raises(BadFile, match=word):
            Slide(tmp_path / f"{name}.tif")
    with pytest.raises(BadFile):
        Slide(tmp_path / "short.tif").check()
    Slide(tmp_path / "whole.tif").check()


@pytest.mark.slow
def test_a_tile_that_claims_more_bytes_than_the_file_has_is_not_asked_for(tmp_path):
    write_pyramid(tmp_path / "a.tif", pattern(2048, 2048), 0.25)
    with TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"]
        counts.overwrite([2**32 - 1, *counts.value[1:]])
    with pytest.raises(BadFile, match="a tile of 4,294,967,295 bytes in a file of"):
        Slide(tmp_path / "a.tif").check()


def test_a_slide_without_scale_is_an_error_with_its_remedy(tmp_path):
    from tifffile import imwrite

    imwrite(tmp_path / "a.tif", pattern(), tile=(256, 256), photometric="rgb", metadata=None)
    with pytest.raises(BadFile) as failure:
        Slide(tmp_path / "a.tif")
    assert str(failure.value) == NO_MPP
    assert Slide(tmp_path / "a.tif", 0.5).properties.mpp == (0.5, 0.5)


def one_level(file, picture, per_cm, **more):
    from tifffile import imwrite

    imwrite(file, picture, **{"tile": (256, 256), "photometric": "rgb", "metadata": None} | more,
            resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")  # fmt: skip


@pytest.mark.parametrize("dpi", [72, 96, 300, 1_000_000])
def test_a_scale_that_cannot_be_is_the_slides_own_reason(tmp_path, dpi):
    one_level(tmp_path / "a.tif", pattern(), dpi / 2.54)
    with pytest.raises(BadFile, match=r"cannot be a slide's scale.*data\.mpp"):
        Slide(tmp_path / "a.tif")
    assert Slide(tmp_path / "a.tif", 0.5).properties.mpp == (0.5, 0.5)


def test_a_slide_longer_than_any_glass_is_refused(tmp_path):
    one_level(tmp_path / "a.tif", np.zeros((256, 32768, 3), np.uint8), 1e4 / 8, compression="zlib")
    with pytest.raises(BadFile, match="would be 262 mm long"):
        Slide(tmp_path / "a.tif")
    assert Slide(tmp_path / "a.tif", 0.5).properties.width == 32768


@pytest.mark.slow
def test_the_scale_that_is_given_counts_and_says_so(tmp_path):
    one_level(tmp_path / "a.tif", pattern(), 40_000)
    stated, same, other = (Slide(tmp_path / "a.tif", mpp) for mpp in (None, 0.25, 0.5))
    assert [slide.properties.mpp[0] for slide in (stated, same, other)] == pytest.approx([0.25, 0.25, 0.5])
    assert not stated.warnings
    assert not same.warnings
    assert other.warnings == [OTHER_MPP]
    for impossible in (0, 0.001, 352.8):
        with pytest.raises(ConfigError, match=r"data\.mpp"):
            compose("camelyon", f"data.mpp={impossible}")


@pytest.mark.slow
def test_a_large_region_is_read_in_strips_and_is_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    one_level(tmp_path / "a.tif", rng.integers(0, 256, (1300, 1100, 3), np.uint8), 40_000, compression="zlib")
    slide = Slide(tmp_path / "a.tif")
    places = [(0, 0, *slide.at(mpp), mpp) for mpp in (0.25, 0.333, 0.5, 2.0, 7.7)] + [(-333, 777, 200, 150, 1.0)]
    whole = [slide.read(*place) for place in places]
    most = []
    region = slide._region
    monkeypatch.setattr(slide, "_region", lambda x, y, level, size: most.append(size) or region(x, y, level, size))
    monkeypatch.setattr(slides, "AT_ONCE", 100_000)
    for place, expected in zip(places, whole, strict=True):
        found = slide.read(*place).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1, place
    assert max(width * height for width, height in most) <= 100_000


def test_tiles_too_large_to_decode_are_refused(tmp_path, monkeypatch):
    one_level(tmp_path / "a.tif", pattern(), 40_000, tile=(512, 640))
    monkeypatch.setattr(slides, "LARGEST_TILE", 300_000)
    with pytest.raises(BadFile, match="tiles of 640 x 512"):
        Slide(tmp_path / "a.tif")


def test_a_fingerprint_sees_both_ends_and_the_size(tmp_path):
    file = tmp_path / "a"
    content = bytearray(np.random.default_rng(0).bytes(3 * 2**20))
    file.write_bytes(content)
    first = fingerprint(file)
    content[-1] ^= 1
    file.write_bytes(content)
    assert fingerprint(file) != first


# --- tissue ---


def test_tissue_is_found_and_glass_is_not(folder, tmp_path):
    settings = tissue_settings()
    slide = Slide(folder / "training/normal/Normal_001.tif")
    tissue = find_tissue(slide, settings)
    assert 0.05 < tissue.mask.mean() < 0.7
    assert not tissue.mask[0].any()
    glass = np.full((300, 300, 3), 243, np.uint8) + np.random.default_rng(0).integers(0, 3, (300, 300, 3), np.uint8)
    assert not tissue_mask(glass, settings).any()
    write_tissue(tmp_path, "a", tissue, slide)
    assert (read_tissue(tmp_path, "a", slide, settings).mask == tissue.mask).all()
    write_pyramid(tmp_path / "other.tif", pattern(), 0.25)
    with pytest.raises(BadFile, match="another slide"):
        read_tissue(tmp_path, "a", Slide(tmp_path / "other.tif"), settings)


@pytest.mark.slow
def test_files_of_slides_with_names_alike_stay_apart_and_below_the_folder(folder, tmp_path):
    slide = Slide(folder / "training/normal/Normal_001.tif")
    names = ["a", "a-mask", "masks/a", "x/a.svs", "x__a.svs", "../a", "切片.tif"]
    masks = [Tissue(np.random.default_rng(i).random(slide.at(8.0)[::-1]) > 0.5, (1.0, 1.0)) for i in range(len(names))]
    place = tmp_path / "run" / "tissue"
    for name, tissue in zip(names, masks, strict=True):
        write_tissue(place, name, tissue, slide)
    for name, tissue in zip(names, masks, strict=True):
        assert (read_tissue(place, name, slide, tissue_settings()).mask == tissue.mask).all(), name
    assert len(list(place.glob("*.png"))) == len(names)
    assert len({heatmap_file(tmp_path, "first", name) for name in names}) == len(names)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_small_parts_and_holes_are_cleaned():
    picture = np.full((400, 400, 3), 245, np.uint8)
    picture[100:300, 100:300] = (190, 90, 170)
    picture[200:206, 200:206] = 245  # a hole of 36 pixels
    picture[20:24, 20:24] = (190, 90, 170)  # a speck of 16
    settings = tissue_settings(smallest=0.01, largest_hole=0.005)
    mask = tissue_mask(picture, settings)
    assert mask[203, 203]
    assert not mask[22, 22]
    open_hole = tissue_mask(picture, tissue_settings(smallest=0.0, largest_hole=0.0))
    assert not open_hole[203, 203]
    grey = tissue_mask(picture, tissue_settings(grey=True))
    assert (grey <= mask).all()
    assert grey[150, 150]


def stained(tint=None, frame=False):
    """A stained ellipse on glass, at 8 microns per pixel; what was not scanned is of a tint: a half, or a frame."""
    y, x = np.ogrid[:250, :500]
    noise = np.random.default_rng(7).integers(-25, 25, (250, 500, 1))
    inside = ((y - 125) / 75) ** 2 + ((x - 156) / 103) ** 2 < 1
    picture = np.where(inside[..., None], (noise + np.array([205, 120, 175])).clip(0, 255), 244).astype(np.uint8)
    if tint is not None:
        border = (x < 15) | (x > 484) | (y < 15) | (y > 234) if frame else (x > 300) & (y >= 0)
        picture[border] = tint
    return cv2.blur(picture, (3, 3))  # levels mix what lies side by side


@pytest.mark.slow
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("tint", [(0, 0, 0), (4, 0, 2), (0, 9, 0), (0, 40, 12), (3, 8, 40), (20, 30, 60), (30, 30, 33)])
def test_what_was_never_scanned_is_no_tissue_whatever_its_tint(tint, frame, grey):
    settings = tissue_settings(grey=grey)
    clean, dark = (tissue_mask(stained(t, frame), settings) for t in (None, tint))
    assert 0.15 < clean.mean() < 0.25
    assert (clean ^ dark).sum() < 0.02 * clean.sum()


def test_a_slide_that_is_black_everywhere_holds_no_tissue():
    assert not tissue_mask(np.full((200, 200, 3), (4, 0, 2), np.uint8), tissue_settings()).any()


def test_dark_nuclei_stay_tissue():
    picture = stained()
    picture[100:110, 100:110] = (30, 15, 40)  # smaller than any tissue that counts
    assert tissue_mask(picture, tissue_settings())[105, 105]


def test_tissue_is_asked_for_on_a_grid_as_at_single_places():
    mask = np.random.default_rng(0).random((7, 9)) > 0.5
    tissue = Tissue(mask, (10.0, 12.0))
    x, y = np.arange(-25, 120, 7.0), np.arange(-25, 110, 5.0)
    grid = tissue.at(x, y[:, None])
    assert grid.shape == (len(y), len(x))
    for r, c in np.ndindex(grid.shape):
        inside = 0 <= x[c] < 90 and 0 <= y[r] < 84
        assert grid[r, c] == (inside and mask[int(y[r] // 12), int(x[c] // 10)])


# --- patches ---


def test_patches_lie_where_their_label_says(folder):
    config = compose("camelyon")
    slide = Slide(folder / "training/tumor/Tumor_001.tif")
    annotation = read_annotation(folder / "training/lesion_annotations/Tumor_001.xml")
    tissue = find_tissue(slide, config.tissue)
    record = {"id": "Tumor_001", "group": "g", "split": "train", "path": "p", "partly": 0}
    table = sample_slide(record, slide, tissue, annotation, config.patches, 0)
    fine = tumour_mask(annotation, 4, slide.properties.width, slide.properties.height)
    half = 32 / slide.properties.mpp[0]  # level-0 pixels
    for row in table.itertuples():
        x, y = int(row.x / 4), int(row.y / 4)
        if row.kind == "normal":
            assert tissue.at(np.array([row.x]), np.array([row.y]))[0]
            r = int(half / 4)
            assert not fine[max(0, y - r) : y + r, max(0, x - r) : x + r].any()
        else:
            near = fine[max(0, y - 9) : y + 9, max(0, x - 9) : x + 9]  # within a cell of the coarse grid
            assert near.any()
    assert set(table["kind"]) == {"tumor", "normal"}
    again = sample_slide(record, slide, tissue, annotation, config.patches, 0)
    pd.testing.assert_frame_equal(table, again)
    partly = sample_slide(record | {"partly": 1}, slide, tissue, annotation, config.patches, 0)
    assert set(partly["kind"]) == {"tumor"}
    assert with_slide(table, record)["id"].is_unique


def test_normal_tissue_keeps_its_distance(folder):
    slide = Slide(folder / "training/tumor/Tumor_001.tif")
    annotation = read_annotation(folder / "training/lesion_annotations/Tumor_001.xml")
    everywhere = Tissue(np.ones((100, 100), bool), (slide.properties.width / 100, slide.properties.height / 100))
    near, far = (normal_tissue(everywhere, slide, annotation, r).mask for r in (0.0, 60.0))
    assert far.sum() < near.sum() < 10_000
    assert (far <= near).all()
    assert normal_tissue(everywhere, slide, None, 60).mask.all()


def test_a_patch_is_its_region(folder):
    file = folder / "training/tumor/Tumor_001.tif"
    slide = Slide(file)
    patch = read_patch(slide, 700, 800, 1.0, 64)
    table = pd.DataFrame({"path": [file.name], "x": [700.0], "y": [800.0]})
    assert (PatchReader(table, file.parent, 1.0, 64, None)(0) == patch).all()
    half = 32 / slide.properties.mpp[0]
    assert (slide.read(700 - half, 800 - half, 64, 64, 1.0) == patch).all()


# --- adapters ---


def challenge(root, *changes):
    return data.camelyon16(compose("camelyon", "data=camelyon16", f"data.root={root}", *changes))


def test_both_layouts_of_the_challenge_give_the_same_records(folder, tmp_path):
    flat = tmp_path / "CAMELYON16"
    for file in folder.rglob("*"):
        if file.suffix in (".tif", ".xml", ".csv"):
            place = {".tif": "images", ".xml": "annotations", ".csv": "evaluation"}[file.suffix]
            (flat / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, flat / place / file.name.lower())
    (flat / "masks").mkdir()
    shutil.copy(folder / "training/normal/Normal_001.tif", flat / "masks" / "normal_001_mask.tif")
    old, new = (challenge(f).records.sort_values("id", ignore_index=True) for f in (folder, flat))
    assert old["id"].str.lower().tolist() == new["id"].tolist()
    pd.testing.assert_frame_equal(old[["split", "tumor", "partly"]], new[["split", "tumor", "partly"]])
    assert old["annotation"].notna().tolist() == (old["tumor"] == 1).tolist()


def test_slides_set_apart_are_named_and_partly_annotated_ones_marked(folder):
    source = challenge(folder, "++data.set_apart={test_001: a reason}", "data.partly_annotated=[tumor_002]")
    assert "Test_001" not in set(source.records["id"])
    assert any("Test_001" in note and "a reason" in note for note in source.notes)
    assert source.records.set_index("id").loc["Tumor_002", "partly"] == 1
    default = compose("camelyon", "data=camelyon16").data
    assert {"test_049", "test_114"} <= set(default.set_apart)
    assert len(default.partly_annotated) == 20


def test_tumour_slides_without_annotation_are_all_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "c")
    for file in (tmp_path / "c/training/lesion_annotations").iterdir():
        file.unlink()
    with pytest.raises(DataError) as failure:
        challenge(tmp_path / "c")
    assert str(failure.value).count("without an annotation") == 2
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no slide"):
        challenge(tmp_path / "nothing")
    with pytest.raises(DataError, match="is no slide of CAMELYON16"):
        challenge(folder, f"data.partly_annotated=[tumor_{'1' * 5000}]")


def prepared(root, path, annotation=None, **changes):
    config = compose("camelyon", "data=table", *[f"data.{k}={v}" for k, v in changes.items()])
    return data.prepare({"id": "a", "path": path, "annotation": annotation}, root, data.prepare_settings(config))


def test_a_prepared_slide_is_its_overview_and_facts(folder):
    array, facts = prepared(folder, "training/tumor/Tumor_001.tif", "training/lesion_annotations/Tumor_001.xml")
    assert array.shape == (128, 128, 3)
    assert facts["width"] == 1536
    assert facts["mpp"] in (0.243, 0.226)
    assert 0 < facts["tissue_mm2"] < 0.2
    assert len(facts["fingerprint"]) == 64


def test_the_colour_of_its_tissue_and_its_scale_are_compared_with_the_training_set(folder):
    slide = "training/tumor/Tumor_001.tif"
    overview, facts = prepared(folder, slide)
    measures = slide_measures(overview, facts["mpp"], 12)
    assert measures["mpp"] == facts["mpp"]
    assert measures["tissue, mean green"] < measures["tissue, mean red"], "haematoxylin and eosin"
    ranges = ranges_of([measures])
    assert beyond(slide_measures(overview, facts["mpp"] * 1.05, 12), ranges) is None
    assert "mpp" in beyond(slide_measures(overview, facts["mpp"] * 2, 12), ranges)
    odd = beyond(slide_measures(overview[..., [1, 0, 2]], facts["mpp"], 12), ranges)
    assert "tissue, mean red" in odd
    assert "mpp" not in odd
    assert slide_measures(np.full((8, 8, 3), 240, np.uint8), None, 12) == {}, "glass, of a patch"


@pytest.mark.slow
def test_what_is_odd_about_a_slides_scale_is_told(folder):
    slide = "training/normal/Normal_001.tif"
    assert not prepared(folder, slide)[1]["warnings"]
    assert prepared(folder, slide, mpp=0.5)[1]["warnings"] == [OTHER_MPP]
    assert prepared(folder, slide, mpp=2)[1]["warnings"] == [OTHER_MPP, COARSE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("polygons", "word"),
    [
        ([("Tumor", np.array([[9e5, 9e5], [9.1e5, 9e5], [9e5, 9.1e5]]))], "another slide"),
        ([], "holds no annotation"),
        ([("Tumor", np.array([[100, 100], [400, 400], [400, 100], [100, 400]]))], "crosses itself"),
        ([("Metastasis", np.array([[100, 100], [400, 100], [400, 400]]))], "unknown group"),
        ([("Exclusion", np.array([[100, 100], [400, 100], [400, 400]]))], "outlines no tumour"),
        ([("Tumor", np.empty((0, 2)))], "outlines no tumour"),
        ([("Tumor", np.array([[100, 100], [400, 100], [4000, 40000]]))], "far from all others"),
    ],
)
def test_a_bad_annotation_is_a_bad_record(folder, tmp_path, polygons, word):
    shutil.copy(folder / "training/tumor/Tumor_001.tif", tmp_path / "a.tif")
    write_annotation(tmp_path / "a.xml", polygons)
    with pytest.raises(BadFile, match=word):
        prepared(tmp_path, "a.tif", "a.xml")


@pytest.mark.slow
def test_what_is_odd_about_outlines_is_a_warning_of_the_slide(folder, tmp_path):
    shutil.copy(folder / "training/tumor/Tumor_001.tif", tmp_path / "a.tif")
    tie = np.array([[100, 100], [400, 400], [400, 100], [100, 400]])
    write_annotation(tmp_path / "a.xml", [("Tumor", tie), ("Tumor", tie + 300), ("Tumor", np.empty((0, 2)))])
    _, facts = prepared(tmp_path, "a.tif", "a.xml", strict_outlines="false")
    assert facts["warnings"] == [EMPTY, CROSSING]
    write_annotation(tmp_path / "b.xml", [("Tumor", tie[[0, 2, 1]]), ("Tumor", np.empty((0, 2)))])
    assert prepared(tmp_path, "a.tif", "b.xml")[1]["warnings"] == [EMPTY]  # in either way of reading
    write_annotation(tmp_path / "c.xml", [("tumor", tie[[0, 2, 1]])])
    config = compose("camelyon", "data=table", "++data.annotation_groups={tumor: tumor}")
    record = {"id": "a", "path": "a.tif", "annotation": "c.xml"}
    assert data.prepare(record, tmp_path, data.prepare_settings(config))[1]["warnings"] == []
    assert len(annotation_of(config, record, tmp_path).tumour) == 1


def test_glass_is_of_no_use(tmp_path):
    write_pyramid(tmp_path / "glass.tif", np.full((1024, 1024, 3), 244, np.uint8), 0.25)
    with pytest.raises(UnusableRecord, match="no tissue"):
        prepared(tmp_path, "glass.tif")


@pytest.mark.slow
def test_a_table_needs_outlines_for_its_tumour_slides(folder, tmp_path):
    for name in ("tumor/Tumor_001", "tumor/Tumor_002", "normal/Normal_001"):
        shutil.copy(folder / "training" / f"{name}.tif", tmp_path)
    pd.DataFrame(
        {"path": ["Tumor_001.tif", "Tumor_002.tif", "Normal_001.tif"], "met": ["present", "present", "absent"]}
    ).to_csv(tmp_path / "t.csv", index=False)
    words = ["data=table", f"data.table={tmp_path / 't.csv'}", "++data.targets={tumor: met}",
             "++data.values={tumor: {present: 1, absent: 0}}"]  # fmt: skip
    with pytest.raises(DataError, match="None of the 2 tumour slides"):
        data.table(compose("camelyon", *words))
    xml = tmp_path / "xml"
    xml.mkdir()
    shutil.copy(folder / "training/lesion_annotations/Tumor_001.xml", xml)
    with pytest.raises(DataError, match=r"Tumor_002\.tif"):
        data.table(compose("camelyon", *words, "data.annotations=xml"))
    shutil.copy(folder / "training/lesion_annotations/Tumor_002.xml", xml / "tumor_002.xml")
    source = data.table(compose("camelyon", *words, "data.annotations=xml"))
    assert source.records["annotation"].tolist()[:2] == ["xml/Tumor_001.xml", "xml/tumor_002.xml"]


def write_pcam(root, count=6):
    import h5py

    rng = np.random.default_rng(0)
    for split in pcam.PARTS:
        name = pcam.NAME.format(split=split)
        with h5py.File(root / f"{name}_x.h5", "w") as file:
            file["x"] = rng.integers(0, 256, (count, 96, 96, 3), np.uint8)
        with h5py.File(root / f"{name}_y.h5", "w") as file:
            file["y"] = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
        rows = [{"coord_y": 0, "coord_x": 0, "wsi": f"{split}_{i // 2}"} for i in range(count)]
        pd.DataFrame(rows).to_csv(root / f"{name}_meta.csv", index=False)


def test_pcam_is_read_with_its_split_and_slides(tmp_path):
    write_pcam(tmp_path)
    config = compose("camelyon", "data=pcam", f"data.root={tmp_path}")
    source = pcam.pcam(config)
    assert source.records["split"].value_counts().to_dict() == {"train": 6, "val": 6, "test": 6}
    assert source.records["group"].nunique() == 9
    patch, facts = data.prepare(source.records.iloc[7].to_dict(), tmp_path, data.prepare_settings(config))
    assert patch.shape == (96, 96, 3)
    assert facts["fingerprint"]
    (tmp_path / (pcam.NAME.format(split="valid") + "_meta.csv")).unlink()
    with pytest.raises(DataError, match=r"meta\.csv is missing"):
        pcam.pcam(config)


def test_settings_that_cannot_be_are_refused():
    for change, word in (("patches.crop=80", "larger than size"), ("data.phantom.test=50", "fewer than 8")):
        with pytest.raises(ConfigError, match=word):
            compose("camelyon", change)
