"""Labels and scenes brought together: by id, else by day and place; what found no partner is told, both ways."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pystac
import shapely
from shapely.geometry.base import BaseGeometry

from darts_xr.errors import LabelError
from darts_xr.globe import EQUAL_AREA
from darts_xr.training.labels import Labels, complete_id

_LISTED = 5  # ids named in a message


@dataclass(frozen=True)
class SceneLabels:
    """What the labels say of one scene.

    Parameters
    ----------
    item : pystac.Item
        The scene.
    outlines : geopandas.GeoDataFrame
        Its outlines; none where it was looked at and shows no slump.
    region, iteration : str
        Region of most outlines, and the last iteration.
    footprint : shapely geometry, optional
        What was looked at, EPSG:4326.
    """

    item: pystac.Item
    outlines: gpd.GeoDataFrame
    region: str
    iteration: str
    footprint: BaseGeometry | None


@dataclass(frozen=True)
class MatchReport:
    """How labels and scenes went together.

    Parameters
    ----------
    scenes : pandas.DataFrame
        By scene id: ``date``, ``region``, ``iteration``, ``how`` (``"id"``, ``"completed id"``, ``"day and place"``,
        ``"no outline"``), ``slumps``, ``negatives``, ``ignored`` (outlines), ``area_km2`` of the slumps.
    unmatched : geopandas.GeoDataFrame
        Outlines that meet no scene, with the reason in ``why``.
    unlabelled : tuple of str
        Scenes that no label set looked at; nothing is known of them, so they teach nothing.
    area : pandas.DataFrame
        Area of slumps in km², years by regions.
    notes : dict
        What reading the labels did.
    version : str
        Version of the labels.
    """

    scenes: pd.DataFrame
    unmatched: gpd.GeoDataFrame
    unlabelled: tuple[str, ...]
    area: pd.DataFrame
    notes: dict[str, int] = field(hash=False)
    version: str

    def to_dict(self) -> dict[str, Any]:
        """Give the counts for a record."""
        return {
            "version": self.version,
            "scenes": len(self.scenes),
            "scenes_without_slumps": int((self.scenes["slumps"] == 0).sum()),
            "slumps": int(self.scenes["slumps"].sum()),
            "unmatched_outlines": len(self.unmatched),
            "unlabelled_scenes": len(self.unlabelled),
            "area_km2": round(float(self.scenes["area_km2"].sum()), 4),
            "regions": sorted(self.scenes["region"].unique().tolist()),
            **self.notes,
        }

    def __str__(self) -> str:
        facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.to_dict().items())
        return f"Match of labels and scenes: {facts}\n\nArea of slumps, km²:\n{self.area.to_string()}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(key.replace('_', ' '))}</th><td>{html.escape(str(value))}</td></tr>"
            for key, value in self.to_dict().items()
        )
        return f"<table><caption>Match of labels and scenes</caption>{rows}</table>{self.area.to_html()}"


def _pair(
    labels: Labels, items: dict[str, pystac.Item], days: int
) -> tuple[list[list[str]], list[str], list[str]]:
    """For each outline the scenes that show it, how they were found, and why there are none."""
    outlines = labels.outlines
    known = set(items)
    footprints = {name: shapely.geometry.shape(item.geometry or {}) for name, item in items.items()}
    dates = {
        name: np.datetime64(f"{item.datetime:%Y-%m-%d}") for name, item in items.items() if item.datetime
    }
    complete = {
        image_id: (image_id if image_id in known else complete_id(image_id, known))
        for image_id in outlines["image_id"].dropna().unique()
    }
    names = list(footprints)
    tree = shapely.STRtree([footprints[name] for name in names])
    found: list[list[str]] = []
    how: list[str] = []
    why: list[str] = []
    for image_id, date, shape in zip(outlines["image_id"], outlines["date"], outlines.geometry, strict=True):
        name = complete.get(image_id) if image_id is not None else None
        if name is not None:
            meets = bool(shapely.intersects(footprints[name], shape))
            found.append([name] if meets else [])
            how.append("id" if name == image_id else "completed id")
            why.append("" if meets else f"lies outside of its scene {name}")
            continue
        over = [names[place] for place in tree.query(shape, predicate="intersects")]
        reach = np.timedelta64(days, "D")
        near = [
            n
            for n in over
            if date is not None and n in dates and abs(dates[n] - np.datetime64(date)) <= reach
        ]
        found.append(sorted(near))
        how.append("day and place")
        if near:
            why.append("")
        elif over:
            why.append(
                f"no scene of {date or 'a known day'} shows its place"
                + ("" if image_id is None else f", and {image_id} is not there")
            )
        else:
            why.append(
                "no scene shows its place" + ("" if image_id is None else f", and {image_id} is not there")
            )
    return found, how, why


def match_labels(
    labels: Labels, items: Iterable[pystac.Item], *, days: int = 0, allow_unmatched: Sequence[str] = ()
) -> tuple[list[SceneLabels], MatchReport]:
    """Find the scene of each outline.

    Parameters
    ----------
    labels : Labels
        From :func:`read_labels`.
    items : iterable of pystac.Item
        Scenes of a catalogue.
    days : int
        Days by which an outline that names no scene of the catalogue may differ from the scene's.
    allow_unmatched : sequence of str
        Image ids, files, or iterations whose outlines may meet no scene.

    Returns
    -------
    tuple of list of SceneLabels, and MatchReport
        Scenes with labels in the order of the items; nothing is read of their pixels.

    Raises
    ------
    LabelError
        There is no scene, or an outline meets none and nobody allowed it; the message names images and reasons.

    Examples
    --------
    >>> scenes, report = match_labels(labels, darts_xr.search("catalog.json"))  # doctest: +SKIP
    """
    by_id = {item.id: item for item in items}
    if not by_id:
        raise LabelError("There is no scene to match the labels with.")
    outlines = labels.outlines
    found, how, why = _pair(labels, by_id, days)
    lost = np.array([not names for names in found], bool)
    unmatched = gpd.GeoDataFrame(
        outlines[lost].assign(why=[w for w, no in zip(why, lost, strict=True) if no])
    )
    allowed = unmatched[["image_id", "source", "iteration"]].isin(list(allow_unmatched)).any(axis=1)
    if len(refused := unmatched[~allowed]):
        names = refused["image_id"].fillna("without id") + " (" + refused["source"] + "): " + refused["why"]
        counts = names.value_counts()
        told = "; ".join(f"{n} outlines of {name}" for name, n in counts.head(_LISTED).items())
        more = f"; and of {len(counts) - _LISTED} more" if len(counts) > _LISTED else ""
        raise LabelError(
            f"{len(refused)} of {len(outlines)} outlines meet no scene: {told}{more}. Add the scenes to the catalogue, "
            "or allow it by naming their image ids, files or iterations in allow_unmatched."
        )
    rows = pd.DataFrame(
        [
            (name, place, way)
            for place, (names, way) in enumerate(zip(found, how, strict=True))
            for name in names
        ],
        columns=["scene", "place", "how"],
    )
    looked_at = _looked_at(labels, set(by_id))
    scenes, table = [], []
    area = shapely.area(outlines.geometry.to_crs(EQUAL_AREA).to_numpy()) / 1e6
    for name, item in by_id.items():
        mine = rows[rows["scene"] == name]
        if mine.empty and name not in looked_at:
            continue
        own = gpd.GeoDataFrame(outlines.iloc[mine["place"].to_numpy()])
        iteration, footprint = looked_at.get(name, (None, None))
        region = own["region"].mode().iloc[0] if len(own) else "unknown"
        iteration = max([*own["iteration"], *([iteration] if iteration else [])])
        scenes.append(SceneLabels(item, own, region, iteration, footprint))
        slump = (own["kind"] == "slump").to_numpy()
        table.append(
            {
                "scene": name, "date": f"{item.datetime:%Y-%m-%d}" if item.datetime else "", "region": region,
                "iteration": iteration, "how": mine["how"].mode().iloc[0] if len(mine) else "no outline",
                "slumps": int(slump.sum()), "negatives": int((own["kind"] == "negative").sum()),
                "ignored": int((own["kind"] == "ignore").sum()),
                "area_km2": float(area[mine["place"].to_numpy()][slump].sum()),
            }
        )  # fmt: skip
    columns = ["scene", "date", "region", "iteration", "how", "slumps", "negatives", "ignored", "area_km2"]
    frame = pd.DataFrame(table, columns=columns).set_index("scene")
    years = frame.assign(year=frame["date"].str[:4])
    pivot = years.pivot_table("area_km2", "year", "region", "sum", fill_value=0.0)
    matched = {scene.item.id for scene in scenes}
    report = MatchReport(
        frame, unmatched, tuple(n for n in by_id if n not in matched), pivot, labels.notes, labels.version
    )
    return scenes, report


def _looked_at(labels: Labels, known: set[str]) -> dict[str, tuple[str, BaseGeometry | None]]:
    """Scenes that were looked at: their last iteration and what was seen of them."""
    seen: dict[str, tuple[str, BaseGeometry | None]] = {}
    for image_id, iteration, shape in zip(
        labels.footprints["image_id"], labels.footprints["iteration"], labels.footprints.geometry, strict=True
    ):
        name = complete_id(image_id, known)
        if name is None:
            continue
        before = seen.get(name)
        if before is not None and before[1] is not None and shape is not None:
            shape = shapely.union(before[1], shape)  # one image, labelled in two sites
        seen[name] = (max(iteration, before[0]) if before else iteration, shape)
    return seen
