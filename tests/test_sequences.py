"""One sequence looked up and shown: what is stored is what is printed, and hostile text is only shown."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer, decoders, models

from mnemoscope.config import CorpusConfig, TracesConfig
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.imported import import_scores
from mnemoscope.report.escapes import escape
from mnemoscope.report.sequence_text import print_sequence
from mnemoscope.run import run_study
from mnemoscope.sequences import find_rows, read_sequence
from mnemoscope.store import open_study, read_scores
from mnemoscope.traces import read_traces
from studies import VOCAB, make_study, save_rows, score_two

HOSTILE = [
    " cat",
    "\x1b[31m",
    "\n",
    "\u202eevil",
    "a\u200bb",
    "\\n",
    "[bold]x",
    "\u65e5\u672c",
    "x" * 10_000,
    "\u0301",
    "e\u0301",
]


def save_tokenizer(path, first=HOSTILE):
    """A tokenizer of 64 whole tokens, the first of them hostile."""
    texts = [*first, *(f" w{i}" for i in range(len(first), VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token=texts[-1]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A traced study with a tokenizer, over members and a control."""
    folder = tmp_path_factory.mktemp("traced")
    config = make_study(folder / "in", num_rows=30, num_control=6, traces=TracesConfig(contexts=(8,)))
    named = {"tokenizer": save_tokenizer(folder / "tokenizer.json")}
    texts = {name: replace(getattr(config, name), **named) for name in ("corpus", "control")}
    return run_study(replace(config, **texts), folder / "study")


def shown(view, *, width=100, terminal=False, encoding="utf-8"):
    """What is printed."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="\n")
    print_sequence(view, Console(file=stream, width=width, force_terminal=terminal, no_color=not terminal))
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_stored_facts_are_found(traced):
    """Every member and control is found with its own rows, tokens, matches, generation and scores."""
    rows = {"member": np.load(traced.config.corpus.path), "control": np.load(traced.config.control.path)}
    for group, tokens in rows.items():
        stored = {
            (row["sequence_id"], row["context"]): row
            for table in read_scores(traced, "tiny", group=group)
            for row in table.to_pylist()
        }
        for sequence_id in range(len(tokens)):
            view = read_sequence(traced, sequence_id, group=group, context=8)
            row = stored[sequence_id, 8]
            assert view.tokens == tuple(tokens[sequence_id, :13].tolist())
            assert view.first_mismatch == row["first_mismatch"]
            assert view.trace is not None
            generated = view.trace.generated_tokens_P[8:]
            assert view.matched[: len(generated)] == tuple(generated == tokens[sequence_id, 8 : 8 + len(generated)])
            assert [score.context for score in view.scores] == [4, 8]
            assert view.scores[1].log_probability == pytest.approx(row["log_probability"])
            assert view.scores[1].num_matched == (sum(view.matched[:3]), sum(view.matched))


def test_default_is_the_largest_model_where_it_was_traced(traced):
    """Without options a sequence is seen by the largest model at the first traced context."""
    view = read_sequence(traced, 3)
    assert (view.model, view.group, view.context) == ("tiny", "member", 8)


def test_any_shard_is_found_by_halving(tmp_path):
    """Every sequence of a sparse selection over many shards is found, and none between; lost shards are passed over."""
    config = make_study(tmp_path / "in", num_rows=200)
    chosen = sorted(np.random.default_rng(0).permutation(200)[:57].tolist())
    (tmp_path / "rows.csv").write_text("sequence_id\n" + "\n".join(map(str, chosen)))
    corpus = replace(config.corpus, sequences=str(tmp_path / "rows.csv"))
    study = run_study(replace(config, corpus=corpus), tmp_path / "study")
    run = study.run("tiny")
    assert len(run.shards) == 15
    for sequence_id in range(-2, 203):
        rows = find_rows(study, run, "member", sequence_id)
        found = None if rows is None else set(rows.column("sequence_id").to_pylist())
        assert found == ({sequence_id} if sequence_id in chosen else None)
    for path in sorted((tmp_path / "study" / "scores" / "tiny").glob("*.parquet"))[3:9]:
        path.unlink()
    lost = set(chosen[12:36])
    for sequence_id in chosen:
        assert (find_rows(study, run, "member", sequence_id) is None) == (sequence_id in lost)


def lines_of(view, name, **options):
    """The lines of the continuation that begin with a name, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(view, **options))
    part = text.split("continuation: ")[1].split("first mismatch")[0]
    return [line for line in part.split("\n")[1:] if line.split(" ")[0] == name]


