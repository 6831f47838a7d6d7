"""`mode=froc`: score anybody's submission against the annotations. Needs neither slides nor a model.

    python -m pipelines.camelyon mode=froc detections=<folder> annotations=<folder> slides=<CSV: slide,label>

It also takes `data.mpp` (microns per level-0 pixel of slides of one's own; default: the challenge's 0.243),
`data.annotation_groups`, `statistics`, `seed` and `run_dir`; what the inputs look like is said in froc_inputs.py.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.camelyon.froc import Scored, froc_estimates, score_detections, unused_lowest
from pipelines.camelyon.froc_inputs import Submission, read_submission
from pipelines.camelyon.froc_report import denominators, froc_section
from pipelines.camelyon.masks import LESION_COLUMNS
from pipelines.camelyon.published import LESIONS
from pipelines.shared.cli.environment import read_environment, stage, start
from pipelines.shared.errors import ConfigError
from pipelines.shared.judging.evaluator import bootstrap_settings
from pipelines.shared.judging.published import published_table
from pipelines.shared.judging.report import Code, Headline, HeadlineFigure, Report, Section, Table, Text, render
from pipelines.shared.log import log
from pipelines.shared.run_folder import RunFolder, plain, write_json
from pipelines.shared.screen import print_path
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

HEADLINE = "test.lesions.froc"
SIZES = (
    "Where a slide's size is not given (columns width and height of the table of slides), it is not needed either: "
    "lesions end where their growth ends, detections beyond the slide are false positives. Only the length of a lesion "
    "at the right or lower border of its slide includes growth beyond that border, up to 37.5 microns."
)


def score_submission(study: Study[Any], job: Job) -> None:
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
    detections, annotations, slides = (Path(str(place)) for place in places.values())
    submission = read_submission(detections, annotations, slides, config.slide_mpp, config.annotation_groups)
    run = start(study, job)
    folder = run.folder
    with stage(run, "froc"):
        scored, estimates = score(submission, folder, bootstrap_settings(config))
    report = write_report(study.name, study.title, folder, submission, scored, estimates, read_environment(folder))
    for line in screen(submission, scored, estimates):
        log.info(line)
    for warning in warnings_of(submission, scored):
        log.warning(warning)
    print_path(report)


def score(submission: Submission, folder: RunFolder, bootstrap: Bootstrap) -> tuple[Scored, dict[str, Estimate]]:
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
    mpp = submission.slides.set_index("slide")["mpp"]
    table = pd.concat(lesions, ignore_index=True)[["slide", *LESION_COLUMNS]]
    folder.write_table(folder.path / "lesions.parquet", table.assign(mpp=table["slide"].map(mpp).astype(float)))
    n = len(names)
    records = pd.DataFrame(
        {
            "id": names,
            "group": names,
            "split": "test",
            "label": submission.slides["label"].to_numpy(),
            "mpp": submission.slides["mpp"].to_numpy(),
            "file": submission.slides["file"].to_numpy(),
            "detections": detections.groupby("slide").size().reindex(names, fill_value=0).to_numpy(),
            "lesions": np.bincount(scored.lesion_slide, minlength=n),
            "itc": scored.itc,
            "false_positives": np.bincount(scored.false_slide, minlength=n),
        }
    )
    folder.write_table(folder.records, records)
    return scored, froc_estimates(scored, bootstrap=bootstrap)


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
        "scale": submission.scale,
        "warnings": warnings_of(submission, scored),
        "splits": {"test": {"records": n, "groups": n}},
        "headline": HEADLINE,
        "metrics": {f"test.lesions.{name}": estimate.to_dict() for name, estimate in estimates.items()},
        "reference": {"chance": 0.0, "oracle": None},
        "operating_points": [],
        "paper": [asdict(number) for number in LESIONS],
        "seconds": environment["seconds"],
    }
    write_json(folder.metrics, plain(content))
    folder.figures.mkdir(exist_ok=True)
    main = estimates["froc"]
    result = f"FROC score: {main}" if main.value is not None else f"The FROC score is undefined: {main.reason}"
    shown = [
        HeadlineFigure("FROC score", main, "mean sensitivity at 1/4 to 8 false positives per slide"),
        HeadlineFigure("Sensitivity at 1", estimates["sensitivity_at_1"], "false positive per slide"),
        HeadlineFigure("Winner of 2016", str(LESIONS[0]), "its 129 test slides"),
    ]
    sections = [
        froc_section(folder, scored, estimates, scale=submission.scale),
        Section("Slides", _slide_blocks(folder)),
        Section("Beside the challenge", [published_table(LESIONS, "On the challenge's test set.")]),
        Section(
            "How the inputs were read",
            [*(Text(note, "note") for note in [*submission.notes, SIZES]), Code(environment["command"])],
        ),
    ]
    sentence = f"{result}, on {denominators(scored)}, at {submission.scale}."
    headline = Headline(sentence, shown, warnings_of(submission, scored))
    return render(
        Report(f"{title}: a submission", study, False, headline, sections, footer=environment["version"]), folder.path
    )


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


def warnings_of(submission: Submission, scored: Scored) -> list[str]:
    """What may spoil the result, or explains it."""
    lowest = unused_lowest(scored)
    return [*submission.warnings, *([lowest] if lowest else [])]


def screen(submission: Submission, scored: Scored, estimates: dict[str, Estimate]) -> list[str]:
    """The result as text."""
    lines = [f"{denominators(scored)}; {len(scored.false_score):,} false positives", f"at {submission.scale}"]
    lines += [f"{name:<22}{estimate}" for name, estimate in estimates.items() if name != "froc"]
    return [*lines, f"{HEADLINE}  {estimates['froc']}"]
