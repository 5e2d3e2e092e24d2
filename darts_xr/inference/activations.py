"""Memory of a forward pass: what a network holds at once for each pixel, counted without computing anything."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from darts_xr.inference.core_network import WholeNetwork, core_network
from darts_xr.inference.network import Architecture

_known: dict[tuple[str, int, int | None], float] = {}
_counting = threading.Lock()


class _Held(TorchDispatchMode):
    """Adds up the storage of all tensors that are alive at the same time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._let_go, storage._cdata)
        return out

    def _let_go(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage)


def activation_bytes(architecture: Architecture, side: int, margin: int | None) -> float:
    """Bytes that a forward pass in float32 holds at its peak for each pixel of its input, the input included.

    Counted once for each architecture and size, on tensors that have a shape and no content (torch's ``meta`` device),
    so it takes little time. What a library needs beside for itself, such as rearranged copies, is not in it.

    Parameters
    ----------
    architecture : Architecture
        The network.
    side : int
        Side of a square input that it takes, pixels.
    margin : int or None
        Pixels at its edges for which no answer is wanted; None: the network computes whole tiles.

    Returns
    -------
    float
        Bytes a pixel.

    Examples
    --------
    >>> 900 < activation_bytes(Architecture(in_channels=10), 512, None) < 1200
    True
    """
    key = repr(architecture), side, margin
    with _counting:
        if key not in _known:
            # Built with weights and then emptied: some encoders read numbers off a tensor as they are built.
            built = architecture.build().eval()
            network = (WholeNetwork(built) if margin is None else core_network(built)).to("meta")
            pixels = torch.empty(1, architecture.in_channels, side, side, device="meta")
            with torch.inference_mode(), _Held() as held:
                network(pixels, margin or 0)
            _known[key] = 4 * architecture.in_channels + held.peak / side**2
        return _known[key]
