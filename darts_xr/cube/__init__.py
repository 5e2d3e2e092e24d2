"""Items come in, one lazy Dataset a scene goes out: all bands a network may want, on the image's own pixel grid.

:func:`open_scene` joins image, vegetation index, terrain, Landsat trends and the valid mask; :func:`open_cube` stacks
rasters of many dates on one grid, and :func:`store_cube` writes them to one Zarr store. The kernels (:func:`ndvi`,
:func:`slope`, :func:`relative_elevation`) take arrays of any kind. :data:`BANDS` defines each band once, for training
and inference alike.
"""

import rioxarray  # noqa: F401  registers .rio on everything that the library returns

from darts_xr.cube.auxiliary import auxiliary_layers, neutral_layers
from darts_xr.cube.auxiliary_files import auxiliary_items, load_auxiliary
from darts_xr.cube.bands import BANDS, Band, scale_band, select_bands
from darts_xr.cube.gaps import coverage_gaps
from darts_xr.cube.indices import ndvi
from darts_xr.cube.landcover import landcover_coverage, landcover_for
from darts_xr.cube.measured import auxiliary_coverage
from darts_xr.cube.offsets import coregistration
from darts_xr.cube.scene import open_scene
from darts_xr.cube.store import StoredCube, store_cube
from darts_xr.cube.terrain import relative_elevation, slope
from darts_xr.cube.timecube import open_cube

__all__ = [
    "BANDS",
    "Band",
    "StoredCube",
    "auxiliary_coverage",
    "auxiliary_items",
    "auxiliary_layers",
    "coregistration",
    "coverage_gaps",
    "landcover_coverage",
    "landcover_for",
    "load_auxiliary",
    "ndvi",
    "neutral_layers",
    "open_cube",
    "open_scene",
    "relative_elevation",
    "scale_band",
    "select_bands",
    "slope",
    "store_cube",
]
