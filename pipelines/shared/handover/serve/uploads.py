"""What a request may bring: files of bounded number and size, archives that stay bounded, paths below one folder.

A file is written under a name that its sender cannot choose freely: the last part of what was given, without anything
that leads elsewhere. What is refused is said in words, with what helps.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipelines.shared.config import ServeSection
from pipelines.shared.errors import UserError
from pipelines.shared.files import UNSAFE, is_litter

PIECE = 1 << 20  # bytes that are copied at a time
LONGEST = 120  # characters of a name


class Refused(UserError):
    """What a request brings cannot be taken. `status`: of HTTP."""

    def __init__(self, problem: str, remedy: str, status: int = 422) -> None:
        super().__init__(problem, remedy)
        self.status = status


def safe_name(name: str, number: int = 0) -> str:
    """A file name without a folder, from whatever a client or an archive calls it.

    The suffix is kept, and so is a plain name: WFDB's headers name their signal files.
    """
    last = UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).strip(". ")
    if len(last) > LONGEST:
        stem, dot, suffix = last.rpartition(".")
        last = f"{stem[: LONGEST - 20]}{dot}{suffix[:19]}" if dot else last[:LONGEST]
    return last or f"file_{number}"


@dataclass
class Room:
    """What one request may still write below its folder."""

    folder: Path
    limits: ServeSection
    files: int = 0
    unpacked: int = 0

    def place(self, name: str) -> Path:
        """Where a file of this name goes.

        Raises:
            Refused: there are too many files, or two of this name.
        """
        self.files += 1
        if self.files > self.limits.files:
            raise Refused(
                f"The request holds more than {self.limits.files:,} files.",
                "Send fewer at a time; whoever runs the service can raise serve.files.",
                413,
            )
        file = self.folder / safe_name(name, self.files)
        if file.exists():
            raise Refused(
                "Two files of the request have the same name.", "Give them different names; folders do not count."
            )
        return file

    def take(self, name: str, content: BinaryIO) -> None:
        """Write a file, or the files of an archive.

        Raises:
            Refused: an archive that is damaged, encrypted or too large; too many files, or two of one name.
        """
        if _is_zip(content):
            self.unpack(content)
            return
        with self.place(name).open("xb") as out:
            while piece := content.read(PIECE):
                out.write(piece)

    def unpack(self, content: BinaryIO) -> None:
        """Write the files of an archive. Sizes are counted as they are written: what it says of itself is no limit."""
        try:
            with zipfile.ZipFile(content) as archive:
                members = [m for m in archive.infolist() if not m.is_dir() and not _litter(m.filename)]
                if len(members) + self.files > self.limits.files:
                    self.files = self.limits.files
                for member in members:
                    self._extract(archive, member)
        except Refused:
            raise
        except (
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            NotImplementedError,
            EOFError,
            ValueError,
            OSError,
        ) as failure:
            raise Refused(f"The archive cannot be read: {_words(failure)}.", "Make it again, as a plain zip.") from None
        except Exception as failure:  # zlib, lzma and bz2 have errors of their own
            raise Refused(
                f"The archive is damaged ({type(failure).__name__}).", "Make it again, as a plain zip."
            ) from None

    def _extract(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        if member.flag_bits & 1:
            raise Refused("The archive is encrypted.", "Send it without a password.")
        limit = int(self.limits.unpacked_mb * 1e6)
        with archive.open(member) as packed, self.place(member.filename).open("xb") as out:
            while piece := packed.read(PIECE):
                self.unpacked += len(piece)
                if self.unpacked > limit:
                    raise Refused(
                        f"The archive holds more than {self.limits.unpacked_mb:,.0f} MB.",
                        "Send less at a time; whoever runs the service can raise serve.unpacked_mb.",
                        413,
                    )
                out.write(piece)


def _is_zip(content: BinaryIO) -> bool:
    start = content.read(4)
    content.seek(0)
    return start in (b"PK\3\4", b"PK\5\6")


def _litter(name: str) -> bool:
    return any(is_litter(part) for part in re.split(r"[/\\]", name) if part not in ("", ".", ".."))


def _words(failure: Exception) -> str:
    """Without what the archive calls its files."""
    return type(failure).__name__ if isinstance(failure, OSError) else str(failure).split("'")[0].strip().rstrip(".:")


def below(root: str | None, path: str) -> Path:
    """The path of a file or folder below the allowed root, relative to it.

    Raises:
        Refused: no root, or the path leads elsewhere (also by a link), or there is nothing; the words are the same, so
            that nobody learns what lies outside.
    """
    if root is None:
        raise Refused(
            "This service takes no paths.", "Send the file, or have whoever runs the service set serve.root.", 403
        )
    base = Path(root).resolve()
    try:
        found = (base / path).resolve(strict=True)
        relative = found.relative_to(base)
    except (OSError, ValueError, RuntimeError):  # not there, elsewhere, a NUL, a loop of links
        relative = None
    if relative is None or not (found.is_file() or found.is_dir()) or relative == Path():
        raise Refused(
            "There is no such file below the service's folder.", "Give a path relative to it, such as slides/a.svs."
        )
    return relative


def too_large(limit_mb: float) -> Refused:
    """What is said of a request that is larger than it may be."""
    return Refused(
        f"The request is larger than {limit_mb:,.0f} MB.",
        "Send less at a time; whoever runs the service can raise serve.upload_mb.",
        413,
    )
