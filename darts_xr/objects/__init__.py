"""Objects: from a probability to polygons with statistics.

In comes one scene's lazy probability (float32 0 to 1, NaN where invalid). :func:`label_objects` numbers its
objects lazily, without those at the border and the small ones; :func:`vectorize` computes them into a
GeoDataFrame of polygons in EPSG:4326 with the statistics of the pixels inside; :func:`filter_water` and
:func:`filter_infrastructure` drop what lies in water or on infrastructure. Out goes that GeoDataFrame, which
``products`` turns into Level 1.
"""

from darts_xr.objects.filters import filter_infrastructure, filter_water
from darts_xr.objects.label import label_objects
from darts_xr.objects.members import member_objects
from darts_xr.objects.polygons import to_crs, vectorize

__all__ = ["filter_infrastructure", "filter_water", "label_objects", "member_objects", "to_crs", "vectorize"]
