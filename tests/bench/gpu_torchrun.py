"""The trainer in one process that torchrun starts, for the bench of a GPU: DistributedDataParallel by NCCL."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import compose
from gpu_training import OUTPUTS, cross_entropy, random_dataset, section_of, trainer
from measure import REPOSITORY, Row, seconds

from pipelines.shared.launch import Launch
from pipelines.shared.learning import distributed
from pipelines.shared.learning.augment import image_augment
from pipelines.shared.learning.backbones import Architecture, ImageNetwork, expected_scale
from pipelines.shared.learning.distributed import World

WEIGHTS_WITHIN = 1e-3  # under torchrun and without it


def torchrun(device: torch.device, tiny: bool) -> Row:
    """The trainer in one process that torchrun started and that talks to itself, over the trainer without all this.

    On a GPU it talks by NCCL, on a CPU by gloo: DistributedDataParallel and what is exchanged at every step are in it.

    Raises:
        AssertionError: the weights differ.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "result.pt")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--standalone", __file__]
        found = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, str(file), str(int(tiny))], cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": found},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        theirs = torch.load(file, weights_only=True)
    alone = _few_steps(World(0, 1, device), tiny)
    differences = [float((alone["weights"][k] - v).abs().max()) for k, v in theirs["weights"].items()]
    furthest = float(np.max(differences))  # NaN if one is
    assert furthest <= WEIGHTS_WITHIN, f"under torchrun a weight differs by {furthest:.3g}"
    return {
        "what": f"torchrun, one process, {theirs['backend']}: training to the same weights",
        "ratio": theirs["speed"] / alone["speed"],
        "ours": f"{theirs['speed']:.0f} records/s, a weight differs by {furthest:.2g} at most",
        "reference": f"without torchrun {alone['speed']:.0f} records/s",
    }


def _few_steps(world: World, tiny: bool) -> dict[str, Any]:
    """Weights after four short epochs of a deterministic trainer; records per second of the last two."""
    backbone, size, batch, steps = ("resnet10t", 32, 4, 2) if tiny else ("tf_efficientnet_lite0", 192, 32, 10)
    targets = np.random.default_rng(1).integers(0, OUTPUTS, steps * batch).astype(np.float32)
    augment = image_augment(compose("skin").augment, inscribed=True)
    section = section_of(world.device, batch, workers=0 if tiny else None, deterministic=True)
    torch.manual_seed(0)
    network = ImageNetwork(Architecture(backbone, OUTPUTS, 0.0, *expected_scale(backbone)))
    dataset = random_dataset((size, size, 3), np.uint8, targets, augment)
    epochs, count = trainer(lambda: network, cross_entropy, dataset, section, world.device, world)
    epochs()
    speed = count * batch / seconds(epochs)
    distributed.copy_from_main(network, world)
    return {"weights": {k: v.cpu() for k, v in network.state_dict().items()}, "speed": speed}


def _under_torchrun(file: Path, tiny: bool) -> None:
    """What the process does that `torchrun` starts."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    distributed._join(Launch(0, 1, 0, 1), device)
    result = _few_steps(World(0, 1, device, joined=True), tiny)
    torch.save(result | {"backend": torch.distributed.get_backend()}, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _under_torchrun(Path(sys.argv[1]), sys.argv[2] == "1")
