"""What every report with lesions shows of them: the FROC curve, the six sensitivities, sizes, published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipelines.camelyon.froc import NAMES, RATES, Curve, Scored, by_size, froc_curve
from pipelines.shared.figures.style import (
    COLOURS,
    INK,
    LINES,
    WIDTH,
    arms_of,
    legend,
    legend_height,
    number_of,
    save,
    say,
    styled,
)
from pipelines.shared.report import Picture, Section, Table, Text
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.stats.estimate import Estimate

JAMA = "JAMA 2017, 129 test slides"
PUBLISHED: list[dict[str, Any]] = [
    {"what": "FROC, HMS-MIT II (the winner)", "value": 0.807, "low": 0.732, "high": 0.889, "source": JAMA},
    {"what": "FROC, HMS-MGH III", "value": 0.760, "low": None, "high": None, "source": JAMA},
    {"what": "FROC, ExB I", "value": 0.511, "low": None, "high": None, "source": JAMA},
    {
        "what": "Sensitivity of a pathologist without time limit, at 0 false positives",
        "value": 0.724,
        "low": None,
        "high": None,
        "source": JAMA,
    },
]
PATHOLOGIST = 0.724

LEFT, RIGHT = 1 / 16, 32  # false positives per slide on the axis; what lies left of it is drawn at its beginning


@styled
def froc_figure(
    path: Path, curves: Sequence[tuple[str, Curve]], estimates: dict[str, Estimate] | None = None, *, note: str = ""
) -> Path:
    """FROC curves over a logarithmic axis, with the intervals of the first one's six sensitivities.

    Args:
        path: the PNG.
        curves: (label, curve).
        estimates: of `froc_estimates`, for the first curve.
        note: a small line below.
    """
    figure = Figure((WIDTH, 4.4 + legend_height([*(label for label, _ in curves), "pathologist"])))
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    ticks = [LEFT, 1 / 8, *RATES, 16, 32]
    names = ["0", "1/8", "1/4", "1/2", *(f"{t:g}" for t in ticks[4:])]
    axes.set_xticks(ticks, names, minor=False)
    axes.minorticks_off()
    axes.set(xlim=(LEFT, RIGHT), ylim=(-0.02, 1.02), xlabel="False positives per slide", ylabel="Sensitivity (lesions)")
    handles: list[Any] = []
    for i, (label, curve) in enumerate(curves):
        if np.isnan(curve.sensitivity).any():
            say(axes, f"{label}: no lesions", 0.4 + 0.1 * i)
            continue
        # Flat beyond its last point, as it is scored; and straight in false positives, which is bent on this axis.
        x = np.append(curve.false_positives[::-1], max(curve.false_positives[0], RIGHT))
        y = np.append(curve.sensitivity[::-1], curve.sensitivity[0])
        along = np.linspace(0, len(x) - 1, 20 * (len(x) - 1) + 1)
        x, y = (np.interp(along, np.arange(len(v)), v) for v in (np.maximum(x, LEFT), y))
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        handles += axes.plot(x, y, label=label, **look)
    if estimates is not None and handles:
        for rate, name in zip(RATES, NAMES, strict=True):
            value = number_of(estimates[name])
            if value is not None:
                arms = np.array(arms_of(estimates[name]))[:, None]
                axes.errorbar([rate], [value], arms, fmt="o", color=COLOURS[0], markersize=5, elinewidth=1.3, capsize=3)
    look = {"marker": "D", "linestyle": "none", "markersize": 8, "markerfacecolor": "white", "clip_on": False}
    handles += axes.plot(
        [LEFT], [PATHOLOGIST], color=INK, label="a pathologist without time limit (JAMA 2017, other slides)", **look
    )
    legend(figure, handles)
    return save(figure, path, note)


def denominators(scored: Scored) -> str:
    """What the numbers rest on, in words."""
    normal = int((~scored.tumour).sum())
    return (
        f"{len(scored.slides):,} slides ({int(scored.tumour.sum()):,} with metastases, {normal:,} normal), "
        f"{len(scored.lesion_score):,} lesions; {int(scored.itc.sum()):,} components of isolated tumour cells count "
        "for nothing"
    )


def froc_section(
    folder: RunFolder, scored: Scored, estimates: dict[str, Estimate], note: str = "", *, scale: str
) -> Section:
    """Draws figures/froc.png; the section with curve, sensitivities, sizes and how it was counted.

    `scale`: the microns per pixel that sizes and growth rest on, in words.
    """
    curve = froc_curve(scored)
    large = by_size(scored)
    froc_figure(folder.figures / "froc.png", [("this run", curve)], estimates, note=note)
    rows: list[list[Any]] = [[_rate(rate), estimates[name]] for rate, name in zip(RATES, NAMES, strict=True)]
    rows.append(["Score: their mean", estimates["froc"]])
    sizes: list[list[Any]] = [
        [row["size"].capitalize(), int(row["lesions"]), int(row["found"]), _value(row["froc"]), _value(row[NAMES[2]])]
        for row in large.to_dict("records")
    ]
    missed = int((scored.lesion_score == 0).sum())
    text = (
        f"On {denominators(scored)}. {len(scored.false_score):,} false positives "
        f"({int((~scored.tumour[scored.false_slide]).sum()):,} of them on normal slides); {missed:,} lesions were "
        "found at no threshold."
    )
    return Section(
        "Lesions",
        [
            Text(text),
            Picture("figures/froc.png", "FROC curve; bars: 95 % intervals, resampling slides.", "FROC curve."),
            Table(["False positives per slide", "Sensitivity"], rows, "Sensitivity at six rates, and the score."),
            Table(
                ["Size", "Lesions", "Found at any threshold", "Score", "Sensitivity at 1"],
                sizes,
                f"By size: the major axis of the lesion after growth, up to 2 mm and longer, at {scale}. All false "
                "positives count in both rows.",
            ),
            Text(
                f"Counted as by the challenge's evaluator: level 5, {scale}; tumour grown by "
                "37.5 microns, holes filled, 8-connected components. Isolated tumour cells are components shorter than "
                "275 microns. Of several detections on a lesion the highest counts; false positives are averaged over "
                "all slides, also those without any detection. Level-5 pixel (X, Y) is tumour if the level-0 point "
                "(32 X, 32 Y) lies inside a tumour outline and in no outline of another group.",
                "note",
            ),
        ],
    )


def _rate(rate: float) -> str:
    return {0.25: "1/4", 0.5: "1/2"}.get(rate, f"{rate:g}")


def _value(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
