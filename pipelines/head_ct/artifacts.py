"""What a run records of itself once the network is trained, for the report: the labeller against the truth, the seconds
from files to alarm, and the most confident errors with their key slices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from pipelines.head_ct.archive import names_of, read_index
from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.data import grid_of, labelled_reports, phantom_folder, prepare_settings
from pipelines.head_ct.labeller import STATUSES
from pipelines.head_ct.metrics import headline_task
from pipelines.head_ct.page import concepts_page
from pipelines.head_ct.scoring import Scorer, key_slices, score_study
from pipelines.head_ct.series import Kernels, choose, read_file
from pipelines.head_ct.stacks import Stack
from pipelines.shared.data.tables import read_csv
from pipelines.shared.errors import BadFile
from pipelines.shared.run import Run
from pipelines.shared.run_folder import RunFolder, write_csv, write_png
from pipelines.shared.study import Data

TIMED, ERRORS = 24, 4  # studies that are timed; errors of each kind in the gallery
SHOWN = 40  # synthetic reports on the page


def record(run: Run[HeadCtConfig], data: Data, network: nn.Module) -> None:
    """Write labels/, speed.csv and errors/ to the run folder."""
    _labels(run.config, data, run.folder)
    scorer = Scorer([network], run.world.device)
    _speed(run.config, data, scorer, run.folder)
    _errors(run.config, data, scorer, run.folder)


# --- the labeller ---


def _labels(config: HeadCtConfig, data: Data, folder: RunFolder) -> None:
    """Statements of the labeller beside the true ones, where these are known."""
    if config.data.name == "phantom":
        root = phantom_folder(config)
        reports = read_csv(root / "reports.csv", ["accession", "report"])
        truth = pd.read_csv(root / "truth" / "statements.csv")
        id_column, text_column, join = "accession", "report", "accession"
    elif config.data.name == "reports" and config.data.mentions is not None and config.data.reports is not None:
        id_column, text_column, join = config.data.id_column, config.data.text_column, config.data.join
        reports = read_csv(Path(config.data.reports), [id_column, text_column])
        truth = read_csv(Path(config.data.mentions), [id_column, "concept", "status"])
        truth["known"] = 1
    else:
        return
    names, kind = names_of(config), "ac" if join == "accession" else "ct"
    read = pd.DataFrame({"id": reports[id_column].map(lambda v: names.of(kind, v)), "text": reports[text_column]})
    read = read[read["text"].notna()]
    truth["id"] = truth[id_column].map(lambda v: names.of(kind, v))
    mentions = labelled_reports(read.reset_index(drop=True), config)
    mentions = mentions[mentions["id"].isin(truth["id"])]
    statements = compare(mentions, truth)
    folder.write_table(folder.path / "labels" / "statements.parquet", statements)
    folder.write_table(folder.path / "labels" / "mentions.parquet", mentions.drop(columns="text"))
    if data.source.synthetic:
        # Reports of people may name them: their page is made on request only (mode=label).
        concepts_page(folder.path / "labels" / "reports.html", read.iloc[:SHOWN], mentions, True)


def compare(mentions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Statements found and true, one per report, concept and status: id, concept, status, kind (tp, fp, fn), known."""
    keys = ["id", "concept", "status"]
    extracted = mentions[keys].drop_duplicates()
    real = truth[truth["status"].isin(STATUSES)].drop_duplicates(keys)[[*keys, "known"]]
    both = real.merge(extracted, on=keys, how="outer", indicator=True)
    both["kind"] = both["_merge"].map({"both": "tp", "left_only": "fn", "right_only": "fp"}).astype(str)
    both["known"] = both["known"].fillna(1).astype(int)
    return both.drop(columns="_merge")


# --- the seconds ---


def _speed(config: HeadCtConfig, data: Data, scorer: Scorer, folder: RunFolder) -> None:
    """Seconds from files on disk to score and alarm for some test studies: headers, volume, network; warm."""
    test = data.records.iloc[data.positions("test")]
    grid = grid_of(prepare_settings(config))
    names = names_of(config)
    rule = Kernels(config.series.soft_kernels, config.series.sharp_kernels)
    scorer.score(np.zeros((grid.slices, grid.size, grid.size), np.int16))
    rows: list[dict[str, Any]] = []
    for record_ in test.iloc[:: max(1, len(test) // TIMED)].to_dict("records"):
        index = read_index(data.source.root / record_["path"])
        if "stack" not in index:
            continue
        root, files = Path(index["root"]), sorted(set(index["stack"]["files"]))
        began = time.perf_counter()
        read = [read_file(f, root, names) for f in files]
        slices = [
            r | {"file": f} for f, parts in zip(files, read, strict=True) if isinstance(parts, list) for r in parts
        ]
        stack = choose(slices, [], rule, config.series.thickness)[0][0].stack
        headers = time.perf_counter() - began
        assert stack is not None
        try:
            _, _, timing = score_study(stack, root, grid, scorer)
        except BadFile:
            continue
        rows.append(
            {
                "id": record_["id"], "slices": len(stack.files), "pixels": stack.shape[0] * stack.shape[1],
                "compressed": stack.compressed, "headers_s": headers, "volume_s": timing["volume_s"],
                "network_s": timing["network_s"], "seconds": headers + timing["volume_s"] + timing["network_s"],
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    write_csv(folder.path / "speed.csv", table)


# --- the errors ---


def _errors(config: HeadCtConfig, data: Data, scorer: Scorer, folder: RunFolder) -> None:
    """errors/: the most confident errors on test, three key slices each."""
    test = folder.read_table(folder.predictions("test"))
    task = headline_task(test)
    rows, score = task.known(test), task.score
    middle = float(rows[score].median()) if len(rows) else 0.5
    missed = rows[(rows[task.target] == 1) & (rows[score] < middle)].nsmallest(ERRORS, score).assign(kind="missed")
    alarms = rows[(rows[task.target] == 0) & (rows[score] >= middle)].nlargest(ERRORS, score).assign(kind="false_alarm")
    out = folder.path / "errors"
    grid = grid_of(prepare_settings(config))
    place = {name: i for i, name in enumerate(data.records["id"])}
    errors: list[dict[str, Any]] = []
    for row in pd.concat([missed, alarms]).to_dict("records"):
        record_ = data.records.iloc[place[row["id"]]]
        index = read_index(data.source.root / record_["path"])
        if "stack" not in index:
            continue
        importance = scorer.importance(np.array(data.prepared.array(place[row["id"]])))
        pictures = key_slices(Stack.from_json(index["stack"]), Path(index["root"]), grid, importance)
        if not pictures:
            continue
        file = f"{row['kind']}_{len(errors):02d}.png"
        write_png(out / file, np.concatenate(pictures, axis=1))
        truth = str(record_.get("truth_findings", "") or "")
        errors.append({"kind": row["kind"], "id": row["id"], "score": row[score], "image": file, "truth": truth})
    columns = ["kind", "id", "score", "image", "truth"]
    write_csv(out / "errors.csv", pd.DataFrame(errors, columns=columns))
