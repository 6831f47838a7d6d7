"""`mode=froc`: score anybody's submission against the annotations. Needs neither slides nor a model.

    python -m pipelines.camelyon mode=froc detections=<folder> annotations=<folder> slides=<CSV: slide,label>

What the study wires: `MODES = ["froc"]` and the keys `detections`, `annotations`, `slides` (`str | None`) in config.py,
all three null in config.yaml; `modes={"froc": froc_mode.score_submission}` in study.py.

- `detections`: one `<slide>.csv` per slide, lines `probability,x,y`, no header. A slide without a file has no
  detections, and stays in the denominator; the report names it.
- `annotations`: one ASAP `<slide>.xml` per tumour slide.
- `slides`: every slide of the test, label 1 or `tumor`, 0 or `normal`.

Names are compared without folder and suffix (.tif, .svs …), and without regard to upper and lower case, as the
challenge's own files differ in these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import check_annotation
from pipelines.camelyon.froc import Scored, froc_estimates, score_detections
from pipelines.camelyon.froc_report import PUBLISHED, denominators, froc_section
from pipelines.camelyon.lesions import COLUMNS, check_detections
from pipelines.camelyon.masks import LESION_COLUMNS, LesionMap, lesion_map
from pipelines.shared.environment import read_environment, stage, start
from pipelines.shared.errors import ConfigError, DataError, counted, listed
from pipelines.shared.evaluator import bootstrap_settings
from pipelines.shared.log import log
from pipelines.shared.records import read_csv
from pipelines.shared.report import Code, Headline, HeadlineFigure, Report, Section, Table, Text, render
from pipelines.shared.run_folder import RunFolder, plain, write_json
from pipelines.shared.screen import track
from pipelines.shared.stats.estimate import Estimate

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".dcm", ".csv", ".xml")
LABELS = {"0": 0, "normal": 0, "negative": 0, "1": 1, "tumor": 1, "tumour": 1, "positive": 1}
HEADLINE = "test.lesions.froc"
SIZES = (
    "The slides' sizes are not needed, and not known here: lesions end where their growth ends, detections beyond the "
    "slide are false positives. Only the length of a lesion at the right or lower border of its slide includes growth "
    "beyond that border, up to 37.5 microns."
)


@dataclass(frozen=True)
class Submission:
    """Three inputs that fit together.

    Attributes:
        slides: one row per slide: slide, label (0 or 1), file (whether it has a file of detections).
        detections: slide, probability, x, y.
        maps: the lesions of each tumour slide.
        notes: what the reader should know about how they were read.
        warnings: what may spoil the result.
    """

    slides: pd.DataFrame
    detections: pd.DataFrame
    maps: dict[str, LesionMap]
    notes: list[str]
    warnings: list[str]


# --- reading ---


def read_submission(detections: Path, annotations: Path, slides: Path) -> Submission:
    """Read and check the three inputs.

    Raises:
        DataError: all problems at once: of the table of slides, of any line of any CSV, of any XML file, tumour slides
            without XML, normal slides with tumour outlines, and detections of which no file belongs to a slide.
    """
    table, problems = _read_slides(slides)
    csv_files, wrong = _files(detections, ".csv", "detections")
    problems += wrong
    xml_files, wrong = _files(annotations, ".xml", "annotations")
    problems += wrong
    _stop(problems)  # the three belong to each other: without one of them nothing more can be said
    notes: list[str] = []
    warnings: list[str] = []

    keys = dict(zip(table["slide"].map(slide_key), table["slide"], strict=True))
    table["file"] = table["slide"].map(slide_key).isin(csv_files)
    missing = table.loc[~table["file"], "slide"].tolist()
    unknown = [file.name for key, file in csv_files.items() if key not in keys]
    if unknown and not table["file"].any():
        problems.append(
            f"detections: none of its {counted(len(unknown), 'file')} is of a slide in {slides.name}; "
            f"files: {_some(unknown)}; slides: {_some(missing)}"
        )
    elif unknown:
        warnings.append(
            f"{counted(len(unknown), 'file')} of slides that {slides.name} does not list: {_some(unknown)}."
        )
    if missing:
        # With files of unknown slides it may be a matter of names, so it is said where nobody can miss it.
        (warnings if unknown else notes).append(
            f"Slides without a file of detections count as slides without detections, {len(missing)} of them: "
            f"{_some(missing)}."
        )
    tables = []
    for key, name in keys.items():
        if key in csv_files:
            found, wrong = check_detections(csv_files[key])
            problems += [f"{csv_files[key].name}, {w}" for w in wrong]
            tables.append(found.assign(slide=name))
    maps: dict[str, LesionMap] = {}
    slips: list[str] = []
    labels = dict(zip(table["slide"], table["label"], strict=True))
    for key, name in track(list(keys.items()), "Reading annotations"):
        wrong, noticed, lesions = _lesions(name, bool(labels[name]), xml_files.get(key))
        problems += wrong
        slips += noticed
        if lesions is not None:
            maps[name] = lesions
    empty = [name for name, lesions in maps.items() if lesions.lesions.empty]
    if empty:
        warnings.append(
            "Tumour slides without a lesion, because their annotations outline no tumour or none that covers a pixel "
            f"of level 5: {_some(empty)}. Every detection there is a false positive."
        )
    if slips:
        notes.append(f"Outlines that were filled as they are although something is odd, {len(slips)}: {_some(slips)}.")
    extra = [file.name for key, file in xml_files.items() if key not in keys]
    if extra:
        notes.append(f"{counted(len(extra), 'annotation')} of slides that {slides.name} does not list: {_some(extra)}.")
    _stop(problems)
    if not (table["label"] == 0).any():
        warnings.append(
            "There are no normal slides: all false positives come from tumour slides, so the curve is not comparable "
            "to one of the whole test set."
        )
    together = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS, dtype=float)
    if "slide" not in together:
        together["slide"] = pd.Series(dtype=object)
    return Submission(table, together[["slide", *COLUMNS]], maps, notes, warnings)


def slide_key(name: str) -> str:
    """What two names of one slide have in common: no folder, no suffix of an image or table, lower case."""
    key = Path(str(name).strip().replace("\\", "/")).name.lower()
    while key.endswith(SUFFIXES):
        key = key.rpartition(".")[0]
    return key


def _read_slides(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """slide (as written there), label (0 or 1)."""
    table = read_csv(file, ["slide", "label"])[["slide", "label"]]
    problems = [f"{file.name} row {i + 2}: empty slide" for i in np.flatnonzero(table["slide"].isna())]
    words = table["label"].fillna("").str.strip().str.lower().str.removesuffix(".0")
    problems += [
        f"{file.name} row {i + 2}: label={table['label'][i]}, allowed: 1, tumor, 0, normal"
        for i in np.flatnonzero(~words.isin(list(LABELS)))
    ]
    keys = table["slide"].dropna().map(slide_key)
    for key, rows in keys[keys.duplicated(keep=False)].groupby(keys).groups.items():
        where = ", ".join(str(int(r) + 2) for r in rows)
        problems.append(f"{file.name} rows {where}: slide '{key}' occurs {len(rows)} times")
    return table.assign(slide=table["slide"].str.strip(), label=words.map(LABELS)), problems


def _files(folder: Path, suffix: str, key: str) -> tuple[dict[str, Path], list[str]]:
    """Slide key -> file."""
    if not folder.is_dir():
        return {}, [f"{key}={folder} " + ("is a file, not a folder" if folder.exists() else "does not exist")]
    found: dict[str, Path] = {}
    problems = []
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == suffix and file.is_file() and not file.name.startswith("."):
            name = slide_key(file.name)
            if name in found:
                problems.append(f"{key}: {found[name].name} and {file.name} are of the same slide")
            found[name] = file
    if not found:
        problems.append(f"{key}={folder} holds no {suffix} file")
    return found, problems


def _lesions(slide: str, tumour: bool, file: Path | None) -> tuple[list[str], list[str], LesionMap | None]:
    """Problems, notes and the lesions of one slide, None if it is normal."""
    if file is None:
        return ([f"{slide} is a tumour slide without an annotation ({slide}.xml)"] if tumour else []), [], None
    # The official annotations hold outlines that cross themselves; the evaluator takes them as they are filled.
    annotation, problems = check_annotation(file, strict=False)
    problems = [f"{file.name}, {p}" for p in problems]
    if problems or annotation is None:
        return problems, [], None
    if not tumour:
        wrong = [f"{slide} is normal, but {file.name} outlines tumour in it"] if annotation.tumour else []
        return wrong, [], None
    return [], annotation.notes, lesion_map(annotation)


def _stop(problems: list[str]) -> None:
    if problems:
        raise DataError(
            f"mode=froc: {counted(len(problems), 'problem')} with its inputs.\n{listed(problems, 50)}",
            "Correct them; nothing was guessed or left out. detections: <slide>.csv with lines probability,x,y "
            "(level-0 pixels, no header); annotations: <slide>.xml of ASAP for each tumour slide; slides: a CSV with "
            "slide,label.",
        )


def _some(names: list[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


# --- the mode ---


def score_submission(study: Study, job: Job) -> None:
    """`mode=froc`: leaves config.yaml, records.parquet, detections.parquet, lesions.parquet, metrics.json, the figure
    and report.html, and prints the score.

    Raises:
        ConfigError: a key is not given.
        DataError: the inputs do not fit, see `read_submission`.
    """
    config: Any = job.config
    places = {key: getattr(config, key) for key in ("detections", "annotations", "slides")}
    absent = [
        f"{key}=<{'CSV: slide,label' if key == 'slides' else 'folder'}>" for key, v in places.items() if v is None
    ]
    if absent:
        raise ConfigError(
            f"mode=froc needs {' '.join(absent)}.", "Give a folder of CSVs, a folder of ASAP XML, a CSV of slides."
        )
    submission = read_submission(*(Path(str(place)) for place in places.values()))
    world, folder = start(study.title, job)
    if not world.main:
        return
    with stage(folder, "froc", world):
        scored, estimates = score(submission, folder, bootstrap_settings(config))
    report = write_report(study.name, study.title, folder, submission, scored, estimates, read_environment(folder))
    for line in screen(scored, estimates):
        log.info(line)
    for warning in submission.warnings:
        log.warning(warning)
    print(report, flush=True)


def score(submission: Submission, folder: RunFolder, bootstrap: dict[str, Any]) -> tuple[Scored, dict[str, Estimate]]:
    """Score a submission and write its tables.

    Args:
        submission: of `read_submission`.
        folder: where to write.
        bootstrap: resamples, seed, level.
    """
    names = submission.slides["slide"].tolist()
    scored, detections = score_detections(names, submission.detections, submission.maps)
    folder.write_table(folder.path / "detections.parquet", detections)
    empty = [pd.DataFrame(columns=["slide", *LESION_COLUMNS])]
    lesions = [m.lesions.assign(slide=name) for name, m in submission.maps.items() if len(m.lesions)] or empty
    folder.write_table(
        folder.path / "lesions.parquet", pd.concat(lesions, ignore_index=True)[["slide", *LESION_COLUMNS]]
    )
    n = len(names)
    records = pd.DataFrame(
        {
            "id": names,
            "group": names,
            "split": "test",
            "label": submission.slides["label"].to_numpy(),
            "file": submission.slides["file"].to_numpy(),
            "detections": detections.groupby("slide").size().reindex(names, fill_value=0).to_numpy(),
            "lesions": np.bincount(scored.lesion_slide, minlength=n),
            "itc": scored.itc,
            "false_positives": np.bincount(scored.false_slide, minlength=n),
        }
    )
    folder.write_table(folder.records, records)
    return scored, froc_estimates(scored, **bootstrap)


def write_report(
    study: str,
    title: str,
    folder: RunFolder,
    submission: Submission,
    scored: Scored,
    estimates: dict[str, Estimate],
    environment: dict[str, Any],
) -> Path:
    """metrics.json, figures and report.html; returns the path of the page."""
    n = len(scored.slides)
    content = {
        "schema": 1,
        "study": study,
        "source": {"name": "submission", "synthetic": False, "records": n, "groups": n, "fingerprint": None},
        "splits": {"test": {"records": n, "groups": n}},
        "headline": HEADLINE,
        "metrics": {f"test.lesions.{name}": estimate.to_dict() for name, estimate in estimates.items()},
        "reference": {"chance": 0.0, "oracle": None},
        "operating_points": [],
        "paper": PUBLISHED,
        "seconds": environment["seconds"],
    }
    write_json(folder.metrics, plain(content))
    folder.figures.mkdir(exist_ok=True)
    main = estimates["froc"]
    found = f"FROC score: {main}" if main.value is not None else f"The FROC score is undefined: {main.reason}"
    best = PUBLISHED[0]
    shown = [
        HeadlineFigure("FROC score", main, "mean sensitivity at 1/4 to 8 false positives per slide"),
        HeadlineFigure("Sensitivity at 1", estimates["sensitivity_at_1"], "false positive per slide"),
        HeadlineFigure(
            "Winner of 2016", f"{best['value']:g} ({best['low']:g} to {best['high']:g})", "its 129 test slides"
        ),
    ]
    rows: list[list[Any]] = [[p["what"], _published(p), p["source"]] for p in PUBLISHED]
    sections = [
        froc_section(folder, scored, estimates),
        Section("Slides", _slide_blocks(folder)),
        Section(
            "Beside the challenge",
            [Table(["What", "Published", "Where"], rows, "On the challenge's test set.", ["left", "right", "left"])],
        ),
        Section(
            "How the inputs were read",
            [*(Text(note, "note") for note in [*submission.notes, SIZES]), Code(environment["command"])],
        ),
    ]
    sentence = f"{found}, on {denominators(scored)}."
    headline = Headline(sentence, shown, submission.warnings)
    return render(
        Report(f"{title}: a submission", study, False, headline, sections, footer=environment["version"]), folder.path
    )


def _published(entry: dict[str, Any]) -> str:
    interval = "" if entry["low"] is None else f" ({entry['low']:g} to {entry['high']:g})"
    return f"{entry['value']:g}{interval}"


def _slide_blocks(folder: RunFolder, limit: int = 20) -> list[Any]:
    """The slides with most false positives."""
    records = folder.read_table(folder.records)
    worst = records.sort_values(["false_positives", "id"], ascending=[False, True]).head(limit)
    rows: list[list[Any]] = [
        [
            str(r["id"]),
            "tumour" if r["label"] else "normal",
            *(int(r[c]) for c in ("detections", "lesions", "itc", "false_positives")),
        ]
        for r in worst.to_dict("records")
    ]
    return [
        Table(
            ["Slide", "Label", "Detections", "Lesions", "ITC", "False positives"],
            rows,
            f"The {len(rows)} slides with most false positives; all are in records.parquet, every detection with what "
            "it counted as is in detections.parquet.",
        )
    ]


def screen(scored: Scored, estimates: dict[str, Estimate]) -> list[str]:
    """The result as text."""
    lines = [f"{denominators(scored)}; {len(scored.false_score):,} false positives"]
    lines += [f"{name:<22}{estimate}" for name, estimate in estimates.items() if name != "froc"]
    return [*lines, f"{HEADLINE}  {estimates['froc']}"]