def test_tokens_stand_under_one_another(traced):
    """Number and sign of each token begin in one column, in a pipe and in a narrow terminal; the signs are the bits."""
    for sequence_id in range(30):
        view = read_sequence(traced, sequence_id, context=8)
        expected = ["=" if hit else "x" for hit in view.matched]
        if view.first_mismatch < 5:
            expected[view.first_mismatch] = "X"
        for options in ({"width": 40, "terminal": True}, {}):
            numbers, marks = (lines_of(view, name, **options) for name in ("token", "match"))
            assert "".join(marks).replace("match", "").replace(" ", "") == "".join(expected)
            assert [int(number) for line in numbers for number in line.split()[1:]] == list(range(8, 13))
            for one, other in zip(numbers, marks, strict=True):
                starts = [found.start() for found in re.finditer(r"\d+", one)]
                assert starts == [found.start() for found in re.finditer(r"[=xX]", other)]


def test_generation_is_what_the_trace_says(traced):
    """The lines of truth and model have the text of each true and each generated token."""
    rows = {
        row["sequence_id"]: row for row in read_traces(traced.folder, "tiny", 8).to_pylist() if row["group"] == "member"
    }
    num_seen = 0
    for sequence_id, row in rows.items():
        view = read_sequence(traced, sequence_id, context=8)
        for name, column in (("truth", "true_token"), ("model", "generated_token")):
            tokens = row[column][8:]
            if min(tokens) >= len(HOSTILE):
                num_seen += 1
                cells = " ".join(line.removeprefix(name) for line in lines_of(view, name)).split()
                assert cells[: len(tokens)] == [f"·w{token}" for token in tokens]
    assert num_seen >= 10


def test_hostile_text_is_only_shown(traced, tmp_path):
    """Escapes, line ends, bidi and zero-width marks, markup and endless tokens are printed as text, and cut."""
    rows = np.resize(np.arange(len(HOSTILE)), (4, 16)).astype(np.uint16)
    np.save(tmp_path / "rows.npy", rows)
    corpus = CorpusConfig(path=str(tmp_path / "rows.npy"), tokenizer=save_tokenizer(tmp_path / "tokenizer.json"))
    config = replace(traced.config, corpus=corpus, control=None, contexts=(8,), traces=None)
    view = read_sequence(run_study(config, tmp_path / "study"), 0)
    text = shown(view)
    for spelled in (r"·cat", r"\x1b[31m", r"\n", r"\u202eevil", r"a\u200bb", r"\\n", "[bold]x", "日本", r"\u0301"):
        assert spelled in text.replace(" ", "  ")
    assert "xxxxxxxxxxxx[+9988]" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert max(map(len, text.split("\n"))) < 140
    ascii_text = shown(view, encoding="ascii")
    assert r"\u65e5\u672c" in ascii_text
    assert "_cat" in ascii_text


def test_redacted_tokens_are_blocks(traced, tmp_path):
    """With `redact` an address is a block in the truth and in what the model says; # without unicode."""
    addresses = [f" name{i}@example.org" for i in range(16)]
    named = {"tokenizer": save_tokenizer(tmp_path / "tokenizer.json", addresses)}
    texts = {name: replace(getattr(traced.config, name), **named) for name in ("corpus", "control")}
    study = run_study(replace(traced.config, **texts), tmp_path / "study")
    rows, num_hidden = np.load(study.config.corpus.path), 0
    for sequence_id in range(30):
        view = read_sequence(study, sequence_id, context=8, redact=True)
        assert "name" in shown(read_sequence(study, sequence_id, context=8)) or rows[sequence_id, :13].min() >= 16
        expected = ["█" if token < 16 else f"·w{token}" for token in rows[sequence_id, 8:13]]
        assert " ".join(line.removeprefix("truth") for line in lines_of(view, "truth")).split() == expected
        for text, sign in ((shown(view), "█"), (shown(view, encoding="ascii"), "#")):
            assert "name" not in text
            assert "@" not in text
            assert sign in text or rows[sequence_id, :13].min() >= 16
        num_hidden += expected.count("█")
    assert num_hidden > 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text é 日本 שלום", "plain text é 日本 שלום"),
        ("\n\t\r\x00\x7f\x9b", r"\n\t\r\x00\x7f\x9b"),
        ("\u200b\u200d\ufeff\u00ad\u2060\u2028\u2066", r"\u200b\u200d\ufeff\xad\u2060\u2028\u2066"),
        ("\U000e0041\ud800\ue000", r"\U000e0041\ud800\ue000"),
        ("\u3164\u2800\ufe0f\U000e0100", r"\u3164\u2800\ufe0f\U000e0100"),
        ("\u00a0\u3000", r"\xa0\u3000"),
        ("e\u0301", "e\u0301"),
        ("\u0301e", r"\u0301e"),
        ("e\u0301\u0302\u0303\u0304", "e\u0301\u0302" + r"\u0303\u0304"),
        ("C:\\n", r"C:\\n"),
    ],
)
def test_escape_spells_what_would_not_be_seen(text, expected):
    """Letters stay, whatever is invisible or moves the cursor is spelled as in a Python string."""
    assert escape(text) == expected


