"""The table of networks: what each costs on this machine, beside what is published about it."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.networks.published import PUBLISHED, one_protocol_error
from pipelines.shared.errors import ConfigError, nearest
from pipelines.shared.job import exit_on_mistake
from pipelines.shared.run_folder import write_csv


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with a status."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as for the studies: before torch is imported anywhere
    exit_on_mistake(lambda: table_of_networks(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.networks",
        description="What networks cost on this machine: parameters, multiply-adds, pictures per second and memory of "
        "training and inference, beside what is published about them. Leaves a page, a CSV and a plot.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"any of timm's, or lenet, alexnet, googlenet; default: {_default()}"
    )
    parser.add_argument("--size", type=int, action="append", metavar="PIXELS", help="side of the pictures, again for "
                        "several; default: what the network was designed for")  # fmt: skip
    parser.add_argument("--batch", type=int, default=8, help="pictures at once (default 8)")
    parser.add_argument("--seconds", type=float, default=2.0, help="to spend on each speed (default 2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default cpu)")
    parser.add_argument("--no-training", action="store_true", help="measure inference alone")
    parser.add_argument("--out", help="folder for the results (default outputs/networks/<time>)")
    return parser


def _default() -> str:
    return " ".join(PUBLISHED)


def table_of_networks(options: argparse.Namespace) -> Path:
    """Measure, print and save. Returns the folder."""
    names = options.names or list(PUBLISHED)
    _check(options)
    out = Path(options.out or Path("outputs", "networks", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))).expanduser()
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out={out} exists and is not empty.", "Choose another folder.")
    _check_names(names)
    rows = [_row(measured) for measured in _measured(names, options)]
    table = pd.DataFrame(rows)
    from pipelines.networks.page import print_table, write_page

    write_csv(out / "networks.csv", table)
    print_table(table)
    print(write_page(table, out, options.device))
    return out


def _check(options: argparse.Namespace) -> None:
    for key, value, least in (("--batch", options.batch, 1), ("--seconds", options.seconds, 0)):
        if not math.isfinite(value) or value < least:
            raise ConfigError(f"{key}={value} is too small.", f"Give at least {least}.")
    for size in options.size or []:
        if not 16 <= size <= 4096:
            raise ConfigError(f"--size={size} is out of range.", "Give a side between 16 and 4096 pixels.")
    if options.device.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"--device={options.device} is unknown.", "Allowed: cpu, cuda, cuda:<number>.")
    if options.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(f"--device={options.device}: there is no GPU that torch can use.", "Use --device cpu.")


def _check_names(names: Sequence[str]) -> None:
    from pipelines.shared.learning.backbones import backbone_names, is_backbone

    wrong = [n for n in names if not is_backbone(n)]
    if wrong:
        hints = " ".join(nearest(n, backbone_names()) for n in wrong)
        raise ConfigError(f"No such network: {', '.join(wrong)}.", hints)


def _measured(names: Sequence[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every network at every size, each in a process of its own so that its peak memory is its own."""
    from pipelines.networks.measure import Task, measure
    from pipelines.shared.screen import track

    tasks = [
        Task(
            name, size, options.batch, options.seconds, options.device, not options.no_training,
            PUBLISHED[name].classes if name in PUBLISHED else 1000,
        )
        for name in names
        for size in options.size or [PUBLISHED[name].size if name in PUBLISHED else 224]
    ]  # fmt: skip
    measured = []
    for task in track(tasks, "Measuring networks", len(tasks)):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            measured.append(pool.submit(measure, task).result())
    return measured


def _row(measured: dict[str, Any]) -> dict[str, Any]:
    from pipelines.shared.learning.backbones import weights_from

    name = measured["name"]
    known = PUBLISHED.get(name)
    speed = measured.get("training_per_s")
    return {
        "name": name,
        "label": known.label if known else name,
        "year": known.year if known else None,
        "size": measured["size"],
        "batch": measured["batch"],
        "parameters_m": measured["parameters"] / 1e6,
        "quoted_parameters_m": known.parameters if known else None,
        "weights_mb": measured["parameters"] * 4 / 2**20,
        "quoted_weights_mb": known.megabytes if known else None,
        "multiply_adds_g": measured["multiply_adds"] / 1e9 if "multiply_adds" in measured else None,
        "inference_per_s": measured.get("inference_per_s"),
        "training_per_s": speed,
        "minutes_per_10000": 10_000 / speed / 60 if speed else None,
        "inference_mb": measured.get("inference_mb"),
        "training_mb": measured.get("training_mb"),
        "imagenet_weights": weights_from(name) or "none",
        "published_top5_error": known.top5_error if known else None,
        "published_how": known.how if known else None,
        "top5_error_one_protocol": one_protocol_error(name),
        "problem": measured["problem"],
    }
