"""``scene.darts``, ``array.darts``: the functions of :mod:`darts_xr.looking` as methods of xarray objects."""

from __future__ import annotations

from typing import Any

import xarray as xr

# xarray gives them no types.
_on_dataset: Any = xr.register_dataset_accessor
_on_array: Any = xr.register_dataarray_accessor


@_on_dataset("darts")
class DatasetLooks:
    """Pictures of a scene or a cube; see the functions of :mod:`darts_xr.looking` of the same names.

    Examples
    --------
    >>> scene.darts.rgb()  # doctest: +SKIP
    """

    def __init__(self, data: xr.Dataset) -> None:
        self._data = data

    def rgb(self, **options: Any) -> Any:
        """Draw red, green, blue: :func:`darts_xr.looking.rgb`."""
        from darts_xr import looking

        return looking.rgb(self._data, **options)

    def false_color(self, **options: Any) -> Any:
        """Draw near infrared, red, green: :func:`darts_xr.looking.false_color`."""
        from darts_xr import looking

        return looking.false_color(self._data, **options)

    def overlay(self, features: Any, **options: Any) -> Any:
        """Draw outlines on the image: :func:`darts_xr.looking.overlay`."""
        from darts_xr import looking

        return looking.overlay(self._data, features, **options)

    def layer(self, name: str, **options: Any) -> Any:
        """Draw one variable: :func:`darts_xr.looking.layer`."""
        from darts_xr import looking

        return looking.layer(self._data[name], **options)

    def mask(self, **options: Any) -> Any:
        """Draw what the mask says, by class, where that is known; else what is valid and what is masked."""
        return self.layer("mask_class" if "mask_class" in self._data else "valid", **options)

    def spread(self, **options: Any) -> Any:
        """Draw how far the members of ``predict_members`` disagree."""
        return self.layer("spread", **options)

    def scenes(self) -> Any:
        """Table of the time steps: :func:`darts_xr.looking.scenes`."""
        from darts_xr import looking

        return looking.scenes(self._data)

    def sheet(self, site: Any, **options: Any) -> Any:
        """Draw a contact sheet of a site: :func:`darts_xr.looking.sheet`."""
        from darts_xr import looking

        return looking.sheet(self._data, site, **options)

    def timeline(self, site: Any, **options: Any) -> Any:
        """Draw the area of a site over time: :func:`darts_xr.looking.timeline`."""
        from darts_xr import looking

        return looking.timeline(self._data["probability"], site, **options)


@_on_array("darts")
class DataArrayLooks:
    """Pictures of a layer or of a cube of probability; see the functions of :mod:`darts_xr.looking`.

    Examples
    --------
    >>> prob.darts.layer()  # doctest: +SKIP
    """

    def __init__(self, data: xr.DataArray) -> None:
        self._data = data

    def layer(self, **options: Any) -> Any:
        """Draw it: :func:`darts_xr.looking.layer`."""
        from darts_xr import looking

        return looking.layer(self._data, **options)

    def overlay(self, features: Any, **options: Any) -> Any:
        """Draw it with outlines: :func:`darts_xr.looking.overlay`."""
        from darts_xr import looking

        return looking.overlay(self._data, features, **options)

    def scenes(self) -> Any:
        """Table of the time steps: :func:`darts_xr.looking.scenes`."""
        from darts_xr import looking

        return looking.scenes(self._data)

    def sheet(self, site: Any, **options: Any) -> Any:
        """Draw a contact sheet of a site: :func:`darts_xr.looking.sheet`."""
        from darts_xr import looking

        return looking.sheet(self._data, site, **options)

    def timeline(self, site: Any, **options: Any) -> Any:
        """Draw the area of a site over time: :func:`darts_xr.looking.timeline`."""
        from darts_xr import looking

        return looking.timeline(self._data, site, **options)

    def site_series(self, site: Any, **options: Any) -> Any:
        """Table of a site over time: :func:`darts_xr.looking.site_series`."""
        from darts_xr import looking

        return looking.site_series(self._data, site, **options)
