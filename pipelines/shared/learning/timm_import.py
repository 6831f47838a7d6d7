"""timm, without torch's compiler until somebody compiles.

timm and torchvision ask the compiler (`torch._dynamo`) for two small things when they are imported, a decorator and a
question, and importing it for them takes two seconds, more than both of them. Here it has a stand-in meanwhile: the
decorator and the question wait until they are used. Any other name brings the compiler in at once, as if the stand-in
had never been there; it is out of `sys.modules` when the import is done.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


def is_compile_supported(device: str) -> bool:
    """What the compiler's function of this name answers."""
    answer: bool = importlib.import_module(UTILS).is_compile_supported(device)
    return answer


def disable(function: Callable[..., Any], recursive: bool = True, *, reason: str | None = None) -> Callable[..., Any]:
    """What the compiler's decorator of this name makes of a function, made when it is called."""

    @functools.wraps(function)
    def later(*arguments: Any, **named: Any) -> Any:
        return importlib.import_module(COMPILER).disable(function, recursive, reason=reason)(*arguments, **named)

    return later


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of every module
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(importlib.import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name in (COMPILER, UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


@contextmanager
def compiler_when_used() -> Iterator[None]:
    """Within the block, importing torch's compiler costs nothing, unless more of it is asked for than is known here."""
    if COMPILER in sys.modules:
        yield
        return
    whole, utils = _StandIn(COMPILER), _StandIn(UTILS)
    spec = importlib.util.find_spec(COMPILER)
    vars(whole).update(__path__=spec.submodule_search_locations if spec else [], disable=disable)
    vars(utils).update(is_compile_supported=is_compile_supported)
    sys.modules.update({COMPILER: whole, UTILS: utils})
    try:
        yield
    finally:
        _remove_stand_ins()


with compiler_when_used():
    import timm

__all__ = ["timm"]
