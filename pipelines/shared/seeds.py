"""Seeds derived from what they are for, so that no random state ever needs to be carried along."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any description, the same on every machine: `seed_of(seed, "augment", epoch, record_id)`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
