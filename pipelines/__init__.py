"""Landmark medical-imaging CNN studies, one command each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.interface import Finished

__version__ = "0.1.0"
__all__ = ["__version__", "run"]


def run(study: str, *overrides: str) -> Finished:
    """Run a study from Python, see `pipelines.interface`."""
    from pipelines import interface  # pandas: the command line's help does not wait for it

    return interface.run(study, *overrides)
