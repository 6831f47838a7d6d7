"""From a source to data that can be learned from or scored: files checked, leaks closed, split, prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.config import StudyConfig
from pipelines.shared.data.cache import WARNINGS_BETWEEN, Prepared, prepare_records
from pipelines.shared.data.cards import load_card
from pipelines.shared.data.duplicates import near_duplicates
from pipelines.shared.data.given_splits import (
    GIVEN_FOLD,
    left_out_by_file,
    read_split_file,
    time_split,
    with_file_split,
    without_time,
)
from pipelines.shared.data.leakage import GateReport, leakage_gate, straddling
from pipelines.shared.data.records import SPLITS, Source
from pipelines.shared.data.splits import common_classes, fold_roles, split_fingerprint
from pipelines.shared.data.splits import folds as make_folds
from pipelines.shared.data.tables import look_alikes
from pipelines.shared.errors import ConfigError, DataError, counted, listed
from pipelines.shared.log import log
from pipelines.shared.study import Data, Study


@dataclass
class Flow:
    """What happens to the records on the way, for the report: how many are kept, how many left out, which and why."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    lists: dict[str, list[str]] = field(default_factory=dict)

    def kept(self, label: str, count: int) -> None:
        """A box of the flow diagram."""
        self.steps.append({"kind": "kept", "label": label, "count": count})

    def left_out(self, label: str, ids: list[str]) -> None:
        """Records that leave the flow after the last box."""
        if ids:
            self.steps.append({"kind": "left out", "label": label, "count": len(ids)})
            self.lists[label] = [str(i) for i in ids]
            log.info(f"left out, {label[:1].lower() + label[1:]}: {len(ids)}")

    def warned(self, records: pd.DataFrame) -> list[str]:
        """Sentences that count the warnings of files by kind, for the top of the report; which files is listed."""
        kinds: dict[str, list[str]] = {}
        warned = records[records["warnings"].notna()]
        for record, warnings in zip(warned["id"], warned["warnings"], strict=True):
            for kind in warnings.split(WARNINGS_BETWEEN):
                kinds.setdefault(kind, []).append(str(record))
        self.lists |= {f"Warning: {kind}": ids for kind, ids in kinds.items()}
        return [f"{counted(len(ids), 'record')} of {len(records):,}: {kind}." for kind, ids in sorted(kinds.items())]


UNREADABLE = "Files that cannot be read"
UNREADABLE_PARTS = "Files that cannot be read, without which their record is used"


def training_data(study: Study[Any], config: StudyConfig, flow: Flow | None = None) -> Data:
    """All steps from the source to a split record table, as `mode=train` needs them and `mode=verify` checks them.

    Args:
        study: the study.
        config: of the run.
        flow: filled as far as the steps come, for whoever wants to know after an error.

    Raises:
        DataError: files that cannot be read (all at once), conflicting labels or leaks where the configuration says
            so, a class with too few groups to be divided.
    """
    given = None if config.split.file is None else read_split_file(config.split.file, config.split.by)
    source, flow = _source(study, config), flow or Flow()
    records, prepared = prepared_records(study, config, source, flow)
    records = records if given is None else with_file_split(records, given, source, config.split.by)
    records = records if config.split.by_time is None else _own_split_set_aside(records, source)
    gated, gate = _gate(study, config, records, prepared, flow, config.split.leakage, config.split.by)
    flow.kept("Records after the leakage gate", len(gated))
    usable = gated
    if given is not None:
        gone = left_out_by_file(gated, given, source.name)
        flow.left_out(f"Without a split in {given.path.name}", list(gated["id"][gone]))
        gated = gated[~gone]
        source.notes.append(given.sentence())
    if config.split.by_time is not None:
        gated = _by_time(gated, config, source, flow)
    divided = _divided(study, config, gated, source).drop(columns=GIVEN_FOLD, errors="ignore")
    if config.split.by == "record":
        gate = replace(gate, straddling=len(straddling(divided)))
    flow.left_out("Training groups beyond data.train_size", list(gated["id"][~gated["id"].isin(divided["id"])]))
    if len(divided) < len(usable):
        flow.kept("Records used", len(divided))
    warnings = _warnings(config, source, gate, divided)
    data = _data(study, config, source, records, prepared, divided, flow, gate, warnings)
    undivided = usable.loc[~usable["id"].isin(divided["id"]), ["id", "group"]]
    given_by = None if given is None else {"name": given.path.name, "sha256": given.sha256}
    return replace(data, undivided=undivided, flow=data.flow | {"split_given": given_by})


