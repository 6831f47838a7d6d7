"""What every study must do, run over all studies that exist."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from html.parser import HTMLParser
from pkgutil import resolve_name
from typing import Any

import cutting
import pandas as pd
import pytest
import yaml
from browser import browser, on_paper, violations
from conftest import (
    NOT_IN_A_PREDICTION,
    REPOSITORY,
    STUDIES,
    compose,
    phantom,
    phantom_root,
    predicted_records,
    run_command,
    run_on_cpu,
    study_of,
)

from pipelines.shared.cli import app
from pipelines.shared.cli.finished import with_finished_run
from pipelines.shared.config import StudyConfig
from pipelines.shared.data.assemble import card_name
from pipelines.shared.data.cards import load_card
from pipelines.shared.data.ranges import KEY as RANGES
from pipelines.shared.errors import UserError
from pipelines.shared.job import config_model, predict_keys
from pipelines.shared.mode import COMMON_MODES, help_of, modes_of
from pipelines.shared.run import open_finished
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.validation import check


def options(study: str, group: str) -> list[str]:
    found = {f.stem for root in (study, "shared") for f in (REPOSITORY / "conf" / root / group).glob("*.yaml")}
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_every_choice_of_configuration_composes(study):
    for source in options(study, "data"):
        config = compose(study, f"data={source}")
        assert config.data.name == source
        assert source in study_of(study).sources
    assert set(options(study, "data")) == set(study_of(study).sources)
    for trainer in options(study, "trainer"):
        compose(study, f"trainer={trainer}")
    for experiment in options(study, "experiment"):
        compose(study, f"experiment={experiment}")
    for cache in ("on", "off"):
        assert compose(study, f"cache={cache}").cache.enabled == (cache == "on")


# Keys that were added after runs had been made; those runs' config.yaml lacks them.
YOUNGER = {
    "data.on_bad_row", "data.images", "data.columns", "data.annotation_groups", "data.sampling_rate",
    "split.file", "split.by_time", "split.folds", "split.fold", "trainer.compile",
    "conformal.level",
}  # fmt: skip


def written_before(config: StudyConfig) -> dict[str, Any]:
    """What a run's config.yaml held before these keys existed."""
    values = config.model_dump()
    for key in YOUNGER:
        if not (key == "data.columns" and config.data.name == "table"):  # which always had it
            section, name = key.split(".")
            values[section].pop(name, None)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_runs_from_before_a_key_existed_can_be_read(study):
    for source in options(study, "data"):
        config = compose(study, f"data={source}")
        assert check(config_model(study), written_before(config)) == config


@pytest.mark.parametrize("study", [s for s in STUDIES if predict_keys(s)])
def test_what_is_said_of_files_at_prediction_counts_with_older_runs_too(study, tmp_path):
    values = {"data.mpp": 0.5, "data.leads": ["aVR"], "data.sampling_rate": 128.0, "data.local_average_applied": True}
    RunFolder(tmp_path).write_config(written_before(compose(study, "data=phantom")))
    for key in predict_keys(study):
        given = str(values[key]).replace("'", "")
        config = compose(study, "mode=predict", f"run={tmp_path}", "input=x", f"{key}={given}")
        merged = with_finished_run(study, config, ["mode", "run", "input", key])
        assert merged.model_dump()["data"][key.partition(".")[2]] == values[key]


@pytest.mark.parametrize("study", STUDIES)
def test_configurations_open_with_how_to_run_them(study):
    folder = REPOSITORY / "conf" / study
    for file in [folder / "config.yaml", *folder.glob("experiment/*.yaml")]:
        head = [line for line in file.read_text().splitlines()[:12] if line.startswith("#")]
        assert any(f"python -m pipelines.{study}" in line for line in head), file


@pytest.mark.parametrize("study", STUDIES)
def test_cards_agree_with_adapters(study):
    for source in study_of(study).sources:
        card = load_card(card_name(source, study))
        assert card.study in (study, "all")
        assert card.synthetic == (source == "phantom")
        assert card.name == card_name(source, study)
        assert len(card.prose) > 200, (
            f"data_cards/{card.name}.md: its prose has {len(card.prose)} characters, more than 200 are needed: what a "
            "record, a class and a group is, how to get it, what may mislead"
        )


@pytest.mark.parametrize("study", STUDIES)
def test_modes_and_keys_exist_without_a_plus(study):
    modes = modes_of(study)
    assert {mode.name for mode in COMMON_MODES} <= set(modes)
    assert all(callable(resolve_name(mode.function)) for mode in modes.values())
    assert [line.split()[0] for line in help_of(study).removeprefix("modes").splitlines()] == list(modes)
    config = compose(study)
    assert config.mode == "train"
    assert config.run is None
    assert config.input is None
    assert config.recalibrate is None


