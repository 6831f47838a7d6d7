"""Names that identify nobody: keyed hashes in place of patients, studies and file names."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Names:
    """Keyed hashes in place of identifiers: the same identifier gives the same name under the same salt."""

    salt: str

    def of(self, kind: str, value: object) -> str:
        """`<kind>-<12 hex digits>`."""
        message = f"{kind}\0{value}".encode("utf-8", "surrogateescape")  # file names may be any bytes
        return f"{kind}-{hmac.new(self.salt.encode(), message, hashlib.sha256).hexdigest()[:12]}"


def salt_of(file: Path) -> str:
    """The salt in a file, made at random if there is none. Whoever has it can test a guessed identifier."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with suppress(FileExistsError):  # another process was faster
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as text:
                text.write(secrets.token_hex(16))
    return file.read_text().strip()
