"""The explorer of sequences as a reader uses it, and what it should show, looked up the slow way.

The same filters are tried on the page's sample and on what `mnemoscope view` serves: what fits is counted here, row by
row, over the page's own JSON or over the stored tables and the corpus.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import numpy as np

from mnemoscope.report.escapes import escape
from mnemoscope.shards import num_matched
from mnemoscope.store import Study, read_scores
from mnemoscope.texts import open_texts

if TYPE_CHECKING:
    from browsing import Visit

Key = tuple[str, int]
"""Group and sequence_id."""
Cell = tuple[int, int, int]
"""Index of the model, context, continuation."""


class Known(NamedTuple):
    """What is known of a sequence."""

    key: Key
    num_repeats: int | None
    text: str
    """Its window, escaped, in lower case."""
    num_matched: dict[Cell, int]


class Listed(NamedTuple):
    """A row of the list as it is read."""

    key: Key
    num_matched: int
    facts: str
    preview: str


@final
class Explorer:
    """The explorer of an open page."""

    def __init__(self, opened: Visit) -> None:
        self.opened, self.page = opened, opened.page
        self.settle()

    def settle(self) -> None:
        """Until the list is the answer to the filter as it stands."""
        self.opened.wait_for(
            "() => document.querySelector('#explorer-count')?.textContent"
            " && !document.querySelector('#explorer-list').hasAttribute('aria-busy')"
        )

    def set(self, **filters: object) -> None:
        """Set filters by name, `_` for `-`; the others stay."""
        for name, value in filters.items():
            field = self.page.locator(f"[data-filter='{name.replace('_', '-')}']")
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(str(value))
            else:
                field.fill(str(value))
                field.dispatch_event("change")
            self.settle()

    def clear(self) -> None:
        """No filter at all, in the order of ids."""
        self.page.click("[data-action='clear-filters']")
        self.settle()
        self.set(order="id")

    @property
    def cell(self) -> Cell:
        """Under which model and at which lengths sequences are seen."""
        values = [
            self.page.locator(f"[data-filter='{name}']").input_value() for name in ("model", "context", "continuation")
        ]
        model, context, continuation = map(int, values)
        return model, context, continuation

    @property
    def total(self) -> int | None:
        """How many there are, as it says; None while it only says how many it lists."""
        words = self.page.locator("#explorer-count").inner_text().replace(",", "")
        found = re.fullmatch(r"(?:\d+ of )?(\d+) sequences?(?: listed)?", words)
        assert found is not None, words
        return None if words.endswith("listed") and " of " not in words else int(found[1])

    def listed(self) -> list[Listed]:
        """Every row, further pages among them."""
        more = self.page.locator("#explorer-more")
        while more.is_visible():
            more.click()
            self.settle()
        rows = self.page.locator("#explorer-list [role='option']").evaluate_all(
            "rows => rows.map(row => [row.dataset.group, row.dataset.id,"
            " row.querySelector('.row-facts').textContent, row.querySelector('.row-preview')?.textContent ?? ''])"
        )
        return [
            Listed((group, int(place)), int(re.search(r"matched (\d+)", facts)[1]), facts, preview)
            for group, place, facts, preview in rows
        ]

    def listed_keys(self) -> list[Key]:
        """The listed sequences."""
        return [row.key for row in self.listed()]

    def open(self, key: Key) -> None:
        """Choose a listed sequence, and wait until it is shown."""
        self.page.click(f"#explorer-list [data-group='{key[0]}'][data-id='{key[1]}']")
        self.wait_for_sequence(key)

    def wait_for_sequence(self, key: Key) -> None:
        """Until a sequence is shown."""
        self.page.wait_for_selector(f"#sequence[data-group='{key[0]}'][data-id='{key[1]}'] .tokens")


class Case(NamedTuple):
    """Filters, and whether a sequence fits them, seen in a cell."""

    filters: dict[str, object]
    fits: Callable[[Known, Cell], bool]


CASES: Final[dict[str, Case]] = {
    "control": Case({"group": "control"}, lambda one, cell: one.key[0] == "control"),
    "member": Case({"group": "member"}, lambda one, cell: one.key[0] == "member"),
    "recited": Case({"matched_low": 8}, lambda one, cell: one.num_matched[cell] >= 8),
    "unmatched": Case({"matched_high": 0}, lambda one, cell: one.num_matched[cell] == 0),
    "between": Case({"matched_low": 2, "matched_high": 5}, lambda one, cell: 2 <= one.num_matched[cell] <= 5),
    "copied": Case({"copies_low": 4}, lambda one, cell: (one.num_repeats or 0) >= 4),
    "once": Case({"copies_low": 1, "copies_high": 1}, lambda one, cell: one.num_repeats == 1),
    "word": Case({"text": "babado"}, lambda one, cell: "babado" in one.text),
    "two words": Case({"text": "baba bado"}, lambda one, cell: "baba bado" in one.text),
    "script": Case({"text": "</script><script>"}, lambda one, cell: "</script><script>" in one.text),
    "spelled": Case({"text": r"\u202ereversed"}, lambda one, cell: r"\u202ereversed" in one.text),
    "together": Case(
        {"group": "member", "matched_low": 6, "copies_low": 2},
        lambda one, cell: one.key[0] == "member" and one.num_matched[cell] >= 6 and (one.num_repeats or 0) >= 2,
    ),
    "nothing": Case({"text": "no such words"}, lambda one, cell: "no such words" in one.text),
}


def fitting(sequences: list[Known], case: Case, cell: Cell) -> list[Key]:
    """Those that fit, in the order of ids, members first."""
    return sorted((one.key for one in sequences if case.fits(one, cell)), key=lambda key: (key[0] != "member", key[1]))


def known_of_page(data: Any) -> list[Known]:
    """The sample that a page carries."""
    study, texts = data["study"], data["explorer"]["texts"]

    def matched(sequence: Any) -> dict[Cell, int]:
        return {
            (model, context, n): count
            for model, by_context in enumerate(sequence["scores"])
            for context, score in zip(study["contexts"], by_context, strict=True)
            for n, count in zip(study["continuations"], score["num_matched"], strict=True)
        }

    def text(sequence: Any) -> str:
        return "".join(texts.get(str(token), f"<{token}>") for token in sequence["tokens"]).lower()

    return [
        Known((one["group"], one["id"]), one["num_repeats"], text(one), matched(one))
        for one in data["explorer"]["sequences"]
    ]


def known_of_study(study: Study) -> list[Known]:
    """Every sequence of a study, from its tables and corpora."""
    found: dict[Key, Known] = {}
    for group, text in open_texts(study.config).items():
        windows = text.read(np.arange(len(text.selection)))
        shown = {int(token): _shown(text.corpus.tokenizer, int(token)) for token in np.unique(windows.tokens)}
        for place, tokens in zip(windows.sequence_ids.tolist(), windows.tokens.tolist(), strict=True):
            words = "".join(shown[token] for token in tokens).lower()
            found[group, place] = Known((group, place), None, words, {})
    for model, (label, run) in enumerate(study.runs.items()):
        for table in read_scores(study, label):
            counts = num_matched(table, run.identity.grid).tolist()
            names = ("group", "sequence_id", "context", "num_repeats")
            columns = zip(*(table[name].to_pylist() for name in names), counts, strict=True)
            for group, place, context, num_repeats, row in columns:
                known = found[group, place]
                cells = {(model, context, n): count for n, count in zip(study.config.continuations, row, strict=True)}
                found[group, place] = known._replace(num_repeats=num_repeats, num_matched=known.num_matched | cells)
    return list(found.values())


def _shown(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token], skip_special_tokens=False)
    return f"<{token}>" if "\ufffd" in text else escape(text)
