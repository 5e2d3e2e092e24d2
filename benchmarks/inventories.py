"""Published inventories against each other, twelve experts against each other: what agreement can be expected at all.

    python -m benchmarks.inventories ../shared/data --json out.json

Banks Island: the polygons of Huang 2022 (drawn from images of 2020) and Segal 2015 as detections, the points of
Lewkowicz and Way 2019 (1984 to 2016) as reference, with buffers of 0 to 500 m; what was surveyed is not published, so
both are limited to the convex hull of the polygons. Willow River: training labels of DARTS, dissolved by year, against
the polygons of Huang 2022, which are a source of ARTS. Ellesmere: predictions of a published network against its own
reference.
Peel: twelve experts, and beside them a rule on one band ratio, which is no network but knows what bare ground is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.features
import shapely

from darts_xr.assess import (
    Inventory,
    ReferenceTime,
    buffer_curve,
    expert_matrix,
    match_objects,
    read_inventory,
    recall_by_agreement,
    score_years,
)
from darts_xr.assess.tables import Comparison
from darts_xr.products.level_two import overlap_groups, union_by_group

_CRS = "EPSG:3571"
_BARE = 0.30  # NDVI below which the rule calls ground bare
_LEAST_M2 = 1_000.0


def _hull(inventory: Inventory) -> gpd.GeoSeries:
    whole = shapely.union_all(inventory.features.geometry.to_crs(_CRS).to_numpy())
    return gpd.GeoSeries([shapely.convex_hull(whole).buffer(1000)], crs=_CRS)


def banks_island(folder: Path) -> dict[str, pd.DataFrame]:
    """Scores by buffer, of all points and of those that were active in 2016."""
    points = read_inventory(folder / "Lewkowicz2019_points.xlsx").features
    curves = {}
    for name, file in (
        ("Huang 2022", "Huang2022/Banks_Island_slumps.shp"), ("Segal 2015", "Segal2015/Banks_Island_Slumps_V2.shp"),
    ):  # fmt: skip
        polygons = read_inventory(folder / file)
        for kind, chosen in (("all points", points), ("active in 2016", points[points["active_2016"]])):
            curves[f"{name}, {kind}"] = buffer_curve(polygons.features, chosen, coverage=_hull(polygons))
    return curves


def willow_river(data: Path) -> pd.DataFrame:
    """Training labels of each year, dissolved as Level 2 is, against Huang's polygons of 2020."""
    huang = read_inventory(data / "rts-inventories" / "Huang2022" / "Willow_River_Thaw_Slumps.shp")
    parts = [
        gpd.read_file(path)[["image_date", "label", "geometry"]]
        for path in sorted((data / "rts-training-labels").glob("TrainingLabel_*.gpkg"))
    ]
    labels = gpd.GeoDataFrame(pd.concat(parts, ignore_index=True)).to_crs(_CRS)
    seen = _hull(huang).iloc[0]
    labels = labels[labels.intersects(seen) & (labels["label"] == 1)]
    year = pd.to_datetime(labels["image_date"]).dt.year.to_numpy(np.int64)
    shapes = np.array(labels.geometry.to_numpy(), object)
    group = overlap_groups(shapes, year)
    level2 = gpd.GeoDataFrame(
        {"year": pd.Series(year).groupby(group).first().to_numpy()},
        geometry=union_by_group(shapes, group),
        crs=_CRS,
    )
    coverage = gpd.GeoDataFrame(
        {"year": sorted(set(year.tolist()))}, geometry=[seen] * len(set(year.tolist())), crs=_CRS
    )
    return score_years(level2, huang.features, coverage, comparison=Comparison(time=ReferenceTime()))


def ellesmere(folder: Path) -> pd.DataFrame:
    """Predictions, plain and post-processed, against the reference."""
    truth = gpd.read_file(folder / "polygons_reference_postprocessed.geojson")
    rows = []
    for kind in ("plain", "postprocessed"):
        found = gpd.read_file(folder / f"polygons_prediction_{kind}.geojson")
        rows.append({"kind": kind, **vars(match_objects(found, truth))})
    return pd.DataFrame(rows)


def bare_ground(folder: Path) -> gpd.GeoDataFrame:
    """Outlines of ground with an NDVI below 0.30 in the Sentinel-2 crop."""
    (path,) = [p for p in folder.rglob("*.tif") if "S2" in p.name.upper() or "SENTINEL" in p.name.upper()][:1]
    with rasterio.open(path) as data:
        red, nir = (data.read(band).astype(float) for band in (3, 7))
        ndvi = np.divide(nir - red, nir + red, out=np.ones_like(red), where=nir + red > 0)
        found = rasterio.features.shapes(
            (ndvi < _BARE).astype("uint8"), mask=ndvi < _BARE, transform=data.transform
        )
        outlines = gpd.GeoSeries([shapely.geometry.shape(shape) for shape, _ in found], crs=data.crs)
    return gpd.GeoDataFrame(geometry=outlines[outlines.area >= _LEAST_M2])


def peel(folder: Path) -> dict[str, pd.DataFrame]:
    """Matrix of the experts with the rule's row, and its recall by how many experts marked the ground."""
    drawings = {
        path.name: gpd.read_file(path / "Peel_digitized.shp")
        for path in sorted((folder / "experts").iterdir())
    }
    rule = bare_ground(folder / "imagery")
    matrix = expert_matrix(drawings, models={"NDVI rule": rule})
    return {"matrix": matrix.reset_index(), "recall": recall_by_agreement(rule, drawings)}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    inventories = args.data / "rts-inventories"
    tables: dict[str, Any] = {
        **banks_island(inventories),
        "Willow River, labels against Huang 2022": willow_river(args.data),
        "Ellesmere": ellesmere(args.data / "rts-dem-predictions-ellesmere"),
        **{f"Peel, {name}": table for name, table in peel(args.data / "rts-experts-peel").items()},
    }
    with pd.option_context("display.width", 220, "display.max_columns", 30):
        for title, table in tables.items():
            print(f"\n{title}\n{table.round(3).to_string(index=False)}")
    if args.json:
        plain = {title: json.loads(table.to_json(orient="records")) for title, table in tables.items()}
        args.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
