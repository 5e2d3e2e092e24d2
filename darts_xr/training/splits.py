"""Which patches teach and which are scored: by scenes, region or blocks, never the same ground twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from darts_xr.errors import LeakageError, SettingsError
from darts_xr.globe import EQUAL_AREA

_STRICT = {"extra": "forbid"}
_LISTED = 3  # pairs named in a message
_TOUCH = (
    1.0  # m² that footprints may share where they only touch: outlines are rounded when they are transformed
)


@dataclass(frozen=True)
class Split:
    """How patches are divided.

    Parameters
    ----------
    by : {"scenes", "region", "block"}
        ``"scenes"`` and ``"region"``: ``validation`` names those that are scored. ``"block"``: square blocks of ground
        are drawn for validation; training patches that reach into one of them are left out.
    validation : tuple of str
        Scene ids or regions.
    side_km : float
        Side of a block.
    share : float
        Chance of a block to be drawn; one is at least.
    seed : int
        Of the draw.
    """

    by: Literal["scenes", "region", "block"]
    validation: tuple[str, ...] = ()
    side_km: float = 5.0
    share: float = 0.2
    seed: int = 0

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.by != "block" and not self.validation:
            raise SettingsError(f"split by {self.by} needs validation, the names of those that are scored")
        if not self.side_km > 0 or not 0 < self.share < 1:
            raise SettingsError(f"split takes a side_km above 0 and a share between 0 and 1, got {self}")


@dataclass(frozen=True)
class Parts:
    """Rows of the table of patches.

    Parameters
    ----------
    train, validation : numpy.ndarray
        Rows that teach, and rows that are scored.
    left_out : numpy.ndarray
        Rows that would teach but reach into ground that is scored.
    """

    train: NDArray[np.integer]
    validation: NDArray[np.integer]
    left_out: NDArray[np.integer]


def split_patches(table: gpd.GeoDataFrame, split: Split) -> Parts:
    """Divide patches into those that teach and those that are scored.

    Parameters
    ----------
    table : geopandas.GeoDataFrame
        ``PatchStore.table``.
    split : Split
        How.

    Returns
    -------
    Parts
        No training patch shares ground with a validation patch.

    Raises
    ------
    SettingsError
        A scene or a region is not there, or a part would be empty.
    LeakageError
        Scenes or regions of both sides show the same ground.

    Notes
    -----
    Nitze et al. 2025 held out three scenes; one training scene of iteration 6 overlaps them, which this refuses.

    Examples
    --------
    >>> parts = split_patches(store.table, Split("region", ("Taimyr",)))  # doctest: +SKIP
    """
    if split.by == "block":
        return _by_block(table, split)
    column = "scene" if split.by == "scenes" else "region"
    held = table[column].to_numpy()
    if missing := sorted(set(split.validation) - set(held)):
        raise SettingsError(
            f"split: no patch of {', '.join(missing)}; there are {', '.join(sorted(set(held)))}"
        )
    scored = np.isin(held, split.validation)
    parts = Parts(np.flatnonzero(~scored), np.flatnonzero(scored), np.empty(0, int))
    _check_parts(parts, split)
    check_leakage(table.iloc[parts.train], table.iloc[parts.validation])
    return parts


def _by_block(table: gpd.GeoDataFrame, split: Split) -> Parts:
    side = split.side_km * 1000
    centres = shapely.centroid(table.geometry.to_crs(EQUAL_AREA).to_numpy())
    blocks = np.stack(
        [np.floor(shapely.get_x(centres) / side), np.floor(shapely.get_y(centres) / side)], axis=1
    )
    distinct, number = np.unique(blocks.astype(int), axis=0, return_inverse=True)
    # Each block draws for itself, so that its part does not change when the set of patches grows.
    drawn = np.array([_chance(split.seed, b) for b in distinct])
    scored = drawn[number.ravel()] < max(split.share, drawn.min() + 1e-9)
    free = ground_apart(table, table.iloc[np.flatnonzero(scored)])
    reaching = np.setdiff1d(np.flatnonzero(~scored), free)
    parts = Parts(free, np.flatnonzero(scored), reaching)
    _check_parts(parts, split)
    return parts


def _chance(seed: int, block: NDArray[np.integer]) -> float:
    """Draw for one block, by its place alone; seeds of NumPy take no negative numbers."""
    return float(
        np.random.default_rng([seed, *abs(block).tolist(), *(block < 0).astype(int).tolist()]).random()
    )


def ground_apart(table: gpd.GeoDataFrame, scored: gpd.GeoDataFrame) -> NDArray[np.integer]:
    """Rows of patches that share no ground with those that are scored."""
    left, _ = _shared(table, scored)
    return np.setdiff1d(np.arange(len(table)), left)


def _check_parts(parts: Parts, split: Split) -> None:
    for name in ("train", "validation"):
        if not len(getattr(parts, name)):
            raise SettingsError(f"split by {split.by} leaves no patch for {name}; change what is held out")


def _shared(
    one: gpd.GeoDataFrame, other: gpd.GeoDataFrame
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Pairs of patches that show the same ground."""
    first, second = (frame.geometry.to_crs(EQUAL_AREA).to_numpy() for frame in (one, other))
    left, right = shapely.STRtree(second).query(first, predicate="intersects")
    common = shapely.area(shapely.intersection(first[left], second[right])) > _TOUCH
    return left[common], right[common]


def check_leakage(train: gpd.GeoDataFrame, validation: gpd.GeoDataFrame) -> None:
    """Refuse training and validation patches that show the same ground, on whatever day.

    Parameters
    ----------
    train, validation : geopandas.GeoDataFrame
        Rows of tables of patches, any CRS.

    Raises
    ------
    LeakageError
        The message names pairs of scenes and how many patches they share.

    Examples
    --------
    >>> check_leakage(store.table.iloc[parts.train], store.table.iloc[parts.validation])  # doctest: +SKIP
    """
    left, right = _shared(train, validation)
    if not len(left):
        return
    pairs = sorted(
        set(zip(train["scene"].to_numpy()[left], validation["scene"].to_numpy()[right], strict=True))
    )
    told = "; ".join(f"{a} and {b}" for a, b in pairs[:_LISTED])
    more = f"; and {len(pairs) - _LISTED} more" if len(pairs) > _LISTED else ""
    raise LeakageError(
        f"{len(set(left.tolist()))} training patches show ground that validation patches show too, in the scenes {told}"
        f"{more}. Scores on ground that was learnt say nothing: hold out whole regions, or split by block, which "
        "leaves such patches out."
    )


def leave_one_out(table: gpd.GeoDataFrame) -> Iterator[tuple[str, Parts]]:
    """Hold out one region after the other.

    Parameters
    ----------
    table : geopandas.GeoDataFrame
        ``PatchStore.table``.

    Yields
    ------
    tuple of str and Parts
        The region that is scored, and the parts.

    Raises
    ------
    SettingsError
        There are fewer than two regions.
    LeakageError
        Two regions show the same ground.
    """
    regions = sorted(table["region"].unique())
    if len(regions) < 2:
        raise SettingsError(
            f"leaving one region out needs two regions or more; there is {', '.join(regions)}"
        )
    for region in regions:
        yield region, split_patches(table, Split("region", (region,)))
