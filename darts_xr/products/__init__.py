"""Products: from the polygons of one image to the files that others load.

In come GeoDataFrames of :mod:`darts_xr.objects` and the scene that each belongs to; :func:`level1` gives them
the columns of the paper's Table 5, :func:`level2` dissolves them per calendar year (Table 6),
:func:`valid_polygon` and :func:`coverage` say what was seen at all (Table 4), :func:`site_table` follows each
site over the years and :func:`table1` sums all up (Table 1). Out go GeoDataFrames in EPSG:4326 with areas in a
pole-centred equal-area projection, and through :func:`write_vectors` GeoParquet and GeoPackage files that are
the same bytes every time. Beside them stand the objects that were removed (:func:`removed_objects`) and the
disagreement of the networks (:func:`member_spread`).
"""

from darts_xr.products.cog import binary_objects, probability_percent, write_raster
from darts_xr.products.coverage_files import coverage, valid_polygon
from darts_xr.products.files import product_name, write_vectors
from darts_xr.products.histories import HISTORY_COLUMNS, site_histories
from darts_xr.products.level_one import LEVEL1_COLUMNS, describe_dataset, empty_level1, level1, merge_level1
from darts_xr.products.level_two import LEVEL2_COLUMNS, level2, update_level2
from darts_xr.products.quicklook import write_quicklook
from darts_xr.products.removed import REMOVED_COLUMNS, filter_rejected, member_spread, removed_objects
from darts_xr.products.sites import site_table
from darts_xr.products.styles import PALETTES
from darts_xr.products.table_one import TABLE1_COLUMNS, table1, table_text, write_table

__all__ = [
    "HISTORY_COLUMNS",
    "LEVEL1_COLUMNS",
    "LEVEL2_COLUMNS",
    "PALETTES",
    "REMOVED_COLUMNS",
    "TABLE1_COLUMNS",
    "binary_objects",
    "coverage",
    "describe_dataset",
    "empty_level1",
    "filter_rejected",
    "level1",
    "level2",
    "member_spread",
    "merge_level1",
    "probability_percent",
    "product_name",
    "removed_objects",
    "site_histories",
    "site_table",
    "table1",
    "table_text",
    "update_level2",
    "valid_polygon",
    "write_quicklook",
    "write_raster",
    "write_table",
    "write_vectors",
]
