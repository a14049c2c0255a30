"""What the viewer lists of a study: every filter, order and page equals a look at every stored row."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from byte_tokens import HOSTILE
from mnemoscope.config import CorpusConfig
from mnemoscope.errors import StoreError
from mnemoscope.imported import import_scores
from mnemoscope.report.escapes import escape
from mnemoscope.run import run_study
from mnemoscope.sequence_texts import open_corpora
from mnemoscope.shards import ShardRange
from mnemoscope.store import open_study, shard_path
from mnemoscope.texts import GroupText, open_texts
from mnemoscope.viewer.committed import CommittedShards, split_into_parts
from mnemoscope.viewer.filters import read_filter
from mnemoscope.viewer.queries import Database, Session, Stopped
from mnemoscope.viewer.search import search
from mnemoscope.viewer.statements import Statement
from mnemoscope.viewer.windows import WindowTexts
from studies import make_study, score_two
from synthetic_study import write_study
from viewed_studies import cell_of, client_of, expected_keys, keys_of, known_rows, listed_rows

PLACE = {"model": "1", "context": "16", "continuation": "8"}
SECRET = b" jane.roe@example.com"
FILTERS = {
    "everything": {},
    "member": {"group": "member"},
    "control": {"group": "control"},
    "all match": {"matched_low": "8"},
    "none matches": {"matched_high": "0"},
    "some match": {"matched_low": "3", "matched_high": "6"},
    "one number": {"matched_low": "5", "matched_high": "5"},
    "beyond": {"matched_low": "10"},
    "shorter": {"continuation": "3", "matched_low": "2", "matched_high": "2"},
    "shorter whole": {"continuation": "3", "matched_low": "3", "context": "8"},
    "copies": {"copies_low": "4", "copies_high": "16"},
    "together": {"group": "member", "copies_high": "2", "matched_low": "8", "model": "0"},
    "nothing": {"copies_low": "1000"},
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """320 members and 64 of a control under two models, in shards of 24; the last token is an address."""
    folder = tmp_path_factory.mktemp("drawn") / "odd [x]*?=1 'name'"
    hostile = (*HOSTILE, SECRET)
    return write_study(
        folder, num_sequences=320, contexts=(8, 16), continuations=(3, 8, 11), shard_rows=24, hostile=hostile
    )


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """130 sequences scored in mode exact by a network."""
    folder = tmp_path_factory.mktemp("exact")
    return run_study(make_study(folder / "in", num_rows=130, mode="exact", shard_rows=16), folder / "study")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two models over 11 members and 5 of a control, scored by networks."""
    return score_two(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Imported scores of 150 sequences, two models, one cell missing."""
    folder = tmp_path_factory.mktemp("imported")
    files = []
    for seed, (model, context, n) in enumerate([("70m", 32, 4), ("70m", 32, 8), ("70m", 48, 4), ("160m", 32, 4)]):
        path = folder / f"memorization_evals_{model}_{context}_{context + n}_9.csv"
        counts = np.random.default_rng(seed).integers(0, n + 1, 150)
        path.write_text("idx,score\n" + "".join(f"{3 * row},{c / n}\n" for row, c in enumerate(counts.tolist())))
        files.append(str(path))
    return import_scores(files, folder / "study")


def check(study, parameters):
    """The pages hold what fits, in order, each once; the rows say what is stored, and the count is their number."""
    client = client_of(study)
    rows = listed_rows(client, parameters)
    assert keys_of(rows) == expected_keys(study, parameters)
    assert client.get("/api/count", params=parameters).json() == {"total": len(rows)}
    label, n = list(study.runs)[int(parameters["model"])], int(parameters["continuation"])
    known = {(row.group, row.sequence_id): row for row in known_rows(study, label, int(parameters["context"]))}
    for row in rows:
        stored = known[row["group"], row["id"]]
        assert (row["num_matched"], row["num_repeats"]) == (stored.num_matched[n], stored.num_repeats)
        assert row["first_mismatch"] == stored.first_mismatch
        assert row["log_probability"] == pytest.approx(stored.log_probability[n], abs=0.0051)
    return rows


@pytest.mark.parametrize("order", ["id", "matched", "log_probability"])
@pytest.mark.parametrize("name", FILTERS)
def test_filters_list_what_fits_in_order(drawn, name, order):
    """Each filter in each order lists, over all pages without gaps or doubles, what a look at every row finds."""
    check(drawn, PLACE | FILTERS[name] | {"order": order})


@pytest.mark.parametrize("order", ["id", "matched", "log_probability"])
@pytest.mark.parametrize("filters", [{}, {"matched_low": "3"}, {"matched_high": "4"}, {"matched_low": "0"}])
def test_exact_scores_are_known_of_full_matches(exact, filters, order):
    """In mode exact num_matched is n or unknown; filters take the known, and the unknown come last."""
    for n in ("3", "5"):
        check(exact, {"model": "0", "context": "8", "continuation": n, "order": order} | filters)


@pytest.mark.parametrize("order", ["id", "matched", "log_probability"])
@pytest.mark.parametrize("filters", [{}, {"matched_low": "2", "matched_high": "3"}, {"matched_low": "4"}])
def test_imported_scores_are_filtered_by_their_own_column(imported, filters, order):
    """Imported num_matched is filtered and ordered where a file tells it; other cells hold nothing that fits."""
    for model, context, n in (("0", "32", "8"), ("0", "48", "8"), ("1", "32", "4")):
        check(imported, {"model": model, "context": context, "continuation": n, "order": order} | filters)


@pytest.mark.parametrize("order", ["id", "matched"])
def test_networks_scores_are_listed(scored, order):
    """What real networks scored is listed as it is stored, at every model, context and continuation."""
    for model in ("0", "1"):
        for context in ("4", "8"):
            for n in ("3", "5"):
                check(scored, {"model": model, "context": context, "continuation": n, "order": order})


@pytest.mark.parametrize("order", ["id", "matched", "log_probability"])
@pytest.mark.parametrize(
    ("before", "after", "levels"),
    [
        ((0, 16, 8), (1, 16, 8), {"matched_from": [0, 2], "matched_to": [0, 8]}),
        ((0, 16, 8), (1, 16, 8), {"matched_from": [0, 7], "matched_to": [8, 8]}),
        ((0, 8, 3), (0, 16, 11), {"matched_from": [1, 3], "matched_to": [0, 10], "group": "control"}),
        ((1, 8, 3), (0, 16, 8), {"matched_from": [0, 3], "matched_to": [1, 1]}),
    ],
)
def test_a_cell_lists_the_sequences_that_are_in_it(drawn, order, before, after, levels):
    """A transition's cell holds the sequences whose num_matched is within both levels, seen from any place."""
    cell = cell_of(drawn, before=before, after=after, **levels)
    assert check(drawn, PLACE | {"order": order, "cell": cell})
    check(drawn, PLACE | {"order": order, "cell": cell, "group": "member", "copies_low": "2"})


def test_a_cell_of_imported_and_exact_scores(imported, exact):
    """Cells are found by the column that a study has: num_matched of imports, the first mismatch in mode exact."""
    cell = cell_of(imported, before=(0, 32, 4), after=(1, 32, 4), matched_from=[2, 4], matched_to=[0, 4])
    assert check(imported, {"model": "0", "context": "32", "continuation": "8", "cell": cell})
    cell = cell_of(exact, before=(0, 4, 3), after=(0, 8, 3), matched_from=[0, 3], matched_to=[3, 3])
    check(exact, {"model": "0", "context": "8", "continuation": "5", "cell": cell})


def test_parts_cover_the_shards_in_order():
    """Parts grow fourfold up to the bound, stay within a group, and hold each shard once, in order."""
    shards = [ShardRange("member", 10 * i, 10 * i + 10) for i in range(30)]
    shards += [ShardRange("control", 0, 10), ShardRange("control", 20, 30)]
    parts = list(split_into_parts(shards, max_sequences=80))
    assert [shard for part in parts for shard in part.shards] == shards
    assert [len(part.shards) for part in parts] == [1, 4, 8, 8, 8, 1, 2]
    assert [part.group for part in parts] == ["member"] * 6 + ["control"]
    assert [len(part.shards) for part in split_into_parts(shards[:5], max_sequences=1)] == [1] * 5


def window_texts(study):
    """What is shown of each window, in lower letters, by group and id."""
    found = {}
    for group, text in open_texts(study.config).items():
        windows = text.read(np.arange(len(text.selection)))
        for place, tokens in zip(windows.sequence_ids.tolist(), windows.tokens.tolist(), strict=True):
            shown = [text.corpus.tokenizer.decode([token], skip_special_tokens=False) for token in tokens]
            parts = [f"<{t}>" if "\ufffd" in own else escape(own) for t, own in zip(tokens, shown, strict=True)]
            found[group, place] = "".join(parts).lower()
    return found


def test_search_says_how_much_the_corpus_lost(drawn, tmp_path):
    """Sequences whose rows are others by now are searched in vain, and their number is told."""
    copy = shutil.copytree(drawn.folder, tmp_path / "copy")
    rows = np.load(copy / "input" / "member.npy")
    rows[5:12] = rows[20:27]
    np.save(copy / "changed.npy", rows)
    toml = (copy / "study.toml").read_text()
    (copy / "study.toml").write_text(
        toml.replace(json.dumps(str(drawn.folder / "input/member.npy"))[1:-1], "changed.npy")
    )
    client = client_of(open_study(copy))
    answer = client.get("/api/sequences", params=PLACE | {"text": "no such"}).json()
    assert "Of 7 of these the corpus no longer holds the text" in answer["note"]
    previews = [row["preview"] for row in client.get("/api/sequences", params=PLACE).json()["rows"]]
    assert [place for place, preview in enumerate(previews) if preview is None] == list(range(5, 12))


def test_a_corpus_that_opens_slowly_keeps_nobody_waiting(drawn, monkeypatch):
    """While the corpus is being opened, sequences are listed and shown without their text, and a search says why."""
    opening = threading.Event()
    monkeypatch.setattr("mnemoscope.viewer.windows.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(
        "mnemoscope.viewer.windows.open_corpora", lambda study: opening.wait(60) and open_corpora(study)
    )
    client = client_of(drawn)
    assert [row["preview"] for row in client.get("/api/sequences", params=PLACE).json()["rows"]] == [None] * 50
    assert client.get("/api/sequences/member/3").json()["sequence"]["tokens"] is None
    assert "still being opened" in client.get("/api/sequences", params=PLACE | {"text": "ba"}).json()["note"]
    opening.set()
    monkeypatch.setattr("mnemoscope.viewer.windows.LIST_SECONDS", 60)
    assert all(row["preview"] for row in client.get("/api/sequences", params=PLACE).json()["rows"])


@pytest.mark.parametrize("redact", [False, True])
def test_a_corpus_is_read_by_one_thread_at_a_time(drawn, monkeypatch, redact):
    """Lists and sequences that are asked for at once wait for each other: a corpus goes on from where it was read."""
    inside, together = [], []

    def read(text, *args, read=GroupText.read, **options):
        inside.append(1)
        together.append(len(inside))
        threading.Event().wait(0.01)
        found = read(text, *args, **options)
        inside.pop()
        return found

    client = client_of(drawn, redact=redact)
    assert client.get("/api/sequences/member/1").json()["sequence"]["tokens"]
    monkeypatch.setattr(GroupText, "read", read)
    addresses = [f"/api/sequences/member/{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda address: client.get(address).status_code, addresses))
    assert answers == [200] * 8
    assert together == [1] * 8


def test_a_large_study_opens_in_the_order_of_ids(drawn, monkeypatch):
    """The most matched come first where a look at all sequences is short, else the first of the corpus."""
    assert client_of(drawn).get("/api/study").json()["order"] == "matched"
    monkeypatch.setattr("mnemoscope.viewer.answers.MAX_ORDERED", 383)
    assert client_of(drawn).get("/api/study").json()["order"] == "id"


def test_the_study_counts_what_is_listed(tmp_path):
    """Sequences that were left out as too short are not told of: the note has as many as the list."""
    rows = [[number % 7 for number in range(start, start + length)] for start, length in enumerate((16, 5, 16, 4, 16))]
    pq.write_table(pa.table({"tokens": rows}), tmp_path / "rows.parquet")
    corpus = CorpusConfig(path=str(tmp_path / "rows.parquet"), short_rows="skip")
    client = client_of(run_study(make_study(tmp_path, corpus=corpus), tmp_path / "study"))
    assert ", 3 members, as" in client.get("/api/study").json()["note"]
    listed = client.get("/api/sequences", params={"model": 0, "context": 4, "continuation": 3}).json()
    assert (listed["total"], [row["id"] for row in listed["rows"]]) == (3, [0, 2, 4])


@pytest.mark.parametrize("words", ["BABADO", "baba bado", "</script><SCRIPT>", r"\u202ereversed", "no such", "<1018>"])
def test_search_finds_what_holds_the_words(drawn, words):
    """A search lists the sequences whose shown text holds the words, in the order of ids, within other filters."""
    texts = window_texts(drawn)
    for filters in ({}, {"group": "member", "matched_high": "5"}):
        rows = listed_rows(client_of(drawn), PLACE | filters | {"text": words, "order": "matched"})
        candidates = expected_keys(drawn, PLACE | filters)
        assert keys_of(rows) == [key for key in candidates if words.lower() in texts[key]]


def test_search_stops_when_its_time_is_up(drawn):
    """With no time at all a search still goes on by a step, says how far it came, and misses nothing in the end."""
    shards, database = CommittedShards(drawn), Database(drawn.folder)
    asked, cursor = read_filter([*PLACE.items(), ("text", "baba")], drawn)
    found, steps = [], []
    while True:
        page = search(shards, database.session(), WindowTexts(drawn, redact=False), asked, cursor, seconds=0)
        found += [(part.group, row.sequence_id) for part, row in page.rows]
        steps.append(page.num_searched)
        cursor = page.next
        if cursor is None:
            break
    assert all(one < other for one, other in pairwise(steps[:-1]))
    assert (steps[0], steps[-1]) == (24, 384)
    texts = window_texts(drawn)
    assert found == [key for key in expected_keys(drawn, PLACE) if "baba" in texts[key]]
    note = client_of(drawn).get("/api/sequences", params=PLACE | {"text": "no such"}).json()["note"]
    assert "Searched 384 of 384 sequences" in note


def test_search_says_why_there_is_no_text(imported, scored, drawn, tmp_path):
    """Without a corpus, a tokenizer, or files that can be read, a search finds nothing and says why."""
    place = {"model": "0", "context": "32", "continuation": "8", "text": "word"}
    answer = client_of(imported).get("/api/sequences", params=place).json()
    assert (answer["rows"], answer["next"]) == ([], None)
    assert "scores were imported" in answer["note"]
    place |= {"context": "8", "continuation": "3"}
    assert "no tokenizer" in client_of(scored).get("/api/sequences", params=place).json()["note"]
    copy = shutil.copytree(drawn.folder, tmp_path / "copy")
    toml = (copy / "study.toml").read_text()
    (copy / "study.toml").write_text(toml.replace("member.npy", "gone.npy"))
    client = client_of(open_study(copy))
    answer = client.get("/api/sequences", params=PLACE | {"text": "ba"}).json()
    assert {row["group"] for row in answer["rows"]} == {"control"}
    assert "gone.npy" in answer["note"]
    rows = client.get("/api/sequences", params=PLACE).json()["rows"]
    assert [row["preview"] for row in rows] == [None] * 50


def test_a_sequence_is_told_under_every_model_and_context(drawn):
    """One sequence has the stored facts of each model and context, its window, and the text of each of its tokens."""
    answer = client_of(drawn).get("/api/sequences/member/33").json()
    sequence, rows = answer["sequence"], np.load(drawn.config.corpus.path)
    assert sequence["tokens"] == rows[33].tolist()
    assert set(answer["texts"]) <= {str(token) for token in sequence["tokens"]}
    for model, label in enumerate(drawn.runs):
        for place, context in enumerate((8, 16)):
            stored = known_rows(drawn, label, context)[33]
            assert sequence["scores"][model][place]["num_matched"] == list(stored.num_matched.values())
            assert sequence["scores"][model][place]["first_mismatch"] == stored.first_mismatch


def test_previews_are_the_beginnings_of_context_and_continuation(drawn):
    """A row's preview begins with the first words of the window, and after a bar with the first after the context."""
    client, texts = client_of(drawn), window_texts(drawn)
    rows = client.get("/api/sequences", params=PLACE | {"group": "member"}).json()["rows"]
    tokenizer = open_texts(drawn.config)["member"].corpus.tokenizer
    tokens = np.load(drawn.config.corpus.path)
    for row in rows:
        head, tail = row["preview"].split(" | ")
        assert texts["member", row["id"]].startswith(head[:20].lower())
        after = tokenizer.decode([int(tokens[row["id"], 16])])
        assert tail.startswith(escape(after)[:20]) or "\ufffd" in after


def test_redaction_leaves_nothing_private(drawn):
    """With redaction an address is in no preview and no sequence; without it, it is. There is no search in text."""
    vocab, rows = 1024, np.load(drawn.config.corpus.path)
    holders = np.flatnonzero((rows == vocab - 1).any(axis=1)).tolist()
    assert holders == [121, 214, 259]
    secret, place = SECRET.decode().strip(), PLACE | {"context": "8"}
    plain, redacted = client_of(drawn), client_of(drawn, redact=True)
    assert secret in plain.get(f"/api/sequences/member/{holders[0]}").text
    assert any(secret in (row["preview"] or "") for row in listed_rows(plain, place))
    for holder in holders:
        answer = redacted.get(f"/api/sequences/member/{holder}")
        assert secret not in answer.text
        assert str(vocab - 1) not in answer.json()["texts"]
        assert answer.json()["sequence"]["redacted"]
    shown = listed_rows(redacted, place)
    assert keys_of(shown) == expected_keys(drawn, place)
    assert not any("jane" in (row["preview"] or "") for row in shown)
    refused = redacted.get("/api/sequences", params=PLACE | {"text": "jane"})
    assert refused.status_code == 400
    assert "would tell what is hidden" in refused.json()["error"]


def test_only_committed_shards_are_listed(drawn, tmp_path):
    """A table without a commit is no part of the study, whatever its name; without its commit a shard is gone."""
    study = open_study(shutil.copytree(drawn.folder, tmp_path / "copy"))
    client, run = client_of(study), study.run("made-8m")
    assert keys_of(listed_rows(client, PLACE)) == expected_keys(study, PLACE)
    first, second = (shard_path(study.folder, run, run.shards[number]) for number in (0, 1))
    shutil.copy(first, first.with_name("member-000000009999.parquet"))
    second.with_suffix(".json").unlink()
    rows = listed_rows(client, PLACE)
    assert keys_of(rows) == [
        key for key in expected_keys(drawn, PLACE) if key[0] != "member" or key[1] not in range(24, 48)
    ]
    assert "made-8m" in client.get("/api/sequences", params=PLACE).json()["note"]


def test_a_study_that_breaks_is_told_and_the_rest_stays(drawn, tmp_path):
    """A damaged shard, and a folder that goes, give errors that say so; what else there is can still be had."""
    study = open_study(shutil.copytree(drawn.folder, tmp_path / "copy"))
    client, run = client_of(study), study.run("made-8m")
    assert client.get("/api/sequences", params=PLACE).status_code == 200
    path = shard_path(study.folder, run, run.shards[0])
    path.write_bytes(b"\0" * path.stat().st_size)
    for address in ("/api/sequences?model=1&context=16&continuation=8", "/api/sequences/member/3"):
        broken = client.get(address)
        assert broken.status_code == 500
        assert path.name in broken.json()["error"]
    assert client.get("/api/sequences", params=PLACE | {"group": "control"}).status_code == 200
    assert client.get("/api/sequences", params=PLACE | {"model": "0"}).status_code == 200
    shutil.rmtree(study.folder)
    gone = client.get("/api/sequences", params=PLACE)
    assert (gone.status_code, "cannot be read" in gone.json()["error"]) == (500, True)
    assert client.get("/").status_code == 200


def test_the_database_reads_scores_and_nothing_else(drawn, tmp_path):
    """No statement reaches a file outside the study's scores, writes one, or changes the bounds."""
    session = Database(drawn.folder).session()
    (tmp_path / "other.parquet").write_bytes(next((drawn.folder / "scores").rglob("*.parquet")).read_bytes())
    for sql in (
        f"SELECT * FROM read_parquet('{tmp_path / 'other.parquet'}')",
        "SELECT * FROM read_text('/etc/hostname')",
        f"COPY (SELECT 1) TO '{tmp_path / 'written.csv'}'",
        "SET memory_limit = '64GB'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ):
        with pytest.raises(StoreError):
            session.ask(Statement(sql, {}))
    assert not (tmp_path / "written.csv").exists()
    limits = "SELECT current_setting('memory_limit'), current_setting('threads')"
    assert session.ask(Statement(limits, {})) == [("488.2 MiB", 2)]


def test_a_stopped_session_ends_and_begins_nothing(drawn):
    """An endless question ends when another thread stops its session, and the next one is not begun."""
    session = Database(drawn.folder).session()
    timer = threading.Timer(0.2, session.stop)
    timer.start()
    with pytest.raises(Stopped):
        session.ask(Statement("SELECT count(*) FROM range(1000000000000) WHERE random() > 2", {}))
    with pytest.raises(Stopped):
        session.ask(Statement("SELECT 1", {}))
    session.close()
    session.stop()


def test_what_takes_too_long_is_given_up(drawn, monkeypatch):
    """A question whose time is up is stopped and answered by 503; the server goes on."""
    monkeypatch.setattr("mnemoscope.viewer.server.tell_count", lambda _library, session, _asked: endless(session))
    client: TestClient = client_of(drawn, max_seconds=0.2)
    answer = client.get("/api/count", params=PLACE)
    assert (answer.status_code, "too long" in answer.json()["error"]) == (503, True)
    assert client.get("/api/study").status_code == 200


def test_a_stop_that_comes_before_the_question_is_not_lost(drawn, monkeypatch):
    """A question that begins just after it was checked that nobody stopped it is stopped nevertheless."""
    endless_sql = Statement("SELECT count(*) FROM range(1000000000000) WHERE random() > 2", {})
    monkeypatch.setattr(Session, "check", lambda _session: threading.Event().wait(0.3))  # the stop comes meanwhile
    monkeypatch.setattr(
        "mnemoscope.viewer.server.tell_count", lambda _library, session, _asked: session.ask(endless_sql)
    )
    answer = client_of(drawn, max_seconds=0.1).get("/api/count", params=PLACE)
    assert (answer.status_code, "too long" in answer.json()["error"]) == (503, True)


def endless(session):
    """Asks until it is stopped."""
    while True:
        session.ask(Statement("SELECT 1", {}))
