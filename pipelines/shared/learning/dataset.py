"""From prepared arrays to batches, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines.shared.data.cache import Prepared
from pipelines.shared.errors import DataError
from pipelines.shared.learning.ahead import made_ahead, sent
from pipelines.shared.seeds import seed_of

# An augmentation: prepared array and a 32-bit seed -> array of the same kind.
Augment = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class OnDevice:
    """An augmentation of which the larger part happens to whole batches, where the network is.

    Attributes:
        begin: prepared array and a 32-bit seed -> array, and the numbers that say what is still to be done to it.
        finish: the arrays of a batch and these numbers (batch, numbers), on the device -> arrays.
        elsewhere: what takes its place where the network is on no GPU; None: nothing does.
    """

    begin: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    finish: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    elsewhere: Augment | None = None

    def __call__(self, array: np.ndarray, seed: int) -> np.ndarray:
        """All of it, for one array in main memory."""
        if self.elsewhere:
            return self.elsewhere(array, seed)
        begun, later = self.begin(array, seed)
        finished: np.ndarray = self.finish(torch.from_numpy(begun)[None], torch.from_numpy(later)[None])[0].numpy()
        return finished


# What a dataset is asked for: epoch, position, and which time it is in this epoch (0: the first).
Key = tuple[int, int, int]
# A record: array, target, position, and what is still to be done to the array.
Item = tuple[np.ndarray, np.ndarray, int, np.ndarray]
Gathered = tuple[torch.Tensor, np.ndarray, list[int], np.ndarray]  # the same of a batch
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # arrays, targets, positions
CPU = torch.device("cpu")
NOTHING = np.zeros(0, np.float32)


class PreparedDataset(Dataset[Item]):
    """Records as (array, target, position, what is still to be done to the array). Asked with a `Key`, it augments.

    The augmentation's seed is a function of (seed, epoch, record id, which time), so it does not matter which worker
    draws it, nor after what.

    Attributes:
        shares: how often each record is shown per epoch, on average; None: once (see `balanced_shares`).
    """

    def __init__(
        self,
        prepared: Prepared,
        ids: Sequence[str],
        targets: np.ndarray,
        augment: Augment | None = None,
        seed: int = 0,
        shares: np.ndarray | None = None,
    ) -> None:
        if not len(prepared) == len(ids) == len(targets):
            raise ValueError(
                f"{len(prepared)} arrays, {len(ids)} ids and {len(targets)} targets do not belong together."
            )
        self.prepared = prepared
        self.ids = np.array([str(i) for i in ids], np.str_)  # one array: see `cache.Places`
        self.targets = np.asarray(targets, dtype=np.float32)
        self.augment = augment
        self.seed = seed
        self.shares = shares

    def __len__(self) -> int:
        return len(self.ids)

    def on(self, device: torch.device) -> PreparedDataset:
        """The same for a network on this device, see `OnDevice`."""
        if not isinstance(self.augment, OnDevice) or self.augment.elsewhere is None or device.type == "cuda":
            return self
        other = copy(self)
        other.augment = self.augment.elsewhere
        return other

    def __getitem__(self, key: int | Key) -> Item:
        epoch, position, time = key if isinstance(key, tuple) else (0, key, 0)
        array, later = self.prepared.array(position), NOTHING
        if self.augment is not None:
            again = [time] if time else []
            seed = seed_of(self.seed, "augment", epoch, str(self.ids[position]), *again) & 0xFFFFFFFF
            if isinstance(self.augment, OnDevice):
                array, later = self.augment.begin(array, seed)
            else:
                array = self.augment(array, seed)
        return array, self.targets[position], position, later


def balanced_shares(strata: np.ndarray, power: float) -> np.ndarray:
    """How often each record is shown per epoch, on average, so that classes come as often as their size ** (1 - power).

    Args:
        strata: (records,), the class of each record.
        power: 0 shows every record once, 1 shows all classes equally often.

    Returns:
        float64 (records,), mean 1: an epoch is as long as before.
    """
    _, members, counts = np.unique(strata, return_inverse=True, return_counts=True)
    shares = counts[members].astype(float) ** -power
    scaled: np.ndarray = shares * len(shares) / shares.sum()
    return scaled


def epoch_order(n: int, seed: int, epoch: int, shares: np.ndarray | None = None) -> list[Key]:
    """What one epoch shows, in order: a function of (seed, epoch) alone.

    With `shares` by systematic sampling (Madow, Annals of Mathematical Statistics 1949): a record whose share is 2.3 is
    shown two or three times, one whose share is 0.4 in four of ten epochs, and their sum is always n.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    order = torch.randperm(n, generator=generator)
    if shares is None:
        return [(epoch, position, 0) for position in order.tolist()]
    marks = torch.from_numpy(shares)[order].cumsum(0) + torch.rand(1, generator=generator, dtype=torch.float64)
    marks[-1] = n  # but for rounding it lies there
    times = marks.floor().long().clamp(max=n).diff(prepend=torch.zeros(1, dtype=torch.long)).tolist()
    shown = [(epoch, p, time) for p, count in zip(order.tolist(), times, strict=True) for time in range(count)]
    return [shown[i] for i in torch.randperm(n, generator=generator).tolist()]


