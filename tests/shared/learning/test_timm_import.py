"""timm is imported without torch's compiler, and works as if it had been imported with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import REPOSITORY


def said(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_the_compiler_comes_when_it_is_used():
    assert said(
        "import sys\n"
        "from pipelines.shared.learning.timm_import import timm\n"
        "print('torch._dynamo' in sys.modules)\n"
        "from torchvision.ops import roi_align\n"
        "from timm.models.naflexvit import NaFlexRopeIterator\n"
        "import torch\n"
        "print(roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0., 0., 2., 2.]])], 1).item())\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "import torch._dynamo.utils\n"
        "print(is_compile_supported('cpu') == torch._dynamo.utils.is_compile_supported('cpu'))\n"
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item())\n"
    ) == ["False", "1.0", "True", "2.0"]


@pytest.mark.slow
def test_a_decorated_function_answers_and_other_names_are_the_compilers_own():
    assert said(
        "import sys\n"
        "from pipelines.shared.learning.timm_import import compiler_when_used, disable\n"
        "later = disable(lambda x: x + 1)\n"
        "with compiler_when_used():\n"
        "    from torch._dynamo.utils import counters\n"
        "import torch._dynamo\n"
        "print(counters is torch._dynamo.utils.counters, sys.modules['torch._dynamo'] is torch._dynamo)\n"
        "print(hasattr(torch._dynamo, 'optimize'), later(1))\n"
    ) == ["True", "True", "True", "2"]
