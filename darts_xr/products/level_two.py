"""Level 2: one row per place and calendar year, in the columns of the paper's Table 6."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from darts_xr.errors import ProductError
from darts_xr.globe import require_crs
from darts_xr.objects.runs import components
from darts_xr.products.geometry import area_columns, geohashes, threaded, valid_polygons
from darts_xr.products.level_one import (
    INFORMATION,
    LEVEL1_INFORMATION,
    LEVEL2_INFORMATION,
    VERSION_COLUMNS,
    as_text,
    check_ids,
    image_date,
    require,
    row_ids,
)

LEVEL2_COLUMNS = (
    "id", "id_geohash", "year", "area_m2", "area_ha", "area_km2", "image_source", "n_features_level1",
    "id_geohash_level1", "earliest_date", "latest_date", "n_unique_dates", "pval_mean_of_mean_level1",
    "pval_mean_of_max_level1", *VERSION_COLUMNS, "geometry",
)  # fmt: skip
_NEEDED = (
    "id", "id_geohash", "date", "year", "image_source", "image_id", "pval_mean", "pval_max",
    "DARTS_dataset_version", "DARTS_AI_model_version", "DARTS_AI_model_threshold", "geometry",
)  # fmt: skip

# A straight edge of 30 m on the map bends by 0.05 mm in longitude and latitude, one of 100 m by 0.5 mm: polygons of one
# pixel grid that share an edge overlap, or gape, by less than this. A pixel has 9 m².
_SLIVER = 0.1  # m²

# --- array kernels -----------------------------------------------------------------------------------------


def overlap_groups(
    shapes: NDArray[np.object_], labels: NDArray[np.integer], touching: bool = False
) -> NDArray[np.int64]:
    """Find the connected group (0, 1, ... by first member) of each polygon; groups share one label."""
    # Boxes first: most of their pairs are of two years, or one pair the other way round, and need no geometry.
    left, right = shapely.STRtree(shapes).query(shapes)
    once = (left < right) & (labels[left] == labels[right])
    left, right = left[once], right[once]
    # Two threads that first use the index of one prepared polygon at a time end the process.
    shapely.destroy_prepared(shapes)
    meet = threaded(shapely.intersects if touching else _interiors_meet, shapes[left], shapes[right])
    left, right = left[meet], right[meet]
    return components(len(shapes), left, right)


def _interiors_meet(left: NDArray[np.object_], right: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether the interiors of pairs of polygons meet.

    In the middle of what their boxes share, most pairs that meet have a common inner point: that is found in a tenth of
    the time that all relations of two outlines take.
    """
    low = np.maximum(*(shapely.bounds(side)[:, :2] for side in (left, right)))
    high = np.minimum(*(shapely.bounds(side)[:, 2:] for side in (left, right)))
    middle = (low + high) / 2
    meet = shapely.contains_xy(left, *middle.T)
    at = np.flatnonzero(meet)
    meet[at] = shapely.contains_xy(right[at], *middle[at].T)
    at = np.flatnonzero(~meet)
    meet[at] = shapely.relate_pattern(left[at], right[at], "T********")
    at = at[meet[at]]  # a sliver is too thin to hold the middle but by a rare accident
    meet[at] = ~_only_slivers(left[at], right[at])
    return np.asarray(meet)


