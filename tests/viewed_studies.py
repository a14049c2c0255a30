"""What the server should list, looked up the slow way: each row of each stored table, filtered and sorted in Python."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from starlette.testclient import TestClient

from mnemoscope.shards import matched_bits
from mnemoscope.store import Study, read_scores
from mnemoscope.viewer.server import create_app

ADDRESS: Final = "http://127.0.0.1:8000"


_known: dict[tuple[str, str, int], list[Any]] = {}


class Known(NamedTuple):
    """A row of the stored scores."""

    group: str
    sequence_id: int
    num_repeats: int | None
    first_mismatch: int | None
    num_matched: dict[int, int | None]
    """By continuation."""
    log_probability: dict[int, float | None]


def client_of(study: Study, **options: Any) -> TestClient:
    """A client of the study's server, at an address that it accepts."""
    return TestClient(create_app(study, **options), base_url=ADDRESS)


def known_rows(study: Study, label: str, context: int) -> list[Known]:
    """The rows of a model at a context, members first and by id; read once for each study."""
    key = (str(study.folder), label, context)
    if key not in _known:
        _known[key] = _read_rows(study, label, context)
    return _known[key]


def _read_rows(study: Study, label: str, context: int) -> list[Known]:
    mode, continuations = study.config.mode, study.config.continuations
    found: list[Known] = []
    for table in read_scores(study, label, partial=True):
        bits = matched_bits(table, continuations[-1]) if mode == "graded" else None
        for place, row in enumerate(table.to_pylist()):
            if row["context"] != context:
                continue
            if mode == "imported":
                counts = dict(zip(continuations, row["num_matched"], strict=True))
            elif bits is None:
                counts = {n: n if row["first_mismatch"] >= n else None for n in continuations}
            else:
                counts = {n: int(bits[place, :n].sum()) for n in continuations}
            logs = dict(zip(continuations, row["log_probability"] or [None] * len(continuations), strict=True))
            names = ("group", "sequence_id", "num_repeats", "first_mismatch")
            found.append(Known(*(row[name] for name in names), counts, logs))
    return sorted(found, key=lambda row: (row.group != "member", row.sequence_id))


def expected_keys(study: Study, parameters: dict[str, Any]) -> list[tuple[str, int]]:
    """Group and id of the sequences that parameters without a text ask for, in their order."""
    labels, n = list(study.runs), int(parameters["continuation"])
    rows = known_rows(study, labels[int(parameters["model"])], int(parameters["context"]))
    cell = json.loads(parameters["cell"]) if "cell" in parameters else None
    in_cell = None if cell is None else _in_cell(study, cell)

    def fits(row: Known) -> bool:
        return (
            parameters.get("group") in (None, row.group)
            and _is_within(row.num_matched[n], parameters, "matched")
            and _is_within(row.num_repeats, parameters, "copies")
            and (in_cell is None or (row.group, row.sequence_id) in in_cell)
        )

    chosen = [row for row in rows if fits(row)]
    order = parameters.get("order", "id")
    if order != "id":
        chosen.sort(key=lambda row: _descending((row.num_matched if order == "matched" else row.log_probability)[n]))
    return [(row.group, row.sequence_id) for row in chosen]


def listed_rows(client: TestClient, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of all pages; each page but the last is full, and a total that is told is their number."""
    rows: list[dict[str, Any]] = []
    cursor, totals = None, set()
    while True:
        answer = client.get("/api/sequences", params=parameters | ({} if cursor is None else {"cursor": cursor}))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page["rows"]
        totals.add(page["total"])
        cursor = page["next"]
        if cursor is None:
            break
        assert len(page["rows"]) == 50 or "text" in parameters
    assert totals <= {len(rows), None}
    return rows


def keys_of(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Group and id of listed rows."""
    return [(row["group"], row["id"]) for row in rows]


def cell_of(study: Study, *, before: tuple[int, int, int], after: tuple[int, int, int], **levels: Any) -> str:
    """A cell as the page writes it, from (model, context, continuation) and [low, high] as matched_from, matched_to."""
    labels = list(study.runs)
    return json.dumps(
        {
            "group": levels.get("group", "member"),
            "model_from": labels[before[0]],
            "context_from": before[1],
            "continuation_from": before[2],
            "model_to": labels[after[0]],
            "context_to": after[1],
            "continuation_to": after[2],
            "from": levels["matched_from"],
            "to": levels["matched_to"],
            "label": "for people",
        }
    )


def _in_cell(study: Study, cell: dict[str, Any]) -> set[tuple[str, int]]:
    ends = []
    for end in ("from", "to"):
        low, high = cell[end]
        rows = known_rows(study, cell[f"model_{end}"], cell[f"context_{end}"])
        counts = {(row.group, row.sequence_id): row.num_matched[cell[f"continuation_{end}"]] for row in rows}
        ends.append({key for key, count in counts.items() if count is not None and low <= count <= high})
    return {key for key in ends[0] & ends[1] if key[0] == cell["group"]}


def _is_within(value: int | None, parameters: dict[str, Any], name: str) -> bool:
    low, high = parameters.get(f"{name}_low"), parameters.get(f"{name}_high")
    if low is None and high is None:
        return True
    return value is not None and (low is None or value >= int(low)) and (high is None or value <= int(high))


def _descending(value: float | None) -> float:
    return float("inf") if value is None else -value