@pytest.mark.slow
def test_the_run_folder_holds_what_the_contract_says(smoke_run):
    study, folder, done = smoke_run
    files = [
        "config.yaml",
        "run.log",
        "history.csv",
        "environment.json",
        "records.parquet",
        "metrics.json",
        "report.html",
        "model_card.md",
        "reporting_checklist.md",
    ]
    for name in files:
        assert (folder / name).is_file(), name
    assert done.stdout.strip().splitlines()[-1] == str(folder / "report.html")
    for network in (folder / "models").iterdir():
        facts = json.loads((network / "model.json").read_text())
        assert (network / "weights.safetensors").stat().st_size > 0
        assert {"study", "classes", "architecture", "preprocessing", "operating_points"} <= set(facts)
    environment = json.loads((folder / "environment.json").read_text())
    assert {"command", "commit", "device", "seed", "packages", "seconds"} <= set(environment)
    assert yaml.safe_load((folder / "config.yaml").read_text())["study"] == study
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
def test_tables_agree_and_no_group_is_on_two_sides(smoke_run):
    _, folder, _ = smoke_run
    records = pd.read_parquet(folder / "records.parquet")
    assert {"id", "group", "split", "path", "fingerprint"} <= set(records)
    assert records["id"].is_unique
    assert records.groupby("group")["split"].nunique().max() == 1
    assert not records["path"].astype(str).str.startswith("/").any()
    for file in (folder / "predictions").glob("*.parquet"):
        table = pd.read_parquet(file)
        assert {"id", "group"} <= set(table)
        assert any(c.startswith("p_") for c in table)
        expected = predicted_records(records, file.stem)
        assert set(table["id"]) == set(expected["id"])
        mapped = table["id"].map(expected.set_index("id")["group"])
        assert (mapped == table["group"]).all()


