"""What bash offers at the tab key: studies and tools, then a study's keys and choices. No torch, no Hydra, whose own
completion knows no modules.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

from pipelines.shared.cli.app import config_groups
from pipelines.shared.job import config_model
from pipelines.shared.mode import modes_of
from pipelines.shared.validation import allowed_keys

# bash takes what follows a "=" for a word of its own. Without anything to offer it completes file names. Of python with
# anything else the completion that was there before answers; bash-completion has to be told to load its own.
SCRIPT = """_pipelines() {
    local line="${COMP_LINE:0:COMP_POINT}"
    if [[ ${1##*/} == python* && $line != *"-m pipelines"* ]]; then
        [[ -z $_pipelines_before ]] || "$_pipelines_before" "$@"
        return
    fi
    local word="${line##* }" IFS=$'\\n'
    COMPREPLY=($(PYTHON -m pipelines --complete "$line" 2> /dev/null))
    if [[ ${COMPREPLY[0]} == *[.=] ]]; then compopt -o nospace; fi  # a key goes on
    if [[ $word == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}"); fi
}
if declare -F _completion_loader > /dev/null; then _completion_loader python; fi
if [[ $(complete -p python 2> /dev/null) =~ -F\\ ([^ ]+) && ${BASH_REMATCH[1]} != _pipelines ]]; then
    _pipelines_before="${BASH_REMATCH[1]}"
fi
complete -o bashdefault -o default -F _pipelines imaging-pipelines python python3"""
COMMAND = re.compile(r"(?:imaging-pipelines|-m +pipelines)(?P<joint>[ .])(?P<rest>.*)")


def script() -> str:
    """For `eval "$(python -m pipelines --completion)"` in bash."""
    return SCRIPT.replace("PYTHON", shlex.quote(sys.executable))


def completions(line: str, commands: Sequence[str], studies: Sequence[str]) -> list[str]:
    """What may stand in place of the last word of a line: whole words, sorted; of a longer key its next part.

    Args:
        line: what is typed, up to the cursor.
        commands: studies and tools.
        studies: those of them with keys.
    """
    match = COMMAND.search(line)
    if match is None:
        return []
    name, *words = re.split(" +", match["rest"])
    if not words:
        before = "pipelines." if match["joint"] == "." else ""
        return [before + command for command in sorted(commands) if command.startswith(name)]
    *given, word = words
    if name not in studies:
        return []
    groups = config_groups(name)
    key, equals, value = word.partition("=")
    if equals:
        choices = sorted(groups.get(key, modes_of(name) if key == "mode" else []))
        return [f"{key}={choice}" for choice in choices if choice.startswith(value)]
    if word.startswith("-"):
        return [option for option in ("--help", "--version") if option.startswith(word)]
    chosen = {"data": "phantom"} | dict(text.split("=", 1) for text in given if "=" in text)
    values = {group: {"name": choice} for group, choice in chosen.items() if group in groups}
    keys = [key for key in allowed_keys(config_model(name), values) if not key.endswith(".*")]
    sections = {key.rpartition(".")[0] for key in keys} - set(groups)
    found = set()
    for key in [*groups, *keys]:
        if key.startswith(word) and key not in sections:
            part, dot, _ = key[len(word) :].partition(".")
            found.add(word + part + (dot or "="))
    return sorted(found)
