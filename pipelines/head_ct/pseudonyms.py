"""Names that identify nobody: keyed hashes in place of patients, studies and file names."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipelines.shared.errors import DataError
from pipelines.shared.run_folder import write_atomically


@dataclass(frozen=True)
class Names:
    """Keyed hashes in place of identifiers: the same identifier gives the same name under the same salt."""

    salt: str

    def of(self, kind: str, value: object) -> str:
        """`<kind>-<12 hex digits>`."""
        message = f"{kind}\0{value}".encode("utf-8", "surrogateescape")  # file names may be any bytes
        return f"{kind}-{hmac.new(self.salt.encode(), message, hashlib.sha256).hexdigest()[:12]}"


def _write_salt(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # for its owner's eyes
    with os.fdopen(descriptor, "w") as text:
        text.write(secrets.token_hex(16))


def salt_of(file: Path) -> str:
    """The salt in a file, made at random if there is none. Whoever has it can test a guessed identifier.

    Of several processes that make one at a time, all get the first one's.

    Raises:
        DataError: the file is empty: names hashed without a salt could be guessed.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f"{file.name}.lock")):
            if not file.exists():  # another process may have been faster
                write_atomically(file, _write_salt)
    salt = file.read_text().strip()
    if not salt:
        raise DataError(
            f"{file} is empty; it should hold the secret that names are hashed with.",
            "Restore it from a copy. Without one, remove it: another secret is made, and names change with it.",
        )
    return salt
