"""What `mode=export` is checked on: patches of the test slides, as the patch networks take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.camelyon.patches import PatchReader
from pipelines.shared.cache import Prepared
from pipelines.shared.run_folder import read_table

if TYPE_CHECKING:
    from pipelines.shared.dataset import PreparedDataset
    from pipelines.shared.run_folder import RunFolder
    from pipelines.shared.study import Study

CHECKED = 512  # patches
BEYOND = (
    "A slide's score is a forest's over features of its heatmap, and lesions are found in that heatmap; heatmap, "
    "detections and forest are not exported, mode=predict makes them."
)


def export_data(study: Study, config: Any, finished: RunFolder) -> PreparedDataset:
    """Patches of the test slides, evenly chosen among those that the run has scored."""
    from pipelines.shared.dataset import PreparedDataset
    from pipelines.shared.exporting import run_records

    if config.data.name == "pcam":
        return run_records(study, config, finished)
    patches = read_table(finished.path / "patches" / "patches.parquet").query("split == 'test'")
    chosen = patches.iloc[:: -(-len(patches) // CHECKED)].reset_index(drop=True)
    settings = config.patches
    root = study.sources[config.data.name](config).root
    reader = PatchReader(chosen, root, settings.mpp, settings.size, config.slide_mpp)
    n = len(chosen)
    nothing = pd.DataFrame({"bad": [None] * n, "unusable": [None] * n, "fingerprint": chosen["id"]})
    prepared = Prepared(nothing, np.zeros((n, 0)), np.zeros((n, 0, 0), np.uint8), [None] * n, reader)
    return PreparedDataset(prepared, list(chosen["id"]), np.zeros((n, 1)))
