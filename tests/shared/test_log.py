"""What a run says, and what is left in run.log when it fails."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from pipelines.shared.cli.environment import stage
from pipelines.shared.errors import DataError
from pipelines.shared.learning.distributed import World
from pipelines.shared.log import log, start_log
from pipelines.shared.run import Run
from pipelines.shared.run_folder import RunFolder


def test_messages_reach_screen_and_file_and_failures_the_file_alone(tmp_path, capsys):
    start_log(tmp_path)
    log.info("hello")
    folder = RunFolder(tmp_path)
    folder.environment.write_text(json.dumps({"seconds": {}}))
    run = Run(None, None, folder, World(0, 1, torch.device("cpu")))
    with pytest.raises(DataError), stage(run, "data"):
        raise DataError("seven files are bad", "mend them")
    with stage(run, "train"):
        pass
    start_log(None)
    text = (tmp_path / "run.log").read_text()
    assert "hello" in text
    assert "data: DataError: seven files are bad" in text
    shown = capsys.readouterr().out
    assert "hello" in shown
    assert "seven" not in shown
    assert list(json.loads(folder.environment.read_text())["seconds"]) == ["train"]


def test_the_first_run_says_nothing_of_lists_of_fonts():
    """matplotlib warns when it makes its list of fonts, which every machine does once."""
    assert not logging.getLogger("matplotlib.font_manager").isEnabledFor(logging.WARNING)
