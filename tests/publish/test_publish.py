"""Runs that are handed on: what they hold, that they answer as the run did, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, compose, run_on_cpu, run_study
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.publish import command, publishing
from pipelines.publish.licences import LICENCES, OWN, notice, weights_licence
from pipelines.publish.publishing import portable
from pipelines.shared import pretrained
from pipelines.shared.cli import app
from pipelines.shared.cli.modes import _write_data
from pipelines.shared.config import cards_folder
from pipelines.shared.data.assemble import training_data
from pipelines.shared.data.cards import load_card
from pipelines.shared.errors import ConfigError, DataError, RunError
from pipelines.shared.learning.method import describe, load_network, predict_and_choose
from pipelines.shared.learning.model_files import save_network
from pipelines.shared.run import open_finished, read_model
from pipelines.shared.run_folder import RunFolder, digest, read_json, write_json
from pipelines.skin.learner import SkinLearner
from pipelines.skin.study import STUDY


def pictures(folder: Path, lesions: int, seed: int) -> Path:
    """A folder in HAM10000's layout."""
    rng = np.random.default_rng(seed)
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for n in range(lesions):
        file = folder / "HAM10000_images_part_1" / f"I{seed}{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file)
        rows.append(f"L{seed}{n},I{seed}{n},{'mel' if n % 2 else 'nv'},histo,50,male,back")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 40 pictures whose network learned nothing."""
    place = tmp_path_factory.mktemp("finished")
    config = compose(
        "skin", "data=ham10000", f"data.root={pictures(place / 'ham', 40, 0)}", f"cache.dir={place / 'cache'}",
        "preprocess.size=32", "model.backbone=mobilenetv3_small_050", "model.weights=none", f"run_dir={place / 'run'}",
        "statistics.resamples=100", "trainer.device=cpu",
    )  # fmt: skip
    run = run_on_cpu(STUDY, config, RunFolder(place / "run"))
    run.folder.path.mkdir()
    run.folder.write_config(config.model_dump())
    data = training_data(STUDY, config)
    _write_data(run.folder, data)
    learner = SkinLearner.from_data(config, data)
    torch.manual_seed(0)
    network = learner.build()
    save_network(run.folder.network("network"), network, describe(run, learner, network, data, "network", 0))
    predict_and_choose(run, learner, data)
    write_json(run.folder.metrics, {"schema": 1})
    (run.folder.path / "model_card.md").write_text(f"# Model card: skin\n\nMade by `x data.root={place / 'ham'}`.\n")
    run.folder.report.write_text("done")
    return run


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty place for runs that come with the package."""
    monkeypatch.setattr(pretrained, "PACKAGE", tmp_path / "package")
    return tmp_path / "package"


@pytest.fixture
def published(run, package):
    target = package / "skin" / "pretrained" / "toy"
    command.publish(command._parser().parse_args([str(run.folder.path), "--name", "toy", "--to", str(target)]))
    return target


def test_a_published_run_holds_what_others_need_and_nothing_else(run, published, capsys):
    held = sorted(str(f.relative_to(published)) for f in published.rglob("*") if f.is_file())
    assert held == [
        "LICENCE.txt", "config.yaml", "flow.json", "metrics.json", "model_card.md", "models/network/model.json",
        "models/network/weights.safetensors", "operating_points.json", "prediction_sets.json",
        "records.parquet", "split.csv",
    ]  # fmt: skip
    assert set(pd.read_parquet(published / "records.parquet")) == {
        "id",
        "group",
        "source_group",
        "split",
        "fingerprint",
    }
    assert digest(published / "split.csv") == read_json(published / "flow.json")["split_file"]["sha256"]
    for file in published.rglob("*"):
        if file.is_file() and file.suffix in (".md", ".json", ".yaml", ".txt"):
            assert str(run.folder.path.parent) not in file.read_text(), file
            assert "://" not in file.read_text(), file
    card = (published / "model_card.md").read_text()
    assert card.startswith("# Model card: skin\n\n## This copy\n\n'toy' of skin is NOT FOR MEDICAL USE")
    assert "CC BY-NC 4.0 (creativecommons.org/licenses/by-nc/4.0)" in card
    assert "no commercial use" in card
    assert "data.root=<path>" in card


def test_weights_are_half_as_large_and_become_float32_when_they_are_loaded(run, published):
    stored = load_file(published / "models/network/weights.safetensors")
    assert {v.dtype for v in stored.values() if v.numel() >= 1024 and v.is_floating_point()} == {torch.float16}
    assert torch.float32 in {v.dtype for v in stored.values()}, "norms and biases stay as they are"
    whole = (run.folder.network("network") / "weights.safetensors").stat().st_size
    assert (published / "models/network/weights.safetensors").stat().st_size < 0.6 * whole
    model = read_json(published / "models/network/model.json")
    network = load_network(run, SkinLearner.from_model(run.config, model), published / "models/network")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.slow
