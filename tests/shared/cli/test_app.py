"""The command line: mistakes in two lines with the nearest name, quickly, without torch."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Literal

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, compose, run_command

from pipelines.shared.cli.app import LATER_KEYS, _digest, _place, _quoted_home, main
from pipelines.shared.data.records import Source
from pipelines.shared.errors import ConfigError, DataError
from pipelines.shared.job import config_model
from pipelines.shared.validation import allowed_keys, source_names


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | environment
    return run_command([sys.executable, "-m", "pipelines.retinopathy", *arguments], 120, environment=given)


MISTAKES = [
    ("trainer.epoch=3", "Unknown key 'trainer.epoch'", "trainer.epochs"),
    ("+trainer.epoch=3", "Unknown key 'trainer.epoch'", "trainer.epochs"),
    ("+foo=1", "Unknown key 'foo'", "Allowed"),
    ("+data.foo=1", "Unknown key 'data.foo'", "data.root"),
    ("data=aptos", "data=aptos: there is no such data", "aptos2019"),
    ("experiment=gulshan", "experiment=gulshan", "gulshan2016"),
    ("trainer=smok", "trainer=smok", "smoke"),
    ("study=skin", "study=skin in the configuration of retinopathy", "It must be study: retinopathy"),
    ("mode=trai", "mode=trai is no mode", "train"),
    ("trainer.epochs=abc", "trainer.epochs=abc: input should be a valid integer", ""),
    ("trainer.epochs=2.5", "trainer.epochs=2.5", ""),
    ("trainer.epochs=true", "trainer.epochs=True", ""),
    ("trainer.epochs=0", "greater than or equal to 1", ""),
    ("trainer.learning_rate=-1", "greater than 0", ""),
    ("trainer.learning_rate=nan", "finite", ""),
    ("seed=-1", "seed=-1", ""),
    ("preprocess.size=null", "preprocess.size=None", ""),
    ("trainer.precision=fp61", "'auto', 'fp32' or 'bf16'", ""),
    ("split.train=0.9", "train + val + test must be 1, found 1.3", ""),
    ("data.name=bla", "data.name='bla'", "phantom"),
    ("data.root=/a=b", "cannot be read: /a=b", "'data.root=\"/a=b\"'"),
    ("data.root=a(b", "cannot be read: a(b", "'data.root=\"a(b\"'"),
    ("data.root=a,b", "has several values", "'data.root=\"a,b\"'"),
    ("epochs", "neither key=value", ""),
    ("mode=evaluate", "needs run=", ""),
    ("mode=predict", "needs run=", ""),
]


@pytest.mark.slow
def test_a_key_that_counts_for_nothing_in_a_mode_is_refused(monkeypatch, capsys):
    for key in ("lesions.threshold=0.5", "trainer=smoke", "data.root=slides"):
        monkeypatch.setattr(sys, "argv", ["camelyon", "mode=froc", key])
        with pytest.raises(SystemExit) as stop:
            main("camelyon")
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert f"'{key.partition('=')[0]}' counts for nothing in mode=froc" in shown
        assert "data.mpp" in shown
    monkeypatch.setattr(sys, "argv", ["camelyon", "mode=froc", "data.mpp=0.5", "cache.dir=cache", "seed=1"])
    with pytest.raises(SystemExit):
        main("camelyon")
    assert "mode=froc needs detections=" in capsys.readouterr().err


def test_a_dictionary_in_quotation_marks_is_one():
    """As the message about what Hydra cannot read advises."""
    config = compose(
        "retinopathy", "data=table", '++data.targets="{grade: sévérité}"', '++data.values="{grade: {1: 2}}"'
    )
    assert config.data.targets == {"grade": "sévérité"}
    assert config.data.values == {"grade": {"1": 2}}
    for text in ('"{grade"', '"no dictionary"'):
        with pytest.raises(ConfigError, match=r"data\.targets"):
            compose("retinopathy", "data=table", f"++data.targets={text}")


@pytest.fixture
def refused(monkeypatch, capsys):
    """What this process shows of a command that is refused before anything is imported or written."""

    def show(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["retinopathy", *arguments])
        with pytest.raises(SystemExit) as stop:
            main("retinopathy")
        assert stop.value.code == 2
        return capsys.readouterr()

    return show


@pytest.mark.parametrize(("argument", "problem", "remedy"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_answered_in_two_lines(argument, problem, remedy, refused):
    shown = refused(argument)
    lines = shown.err.strip().splitlines()
    assert len(lines) == 2, shown.err
    assert problem in lines[0]
    assert remedy in lines[1]
    assert shown.out == ""


@pytest.mark.slow
def test_several_mistakes_are_counted():
    assert "(1 more after this one)" in command("trainer.epochs=0", "seed=-1").stderr


@pytest.mark.slow
def test_runs_that_are_not_there(tmp_path, refused):
    for mode in ("evaluate", "predict", "resume", "report"):
        extra = {"evaluate": ["data=phantom"], "predict": [f"input={tmp_path}"]}.get(mode, [])
        assert "no such folder" in refused(f"mode={mode}", f"run={tmp_path / 'none'}", *extra).err
        assert "holds no config.yaml" in refused(f"mode={mode}", f"run={tmp_path}", *extra).err


@pytest.mark.slow
def test_a_run_folder_that_is_taken(tmp_path):
    (tmp_path / "x").touch()
    done = command(f"run_dir={tmp_path}")
    assert done.returncode == 2
    assert "not empty" in done.stderr


@pytest.mark.slow
def test_a_sweep_under_torchrun_is_refused():
    done = command("-m", "seed=0,1", WORLD_SIZE="2")
    assert done.returncode == 2
    assert "under torchrun" in done.stderr
    done = command(WORLD_SIZE="2")
    assert done.returncode == 2
    assert "RANK is not set" in done.stderr


@pytest.mark.slow
def test_a_failed_job_does_not_stop_a_sweep(tmp_path):
    done = command("-m", "seed=-1,-2", f"run_dir={tmp_path}")
    assert done.returncode == 2
    assert "seed=-1" in done.stderr
    assert "seed=-2" in done.stderr
    assert "At least one of the sweep's jobs failed" in done.stderr


@pytest.mark.slow
def test_help_and_mistakes_do_not_wait_for_torch():
    """No time is asserted; that torch is not imported is what makes it quick."""
    script = (
        "import sys; sys.argv = ['x', sys.argv[1]]\n"
        "from pipelines.shared.cli.app import main\n"
        "try:\n    main('retinopathy')\n"
        "except SystemExit:\n    pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    for argument in ("--help", "trainer.epoch=1", "trainer.epochs=0"):
        done = subprocess.run([sys.executable, "-c", script, argument], capture_output=True, text=True, cwd=REPOSITORY)
        assert done.stderr.strip().splitlines()[-1] == "False False", done.stderr
    began = time.monotonic()
    text = command("--help").stdout
    print(f"--help took {time.monotonic() - began:.1f} s")
    for word in ("modes   train (default)", "evaluate run=", "phantom", "gulshan2016", "trainer:", "epochs: 8"):
        assert word in text


@pytest.mark.slow
def test_help_ends_quietly_when_nobody_reads_on():
    command_line = [sys.executable, "-m", "pipelines.retinopathy", "--help"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.slow
def test_a_sweeps_folders_of_earlier_versions_are_found_again():
    config = compose("skin")
    keys = ["study", "mode", "run", "input", "intended_use", "seed", "data", "split", "cache", "model", "trainer"]
    keys += ["statistics", "subgroups", "partition", "preprocess", "augment", "loss", "operating_points", "explain"]
    earlier = config.model_dump(include=set(keys))  # those of the first version
    assert _digest(config) == hashlib.sha256(json.dumps(earlier, sort_keys=True).encode()).hexdigest()[:8]
    assert _digest(compose("skin", "track=mlflow")) == _digest(config)
    names = {_digest(compose("skin", *keys)) for keys in ([], ["recalibrate=0.5"], ["calibration.prior=true"])}
    assert len(names) == 3
    config = compose("head_ct")
    earlier = config.model_dump(exclude={"run_dir", "track", "serve", "listen", *LATER_KEYS})
    assert _digest(config) == hashlib.sha256(json.dumps(earlier, sort_keys=True).encode()).hexdigest()[:8]
    for study in ("camelyon", "head_ct"):
        assert _digest(compose(study)) != _digest(compose(study, "trial=true"))


def test_a_sweeps_jobs_have_folders_of_their_own_and_complete_ones_are_skipped(tmp_path, capsys):
    config = compose("retinopathy")
    first = _place(config, tmp_path, 0, False, "x")
    assert first is not None
    assert first.run_dir.parent == tmp_path
    other = _place(compose("retinopathy", "seed=1"), tmp_path, 0, False, "x")
    assert other is not None
    assert other.run_dir != first.run_dir
    first.run_dir.mkdir()
    (first.run_dir / "report.html").touch()
    assert _place(config, tmp_path, 0, False, "x") is None
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("data.root=~/a b", 'data.root="~/a b"'),
        ("run=~", 'run="~"'),
        ("stage1=[~/a,/b,~/c]", 'stage1=["~/a",/b,"~/c"]'),
        ("data.root=~/a,~/b", 'data.root="~/a","~/b"'),
        ("data.root='~/a'", "data.root='~/a'"),
        ("data.root=/a~b", "data.root=/a~b"),
        ("~data.root", "~data.root"),
    ],
)
def test_a_home_needs_no_quotes(given, taken):
    assert _quoted_home(given) == taken


@pytest.mark.parametrize("key", ["run_dir", "cache.dir"])
def test_a_datasets_folder_is_never_written_to(tmp_path, key, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "data=aptos2019", f"data.root={tmp_path}", f"{key}={tmp_path}/deep/er"])
    with pytest.raises(SystemExit):
        main("retinopathy")
    assert f"{key}={tmp_path}/deep/er lies inside the dataset's folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    config = compose("retinopathy", f"run_dir={tmp_path / 'now'}")
    (tmp_path / "now").mkdir()
    (tmp_path / "now" / "config.yaml").touch()
    job = _place(config, None, None, False, "x")
    assert job is not None
    assert job.run_dir.name == "now-2"


def test_every_key_of_the_configuration_is_known():
    values = compose("retinopathy").model_dump()
    keys = allowed_keys(config_model("retinopathy"), values)

    def flat(node, prefix=""):
        for key, value in node.items():
            yield prefix + key
            if isinstance(value, dict) and f"{prefix}{key}.*" not in keys:
                yield from flat(value, f"{prefix}{key}.")

    assert set(flat(values)) == {k for k in keys if not k.endswith(".*")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "argument",
    ["data.targets.grade=dx", "+data.targets.grade=dx", "data.targets={grade: dx}", "data.values={grade: {1: 0}}"],
)
def test_free_form_keys_of_a_table_need_no_plus(argument):
    done = command("data=table", argument, "mode=verify")
    assert done.returncode == 2
    assert "data=table needs data.table" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


@pytest.mark.slow
def test_run_folders_that_are_broken_old_or_of_another_mode(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: [1")
    assert "cannot be read" in command("mode=report", f"run={tmp_path}").stderr
    values = compose("retinopathy").model_dump()
    file.write_text(yaml.safe_dump({k: v for k, v in values.items() if k != "trainer"}))
    assert "has no trainer: it is damaged" in command("mode=report", f"run={tmp_path}").stderr
    old = values | {"trainer": {k: v for k, v in values["trainer"].items() if k != "epochs"}}
    file.write_text(yaml.safe_dump(old))
    done = command("mode=report", f"run={tmp_path}")
    assert done.returncode == 2
    assert "does not fit this version" in done.stderr
    file.write_text(yaml.safe_dump(values | {"mode": "evaluate"}))
    assert "mode=evaluate, not of a training run" in command("mode=resume", f"run={tmp_path}").stderr
    file.write_text(yaml.safe_dump(values))
    done = command("mode=report", f"run={tmp_path}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 2


@pytest.mark.slow
def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    done = command(f"run_dir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert "cannot be written: Not a directory" in done.stderr


def test_a_mode_of_one_process_waits_for_no_others(monkeypatch):
    from pipelines.shared.learning import distributed

    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_join", lambda *_: pytest.fail("it waits"))
    world = distributed.start("cpu", alone=True)
    assert (world.rank, world.size, world.main) == (0, 1, True)


def test_a_mistake_beside_a_section_that_is_called_like_its_source_is_named():
    with pytest.raises(ConfigError, match=r"^data\.on_bad_file=maybe: "):
        compose("retinopathy", "data.on_bad_file=maybe")
    with pytest.raises(ConfigError, match=r"^data\.phantom\.size=1: "):
        compose("retinopathy", "data.phantom.size=1")


def mistake(capsys, monkeypatch, study: str, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", [study, *arguments])
    with pytest.raises(SystemExit) as exited:
        main(study)
    assert exited.value.code == 2
    return capsys.readouterr().err


def test_a_package_that_is_no_study_is_named(monkeypatch, capsys):
    for name in ("compare", "moles"):
        text = mistake(capsys, monkeypatch, name, "--help")
        assert text.startswith(f"'{name}' is no study: there is no pipelines/{name}/config.py.\n")
        assert len(text.splitlines()) == 2


def test_a_source_whose_files_call_it_differently_is_named(monkeypatch, capsys):
    from pipelines.skin.config import Ham10000Data, SkinConfig

    assert source_names(SkinConfig) == ["phantom", "ham10000", "isic2018", "fitzpatrick17k", "table"]
    monkeypatch.setattr(Ham10000Data.model_fields["name"], "annotation", Literal["ham"])
    text = mistake(capsys, monkeypatch, "skin", "data=ham10000", "data.root=x")
    assert text == (
        "data=ham10000: ham10000.yaml has name: ham10000, which no source in pipelines/skin/config.py has.\n"
        "Both must be the same; there: phantom, ham, isic2018, fitzpatrick17k, table.\n"
    )


def test_a_source_or_card_that_is_missing_is_named_before_any_work(monkeypatch, tmp_path):
    from pipelines.shared.data import cards
    from pipelines.shared.data.assemble import training_data
    from pipelines.skin.study import STUDY

    config = compose("skin")
    records = pd.DataFrame({"id": ["a"], "group": ["a"], "split": [None], "path": ["a.png"]})
    study = SimpleNamespace(name="skin", sources={"phantom": lambda _: Source("moles", False, tmp_path, records, "x")})
    monkeypatch.setattr(cards, "cards_folder", lambda: tmp_path)
    remedy = "Write it like the other cards there; pipelines/shared/README.md, Adding a study, says what it is for."
    for content, problem in {
        None: "moles.md does not exist: every source has a data card.",
        "no card": "moles.md does not begin with YAML between two lines of ---.",
        "---\na: [\n---\n": "moles.md: its first part is no YAML of keys and values.",
        "---\nname: moles\n---\n": "moles.md: title: field required.",
    }.items():
        if content is not None:
            (tmp_path / "moles.md").write_text(content)
        with pytest.raises(DataError) as caught:
            training_data(study, config)
        assert (caught.value.problem, caught.value.remedy) == (f"data_cards/{problem}", remedy)
    monkeypatch.setattr(type(STUDY), "sources", {"table": None})
    with pytest.raises(DataError, match="data=phantom: the study has no such source"):
        training_data(STUDY, config)


def test_a_copied_study_that_kept_its_name_is_told_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("pipelines.skin.study.STUDY", SimpleNamespace(name="moles"))
    text = mistake(capsys, monkeypatch, "skin", f"run_dir={tmp_path / 'run'}")
    assert "defines a study 'moles'.\nIts name must be 'skin'." in text