def external_data(study: Study[Any], config: StudyConfig, trained: pd.DataFrame, trained_source: str) -> Data:
    """All usable records of a source as `test`, without those that a run was trained or tuned on.

    Args:
        study: the study.
        config: of the evaluation.
        trained: the run's record table.
        trained_source: the name of the source it came from; group names mean the same only within one source.

    Raises:
        DataError: unreadable files, or nothing is left to score.
    """
    source, flow = _source(study, config), Flow()
    records, prepared = prepared_records(study, config, source, flow)
    records = records.assign(split="test")
    gated, gate = _gate(study, config, records, prepared, flow, "report", "group")
    seen = trained[trained["split"].isin(["train", "val"])]
    known = gated["fingerprint"].isin(set(seen["fingerprint"]))
    if source.name == trained_source:  # other pictures of the same patients
        known |= gated["group"].isin(set(seen["group"]) | set(seen["source_group"]))
    flow.left_out("In the run's own train or val", list(gated["id"][known]))
    gated = gated[~known]
    if gated.empty:
        raise DataError(
            f"All {len(known)} records of {source.name} were in the run's own training or validation data.",
            "Evaluate on data that the run has not seen.",
        )
    flow.kept("Records scored", len(gated))
    warnings = _warnings(config, source, gate, gated)
    if known.any():
        warnings.append(f"{int(known.sum())} records were left out because the run was trained or tuned on them.")
    return _data(study, config, source, records, prepared, gated, flow, gate, warnings)


def prepared_records(
    study: Study[Any], config: StudyConfig, source: Source, flow: Flow
) -> tuple[pd.DataFrame, Prepared]:
    """Prepared arrays and the records that have one, in the same order.

    Raises:
        DataError: files that cannot be read, all of them listed (`data.on_bad_file=error`), or none is usable.
    """
    prepared = prepare_all(study, config, source.records, source.root)
    metadata, ids = prepared.metadata, source.records["id"]
    gone = {**source.excluded, "Rows that cannot be understood": source.left_out}
    if any(gone.values()):
        flow.kept(f"Rows of {source.name}", len(ids) + sum(map(len, gone.values())))
        for reason, rows in gone.items():
            flow.left_out(reason, rows)
    flow.kept(f"Records of {source.name}", len(ids))
    bad, unusable = metadata["bad"].notna().to_numpy(), metadata["unusable"].notna().to_numpy()
    lines = [f"{p}: {r}" for p, r in zip(source.records["path"][bad], metadata["bad"][bad], strict=True)]
    parts = list(source.bad_files)
    for found in metadata.get("bad_files", []):
        parts += found if isinstance(found, list) else []
    if (lines or parts) and config.data.on_bad_file == "error":
        number = f"{len(lines)} of {len(metadata)} files" if not parts else counted(len(lines) + len(parts), "file")
        names = f"{source.lookup} says which file is which (it may name people). " if source.lookup else ""
        raise DataError(
            f"{number} of {source.name} in {source.root} cannot be used:\n"
            + listed(lines + parts, len(lines) + len(parts)),
            f"{names}Correct or remove them, or drop and report them with data.on_bad_file=skip.",
        )
    flow.left_out(UNREADABLE, lines)
    if parts:
        flow.lists[UNREADABLE_PARTS] = parts
        log.info(f"{UNREADABLE_PARTS[:1].lower()}{UNREADABLE_PARTS[1:]}: {len(parts)}")
    for reason in sorted(set(metadata["unusable"][unusable])):
        flow.left_out(reason[:1].upper() + reason[1:], list(ids[(metadata["unusable"] == reason).to_numpy()]))
    keep = np.flatnonzero(~bad & ~unusable)
    if len(keep) == 0:
        reasons = sorted({str(r) for r in metadata["bad"].fillna(metadata["unusable"])})
        none = f"None of the {len(metadata)} records of {source.name} can be used."
        raise DataError(none, "; ".join(reasons[:3]) + ".")
    prepared = prepared.take(keep)
    records = source.records.iloc[keep].reset_index(drop=True)
    own = prepared.metadata.drop(columns=["bad", "unusable", "bad_files"], errors="ignore")
    if "warnings" in records:  # of the adapter, such as how a series was chosen
        both = zip(records["warnings"], own["warnings"], strict=True)
        joined = [WARNINGS_BETWEEN.join(w for w in pair if isinstance(w, str) and w) or None for pair in both]
        own["warnings"] = np.array(joined, dtype=object)  # of a list pandas would make NaN of None
    return records.drop(columns=[c for c in own if c in records]).join(own), prepared


