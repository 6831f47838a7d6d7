"""The command line of every study: Hydra composes, pydantic checks, a mode runs.

The only module that knows Hydra. Nothing heavy is imported before the configuration has been found good, so
`--help` and a mistyped key answer in about a second.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import re
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipelines import __version__
from pipelines.shared.cli.finished import remedy_in, with_finished_run
from pipelines.shared.config import StudyConfig, conf_folder
from pipelines.shared.errors import ConfigError, RunError, UserError, disk_failure, nearest
from pipelines.shared.extras import Extra
from pipelines.shared.job import (
    EXIT_INTERRUPTED,
    EXIT_MISTAKE,
    EXIT_RESUME_ME,
    Job,
    config_model,
    end_with_reader,
    exit_on_mistake,
)
from pipelines.shared.launch import launch, processes, requeued, slurm_job
from pipelines.shared.mode import help_of
from pipelines.shared.validation import allowed_keys, check, source_names

if TYPE_CHECKING:
    from omegaconf import DictConfig

SWEEP = Extra(
    "sweep",
    {
        "hydra_plugins.hydra_joblib_launcher": "hydra-joblib-launcher",
        "hydra_plugins.hydra_submitit_launcher": "hydra-submitit-launcher",
    },
)
# Of the root: sweeps that were begun before have folders without them.
LATER_KEYS = ("recalibrate", "calibration", "conformal", "trial")


def main(study: str) -> None:
    """Run `python -m pipelines.<study>` with the arguments in `sys.argv`; exits with a status."""
    exit_on_mistake(partial(config_model, study))
    if _asks_for_help(sys.argv[1:]):
        end_with_reader()
    sys.exit(_answer(study, sys.argv[1:]))


def _asks_for_help(arguments: list[str]) -> bool:
    return any(a in ("--help", "-h", "--hydra-help", "--info", "-i") for a in arguments)


def _answer(study: str, arguments: list[str]) -> int:
    if "--version" in arguments:  # Hydra would print its own
        print(__version__)
        return 0
    # Hydra would print its own summary and exit 1; albumentations would ask a server for updates.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Threads that wait for each other by spinning make training ten times slower as soon as another program
    # wants a core; spinning briefly costs nothing when none does.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what an Apple GPU lacks is done by the CPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it a GPU's sums differ from run to run
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        _compose_and_run(study, _checked_arguments(study, arguments))
    except UserError as mistake:
        _show(mistake, study, arguments)
        return EXIT_MISTAKE
    except (HydraException, OmegaConfBaseException) as mistake:
        first = (str(mistake).strip() or type(mistake).__name__).splitlines()[0]
        print(f"The configuration cannot be composed: {first}", file=sys.stderr)
        print(f"python -m pipelines.{study} --help lists all keys with their values.", file=sys.stderr)
        return EXIT_MISTAKE
    except Exception as failure:
        refused = disk_failure(failure)
        if refused is None:
            raise
        place = getattr(failure, "filename", None) or "A file"
        _show(UserError(f"{place} cannot be used: {refused[0]}.", refused[1]), study, arguments)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        print("Interrupted. Continue a run that had begun training with mode=resume run=<its folder>.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SystemExit as stop:  # raised on SIGTERM with EXIT_RESUME_ME, and by Hydra after --help
        if stop.code == EXIT_RESUME_ME:
            print("Stopped on request. Continue with mode=resume run=<its folder>.", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _show(mistake: UserError, study: str, arguments: list[str]) -> None:
    mode = next((a.removeprefix("mode=") for a in reversed(arguments) if a.startswith("mode=")), "train")
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    who = "" if rank == "0" else f"process {rank}: "
    print(f"{who}{mistake.problem}\n{remedy_in(mode, study, mistake.remedy)}", file=sys.stderr)


# --- before Hydra: the mistakes that people make most, answered with the nearest name ---


def _checked_arguments(study: str, arguments: list[str]) -> list[str]:
    """The arguments, checked; keys of free-form dictionaries get the ++ with which Hydra lets them be new."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if _asks_for_help(arguments):
        return arguments
    sweep = "-m" in arguments or "--multirun" in arguments
    if sweep and processes() > 1:
        raise ConfigError(
            "-m was given under torchrun or srun: every process would start the whole sweep.",
            "Start the sweep without it (hydra/launcher=joblib or submitit_slurm run its jobs side by side), or one "
            "job at a time under torchrun.",
        )
    arguments = [_quoted_home(a) for a in arguments]
    if sweep:  # Hydra makes the sweep's folder itself, before the configuration is checked
        arguments = [re.sub('^run_dir="~', f'run_dir="{Path.home()}', a) for a in arguments]
    groups = config_groups(study)
    parser = OverridesParser.create()
    chosen = {"data": "phantom"}
    overrides = []
    for text in (a for a in arguments if not a.startswith("-")):
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(f"'{text}' is neither key=value nor an option.", "Write key=value; see --help.")
        try:
            override = parser.parse_override(text)
        except HydraException:
            key, _, value = text.partition("=")
            raise ConfigError(
                f"The value of {key} cannot be read: {value}",
                f"Quote a value that holds = , ( ), spaces or accents: '{key}=\"{value}\"'",
            ) from None
        if override.is_sweep_override() and not sweep:
            key, _, value = text.partition("=")
            raise ConfigError(
                f"{key} has several values: {value}",
                f"Add -m for a sweep, or quote a single value that holds a comma: '{key}=\"{value}\"'",
            )
        overrides.append(override)
        key = override.get_key_element().lstrip("+~")
        if key in groups and isinstance(override.value(), str):
            chosen[key] = str(override.value())
    model = config_model(study)
    if chosen["data"] in groups.get("data", []):
        _check_source(study, model, chosen["data"])
    keys = allowed_keys(model, {group: {"name": choice} for group, choice in chosen.items()})
    free = [k for k in keys if k.endswith(".*")]
    for override in overrides:
        key = override.get_key_element().lstrip("+~").split("@")[0]
        if key == "hydra/launcher" and not {"joblib", "submitit_local", "submitit_slurm"}.isdisjoint(
            _choices(override)
        ):
            SWEEP.require(f"{key}={override.value()}")
        if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
            continue
        if key in groups:
            for choice in _choices(override):
                if choice not in groups[key]:
                    raise ConfigError(f"{key}={choice}: there is no such {key}.", nearest(choice, groups[key]))
        elif any(key == k[:-2] or key.startswith(k[:-1]) for k in free):
            text = str(override.input_line)
            arguments = [f"++{a.lstrip('+')}" if a == text else a for a in arguments]
        elif key not in keys:
            raise ConfigError(f"Unknown key '{key}'.", nearest(key, [k for k in keys if k not in free]))
    return arguments


