"""Packages that only some users need, the extras of pyproject.toml, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from pipelines.shared.config import in_checkout
from pipelines.shared.errors import MissingPackage


@dataclass(frozen=True)
class Extra:
    """An extra.

    Attributes:
        name: in pyproject.toml.
        packages: each module that is imported -> what pip calls its package.
        in_env: whether `make env` installs it.
    """

    name: str
    packages: Mapping[str, str]
    in_env: bool = True

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for module, package in self.packages.items() if not _is_there(module)]

    @property
    def remedy(self) -> str:
        """How it is installed."""
        if in_checkout():
            return f"Install the extra: pip install '.[{self.name}]'{' (make env has it)' if self.in_env else ''}."
        return f"Install the extra: pip install 'imaging-pipelines[{self.name}]'."

    def require(self, what: str) -> None:
        """Refuse where a package is missing.

        Args:
            what: needs it, as the message begins.

        Raises:
            MissingPackage: naming those that are missing and the extra.
        """
        if missing := self.missing:
            raise MissingPackage(f"{what} needs packages that are not installed: {', '.join(missing)}.", self.remedy)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it lies in is not there either
        return False
