"""Where the work runs: a Dask cluster on this machine, in Slurm jobs, or one that runs already.

In: nothing but wishes (:func:`start_cluster`). Out: a ``distributed.Client`` whose workers have one GPU each where
there are GPUs, and else one core each.
"""

from darts_xr.cluster.local import (
    ClusterClient,
    export_lines,
    gpu_resources,
    start_cluster,
    worker_environment,
    worker_settings,
)

__all__ = [
    "ClusterClient",
    "export_lines",
    "gpu_resources",
    "start_cluster",
    "worker_environment",
    "worker_settings",
]