def _divided(study: Study[Any], config: StudyConfig, records: pd.DataFrame, source: Source) -> pd.DataFrame:
    """The records with `split`, and with `fold` where one run does all folds: then each is `test`.

    Raises:
        DataError: fewer groups than folds, or as the study has it.
        ConfigError: a split of a file has other folds than the configuration.
    """
    count = config.split.folds
    if count is None and GIVEN_FOLD in records and not study.own_folds and not (records["split"] == "train").any():
        raise ConfigError(
            f"{config.split.file} holds a cross-validation.",
            f"Do the same: split.folds={int(records[GIVEN_FOLD].max()) + 1}, and split.fold=<number> for one of them.",
        )
    if count is None or study.own_folds:
        return study.split(records, config)
    if GIVEN_FOLD in records:
        fold = records[GIVEN_FOLD].astype(int)
        if fold.max() + 1 != count or (fold < 0).any():
            raise ConfigError(
                f"split.folds={count}: {config.split.file} has the folds {', '.join(map(str, sorted(set(fold))))}.",
                "Give the file's own number; every record of it lies in a fold, numbered from 0.",
            )
    elif config.split.file is not None:
        raise ConfigError(
            f"split.folds={count}: {config.split.file} has no column fold.", "Add it, or leave split.folds out."
        )
    else:
        if records["split"].notna().any():
            source.notes.append(f"The own split of {source.name} was set aside: folds divide all records.")
        alike, rare = common_classes(records, study.stratify, count)
        if rare:
            source.notes.append(f"Fewer groups than folds, so not in every fold: {study.stratify} {', '.join(rare)}.")
        fold = make_folds(alike.assign(split=None), count, study.stratify, config.seed)
    tested = range(count) if config.split.fold is None else [config.split.fold]
    # A study may refuse a fold: all are looked at before the first one is trained.
    parts = [study.split(records.assign(split=fold_roles(fold, k)), config) for k in tested]
    if config.split.fold is not None:
        following = (config.split.fold + 1) % count
        source.notes.append(
            f"Fold {config.split.fold} of a cross-validation in {count} (0 to {count - 1}): it is test, fold "
            f"{following} is val, the others are train."
        )
        return parts[0]
    source.notes.append(
        f"Cross-validation in {count} folds by group: every record is tested once, by networks that were trained on "
        f"{counted(count - 2, 'fold')} and tuned (best epoch, thresholds) on one more. Scores of all folds are pooled; "
        "each fold's records are called at that fold's own thresholds. Examples are shown of fold 0. On other data the "
        "networks of all folds are averaged, at the median of their thresholds."
    )
    return records.assign(split="test", fold=fold)


def _own_split_set_aside(records: pd.DataFrame, source: Source) -> pd.DataFrame:
    """The records without the source's own split, where it had one, in favour of `split.by_time`."""
    if records["split"].notna().any():
        source.notes.append(f"The own split of {source.name} was set aside: split.by_time divides all records.")
    return records.assign(split=None)


def _by_time(records: pd.DataFrame, config: StudyConfig, source: Source, flow: Flow) -> pd.DataFrame:
    """The records with the split by time.

    Raises:
        DataError: records without a time, all of them listed (`data.on_bad_row=error`), or too few different times.
    """
    column = str(config.split.by_time)
    missing = without_time(records, column)
    names = list(records["id"][missing])
    if names and config.data.on_bad_row == "error":
        raise DataError(
            f"split.by_time={column}: {counted(len(names), 'record')} of {source.name} without a time:\n"
            + listed(names),
            "Give them one, or leave them out and report them with data.on_bad_row=skip.",
        )
    flow.left_out(f"Without a time in {column}", names)
    records = records[~missing]
    split, notes = time_split(records, column, {name: getattr(config.split, name) for name in SPLITS})
    source.notes.extend(notes)
    return records.assign(split=split)


def check_labels(study: Study[Any], data: Data, splits: Sequence[str] = ("train", "val")) -> None:
    """Refuse a part of the data in which no record has a label: nothing could be learned, chosen or judged there.

    Raises:
        DataError: names the part.
    """
    for split in splits:
        rows = data.records.iloc[data.positions(split)]
        if len(rows) and not study.labelled(rows).any():
            raise DataError(
                f"None of the {counted(len(rows), 'record')} of {data.source.name} in {split} has a label: "
                f"{', '.join(study.labels)}.",
                f"Look at the labels of the source; data_cards/{data.flow['card']}.md says what is read.",
            )


def prepare_all(study: Study[Any], config: StudyConfig, records: pd.DataFrame, root: Path) -> Prepared:
    """The prepared form of all records, as the configuration wants it; bad files are reasons in its metadata."""
    settings = study.prepare_settings(config)
    prepare = partial(study.prepare, settings=settings)
    return prepare_records(records, root, prepare, settings, config.cache, reads=study.reads)