class EpochBatches(Sampler[list[Key]]):
    """The batches of one epoch, for one of several processes.

    The order depends on (seed, epoch) only. A last incomplete batch is left out (another one each epoch), unless
    it is the only one. `start` skips the batches that a resumed epoch has had. Every process gets an equal part of a
    batch, so that the mean of their gradients is the gradient of the whole. `shares`: see `epoch_order`.

    Raises:
        DataError: fewer records than processes.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        shares: np.ndarray | None = None,
    ) -> None:
        order = epoch_order(n, seed, epoch, shares)
        if n < world:
            raise DataError(f"{n} training records for {world} processes.", "Train on fewer processes.")
        batch_size = min(batch_size, n - n % world)
        batches = [order[i * batch_size : (i + 1) * batch_size] for i in range(n // batch_size)]
        self.batches = [batch[rank::world] for batch in batches[start:]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class _Waiting(Sampler[list[Key]]):
    """The batches that no worker has been given yet; more may come while it is read."""

    def __init__(self) -> None:
        self.batches: deque[list[Key]] = deque()

    def __iter__(self) -> Iterator[list[Key]]:
        return self

    def __next__(self) -> list[Key]:
        if not self.batches:
            raise StopIteration
        return self.batches.popleft()


class Loader:
    """Batches of a dataset. Its worker processes start at the first batch and live as long as the loader does.

    What they do depends on the keys of a batch alone, not on what they did before. The base seed comes from a generator
    of its own, so that making a loader leaves torch's global generator untouched. For a GPU a batch is copied (and
    augmented, see `OnDevice`) while the one before it is computed with.

    Args:
        dataset: what is read.
        workers: processes; 0 reads in this one.
        device: where arrays and targets arrive; positions stay in main memory.
    """

    def __init__(self, dataset: PreparedDataset, workers: int = 0, device: torch.device = CPU) -> None:
        self.dataset, self.device = dataset.on(device), device
        self._waiting = _Waiting()
        self._begun: list[list[Key]] = []  # batches after the last call's, with which the workers have begun
        self._loader = DataLoader(
            self.dataset,
            batch_sampler=self._waiting,
            num_workers=workers,
            collate_fn=_gathered,
            generator=torch.Generator().manual_seed(0),
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None,
            persistent_workers=workers > 0,
        )

    def __call__(self, batches: Iterable[list[Key]], then: Iterable[list[Key]] = ()) -> Iterator[Batch]:
        """These batches, in their order; of an earlier call whatever is left is forgotten.

        Args:
            then: what will be asked for next: workers begin with it as soon as they are done with `batches`, so that an
                epoch does not begin with a GPU that waits.
        """
        wanted, then = list(batches), list(then)
        if wanted and wanted == self._begun:
            self._waiting.batches += then
        else:
            self._waiting.batches = deque(wanted + then)
            self._running = iter(self._loader)
        self._begun = []  # whoever stops in the middle begins anew
        found = (_there(next(self._running), self.dataset.augment, self.device) for _ in wanted)
        yield from made_ahead(found, self.device)
        self._begun = then


def _gathered(items: list[Item]) -> Gathered:
    """A batch as workers hand it over: a tensor costs a connection from process to process, so only arrays are one."""
    arrays, targets, positions, later = zip(*items, strict=True)
    return torch.from_numpy(np.stack(arrays)), np.stack(targets), list(positions), np.stack(later)


def _there(batch: Gathered, augment: Augment | None, device: torch.device) -> Batch:
    """A batch on its device; what is still to be done to it is done."""
    arrays, targets, positions, later = batch
    arrays = sent(arrays, device)
    if isinstance(augment, OnDevice):
        arrays = augment.finish(arrays, sent(torch.from_numpy(later), device))
    return arrays, sent(torch.from_numpy(targets), device), torch.tensor(positions)


def batch_of(dataset: PreparedDataset, keys: Sequence[int | Key], device: torch.device = CPU) -> Batch:
    """Arrays and targets stacked as they are; the model knows what its input looks like."""
    dataset = dataset.on(device)
    return _there(_gathered([dataset[key] for key in keys]), dataset.augment, device)
