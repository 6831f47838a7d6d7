"""What people are told: why a file could not be used, in lines that can be read."""

from __future__ import annotations

import pickle

import pytest
import torch

from pipelines.shared.errors import LONGEST_LINE, BadFile, DataError, UnusableRecord, reason_of


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BadFile("is truncated"), "is truncated"),
        (DataError("It is odd.", "Mend it."), "It is odd. Mend it."),
        (MemoryError(), "needs more memory than there is"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 TiB"),
         "needs more memory than the device has; trainer.device=cpu uses the computer's own"),
        (PermissionError(13, "Permission denied", "/home/doe/x.dcm"), "cannot be read: Permission denied"),
        (ValueError("odd\n  values"), "cannot be read: ValueError: odd values"),
        (KeyError(), "cannot be read: KeyError"),
    ],
)  # fmt: skip
def test_whatever_a_file_raises_is_a_reason(failure, reason):
    assert reason_of(failure) == reason


def test_a_files_reason_is_one_line_that_can_be_read():
    assert str(BadFile("row 6 is '0.5,\n0.8\r\n', which\t is no number")) == "row 6 is '0.5, 0.8 ', which is no number"
    reason = str(UnusableRecord("none of " + "x" * 100_000 + " is known"))
    assert len(reason) < LONGEST_LINE + 10
    assert reason.startswith("none of x")
    assert reason.endswith("x is known")


def test_of_a_list_of_problems_every_line_is_kept_and_can_be_read():
    lines = [f"row {i}: a label" for i in range(5000)] + ["y" * 50_000]
    problem = DataError("\n".join(lines), "Correct them.").problem
    assert problem.split("\n")[:5000] == lines[:5000]
    assert len(problem.split("\n")[5000]) < LONGEST_LINE + 10
    assert len(DataError("No column 'a'.", f"Allowed: {'b' * 50_000}.").remedy) < LONGEST_LINE + 10


def test_errors_come_back_from_another_process():
    again = pickle.loads(pickle.dumps(UnusableRecord("no fundus", {"fingerprint": "f"})))
    assert (str(again), again.args) == ("no fundus", ("no fundus",))
    assert pickle.loads(pickle.dumps(DataError("a", "b"))).remedy == "b"