def _only_slivers(first: NDArray[np.object_], second: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Which pairs share no more area than two pixel edges that were projected with other vertices do."""
    shared = shapely.area(shapely.intersection(first, second))  # square degrees
    south, north = shapely.bounds(first)[:, 1], shapely.bounds(first)[:, 3]
    metres = 111_320.0**2 * np.cos(np.radians((south + north) / 2))
    return np.asarray(shared * metres < _SLIVER)


def union_by_group(shapes: NDArray[np.object_], group: NDArray[np.int64]) -> NDArray[np.object_]:
    """Union of each group's polygons; a polygon that is alone in its group stays as it is.

    Neighbours in each group are united pair by pair, round by round, in one vectorised call a round.
    """
    order = np.argsort(group, kind="stable")
    shapes, group = shapes[order].copy(), group[order]
    while True:
        begin = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        count = np.diff(begin, append=len(group))
        if len(group) == 0 or count.max() == 1:
            return shapes
        place = np.arange(len(group)) - np.repeat(begin, count)
        second = place % 2 == 1
        first = np.flatnonzero(second) - 1
        shapes[first] = threaded(shapely.union, shapes[first], shapes[second])
        shapes, group = shapes[~second], group[~second]


# --- labelled public function ------------------------------------------------------------------------------


def level2(level1: gpd.GeoDataFrame, *, touching: bool = False) -> gpd.GeoDataFrame:
    """Overlapping Level 1 polygons of each calendar year, dissolved into one feature per place.

    Columns, types and texts are those of Nitze et al. 2025 (Sci. Data 12:1512), Table 6. Every Level 1 row
    is a member of exactly one feature of its year. A polygon that overlaps no other keeps its geometry
    untouched. The result does not depend on the order of the rows. The paper unites "overlapping" polygons: two that
    share only an edge or a corner are two features, also where their projected edges overlap by a hair.

    Parameters
    ----------
    level1 : geopandas.GeoDataFrame
        Level 1 of any number of images and years.
    touching : bool
        Whether polygons that share only an edge or a corner are united. By default their interiors must
        overlap.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per feature, EPSG:4326, sorted by year and geohash: ``id`` (int64, that of its earliest member in a
        merged Level 1, so that later images leave it as it is), ``id_geohash``,
        ``year`` (int64), ``area_m2`` (int64), ``area_ha``, ``area_km2``, ``image_source``,
        ``n_features_level1`` (int64), ``id_geohash_level1`` (members' geohashes, sorted, comma-separated, each once),
        ``earliest_date``, ``latest_date``, ``n_unique_dates`` (int64), ``pval_mean_of_mean_level1``,
        ``pval_mean_of_max_level1`` (float64), five ``DARTS_`` columns, ``geometry``. ``attrs["repaired"]``
        lists geometries that were invalid.

    Raises
    ------
    ProductError
        If columns are missing, an id occurs twice in one image, a date is outside its year or contradicts its
        image id, or a geometry has no area.
    CRSError
        If ``level1`` has no CRS.

    Examples
    --------
    >>> import geopandas as gpd, shapely
    >>> from darts_xr.products import level1, merge_level1
    >>> def one_image(day, x):
    ...     feats = gpd.GeoDataFrame(
    ...         {f"pval_{s}": [0.5] for s in ("mean", "std", "min", "max", "p25", "p50", "p75")},
    ...         geometry=[shapely.box(x, 69, x + 0.002, 69.001)], crs=4326)
    ...     return level1(feats, {"item_id": f"202107{day}_201500_1034", "time": f"2021-07-{day}"})
    >>> year = level2(merge_level1([one_image("19", -139), one_image("24", -138.999)]))
    >>> year[["n_features_level1", "earliest_date", "latest_date"]].values.tolist()
    [[2, '2021-07-19', '2021-07-24']]
    """
    require_crs(level1, "level1")
    require(level1, _NEEDED, "Level 1")
    check_ids(level1)
    _check_dates(level1)
    rows = _sorted(level1.to_crs("EPSG:4326"), ["year", "id_geohash", "image_id", "id"])
    rows, repaired = valid_polygons(rows, _row_name(rows))
    group = overlap_groups(rows.geometry.to_numpy(), rows["year"].to_numpy(), touching)
    # GEOS works without Python's lock: meanwhile come the columns that need no shape.
    with ThreadPoolExecutor(1) as beside:
        united = beside.submit(union_by_group, rows.geometry.to_numpy(), group)
        columns = _columns_of_members(rows, group)
        shapes = united.result()
    columns |= {
        "id_geohash": as_text(geohashes(shapes)),
        **area_columns(gpd.GeoSeries(shapes, crs="EPSG:4326")),
    }
    out = _ordered(gpd.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326", copy=False))
    out.attrs = {"repaired": [*level1.attrs.get("repaired", []), *repaired], "touching": touching}
    return out


def update_level2(
    previous: gpd.GeoDataFrame,
    level1: gpd.GeoDataFrame,
    new: gpd.GeoDataFrame,
    *,
    touching: bool = False,
) -> gpd.GeoDataFrame:
    """Level 2 after new images, dissolved anew only in the years and places that these touch.

    Equal to ``level2`` of all rows, to the byte.

    Parameters
    ----------
    previous : geopandas.GeoDataFrame
        Level 2 of ``level1``.
    level1 : geopandas.GeoDataFrame
        The Level 1 rows that ``previous`` was made of.
    new : geopandas.GeoDataFrame
        Level 1 rows of images that are not in ``level1``.
    touching : bool
        As it was for ``previous``.

    Returns
    -------
    geopandas.GeoDataFrame
        As of :func:`level2`.

    Raises
    ------
    ProductError
        If an image of ``new`` is in ``level1`` already, or for the reasons of :func:`level2`.
    CRSError
        If a frame has no CRS.

    Examples
    --------
    >>> from darts_xr.products import empty_level1
    >>> len(update_level2(level2(empty_level1()), empty_level1(), empty_level1()))
    0
    """
    for frame, name in ((previous, "previous"), (level1, "level1"), (new, "new")):
        require_crs(frame, name)
    again = sorted(set(new["image_id"]) & set(level1["image_id"]))
    if again:
        raise ProductError(
            f"image {again[0]} is in Level 1 already; take its old rows out first, or leave it out"
        )
    shapes = previous.geometry.to_numpy()
    fresh, repaired = valid_polygons(new, _row_name(new))
    touched = _same_year(shapes, previous["year"], fresh.geometry.to_numpy(), new["year"], "intersects")
    # Features of one year share no inner point: a row belongs to the feature that any of its points is in.
    sound, _ = valid_polygons(level1, _row_name(level1))
    points = shapely.point_on_surface(sound.geometry.to_numpy())
    member = _same_year(points, level1["year"], shapes[touched], previous["year"][touched], "within")
    rows = gpd.GeoDataFrame(pd.concat([level1[member], new], ignore_index=True), crs=level1.crs)
    out = _ordered(pd.concat([previous[~touched], level2(rows, touching=touching)]))
    out.attrs = {"repaired": [*previous.attrs.get("repaired", []), *repaired], "touching": touching}
    return out


def _same_year(
    shapes: NDArray[np.object_], years: Any, others: NDArray[np.object_], other_years: Any, predicate: Any
) -> NDArray[np.bool_]:
    """Which shapes meet one of the others of their own year."""
    left, right = shapely.STRtree(others).query(shapes, predicate=predicate)
    hit = np.zeros(len(shapes), bool)
    hit[left[np.asarray(years)[left] == np.asarray(other_years)[right]]] = True
    return hit


def _ordered(features: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Sort features and put the columns in order."""
    out = _sorted(features, ["year", "id_geohash", "id_geohash_level1", "earliest_date", "area_m2"])
    return out[list(LEVEL2_COLUMNS)]


def _columns_of_members(rows: gpd.GeoDataFrame, group: NDArray[np.int64]) -> dict[str, Any]:
    """Columns of each group that come from its members' columns, not from their union."""
    count = np.bincount(group)
    n = len(count)
    # Members of each group by date, image and id. Dates and images as numbers in their order: texts are slow to sort.
    day, days = pd.factorize(rows["date"], sort=True)
    order = _by_date(rows, group, day)
    first = np.cumsum(count) - count
    earliest, latest = order[first], order[first + count - 1]
    another = np.ones(len(order), bool)  # another day than that of the member before
    another[1:] = np.diff(day[order]) != 0
    another[first] = True
    return {
        "id": row_ids(rows, earliest),
        "year": rows["year"].to_numpy(np.int64)[earliest],
        "image_source": _joined(rows["image_source"], group, n),
        "n_features_level1": count,
        "id_geohash_level1": _joined(rows["id_geohash"], group, n),
        "earliest_date": as_text(days[day[earliest]]),
        "latest_date": as_text(days[day[latest]]),
        "n_unique_dates": np.bincount(group[order], another, n).astype(np.int64),
        "pval_mean_of_mean_level1": np.bincount(group, rows["pval_mean"], n) / count,
        "pval_mean_of_max_level1": np.bincount(group, rows["pval_max"], n) / count,
        "DARTS_dataset_version": _joined(rows["DARTS_dataset_version"], group, n),
        "DARTS_dataset_information": _joined(_information(rows), group, n),
        "DARTS_processing_level": as_text(["level2"] * n),
        "DARTS_AI_model_version": _joined(rows["DARTS_AI_model_version"], group, n),
        "DARTS_AI_model_threshold": _joined(rows["DARTS_AI_model_threshold"], group, n),
    }


def _by_date(rows: gpd.GeoDataFrame, group: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order rows by group, and within a group by date, image and id."""
    order = np.lexsort((day, group))
    image, ids = np.zeros((2, len(rows)), np.int64)
    # Two members of one day, and two of one image, are rare; texts are slow to sort, and ids to make.
    if (tied := order[_like_a_neighbour(order, group, day)]).size:
        image[tied] = pd.factorize(rows["image_id"].iloc[tied], sort=True)[0]
        order = np.lexsort((image, day, group))
        if (tied := order[_like_a_neighbour(order, group, day, image)]).size:
            ids[tied] = row_ids(rows, tied)
            order = np.lexsort((ids, image, day, group))
    return order


def _like_a_neighbour(order: NDArray[np.int64], *keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ordered rows have the same keys as the row before or after."""
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        same &= np.diff(key[order]) == 0
    return np.append(same, False)[: len(order)] | np.append(False, same)[: len(order)]


def _information(rows: gpd.GeoDataFrame) -> pd.Series[str]:
    """Text on the data set for Level 2, from that of Level 1."""
    if "DARTS_dataset_information" not in rows:
        return pd.Series(f"{INFORMATION} - {LEVEL2_INFORMATION}", rows.index)
    texts = rows["DARTS_dataset_information"]
    distinct = texts.drop_duplicates()  # few, and pandas is slow with each
    named = distinct.str.removesuffix(f" - {LEVEL1_INFORMATION}") + f" - {LEVEL2_INFORMATION}"
    return texts.map(dict(zip(distinct, named, strict=True)))


def _sorted(rows: gpd.GeoDataFrame, names: list[str]) -> gpd.GeoDataFrame:
    """Sort rows, numbered anew."""
    return rows.iloc[_order(rows[names])].reset_index(drop=True)


def _order(keys: pd.DataFrame) -> NDArray[np.int64]:
    """Give the order of rows; equal ones stay in theirs. Arrow sorts texts four times as fast as pandas."""
    table = pa.table({name: pa.array(values) for name, values in keys.items()})
    return pc.sort_indices(table, sort_keys=[(name, "ascending") for name in keys]).to_numpy()


def _row_name(level1: gpd.GeoDataFrame) -> Callable[[int], str]:
    return lambda i: f"{level1['image_id'].iloc[i]} id {level1['id'].iloc[i]}"


def _joined(values: pd.Series[str], group: NDArray[np.int64], n: int) -> Any:
    """Each group's texts, sorted, comma-separated without blanks, each once."""
    pairs = pa.table({"group": group, "text": pa.array(values).cast(pa.string())}).drop_null()
    distinct = pairs["text"].unique().tolist()
    if len(distinct) == 1:
        return as_text(distinct * n)
    pairs = pairs.group_by(["group", "text"]).aggregate([])
    pairs = pairs.sort_by([("group", "ascending"), ("text", "ascending")])
    begin = np.searchsorted(pairs["group"].to_numpy(), np.arange(n + 1)).astype(np.int32)
    lists = pa.ListArray.from_arrays(begin, pairs["text"].combine_chunks())
    return as_text(pc.binary_join(lists, ",").to_numpy(zero_copy_only=False))


def _check_dates(level1: gpd.GeoDataFrame) -> None:
    days = level1.loc[~level1.duplicated(["date", "year"]).to_numpy(), ["image_id", "date", "year"]]
    of_year = days["date"].str[:4] == days["year"].astype(str)
    if not of_year.all():
        row = days.iloc[int(np.argmax(~of_year))]
        raise ProductError(
            f"image {row['image_id']}: date {row['date']!r} is not in the year {row['year']}; "
            "dates are YYYY-MM-DD and the year is theirs"
        )
    images = level1[["image_id", "date"]].drop_duplicates()
    # What most ids look like is seen sooner for all of them at once than by a pattern for each.
    day, known = pd.factorize(images["date"])
    usual = np.array([f"{date.replace('-', '')}_" for date in known], "U9")[day]
    begins = images["image_id"].to_numpy(object).astype("U9") == usual
    rare = images[~begins | images["image_id"].str.contains("-", regex=False).to_numpy(bool)]
    for image_id, date in zip(rare["image_id"].tolist(), rare["date"].tolist(), strict=True):
        named = image_date(image_id)
        if named is not None and named != date:
            raise ProductError(
                f"image {image_id}: its id names the date {named}, its rows {date}; correct the date column"
            )
