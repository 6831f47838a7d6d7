"""The synthetic fundus photographs: reproducible, complete, and as their truth says."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipelines.retinopathy.fundus import find_circle
from pipelines.retinopathy.phantom import dataset as phantom
from pipelines.retinopathy.phantom.artist import draw_eye
from pipelines.retinopathy.phantom.camera import CAMERAS, DEFECTS, aim, photograph
from pipelines.retinopathy.phantom.canvas import DISC_RADIUS, OPTIC_DISC, Bytes, Image
from pipelines.retinopathy.phantom.dataset import PhantomSettings, ensure_phantom, make_phantom
from pipelines.retinopathy.phantom.lesions import Difficulty, draw_lesions
from pipelines.retinopathy.phantom.retina import Eye
from pipelines.retinopathy.phantom.vessels import beaded, vessel_tree

SMALL = PhantomSettings(patients=40, size=160, ungradable=0.15)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "small"
    make_phantom(folder, SMALL, workers=1)
    return folder


@pytest.fixture(scope="module")
def truth(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "truth" / "truth.csv").set_index("image_id")


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def states(settings: PhantomSettings) -> pd.DataFrame:
    """The truth of many eyes, without drawing them."""
    rows = []
    for patient in range(settings.patients):
        person = phantom._person(settings, patient)
        for eye in range(2):
            state = phantom._state(settings, person, patient, eye)
            rows.append(
                {"patient": patient, "eye": eye, "age": person.age, "camera": person.camera.name, **vars(state)}
            )
    return pd.DataFrame(rows)


def gradings(settings: PhantomSettings) -> pd.DataFrame:
    rows = []
    for patient in range(settings.patients):
        person = phantom._person(settings, patient)
        for eye in range(2):
            state = phantom._state(settings, person, patient, eye)
            for row in phantom._grades(settings, state, patient, eye):
                rows.append({"image": (patient, eye), "severity": state.severity, "truth": state, **row})
    return pd.DataFrame(rows)


MANY = PhantomSettings(patients=1500, ungradable=0.0)


@pytest.fixture(scope="module")
def many_states() -> pd.DataFrame:
    return states(MANY)


@pytest.fixture(scope="module")
def many_grades() -> pd.DataFrame:
    table = gradings(replace(MANY, patients=500))
    table = table[table["gradable"] == 1].copy()
    table["grade"] = table["grade"].astype(int)
    return table


@pytest.mark.slow
def test_layout_and_columns(root: Path, truth: pd.DataFrame) -> None:
    images = {path.stem for path in (root / "images").glob("*.jpg")}
    assert len(images) == 80
    assert {"p0001_left", "p0001_right", "p0040_right"} <= images
    grades = pd.read_csv(root / "grades.csv", dtype=str, keep_default_na=False)
    metadata = pd.read_csv(root / "metadata.csv")
    assert list(grades.columns) == ["image_id", "grader", "grade", "dme", "gradable"]
    assert list(metadata.columns) == ["image_id", "patient_id", "eye", "camera", "age", "sex"]
    assert list(truth.columns) == [
        *("severity", "grade", "dme_severity", "dme", "gradable", "center_x", "center_y", "radius")
    ]
    assert set(metadata["image_id"]) == set(grades["image_id"]) == set(truth.index) == images
    assert (metadata["image_id"] == metadata["patient_id"] + "_" + metadata["eye"]).all()
    assert metadata["camera"].nunique() >= 4
    assert metadata["age"].between(20, 90).all()
    assert (metadata.groupby("patient_id")[["camera", "age", "sex"]].nunique() == 1).all(axis=None)
    gradable = grades["gradable"] == "1"
    assert grades.loc[gradable, "grade"].isin(list("01234")).all()
    assert grades.loc[gradable, "dme"].isin(["0", "1"]).all()
    assert (grades.loc[~gradable, ["grade", "dme"]] == "").all(axis=None)
    assert (~gradable).any()
    per_image = grades.groupby("image_id")["grader"]
    assert per_image.size().between(SMALL.graders_min, SMALL.graders_max).all()
    assert (per_image.nunique() == per_image.size()).all()
    assert set(range(SMALL.graders_min, SMALL.graders_max + 1)) == set(per_image.size())
    assert "synthetic" in (root / "SYNTHETIC.txt").read_text()
    assert "lesion_contrast = 1.0" in (root / "SYNTHETIC.txt").read_text()
    assert {path.name for path in root.iterdir()} == {"images", "grades.csv", "metadata.csv", "truth", "SYNTHETIC.txt"}
    assert [path.name for path in root.parent.iterdir()] == [root.name]  # nothing left over beside it


def test_images_are_colour_pictures_of_several_sizes(root: Path) -> None:
    shapes = set()
    for path in sorted((root / "images").glob("*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert max(image.shape[:2]) <= SMALL.size
        shapes.add(image.shape)
    assert len(shapes) >= 4
    assert max(max(shape) for shape in shapes) == SMALL.size


def test_the_same_settings_give_what_they_always_gave(tmp_path: Path) -> None:
    """Where this fails on purpose, raise PHANTOM_VERSION: phantoms that were made before are not to be used again."""
    make_phantom(tmp_path / "phantom", PhantomSettings(patients=2, size=96, seed=21), workers=1)
    truth = pd.read_csv(tmp_path / "phantom" / "truth" / "truth.csv").set_index("image_id")
    grades = pd.read_csv(tmp_path / "phantom" / "grades.csv", dtype=str)
    assert grades.groupby("image_id")["grade"].agg("".join).to_dict() == {
        "p0001_left": "22120",
        "p0001_right": "0012",
        "p0002_left": "3243434",
        "p0002_right": "433",
    }
    assert truth["severity"].tolist() == pytest.approx([0.541245, 0.044548, 1.457477, 1.522831], abs=1e-6)
    assert truth["dme_severity"].tolist() == pytest.approx([-0.763834, 0.037811, 1.370306, 1.296435], abs=1e-6)
    assert truth["radius"].tolist() == pytest.approx([33.364, 33.479, 41.089, 42.283], abs=1e-3)
    # Mean blue, green and red, and the lesions' area in pixels; other releases of OpenCV may draw a little differently.
    colours = [[24.72, 52.43, 88.34], [24.06, 53.63, 99.01], [19.29, 51.65, 96.76], [25.60, 58.74, 107.39]]
    for name, colour, area in zip(truth.index, colours, (43, 5, 152, 174), strict=True):
        image = cv2.imread(str(tmp_path / "phantom" / "images" / f"{name}.jpg"))
        mask = cv2.imread(str(tmp_path / "phantom" / "truth" / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        assert mask is not None
        assert image.mean(axis=(0, 1)) == pytest.approx(colour, abs=0.3)
        assert (mask > 0).sum() == pytest.approx(area, rel=0.05, abs=1)


@pytest.mark.slow
def test_same_settings_give_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    settings = PhantomSettings(patients=17, size=80)
    make_phantom(tmp_path / "one", settings, workers=1)
    make_phantom(tmp_path / "two", settings, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_image_depends_on_its_patient_and_the_settings_only(root: Path, tmp_path: Path) -> None:
    make_phantom(tmp_path / "fewer", replace(SMALL, patients=3), workers=1)
    make_phantom(tmp_path / "seed", replace(SMALL, patients=3, seed=1), workers=1)
    make_phantom(tmp_path / "fainter", replace(SMALL, patients=3, lesion_contrast=0.5), workers=1)
    whole, fewer = contents(root), contents(tmp_path / "fewer")
    pictures = [name for name in fewer if name.endswith((".jpg", ".png"))]
    assert len(pictures) >= 6
    assert all(fewer[name] == whole[name] for name in pictures)
    other = contents(tmp_path / "seed")
    assert all(other[name] != fewer[name] for name in fewer if name.startswith("images/") and name in other)
    # Fainter lesions change pictures with lesions, and nothing else.
    fainter = contents(tmp_path / "fainter")
    assert all(fainter[name] == fewer[name] for name in fewer if "masks" in name or name.endswith(".csv"))
    changed = {Path(name).stem for name in pictures if name.startswith("images/") and fainter[name] != fewer[name]}
    masked = {path.stem for path in (tmp_path / "fewer" / "truth" / "masks").iterdir()}
    assert changed <= masked
    assert changed


def test_masks_belong_to_the_images_with_lesions(root: Path, truth: pd.DataFrame) -> None:
    masks = {path.stem: path for path in (root / "truth" / "masks").glob("*.png")}
    assert set(masks) == set(truth.index[truth["grade"] >= 1])
    areas = {}
    for name, path in masks.items():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(root / "images" / f"{name}.jpg"))
        assert mask is not None
        assert image is not None
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) == {0, 255}
        row, column = np.nonzero(mask)
        eye = truth.loc[name]
        assert (np.hypot(column - eye["center_x"], row - eye["center_y"]) < eye["radius"]).all()
        areas[name] = (mask > 0).sum() / eye["radius"] ** 2
    area = pd.Series(areas).groupby(truth["grade"]).median()
    assert area.is_monotonic_increasing
    assert area.loc[4] > 4 * area.loc[1]


def test_lesions_look_different_from_what_surrounds_them(root: Path, truth: pd.DataFrame) -> None:
    contrasts = []
    for name in truth.index[(truth["grade"] >= 2) & (truth["gradable"] == 1)]:
        image = cv2.imread(str(root / "images" / f"{name}.jpg"))
        mask = cv2.imread(str(root / "truth" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert mask is not None
        green = image[..., 1].astype(float)
        around = (cv2.dilate(mask, np.ones((9, 9))) > 0) & (cv2.dilate(mask, np.ones((3, 3))) == 0)
        contrasts.append(np.abs(green[mask > 0] - green[around].mean()).mean() / green[around].std())
    assert np.median(contrasts) > 1.2


EYE = Eye(age=57, pigment=0.5, tortuosity=1.0, drusen=0.3, level=0.5, dme_excess=-1.0)
VIEW = aim(np.random.default_rng(0), CAMERAS[0], 256, left=False)


def drawn(eye: Eye, difficulty: Difficulty | None = None, seed: int = 0) -> tuple[Image, Bytes]:
    """An eye's picture and lesion mask."""
    retina_rng, lesion_rng = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    return draw_eye(retina_rng, lesion_rng, VIEW, eye, difficulty or Difficulty())