def card_name(source: str, study: str) -> str:
    """Which data card belongs to a source: every study's phantom has a card of its own."""
    return f"{study}_phantom" if source == "phantom" else source


def _source(study: Study[Any], config: StudyConfig) -> Source:
    if config.data.name not in study.sources:
        raise DataError(
            f"data={config.data.name}: the study has no such source, though its configuration does.",
            f"Name it in `sources` of pipelines/{study.name}/study.py; it has {', '.join(study.sources)}.",
        )
    source = study.sources[config.data.name](config)
    load_card(card_name(source.name, study.name))  # the report quotes it: better missed now than after training
    lacking = [c for c in ("id", "group", "split", "path") if c not in source.records]
    if lacking:  # an adapter of one's own
        raise DataError(
            f"data={source.name}: the record table that its adapter makes lacks {', '.join(lacking)}.",
            f"See pipelines/{study.name}/data.py; pipelines/shared/README.md says what a record table holds.",
        )
    groups = source.records["group"].nunique()
    log.info(f"{source.name}: {len(source.records):,} records, {groups:,} groups, in {source.root}")
    alike = look_alikes(source.records["group"])
    if alike:
        source.notes.append(
            f"{counted(len(alike), 'set')} of groups differ only by case or blanks and count as different groups: "
            + "; ".join(" = ".join(map(repr, names)) for names in alike[:10])
            + (" …" if len(alike) > 10 else "")
        )
    return source


def _gate(
    study: Study[Any], config: StudyConfig, records: pd.DataFrame, prepared: Prepared, flow: Flow, leakage: Any, by: Any
) -> tuple[pd.DataFrame, GateReport]:
    near = near_duplicates(prepared.hashes, prepared.thumbnails) if config.data.near_duplicates else None
    gated, gate = leakage_gate(
        records,
        labels=list(study.labels),
        near=near,
        conflicting_labels=config.data.conflicting_labels,
        leakage=leakage,
        by=by,
    )
    for reason, label in (
        ("conflict", "Identical pictures with conflicting labels"),
        ("leak", "On several sides of the source's own split"),
    ):
        flow.left_out(label, [d["id"] for d in gate.dropped if d["reason"] == reason])
    return gated, gate


def _data(
    study: Study[Any],
    config: StudyConfig,
    source: Source,
    records: pd.DataFrame,
    prepared: Prepared,
    chosen: pd.DataFrame,
    flow: Flow,
    gate: GateReport,
    warnings: list[str],
) -> Data:
    """The chosen records with their prepared arrays, and everything the report says about how they were chosen."""
    place = pd.Series(np.arange(len(records)), index=records["id"])
    chosen = chosen.reset_index(drop=True)
    warnings = [*warnings, *flow.warned(chosen)]
    for split in SPLITS:
        part = chosen[chosen["split"] == split]
        if len(part):
            log.info(f"{split}: {len(part):,} records, {part['group'].nunique():,} groups")
    flow_json = {
        "source": source.name,
        "card": card_name(source.name, study.name),
        "synthetic": source.synthetic,
        "group_key": source.group_key,
        "fingerprint": hashlib.sha256("".join(sorted(map(str, chosen["fingerprint"]))).encode()).hexdigest(),
        "split_fingerprint": split_fingerprint(chosen),
        "steps": flow.steps,
        "lists": flow.lists,
        "gate": gate.sentences(),
        "gate_findings": gate.to_dict(),
        "notes": source.notes,
        "warnings": warnings,
    }
    positions = place.loc[chosen["id"]].to_numpy()
    return Data(source, chosen, prepared.without_descriptions().take(positions), flow_json)


def _warnings(config: StudyConfig, source: Source, gate: GateReport, divided: pd.DataFrame) -> list[str]:
    found = []
    if config.split.by == "record":
        found.append("Split by record, not by group: one group may be on both sides, so scores come out too high.")
    if gate.leaks and config.split.leakage == "report":
        found.append(f"The source's own split has {len(gate.leaks)} groups on several sides; they were left there.")
    if gate.alarm:
        found.append("One group is suspiciously large: probably a chain of look-alikes, see the leakage findings.")
    return found + few_groups(source, divided)


def few_groups(source: Source, records: pd.DataFrame) -> list[str]:
    """A warning where the part that is judged has few groups."""
    few = records.loc[records["split"] == "test", "group"].nunique() < 100 and not source.synthetic
    return ["Fewer than 100 groups in test: the intervals say how little this proves."] if few else []