def _check_source(study: str, model: type[StudyConfig], choice: str) -> None:
    """Refuse `data=<choice>` whose file has a name that no section of the study's model has: its keys are unknown."""
    file, names = conf_folder() / study / "data" / f"{choice}.yaml", source_names(model)
    name = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("name") if file.exists() else None
    if name is not None and names and name not in names:
        raise ConfigError(
            f"data={choice}: {file.name} has name: {name}, which no source in pipelines/{study}/config.py has.",
            f"Both must be the same; there: {', '.join(names)}.",
        )


def _quoted_home(argument: str) -> str:
    """`data.root=~/photos` as Hydra's grammar takes it, in quotes. (bash expands `~` only where a key has no dot.)"""
    key, equals, value = argument.partition("=")
    return key + equals + re.sub(r'(?:^|(?<=[\[,]))~[^,\[\]"]*', r'"\g<0>"', value)


def config_groups(study: str) -> dict[str, list[str]]:
    """Hydra's config groups of a study and their options, from the folders under conf/."""
    groups: dict[str, list[str]] = {}
    for root in (conf_folder() / study, conf_folder() / "shared"):
        for file in sorted(root.glob("*/*.yaml")):
            options = groups.setdefault(file.parent.name, [])
            if file.stem not in options:
                options.append(file.stem)
    return groups


def _choices(override: Any) -> list[str]:
    if override.is_sweep_override():
        return [str(choice) for choice in override.sweep_string_iterator()]
    text = override.get_value_string()
    return [] if text in ("null", "") else [text.strip("'\"")]


# --- Hydra composes, the job runs ---


def _compose_and_run(study: str, arguments: list[str]) -> None:
    import hydra
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("modes", help_of, replace=True)  # of the template of --help
    search = f'hydra.searchpath=["file://{conf_folder() / "shared"}"]'
    sys.argv = [sys.argv[0], *arguments, search]
    mistakes: list[UserError] = []

    def task(values: DictConfig) -> None:
        try:
            _run_job(study, values)
        except UserError as mistake:
            if _sweep_parent() is None:
                mistakes.append(mistake)  # not raised through Hydra, which would print a line of its own
                return
            # A sweep's jobs may run in other processes or on other machines: there is no other way back. Hydra lets
            # the other jobs finish first.
            _show(mistake, study, arguments)
            raise

    try:
        hydra.main(config_path=str(conf_folder() / study), config_name="config", version_base="1.3")(task)()
    except UserError:
        raise ConfigError("At least one of the sweep's jobs failed.", "The messages of all are above.") from None
    if mistakes:
        raise mistakes[0]