def test_escaped_text_is_unambiguous():
    """Every escaped text is another's only if the texts are the same, and reads back as a Python string."""
    texts = ["\n", "\\n", "\\\n", "\\\\n", "\x1b", "\\x1b", "\u202e", "\\u202e"]
    assert len({escape(text) for text in texts}) == len(texts)
    assert [escape(text).encode("latin-1").decode("unicode_escape") for text in texts] == texts


def test_untraced_sequence_says_that_its_generation_is_unknown(tmp_path):
    """Without a trace only matches are known: a generated token that differs is a question mark, and a note says so."""
    study = score_two(tmp_path)
    view = read_sequence(study, 2, label="other@step7", context=4)
    assert view.trace is None
    text = shown(view)
    model = next(line for line in text.split("\n") if line.startswith("model ") and "context" not in line).split()[1:]
    truth = [line for line in text.split("\n") if line.startswith("truth")][1].split()[1:]
    assert model == [token if hit else "?" for token, hit in zip(truth, view.matched, strict=True)]
    assert "other@step7 was not traced at k = 4" in text
    assert "token ids, for no tokenizer is known" in text


def test_exact_scores_show_what_one_pass_knows(tmp_path):
    """In mode `exact` tokens match up to the first mismatch and are unknown after it."""
    study = run_study(make_study(tmp_path / "in", mode="exact"), tmp_path / "study")
    view = read_sequence(study, 1, context=4)
    first = view.first_mismatch
    assert first < 5
    assert view.matched == (*[True] * first, False, *[None] * 5)[:5]
    score = next(score for score in view.scores if score.context == 4)
    assert score.num_matched == tuple(n if first >= n else None for n in (3, 5))
    assert "scored in mode 'exact'" in shown(view)


def test_imported_sequence_has_scores_and_says_what_is_unknown(tmp_path):
    """An imported sequence is shown with its matches under each model, and no token, match or probability made up."""
    for model, count in (("70m", 3), ("160m", 4)):
        (tmp_path / f"memorization_evals_{model}_32_36_143000.csv").write_text(f"idx,score\n7,{count / 4}\n")
    study = import_scores([str(tmp_path / "*.csv")], tmp_path / "study")
    view = read_sequence(study, 7)
    assert view.model == "160m@step143000"
    assert {score.model: score.num_matched for score in view.scores} == {
        "70m@step143000": (3,),
        "160m@step143000": (4,),
    }
    assert (view.tokens, view.matched, view.trace, view.first_mismatch) == (None, None, None, None)
    text = shown(view)
    assert "scores were imported" in text
    assert "continuation:" not in text


def test_moved_or_changed_corpus_is_said(tmp_path):
    """Where the corpus is gone, or holds other tokens than were scored, the view says so and shows none of them."""
    study = run_study(make_study(tmp_path / "in"), tmp_path / "study")
    save_rows(tmp_path / "in" / "member.npy", num_rows=10, seed=9)
    view = read_sequence(study, 2)
    assert view.tokens is None
    assert "holds other tokens than those that were scored" in view.notes[-1]
    (tmp_path / "in" / "member.npy").unlink()
    view = read_sequence(study, 2)
    assert "the corpus cannot be read" in view.notes[-1]
    assert view.matched is not None
    assert "match" in shown(view)


def test_what_is_not_there_is_refused(traced, tmp_path):
    """A sequence, model, context or group without scores: an error that says what there is."""
    with pytest.raises(StoreError, match="no member sequence 99 among tiny's 30; expected one that was scored"):
        read_sequence(traced, 99)
    with pytest.raises(StoreError, match=r"no control sequence 20 .*the member has one of that id: --group member"):
        read_sequence(traced, 20, group="control")
    with pytest.raises(StoreError, match="no scores of model 'huge'; there are: tiny"):
        read_sequence(traced, 1, label="huge")
    with pytest.raises(ConfigError, match=r"context: 5 given; expected one of \[4, 8\]"):
        read_sequence(traced, 1, context=5)
    alone = run_study(make_study(tmp_path / "in"), tmp_path / "study")
    with pytest.raises(ConfigError, match="has no control"):
        read_sequence(open_study(alone.folder), 1, group="control")
