"""The reporting checklist of a run: `reporting_checklist.md`, where the run answers an item and where it does not.

Items by the numbers of TRIPOD+AI (Collins et al., BMJ 385:e078378, 2024) and CLAIM (Mongan, Moy and Kahn, Radiology:
Artificial Intelligence 2:e200029, 2020); what each asks is said in our own words. What only people can answer
(ethics, funding, setting) is "not reported".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipelines.shared.data.records import PARTS, RECALIBRATION, SPLITS
from pipelines.shared.handover.model_card import JudgedRun, limits
from pipelines.shared.run_folder import read_table, write_text

MISSING = "not reported"
Answer = Callable[[JudgedRun], str | None]


def _data(judged: JudgedRun) -> str:
    flow = judged.evidence.flow
    return f"{judged.card.title} (data={flow['source']}), {'synthetic' if flow['synthetic'] else 'real'}; its data card"


def _quality(judged: JudgedRun) -> str:
    left = [f"{s['label']}: {s['count']:,}" for s in judged.evidence.flow["steps"] if s["kind"] == "left out"]
    networks = judged.evidence.networks
    settings = json.dumps(networks[0]["preprocessing"]) if networks else "unknown"
    return f"preprocessing {settings}; left out: {'; '.join(left) or 'nothing'}"


def _outcome(judged: JudgedRun) -> str | None:
    return "; ".join(f"{k}: {v}" for k, v in judged.card.targets.items()) or None


def _readers(judged: JudgedRun) -> str | None:
    readers = judged.evidence.readers
    if readers is None:
        return None
    return (
        f"{readers['reader'].nunique()} readers, {len(readers):,} readings (readers.parquet); who they are is not known"
    )


def _size(judged: JudgedRun) -> str | None:
    size = getattr(judged.evidence.config.data, "train_size", None)
    return None if size is None else f"training limited to {size:,} groups (data.train_size); no justification"


def _missing(judged: JudgedRun) -> str:
    test = judged.evidence.records[judged.evidence.records["split"] == "test"]
    main = judged.main
    unknown = sum(int(test[c].isna().sum()) for c in judged.study.labels if c in test)
    return (
        f"unknown labels are left out of loss and metrics: {unknown:,} in test over {', '.join(judged.study.labels)}; "
        f"the headline rests on {main.n or 0:,} rows"
    )


def _partition(judged: JudgedRun) -> str:
    split, records = judged.evidence.config.split, judged.evidence.records
    if "fold" in records:
        return f"cross-validation in {records['fold'].nunique()} folds by group"
    used = [s for s in PARTS if s in SPLITS or (records["split"] == s).any()]
    parts = ", ".join(f"{s} {judged.counts(s)}" for s in used)
    return f"by {split.by}: {parts}"


def _level(judged: JudgedRun) -> str:
    by = judged.evidence.config.split.by
    unit = judged.evidence.flow["group_key"] if by == "group" else "record: one group may be on several sides"
    return f"{unit}; {' '.join(judged.evidence.flow['gate'])}"


def _model(judged: JudgedRun) -> str | None:
    networks = judged.evidence.networks
    return f"{len(networks)} in models/: model.json says how to build each" if networks else None


def _training(judged: JudgedRun) -> str:
    config, t = judged.evidence.config, judged.evidence.config.trainer
    if config.model.head_only:
        return f"{config.learning}; all keys in config.yaml"
    return (
        f"{t.epochs} epochs at most, batches of {t.batch_size}, {t.optimizer} at {t.learning_rate:g}, schedule "
        f"{t.schedule}, weight decay {t.weight_decay:g}; all keys in config.yaml"
    )


def _selection(judged: JudgedRun) -> str | None:
    if judged.evidence.history is None:
        return None
    config = judged.evidence.config
    return f"the {config.kept} with the best {config.trainer.monitor} on val; history.csv has all"


def _start(judged: JudgedRun) -> str:
    return f"model.weights={judged.evidence.config.model.weights}, seed {judged.evidence.config.seed}"


def _ensemble(judged: JudgedRun) -> str | None:
    count = len(judged.evidence.networks)
    return f"{count} networks, combined as the study says" if count > 1 else "one network" if count else None


def _thresholds(judged: JudgedRun) -> str | None:
    points = judged.results.operating_points
    if not points:
        return None
    return "; ".join(
        f"{p.get('task', '')} {p['name']} at {p['threshold']:.4f}, chosen on {p['chosen_on']}"
        for p in points if p.get("threshold") is not None
    ) or None  # fmt: skip


def _performance(judged: JudgedRun) -> str:
    groups = sorted({k.split("[")[1].split("=")[0] for k in judged.subgroups if "[" in k})
    return f"{judged.results.headline} {judged.main}; by subgroup: {', '.join(groups) or 'none'}; metrics.json"


def _uncertainty(judged: JudgedRun) -> str | None:
    return judged.main.method


def _calibration(judged: JudgedRun) -> str:
    names = {k.split(".", 2)[2].split("[")[0].split("@")[0] for k in judged.results.metrics if k.startswith("test.")}
    return f"{', '.join(sorted(names))}; figures in report.html"


def _updating(judged: JudgedRun) -> str | None:
    said = []
    if any(network.get("calibration") for network in judged.evidence.networks):
        said.append("temperature and correction for the classes' frequencies, chosen on val, in model.json")
    if (judged.evidence.records["split"] == RECALIBRATION).any():
        said.append(
            f"thresholds chosen anew on {judged.counts(RECALIBRATION)}, judged on the others; recalibration.json"
        )
    return "; ".join(said) or None


def _flow(judged: JudgedRun) -> str:
    steps = [f"{s['label']} {s['count']:,}" for s in judged.evidence.flow["steps"]]
    return f"{'; '.join(steps)}; flow diagram in report.html"


def _who(judged: JudgedRun) -> str | None:
    known = {"age", "sex", "ethnicity", "skin_type", "camera", "site", "scanner", "view"}
    columns = [c for c in judged.evidence.records if str(c) in known]
    return f"{', '.join(map(str, columns))} are in records.parquet, by part" if columns else None


def _events(judged: JudgedRun) -> str:
    main = judged.main
    positives = "" if main.positives is None else f", {main.positives:,} positive"
    return f"headline: {main.n or 0:,} rows of {main.groups or 0:,} groups{positives}; each metric has its own counts"


def _gallery(judged: JudgedRun) -> int:
    """Pictures of the error gallery."""
    file = judged.evidence.folder.path / "saliency" / "gallery.csv"
    return len(read_table(file)) if file.exists() else 0


def _explained(judged: JudgedRun) -> str | None:
    shown = _gallery(judged)
    return f"saliency maps of {shown} errors in saliency/ and report.html" if shown else None


def _errors(judged: JudgedRun) -> str | None:
    shown = _gallery(judged)
    return f"the {shown} most confident errors, in report.html" if shown else None


def _external(judged: JudgedRun) -> str | None:
    return f"this run: {judged.evidence.flow['source']}" if judged.external else None


def _limits(judged: JudgedRun) -> str | None:
    found = limits(judged)
    return f"{len(found)} in model_card.md" if found else None


def _use(judged: JudgedRun) -> str | None:
    return judged.evidence.config.intended_use


def _code(judged: JudgedRun) -> str:
    return f"{judged.environment['version']}, commit {judged.environment['commit'] or 'unknown'}"


def _libraries(judged: JudgedRun) -> str:
    return ", ".join(f"{k} {v}" for k, v in judged.environment["packages"].items())


def _access(judged: JudgedRun) -> str:
    return f"{judged.card.access} Licence: {judged.card.licence}"


def _title(judged: JudgedRun) -> str:
    return judged.study.title


def _source_differences(judged: JudgedRun) -> str | None:
    return "see Data and split of both runs' cards" if judged.external else None


def _departures(judged: JudgedRun) -> str | None:
    count = len(judged.results.departures)
    return f"{count} departures from the paper's protocol are listed in report.html" if count else None


TRIPOD_AI: list[tuple[str, str, Answer | None]] = [
    ("1", "title: developing or judging a prediction model, for whom, of what", _title),
    ("2", "structured abstract", None),
    ("3a", "the medical context and why a model is wanted", None),
    ("3b", "for whom, where in care, used by whom", _use),
    ("3c", "known inequalities between groups of people", None),
    ("4", "objectives", None),
    ("5a", "where the data come from, why they are representative", _data),
    ("5b", "dates of the data", None),
    ("6a", "setting, centres", None),
    ("6b", "who was eligible", None),
    ("6c", "treatments received", None),
    ("7", "how data were prepared and checked", _quality),
    ("8a", "the outcome, how and when it was assessed", _outcome),
    ("8b", "who assessed a subjective outcome", _readers),
    ("8c", "blinding of that assessment", None),
    ("9a", "choice of predictors", None),
    ("9b", "what the predictors are and how they were measured", _quality),
    ("9c", "who assessed subjective predictors", None),
    ("10", "how the sample size was arrived at", _size),
    ("11", "missing data", _missing),
    ("12a", "which data for development, which for evaluation", _partition),
    ("12b", "how predictors entered the model", _quality),
    ("12c", "type of model, how it was built, tuned and validated", _training),
    ("12d", "differences between centres or countries", None),
    ("12e", "measures and plots of performance", _calibration),
    ("12f", "recalibration or other updating", _updating),
    ("12g", "how predictions are calculated from the model", _model),
    ("13", "class imbalance", None),
    ("14", "what was done for fairness", None),
    ("15", "what the model puts out, thresholds and why these", _thresholds),
    ("16", "how development and evaluation data differ", _source_differences),
    ("17", "ethics approval, consent", None),
    ("18a", "funding", None),
    ("18b", "conflicts of interest", None),
    ("18c", "protocol", _departures),
    ("18d", "registration", None),
    ("18e", "access to the data", _access),
    ("18f", "access to the code", _code),
    ("19", "involvement of patients and the public", None),
    ("20a", "flow of participants", _flow),
    ("20b", "who they are", _who),
    ("20c", "evaluation data beside development data", _who),
    ("21", "participants and events in each analysis", _events),
    ("22", "the whole model, so that others can use it", _model),
    ("23a", "performance with intervals, by subgroup too", _performance),
    ("23b", "performance by centre or other cluster", None),
    ("24", "results of updating the model", None),
    ("25", "interpretation, fairness included", None),
    ("26", "limitations", _limits),
    ("27a", "poor or missing input in use", None),
    ("27b", "what users must do and know", None),
    ("27c", "next steps", None),
]
CLAIM: list[tuple[str, str, Answer | None]] = [
    ("1", "title: AI, and of which kind", _title),
    ("2", "structured summary", None),
    ("3", "background, intended use and clinical role", _use),
    ("4", "objectives and hypotheses", None),
    ("5", "prospective or retrospective", None),
    ("6", "goal of the study", None),
    ("7", "sources of data", _data),
    ("8", "eligibility", None),
    ("9", "preprocessing", _quality),
    ("10", "selection of parts of the data", _flow),
    ("11", "definitions of data elements", _outcome),
    ("12", "de-identification", None),
    ("13", "missing data", _missing),
    ("14", "the reference standard, so that it can be repeated", _outcome),
    ("15", "why this reference standard", None),
    ("16", "who annotated, with what qualification", _readers),
    ("17", "annotation tools", None),
    ("18", "variability between and within annotators", None),
    ("19", "intended sample size", _size),
    ("20", "how data were divided", _partition),
    ("21", "the level at which the parts are disjoint", _level),
    ("22", "the model in detail", _model),
    ("23", "software and versions", _libraries),
    ("24", "initial parameters", _start),
    ("25", "training in detail", _training),
    ("26", "how the final model was chosen", _selection),
    ("27", "ensembles", _ensemble),
    ("28", "metrics", _calibration),
    ("29", "uncertainty and significance", _uncertainty),
    ("30", "robustness", None),
    ("31", "explanations", _explained),
    ("32", "testing on external data", _external),
    ("33", "flow of participants", _flow),
    ("34", "who they are, by part", _who),
    ("35", "performance on all parts", _performance),
    ("36", "diagnostic accuracy with precision", _performance),
    ("37", "analysis of failures", _errors),
    ("38", "limitations", _limits),
    ("39", "implications for practice", None),
    ("40", "registration", None),
    ("41", "where the protocol is", _departures),
    ("42", "funding", None),
]


def write_checklist(judged: JudgedRun, folder: Path) -> Path:
    """Write reporting_checklist.md into a run folder."""
    lines = [f"# Reporting checklist: {judged.study.title}", "", f"Run `{judged.evidence.folder.path.name}`."]
    for name, items in (("TRIPOD+AI (2024)", TRIPOD_AI), ("CLAIM (2020)", CLAIM)):
        answers = [(number, asks, answer(judged) if answer else None) for number, asks, answer in items]
        answered = sum(a is not None for _, _, a in answers)
        lines += ["", f"## {name}: the run answers {answered} of {len(items)} items", "", "| item | asks for | here |",
                  "|---|---|---|"]  # fmt: skip
        lines += [f"| {number} | {asks} | {(a or MISSING).replace('|', '/')} |" for number, asks, a in answers]
    file = folder / "reporting_checklist.md"
    write_text(file, "\n".join(lines) + "\n")
    return file