def _sweep_parent() -> Path | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None


def _run_job(study: str, composed: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    values: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    if values["study"] != study:  # a copied configuration, or an override
        raise ConfigError(f"study={values['study']} in the configuration of {study}.", f"It must be study: {study}.")
    overrides = [o for o in HydraConfig.get().overrides.task if not o.lstrip("+").startswith("hydra")]
    keys = [o.lstrip("+~").partition("=")[0] for o in overrides]
    config = with_finished_run(study, check(config_model(study), values), keys)
    _outside_dataset(config)
    parent = _sweep_parent()
    command = shlex.join(["python", "-m", f"pipelines.{study}", *overrides])
    if values["mode"] == "resume" and config.mode == "predict":  # it goes on in the folder that it began
        job: Job | None = Job(config, Path(config.run_dir), command)
    else:
        job = _place(config, parent, HydraConfig.get().job.num if parent else None, "run_dir" in keys, command)
    if job is None:
        return
    if parent is not None:
        job = replace(job, sweep=parent.name)
        # joblib's processes would hand on a way of starting processes that only joblib knows
        multiprocessing.set_start_method(None, force=True)
    from pipelines.shared.cli import modes

    own = importlib.import_module(f"pipelines.{study}.study").STUDY
    if own.name != study:  # a copied study, before it has made anything under a wrong name
        raise ConfigError(f"pipelines/{study}/study.py defines a study '{own.name}'.", f"Its name must be '{study}'.")
    modes.run(own, job)


def _outside_dataset(config: Any) -> None:
    """Refuse to write run or cache into a dataset's folder."""
    if config.data.root is None:
        return
    root = Path(config.data.root).resolve()
    for key, value in (("run_dir", config.run_dir), ("cache.dir", config.cache.dir)):
        if Path(value).resolve().is_relative_to(root):
            raise ConfigError(
                f"{key}={value} lies inside the dataset's folder {root}, where nothing is ever written.",
                f"Give another: {key}=<folder elsewhere>.",
            )


def _place(config: StudyConfig, parent: Path | None, number: int | None, chosen: bool, command: str) -> Job | None:
    """Decide the run folder; None where a sweep's job is complete already."""
    if config.mode in ("resume", "report"):
        return Job(config, Path(str(config.run)), command)
    if config.mode == "verify" or launch().rank > 0:  # the main process decides for all
        return Job(config, Path(config.run_dir), command)
    if parent is not None:
        folder = parent / f"{number}-{_digest(config)}"
        return _go_on(config, folder, command)
    folder = Path(config.run_dir)
    if requeued() and config.mode == "train":
        earlier = _earlier_run(folder if chosen else None, folder.parent, command)
        if earlier is not None:
            return _go_on(config, earlier, command)
    from pipelines.shared.run_folder import RunFolder

    if RunFolder(folder).begun():
        if chosen:
            raise RunError(
                f"run_dir={folder} exists and is not empty.",
                "Choose another folder, or go on with that run: mode=resume run=<folder>.",
            )
        base, count = folder, 2
        while RunFolder(folder).begun():  # two runs in the same second
            folder, count = base.with_name(f"{base.name}-{count}"), count + 1
    return Job(config, folder, command)


def _digest(config: StudyConfig) -> str:
    """Of all that a sweep's job depends on, and so not on how its run may be followed or served.

    Keys that came later are left out at their defaults: folders that earlier versions made are found again.
    """
    values = config.model_dump(exclude={"run_dir", "track", "serve", "listen"})
    given = config.model_dump(exclude_defaults=True)
    values = {key: value for key, value in values.items() if key in given or key not in LATER_KEYS}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _go_on(config: StudyConfig, folder: Path, command: str) -> Job | None:
    """A run that may have been begun, or be complete, by an earlier start of the same job."""
    if (folder / "report.html").exists():
        print(f"Complete already, skipped: {folder}")
        return None
    return Job(config, folder, command)


def _earlier_run(chosen: Path | None, parent: Path, command: str) -> Path | None:
    """The run folder that this SLURM job began before it was requeued, by the same command."""
    for file in [chosen / "environment.json"] if chosen else sorted(parent.glob("*/environment.json")):
        if file.exists():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:  # damaged: of another run, or this one begins anew beside it
                continue
            if found.get("slurm_job") == slurm_job() and found.get("command") == command:
                return file.parent
    return None