@pytest.mark.slow
def test_metrics_have_the_keys_of_the_contract(smoke_run):
    study, folder, _ = smoke_run
    text = (folder / "metrics.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    metrics = json.loads(text)
    assert metrics["schema"] == 1
    assert metrics["study"] == study
    assert set(metrics["source"]) == {"name", "synthetic", "records", "groups", "fingerprint"}
    assert metrics["source"]["synthetic"] is True
    assert {"chance", "oracle"} <= set(metrics["reference"])
    assert metrics["reference"]["oracle"] is not None
    cross_validated = "fold" in pd.read_parquet(folder / "records.parquet")
    assert set(metrics["splits"]) == ({"test"} if cross_validated else {"train", "val", "test"})
    fields = {"value", "low", "high", "method", "n", "groups", "positives", "reason"}
    for key, estimate in metrics["metrics"].items():
        assert set(estimate) == fields, key
        assert key.count(".") >= 2, key
        assert estimate["value"] is not None or estimate["reason"], key
    for point in metrics["operating_points"]:
        assert {"name", "threshold", "chosen_on", "sensitivity", "specificity"} <= set(point)
        assert point["chosen_on"] == "val"
    for entry in metrics["paper"]:
        assert set(entry) == {"what", "value", "low", "high", "source"}
    assert metrics["headline"] in metrics["metrics"]
    assert all(isinstance(v, (int, float)) for v in metrics["seconds"].values())


class _Page(HTMLParser):
    """Collects pictures and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.pictures.append(values["src"])
            assert values.get("alt")
        self.addresses += [
            v for k, v in values.items() if k in ("src", "href") and v and not v.startswith(("data:", "#"))
        ]


@pytest.mark.slow
def test_the_report_stands_alone_and_says_what_it_shows(smoke_run):
    _, folder, _ = smoke_run
    page = _Page()
    text = (folder / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert not page.addresses
    assert len(page.pictures) == len(list((folder / "figures").glob("*.png"))) > 3
    assert "ynthetic" in text
    for name in ("chance", "oracle"):
        assert name in text.lower()


@pytest.fixture(scope="module")
def window():
    with browser() as driver:
        yield driver


# What paper would cut off or show as a dark patch, and what would be torn between two pages.
FAULTS_OF_PRINT = """
const faults = [];
for (const part of document.querySelectorAll("table, figure img, pre, .card")) {
  const wide = part.getBoundingClientRect().right > innerWidth + 1;
  if (wide) faults.push(`wider than the paper: ${part.outerHTML.slice(0, 200)}`);
}
for (const part of document.querySelectorAll("body *")) {
  const style = getComputedStyle(part);
  const [red, green, blue, alpha = 1] = style.backgroundColor.match(/[\\d.]+/g).map(Number);
  if (alpha > 0 && Math.min(red, green, blue) < 200) faults.push(`dark: ${part.outerHTML.slice(0, 200)}`);
  if (["FIGURE", "TR"].includes(part.tagName) && style.breakInside !== "avoid") faults.push(`torn: ${part.tagName}`);
}
return faults;
"""


@pytest.mark.slow
def test_the_report_is_accessible_and_fits_paper(smoke_run, window):
    _, folder, _ = smoke_run
    window.get((folder / "report.html").as_uri())
    assert violations(window) == ""
    with on_paper(window):
        assert window.execute_script(FAULTS_OF_PRINT) == []


@pytest.mark.slow
def test_the_card_and_the_checklist_say_what_the_run_knows(smoke_run):
    _, folder, _ = smoke_run
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "must not be used on people" in card
    assert metrics["headline"] in card
    assert metrics["source"]["fingerprint"][:16] in card
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["intended_use"] in card
    for file in (folder / "models").glob("*/model.json"):
        ranges = json.loads(file.read_text())[RANGES]
        assert f"by {ranges['measured']} of {ranges['records']}" in card
        assert ranges["measures"]
    assert not {"None", "nan", "NaN"} & set(card.replace("|", " ").split())
    for point in metrics["operating_points"]:
        assert point["threshold"] is None or f"{point['threshold']:.4f}" in card
    rows = [line for line in (folder / "reporting_checklist.md").read_text().splitlines() if line.startswith("| ")]
    numbers = [line.split("|")[1].strip() for line in rows if not line.startswith("| item")]
    assert len(numbers) == 52 + 42
    assert numbers[52:] == [str(i) for i in range(1, 43)]
    assert any(line.endswith("| not reported |") for line in rows)


@pytest.mark.slow
def test_a_finished_run_cannot_be_changed(smoke_run, tmp_path):
    study, folder, _ = smoke_run
    given = ["mode=evaluate", f"run={folder}", *phantom(study)]
    for mistake in ("model.backbone=resnet18", "trainer.epochs=2", "seed=1"):
        keys = [argument.partition("=")[0] for argument in [*given, mistake]]
        with pytest.raises(UserError, match="cannot be changed"):
            with_finished_run(study, compose(study, *given, mistake), keys)
    done = cutting.answer(study, *given, mistake, f"run_dir={tmp_path / 'x'}")
    assert done.returncode == 2
    assert "cannot be changed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    seen = cutting.answer(study, *given, f"run_dir={tmp_path / 'y'}")
    assert seen.returncode == 0, seen.stderr
    records = pd.read_parquet(folder / "records.parquet")
    scored = pd.read_parquet(tmp_path / "y" / "predictions" / "test.parquet")
    assert set(scored["id"]) == set(records.loc[records["split"] == "test", "id"]), "training records were scored"
    left = json.loads((tmp_path / "y" / "metrics.json").read_text())["metrics"]
    whole = json.loads((folder / "metrics.json").read_text())
    assert left[whole["headline"]]["value"] == pytest.approx(whole["metrics"][whole["headline"]]["value"], abs=1e-9)


def _with_one_exported(run, place):
    """A copy of a run with one of its networks and all that take no records: each export takes seconds."""
    networks = sorted((run / "models").iterdir())
    of_records = [n for n in networks if "learners" not in json.loads((n / "model.json").read_text())]
    left_out = {n.name for n in of_records[1:]}
    shutil.copytree(run, place, ignore=lambda folder, names: left_out & set(names) if folder.endswith("models") else [])
    return place


@pytest.mark.slow
def test_export_agrees_with_torch_and_says_what_it_leaves_out(smoke_run, tmp_path, capsys):
    import onnxruntime

    study, whole, _ = smoke_run
    out, folder = tmp_path / "export", _with_one_exported(whole, tmp_path / "run")
    # In this process: what an export imports takes seconds, here for all studies once.
    arguments, on_term = sys.argv, signal.getsignal(signal.SIGTERM)
    try:
        assert app._answer(study, ["mode=export", f"run={folder}", f"run_dir={out}"]) == 0, capsys.readouterr().err
    finally:
        sys.argv = arguments
        signal.signal(signal.SIGTERM, on_term)
    assert (out / "model_card.md").read_bytes() == (folder / "model_card.md").read_bytes()
    entries = json.loads((out / "export.json").read_text())["networks"]
    assert {e["name"] for e in entries} == {p.name for p in (folder / "models").iterdir()}
    files = {e["file"] for e in entries if e["file"]}
    assert files == {f.name for f in out.glob("*.onnx")} != set()
    for entry in entries:
        if entry["file"] is None:
            assert entry["reason"]
            continue
        assert entry["largest_difference"] <= 1e-4
        session = onnxruntime.InferenceSession(str(out / entry["file"]))
        said = session.get_modelmeta().custom_metadata_map
        facts = json.loads((folder / "models" / entry["name"] / "model.json").read_text())
        assert json.loads(said["classes"]) == facts["classes"]
        assert json.loads(said["preprocessing"]) == facts["preprocessing"]
        assert json.loads(said["untaught"]) == facts["untaught"] == {}, "a phantom teaches everything"
        points = json.loads(said["operating_points"])
        assert all(p["chosen_on"] == "val" for p in points)
        assert said["synthetic"] == "true"
        assert session.get_inputs()[0].shape[0] == "batch"


@pytest.mark.slow
def test_predict_on_an_empty_folder_is_two_lines(smoke_run, tmp_path):
    study, folder, _ = smoke_run
    (tmp_path / "empty").mkdir()
    done = cutting.answer(
        study, "mode=predict", f"run={folder}", f"input={tmp_path / 'empty'}", f"run_dir={tmp_path / 'p'}"
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 2
    assert not (tmp_path / "p").exists()


@pytest.mark.slow
def test_files_are_predicted(smoke_run, tmp_path):
    """The first record of the phantom, as files without labels."""
    study, folder, _ = smoke_run
    suffixes = study_of(study).suffixes
    root = phantom_root(folder)
    first = next(f for f in sorted(root.rglob("*")) if f.is_file() and f.suffix.lower() in suffixes)
    together = sorted(f for f in first.parent.iterdir() if f.is_file())
    if set(suffixes) != {".dcm"}:  # a folder of many records, not one series
        stems = sorted({f.stem for f in together if f.suffix.lower() in suffixes})[:1]
        together = [f for f in together if f.stem in stems]
    (tmp_path / "in").mkdir()
    for file in together:
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    given = [f"run={folder}", f"input={tmp_path / 'in'}", f"run_dir={tmp_path / 'p'}"]
    command = [sys.executable, "-X", "importtime", "-m", f"pipelines.{study}", "mode=predict", *given]
    done = run_command(command, 300)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "torch" in imported
    assert ("timm" in imported) == (study != "ecg")
    assert study == "ecg" or "scipy.stats" not in imported  # ECG's filters (scipy.signal) bring it
    needless = NOT_IN_A_PREDICTION - ({"matplotlib.figure"} if study == "ecg" else set())  # which draws strips
    assert not needless & imported
    table = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "p" / "predictions.csv")
    assert table["reason"].isna().any()
    scores = table.loc[table["reason"].isna(), [c for c in table if c.startswith("p_")]].to_numpy(float)
    assert scores.size
    assert ((scores >= 0) & (scores <= 1)).all()
    _served_like(table, study, folder, tmp_path)


def _served_like(table, study, folder, place):
    """The same files, sent to mode=serve, get the very scores and decisions that mode=predict wrote."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from fastapi.testclient import TestClient

    from pipelines.shared.handover.serve.app import make_app
    from pipelines.shared.handover.serve.service import Service

    config = with_finished_run(study, compose(study, "mode=serve", f"run={folder}"), ["mode", "run"])
    run = run_on_cpu(study_of(study), config, RunFolder(place / "serve"))
    service = Service(run, open_finished(study_of(study), folder))
    try:
        service.check()
        client = TestClient(make_app(service), base_url="http://127.0.0.1")
        files = [("file", (f.name, f.read_bytes())) for f in sorted((place / "in").iterdir())]
        done = client.post("/predict?pictures=true", files=files)
    finally:
        service.close()
    assert done.status_code == 200, done.text
    answer = done.json()
    assert answer["columns"] == list(table.columns)
    assert answer["pictures"], "a page has something to show"
    kept = [c for c in table if c != "seconds" or study == "ecg"]  # of head CT what scoring took
    for row, (_, written) in zip(answer["predictions"], table.iterrows(), strict=True):
        assert {c: row[c] for c in kept} == {c: None if pd.isna(written[c]) else written[c] for c in kept}


@pytest.mark.slow
def test_a_run_of_another_study_is_refused(smoke_run, tmp_path):
    study, folder, _ = smoke_run
    values = yaml.safe_load((folder / "config.yaml").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text(yaml.safe_dump(values | {"study": "astrology"}))
    done = cutting.answer(study, "mode=report", f"run={other}")
    assert done.returncode == 2
    assert "astrology" in done.stderr
