"""The files of the studies that arrive, under hashed names, and the room that they may take."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

from pipelines.head_ct.listen.journal import Journal
from pipelines.head_ct.pseudonyms import Names
from pipelines.shared.log import log
from pipelines.shared.run_folder import write_atomically

SUFFIX = ".dcm"


class NoRoom(Exception):
    """The disk is nearly full."""


class Store:
    """`<folder>/studies/<study>/<instance>.dcm`, each noted in the journal once it is on disk.

    Args:
        folder: of the node.
        journal: where it is noted.
        names: hashed names, those of `mode=predict`.
        free: bytes of the disk that must stay free.
    """

    def __init__(self, folder: Path, journal: Journal, names: Names, free: float) -> None:
        self.root, self.journal, self.names, self.free = folder / "studies", journal, names, free
        self.leaving = folder / "leaving"
        self._lock = threading.Lock()  # between what comes and what is removed
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def study(self, uid: str) -> str:
        """The hashed name of a Study Instance UID."""
        return self.names.of("ct", uid)

    def instance(self, uid: str) -> str:
        """The hashed name of a SOP Instance UID."""
        return self.names.of("in", uid)

    def take(self, study_uid: str, instance_uid: str, content: bytes) -> bool:
        """Put a file on disk, then into the journal; False if it was there just so.

        Raises:
            NoRoom: less of the disk is free than must stay free.
            UserError: it cannot be written.
        """
        if not self.room():
            raise NoRoom
        study, instance = self.study(study_uid), self.instance(instance_uid)
        digest = hashlib.sha256(content).hexdigest()
        file = self.root / study / f"{instance}{SUFFIX}"
        with self._lock:
            known = self.journal.digest(study, instance)
            if known not in (None, digest):
                log.warning(f"{study}: a slice came again with other content, which takes the place of the earlier one")
            if self.journal.removed(study):
                log.warning(f"{study}: slices come after its files were removed; they are not scored")
            if known != digest or not file.exists():
                first = not file.parent.exists()
                write_atomically(file, lambda aside: aside.write_bytes(content))
                for folder in (file.parent, self.root) if first else (file.parent,):
                    _settle(folder)
            return self.journal.received(study, instance, digest, time.time())

    def has(self, study: str, instance: str) -> bool:
        """Whether a file, by hashed names, is there."""
        return (self.root / study / f"{instance}{SUFFIX}").exists()

    def room(self) -> bool:
        """Whether the disk has room for more."""
        return shutil.disk_usage(self.root).free >= self.free

    def adopt(self) -> int:
        """Note the files that a process was killed over between disk and journal; how many there were."""
        shutil.rmtree(self.leaving, ignore_errors=True)
        for leftover in self.root.glob("*/.*.tmp"):
            leftover.unlink()
        found = 0
        for folder in self.root.iterdir():
            known = self.journal.instances(folder.name)
            for file in sorted(folder.glob(f"*{SUFFIX}")):
                if file.stem not in known:
                    for place in (folder, self.root):
                        _settle(place)
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    found += self.journal.received(folder.name, file.stem, digest, time.time())
        return found

    def remove_old(self, before: float) -> list[str]:
        """Remove the files of studies that nothing came for since, that are scored and whose results are sent.

        Where the disk is nearly full, results that nobody took are given up: they must not keep images away.

        Args:
            before: seconds since 1970.

        Returns:
            Studies whose files were removed.
        """
        self.leaving.mkdir(exist_ok=True, mode=0o700)
        with self._lock:
            full = not self.room()
            old = [e for e in self.journal.kept(before) if e.scored == e.revision and (full or not e.unsent)]
            for entry in old:
                folder = self.root / entry.study
                if folder.exists():  # out of the way in one step: half a folder would be adopted at the next start
                    folder.rename(self.leaving / entry.study)
                self.journal.forget_files(entry.study)
                log.info(f"{entry.study}: its files are removed")
        shutil.rmtree(self.leaving, ignore_errors=True)
        return [entry.study for entry in old]


def _settle(folder: Path) -> None:
    """A name in a folder survives a power cut from here on, as what it names does already."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
