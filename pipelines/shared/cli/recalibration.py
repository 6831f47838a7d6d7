"""`mode=evaluate … recalibrate=<share>`: what is frozen is chosen anew on a random part of the site's groups, and both,
the frozen and the recalibrated answer, are judged on the others. No torch: all of it works on prediction tables.

    records.parquet                        `split` is recalibration or test
    predictions/test.parquet               of the others, frozen
    predictions/recalibration.parquet      of the part that was set aside, frozen
    predictions/recalibrated.parquet       of the others, as they are answered after recalibration
    recalibration.json                     share, seed, counts, what was chosen, operating points, tasks without any
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from pipelines.shared.config import StudyConfig
from pipelines.shared.data.assemble import few_groups
from pipelines.shared.data.records import RECALIBRATION
from pipelines.shared.data.splits import common_classes, grouped_split, split_fingerprint
from pipelines.shared.errors import DataError, RunError
from pipelines.shared.judging.prediction_sets import choose_sets, with_set_columns
from pipelines.shared.judging.recalibration import FILE, RECALIBRATED
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun
from pipelines.shared.run_folder import RunFolder, plain, write_json
from pipelines.shared.study import Data, Study

BOTH = "Both parts need records of two classes: give another share, or leave recalibrate out."
FEWEST = 10  # groups on either side: with fewer, thresholds and what they give are chance


def set_aside(study: Study[Any], config: StudyConfig, finished: FinishedRun, data: Data) -> Data:
    """The data with `split` recalibration for a random, seeded share of the groups, stratified where that is possible.

    Raises:
        RunError: the finished run has nothing that could be chosen anew.
        DataError: fewer than `FEWEST` groups would be set aside, or left; either part has records of one class alone.
    """
    share, records = config.recalibrate, data.records
    assert share is not None
    chosen = any(m.get("chosen_on_val") or m.get("calibration") for m in finished.models.values())
    if not (finished.operating_points or finished.prediction_sets or chosen):
        raise RunError(
            f"recalibrate={share:g}: {finished.folder.path.name} has no thresholds or anything else to choose anew.",
            "Leave recalibrate out.",
        )
    groups = records["group"].nunique()
    wanted = round(share * groups)
    if min(wanted, groups - wanted) < FEWEST:
        raise DataError(
            f"recalibrate={share:g} of {groups} groups of {data.source.name}: at least {FEWEST} must be set aside, and "
            "as many must be left to be judged.",
            f"Give another share (at least {FEWEST} of {groups} groups), or leave recalibrate out."
            if groups >= 2 * FEWEST
            else f"Leave recalibrate out: that takes {2 * FEWEST} groups.",
        )
    split = site_split(records, share, study.stratify, config.seed)
    records = records.assign(split=split)
    counts = {name: (len(part), part["group"].nunique()) for name, part in records.groupby("split")}
    for name, part in records.groupby("split"):
        if not any(part[label].nunique() > 1 for label in study.labels if label in part):
            raise DataError(
                f"recalibrate={share:g}: the {counts[str(name)][0]} records of {data.source.name} that are "
                f"{'left to be judged' if name == 'test' else 'set aside'} lack a second class.",
                BOTH,
            )
    n, of = counts[RECALIBRATION]
    log.info(f"recalibration: {n:,} records, {of:,} groups; test: {counts['test'][0]:,}, {counts['test'][1]:,}")
    data.flow["notes"].append(
        f"Recalibration: {n:,} records of {of:,} groups, a random {share:.0%} (seed {config.seed}), were set aside; "
        "thresholds were chosen anew on them. They are in no result: frozen and recalibrated are both judged on the "
        "others."
    )
    warnings = list(dict.fromkeys([*data.flow["warnings"], *few_groups(data.source, records)]))
    changed = {"split_fingerprint": split_fingerprint(records), "warnings": warnings}
    return replace(data, records=records, flow=data.flow | changed)


def site_split(records: pd.DataFrame, share: float, stratify: str, seed: int) -> pd.Series:
    """`recalibration` or `test` for each row: whole groups, alike in the classes that have two groups or more."""
    column = stratify if stratify in records else None
    known = records if column is None else common_classes(records, column, 2)[0]
    divided = grouped_split(known.assign(split=None), {"val": share, "test": 1 - share}, column, seed)
    return divided.replace({"val": RECALIBRATION})


def recalibrate(
    study: Study[Any], config: StudyConfig, folder: RunFolder, finished: FinishedRun, data: Data, table: pd.DataFrame
) -> pd.DataFrame:
    """Choose anew on the part that was set aside, and write what came of it.

    Args:
        study, config, folder, data: of the evaluation.
        finished: the run whose `table` of predictions of all of `data` this is.

    Returns:
        The table of the other records, frozen.

    Raises:
        DataError: of each of the frozen thresholds' tasks either part lacks a class.
    """
    aside = set(data.records.loc[data.records["split"] == RECALIBRATION, "id"])
    own = table["id"].isin(aside)
    part, rest = (table[rows].reset_index(drop=True) for rows in (own, ~own))
    made = study.recalibrate(part, rest, config, finished.models)
    # A threshold is of use where the others can judge it: what they could choose themselves says for which tasks.
    judged = {point["task"] for point in study.recalibrate(rest, rest, config, finished.models).operating_points}
    points = [{**point, "chosen_on": RECALIBRATION} for point in made.operating_points if point["task"] in judged]
    tasks = dict.fromkeys(point["task"] for point in finished.operating_points)
    lacking = [task for task in tasks if task not in {point["task"] for point in points}]
    if tasks and not points:
        raise DataError(
            f"recalibrate={config.recalibrate:g}: of {', '.join(tasks)} the records set aside, or the others, lack a "
            "class.",
            BOTH,
        )
    sets = _sets(study, config, finished, part)
    folder.write_table(folder.predictions(RECALIBRATION), part)
    folder.write_table(folder.predictions(RECALIBRATED), with_set_columns(made.predictions, sets))
    content = {
        "share": config.recalibrate,
        "seed": config.seed,
        "records": len(aside),
        "groups": int(data.records.loc[data.records["split"] == RECALIBRATION, "group"].nunique()),
        "chosen": made.chosen,
        "operating_points": points,
        "not_chosen": lacking,
        **({"prediction_sets": sets} if sets else {}),
    }
    write_json(folder.path / FILE, plain(content))
    return rest


def _sets(study: Study[Any], config: StudyConfig, finished: FinishedRun, part: pd.DataFrame) -> list[dict[str, Any]]:
    """Sets for the site of what the run itself has some, at its own level, chosen on the part as it is answered now."""
    if not finished.prediction_sets:
        return []
    frozen = {entry["task"] for entry in finished.prediction_sets}
    tasks = [t for t in study.set_tasks(next(iter(finished.models.values())), config) if t.name in frozen]
    own = study.recalibrate(part, part, config, finished.models).predictions
    sets = choose_sets(tasks, own, finished.prediction_sets[0]["level"])
    return [{**s, "chosen_on": RECALIBRATION} for s in sets]
