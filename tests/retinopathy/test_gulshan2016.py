"""The paper's recipe composes and trains one step, its weights from a local file."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from conftest import compose, run_on_cpu

from pipelines.retinopathy.study import STUDY
from pipelines.shared.data.assemble import training_data
from pipelines.shared.run_folder import RunFolder


def test_the_recipe_is_the_papers():
    config = compose("retinopathy", "experiment=gulshan2016")
    assert config.model.backbone == "inception_v3"
    assert config.model.weights == "imagenet"
    assert config.model.networks == 10
    assert config.preprocess.size == 299
    assert config.trainer.monitor == "val_auroc"
    assert config.trainer.patience is not None


@pytest.mark.slow
def test_it_trains_one_step(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "inception_v3.safetensors"
    safetensors.torch.save_file(timm.create_model("inception_v3", pretrained=False).state_dict(), weights)
    config = compose(
        "retinopathy", "experiment=gulshan2016", f"model.weights={weights}", "model.networks=2", "trainer.epochs=1",
        "trainer.max_steps=1", "trainer.batch_size=2", "data.phantom.patients=60", "data.phantom.size=96",
        "trainer.device=cpu", f"cache.dir={tmp_path / 'cache'}",
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    data = training_data(STUDY, config)
    keep = data.records.groupby("split").head(4).index.to_numpy()
    data = type(data)(data.source, data.records.loc[keep].reset_index(drop=True), data.prepared.take(keep), data.flow)
    STUDY.method(config).fit(run_on_cpu(STUDY, config, folder), data)
    assert [p.name for p in folder.networks()] == ["network_00", "network_01"]
    facts = [json.loads((p / "model.json").read_text()) for p in folder.networks()]
    assert facts[0]["architecture"]["backbone"] == "inception_v3"
    assert facts[0]["preprocessing"]["size"] == 299
    assert facts[0]["seed"] != facts[1]["seed"]
    history = pd.read_csv(folder.history)
    assert history["network"].tolist() == ["network_00", "network_01"]
    table = pd.read_parquet(folder.predictions("test"))
    assert len(table) == 4
