"""What the network learns: three thresholds of what reports say, from volumes changed as scanners and heads differ."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd
from torch import nn

from pipelines.head_ct.config import AugmentSection, HeadCtConfig
from pipelines.head_ct.metrics import CLASSES, SILVER, TASKS, predict_columns
from pipelines.head_ct.model import Plan, exportable, network_of
from pipelines.head_ct.volumes import AIR, NO_DATA
from pipelines.shared.learning.backbones import build_image_network
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.losses import Loss, masked_binary_cross_entropy
from pipelines.shared.stats.auc import auroc


class HeadCtLearner(Learner[HeadCtConfig]):
    """At least 4, 8, 10 critical concepts in a study's report? Three sigmoid outputs, unknown labels masked out."""

    classes = CLASSES
    targets_shown = ("concepts", *TASKS)
    link = "sigmoid"
    columns = staticmethod(predict_columns)

    def build(self) -> nn.Module:
        """A 2D backbone per slice, or its 3D inflation, with the weights that the configuration asks for."""
        section = self.config.model
        image = build_image_network(section, outputs=1)
        plan = Plan(
            section.kind, section.backbone, section.level, section.channels, section.drop_rate, section.freeze,
            [list(w) for w in self.config.preprocess.windows], image.architecture.mean, image.architecture.std,
        )  # fmt: skip
        return network_of(plan, image.backbone)

    def architecture(self, network: nn.Module) -> dict[str, Any]:
        """What `rebuild` needs, for model.json."""
        plan = network.plan
        assert isinstance(plan, Plan)
        return asdict(plan)

    @staticmethod
    def rebuild(model: dict[str, Any]) -> nn.Module:
        """The network that a model.json describes, without weights."""
        return network_of(Plan(**model["architecture"]))

    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """float32 (records, 3): the silver labels; where a study has no report its own label stands for the first."""
        values = records[SILVER].to_numpy(np.float32).copy()
        gold = records["critical"].to_numpy(np.float32)
        values[:, 0] = np.where(np.isnan(values[:, 0]), gold, values[:, 0])
        return values

    def augment(self) -> Augment:
        """Random changes of a prepared volume."""
        pixel = self.config.preprocess.field / self.config.preprocess.size
        return partial(changed, section=self.config.augment, pixel=pixel)

    def loss(self) -> Loss:
        """Binary cross-entropy over the thresholds whose label is known."""
        return masked_binary_cross_entropy

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_auroc`: of at least 4 critical concepts (or a source's own label); NaN while val holds one class."""
        known = ~np.isnan(targets[:, 0])
        truth = targets[known, 0]
        if len(np.unique(truth)) < 2:
            return {"val_auroc": float("nan")}
        return {"val_auroc": auroc(truth, outputs[known, 0])}

    def exportable(self, network: nn.Module) -> nn.Module:
        """The same network without what depends on which slices hold data."""
        return exportable(network)


def changed(volume: np.ndarray, seed: int, section: AugmentSection, pixel: float) -> np.ndarray:
    """A volume turned, moved, mirrored, with noise and other numbers, without some slices: a function of the seed.

    Args:
        volume: int16 (slices, height, width), HU.
        seed: of 32 bits.
        section: what is changed and how much.
        pixel: mm.
    """
    rng = np.random.default_rng(seed)
    known = volume != NO_DATA
    hu = np.where(known, volume, AIR).astype(np.float32)
    slices, height, width = volume.shape
    angle = rng.uniform(-section.rotate, section.rotate)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    matrix = matrix + np.outer(rng.uniform(-section.shift, section.shift, 2) / pixel, [0.0, 0.0, 1.0])
    mirror = rng.random() < section.mirror
    lost: np.ndarray = np.asarray(rng.random(slices) < section.lost_slices)
    present = known.any(axis=(1, 2))
    if lost[present].all():
        lost[:] = False
    noise = rng.standard_normal(hu.shape, dtype=np.float32) * section.noise
    out = np.full(volume.shape, NO_DATA, np.int16)
    for k in np.flatnonzero(present & ~lost):
        plane = cv2.warpAffine(hu[k], matrix, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=AIR)
        out[k] = np.clip(np.round(plane + noise[k]), AIR, 3071)
    offset = round(float(rng.uniform(-section.offset, section.offset)))
    out = np.where(out != NO_DATA, out + np.int16(offset), out).astype(np.int16)
    return np.ascontiguousarray(out[:, :, ::-1]) if mirror else out
