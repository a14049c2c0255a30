"""The explorer in the report's page, in a real browser: it lists what fits, shows what is stored, and runs no text."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest

from browsing import PHONE, draw_figure, visit
from byte_tokens import HOSTILE, PLANTED
from explorer_pages import CASES, Explorer, fitting, known_of_page

LARGEST = 1
"""Index of the study's largest model."""
CUT = 24
"""Characters of a token that a cell shows."""
VOCAB = 1024
INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Co", "Cs", "Cn"}
"""Unicode's categories of what is not seen, or moves what is."""


@pytest.fixture(scope="module")
def explored(browser, drawn_page):
    """The drawn study's page, opened once for all tests."""
    with visit(browser, drawn_page) as opened:
        yield opened


def test_filters_list_exactly_what_fits(explored):
    """Each filter lists those sequences of the page's JSON that fit it, no other, and says how many they are."""
    explorer, sequences = Explorer(explored), known_of_page(explored.data())
    assert 100 <= len(sequences) <= 1000
    explorer.clear()
    assert explorer.cell == (LARGEST, 8, 8)
    for name, case in CASES.items():
        explorer.clear()
        explorer.set(**case.filters)
        expected = fitting(sequences, case, (LARGEST, 8, 8))
        assert explorer.total == len(expected), name
        assert explorer.listed_keys() == expected, name
    some = [name for name, case in CASES.items() if fitting(sequences, case, (LARGEST, 8, 8))]
    assert set(CASES) - set(some) == {"nothing"}
    assert explored.faults() == []


@pytest.mark.parametrize("cell", [(0, 8, 4), (LARGEST, 16, 4)])
def test_matches_are_seen_by_the_chosen_model_and_lengths(explored, cell):
    """A row tells num_matched under the chosen model at the chosen context and continuation."""
    explorer, (model, context, continuation) = Explorer(explored), cell
    stored = {one.key: one.num_matched[cell] for one in known_of_page(explored.data())}
    explorer.clear()
    explorer.set(model=model, context=context, continuation=continuation)
    rows = explorer.listed()
    assert {row.key: row.num_matched for row in rows} == stored
    assert all(f"of {continuation}" in row.facts for row in rows)


def test_orders(explored):
    """The list falls in num_matched or in the probability of the truth, and always holds the same sequences."""
    explorer, data = Explorer(explored), explored.data()
    explorer.clear()
    explorer.set(order="matched")
    counts = [row.num_matched for row in explorer.listed()]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3
    explorer.set(order="log_probability")
    place = data["study"]["contexts"].index(8), data["study"]["continuations"].index(8)
    logs = {
        (one["group"], one["id"]): one["scores"][LARGEST][place[0]]["log_probability"][place[1]]
        for one in data["explorer"]["sequences"]
    }
    shown = [logs[key] for key in explorer.listed_keys()]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == len(logs)


def test_a_sequence_is_shown_as_it_is_stored(explored):
    """Signs are the stored bits with the first miss marked, texts the tokens'; every model and context has a score."""
    explorer, data = Explorer(explored), explored.data()
    explorer.clear()
    explorer.set(model=LARGEST, context=8, continuation=8)
    texts, page = data["explorer"]["texts"], explored.page
    num_missed = 0
    for sequence in data["explorer"]["sequences"][:12]:
        key = sequence["group"], sequence["id"]
        explorer.listed()
        explorer.open(key)
        score = sequence["scores"][LARGEST][data["study"]["contexts"].index(8)]
        signs = ["=" if bit == "1" else "x" for bit in score["matched"]]
        if score["first_mismatch"] < 8:
            signs[score["first_mismatch"]], num_missed = "X", num_missed + 1
        tokens = page.locator("#sequence .tokens[data-part='continuation'] .token")
        assert tokens.evaluate_all("all => all.map(one => one.dataset.match)") == signs
        assert tokens.locator(".token-mark").all_inner_texts() == signs
        shown = page.locator("#sequence .token .token-truth").all_text_contents()
        wholes = [texts.get(str(token), f"<{token}>").replace(" ", "·") for token in sequence["tokens"][:16]]
        assert len(shown) == len(wholes)
        for text, whole in zip(shown, wholes, strict=True):
            assert text == cut(whole)
        rows = page.locator("#sequence-scores tbody tr").all_inner_texts()
        assert len(rows) == len(data["study"]["models"]) * len(data["study"]["contexts"])
        assert page.locator("#sequence-scores tr[data-chosen='true']").count() == 1
        assert str(sequence["id"]) in page.locator("#sequence-command").inner_text()
    assert num_missed > 0