def test_it_answers_as_the_run_did_and_shows_its_licence(run, published, tmp_path, capsys):
    photos = Path(run.config.data.root) / "HAM10000_images_part_1"
    for name, chosen in (("theirs", str(run.folder.path)), ("ours", "pretrained"), ("named", "pretrained:toy")):
        arguments = ["mode=predict", f"run={chosen}", f"input={photos}", f"run_dir={tmp_path / name}",
                     f"cache.dir={tmp_path / 'cache'}", "trainer.device=cpu"]  # fmt: skip
        assert app._answer("skin", arguments) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        assert ("NOT FOR MEDICAL USE" in said) == ("Licence of its weights: CC BY-NC 4.0" in said) == (name != "theirs")
    theirs, ours, named = (pd.read_csv(tmp_path / n / "predictions.csv") for n in ("theirs", "ours", "named"))
    scores = [c for c in theirs if c.startswith("p_")]
    assert len(theirs) == 40
    assert theirs["reason"].isna().all()
    assert np.abs(theirs[scores] - ours[scores]).to_numpy().max() < publishing.TOLERANCE
    assert not theirs[scores].equals(ours[scores])
    assert ours.equals(named)


@pytest.mark.slow
def test_it_is_judged_on_other_data_without_what_it_was_trained_on(run, published, tmp_path, capsys):
    other = pictures(tmp_path / "other", 24, 1)
    own = Path(run.config.data.root)
    for file in sorted((own / "HAM10000_images_part_1").iterdir())[:30]:
        shutil.copy(file, other / "HAM10000_images_part_1" / f"again{file.name}")
        with (other / "HAM10000_metadata.csv").open("a") as table:
            table.write(f"again{file.stem},again{file.stem},nv,histo,50,male,back\n")
    arguments = ["mode=evaluate", "run=pretrained", "data=ham10000", f"data.root={other}", f"run_dir={tmp_path / 'e'}",
                 f"cache.dir={tmp_path / 'cache'}", "statistics.resamples=100", "trainer.device=cpu",
                 "data.near_duplicates=false", "data.conflicting_labels=keep"]  # fmt: skip
    assert app._answer("skin", arguments) == 0, capsys.readouterr().err
    flow = read_json(tmp_path / "e" / "flow.json")
    assert len(flow["lists"]["In the run's own train or val"]) > 10
    assert any("NOT FOR MEDICAL USE" in note for note in flow["notes"])
    assert (tmp_path / "e" / "report.html").is_file()


@pytest.mark.slow
def test_it_is_exported_and_checked_on_the_phantom_or_on_data_that_are_given(run, published, tmp_path, capsys):
    arguments = ["mode=export", "run=pretrained", f"run_dir={tmp_path / 'x'}", f"cache.dir={tmp_path / 'cache'}",
                 "data=ham10000", f"data.root={run.config.data.root}"]  # fmt: skip
    assert app._answer("skin", arguments) == 0, capsys.readouterr().err
    assert "came without its records: checked on 40 of ham10000" in capsys.readouterr().out
    content = json.loads((tmp_path / "x" / "export.json").read_text())
    assert content["networks"][0]["largest_difference"] < 1e-4
    assert (tmp_path / "x" / "LICENCE.txt").read_text() == (published / "LICENCE.txt").read_text()


@pytest.mark.parametrize("mode", ["resume", "report"])
def test_what_needs_the_records_is_refused(published, mode, capsys):
    assert app._answer("skin", [f"mode={mode}", "run=pretrained"]) == 2
    assert f"it came without what mode={mode} needs" in capsys.readouterr().err


def test_names_that_do_not_exist_are_answered_with_those_that_do(published, package, capsys):
    assert app._answer("ecg", ["mode=predict", "run=pretrained", "input=."]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "run=pretrained: no finished run of ecg comes with the package.",
        "Train one and give its folder: run=<run folder>. There are runs of other studies (skin: toy).",
    ]
    with pytest.raises(RunError, match=r"with this name.*\nDid you mean toy"):
        pretrained.pretrained_run("skin", "pretrained:toi")
    shutil.copytree(published, package / "skin" / "pretrained" / "other")
    with pytest.raises(RunError, match="Say which: run=pretrained:other or run=pretrained:toy"):
        pretrained.pretrained_run("skin", "pretrained")
    assert not pretrained.is_pretrained("outputs/pretrained")


# --- what is refused ---


def test_the_licence_of_the_data_decides():
    with pytest.raises(DataError, match=r"may not be handed on .The competition's rules"):
        weights_licence(load_card("aptos2019"), None)
    with pytest.raises(DataError, match="aptos2019"):
        weights_licence(load_card("aptos2019"), "CC0")
    with pytest.raises(ConfigError, match="leave --licence out"):
        weights_licence(load_card("ham10000"), "CC0")
    with pytest.raises(ConfigError, match="the data are yours"):
        weights_licence(load_card("table"), None)
    assert weights_licence(load_card("table"), "CC BY 4.0") == "CC BY 4.0"
    assert weights_licence(load_card("cinc2017"), None) == "ODC-By 1.0"