def test_macular_oedema_shows_as_exudates_near_the_fovea() -> None:
    # The same eye drawn with and without: the difference is bright and within a disc diameter of the fovea.
    for seed in range(6):
        without, _ = drawn(replace(EYE, level=2.1), seed=seed)
        difference = drawn(replace(EYE, level=2.1, dme_excess=1.0), seed=seed)[0] - without
        changed = np.abs(difference).max(axis=2) > 0.1
        assert changed.sum() > 10
        assert np.hypot(*VIEW.grid())[changed].max() < 0.37  # a disc diameter is 0.28; blobs have a size
        assert difference[changed].mean() > 0


@pytest.mark.parametrize(
    ("level", "layers"),
    [
        (0.9, set()),
        (1.1, {"blood"}),
        (1.9, {"blood"}),
        (2.1, {"blood", "exudate", "cotton"}),
        (3.9, {"blood", "exudate", "cotton"}),
        (4.9, {"blood", "exudate", "cotton", "preretinal"}),
    ],
)
def test_each_grade_shows_the_lesions_of_the_scale(level: float, layers: set[str]) -> None:
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        veins = vessel_tree(rng, 1.0, 0.023)[-1]
        lesions = draw_lesions(rng, VIEW, replace(EYE, level=level), Difficulty(), veins)
        seen |= {name for name, layer in vars(lesions).items() if not layer.empty}
        assert (level >= 1) == (not lesions.blood.empty)  # every eye with retinopathy shows some
        assert all(layer.empty == (not layer.canvas.any()) for layer in vars(lesions).values())
    assert seen == layers


