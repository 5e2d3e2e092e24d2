"""What all verbs share: options, how results are printed, and how failures end."""

from __future__ import annotations

import functools
import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from darts_xr.addresses import redact
from darts_xr.errors import DartsError

PATH = click.Path(path_type=Path)
_EARLIEST, _LATEST = 1970, 2100  # years that a scene or an inventory may be of


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take a YAML file's entries as the defaults of this verb's options; the command line wins."""
    if path is None:
        return
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no text at all
        raise click.BadParameter(f"{path} cannot be read: {error}") from error
    entries = {} if entries is None else entries
    if not isinstance(entries, dict):
        raise click.BadParameter(
            f"{path} holds {type(entries).__name__}, not entries such as 'threshold: 0.5'; one option a line"
        )
    known = {parameter.name for parameter in ctx.command.params}
    entries = {str(key).replace("-", "_"): value for key, value in entries.items()}
    if unknown := sorted(set(entries) - known):
        raise click.BadParameter(
            f"{path} has entries that {ctx.command.name} does not know: {', '.join(unknown)}"
        )
    several = {parameter.name for parameter in ctx.command.params if getattr(parameter, "multiple", False)}
    entries = {
        name: [value] if name in several and not isinstance(value, list) else value
        for name, value in entries.items()
    }
    ctx.default_map = {**(ctx.default_map or {}), **entries}


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb ``--config`` and ``--json``, and make every error one message and exit code 1."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except DartsError as error:
            _fail(type(error).__name__, error)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # these end the command as they should
        except Exception as error:  # what nobody foresaw: the whole story goes to a file, not to the terminal
            from pipelines.run_log import kept_in

            path = kept_in(error) or _keep_traceback()
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            _fail(
                "unexpected error",
                f"{said}. This is a fault of darts_xr or of a library below it; the details are in {path}: "
                "please report them",
            )

    run = click.option("--json", "as_json", is_flag=True, help="Print a machine-readable summary instead.")(
        run
    )
    return click.option(
        "--config", type=PATH, callback=_read_config, is_eager=True, expose_value=False,
        help="YAML file with this verb's options.",
    )(run)  # fmt: skip


def _fail(kind: str, error: object) -> None:
    from pipelines.console import notes

    notes.print(f"[red]{kind}[/]: ", end="")
    notes.print(redact(error), markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _keep_traceback() -> Path:
    """Append the traceback of the error under way to the log of this user."""
    import platformdirs

    path = Path(platformdirs.user_log_dir("darts_xr")) / "darts-xr.log"
    text = redact(traceback.format_exc())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now().isoformat(timespec='seconds')} {' '.join(sys.argv)}\n{text}\n")
    except OSError as error:
        logging.getLogger("pipelines").error("%s cannot be written (%s):\n%s", path, error, text)
    return path


def raster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options of what images and masks may be."""
    for option in (
        click.option(
            "--pixel-size", type=float, nargs=2, default=(2.0, 5.0), show_default=True,
            help="Smallest and largest pixel of an image, metres.",
        ),
        click.option(
            "--driver", "drivers", multiple=True, default=("GTiff",), show_default=True,
            help="GDAL format of images and masks; repeat for more. VRT and others can name any file of this machine.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options of where it runs."""
    for option in (
        click.option(
            "--cluster-option", multiple=True, metavar="NAME=VALUE",
            help="Argument of dx.start_cluster, such as jobs=4, cores=16, memory=64GB, gpus=1, partition=gpu, "
            "walltime=04:00:00 for slurm, n_workers=2 for local; repeat for more.",
        ),
        click.option(
            "--cluster",
            help="local: start workers on this machine; slurm: as Slurm jobs; or the address of a Dask scheduler.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def workers(cluster: str | None, given: Sequence[str]) -> Any:
    """Client of the cluster that was asked for; None, as a context, for this process."""
    options = _cluster_arguments(given)
    if cluster is None:
        if options:
            raise click.UsageError("--cluster-option needs --cluster: local, slurm or an address.")
        return nullcontext()
    from darts_xr.cluster import start_cluster

    # Dask lets its loggers tell everything, in the midst of the progress bar.
    asked = click.get_current_context(silent=True)
    verbose = asked is not None and bool(asked.find_root().params.get("verbose"))
    logging.getLogger("distributed").setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        return start_cluster(None if cluster == "local" else cluster, **options)
    except TypeError as error:
        raise click.UsageError(f"--cluster-option: {error}") from error


def _cluster_arguments(given: Sequence[str]) -> dict[str, Any]:
    """Arguments from ``NAME=VALUE``: whole numbers as such, ``1-8`` of jobs as fewest and most, else text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals and value):
            raise click.UsageError(f"--cluster-option must look like jobs=4, got {text!r}")
        least, dash, most = value.partition("-")
        if name in ("directives", "prologue"):
            found.setdefault(name, []).append(value)  # several lines
        elif name == "jobs" and dash and least.isdecimal() and most.isdecimal():
            found[name] = (int(least), int(most))
        else:
            found[name] = int(value) if value.isdecimal() else value
    return found


def finish(summary: dict[str, Any], as_json: bool, out: Any = None) -> None:
    """Print the summary as JSON, or where the output went."""
    if as_json:
        click.echo(json.dumps(summary, indent=1, default=str))
    elif out is not None:
        from pipelines.console import screen

        screen.print(f"Written to {out}", highlight=False)


def parse_years(text: str | None) -> list[int] | None:
    """Years from ``2021``, ``2021-2023`` or ``2021,2023``."""
    if text is None:
        return None
    years: list[int] = []
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise click.BadParameter(f"years must look like 2021-2023 or 2021,2023, got {text!r}")
        start, stop = int(first), int(last or first)
        if not _EARLIEST <= start <= stop <= _LATEST:
            raise click.BadParameter(
                f"years must run from an earlier to a later one between {_EARLIEST} and {_LATEST}, got {part!r}"
            )
        years += range(start, stop + 1)
    return sorted(set(years))
