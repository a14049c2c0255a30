"""Figures of the embeddings: spread, cosine and order along decoding, distances between scores, and their path.

One panel per model, small to large, from tables as they stand. Members are drawn solid with a band, the control
dashed, random groups of the same sizes grey; scores run from dark (0) to light (all matched).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from mnemoscope.analyses.embeddings import EmbeddingsResult
from mnemoscope.report.figure import (
    LEVEL,
    MAX_ROWS,
    Figure,
    evenly,
    heading,
    model_panel,
    panel_heading,
    plain,
    span,
    specs_of_figures,
    told,
    told_number,
)
from mnemoscope.report.theme import COLORS, GREY, MAGENTA
from mnemoscope.report.vega import Spec, channel, concat, hover, layer, mark

Record = dict[str, Any]

WIDTH, HEIGHT, PATH_SIZE, MATRIX_SIZE, MAX_COLUMNS = 136, 130, 160, 74, 2
KINDS: Final = ("members", "control", "random groups")
KIND_COLORS: Final = (COLORS[1], MAGENTA, GREY)
KIND_DASHES: Final = ([1, 0], [5, 3], [1.5, 2.5])


class Drawn(NamedTuple):
    """A figure of lines over steps: a column of the step table, titles, how to read it, whether y begins at zero."""

    column: str
    y_title: str
    title: str
    remark: Sequence[str]
    from_zero: bool = False


LINES: Mapping[str, Drawn] = {
    "embedding_spread": Drawn(
        "spread_per_width",
        "distance / sqrt(width)",
        "Distance between scores along decoding",
        ("root mean square over all pairs, noise taken off",),
        from_zero=True,
    ),
    "embedding_cosine": Drawn(
        "mean_cosine",
        "cosine",
        "Cosine between scores along decoding",
        ("mean over all pairs, noise taken off;", "near 1 wherever states share a large mean"),
    ),
    "embedding_neighbour_cosine": Drawn(
        "neighbour_cosine",
        "cosine without the mean",
        "Cosine of neighbouring scores, without the grand mean",
        ("mean over neighbours, noise taken off",),
    ),
    "embedding_order": Drawn(
        "order",
        "Spearman correlation",
        "Are scores in order?",
        ("rank correlation of score difference and distance, over pairs",),
    ),
}


def embedding_specs(result: EmbeddingsResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    steps, path = result.steps.to_pylist(), result.path.to_pylist()
    figures = {name: _draw_lines(steps, drawn) for name, drawn in LINES.items()}
    figures["embedding_distances"] = _draw_matrices(result)
    for projection in dict.fromkeys(row["projection"] for row in path):
        figures[f"embedding_path_{projection}"] = _draw_path([row for row in path if row["projection"] == projection])
    return specs_of_figures(figures)


def _draw_lines(steps: Sequence[Record], drawn: Drawn) -> Figure | None:
    rows = [line for row in steps for line in _lines(row, drawn) if line["value"] is not None]
    if not rows:
        return None
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    places = [KINDS.index(kind) for kind in kinds]
    legend = {"symbolType": "stroke", "symbolStrokeWidth": 2, "symbolSize": 200, "symbolOpacity": 1, "columns": 3}
    scale = {"domain": kinds, "range": [KIND_COLORS[place] for place in places]}
    dashes = {"domain": kinds, "range": [KIND_DASHES[place] for place in places]}
    axis = {"tickCount": 5, "format": "d", "grid": False}
    x = channel("step:Q", title="decoding step (tokens)", axis=axis, scale={"nice": False})
    y_scale = {"zero": drawn.from_zero, "nice": True}
    y = channel("value:Q", title=drawn.y_title, scale=y_scale, axis={"tickCount": 4})
    base = {"x": x, "color": channel("kind:N", title=None, scale=scale, legend=legend)}
    views = [
        mark("area", {**base, "y": channel("low:Q", title=drawn.y_title), "y2": channel("high")}, opacity=0.15),
        mark("line", {**base, "y": y, "strokeDash": channel("kind:N", scale=dashes, title=None)}, strokeWidth=1.6),
        hover({**base, "y": y}),
    ]
    said = [*drawn.remark, "random groups: of the same sizes, treated the same", _sizes(steps)]
    caption = (
        f"Groups of sequences by how many tokens matched, at each decoding step: {' '.join(drawn.remark)}. Beside them "
        f"random groups of the same sizes. Bands: {LEVEL} bootstrap intervals over clusters, each step by itself; of "
        f"random groups, the middle {LEVEL}. {_sizes(steps)}."
    )
    return _panels(rows, views, drawn.title, said, Figure({}, caption, drawn.y_title))


def _lines(row: Record, drawn: Drawn) -> list[Record]:
    """One step's points: the side's own, and for members that of random groups."""
    name, side = drawn.column, "members" if row["group"] == "member" else "control"
    sizes = f"{row['num_sequences']:,} sequences, {row['num_clusters']:,} clusters, {row['num_groups']} groups"
    columns = {side: name} | ({"random groups": f"random_{name}"} if side == "members" else {})
    return [_line(row, kind, column, sizes) for kind, column in columns.items()]


def _line(row: Record, kind: str, column: str, sizes: str) -> Record:
    value, low, high = row[column], row[f"{column}_low"], row[f"{column}_high"]
    said = "" if value is None else told_number(value, low, high)
    drawn = {"model": row["model"], "step": row["step"], "kind": kind, "value": value, "low": low, "high": high}
    return {**drawn, **told(f"{row['model']}, {kind}, step {row['step']}", said, sizes)}


def _draw_matrices(result: EmbeddingsResult) -> Figure | None:
    """Distances between all pairs of scores at the first, the middle and the last step, for the largest model."""
    rows = result.distances.to_pylist()
    sides = [row["group"] for row in rows]
    side = "member" if "member" in sides else "control"
    labels = [row["model"] for row in rows if row["group"] == side]
    if not labels:
        return None
    rows = [row for row in rows if row["model"] == labels[-1] and row["group"] == side]
    last = max(row["step"] for row in rows)
    steps = sorted({0, (last + 1) // 2, last})
    scores = sorted({row[name] for row in rows for name in ("num_matched", "other_num_matched")})
    kept = evenly(scores, int((MAX_ROWS / len(steps)) ** 0.5))
    shown = [row for row in rows if row["step"] in steps and {row["num_matched"], row["other_num_matched"]} <= {*kept}]
    cells = [cell for row in shown for cell in _cells(row)]
    axis = {"values": _ticks(kept), "labelAngle": 0, "grid": False, "domain": False}
    x = channel("score:O", title="matched tokens", axis=axis)
    y = channel("other:O", title="matched tokens", axis=axis, sort="descending")
    legend = {"title": "distance / sqrt(width), noise taken off", "gradientLength": 180, "titleLimit": 300}
    color = channel("distance:Q", scale={"range": list(COLORS), "domainMin": 0}, legend=legend)
    thinned = f" Of {len(scores)} scores {len(kept)} are drawn." if kept != scores else ""
    caption = (
        f"How far the mean states of two scores lie apart at the first, the middle and the last step, {labels[-1]}, "
        f"{side}s; darker is nearer: scores in order darken toward the diagonal. A pointer tells n.{thinned}"
    )
    remark = [f"{labels[-1]}, {side}; scores in order darken", "toward the diagonal"]
    figure = Figure({}, caption, "distance / sqrt(width)")
    views = [mark("rect", {"x": x, "y": y, "color": color})]
    size = (MATRIX_SIZE, MATRIX_SIZE)
    return _panels(cells, views, "Distances between scores", remark, figure, columns=3, size=size, of_models=False)


def _cells(row: Record) -> list[Record]:
    """Both halves of the matrix."""
    pair, sizes = (row["num_matched"], row["other_num_matched"]), (row["num_sequences"], row["other_num_sequences"])
    name = "corrected_distance_per_width"
    drawn = {"distance": row[name], "model": f"step {row['step']}"}
    said = "unknown" if row[name] is None else told_number(row[name], row[f"{name}_low"], row[f"{name}_high"])
    what = f"{pair[0]} and {pair[1]} matched tokens, step {row['step']}"
    drawn |= told(what, said, f"{sizes[0]:,} and {sizes[1]:,} sequences")
    return [{"score": one, "other": other, **drawn} for one, other in (pair, pair[::-1])]


def _draw_path(path: Sequence[Record]) -> Figure | None:
    """Each score's mean state from step to step, a line that ends in a dot: the study's embedding paths."""
    side = "member" if any(row["group"] == "member" for row in path) else "control"
    known = [row for row in path if row["group"] == side]
    if not known:
        return None
    every = sorted({row["step"] for row in known})
    steps = evenly(every, max(2, MAX_ROWS * len(every) // len(known)))
    last = {row["model"]: row["step"] for row in known}
    rows = [_path_row(row, is_end=row["step"] == last[row["model"]]) for row in known if row["step"] in steps]
    scores = sorted({row["num_matched"] for row in rows})
    legend = {"title": "matched tokens", "gradientLength": 180, "values": _ticks(scores), "format": "d", "columns": 6}
    shades = {"range": list(COLORS), "domain": [scores[0], scores[-1]]}
    axes = {"title": None, "scale": {"zero": False}, "axis": {"tickCount": 4}}
    base = {"x": channel("x:Q", **axes), "y": channel("y:Q", **axes), "detail": channel("num_matched:N")}
    base["color"] = channel("num_matched:Q", scale=shades, legend=legend)
    views = [
        mark("line", {**base, "order": channel("step:Q")}, strokeWidth=1, opacity=0.75),
        mark("point", base, where="datum.end", filled=True, size=22, opacity=1),
        hover(base),
    ]
    thinned = f" Of {len(every)} steps {len(steps)} are drawn." if len(steps) < len(every) else ""
    sizes = f"{span([int(row['num_sequences']) for row in known])} {side} sequences behind a mean"
    caption = (
        f"The mean hidden state of each score from decoding step to step; {' '.join(_plane(path))}; a dot ends each "
        f"path. {sizes}.{thinned}"
    )
    remark = [*_plane(path), f"a dot: the last step; {sizes}"]
    figure = Figure({}, caption, "place (x, y)")
    return _panels(rows, views, "The path of the mean states", remark, figure, size=(PATH_SIZE, PATH_SIZE))


def _path_row(row: Record, *, is_end: bool) -> Record:
    drawn = {name: row[name] for name in ("model", "step", "num_matched", "x", "y")}
    ends = [told_number(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("x", "y")]
    sizes = f"{row['num_sequences']:,} sequences, {row['num_clusters']:,} clusters"
    what = f"{row['model']}, {row['num_matched']} matched tokens, step {row['step']}"
    return {**drawn, "end": is_end, **told(what, ", ".join(ends), sizes)}


def _plane(path: Sequence[Record]) -> list[str]:
    """How the plane was found."""
    if path[0]["projection"] != "pca":
        return ["UMAP, fitted once on all steps; its units mean nothing"]
    shares = {row["model"]: row["share_x"] + row["share_y"] for row in path}
    span = sorted(
        {f"{100 * share:.0f} %" for share in (min(shares.values()), max(shares.values()))}, key=lambda s: int(s[:-2])
    )
    return [
        "principal components, fitted once on all steps;",
        f"both together: {' to '.join(span)} of the means' variance",
    ]


def _panels(
    rows: Sequence[Record],
    views: Sequence[Spec],
    title: str,
    remark: Sequence[str],
    figure: Figure,
    *,
    columns: int = MAX_COLUMNS,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    of_models: bool = True,
) -> Figure:
    """The figure with one panel for each model (or what stands there), in the order of the rows, with its own data."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    charts = [
        layer(
            *views,
            rows=[_without_model(row) for row in rows if row["model"] == model],
            name=model_panel(index) if of_models else f"panel_{index}",
            width=size[0],
            height=size[1],
            title=panel_heading(model, frame="group"),
        )
        for index, model in enumerate(models)
    ]
    shared = {"scale": {"color": "shared", "strokeDash": "shared"}}
    chart = concat(*charts, columns=columns, title=heading(title, remark), resolve=shared)
    return figure._replace(chart=chart, panel_models=models if of_models else ())


def _without_model(row: Record) -> Record:
    return plain({name: value for name, value in row.items() if name != "model"})


def _sizes(steps: Sequence[Record]) -> str:
    """How many clusters stand behind a point."""
    parts: list[str] = []
    for side in ("member", "control"):
        sizes = [int(row["num_clusters"]) for row in steps if row["group"] == side]
        parts += [f"{span(sizes)} {side} clusters"] if sizes else []
    return f"n: {', '.join(parts)}"


def _ticks(scores: Sequence[int]) -> list[int]:
    """About five scores, evenly spaced, from the lowest."""
    spacing = max(1, round((scores[-1] - scores[0]) / 4))
    return [score for score in scores if (score - scores[0]) % spacing == 0]
