"""Two small pages for people, each one file without script: a report with its marked concepts, and a worklist."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from pipelines.shared.run_folder import write_atomically

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2228;max-width:64rem;margin:1rem auto;padding:0 1rem}
h1{font-size:1.3rem}h2{font-size:1rem;margin:1.4rem 0 .3rem}.note{color:#59636d}
.warning{background:#fff4d6;border-left:4px solid #b77900;padding:.4rem .8rem}
mark{padding:0 .15em;color:inherit}.present{background:#ffd9c7;font-weight:600;border-bottom:3px double}
.absent{background:#e3e8ec;border-bottom:1px solid}.uncertain{background:#fff0b3;border-bottom:2px dotted}
.historical{background:#dbe9ff;border-bottom:2px dashed}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
mark small{font-size:.7em;font-weight:400;color:#3c464f;padding-left:.3em}
.report{white-space:pre-wrap;border:1px solid #d7dde2;padding:.6rem .8rem;border-radius:.3rem}
.row{display:flex;gap:.8rem;align-items:flex-start;border-top:1px solid #d7dde2;padding:.7rem 0;flex-wrap:wrap}
.row>div{flex:1 1 15rem}.rank{font-size:1.3rem;font-weight:600}
.row img{width:9.5rem;height:9.5rem;background:#000;margin-right:.3rem}
.alarm{display:inline-block;background:#b3261e;color:#fff;padding:0 .5em;border-radius:.25em}
@media print{.row,.report{break-inside:avoid}.alarm{background:none;color:#b3261e;border:1px solid}}
"""


def _page(title: str, body: Markup, synthetic: bool) -> str:
    strip = Markup('<p class="warning">Synthetic data: made by a program, of no patient.</p>') if synthetic else ""
    return str(
        Markup(
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            "<title>{0}</title><style>{1}</style><main><h1>{0}</h1>{2}{3}</main></html>\n"
        ).format(title, Markup(STYLE), strip, body)
    )


def concepts_page(file: Path, reports: pd.DataFrame, mentions: pd.DataFrame, synthetic: bool) -> None:
    """Reports with their concepts marked by status, to check the labeller by.

    Args:
        file: where to write.
        reports: id, text.
        mentions: of `labeller.label_reports`.
        synthetic: whether the reports were made by a program.
    """
    by_report: dict[Any, pd.DataFrame] = dict(iter(mentions.groupby("id")))
    parts = [
        Markup(
            '<p class="note">Marked: <mark class="present">present</mark> <mark class="absent">absent</mark> '
            '<mark class="uncertain">uncertain</mark> <mark class="historical">historical</mark>; the small word '
            "is the concept, with ! if it is critical. Counted are distinct critical concepts that are present.</p>"
        )
    ]
    for name, text in zip(reports["id"], reports["text"], strict=True):
        concepts = by_report.get(name, mentions.iloc[:0]).sort_values("start")
        critical = concepts[concepts["critical"].astype(bool) & (concepts["status"] == "present")]["concept"].nunique()
        parts.append(
            Markup('<h2>{}: {} critical concepts</h2><div class="report">{}</div>').format(
                name, critical, _marked(str(text), concepts)
            )
        )
    write_atomically(
        file,
        lambda aside: aside.write_text(
            _page("Concepts in reports", Markup("").join(parts), synthetic), encoding="utf-8"
        ),
    )


def _marked(text: str, mentions: pd.DataFrame) -> Markup:
    out, end = Markup(""), 0
    for m in mentions.to_dict("records"):
        out += escape(text[end : m["start"]])
        out += Markup('<mark class="{0}">{1}<small>{2}{3}</small><span class="unseen">, {0}</span></mark>').format(
            m["status"], text[m["start"] : m["end"]], m["concept"].replace("_", " "), "!" if m["critical"] else ""
        )
        end = int(m["end"])
    return out + escape(text[end:])


def worklist_page(
    file: Path, rows: Sequence[dict[str, Any]], key_slices: dict[str, list[np.ndarray]], rest: int, synthetic: bool
) -> None:
    """Studies by falling score, each with its key slices (uint8 pictures).

    Args:
        file: where to write.
        rows: of predictions.csv, those with a score, in the order to show.
        key_slices: study -> pictures.
        rest: studies and files that could not be scored.
        synthetic: whether some of the studies were made by a program.
    """
    parts = [
        Markup(
            '<p class="note">Ordered by score, highest first. Key slices are those without which the score would fall '
            "most, brain window. A score is no diagnosis: every study must be read.</p>"
        )
    ]
    if rest:
        parts.append(Markup('<p class="warning">{} more could not be scored: see predictions.csv.</p>').format(rest))
    for rank, row in enumerate(rows, start=1):
        pictures = Markup("").join(
            Markup('<img alt="Key slice {} of {}" src="data:image/png;base64,{}">').format(i + 1, row["study"], _png(p))
            for i, p in enumerate(key_slices.get(row["study"], []))
        )
        score = "no score" if row["p_at_least_4"] is None else f"score {row['p_at_least_4']:.3f}"
        alarm = Markup(' <span class="alarm">alarm</span>') if row["alarm"] else ""
        warning = Markup("<br>{}").format(row["warnings"]) if row["warnings"] else ""
        parts.append(
            Markup(
                '<div class="row"><div><span class="rank">{}.</span> {} {}<br>{}, {:.2f} s<br>'
                '<span class="note">{}{}</span></div><div style="flex:2 1 30rem">{}</div></div>'
            ).format(rank, row["study"], alarm, score, row["seconds"], row["series"], warning, pictures)
        )
    write_atomically(
        file, lambda aside: aside.write_text(_page("Worklist", Markup("").join(parts), synthetic), encoding="utf-8")
    )


def _png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
