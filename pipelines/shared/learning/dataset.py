"""From prepared arrays to batches, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines.shared.data.cache import Prepared
from pipelines.shared.errors import DataError
from pipelines.shared.seeds import seed_of

# An augmentation: prepared array and a 32-bit seed -> array of the same kind.
Augment = Callable[[np.ndarray, int], np.ndarray]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class PreparedDataset(Dataset[tuple[np.ndarray, np.ndarray, int]]):
    """Records as (array, target, position). Asked with (epoch, position), it augments.

    The augmentation's seed is a function of (seed, epoch, record id), so it does not matter which worker
    draws it, nor after what.
    """

    def __init__(
        self, prepared: Prepared, ids: Sequence[str], targets: np.ndarray, augment: Augment | None = None, seed: int = 0
    ) -> None:
        if not len(prepared) == len(ids) == len(targets):
            raise ValueError(
                f"{len(prepared)} arrays, {len(ids)} ids and {len(targets)} targets do not belong together."
            )
        self.prepared = prepared
        self.ids = [str(i) for i in ids]
        self.targets = np.asarray(targets, dtype=np.float32)
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
        epoch, position = key if isinstance(key, tuple) else (0, key)
        array = self.prepared.array(position)
        if self.augment is not None:
            seed = seed_of(self.seed, "augment", epoch, self.ids[position]) & 0xFFFFFFFF
            array = self.augment(array, seed)
        return array, self.targets[position], position


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch, as lists of (epoch, position), for one of several processes.

    The permutation depends on (seed, epoch) only. A last incomplete batch is left out (another one each epoch), unless
    it is the only one. `start` skips the batches that a resumed epoch has had. Every process gets an equal part of a
    batch, so that the mean of their gradients is the gradient of the whole.

    Raises:
        DataError: fewer records than processes.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
        order = torch.randperm(n, generator=generator).tolist()
        if n < world:
            raise DataError(f"{n} training records for {world} processes.", "Train on fewer processes.")
        batch_size = min(batch_size, n - n % world)
        batches = [order[i * batch_size : (i + 1) * batch_size] for i in range(n // batch_size)]
        self.batches = [[(epoch, position) for position in batch[rank::world]] for batch in batches[start:]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)


def collate(items: list[tuple[np.ndarray, np.ndarray, int]]) -> Batch:
    """Stack arrays and targets as they are; the model knows what its input looks like."""
    arrays, targets, positions = zip(*items, strict=True)
    return torch.from_numpy(np.stack(arrays)), torch.from_numpy(np.stack(targets)), torch.tensor(positions)


def loader(
    dataset: PreparedDataset, batches: Sequence[list[tuple[int, int]]] | EpochBatches, workers: int
) -> DataLoader[tuple[np.ndarray, np.ndarray, int]]:
    """A loader over given batches.

    Its base seed comes from a generator of its own, so that making one leaves torch's global generator untouched.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(0),
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
