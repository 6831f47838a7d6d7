"""Jobs of schedulers and sweeps: told to stop, started again, side by side, two in one folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cutting
import pytest
from conftest import PATIENCE, run_command, wait_until
from cutting import TINY

from pipelines.shared.errors import UserError
from pipelines.shared.screen import cpu_count, parallel_map

QUICK = [*TINY, "trainer.epochs=1", "trainer.max_steps=8"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """For the tests to which it makes no difference whether phantom and prepared pictures are there."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_sigterm_is_answered_with_resume_me_before_the_work_is_done(tmp_path):
    output, run = tmp_path / "output.txt", tmp_path / "run"
    arguments = [*QUICK, "data.phantom.patients=200", f"cache.dir={tmp_path / 'cache'}", f"run_dir={run}"]

    process = cutting.start("retinopathy", arguments, output)
    wait_until(lambda: list((tmp_path / "cache").glob("prepared/*/*.lock")), "the cache to be prepared")
    process.terminate()
    assert cutting.finish(process) == 75

    process = cutting.start("retinopathy", ["mode=resume", f"run={run}"], output)
    wait_until(lambda: (run / "checkpoint" / "network.pt").exists(), "the first step")
    process.terminate()
    assert cutting.finish(process) == 75
    assert cutting.run("retinopathy", ["mode=resume", f"run={run}"], output) == 0
    assert (run / "report.html").exists()


def test_the_number_of_processors_can_be_given(monkeypatch):
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    allowed = cpu_count()
    assert 1 <= allowed <= (os.cpu_count() or 1)
    for given, expected in (("3", 3), ("default", allowed), ("0", allowed)):
        monkeypatch.setenv("PYTHON_CPU_COUNT", given)
        assert cpu_count() == expected


def _note_what_is_loaded(file: str) -> None:
    Path(file).write_text(" ".join(sys.modules))


@pytest.mark.slow
def test_a_run_in_a_test_begins_with_torch_loaded(tmp_path):
    """Python has one fork server for all that ask for one: another module may have told it to load something else."""
    process = cutting.CONTEXT.Process(target=_note_what_is_loaded, args=(str(tmp_path / "modules"),))
    process.start()
    process.join(timeout=PATIENCE)
    assert {"torch", "timm", "sklearn.manifold", "hypothesis"} <= set((tmp_path / "modules").read_text().split())


def _stop(*_: object) -> None:
    raise SystemExit(75)


def _stop_while_work_is_given_out(folder: str) -> None:
    begin, begun = ProcessPoolExecutor.submit, []

    def submit(pool, function, *arguments):
        begun.append(begin(pool, function, *arguments))
        return begun[-1] if len(begun) < 3 else _stop()

    ProcessPoolExecutor.submit = submit
    parallel_map(time.sleep, [600] * 4, "Waiting", workers=2)


def _stop_soon(folder: str) -> None:
    import signal

    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(3)
    parallel_map(time.sleep, [600] * 4, "Waiting", workers=2)  # a function that takes no time to import


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [_stop_soon, _stop_while_work_is_given_out])
def test_work_in_other_processes_is_not_waited_for(stopped):
    process = cutting.CONTEXT.Process(target=stopped, args=("",))
    process.start()
    process.join(timeout=PATIENCE)
    assert process.exitcode == 75


def _fail_in_a_worker(file: str) -> None:
    """One item fails at once, a worker is busy with another, many wait; what threads print goes into a file."""
    with Path(file).open("w") as said, contextlib.redirect_stderr(said), contextlib.suppress(TypeError):
        parallel_map(time.sleep, ["a word", *[600] * 200], "Waiting", workers=2)


@pytest.mark.slow
def test_a_failure_in_a_worker_is_raised_and_nothing_else_is_printed(tmp_path):
    process = cutting.CONTEXT.Process(target=_fail_in_a_worker, args=(str(tmp_path / "said"),))
    process.start()
    process.join(timeout=PATIENCE)
    assert process.exitcode == 0
    assert (tmp_path / "said").read_text() == ""


