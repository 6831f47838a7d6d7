"""The model card of a run: `model_card.md`, filled from the run's folder and nothing else.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019. A sentence stands here only if another run could have
made it false; what the run does not know is said to be unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.shared.config import StudyConfig
from pipelines.shared.data.cards import Card
from pipelines.shared.data.ranges import KEY, SLACK, shown, training_ranges
from pipelines.shared.data.records import PARTS
from pipelines.shared.errors import counted
from pipelines.shared.run_folder import write_text
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence, Results, Study
from pipelines.shared.untaught import untaught_lines

SHOWN = 24  # metrics


@dataclass(frozen=True)
class JudgedRun:
    """All that a card and a checklist are made from."""

    study: Study[Any]
    evidence: Evidence[StudyConfig]
    results: Results
    environment: dict[str, Any]
    card: Card

    @property
    def main(self) -> Estimate:
        """The headline metric."""
        return self.results.metrics[self.results.headline]

    @property
    def subgroups(self) -> dict[str, Estimate]:
        """Metrics of subgroups of test, `<metric>[<group>=<label>]`."""
        return {k: e for k, e in self.results.metrics.items() if k.startswith("test.") and "=" in k}

    def counts(self, split: str) -> str:
        """'720 records of 360 groups', or that there are none."""
        rows = self.evidence.records[self.evidence.records["split"] == split]
        return f"{len(rows):,} records of {rows['group'].nunique():,} groups" if len(rows) else "none"

    @property
    def external(self) -> bool:
        """Whether the run applied another run's networks to this data."""
        return self.evidence.config.mode == "evaluate"


def write_card(judged: JudgedRun, folder: Path) -> Path:
    """Write model_card.md into a run folder."""
    parts = [_head(judged), _use(judged), _networks(judged), _data(judged), _metrics(judged), _subgroups(judged),
             _confounds(judged), _limits(judged)]  # fmt: skip
    file = folder / "model_card.md"
    write_text(file, "\n\n".join(p for p in parts if p) + "\n")
    return file


def _head(judged: JudgedRun) -> str:
    evidence, environment = judged.evidence, judged.environment
    lines = [f"# Model card: {judged.study.title}", ""]
    if evidence.flow["synthetic"]:
        lines += ["**Made from synthetic data. It must not be used on people.**", ""]
    lines += [
        f"Run `{evidence.folder.path.name}`, {environment['version']}, commit {environment['commit'] or 'unknown'}, "
        f"seed {evidence.config.seed}. Made by `{environment['command']}`.",
    ]
    return "\n".join(lines)


def _use(judged: JudgedRun) -> str:
    stated = judged.evidence.config.intended_use
    text = stated or "Not stated: whoever made this run left the key `intended_use` empty."
    return f"## Intended use\n\n{text}"


def _networks(judged: JudgedRun) -> str:
    lines = ["## Networks", ""]
    for network in judged.evidence.networks:
        architecture = ", ".join(
            f"{k} {v}" for k, v in network["architecture"].items() if v is not None and not isinstance(v, list)
        )
        about = [f"**{network.get('name', 'network')}**: {architecture}"]
        if network.get("best_epoch") is not None:
            about.append(_kept(network))
        if network.get("calibration"):
            chosen = network["calibration"]
            about.append(
                f"its outputs are divided by {chosen['temperature']:.3g} and corrected for the classes' frequencies in "
                f"training with strength {chosen['prior_strength']:g}, both chosen on val"
            )
        if "learners" in network:
            about.append(f"combines {', '.join(network['learners'])}")
        lines.append(f"- {'; '.join(about)}.")
    if judged.evidence.networks:
        first = judged.evidence.networks[0]
        classes = first["classes"]
        shown = ", ".join(classes[:12]) + (f" and {len(classes) - 12} more" if len(classes) > 12 else "")
        lines += [
            "",
            " ".join(
                [f"Answers {counted(len(classes), 'output')}: {shown}.", *untaught_lines(judged.evidence.untaught)]
            ),
            "",
            f"Preprocessing: `{json.dumps(first['preprocessing'])}`.",
            *_ranges(judged),
        ]
    model = judged.evidence.config.model
    lines += ["", f"Configured with backbone {model.backbone}, starting weights {model.weights}."]
    return "\n".join(lines)


