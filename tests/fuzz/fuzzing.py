"""Damaged files through the project's readers: each in a process that may die, hang or fill its memory.

A `Format` says how sound samples are made and how they are read. A case is a format, a seed and a number: from these
three alone follow which sample it takes, which of its files it damages and how. Its outcome is that the sample was
accepted, refused in words (the errors that the project promises), or a fault: any other exception, a crash, a hang,
memory beyond the limit, or an answer that cannot be.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from mutations import mutated

from pipelines.shared.errors import BadFile, UserError

SECONDS = 20  # of a processor, for one case; a machine that is busy makes nobody hang
WAITING = 10  # times as long by the clock, for one that waits instead of computing
MEMORY = 3 << 30  # bytes that one case may ask for; the largest picture that is read takes two thirds of it
LONGEST_LINE = 2_100  # characters of a line that a person is told


@dataclass(frozen=True)
class Format:
    """A kind of file and who reads it.

    Attributes:
        name: for the command line.
        make: fills a folder with samples, a folder each.
        read: reads a sample as the project does. Raises nothing but what the project promises, AssertionError where it
            finds that an answer cannot be.
        files: which files of a sample are damaged (patterns of `Path.rglob`).
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], None]
    files: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Case:
    """What follows from format, seed and number: a sample with one damaged file."""

    format: str
    seed: int
    number: int

    def build(self, samples: Path, files: Iterable[str], folder: Path) -> Path:
        """Copy the sample to a folder and damage a file of it.

        Returns:
            The damaged file.
        """
        rng = np.random.default_rng([self.seed, zlib.crc32(self.format.encode()), self.number])
        every = sorted(p for p in samples.iterdir() if p.is_dir())
        sample = every[int(rng.integers(len(every)))]
        shutil.copytree(sample, folder)
        chosen = sorted({p for pattern in files for p in folder.rglob(pattern) if p.is_file()})
        file = chosen[int(rng.integers(len(chosen)))]
        file.write_bytes(mutated(file.read_bytes(), rng))
        return file


@dataclass(frozen=True)
class Outcome:
    """`kind`: accepted, refused or fault; `words`: what was said, or the traceback."""

    case: Case
    kind: str
    words: str


def outcome_of(read: Callable[[Path], None], folder: Path) -> tuple[str, str]:
    """What reading a sample came to: kind and words."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read(folder)
    except (BadFile, UserError) as promised:
        words = f"{type(promised).__name__}: {promised}"
        if isinstance(promised, BadFile) and "\n" in words:
            return "fault", f"{words}\nthe reason for one file has several lines"
        longest = max(words.split("\n"), key=len)
        if len(longest) > LONGEST_LINE:
            return "fault", f"{longest[:LONGEST_LINE]}\na line of {len(longest)} characters"
        return "refused", words
    except BaseException:  # what a library raises may be no Exception
        return "fault", traceback.format_exc()
    return "accepted", ""


# --- a process of its own ---


def _work(formats: list[Format], samples: Path, work: Path, seconds: float, memory: int, pipe: Connection) -> None:
    """Answers numbers of cases until it is told to end. What the readers do wrong ends this process alone."""
    by_name = {f.name: f for f in formats}
    notes = (work / "trace").open("w")
    faulthandler.enable(notes)
    faulthandler.register(signal.SIGXCPU, notes, all_threads=True, chain=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", category=RuntimeWarning, module=r"pipelines\.")
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)  # what libraries in C say
    pipe.send(None)  # ready
    while True:
        case = pipe.recv()
        if case is None:
            return
        format_ = by_name[case.format]
        folder = work / f"{case.format}-{case.number}"
        case.build(samples / case.format, format_.files, folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))
        before = _size()
        resource.setrlimit(resource.RLIMIT_AS, (before + memory, resource.RLIM_INFINITY))
        kind, words = outcome_of(format_.read, folder)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        pipe.send(Outcome(case, kind, words))
        shutil.rmtree(folder, ignore_errors=True)


def _size() -> int:
    """Bytes of address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


CONTEXT = multiprocessing.get_context("forkserver")
# What it loads beforehand is set by the program that runs (fuzz.py, tests/cutting.py): there is one for all contexts.


class Worker:
    """A process that reads cases, started again when one of them ended it."""

    def __init__(self, formats: list[Format], samples: Path, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.arguments = (formats, samples, Path(tempfile.mkdtemp(prefix="fuzz-")), seconds, memory)
        self.process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        shutil.rmtree(self.arguments[2], ignore_errors=True)

    def run(self, case: Case) -> Outcome:
        """One case, whatever it does."""
        if self.process is None:
            self.pipe, theirs = CONTEXT.Pipe()
            self.process = CONTEXT.Process(target=_work, args=(*self.arguments, theirs), daemon=True)
            self.process.start()
            theirs.close()
            self.pipe.recv()  # ready: what is imported first is none of the case's time
        self.pipe.send(case)
        *_, work, seconds, _ = self.arguments
        if self.pipe.poll(seconds * WAITING):
            with contextlib.suppress(EOFError, ConnectionResetError):
                answer: Outcome = self.pipe.recv()
                return answer
            self.process.join()
            code = self.process.exitcode or 0
            hung = code == -signal.SIGXCPU
            why = f"hang: more than {seconds:g} s of a processor" if hung else f"crash: exit status {code}"
        else:
            self.process.kill()
            self.process.join()
            why = f"hang: waits for more than {seconds * WAITING:g} s"
        self.process = None
        trace = (work / "trace").read_text()[-4000:]
        shutil.rmtree(work / f"{case.format}-{case.number}", ignore_errors=True)
        return Outcome(case, "fault", f"{trace}\n{why}")


def run_cases(worker: Worker, cases: Iterable[Case]) -> Iterator[Outcome]:
    """The outcome of each case, in order."""
    for case in cases:
        yield worker.run(case)


def samples_of(format_: Format, folder: Path) -> None:
    """Make a format's samples below a folder, if they are not there, and see that they are read as they are."""
    place = folder / format_.name
    if place.is_dir():
        return
    aside = folder / f".{format_.name}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    format_.make(aside)
    for sample in sorted(aside.iterdir()):
        copy = folder / f".{format_.name}-{os.getpid()}-sound"
        shutil.copytree(sample, copy)
        try:
            format_.read(copy)
        except Exception as failure:
            raise RuntimeError(f"The sound sample {format_.name}/{sample.name} is not read: {failure}") from failure
        finally:
            shutil.rmtree(copy)
    aside.rename(place)
