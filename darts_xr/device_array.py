"""A chunk of a lazy array whose pixels lie on a device: what needs them there has them, NumPy gets a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    import torch


class DeviceArray(NDArrayOperatorsMixin):
    """Pixels on a torch device, which Dask and xarray handle as they would an array of NumPy.

    Parts stay on the device, and so does ``isfinite``. Everything else, and every other process, gets a copy on the
    host.

    Parameters
    ----------
    tensor : torch.Tensor
        The pixels.

    Examples
    --------
    >>> import torch
    >>> chunk = DeviceArray(torch.arange(6).reshape(2, 3))
    >>> type(chunk[:, 1:]).__name__, np.asarray(chunk[:, 1:]).tolist(), (chunk + 1).sum().item()
    ('DeviceArray', [[1, 2], [4, 5]], 21)
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.tensor.ndim

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.tensor.numel()

    @property
    def dtype(self) -> np.dtype[Any]:
        """What NumPy calls the type."""
        return np.dtype(str(self.tensor.dtype).removeprefix("torch."))

    def __len__(self) -> int:
        return len(self.tensor)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.shape} {self.dtype} on {self.tensor.device}>"

    def __getitem__(self, index: Any) -> DeviceArray | NDArray[Any]:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts):
            return np.asarray(self)[index]  # torch cannot go backwards
        return DeviceArray(self.tensor[index])

    def __setitem__(self, index: Any, values: Any) -> None:
        if isinstance(values, DeviceArray):
            values = values.tensor
        elif isinstance(values, np.ndarray):
            import torch

            values = torch.from_numpy(np.ascontiguousarray(values)).to(self.tensor.device)
        self.tensor[index] = values

    def copy(self) -> DeviceArray:
        """Pixels of their own, which keep no others alive."""
        return DeviceArray(self.tensor.clone())

    def new_empty(self, shape: tuple[int, ...]) -> DeviceArray:
        """Room for other pixels of this type on this device."""
        return DeviceArray(self.tensor.new_empty(shape))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False and self.tensor.device.type != "cpu":
            raise ValueError(f"pixels on {self.tensor.device} come to NumPy as a copy only")
        return np.array(self.tensor.cpu().numpy(), dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if ufunc is np.isfinite and method == "__call__" and not options:
            return DeviceArray(self.tensor.isfinite())
        host = [np.asarray(part) if isinstance(part, DeviceArray) else part for part in inputs]
        return getattr(ufunc, method)(*host, **options)

    def __getattr__(self, name: str) -> Any:
        # Protocols are those above; by the flags Dask asks whether a part is a view that it should copy.
        if name.startswith("__") or name in ("tensor", "flags"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[NDArray[Any]]]:
        return np.asarray, (np.asarray(self),)