def test_every_card_names_a_licence_that_is_known_or_none():
    for file in set(cards_folder().glob("*.md")) - {cards_folder() / "README.md"}:
        card = load_card(file.stem)
        assert card.weights_licence in {None, OWN, *LICENCES}, card.name
        if "rules" in card.licence or "agreement" in card.licence:
            assert card.weights_licence is None
        if card.weights_licence not in (None, OWN):
            text = notice(card.study, "toy", card, card.weights_licence)
            assert "NOT FOR MEDICAL USE" in text
            assert ("no commercial use" in text) == ("NC" in card.licence)


def published_with(finished, tmp_path, **changes):
    options = {"run": str(finished.folder.path), "--name": "toy", "--to": str(tmp_path / "to")} | changes
    arguments = [options.pop("run")] + [word for pair in options.items() for word in pair]
    return command.publish(command._parser().parse_args(arguments))


def test_names_targets_and_runs_that_cannot_be_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="is no name"):
        published_with(run, tmp_path, **{"--name": "../x"})
    (tmp_path / "to").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        published_with(run, tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        published_with(run, tmp_path, run=str(tmp_path / "none"))
    unfinished = shutil.copytree(run.folder.path, tmp_path / "unfinished")
    (unfinished / "report.html").unlink()
    with pytest.raises(RunError, match="not finished"):
        published_with(run, tmp_path, run=str(unfinished))


@pytest.mark.parametrize(("limit", "said"), [("LARGEST", "MB in half precision"), ("TOLERANCE", "differs by")])
def test_what_is_too_large_or_answers_otherwise_leaves_nothing_behind(run, tmp_path, monkeypatch, limit, said):
    monkeypatch.setattr(publishing, limit, 0)
    with pytest.raises(RunError, match=said):
        published_with(run, tmp_path)
    assert not any(tmp_path.iterdir())


def test_weights_beyond_half_precision_stay_as_they_are(run, tmp_path):
    folder, target = tmp_path / "a", tmp_path / "b"
    shutil.copytree(run.folder.network("network"), folder)
    save_file({"large": torch.full((2000,), 1e6), "small": torch.ones(2000)}, folder / "weights.safetensors")
    publishing._halved(folder, target)
    stored = load_file(target / "weights.safetensors")
    assert stored["large"].dtype == torch.float32
    assert stored["small"].dtype == torch.float16


def test_a_file_of_this_machine_that_answers_need_is_named(run, tmp_path):
    values = run.config.data.model_copy(update={"taxonomy": str(tmp_path / "mine.yaml")})
    with pytest.raises(RunError, match=r"data.taxonomy=.*mine.yaml is a file of this machine"):
        portable(run.config.model_copy(update={"data": values}))
    machine = run.config.trainer.model_copy(update={"workers": 2, "device": "cuda:1"})
    kept = portable(run.config.model_copy(update={"trainer": machine}))["trainer"]
    assert (kept["workers"], kept["device"]) == (None, "auto"), "what belonged to the machine that trained it"


def test_what_is_published_goes_into_the_wheel():
    """Hatch leaves out what git ignores."""
    names = [f"pipelines/skin/pretrained/x/{f}" for f in ("models/network/weights.safetensors", "config.yaml",
             "records.parquet", "split.csv", "LICENCE.txt")]  # fmt: skip
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=REPOSITORY, capture_output=True, text=True)
    assert ignored.stdout == ""


def test_a_published_run_opens_like_any_other(published):
    finished = open_finished(STUDY, published)
    assert finished.notice is not None
    assert list(finished.models) == ["network"]


def noise_for(study, folder):
    """A file of noise that a study's network can be asked about, and what is given with it."""
    rng = np.random.default_rng(0)
    if study == "ecg":
        np.save(folder / "a.npy", rng.normal(size=6000).astype(np.float32))
        return [f"input={folder / 'a.npy'}", "data.sampling_rate=200"]
    Image.fromarray(rng.integers(90, 220, (300, 400, 3), dtype=np.uint8)).save(folder / "a.jpg")
    return [f"input={folder / 'a.jpg'}"]


COMES_ALONG = sorted((REPOSITORY / "pipelines").glob("*/pretrained/*"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMES_ALONG, ids=lambda folder: f"{folder.parents[1].name}:{folder.name}")
def test_what_comes_with_the_package_answers_and_says_its_licence(folder, tmp_path):
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 10 * 2**20
    texts = [f.read_text() for f in folder.rglob("*") if f.suffix in (".json", ".yaml", ".md", ".txt")]
    assert not [text for text in texts if "/tmp/" in text or "/home/" in text]
    study = folder.parents[1].name
    given = noise_for(study, tmp_path)
    done = run_study(study, "mode=predict", f"run=pretrained:{folder.name}", f"run_dir={tmp_path / 'run'}", *given)
    assert done.returncode == 0, done.stderr
    assert "NOT FOR MEDICAL USE" in done.stdout + done.stderr
    (row,) = pd.read_csv(tmp_path / "run" / "predictions.csv").to_dict("records")
    assert pd.isna(row["reason"])
    if study == "skin":
        classes = [c.split("/")[-1] for c in read_model(folder / "models" / "network", study)["classes"]]
        assert sum(row[f"p_{name}"] for name in classes) == pytest.approx(1, abs=1e-3)
