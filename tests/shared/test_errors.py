"""Why one file of many could not be used, in words."""

from __future__ import annotations

import pytest
import torch

from pipelines.shared.errors import BadFile, DataError, reason_of


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
