"""Working on a finished run, or going on with one: what may be set beside it, and what is the run's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipelines.shared.config import StudyConfig
from pipelines.shared.errors import ConfigError, RunError, nearest
from pipelines.shared.job import config_model, predict_keys
from pipelines.shared.mode import Mode, modes_of
from pipelines.shared.pretrained import is_pretrained, notice_of, pretrained_run
from pipelines.shared.validation import allowed_keys, check

OF_FILES = ("predict", "serve")  # modes that score files, of which `predict_keys` tell what they don't say themselves
# A key in a message: data.mpp, or data=<source>.
KEY = re.compile(r"(?<![\w./-])(?:[a-z_]+(?:\.[a-z_]+)+(?![\w/(-])|[a-z_]+(?==[^=]))")


def free_keys(study: str, mode: Mode) -> list[str]:
    """The keys that may be set in a mode that works on a finished run; a section stands for all its keys."""
    return ["mode", "run", *(mode.beside_run or ()), *(predict_keys(study) if mode.name in OF_FILES else [])]


def is_free(key: str, free: list[str]) -> bool:
    """Whether a dotted key is one of these, or lies in one of their sections."""
    return any(key == f or key.startswith(f + ".") for f in free)


def remedy_in(mode: str, study: str, remedy: str) -> str:
    """A remedy as it holds in a mode: where it names keys that a finished run has fixed, that takes a new run.

    Of `run_dir` nothing is added: another one is a new run by itself.
    """
    works = modes_of(study).get(mode)
    if works is None or works.beside_run is None:
        return remedy
    free, sections = [*free_keys(study, works), "run_dir"], config_model(study).model_fields
    named = dict.fromkeys(KEY.findall(remedy))
    fixed = [key for key in named if key.split(".")[0] in sections and not is_free(key, free)]
    return remedy + (
        f" (mode={mode} keeps the run's own {' and '.join(fixed)}: that needs a new run.)" if fixed else ""
    )


def with_finished_run(study: str, config: StudyConfig, keys: list[str]) -> StudyConfig:
    """Check the mode; where it works on a finished run, take everything but its free keys from that run."""
    modes = modes_of(study)
    if config.mode not in modes:
        raise ConfigError(f"mode={config.mode} is no mode of this study.", nearest(config.mode, list(modes)))
    mode = modes[config.mode]
    if config.recalibrate is not None and config.mode != "evaluate":
        raise ConfigError(
            f"recalibrate={config.recalibrate:g} counts for nothing in mode={config.mode}.",
            "It is for mode=evaluate, where a finished run meets a new site; leave it out here.",
        )
    takes = mode.keys or ()
    for key in keys if takes else []:
        if not is_free(key, ["mode", *takes]):
            raise ConfigError(f"'{key}' counts for nothing in mode={config.mode}.", f"It takes: {', '.join(takes)}.")
    if mode.beside_run is None:
        return config
    if config.run is None:
        raise ConfigError(f"mode={config.mode} needs run=<run folder>.", "Give the folder that a training run left.")
    if config.mode == "predict" and config.input is None:
        raise ConfigError("mode=predict needs input=<file or folder>.", "Give what is to be scored.")
    if config.mode == "evaluate" and not any(k == "data" or k.startswith("data.") for k in keys):
        raise ConfigError(
            "mode=evaluate needs data=<source>: the dataset to judge the run on.",
            "A run's own test set is in its report already.",
        )
    run = pretrained_run(study, config.run) if is_pretrained(config.run) else Path(config.run)
    config = config.model_copy(update={"run": str(run)}) if is_pretrained(config.run) else config
    published = notice_of(run) is not None
    if published and config.mode in ("resume", "report"):
        raise RunError(
            f"run={config.run} was published: it came without what mode={config.mode} needs.",
            "It can be used with mode=predict, mode=serve, mode=evaluate and mode=export.",
        )
    own = predict_keys(study) if config.mode in OF_FILES else []
    # A published run's own data and cache lie on another machine; its export is checked on any, the phantom by default.
    elsewhere = ["cache", *(["data"] if config.mode == "export" else [])] if published else []
    free = list(dict.fromkeys([*free_keys(study, mode), *elsewhere]))
    for key in keys:
        if not is_free(key, free):
            raise ConfigError(
                f"'{key}' cannot be changed here: it belongs to the finished run {config.run}.",
                f"mode={config.mode} takes: {', '.join(free)}.",
            )
    values = read_run_config(run, study)
    if config.mode == "resume" and values["mode"] not in ("train", "resume", "predict"):
        raise RunError(
            f"run={config.run} is the folder of mode={values['mode']}, not of a training run.",
            "Start it again instead.",
        )
    now = config.model_dump()
    if config.mode == "resume":  # what is not given stays as it was, above all the device
        for key in (k for k in keys if k not in ("mode", "run")):
            section, _, name = key.partition(".")
            if section == "track":
                values[section] = now[section]
                continue
            values[section][name or "enabled"] = now[section][name or "enabled"]  # of cache=off not the folder
        here = {} if values["mode"] == "predict" else {"mode": "resume", "run": config.run}
        return _checked(study, config, values | here | {"run_dir": config.run})
    sections = [f for f in free if "." not in f and (f in ("mode", "run") or f in mode.beside_run)]
    for section in sections:
        if section in ("mode", "run", "input", "run_dir", "track", "serve", config.mode) or any(
            k.split(".")[0] == section for k in keys
        ):
            values[section] = now[section]
    for section in elsewhere:
        values[section] = now[section]
    known = allowed_keys(config_model(study), values)  # a run that was made before a key existed lacks it all the same
    for key in free:
        section, _, name = key.partition(".")
        kept = key in own and key not in keys and now[section].get(name) is not None  # a choice that has a default
        if name and key in known and not kept:
            values[section][name] = now[section][name]
    if config.mode == "report":
        values["run_dir"] = config.run
    return _checked(study, config, values)


def _checked(study: str, config: StudyConfig, values: dict[str, Any]) -> StudyConfig:
    try:
        return check(config_model(study), values)
    except ConfigError as mistake:
        raise RunError(
            f"The configuration of {config.run} does not fit this version: {mistake.problem}",
            "Use the version that made the run (its environment.json names it), or copy the whole run folder again.",
        ) from None


def read_run_config(run: Path, study: str) -> dict[str, Any]:
    """The configuration of a run folder.

    Raises:
        RunError: no run folder, or one of another study.
    """
    file = run / "config.yaml"
    if not file.is_file():
        found = "no such folder" if not run.is_dir() else "it holds no config.yaml"
        remedy = "Give a folder that a training run left."
        if (run / "run.log").is_file():
            found += ", so it was cut off before it had begun"
            remedy = f"Start it as before, with run_dir={run}."
        raise RunError(f"run={run} is not a run folder: {found}.", remedy)
    from pipelines.shared.run_folder import AGAIN, read_yaml

    values = read_yaml(file)
    if values.get("study") != study:
        other = values.get("study")
        raise RunError(f"run={run} is a run of '{other}', not of '{study}'.", f"Use python -m pipelines.{other}.")
    missing = [key for key in ("mode", "data", "cache", "trainer", "statistics") if not values.get(key)]
    if missing:
        raise RunError(f"{file} has no {', '.join(missing)}: it is damaged or of another version.", AGAIN)
    return values
