"""Retrogressive thaw slumps from PlanetScope images, on labelled arrays.

Deliveries (:mod:`darts_xr.planet`) and catalogues (:mod:`darts_xr.catalog`) give STAC items; :mod:`darts_xr.cube`
makes one lazy Dataset of a scene; :mod:`darts_xr.inference` turns it into a probability; :mod:`darts_xr.objects` into
polygons; :mod:`darts_xr.products` into the published products; :mod:`darts_xr.assess` into scores. Everything is lazy
until asked, nothing here prints, and no function creates a cluster but :func:`start_cluster`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("darts-xr")

# Where each public name lives. Names load on first use, so that `import darts_xr` stays free of torch,
# dask_cuda and matplotlib.
_HOMES = {
    "DartsError": "errors",
    "planet_items": "planet",
    "search": "catalog",
    "load_items": "catalog",
    "auxiliary_items": "cube",
    "coverage_gaps": "cube",
    "landcover_for": "cube",
    "open_scene": "cube",
    "open_cube": "cube",
    "store_cube": "cube",
    "ndvi": "cube",
    "slope": "cube",
    "relative_elevation": "cube",
    "load_ensemble": "inference",
    "predict": "inference",
    "predict_members": "inference",
    "label_objects": "objects",
    "vectorize": "objects",
    "filter_water": "objects",
    "filter_infrastructure": "objects",
    "level1": "products",
    "level2": "products",
    "coverage": "products",
    "match_objects": "assess",
    "threshold_sweep": "assess",
    "h3_density": "assess",
    "explore": "looking",
    "start_cluster": "cluster",
}
_SUBPACKAGES = (
    "assess", "catalog", "cluster", "cube", "errors", "inference", "looking", "objects", "planet", "products", "sample",
    "training",
)  # fmt: skip

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import_module("darts_xr.accessor")  # whoever gets a scene gets .darts with it
        value = getattr(import_module(f"darts_xr.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES:
        return import_module(f"darts_xr.{name}")
    raise AttributeError(f"module 'darts_xr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBPACKAGES})
