"""Files below a folder, found in one way for every study, and names for what is written about them.

Links to folders are followed (many people keep their data on another disk and link it). A folder is entered once, by
its own name before a link's, also where a link leads back into itself. What operating systems leave behind (`._*`,
`.DS_Store`, `Thumbs.db`, `__MACOSX`, anything hidden) is no data. The order is the natural one: `slice2` before
`slice10`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from pipelines.shared.data.dicom_files import looks_like_dicom
from pipelines.shared.errors import DataError

LITTER = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information", "lost+found"}
LONGEST = 150  # bytes of an output's name, so that a suffix fits into the 255 that file systems allow
UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\\ud800-\udfff]')  # what some file system refuses


def find_files(root: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """All files below a folder, relative to it, in natural order; with `suffixes` (lower case) only those.

    A link that leads nowhere is left out; `walk` has it.
    """
    return [f for f in walk(root) if (suffixes is None or f.suffix.lower() in suffixes) and (root / f).is_file()]


def walk(root: Path) -> list[Path]:
    """Everything below a folder but folders and litter, relative to it, in natural order; also broken links.

    Raises:
        DataError: a folder may not be read: what it holds would be missing without a word.
    """
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    places = [root]  # links are followed when all that lies below the root itself has been seen
    while places:
        for here, folders, files in os.walk(places.pop(0), onerror=_unreadable):
            status = Path(here).stat()
            if (status.st_dev, status.st_ino) in entered:  # a link back into a folder above, or to one seen already
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted((f for f in folders if not is_litter(f)), key=natural)
            places += [Path(here, f) for f in folders if Path(here, f).is_symlink()]
            found += [Path(here, f).relative_to(root) for f in files if not is_litter(f)]
    return sorted(found, key=lambda path: natural(str(path)))


def _unreadable(failure: OSError) -> None:
    raise DataError(
        f"{failure.filename} cannot be read: {failure.strerror}.", "Allow it to be read, or move it out of the folder."
    )


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is left behind by an operating system, or hidden."""
    return name.startswith(".") or name.lower() in LITTER


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """The key that sorts names as people do: numbers by their value."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts], name


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content, whatever its name."""
    try:
        with path.open("rb") as file:
            return looks_like_dicom(file.read(132))
    except OSError:
        return False


def shown_name(relative: str | Path) -> str:
    """A path as text that any table and page can hold: bytes that are not UTF-8 appear as `\\xff`."""
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def output_name(relative: str | Path) -> str:
    """A file name, without a folder, for what is written about one input: the whole relative path, `/` as `__`.

    Any script is kept, so is the suffix (`a.svs` and `a.tif` are two slides). Two inputs never share a name: where the
    path holds what this writing could confuse, or is too long, a hash of the whole path follows.
    """
    path = str(relative)
    name = UNSAFE.sub("_", path.replace("/", "__"))
    plain = name == path.replace("/", "__") and not any(pair in path for pair in ("__", "_/", "/_"))
    if plain and len(name.encode()) <= LONGEST and name.strip(". "):
        return name
    whole = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return f"{name.encode()[:LONGEST].decode('utf-8', 'ignore')}-{whole}"


def kinds(files: Iterable[Path]) -> str:
    """How many files there are of each suffix, in words: `3 .txt, 1 .heic, 2 without suffix`."""
    counts = Counter(f.suffix.lower() or "without suffix" for f in files)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
