"""The command line of publishing."""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.shared.cli.finished import read_run_config
from pipelines.shared.errors import ConfigError, RunError
from pipelines.shared.job import config_model, exit_on_mistake
from pipelines.shared.pretrained import PACKAGE, place_of
from pipelines.shared.run_folder import RunFolder, read_yaml
from pipelines.shared.validation import check


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with a status."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    exit_on_mistake(lambda: publish(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.publish",
        description="A finished run as others may use it, with run=pretrained:<name>: networks in half precision, "
        "thresholds, metrics, model card, split and licence; no records but their ids and fingerprints. The answers of "
        "the published networks are checked against the run's own, on its test records.",
    )
    parser.add_argument("run", help="the finished run's folder")
    parser.add_argument("--name", required=True, help="what others call it: letters, digits, - and _")
    parser.add_argument(
        "--licence", help="of the networks, for data of your own; that of a public set is on its data card"
    )
    parser.add_argument("--to", help="another folder than pipelines/<study>/pretrained/<name>")
    return parser


def publish(options: argparse.Namespace) -> Path:
    """Check, publish and say where. Returns the folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", options.name):
        raise ConfigError(f"--name={options.name} is no name.", "Use letters, digits, - and _ only.")
    folder = RunFolder(Path(options.run).expanduser())
    study_name = str(read_yaml(folder.config).get("study")) if folder.config.is_file() else ""
    values = read_run_config(folder.path, study_name)
    if not (PACKAGE / study_name / "study.py").is_file():
        raise RunError(f"{folder.config} is of the study '{study_name}', which this version lacks.", "Use its version.")
    if not folder.report.is_file():
        raise RunError(
            f"{folder.path} has no report: it is not finished.", "Finish it first: mode=resume run=<folder>."
        )
    target = Path(options.to).expanduser() if options.to else place_of(study_name, options.name)
    if target.exists():
        raise ConfigError(f"{target} exists already.", "Remove it, or choose another --name.")

    from pipelines.publish.publishing import publish_run

    study = importlib.import_module(f"pipelines.{study_name}.study").STUDY
    config = check(config_model(study_name), values)
    found = publish_run(study, config, folder, target, options.name, options.licence)
    print(found.sentence())
    print(target)
    return target
