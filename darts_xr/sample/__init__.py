"""A synthetic world to learn, test and measure with: no pixel of it is real, and everything it writes says so.

A seed and a size come in; a folder goes out that looks like a Planet delivery with its auxiliary layers: a static
STAC catalogue of PSScene-like images with ``udm2``, an auxiliary catalogue (a DEM at 2 m, Landsat trends, annual
land cover), infrastructure polygons, and the true outlines of the thaw slumps on every date. Reflectances,
contrasts, outline sizes and shapes follow figures measured on real images (see ``docs/sample-world.md``).
Landscapes are functions of position, so a scene of any size is drawn block by block and never held in memory.
"""

from darts_xr.sample.world import SampleWorld, read_truth, write_world

__all__ = ["SampleWorld", "read_truth", "write_world"]
