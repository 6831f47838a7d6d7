"""What bash offers at the tab key, and that it asks for it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from conftest import STUDIES

from pipelines.shared.cli.completion import completions, script

COMMANDS = [*STUDIES, "compare"]


def offered(line):
    return completions(line, COMMANDS, STUDIES)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m pipelines.re", ["pipelines.retinopathy"]),
        ("python -m pipelines c", ["camelyon", "compare", "covid_flannel"]),
        ("imaging-pipelines sk", ["skin"]),
        ("imaging-pipelines skin data=ham", ["data=ham10000"]),
        ("python -m pipelines.skin trainer.epochs=3 mode=ex", ["mode=export"]),
        ("python -m pipelines.skin exper", ["experiment="]),
        ("python -m pipelines.skin trainer.ep", ["trainer.epochs="]),
        ("python -m pipelines.skin tra", ["track=", "trainer.", "trainer="]),
        ("python -m pipelines.head_ct mode=la", ["mode=label"]),
        ("python -m pipelines.skin --he", ["--help"]),
        ("python -m pipelines.skin trainer.epochs=", []),
        ("python -m pipelines.compare a", []),
        ("python -m pipelines.skinn tra", []),
        ("python -m pip", []),
    ],
)
def test_what_is_offered(line, expected):
    assert offered(line) == expected


def test_the_chosen_source_has_keys_of_its_own():
    assert "data.targets=" not in offered("imaging-pipelines retinopathy data.")
    of_table = offered("imaging-pipelines retinopathy data=table data.")
    assert {"data.targets=", "data.root=", "data.columns."} <= set(of_table)
    assert "split=" not in offered("imaging-pipelines retinopathy s")  # a section has no value of its own


def test_bash_takes_the_words(tmp_path):
    """Its function alone, with a program in place of Python: what follows a = is a word of its own to bash."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\ncase "$4" in *data=ha) echo data=ham10000;; *tra) echo track=; echo trainer.;; esac\n'
    )
    program.chmod(0o755)
    text = script().replace(script().split("($(")[1].split(" -m")[0], str(program))
    before = (
        "compopt() { printf '<%s %s>' \"$@\"; }; _theirs() { COMPREPLY=(theirs.py); }\n"
        "complete -o filenames -F _theirs python"
    )
    for line, point, expected in (
        ("python -m pipelines.skin data=ha", 32, "<ham10000>"),
        ("python -m pipelines.skin tra seed=1", 28, "<-o nospace><track=><trainer.>"),
        ("python -m pipelines.skin data.root=/x", 37, ""),
        ("python my_pipelines.py tra", 26, "<theirs.py>"),
        ("/usr/bin/python3 other.py tra", 29, "<theirs.py>"),
        ("imaging-pipelines tra", 21, "<-o nospace><track=><trainer.>"),
    ):
        asked = (
            f"COMP_LINE='{line}' COMP_POINT={point}; _pipelines {line.split()[0]}; "
            'printf "<%s>" ${COMPREPLY[@]+"${COMPREPLY[@]}"}'
        )
        # Taken twice, as by a shell that reads its start-up file again.
        done = subprocess.run(
            [bash, "-c", f"{before}\n{text}\n{text}\n{asked}"], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.replace("<>", "") == expected, done.stderr