def test_what_is_healthy_stays_the_same_when_lesions_are_added() -> None:
    healthy, no_mask = drawn(EYE)
    sick, mask = drawn(replace(EYE, level=2.8))
    assert not no_mask.any()
    assert mask.any()
    far = cv2.dilate(mask, np.ones((15, 15))) == 0
    assert far.mean() > 0.5
    assert np.abs(sick - healthy)[far].max() < 0.03  # the blurred margins of lesions


def test_veins_are_beaded_in_severe_retinopathy() -> None:
    veins = vessel_tree(np.random.default_rng(0), 1.0, 0.023)[-1]
    little, much = (beaded(np.random.default_rng(0), veins, level) for level in (2.95, 3.9))
    change = [np.abs(v.widths / veins.widths - 1).max() for v in (little, much)]
    assert 0.05 < change[0] < 0.15
    assert 0.4 < change[1] < 0.55
    assert (much.paths == veins.paths).all()


@pytest.mark.slow
def test_difficulty_does_what_it_says() -> None:
    eyes = [(replace(EYE, level=2.6), seed) for seed in range(8)]

    def area(difficulty: Difficulty) -> int:
        return sum(int((drawn(eye, difficulty, seed)[1] > 0).sum()) for eye, seed in eyes)

    usual = area(Difficulty())
    assert area(Difficulty(lesion_size=1.5)) > 1.5 * usual
    assert area(Difficulty(lesion_count=2.0)) > 1.4 * usual
    assert area(Difficulty(lesion_contrast=0.5)) == area(Difficulty(distractors=3.0)) == usual
    without, many = (drawn(EYE, Difficulty(distractors=amount))[0] for amount in (0.0, 3.0))
    assert (np.abs(many - without).max(axis=2) > 0.05).sum() > 50


