"""Dask graphs that Dask does not build: neighbourhoods with few tasks, and layers that share a pass over the chunks.

In: lazy arrays. Out: lazy arrays, or the layer of a graph. Nothing here knows what the pixels mean.
"""
