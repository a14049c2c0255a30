"""Vega-Lite descriptions as plain dictionaries: channels, marks, layers, panels side by side, and the rows they draw.

Settings have the names that Vega-Lite gives them. Nothing is checked here: a test holds every figure against
Vega-Lite's schema. Rows stay inside the views until `describe` puts them into one place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Spec = dict[str, Any]
"""A description or a part of one."""
Rows = Sequence[Mapping[str, Any]]

SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v6.json"
HOVER: Final = "hover"
"""Begins the name of a view that only a pointer finds: it is left out of files."""
_TYPES: Final = {"Q": "quantitative", "N": "nominal", "O": "ordinal"}
_CONCATENATIONS: Final = ("concat", "hconcat", "vconcat")


def channel(column: str, **settings: Any) -> Spec:
    """What a column decides, as `share:Q`, or `share_high` alone for the second end of a bar or band."""
    name, _, kind = column.partition(":")
    return {"field": name, **({"type": _TYPES[kind]} if kind else {}), **settings}


def mark(kind: str, encoding: Mapping[str, Spec], *, where: str = "", rows: Rows | None = None, **style: Any) -> Spec:
    """One kind of mark with its channels; of the rows only those for which the expression `where` is true."""
    view: Spec = {"mark": {"type": kind, **style}, "encoding": dict(encoding)}
    if where:
        view["transform"] = [{"filter": where}]
    return view if rows is None else {"data": inline(rows), **view}


def hover(encoding: Mapping[str, Spec], *, clip: bool = False) -> Spec:
    """Points that nobody sees, for a pointer to find the rows of a line."""
    return {"name": HOVER, **mark("point", encoding, filled=True, size=90, opacity=0, clip=clip)}


def layer(*views: Spec, rows: Rows | None = None, **settings: Any) -> Spec:
    """Views over one another, from the same rows."""
    return {**({} if rows is None else {"data": inline(rows)}), "layer": list(views), **settings}


def concat(*panels: Spec, columns: int, **settings: Any) -> Spec:
    """Panels side by side, and below one another after so many columns."""
    return {"concat": list(panels), "columns": columns, **settings}


def inline(rows: Rows) -> Spec:
    """Rows as data of a view."""
    return {"values": list(rows)}


def describe(chart: Spec, config: Spec, usermeta: Spec) -> Spec:
    """The whole description: each table of rows once, by name, and the config."""
    datasets: dict[str, list[Mapping[str, Any]]] = {}
    names: dict[str, str] = {}

    def lift(view: Spec) -> Spec:
        inner = {part: [lift(one) for one in view[part]] for part in (*_CONCATENATIONS, "layer") if part in view}
        values = view.get("data", {}).get("values")
        if values is None:
            return {**view, **inner}
        name = names.setdefault(json.dumps(values), f"rows_{len(names) + 1}")
        datasets[name] = values
        return {**view, **inner, "data": {"name": name}}

    lifted = lift(chart)
    return {"$schema": SCHEMA, **lifted, "datasets": datasets, "config": config, "usermeta": usermeta}


def views_of(spec: Spec) -> Iterable[Spec]:
    """Every view of a description, from the outermost on."""
    yield spec
    for part in (*_CONCATENATIONS, "layer"):
        for view in spec.get(part, ()):
            yield from views_of(view)


def without_hover(spec: Spec) -> Spec:
    """The description as it is drawn on paper: without views that only a pointer finds."""
    kept = dict(spec)
    for part in (*_CONCATENATIONS, "layer"):
        if part in kept:
            kept[part] = [without_hover(view) for view in kept[part] if not view.get("name", "").startswith(HOVER)]
    return kept