def _kept(network: Mapping[str, Any]) -> str:
    """Which epoch, or of a head alone which penalty, and what was monitored there."""
    what = f"penalty {network['penalty']:g}" if "penalty" in network else f"epoch {network['best_epoch']}"
    monitored = ", ".join(f"{k} {v:.4f}" for k, v in network.get("monitor", {}).items() if v is not None)
    return f"{what} was kept ({monitored} on val)"


def _ranges(judged: JudgedRun) -> list[str]:
    """The line on what `mode=predict` and `mode=serve` warn of; none for networks of earlier versions."""
    ranges = training_ranges(judged.evidence.networks)
    if not ranges:
        return []
    about = next(network[KEY] for network in judged.evidence.networks if KEY in network)
    named = "; ".join(f"{name} {shown(low)} to {shown(high)}" for name, (low, high) in ranges.items())
    return [
        "",
        f"Its training records, by {about['measured']:,} of {about['records']:,}: {named}. Predictions of a file that "
        f"lies beyond by more than {SLACK:.0%} carry a warning.",
    ]


def _data(judged: JudgedRun) -> str:
    flow, records, card = judged.evidence.flow, judged.evidence.records, judged.card
    lines = [
        "## Data and split",
        "",
        f"{card.title} (`data={flow['source']}`). Licence: {card.licence.rstrip('.')}. A group is a "
        f"{flow['group_key']}.",
        "",
        "| part | records | groups |",
        "|---|---|---|",
    ]
    for split in PARTS:
        rows = records[records["split"] == split]
        if len(rows):
            lines.append(f"| {split} | {len(rows):,} | {rows['group'].nunique():,} |")
    lines += [
        "",
        f"Fingerprint of the records: `{flow['fingerprint'][:16]}`, of the split: `{flow['split_fingerprint'][:16]}`.",
    ]
    lines += [f"- {sentence}" for sentence in flow["gate"]]
    lines += [f"- Left out: {s['label']}, {s['count']:,} records." for s in flow["steps"] if s["kind"] == "left out"]
    lines += [f"- {note}" for note in flow["notes"]]
    return "\n".join(lines)


def _metrics(judged: JudgedRun) -> str:
    results, main = judged.results, judged.main
    rows = {
        k: e
        for k, e in results.metrics.items()
        if k.startswith("test.") and not set("[@") & set(k) and e.value is not None
    }
    chosen = list(rows)[:SHOWN]
    if results.headline not in chosen:
        chosen.insert(0, results.headline)
    lines = [
        "## Metrics on test",
        "",
        f"**{results.sentence}: {main}**, on {main.n or 0:,} rows"
        + (f" of {main.groups:,} groups" if main.groups else "")
        + f"; {results.chance_note}: {results.chance:.3f}"
        + (f"; oracle {results.oracle}" if results.oracle else "")
        + ".",
        "",
        "| metric | value (interval) | rows | groups |",
        "|---|---|---|---|",
    ]
    for key in chosen:
        e = results.metrics[key]
        lines.append(f"| {key} | {e} | {_count(e.n)} | {_count(e.groups)} |")
    if len(rows) > len(chosen):
        lines += ["", f"{len(rows) - len(chosen)} more are in metrics.json."]
    if results.operating_points:
        lines += [
            "",
            "| operating point | threshold | chosen on | aim | sensitivity | specificity |",
            "|---|---|---|---|---|---|",
        ]
        for p in results.operating_points:
            aim = ", ".join(f"{k} {v:g}" for k, v in (p.get("target") or {}).items()) or "–"
            rates = [_rate(p.get(name)) for name in ("sensitivity", "specificity")]
            threshold = "–" if p.get("threshold") is None else f"{p['threshold']:.4f}"
            lines.append(
                f"| {p.get('task', '')} {p['name']} | {threshold} | {p['chosen_on']} | {aim} | {' | '.join(rates)} |"
            )
    return "\n".join(lines)


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _rate(fields: dict[str, Any] | None) -> str:
    return "–" if not fields else str(Estimate.from_dict(fields))


