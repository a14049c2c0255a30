"""Figures of the embeddings: spread, cosine and order along decoding, distances between scores, and their path.

One panel per model, small to large, from tables as they stand. Members are drawn solid with a band, the control
dashed, random groups of the same sizes grey; scores run from dark (0) to light (all matched).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mnemoscope.analyses.embeddings import EmbeddingsResult
from mnemoscope.report.theme import theme

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]
Record = dict[str, Any]

WIDTH, HEIGHT, PATH_SIZE, MATRIX_SIZE, MAX_COLUMNS = 190, 140, 190, 120, 2
KINDS = ("members", "control", "random groups")
KIND_COLORS = ("#3b528b", "#c2185b", "#8c8c8c")
KIND_DASHES = ([1, 0], [5, 3], [1.5, 2.5])
# Viridis without its palest end, which white paper swallows.
RAMP = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c9b400")


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
    charts = {name: _draw_lines(steps, drawn) for name, drawn in LINES.items()}
    charts["embedding_distances"] = _draw_matrices(result)
    for projection in dict.fromkeys(row["projection"] for row in path):
        charts[f"embedding_path_{projection}"] = _draw_path([row for row in path if row["projection"] == projection])
    return {name: {**chart.to_dict(), "config": theme()} for name, chart in charts.items() if chart is not None}


def _draw_lines(steps: Sequence[Record], drawn: Drawn) -> alt.ConcatChart | None:
    rows = [line for row in steps for line in _lines(row, drawn) if line["value"] is not None]
    if not rows:
        return None
    import altair as alt  # slow to import, and only drawing needs it

    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    places = [KINDS.index(kind) for kind in kinds]
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2, symbolSize=200, symbolOpacity=1, columns=3)
    scale = alt.Scale(domain=kinds, range=[KIND_COLORS[place] for place in places])
    color = alt.Color("kind:N", title=None, scale=scale, legend=legend)
    dashes = alt.Scale(domain=kinds, range=[KIND_DASHES[place] for place in places])
    steps_axis = alt.Axis(tickCount=5, format="d", grid=False)
    x = alt.X("step:Q", title="decoding step (tokens)", axis=steps_axis, scale=alt.Scale(nice=False))
    y_scale = alt.Scale(zero=drawn.from_zero, nice=True)
    y = alt.Y("value:Q", title=drawn.y_title, scale=y_scale, axis=alt.Axis(tickCount=4))
    base = alt.Chart().encode(x=x, color=color)
    bands = base.mark_area(opacity=0.15, line=False).encode(y=alt.Y("low:Q", title=drawn.y_title), y2="high:Q")
    lines = base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=alt.StrokeDash("kind:N", scale=dashes, title=None))
    panel = alt.layer(bands, lines).properties(width=WIDTH, height=HEIGHT)
    return _panels(
        rows, panel, drawn.title, [*drawn.remark, "random groups: of the same sizes, treated the same", _sizes(steps)]
    )


def _lines(row: Record, drawn: Drawn) -> list[Record]:
    """One step's points: the side's own, and for members that of random groups."""
    name, side = drawn.column, "members" if row["group"] == "member" else "control"
    ends = {"low": row[f"{name}_low"], "high": row[f"{name}_high"]}
    where = {"model": row["model"], "step": row["step"]}
    lines = [{**where, "kind": side, "value": row[name], **ends}]
    if side == "members":
        ends = {end: row[f"random_{name}_{end}"] for end in ("low", "high")}
        lines.append({**where, "kind": "random groups", "value": row[f"random_{name}"], **ends})
    return lines


def _draw_matrices(result: EmbeddingsResult) -> alt.ConcatChart | None:
    """Distances between all pairs of scores at the first, the middle and the last step, for the largest model."""
    rows = result.distances.to_pylist()
    sides = [row["group"] for row in rows]
    side = "member" if "member" in sides else "control"
    labels = [row["model"] for row in rows if row["group"] == side]
    if not labels:
        return None
    import altair as alt

    rows = [row for row in rows if row["model"] == labels[-1] and row["group"] == side]
    last = max(row["step"] for row in rows)
    shown = [row for row in rows if row["step"] in {0, (last + 1) // 2, last}]
    cells = [cell for row in shown for cell in _cells(row)]
    scores = sorted({cell["score"] for cell in cells})
    ticks = alt.Axis(values=_ticks(scores), labelAngle=0, grid=False, domain=False)
    x = alt.X("score:O", title="matched tokens", axis=ticks)
    y = alt.Y("other:O", title="matched tokens", axis=ticks, sort="descending")
    legend = alt.Legend(title="distance / sqrt(width), noise taken off", gradientLength=180, titleLimit=300)
    color = alt.Color("distance:Q", scale=alt.Scale(range=list(RAMP), domainMin=0), legend=legend)
    panel = alt.Chart().mark_rect().encode(x=x, y=y, color=color).properties(width=MATRIX_SIZE, height=MATRIX_SIZE)
    remark = [f"{labels[-1]}, {side}; scores in order darken toward the diagonal"]
    return _panels(cells, panel, "Distances between scores", remark, columns=3).resolve_scale(color="shared")


def _cells(row: Record) -> list[Record]:
    """Both halves of the matrix."""
    pair, named = (row["num_matched"], row["other_num_matched"]), {"model": f"step {row['step']}"}
    distance = {"distance": row["corrected_distance_per_width"], **named}
    return [{"score": one, "other": other, **distance} for one, other in (pair, pair[::-1])]


def _draw_path(path: Sequence[Record]) -> alt.ConcatChart | None:
    """Each score's mean state from step to step: a line that ends in a dot."""
    side = "member" if any(row["group"] == "member" for row in path) else "control"
    names = ("model", "step", "num_matched", "x", "y")
    rows = [{name: row[name] for name in names} for row in path if row["group"] == side]
    last = {row["model"]: row["step"] for row in rows}
    for row in rows:
        row["end"] = row["step"] == last[row["model"]]
    if not rows:
        return None
    import altair as alt

    scores = sorted({row["num_matched"] for row in rows})
    scale = alt.Scale(range=list(RAMP), domain=[scores[0], scores[-1]])
    legend = alt.Legend(title="matched tokens", gradientLength=180, values=_ticks(scores), format="d", columns=6)
    color = alt.Color("num_matched:Q", scale=scale, legend=legend)
    base = alt.Chart().encode(
        x=alt.X("x:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        color=color,
        detail="num_matched:N",
    )
    lines = base.mark_line(strokeWidth=1, opacity=0.75).encode(order="step:Q")
    dots = base.mark_point(filled=True, size=22, opacity=1).transform_filter("datum.end")
    panel = alt.layer(lines, dots).properties(width=PATH_SIZE, height=PATH_SIZE)
    return _panels(rows, panel, "The path of the mean states", [*_plane(path), "a dot: the last step"])


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
    rows: Sequence[Record], panel: Any, title: str, remark: Sequence[str], *, columns: int = MAX_COLUMNS
) -> alt.ConcatChart:
    """One panel for each model, in the order of the rows, with its own data."""
    import altair as alt

    charts = [
        panel.properties(
            data=alt.InlineData(values=[_plain(row) for row in rows if row["model"] == model]),
            title=alt.TitleParams(model, fontSize=11, fontWeight="normal", anchor="middle", offset=6, frame="group"),
        )
        for model in dict.fromkeys(row["model"] for row in rows)
    ]
    return alt.concat(*charts, columns=columns, title=alt.TitleParams(title, subtitle=list(remark)))


def _plain(row: Record) -> Record:
    """The row with five digits, which is more than can be seen: the page carries it."""
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in row.items()
        if name != "model"
    }


def _sizes(steps: Sequence[Record]) -> str:
    """How many clusters stand behind a point."""
    parts: list[str] = []
    for side in ("member", "control"):
        sizes = [row["num_clusters"] for row in steps if row["group"] == side]
        if sizes:
            span = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
            parts.append(f"{span} {side} clusters")
    return f"n: {', '.join(parts)}"


def _ticks(scores: Sequence[int]) -> list[int]:
    """About five scores, evenly spaced, from the lowest."""
    spacing = max(1, round((scores[-1] - scores[0]) / 4))
    return [score for score in scores if (score - scores[0]) % spacing == 0]