def test_defects_spoil_a_photograph_as_they_are_named() -> None:
    picture, _ = drawn(EYE)
    column, row = VIEW.field()
    inside = column**2 + row**2 < 0.9**2

    def taken(defect: str | None, seed: int) -> np.ndarray:
        # The median of the green light, by part of the field, and how much detail there is.
        shot = photograph(np.random.default_rng(seed), picture, VIEW, CAMERAS[0], 0.0, defect)[..., 1].astype(float)
        upper, lower = (np.median(shot[inside & half]) for half in (row < -0.3, row > 0.6))
        rim = [np.median(shot[inside & half]) for half in (column < -0.7, column > 0.7, row < -0.7, row > 0.7)]
        detail = np.abs(cv2.Laplacian(shot, cv2.CV_64F))[column**2 + row**2 < 0.5**2].mean()
        return np.array([np.median(shot[inside]), upper / lower, max(rim) / max(min(rim), 1), detail])

    for seed in range(5):
        good = taken(None, seed)
        bad = {defect: taken(defect, seed) for defect in DEFECTS}
        assert bad["blur"][3] < 0.3 * good[3]
        assert bad["dark"][0] < 0.3 * good[0]
        assert bad["bright"][0] > 1.5 * good[0]
        assert bad["lid"][1] < 0.4 * good[1]
        assert bad["off field"][2] > 3 * good[2]


def test_image_noise_multiplies_the_cameras_noise() -> None:
    picture, _ = drawn(EYE)
    camera = CAMERAS[0]

    def taken(noise: float) -> np.ndarray:
        return photograph(np.random.default_rng(0), picture, VIEW, camera, noise, None).astype(float)

    spread = [(taken(noise) - taken(0.0)).std() / 255 for noise in (1.0, 2.0)]
    assert spread[0] == pytest.approx(camera.noise * 0.8, rel=0.35)  # less outside the disc, rounding adds
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.1)


def test_prevalence_is_as_set(many_states: pd.DataFrame) -> None:
    share = many_states["grade"].value_counts(normalize=True).sort_index()
    expected = [0.50, MANY.mild, MANY.moderate, MANY.severe, MANY.proliferative]
    assert share.to_numpy() == pytest.approx(expected, abs=0.025)
    assert many_states["dme"].mean() == pytest.approx(0.15, abs=0.02)
    referable = (many_states["grade"] >= 2) | many_states["dme"]
    assert 0.36 < referable.mean() < 0.45
    assert not many_states.loc[many_states["grade"] == 0, "dme"].any()
    assert many_states.groupby("grade")["dme"].mean().is_monotonic_increasing
    assert many_states.loc[many_states["grade"] == 4, "dme"].mean() < 0.95  # correlated, not determined


def test_grades_follow_the_latent_severity(many_states: pd.DataFrame) -> None:
    borders = MANY.borders
    assert borders == sorted(borders)
    for grade, group in many_states.groupby("grade"):
        low = borders[int(grade) - 1] if grade else -np.inf
        high = borders[int(grade)] if grade < 4 else np.inf
        assert group["severity"].between(low, high).all()
    assert many_states["severity"].mean() == pytest.approx(0, abs=0.08)
    assert many_states["severity"].std() == pytest.approx(1, abs=0.06)


def test_eyes_of_a_patient_are_correlated(many_states: pd.DataFrame) -> None:
    both = many_states.pivot(index="patient", columns="eye", values="severity")
    assert both.corr().iloc[0, 1] == pytest.approx(MANY.eye_correlation, abs=0.03)
    none = states(replace(MANY, patients=800, eye_correlation=0.0)).pivot(
        index="patient", columns="eye", values="severity"
    )
    assert abs(none.corr().iloc[0, 1]) < 0.12


def test_age_is_slightly_correlated_and_the_camera_is_not(many_states: pd.DataFrame) -> None:
    assert 0.1 < many_states["age"].corr(many_states["severity"]) < 0.4
    by_camera = many_states.groupby("camera")["severity"].mean()
    assert len(by_camera) >= 4
    assert by_camera.abs().max() < 0.2