def _subgroups(judged: JudgedRun) -> str:
    found = {k: e for k, e in judged.subgroups.items() if e.value is not None}
    lines = ["## Subgroups of test", ""]
    if not found:
        return "\n".join([*lines, "No subgroup was scored: the source has no column that the study looks for."])
    undefined = len(judged.subgroups) - len(found)
    lines += ["| subgroup | value (interval) | rows |", "|---|---|---|"]
    lines += [f"| {key.removeprefix('test.')} | {e} | {_count(e.n)} |" for key, e in list(found.items())[:40]]
    if len(found) > 40:
        lines += ["", f"{len(found) - 40} more are in metrics.json."]
    if undefined:
        lines += ["", f"{undefined} subgroups are too small or of one class only: undefined."]
    return "\n".join(lines)


def _confounds(judged: JudgedRun) -> str:
    if not judged.card.confounds:
        return ""
    return "\n".join(["## Known confounds of the data (its card)", "", *[f"- {c}" for c in judged.card.confounds]])


def _limits(judged: JudgedRun) -> str:
    found = limits(judged)
    return "\n".join(["## Limits that this run shows", "", *[f"- {line}" for line in found]]) if found else ""


def limits(judged: JudgedRun) -> list[str]:
    """What the run's own numbers say against it; nothing that every run would have to say."""
    evidence, results, main = judged.evidence, judged.results, judged.main
    found = [*evidence.flow["warnings"], *results.warnings]
    if main.value is None:
        found.append(f"The headline metric is undefined: {main.reason}.")
    elif main.low is None or main.high is None:
        found.append(f"The headline metric has no interval: {main.reason}.")
    else:
        if main.high - main.low > 0.1:
            found.append(f"The headline's interval is wide: {main.high - main.low:.2f}, from {main.groups} groups.")
        if main.low <= results.chance <= main.high:
            found.append(f"The headline's interval includes chance ({results.chance:.3f}: {results.chance_note}).")
        found += _worse(judged, main)
    for key, estimate in results.metrics.items():
        if not key.startswith("test.") or estimate.low is None or estimate.high is None:
            continue
        if key.endswith(".slope"):
            if estimate.high < 1:
                found.append(f"Probabilities of {key.split('.')[1]} are too extreme: calibration slope {estimate}.")
            elif estimate.low > 1:
                task = key.split(".")[1]
                found.append(f"Probabilities of {task} are not extreme enough: calibration slope {estimate}.")
        if key.endswith(".in_the_large"):
            side = "low" if estimate.low > 0 else "high" if estimate.high < 0 else None
            if side:
                task = key.split(".")[1]
                found.append(f"Probabilities of {task} are too {side} on average: calibration in the large {estimate}.")
    for point in results.operating_points:
        for name, aim in (point.get("target") or {}).items():
            rate = point.get(name) or {}
            if rate.get("high") is not None and rate["high"] < aim:
                found.append(
                    f"{point.get('task', '')} {point['name']}: {name} on test misses its aim of {aim:g}: "
                    f"{Estimate.from_dict(rate)}."
                )
    test = evidence.records[evidence.records["split"] == "test"]
    if test["group"].nunique() < 100:
        found.append(f"Test has {test['group'].nunique()} groups.")
    if not judged.external and evidence.config.model.weights == "none":
        found.append("The network started from random weights.")
    if judged.external:
        found.append(f"This folder judges another run's networks on {evidence.flow['source']}.")
    else:
        found.append(
            f"Test is a part of the source that it was trained on ({evidence.flow['source']}); no other was tried."
        )
    return found


def _worse(judged: JudgedRun, main: Estimate) -> list[str]:
    """Subgroups of the headline metric whose interval lies below the overall value."""
    prefix = judged.results.headline + "["
    by_group = {k.removeprefix(prefix).rstrip("]"): e for k, e in judged.subgroups.items() if k.startswith(prefix)}
    below = [
        f"{k} {e}" for k, e in by_group.items() if e.high is not None and main.value is not None and e.high < main.value
    ]
    return [f"Worse than overall ({main.value:.3f}), by the whole interval: {', '.join(below)}."] if below else []
