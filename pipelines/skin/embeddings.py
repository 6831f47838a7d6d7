"""The last hidden layer's activations of every test record, for maps such as t-SNE."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.shared.learning.backbones import ImageNetwork
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.predictor import predict
from pipelines.shared.run import Run
from pipelines.shared.run_folder import write_array
from pipelines.shared.study import Data


class _Features(nn.Module):
    """A network without its head."""

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network.features(pictures)


def write_embeddings(network: ImageNetwork, data: Data, run: Run[Any]) -> None:
    """Write predictions/embeddings.npy: float32 (test records, features), in the order of predictions/test.parquet."""
    test = data.part("test")
    dataset = PreparedDataset(test.prepared, test.records["id"].tolist(), np.zeros(len(test.records)))
    alone = World(0, 1, run.world.device)
    embeddings = predict(
        _Features(network), dataset, alone, run.config.trainer.batch_size, description="Embedding test"
    )
    if run.world.main:
        write_array(run.folder.predictions("test").with_name("embeddings.npy"), embeddings)