def test_graders_disagree_mostly_between_neighbouring_grades(many_grades: pd.DataFrame) -> None:
    steps: Counter[int] = Counter()
    for _, grades in many_grades.groupby("image")["grade"]:
        steps.update(abs(a - b) for a, b in itertools.combinations(grades, 2))
    total = sum(steps.values())
    assert 0.2 < 1 - steps[0] / total < 0.6
    assert steps[1] > 1.5 * sum(count for step, count in steps.items() if step > 1)
    assert steps[3] + steps[4] < 0.03 * total


def test_graders_disagree_most_near_the_borders(many_grades: pd.DataFrame) -> None:
    border = MANY.borders[1]
    referable = many_grades["grade"] >= 2
    share = referable.groupby(many_grades["image"]).mean()
    severity = many_grades.groupby("image")["severity"].first()
    split = share.between(0.01, 0.99)
    near = (severity - border).abs() < 0.25
    far = (severity - border).abs() > 1.2
    assert split[near].mean() > 0.5
    assert split[far].mean() < 0.1


def test_graders_have_habits_of_their_own(many_grades: pd.DataFrame) -> None:
    wrong = many_grades["grade"] - [state.grade for state in many_grades["truth"]]
    per_grader = wrong.groupby(many_grades["grader"])
    assert len(per_grader) == MANY.panel
    spread = per_grader.mean().std()
    chance = (per_grader.std() / np.sqrt(per_grader.size())).mean()
    assert spread > 2 * chance


def test_a_graders_sensitivity_is_plausible_and_the_oracle_is_better_than_chance(many_grades: pd.DataFrame) -> None:
    from sklearn.metrics import roc_auc_score

    table = many_grades.assign(referable=(many_grades["grade"] >= 2) | (many_grades["dme"] == 1))
    majority = table.groupby("image")["referable"].mean() > 0.5
    severity = table.groupby("image")["severity"].first()
    assert 0.97 < roc_auc_score(majority, severity) < 0.995
    own = table["referable"].groupby([table["grader"], table["image"].map(majority)]).mean().unstack()
    sensitivity, specificity = own[True], 1 - own[False]
    assert 0.65 < sensitivity.min() < sensitivity.median() < 0.97
    assert 0.75 < specificity.min() < specificity.median() < 0.98


def test_less_noise_means_less_disagreement() -> None:
    exact = gradings(PhantomSettings(patients=150, grader_noise=0.0, grader_bias=0.0, ungradable=0.0))
    exact = exact[exact["gradable"] == 1]
    assert [state.grade for state in exact["truth"]] == exact["grade"].tolist()
    assert [int(state.dme) for state in exact["truth"]] == exact["dme"].tolist()


