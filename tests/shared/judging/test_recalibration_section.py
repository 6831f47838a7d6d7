"""The report's section on a recalibration: what was chosen anew, and of what nothing could be, with the reason."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from pipelines.shared.cli.recalibration import _sets
from pipelines.shared.handover.checklist import _calibration
from pipelines.shared.judging.prediction_sets import choose_sets
from pipelines.shared.judging.recalibration import FILE, RECALIBRATED, beside, recalibrated_results
from pipelines.shared.judging.report import Table, Text
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.run_folder import RunFolder, plain, write_json
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence, Results

SICK, OLD = BinaryTask("sick", "Sick", "sick", "p_sick"), BinaryTask("old", "Old", "old", "p_old")
TASKS = [SICK.set_task, OLD.set_task]


def people(groups, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(groups) % 2.0
    about = {"id": [str(i) for i in range(groups)], "group": np.arange(groups), "sick": truth, "old": truth}
    return pd.DataFrame(about | {name: rng.beta(1 + truth, 2 - truth) for name in ("p_sick", "p_old")})


def study(results):
    return SimpleNamespace(
        set_tasks=lambda model, config: TASKS,
        evaluate=lambda evidence: results,
        recalibrate=lambda part, rest, config, models: SimpleNamespace(predictions=rest),
    )


def shown(folder, frozen, part, metrics=()):
    """The section's texts and the first column of its tables; no operating points anywhere."""
    bare = Results(dict(metrics), "test.x", "", 0.0, None, [], [], [], [])
    anew = _sets(study(bare), None, SimpleNamespace(prediction_sets=frozen, models={"network": {}}), part)
    content = {"share": 0.3, "seed": 0, "records": 1, "groups": 1, "chosen": {}, "operating_points": []}
    write_json(folder.path / FILE, plain(content | {"not_chosen": [], "prediction_sets": anew}))
    test = people(50, seed=9)
    folder.write_table(folder.predictions(RECALIBRATED), test)
    config = SimpleNamespace(statistics=SimpleNamespace(resamples=100, level=0.95), seed=0)
    evidence = Evidence(
        folder, config, test.assign(split="test"), {"test": test}, readers=None, flow={}, history=None, networks=[{}],
        operating_points=[], prediction_sets=frozen,
    )  # fmt: skip
    recalibrated = recalibrated_results(study(bare), evidence)
    results = beside(bare, recalibrated, evidence)
    (section,) = results.sections
    texts = " ".join(block.text for block in section.blocks if isinstance(block, Text))
    return texts, [row[0] for block in section.blocks if isinstance(block, Table) for row in block.rows], results


def test_sets_alone_are_shown_class_by_class_and_only_those_that_the_run_has(tmp_path):
    frozen = choose_sets([SICK.set_task], people(60, seed=1), 0.8)  # a run from before `old` had sets
    texts, rows, results = shown(RunFolder(tmp_path), frozen, people(60, seed=2))
    assert "No prediction sets" not in texts
    assert {"sick.coverage@set_80", "sick.coverage[no]@set_80", "sick.coverage[yes]@set_80"} <= set(rows)
    assert "recalibrated.sick.coverage[yes]@set_80" in results.metrics
    assert not any("old" in str(row) for row in rows)


def test_tasks_without_sets_are_named_with_the_reason(tmp_path):
    frozen = choose_sets(TASKS, people(60, seed=1), 0.9)
    texts, rows, _ = shown(RunFolder(tmp_path), frozen, people(12).assign(old=np.nan))
    assert rows == []
    assert "**sick.** No prediction sets. A threshold at 90 % takes 9 groups" in texts
    assert "in recalibration, which has of no 6, yes 6. More groups or a larger share help." in texts
    assert "**old.** No prediction sets: no record that was set aside has a class to choose on." in texts


def test_subgroups_are_not_listed(tmp_path):
    metrics = {"test.sick.sensitivity@high[sex=F]": Estimate(0.5, n=9, groups=9)}
    _, rows, results = shown(RunFolder(tmp_path), choose_sets(TASKS, people(60), 0.8), people(60), metrics)
    assert rows
    assert "recalibrated.sick.sensitivity@high[sex=F]" in results.metrics
    assert not any("=" in str(row) for row in rows)


def test_the_checklist_names_metrics_at_a_level_with_a_point():
    metrics = dict.fromkeys(("test.class.coverage@set_97.5", "test.class.auroc[age=0.5]"))
    judged = SimpleNamespace(results=SimpleNamespace(metrics=metrics))
    assert _calibration(judged).startswith("auroc, coverage;")