def test_a_traced_sequence_shows_generation_and_entropy(explored):
    """Under the traced model and context the generated tokens stand below the truth, with the entropy of each."""
    explorer, data = Explorer(explored), explored.data()
    explorer.clear()
    explorer.listed()
    texts, traced = data["explorer"]["texts"], [one for one in data["explorer"]["sequences"] if one["traces"]]
    assert len(traced) > 50
    differing = 0
    for sequence in traced[::20]:
        trace = next(one for one in sequence["traces"] if (one["model"], one["context"]) == (LARGEST, 8))
        explorer.open((sequence["group"], sequence["id"]))
        shown = explored.page.locator("#sequence .tokens[data-part='continuation'] .token").evaluate_all(
            "all => all.map(one => ['index', 'model', 'entropy'].map(name => {"
            " const line = one.querySelector(`.token-${name}`);"
            " return name === 'entropy' ? line.title : line.textContent; }))"
        )
        for index, (number, said, entropy) in enumerate(shown[:4], start=8):
            whole = texts.get(str(trace["generated"][index]), f"<{trace['generated'][index]}>").replace(" ", "·")
            assert (number, said) == (str(index), cut(whole))
            assert entropy.startswith(f"{trace['entropy'][index]:.2f}")
            differing += trace["generated"][index] != sequence["tokens"][index]
    assert differing > 5


def cut(whole: str) -> str:
    """A token's text as a cell shows it."""
    return whole if len(whole) <= CUT else f"{whole[:12]}[+{len(whole) - 12}]"


def test_hostile_text_is_only_shown(explored):
    """A planted script is there to be read and does not run; what is invisible or turns direction is spelled out."""
    explorer, data = Explorer(explored), explored.data()
    texts = data["explorer"]["texts"]
    first = VOCAB - len(HOSTILE)
    held = {token: one for one in data["explorer"]["sequences"] for token in one["tokens"] if token >= first}
    assert len(held) >= len(HOSTILE) - 2
    assert any(texts.get(str(token)) == PLANTED for token in held)
    explorer.clear()
    explorer.listed()
    for token, sequence in held.items():
        explorer.open((sequence["group"], sequence["id"]))
        index = sequence["tokens"].index(token)
        cell = explored.page.locator(f"#sequence .token[data-index='{index}'] .token-truth")
        if index < 16:
            whole = texts.get(str(token), f"<{token}>").replace(" ", "·")
            assert cell.text_content() == cut(whole)
        text = explored.page.locator("body").inner_text()
        assert not {unicodedata.category(mark) for mark in text.replace("\n", "").replace("\t", "")} & INVISIBLE
        assert max(map(len, text.split("\n"))) < 5000
    assert explored.page.evaluate("window.planted") is None
    assert "window.planted" not in "".join(explored.page.locator("script:not([type])").all_text_contents())
    assert explored.faults() == []


def test_a_script_among_the_tokens_is_searched_as_text(explored):
    """The sequences with the planted script are found by it, and their rows show it as text."""
    explorer = Explorer(explored)
    explorer.clear()
    explorer.set(text="window.planted=1")
    rows = explorer.listed()
    assert rows
    holders = [
        (one["group"], one["id"])
        for one in explored.data()["explorer"]["sequences"]
        if VOCAB - len(HOSTILE) in one["tokens"]
    ]
    assert sorted(row.key for row in rows) == sorted(holders)
    assert explored.page.evaluate("window.planted") is None


