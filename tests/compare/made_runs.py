"""Run folders as the contract describes them, with invented predictions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipelines.shared.stats.auc import auroc
from pipelines.shared.stats.confusion import balanced_accuracy, confusion_matrix

CLASSES = ["a", "b", "c"]


def make_run(
    folder: Path,
    *,
    skill: float = 1.0,
    noise: int = 0,
    seed: int = 0,
    study: str = "retinopathy",
    kind: str = "auroc",
    patients: int = 60,
    first: int = 0,
    keys: dict[str, Any] | None = None,
    classes: list[str] | None = None,
    relabel: int = 0,
    content: str = "",
) -> Path:
    """A finished run whose scores are a common latent state, seen with a skill and a noise of its own.

    `first` shifts the patients, so that runs share some test records; `relabel` changes so many labels.
    """
    people = np.repeat(np.arange(first, first + patients), 2)
    ids = [f"p{p:03d}_{i % 2}" for i, p in enumerate(people)]
    latent = np.array([np.random.default_rng([7, p]).standard_normal() for p in people])
    truth = (latent + np.random.default_rng(5).standard_normal(len(people)) * 0.5 > 0).astype(float)
    truth[:relabel] = 1 - truth[:relabel]
    seen = skill * latent + np.random.default_rng([noise, seed]).standard_normal(len(people))
    groups = [f"p{p:03d}" for p in people]
    test = pd.DataFrame({"id": ids, "group": groups})
    if kind == "auroc":
        test["referable"], test["p_referable"] = truth, 1 / (1 + np.exp(-seen))
        key, value = "test.referable.auroc", auroc(truth, test["p_referable"])
    else:
        label = np.digitize(latent, [-0.5, 0.5])
        test["label"] = np.array(CLASSES, dtype=object)[label]
        scores = np.stack([-((seen - centre) ** 2) for centre in (-1, 0, 1)], axis=1)
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        for i, name in enumerate(CLASSES):
            test[f"p_{name}"] = p[:, i]
        answers = np.array(CLASSES, dtype=object)[p.argmax(axis=1)]
        key = "test.label.balanced_accuracy"
        value = float(balanced_accuracy(confusion_matrix(test["label"], answers, CLASSES)))
    train = pd.DataFrame({"id": ["t0", "t1"], "group": ["t0", "t1"]})
    records = pd.concat([test[["id", "group"]].assign(split="test"), train.assign(split="train")])
    records["fingerprint"] = [hashlib.sha256(f"{i}{content}".encode()).hexdigest() for i in records["id"]]
    estimate = {"value": value, "low": value - 0.05, "high": value + 0.05, "method": "made", "n": len(test),
                "groups": patients, "positives": None, "reason": None}  # fmt: skip
    sizes = (keys or {}).get("data.train_size") or 2
    metrics = {
        "schema": 1, "study": study, "headline": key, "metrics": {key: estimate},
        "source": {"name": "phantom", "synthetic": True, "records": 1, "groups": 1, "fingerprint": "x"},
        "splits": {"train": {"records": sizes, "groups": sizes}, "test": {"records": len(test), "groups": patients}},
        "reference": {"chance": 0.5, "oracle": 0.95}, "operating_points": [], "paper": [], "seconds": {},
    }  # fmt: skip
    config: dict[str, Any] = {"study": study, "seed": seed, "run_dir": str(folder), "trainer": {"device": "cpu"}}
    for dotted, setting in {"data.train_size": None, **(keys or {})}.items():
        section, _, name = dotted.partition(".")
        config.setdefault(section, {})[name] = setting
    (folder / "predictions").mkdir(parents=True)
    (folder / "models" / "network").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "flow.json").write_text(json.dumps({"source": "phantom"}))
    (folder / "models" / "network" / "model.json").write_text(json.dumps({"classes": classes or CLASSES}))
    records.to_parquet(folder / "records.parquet")
    test.sample(frac=1, random_state=noise).to_parquet(folder / "predictions" / "test.parquet")
    return folder
