"""Which patches a step gets, and how they come from disk: the order is a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorstore
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from darts_xr.cube.bands import VALID
from darts_xr.training.mining import HardGround
from darts_xr.training.patches import PatchStore, kind_of
from darts_xr.training.settings import Recipe, Sampling

_VISITS = 8  # times that the published code showed each patch in an epoch
Batch = dict[str, torch.Tensor]


class PatchDataset(Dataset[Batch]):
    """Patches of a store in the types in which they are kept; scaling and augmentation are the device's work.

    Parameters
    ----------
    store : PatchStore
        Where they lie.
    rows : sequence of int
        Which of them, by their place in the table.
    """

    def __init__(self, store: PatchStore, rows: Sequence[int] | NDArray[np.integer]) -> None:
        self.store, self.rows = store, np.asarray(rows, int)
        self._arrays: dict[str, tensorstore.TensorStore] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": None}  # each process opens its own

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return {name: plane[0] for name, plane in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Read a batch at once: torch asks for it by this name, and needs nothing put together afterwards."""
        if self._arrays is None:
            self._arrays = self.store.arrays()
        rows = self.rows[list(indices)]
        reading = {name: array[rows].read() for name, array in self._arrays.items()}
        batch = {name: torch.from_numpy(read.result()) for name, read in reading.items()}
        return batch | {"row": torch.from_numpy(rows)}


def _as_read(batch: Any) -> Batch:
    together: Batch = batch
    return together


def planes_of(batch: Batch, layout: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
    """Bands of a batch by name, each (patch, y, x) float32, and ``valid``."""
    planes = {
        name: batch[kind][:, place].float()
        for kind, names in layout.items()
        for place, name in enumerate(names)
    }
    planes[VALID] = planes[VALID] > 0
    return planes


class Draws(Sampler[int]):
    """Order of the patches in an epoch, the same for the same seed and epoch; goes on in the middle of one.

    Parameters
    ----------
    store : PatchStore
        Where the patches lie.
    rows : numpy.ndarray
        Which of them, by their place in the table.
    recipe : Recipe
        Seed, shares and number.
    epoch, skip : int
        Where to begin.
    rank, world : int
        Number of this process and of all that train together; each gets another part of the same order.
    hard : HardGround, optional
        Asked when an epoch begins which patches are hard.
    """

    def __init__(
        self,
        store: PatchStore,
        rows: NDArray[np.integer],
        recipe: Recipe,
        *,
        hard: HardGround | None = None,
        epoch: int = 0,
        skip: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.store, self.rows, self.recipe, self.hard = store, rows, recipe, hard or HardGround()
        self.epoch, self.skip, self.rank, self.world = epoch, skip, rank, world
        self.count = steps_per_epoch(len(rows), recipe, world) * recipe.batch

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch; Lightning calls it."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __iter__(self) -> Iterator[int]:
        kinds = kind_of(self.store.table.iloc[self.rows], self.hard.patches(self.rows))
        order = draw(kinds, self.count * self.world, self.recipe.sampling, [self.recipe.seed, self.epoch])
        mine = order[self.rank :: self.world][self.skip :]
        return iter(mine.tolist())


def steps_per_epoch(patches: int, recipe: Recipe, world: int = 1) -> int:
    """Count the steps of an epoch: whole batches only, the same number in each process."""
    wanted = recipe.patches_per_epoch or _VISITS * patches
    return max(1, wanted // (recipe.batch * world))


def draw(
    kinds: NDArray[np.str_], count: int, sampling: Sampling | None, seed: Sequence[int]
) -> NDArray[np.integer]:
    """Numbers of the patches to show: shuffled passes over each kind, mixed in the shares asked for."""
    rng = np.random.default_rng(list(seed))
    if sampling is None:
        return _passes(np.arange(len(kinds)), count, rng)
    shares = {
        kind: getattr(sampling, kind) for kind in ("positive", "empty", "hard") if (kinds == kind).any()
    }
    total = sum(shares.values()) or 1.0
    counts = {kind: int(count * share / total) for kind, share in shares.items()}
    first = next(iter(shares))
    counts[first] += count - sum(counts.values())
    parts = [_passes(np.flatnonzero(kinds == kind), number, rng) for kind, number in counts.items()]
    return rng.permutation(np.concatenate(parts))


def _passes(rows: NDArray[np.integer], count: int, rng: np.random.Generator) -> NDArray[np.integer]:
    """Shuffled passes over some rows, one after the other, ``count`` in all."""
    rounds = -(-count // max(1, len(rows)))
    return np.concatenate([rng.permutation(rows) for _ in range(max(1, rounds))])[:count]


def training_loader(
    store: PatchStore, rows: NDArray[np.integer], recipe: Recipe, **options: Any
) -> DataLoader[Batch]:
    """Batches of one epoch after the other; ``options`` go to :class:`Draws`."""
    draws = Draws(store, rows, recipe, **options)
    return _loader(PatchDataset(store, rows), recipe, sampler=draws, drop_last=True)


def plain_loader(store: PatchStore, rows: NDArray[np.integer], recipe: Recipe) -> DataLoader[Batch]:
    """Every patch once, in the order of the rows."""
    return _loader(PatchDataset(store, rows), recipe)


def _loader(dataset: PatchDataset, recipe: Recipe, **options: Any) -> DataLoader[Batch]:
    workers: dict[str, Any] = (
        # Not fork: the parent's torch and Zarr have threads, which a forked child would wait for for ever.
        {"persistent_workers": True, "prefetch_factor": 4, "multiprocessing_context": "forkserver"}
        if recipe.workers
        else {}
    )
    return DataLoader(
        dataset, batch_size=recipe.batch, num_workers=recipe.workers, pin_memory=torch.cuda.is_available(),
        collate_fn=_as_read, **options, **workers,
    )  # fmt: skip
