"""Does a scene look like those that a network learnt from? Distances between distributions of its bands.

A checkpoint carries for each band how its values were distributed in the training scenes, on the published scale, and
how far the most unusual training scene lay from all of them together. A scene that lies
farther is unlike anything that was seen: its probabilities are guesses.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
import xarray as xr
from numpy.typing import NDArray

from darts_xr.catalog.assets import scene_files
from darts_xr.cube.bands import BANDS, VALID, Band, scale_band
from darts_xr.cube.indices import ndvi
from darts_xr.errors import CheckpointError
from darts_xr.inference.ensemble import Ensemble
from darts_xr.planet.bands import IMAGE_BANDS
from darts_xr.planet.masks import valid_mask
from darts_xr.rasters import naming_read_errors, open_raster

_EDGES = np.linspace(-0.25, 2.0, 91)  # scaled values; what lies beyond falls into the outer bins
_SLACK = 1.5  # a scene may lie this many times as far out as the most unusual one of the training
_FLOOR = 0.02  # least limit, scaled units: below it distances are those of weather
_OVERVIEW = 768  # px; longer side of what is read of a scene


@dataclass(frozen=True)
class Drift:
    """How far a scene lies from the training scenes.

    Parameters
    ----------
    distances, limits : dict
        By band: distance of the distributions (Wasserstein 1, scaled units), and from where on it is unusual.
    """

    distances: dict[str, float]
    limits: dict[str, float]

    @property
    def unusual(self) -> tuple[str, ...]:
        """Bands whose distribution is unlike that of the training scenes."""
        return tuple(name for name, d in self.distances.items() if d > self.limits[name])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for records."""
        rounded = {name: round(d, 4) for name, d in self.distances.items()}
        return {"distances": rounded, "limits": self.limits, "unusual": list(self.unusual)}

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{d:.3f}</td><td>{self.limits[name]:.3f}</td></tr>"
            for name, d in self.distances.items()
        )
        return f"<table><caption>Distance from the training scenes, and limit</caption>{rows}</table>"


# --- array kernels -----------------------------------------------------------------------------------------


def band_histogram(band: Band, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count a band's valid pixels in the fixed bins, on the published scale: networks may have scales of their own."""
    scaled = scale_band(BANDS.get(band.name, band), np.asarray(values)[valid])
    place = np.clip(np.searchsorted(_EDGES, scaled, "right") - 1, 0, len(_EDGES) - 2)
    return np.bincount(place, minlength=len(_EDGES) - 1).astype(np.int64)


def _distance(one: NDArray[np.number], other: NDArray[np.number]) -> float:
    """Wasserstein 1 of two histograms, scaled units."""
    shares = [h / max(h.sum(), 1) for h in (one, other)]
    return float(np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).sum() * (_EDGES[1] - _EDGES[0]))


def summarise(scenes: Iterable[Mapping[str, NDArray[np.int64]]]) -> dict[str, Any]:
    """Statistics for a checkpoint from the histograms of each training scene.

    Parameters
    ----------
    scenes : iterable of mapping
        For each scene, histograms by band from :func:`band_histogram`.

    Returns
    -------
    dict
        By band ``counts`` (share of each bin) and ``limit``; ready for JSON.
    """
    per_scene = list(scenes)
    out: dict[str, Any] = {}
    for name in per_scene[0] if per_scene else ():
        counts = [scene[name] for scene in per_scene]
        total = np.sum(counts, axis=0)
        farthest = max(_distance(scene, total) for scene in counts)
        shares = np.round(total / max(int(total.sum()), 1), 6)
        out[name] = {"shares": shares.tolist(), "limit": round(max(_FLOOR, _SLACK * farthest), 4)}
    return out


# --- a scene -----------------------------------------------------------------------------------------------


def _overview(item: pystac.Item, rule: str | None) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Image bands and valid mask of a scene at low resolution, from the files' overviews."""
    files = scene_files(item, mask_rule=rule)
    image = _read_small(files.image.href, [files.positions[name] for name in IMAGE_BANDS])
    mask = _read_small(files.mask.href, list(range(1, files.mask.count + 1)))
    valid = valid_mask(mask, files.rule.name) & (image != 0).any(axis=0)
    planes: dict[str, NDArray[Any]] = dict(zip(IMAGE_BANDS, image, strict=True))
    planes["ndvi"] = ndvi(planes["red"], planes["nir"])
    return planes, valid


def _read_small(href: str, bands: list[int]) -> NDArray[Any]:
    with open_raster(href) as data, naming_read_errors(href):
        scale = max(1.0, max(data.shape) / _OVERVIEW)
        shape = tuple(max(1, round(n / scale)) for n in data.shape)
        pixels: NDArray[Any] = data.read(bands, out_shape=(len(bands), *shape))
    return pixels


def scene_drift(
    scene: pystac.Item | xr.Dataset, ensemble: Ensemble, *, mask_rule: str | None = None
) -> Drift:
    """Compare the distribution of a scene's bands with that of the training scenes.

    Parameters
    ----------
    scene : pystac.Item or xarray.Dataset
        An item, of which image and mask are read at low resolution, so terrain and trends are not compared; or a scene
        of :func:`darts_xr.open_scene`, of which all bands are compared and every eighth pixel is computed.
    ensemble : Ensemble
        Networks whose checkpoints carry statistics.
    mask_rule : str, optional
        Rule of the valid mask, for an item.

    Returns
    -------
    Drift
        Distances by band; empty where no pixel is valid. Computed at once.

    Raises
    ------
    CheckpointError
        No member carries statistics.

    Examples
    --------
    >>> scene_drift(items[0], load_ensemble("demo")).unusual  # doctest: +SKIP
    """
    known: dict[str, tuple[Band, Mapping[str, Any]]] = {}
    for member in ensemble.members:
        for band in member.bands:
            if member.statistics and band.name in member.statistics:
                known.setdefault(band.name, (band, member.statistics[band.name]))
    if not known:
        raise CheckpointError(
            f"No checkpoint of {ensemble.name} carries the statistics of its training scenes, so drift cannot be told. "
            "Networks trained with this version of darts_xr have them."
        )
    if isinstance(scene, xr.Dataset):
        thin = scene.isel(y=slice(None, None, 8), x=slice(None, None, 8))
        names = [name for name in known if name in thin]
        computed = thin[[*names, VALID]].compute()
        planes = {name: computed[name].values for name in names}
        valid = np.asarray(computed[VALID].values, bool)
    else:
        planes, valid = _overview(scene, mask_rule)
    return _compare(planes, valid, known)


def _compare(
    planes: Mapping[str, NDArray[Any]],
    valid: NDArray[np.bool_],
    known: Mapping[str, tuple[Band, Mapping[str, Any]]],
) -> Drift:
    shared: Sequence[str] = [name for name in known if name in planes] if valid.any() else []
    distances, limits = {}, {}
    for name in shared:
        band, seen = known[name]
        distances[name] = _distance(band_histogram(band, planes[name], valid), np.asarray(seen["shares"]))
        limits[name] = float(seen["limit"])
    return Drift(distances, limits)
