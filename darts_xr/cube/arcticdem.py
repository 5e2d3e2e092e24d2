"""Find the ArcticDEM mosaic tiles of a scene through the published tile index."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import geopandas as gpd
import pandas as pd
import pystac
import shapely
from odc.geo.geobox import GeoBox

from darts_xr.errors import CRSError
from darts_xr.globe import grid_bounds, grid_outline
from darts_xr.stac import PROJECTION_EXTENSION, set_collection

COLLECTION = "arcticdem"
INDEX_CRS = "EPSG:3413"
# Heights of a tile lie beside its STAC document; version 3 has "registered" heights.
_SUFFIX = {"3.0": "_reg_dem.tif"}


def arcticdem_items(
    index: str | Path | gpd.GeoDataFrame, geobox: GeoBox, *, root: str | Path | None = None
) -> list[pystac.Item]:
    """Make STAC items of the ArcticDEM mosaic tiles that a scene touches.

    Parameters
    ----------
    index
        The mosaic tile index of the Polar Geospatial Center, a GeoParquet file or a GeoDataFrame (EPSG:3413).
    geobox
        The scene's pixel grid, anywhere north of about 60°, also across the antimeridian.
    root
        Folder or URL of a mirror with tiles as ``<supertile>/<dem id>_dem.tif``. By default the assets point
        to the public bucket that the index names.

    Returns
    -------
    list of pystac.Item
        Collection "arcticdem", one asset "dem" each, sorted by id; empty where there is no ArcticDEM.

    Raises
    ------
    CRSError
        If the index is not in EPSG:3413.
    """
    tiles = index if isinstance(index, gpd.GeoDataFrame) else gpd.read_parquet(index)
    if tiles.crs is None or tiles.crs != INDEX_CRS:
        raise CRSError(f"the ArcticDEM index must be in {INDEX_CRS}, not {tiles.crs}: is it the mosaic's?")
    outline = geobox.footprint(INDEX_CRS, npoints=200).geom
    touched = tiles.iloc[tiles.sindex.query(outline, predicate="intersects")].sort_values("dem_id")
    return [_item(tile, root) for _, tile in touched.iterrows()]


def _item(tile: pd.Series, root: str | Path | None) -> pystac.Item:
    name = str(tile["dem_id"])
    suffix = _SUFFIX.get(str(tile["release_ver"]), "_dem.tif")
    if root is not None:
        href = f"{root}/{tile['supertile']}/{name}{suffix}"
    else:
        # The index holds the address of a STAC browser whose path ends in the document's own address.
        document = urlsplit(tile["s3url"]).fragment or urlsplit(tile["s3url"]).path
        href = "https://" + document.partition("/external/")[2].removesuffix(".json") + suffix
    grid = GeoBox.from_bbox(tile.geometry.bounds, INDEX_CRS, resolution=float(tile["gsd"]))
    item = pystac.Item(
        id=name,
        geometry=shapely.geometry.mapping(grid_outline(grid)),
        bbox=list(grid_bounds(grid)),
        datetime=pd.Timestamp(tile["creationdate"]).to_pydatetime(),
        stac_extensions=[PROJECTION_EXTENSION],
        properties={"proj:code": INDEX_CRS, "gsd": float(tile["gsd"])},
    )
    set_collection(item, COLLECTION)
    bands = [{"name": "dem", "data_type": "float32", "nodata": -9999, "unit": "m"}]
    item.add_asset("dem", pystac.Asset(href, media_type=pystac.MediaType.COG, extra_fields={"bands": bands}))
    return item
