"""Validation 1: detections that a person looked at one by one, and what the false ones are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from darts_xr.assess.intervals import wilson
from darts_xr.errors import AssessmentError

#: What a person may say of a detection. A detachment slide is no slump, but is of the paper's target (RTS and ALD).
VERDICTS = ("true", "false", "uncertain", "detachment slide")

#: What a false detection may be; the paper's Table 8 has nine classes. Its text names rivers and hills or mountains;
#: the other seven are ours.
ERROR_CLASSES = (
    "river", "lake or pond", "coast or beach", "hill or mountain", "bare ground", "vegetation", "snow or ice",
    "infrastructure", "cloud or shadow",
)  # fmt: skip


def check_verdicts(verdicts: pd.DataFrame) -> None:
    """Refuse verdicts that are none.

    Raises
    ------
    AssessmentError
        If there is no column ``verdict``, or it holds anything but :data:`VERDICTS`.
    """
    if "verdict" not in verdicts:
        raise AssessmentError(f"verdicts need a column verdict, with one of {', '.join(VERDICTS)}")
    unknown = sorted(set(verdicts["verdict"].astype(str)) - set(VERDICTS))
    if unknown:
        raise AssessmentError(f"verdict must be one of {', '.join(VERDICTS)}; got {', '.join(unknown[:5])}")


def confirmation_table(verdicts: pd.DataFrame, *, by: str | None = None) -> pd.DataFrame:
    """Count what a person said of each detection (Nitze et al. 2025, Sci. Data 12:1512, validation 1).

    Parameters
    ----------
    verdicts : pandas.DataFrame
        One row a detection: ``verdict``, one of ``true``, ``false``, ``uncertain``, ``detachment slide``.
    by : str, optional
        Column that makes the rows, such as a region; by default only the row of all.

    Returns
    -------
    pandas.DataFrame
        Per value of ``by`` and for ``all``: ``detections``, ``true``, ``detachment_slide``, ``false``, ``uncertain``
        (int64); ``precision`` (true and slides as a share of all: what is uncertain counts as wrong, as in the paper)
        with Wilson's 95 % bounds ``low`` and ``high``; ``precision_of_certain`` (what is uncertain left out).

    Raises
    ------
    AssessmentError
        If a verdict is none of the four, or the column is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> said = pd.DataFrame({"verdict": ["true", "true", "false", "uncertain"]})
    >>> confirmation_table(said)[["true", "precision", "precision_of_certain"]].values.tolist()
    [[2.0, 0.5, 0.6666666666666666]]
    """
    check_verdicts(verdicts)
    if by is not None and by not in verdicts:
        raise AssessmentError(f"verdicts have no column {by!r}")
    parts = [] if by is None else [(str(name), part) for name, part in verdicts.groupby(by, sort=True)]
    return pd.DataFrame([_confirmed(name, part) for name, part in [*parts, ("all", verdicts)]])


def _confirmed(name: str, verdicts: pd.DataFrame) -> dict[str, object]:
    count = {kind: int((verdicts["verdict"] == kind).sum()) for kind in VERDICTS}
    n, right = len(verdicts), count["true"] + count["detachment slide"]
    certain = n - count["uncertain"]
    low, high = wilson(right, n)
    return {
        "scope": name, "detections": n, "true": count["true"], "detachment_slide": count["detachment slide"],
        "false": count["false"], "uncertain": count["uncertain"],
        "precision": right / n if n else float("nan"), "low": low, "high": high,
        "precision_of_certain": right / certain if certain else float("nan"),
    }  # fmt: skip


def error_table(
    errors: pd.DataFrame, *, classes: Sequence[str] = ERROR_CLASSES, landcover: str | None = "landcover"
) -> pd.DataFrame:
    """Count what false detections are, by class of error and land cover (the paper's Table 8).

    Parameters
    ----------
    errors : pandas.DataFrame
        One row a false detection: ``error_class``, and the column that ``landcover`` names.
    classes : sequence of str
        The classes that are known, each a row also without a case. An empty class is ``unclassified``.
    landcover : str, optional
        Column with the land cover at the detection, whose values become columns; None for none.

    Returns
    -------
    pandas.DataFrame
        Rows ``error_class``, then ``all``; ``n`` (int64), ``share`` (0 to 1), one count a land cover. The rows add up.

    Raises
    ------
    AssessmentError
        If a column is missing or a class unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> table = error_table(pd.DataFrame({"error_class": ["river", "river", ""], "landcover": ["water"] * 3}))
    >>> table[["error_class", "n", "water"]].iloc[[0, -1]].values.tolist()
    [['river', 2, 2], ['all', 3, 3]]
    """
    needed = ["error_class", *([landcover] if landcover else [])]
    if lacking := [name for name in needed if name not in errors]:
        raise AssessmentError(f"false detections lack the columns {', '.join(lacking)}")
    kind = errors["error_class"].fillna("").astype(str).replace("", "unclassified")
    if unknown := sorted(set(kind) - {*classes, "unclassified"}):
        raise AssessmentError(
            f"unknown class of error {', '.join(unknown[:5])}; known are {', '.join(classes)}"
        )
    rows = [*classes, "unclassified"]
    counts = kind.value_counts().reindex(rows, fill_value=0)
    table = pd.DataFrame({"error_class": rows, "n": counts.to_numpy()})
    table["share"] = table["n"] / max(len(errors), 1)
    if landcover:
        cover = errors[landcover].fillna("unknown").astype(str)
        crossed = pd.crosstab(kind, cover).reindex(rows, fill_value=0)
        table = pd.concat([table, crossed.reset_index(drop=True)], axis=1)
    total = table.drop(columns="error_class").sum(numeric_only=True).to_dict()
    out = pd.concat([table, pd.DataFrame([{"error_class": "all", **total}])], ignore_index=True)
    whole = [name for name in out if name not in ("error_class", "share")]
    return out.astype(dict.fromkeys(whole, "int64")).rename_axis(columns=None)