def test_a_process_that_the_system_ends_is_named_with_what_to_do():
    with pytest.raises(
        UserError, match=r"Counting: the system ended one of 2 processes.*\n.*PYTHON_CPU_COUNT=1 before"
    ):
        parallel_map(os._exit, [0, 0], "Counting", workers=2)


def _slow_workers(file: str) -> None:
    parallel_map(_note_and_sleep, [file, file], "Waiting", workers=2)


def _note_and_sleep(file: str) -> None:
    with Path(file).open("a") as text:
        text.write(f"{os.getpid()}\n")
    time.sleep(600)


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    file = tmp_path / "workers"
    file.touch()
    process = cutting.CONTEXT.Process(target=_slow_workers, args=(str(file),))
    process.start()
    wait_until(lambda: len(file.read_text().split()) == 2, "two workers")
    process.kill()
    wait_until(lambda: not any(_alive(int(pid)) for pid in file.read_text().split()), "the workers to end")


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except OSError:
        return False


@pytest.mark.slow
def test_a_requeued_job_finds_its_own_checkpoint(tmp_path, cache):
    output = tmp_path / "output.txt"
    common = [*QUICK, f"cache.dir={cache}"]
    # Without a run_dir of its own the folder is named by the time, which a requeue changes.
    for number, place in enumerate([[f"run_dir={tmp_path}/chosen"], []]):
        job = {"SLURM_JOB_ID": f"99{number}", "SLURM_RESTART_COUNT": "0"}
        for again in ("0", "1"):
            job["SLURM_RESTART_COUNT"] = again
            cut = ("inside an epoch", 4)
            assert cutting.run("retinopathy", [*common, *place], output, cut, tmp_path, **job) == -9
        assert "goes on in epoch 1 after batch 3" in output.read_text().split("run folder")[-1]
    assert len(list(tmp_path.glob("outputs/retinopathy/*"))) == 1
    other = {"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "1"}
    assert cutting.run("retinopathy", [*common, f"run_dir={tmp_path}/chosen"], output, None, tmp_path, **other) == 2
    assert "exists and is not empty" in output.read_text()


@pytest.mark.slow
def test_two_solo_runs_in_one_folder_are_detected(tmp_path):
    output, run = tmp_path / "output.txt", tmp_path / "run"
    first = cutting.start("retinopathy", [*QUICK, f"cache.dir={tmp_path / 'cache'}", f"run_dir={run}"], output)
    wait_until(lambda: (run / "environment.json").exists(), "the first run")
    second = tmp_path / "second.txt"
    assert cutting.run("retinopathy", ["mode=resume", f"run={run}"], second) == 2
    assert "another run is writing there" in second.read_text()
    assert cutting.finish(first) == 0


def sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | {"PYTHONFAULTHANDLER": "1"}
    return run_command([sys.executable, "-m", "pipelines.retinopathy", "-m", *arguments], 300, environment=environment)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_runs_its_jobs_side_by_side_and_says_which_failed(tmp_path, cache, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher", reason="extra `sweep`")
    folder = tmp_path / "sweep"
    arguments = [
        *QUICK, f"hydra/launcher={launcher}", f"cache.dir={cache}", f"run_dir={folder}",
        "trainer.optimizer=adamw,adamq",
    ]  # fmt: skip
    done = sweep(*arguments)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "At least one of the sweep's jobs failed." in done.stderr
    jobs = sorted(p for p in folder.iterdir() if p.name[0].isdigit())
    assert [p.name.split("-")[0] for p in jobs] == ["0", "1"]
    assert (jobs[0] / "report.html").exists()
    assert not (jobs[1] / "report.html").exists()
    assert "trainer.optimizer=adamq" in (jobs[1] / "run.log").read_text()
