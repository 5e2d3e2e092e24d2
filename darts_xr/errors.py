"""Every error that darts_xr raises on purpose.

One tree, so that ``except DartsError`` catches all of them and nothing else. A message says what is wrong,
with which item or file, and what to do next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal


class DartsError(Exception):
    """Base of all errors raised by darts_xr on purpose."""


class ParameterError(DartsError, ValueError):
    """An argument has a value that makes no sense; nothing was done."""


class MissingExtraError(DartsError, ImportError):
    """A package that only some use is not installed; the message names the extra that brings it."""


class CatalogError(DartsError):
    """A delivery, a catalogue or a search cannot be used."""


class EmptySearchError(CatalogError):
    """A search matched no item."""


class UnknownProductError(CatalogError):
    """A file or a name is not of a known Planet product."""


class UnsupportedProductError(CatalogError):
    """A product is known but not fit for this work, such as top-of-atmosphere radiance."""


class SceneError(DartsError):
    """A scene cannot be opened as a cube."""


class MissingFileError(SceneError):
    """An asset's file is not where the item says."""


class DamagedFileError(SceneError):
    """An asset's file is truncated or corrupt."""


class RemoteReadError(DamagedFileError):
    """A file on a server came damaged or not at all, after several attempts; the same read may work later."""


class GridMismatchError(SceneError):
    """Two rasters that must share a pixel grid do not."""


class WindowError(SceneError):
    """A window holds no pixel of the scene, or is none."""


class CRSError(SceneError):
    """A coordinate reference system is missing or unfit."""


class MissingBandsError(SceneError):
    """Bands that the model needs are in neither the item nor the auxiliary sources."""


class CubeError(DartsError):
    """A stored cube cannot be read, or another one is to be added to it."""


class BandDefinitionError(DartsError):
    """A band's definition, as a checkpoint carries it, is incomplete or unusable."""


class LandCoverError(SceneError):
    """A land-cover map is missing or does not have the expected class scheme."""


class LayerError(SceneError):
    """An auxiliary raster does not hold the layer that it is taken for: another type, unit, range or kind."""


class EngineError(SceneError):
    """A loader is unknown, not installed, or cannot read such an asset."""


class MaskError(SceneError):
    """A usable-data mask does not have the layout that the mask rule needs."""


class CheckpointError(DartsError):
    """A model checkpoint cannot be loaded or does not fit the scene."""


class PredictionError(DartsError):
    """A model failed on a tile."""


class DeviceError(PredictionError):
    """A GPU's state in this process is spoilt: all that is computed there fails until the process starts anew."""


class TilingError(PredictionError):
    """A scene, tile or margin does not suit the tiling that was asked for."""


class TrainingError(DartsError):
    """A training cannot start, go on or end well."""


class SettingsError(TrainingError):
    """A configuration has unknown, missing or unusable entries."""


class LabelError(TrainingError):
    """Labels cannot be read, or meet no scene."""


class PatchError(TrainingError):
    """Patches cannot be cut, stored or read."""


class LeakageError(TrainingError):
    """Training and validation show the same ground."""


class ObjectError(DartsError):
    """Objects, polygons or the layers that filter them cannot be used."""


class ClusterError(DartsError):
    """A Dask cluster cannot be reached or started."""


class ProductError(DartsError):
    """A product cannot be built or written."""


class AssessmentError(DartsError):
    """An inventory, a verdict or a comparison of objects cannot be used."""


class PipelineError(DartsError):
    """A run cannot start, continue or end well."""


class OutputError(PipelineError):
    """A run's folder cannot be written: full, read-only or out of reach."""


class RunLockedError(PipelineError):
    """Another run is at work in the folder."""


#: What is done with one bad item among good ones: raise its error, leave it out with a warning, or tell a function
#: (its id, the error) and leave it out.
OnError = Literal["raise", "skip"] | Callable[[str, DartsError], None]


def leave_out(name: str, error: DartsError, on_error: OnError) -> None:
    """Do with a bad item what the caller asked for.

    Raises
    ------
    DartsError
        The error given, for ``"raise"``.
    """
    if on_error == "raise":
        raise error
    if on_error == "skip":
        logging.getLogger(__name__).warning("%s is left out: %s", name, error)
    else:
        on_error(name, error)


@contextmanager
def naming_extra(extra: str, what: str) -> Iterator[None]:
    """Say which extra brings a package that is imported inside and is not there.

    Raises
    ------
    MissingExtraError

    Examples
    --------
    >>> with naming_extra("viz", "a picture"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    darts_xr.errors.MissingExtraError: a picture needs no_such_package: pip install 'darts-xr[viz]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{what} needs {error.name}: pip install 'darts-xr[{extra}]'") from error