def test_keyboard_reaches_list_and_sequences(explored):
    """The contents and Tab lead to the list; arrows, End and Home choose sequences, which are then shown."""
    explorer, page = Explorer(explored), explored.page
    explorer.clear()
    keys = explorer.listed_keys()
    page.locator("nav#contents a[href='#explorer']").press("Enter")
    for pressed in itertools.count():
        assert pressed < 30, "30 times Tab and not there yet"
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement?.id") == "explorer-list":
            break
    for key, press in ((0, "Home"), (1, "ArrowDown"), (2, "ArrowDown"), (1, "ArrowUp"), (len(keys) - 1, "End")):
        page.keyboard.press(press)
        explorer.wait_for_sequence(keys[key])
        chosen = page.locator("#explorer-list [aria-selected='true']")
        assert chosen.count() == 1
        assert (chosen.get_attribute("data-group"), int(chosen.get_attribute("data-id"))) == keys[key]


def matrix_cells(opened) -> list[dict]:
    """What stands behind the cells of each transition matrix, with the figure and their place in it."""
    return opened.page.evaluate(
        "[...document.querySelectorAll('figure[data-figure]')].flatMap(figure =>"
        " [...figure.querySelectorAll('.plot [data-cell]')].map((node, place) =>"
        " ({figure: figure.dataset.figure, place, ...node.__data__.datum})))"
    )


def test_a_matrix_cell_lists_its_sequences(explored):
    """A chosen cell lists the sequences that went from its one level to the other; its chip lets them go."""
    for name in ("transitions_by_size", "transitions_by_continuation"):
        draw_figure(explored, name)
    explorer, data = Explorer(explored), explored.data()
    sequences, study = known_of_page(data), data["study"]
    labels = [model["label"] for model in study["models"]]
    levels = {n: {name: range(low, high + 1) for name, low, high in rows} for n, rows in study["levels"].items()}

    def fits(one, cell):
        if cell.get("group") and one.key[0] != cell["group"]:
            return False
        sides = [
            (labels.index(cell[f"model_{s}"]), cell[f"context_{s}"], cell[f"continuation_{s}"]) for s in ("from", "to")
        ]
        return all(
            one.num_matched[side] in levels[str(side[2])][cell[f"level_{s}"]]
            for side, s in zip(sides, ("from", "to"), strict=True)
        )

    cells = matrix_cells(explored)
    assert len({cell["figure"] for cell in cells}) >= 1
    counted = [(cell, {one.key for one in sequences if fits(one, cell)}) for cell in cells]
    filled = [(cell, keys) for cell, keys in counted if keys]
    assert len(filled) > 5
    explorer.clear()
    everything = explorer.total
    for number in np.linspace(0, len(filled) - 1, 4).astype(int):
        cell, keys = filled[number]
        mark = explored.page.locator(f"figure[data-figure='{cell['figure']}'] .plot [data-cell]").nth(cell["place"])
        mark.scroll_into_view_if_needed()
        mark.focus()
        mark.press("Enter") if number % 2 else mark.click(force=True)
        chip = explored.page.locator("#explorer-cell")
        chip.wait_for()
        explorer.settle()
        assert all(cell[name] in chip.inner_text() for name in ("level_from", "level_to", "model_to"))
        assert set(explorer.listed_keys()) == keys
        chip.locator("[data-action='clear-cell']").click()
        chip.wait_for(state="hidden")
        explorer.settle()
        assert explorer.total == everything
    assert explored.faults() == []


def test_a_phone_shows_a_hostile_sequence_without_sideways_scroll(browser, drawn_page):
    """At 390 pixels the explorer and a sequence with an endless token are no wider than the screen."""
    with visit(browser, drawn_page, size=PHONE) as opened:
        explorer = Explorer(opened)
        explorer.clear()
        explorer.set(text="xxxxxxxxxxxxxxxx")
        keys = explorer.listed_keys()
        assert keys
        explorer.open(keys[-1])
        assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert opened.page.locator("#sequence").bounding_box()["width"] <= 390


def test_it_says_what_the_sample_is(explored):
    """The note tells how many sequences of how many there are."""
    note = explored.page.locator("#explorer-note").inner_text()
    assert str(len(explored.data()["explorer"]["sequences"])) in note.replace(",", "")
    assert "840" in note