def test_ungradable_pictures_are_called_so_by_most_graders_and_look_it(root: Path, truth: pd.DataFrame) -> None:
    table = gradings(replace(MANY, patients=400, ungradable=0.25))
    bad = np.array([state.defect is not None for state in table["truth"]])
    assert bad.mean() == pytest.approx(0.25, abs=0.04)
    assert table.loc[bad, "gradable"].mean() < 0.25
    assert table.loc[~bad, "gradable"].mean() > 0.96
    assert {state.defect for state in table["truth"]} == {None, *DEFECTS}
    # They have less fine detail than the others.
    detail = {}
    for name, eye in truth.iterrows():
        image = cv2.imread(str(root / "images" / f"{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        x, y, half = round(eye["center_x"]), round(eye["center_y"]), round(0.5 * eye["radius"])
        middle = cv2.GaussianBlur(image[y - half : y + half, x - half : x + half].astype(float), (0, 0), 1)
        detail[name] = np.abs(cv2.Laplacian(middle, cv2.CV_64F)).mean()
    medians = pd.Series(detail).groupby(truth["gradable"]).median()
    assert medians[0] < 0.8 * medians[1]


def test_find_circle_recovers_the_disc(root: Path, truth: pd.DataFrame) -> None:
    errors = []
    for name, eye in truth[truth["gradable"] == 1].iterrows():
        image = cv2.imread(str(root / "images" / f"{name}.jpg"))
        assert image is not None
        circle = find_circle(np.ascontiguousarray(image[..., ::-1]).astype(np.uint8))
        assert circle is not None, name
        assert circle.aspect == 1.0
        distance = np.hypot(circle.x - eye["center_x"], circle.y - eye["center_y"])
        errors.append(max(distance, abs(circle.radius - eye["radius"])) / eye["radius"])
    assert max(errors) < 0.02


def test_optic_disc_lies_on_the_nasal_side(root: Path, truth: pd.DataFrame) -> None:
    # The brightest region: right of the centre in right eyes, left of it in left eyes.
    sides = []
    for name, eye in truth[(truth["gradable"] == 1) & (truth["grade"] == 0)].iterrows():
        image = cv2.imread(str(root / "images" / f"{name}.jpg"))
        assert image is not None
        smooth = cv2.GaussianBlur(image[..., 1].astype(float), (0, 0), 0.08 * eye["radius"])
        brightest = np.unravel_index(np.argmax(smooth), smooth.shape)
        sides.append((brightest[1] > eye["center_x"]) == str(name).endswith("_right"))
    assert len(sides) > 20
    assert np.mean(sides) > 0.9


def test_vessels_leave_the_optic_disc_and_spare_the_fovea() -> None:
    tree = vessel_tree(np.random.default_rng(0), 1.0, 0.023)
    second, first, trunks = tree
    assert np.hypot(*(trunks.paths[:, 0] - OPTIC_DISC).T).max() < DISC_RADIUS
    for branches in (first, second):
        start_outside = np.hypot(*branches.paths[:, 0].T) >= 0.1
        assert (np.hypot(branches.paths[start_outside, :, 0], branches.paths[start_outside, :, 1]) >= 0.1).all()
    for generation in tree:
        assert (np.diff(generation.widths, axis=1) <= 0).all()  # tapering
    assert second.widths.max() < first.widths.max() < trunks.widths.max()


def test_positions_on_the_retina_and_in_the_picture_agree() -> None:
    for left, camera in itertools.product((False, True), CAMERAS):
        view = aim(np.random.default_rng(5), camera, 256, left)
        x, y = view.grid()
        row, column = 40, 101
        pixel = view.pixels(np.array([x[row, column], y[row, column]], np.float64))
        assert pixel == pytest.approx([column, row], abs=1e-3)
        centre = view.pixels(np.array(view.gaze))
        assert centre == pytest.approx([view.x, view.y])
        points = view.random_points(np.random.default_rng(0), 200)
        pixels = view.pixels(points)
        assert len(points) == 200
        assert (np.hypot(*(pixels - [view.x, view.y]).T) < view.radius).all()
        assert ((pixels > 0) & (pixels < [view.width - 1, view.height - 1])).all()
        across, down = view.field()
        assert [across[column], down[row, 0]] == pytest.approx(
            [(column - view.x) / view.radius, (row - view.y) / view.radius], abs=1e-6
        )
        assert max(view.width, view.height) == round(256 * camera.scale)


def test_ensure_makes_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PhantomSettings(patients=2, size=64)
    folder = ensure_phantom(tmp_path, settings, workers=1)
    assert folder.name.startswith("phantom-retinopathy-")
    before = contents(folder)
    monkeypatch.setattr(phantom, "_make_image", None)  # would fail if anything were drawn
    assert ensure_phantom(tmp_path, settings) == folder
    assert contents(folder) == before


def test_folder_depends_on_every_setting_and_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "make_phantom", lambda root, settings, workers: None)
    settings = PhantomSettings()
    changes = {name: value + 1 for name, value in vars(settings).items() if isinstance(value, int)}
    changes |= {name: value * 0.9 for name, value in vars(settings).items() if isinstance(value, float)}
    changes["graders_max"] = 6
    folders = {ensure_phantom(tmp_path, replace(settings, **{name: value})) for name, value in changes.items()}
    assert len(folders | {ensure_phantom(tmp_path, settings)}) == len(vars(settings)) + 1
    monkeypatch.setattr(phantom, "PHANTOM_VERSION", -1)
    assert ensure_phantom(tmp_path, settings) not in folders


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": 0}, "patients"),
        ({"size": 32}, "size"),
        ({"seed": -1}, "seed"),
        ({"graders_min": 5, "graders_max": 4}, "graders_min <= graders_max"),
        ({"graders_max": 13}, "panel"),
        ({"moderate": 0.9}, "sum below 1"),
        ({"mild": 0.0}, "positive"),
        ({"dme": 1.0}, "dme"),
        ({"ungradable": -0.1}, "ungradable"),
        ({"eye_correlation": 1.1}, "eye_correlation"),
        ({"lesion_contrast": -1.0}, "lesion_contrast"),
    ],
)
def test_impossible_settings_are_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhantomSettings(**wrong)  # type: ignore[arg-type]
