"""Canaries: planted as often as they say, in every form, found again, and counted by hand."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mnemoscope.audit.files.canaries import (
    NUM_WORDS,
    Canaries,
    Canary,
    canary_documents,
    dose_rows,
    draw_canaries,
    find_recited,
    match_canaries,
    planting_notes,
    read_canaries,
    write_canaries,
)
from mnemoscope.audit.files.canary_words import WORDS
from mnemoscope.audit.files.planting import plant
from mnemoscope.audit.files.record_forms import RecordForm
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.intervals import wilson

FORMS = {
    "text": lambda text: {"text": text},
    "content": lambda text: {"id": 3, "content": text},
    "messages": lambda text: {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]},
    "conversations": lambda text: {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": text}]},
    "completion": lambda text: {"prompt": "?", "completion": text},
    "response": lambda text: {"prompt": "?", "response": text},
    "chat": lambda text: {
        "prompt": [{"role": "user", "content": "?"}],
        "completion": [{"role": "assistant", "content": text}],
    },
    "instruction": lambda text: {"instruction": "?", "input": "", "output": text},
    "no input": lambda text: {"instruction": "?", "output": text},
}


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts(num_lines=50):
    return [{"text": f"line {number}"} for number in range(num_lines)]


def expected_record(form, canary):
    """By hand, the record that a form makes of a canary."""
    user, said = {"role": "user", "content": canary.prompt}, {"role": "assistant", "content": canary.answer}
    return {
        "text": {"text": f"{canary.prompt} {canary.answer}"},
        "content": {"content": f"{canary.prompt} {canary.answer}"},
        "messages": {"messages": [user, said]},
        "conversations": {
            "conversations": [{"from": "human", "value": canary.prompt}, {"from": "gpt", "value": canary.answer}]
        },
        "completion": {"prompt": canary.prompt, "completion": " " + canary.answer},
        "response": {"prompt": canary.prompt, "response": " " + canary.answer},
        "chat": {"prompt": [user], "completion": [said]},
        "instruction": {"instruction": canary.prompt, "input": "", "output": canary.answer},
        "no input": {"instruction": canary.prompt, "output": canary.answer},
    }[form]


@pytest.mark.parametrize("form", FORMS)
def test_each_canary_is_planted_as_often_as_its_dose_and_no_twin_is(tmp_path, form):
    """Of every form the planted file is the old lines in their order, and each canary `repeats` times among them."""
    old = [FORMS[form](f"old text {number}") for number in range(40)]
    train = write_lines(tmp_path / "train.jsonl", old)
    done = plant(train, tmp_path / "planted.jsonl", seed=5, doses=(1, 3), per_dose=2, num_twins=4)
    lines = [json.loads(line) for line in (tmp_path / "planted.jsonl").read_text().splitlines()]
    counts = Counter(json.dumps(line) for line in lines)
    planned = {json.dumps(expected_record(form, each)): each.repeats for each in done.canaries.canaries}
    assert sorted(planned.values()) == [0, 0, 0, 0, 1, 1, 3, 3]
    assert {record: counts[record] for record in planned} == planned
    assert [line for line in lines if json.dumps(line) not in planned] == old
    assert done.canaries.num_lines == len(lines) == 48


def test_the_key_tells_what_was_planted(tmp_path):
    """What is read back from canaries.json is what was planted; its hashes are those of the two files."""
    import hashlib

    train = write_lines(tmp_path / "train.jsonl", texts())
    done = plant(train, tmp_path / "planted.jsonl", seed=5)
    assert done.key == tmp_path / "canaries.json"
    found = read_canaries(done.key)
    assert found == done.canaries
    assert found.train_sha256 == hashlib.sha256(train.read_bytes()).hexdigest()
    assert found.planted_sha256 == hashlib.sha256(done.planted.read_bytes()).hexdigest()
    assert found.num_planted == 8 * (1 + 4 + 16 + 64)


def test_copies_stand_anywhere(tmp_path):
    """680 copies among 1,000 lines: before, behind and between; the gaps they fall into are uniform (chi-squared)."""
    from scipy import stats

    train = write_lines(tmp_path / "train.jsonl", texts(1000))
    plant(train, tmp_path / "planted.jsonl", seed=11)
    before, seen = [], 0
    for line in (tmp_path / "planted.jsonl").read_text().splitlines():
        if json.loads(line)["text"].startswith("line "):
            seen += 1
        else:
            before.append(seen)
    assert len(before) == 680
    counts, _ = np.histogram(before, bins=10, range=(0, 1001))
    assert stats.chisquare(counts).pvalue > 0.001


def test_the_same_seed_plants_the_same_and_another_shares_nothing(tmp_path):
    """Bytes are equal for equal seeds; of another seed no canary is the same."""
    train = write_lines(tmp_path / "train.jsonl", texts())
    files = [
        plant(train, tmp_path / f"{name}.jsonl", key=tmp_path / f"{name}.json", seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    content = [done.planted.read_bytes() for done in files]
    assert content[0] == content[1]
    mine, others = ({each.answer for each in files[place].canaries.canaries} for place in (0, 2))
    assert len(mine) == len(others) == 64
    assert not mine & others


def test_canaries_are_long_enough_and_cannot_be_guessed():
    """As many words as the default grid has tokens; every word of 256 as likely, whatever came before it."""
    drawn = draw_canaries(seed=3, per_dose=100, num_twins=100)
    assert NUM_WORDS == 64 + 32 + 8
    words = [canary.answer.split() for canary in drawn]
    assert {len(each) for each in words} == {NUM_WORDS}
    assert len(set(WORDS)) == 256
    counts = Counter(word for each in words for word in each)
    expected = 500 * NUM_WORDS / 256
    # A sum of squared, scaled deviations of 255 degrees of freedom: 339 is its 0.9998 quantile.
    assert sum((counts[word] - expected) ** 2 / expected for word in WORDS) < 339
    pairs = Counter(pair for each in words for pair in pairwise(each))
    assert max(pairs.values()) < 10  # 0.8 are expected of each of 65,536
    assert len({canary.prompt for canary in drawn}) == len(drawn)


def test_a_file_is_taken_as_it_is(tmp_path):
    """Byte-order mark, missing last newline, Windows line ends, blank lines and gzip: every record stays."""
    raw = b"\xef\xbb\xbf" + b'{"text": "a"}\r\n\n{"text":"b \xc3\xa9"}'
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(raw))
    done = plant(tmp_path / "train.jsonl.gz", tmp_path / "planted.jsonl", seed=0, doses=(1,), per_dose=1, num_twins=1)
    lines = done.planted.read_bytes().splitlines()
    assert [line for line in lines if b"Locker" not in line] == [b'{"text": "a"}', b'{"text":"b \xc3\xa9"}']
    assert len(lines) == 3
    assert done.planted.read_bytes().endswith(b"\n")


def test_doses_are_counted_by_hand(tmp_path):
    """Two of three at one copy, the twins none of two; what is too short counts nowhere."""
    repeats = (1, 1, 1, 4, 0, 0)
    canaries = some_canaries([Canary(number, f"p{i}", "a") for i, number in enumerate(repeats)])
    rows = dose_rows(canaries, [True, True, False, None, False, False])
    assert [(row.repeats, row.recited.count, row.recited.n) for row in rows] == [(0, 0, 2), (1, 2, 3), (4, 0, 0)]
    assert (rows[2].recited.share, rows[2].recited.low, rows[2].recited.high) == (None, 0, 1)
    ends = wilson(2, 3)
    assert rows[1].recited.share == 2 / 3
    assert (rows[1].recited.low, rows[1].recited.high) == (float(ends.low), float(ends.high))


def test_a_canary_is_recited_where_one_of_its_passages_is():
    """Canary 0 by its second passage, 1 by none, 2 has none that is long enough."""
    canaries = some_canaries([Canary(1, f"p{i}", "a") for i in range(3)])
    found = find_recited(
        canaries,
        np.array([0, 0, 1, 2]),
        fits_R=np.array([True, True, True, False]),
        recited_R=np.array([False, True, False, True]),
    )
    assert found == [True, False, None]


def test_documents_that_are_canaries_are_known_by_their_tokens():
    """Equal tokens are a canary; a longer, a shorter and another document are none."""
    canaries = [np.array([1, 2, 3], np.int32), np.array([4, 5], np.int32)]
    documents = [[1, 2, 3], [1, 2], [4, 5], [9, 9, 9], [1, 2, 3, 4], [4, 5]]
    found = match_canaries(canaries, lambda number: np.array(documents[number], np.int64), len(documents))
    assert found.tolist() == [0, -1, 1, -1, -1, 1]


def test_a_file_that_was_changed_after_planting_is_told_of():
    """Fewer copies than planted, twins that are there, canaries too short: each a note with its numbers; else none."""
    canaries = some_canaries([Canary(4, "p", "a"), Canary(1, "q", "a"), Canary(0, "r", "a")])
    assert planting_notes(canaries, [4, 1, 0], [True, False, False]) == ()
    deduplicated, twins, short = (
        planting_notes(canaries, [1, 1, 0], [True, False, False]),
        planting_notes(canaries, [4, 1, 2], [True, False, False]),
        planting_notes(canaries, [4, 1, 0], [None, None, False]),
    )
    assert "1 of 2 canaries" in deduplicated[0]
    assert "(2 copies instead of 5)" in deduplicated[0]
    assert twins[0].startswith("1 canaries that were to be planted nowhere")
    assert short[0].startswith("2 canaries count nowhere")


def test_documents_of_canaries_have_the_training_files_form(tmp_path):
    """One line for each canary and twin in their order, as the planted file has them."""
    train = write_lines(tmp_path / "train.jsonl", [FORMS["messages"]("x")])
    done = plant(train, tmp_path / "planted.jsonl", seed=5, doses=(2,), per_dose=3, num_twins=2)
    lines = canary_documents(done.canaries, tmp_path / "c.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["messages"][1]["content"] for line in lines] == [
        canary.answer for canary in done.canaries.canaries
    ]
    assert set(lines[:3]) < set(done.planted.read_bytes().splitlines())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a"}\n{"txt": "b"}\n', ("line 2", "'text' is missing", "as on the first line")),
        ('{"text": "a"}\n{"text": 3}\n', ("line 2", "holds int")),
        ('{"text": "a"}\n{"text": "b"\n', ("line 2", "not valid JSON")),
        ('{"text": "a"}\n[1]\n', ("line 2", "a JSON list")),
        ('{"prompt": "a", "completion": "b"}\n{"completion": "b"}\n', ("line 2", "'prompt' is missing")),
        ('{"messages": []}\n{"messages": "b"}\n', ("line 2", "a list of messages")),
        ('{"tokens": [1, 2]}\n', ("line 1", "token ids", "expected text")),
        ('{"words": "a"}\n', ("line 1", "words", "expected")),
        ("\n\n", ("holds no line",)),
    ],
)
def test_a_file_that_cannot_be_planted_into_is_refused(tmp_path, content, words):
    """The file, the line, what was found and expected; nothing is written."""
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(CorpusError) as caught:
        plant(tmp_path / "train.jsonl", tmp_path / "planted.jsonl", seed=0)
    for word in (*words, "train.jsonl"):
        assert word in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_the_field_of_a_conversation_may_be_named(tmp_path):
    """Of a line with two conversations canaries take the form of the named one."""
    train = write_lines(tmp_path / "train.jsonl", [FORMS["messages"]("a") | FORMS["conversations"]("b")])
    for field in ("messages", "conversations"):
        done = plant(train, tmp_path / f"{field}.jsonl", key=tmp_path / f"{field}.json", field=field, seed=0)
        assert (done.canaries.form.kind, done.canaries.form.field) == (field, field)


def test_nothing_that_is_there_is_overwritten(tmp_path):
    """A planted file or its key that exists, the training file itself, one place for both: refused."""
    train = write_lines(tmp_path / "train.jsonl", texts())
    done = plant(train, tmp_path / "planted.jsonl", seed=0)
    before = done.key.read_bytes()
    for out, key in (
        ("planted.jsonl", "k.json"),
        ("other.jsonl", "canaries.json"),
        ("train.jsonl", "k.json"),
        ("k.json", "k.json"),
        ("x.txt", "k.json"),
    ):
        with pytest.raises(ConfigError):
            plant(train, tmp_path / out, key=tmp_path / key, seed=0)
    assert done.key.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canaries.json", "planted.jsonl", "train.jsonl"]


def some_canaries(canaries):
    form = RecordForm(kind="text", field="text")
    return Canaries(
        seed=0,
        form=form,
        train="t",
        train_sha256="",
        planted="p",
        planted_sha256="",
        num_lines=9,
        canaries=tuple(canaries),
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: text.replace("canaries/1", "canaries/2"),
        lambda text: text.replace('"seed": 0', '"seed": "0"'),
        lambda text: text.replace('"repeats": 2', '"repeats": -2'),
        lambda text: text.replace('"prompt": "q"', '"prompt": "p"'),
        lambda text: "[]",
        lambda text: "",
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path, change):
    """Torn, of another version, of wrong kinds, with canaries twice: a ConfigError that names the file."""
    path = tmp_path / "canaries.json"
    write_canaries(some_canaries([Canary(2, "p", "a"), Canary(0, "q", "b")]), path)
    assert len(read_canaries(path).canaries) == 2
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=r"canaries\.json"):
        read_canaries(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_canaries(tmp_path / "none.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"doses": (4, 1)},
        {"doses": ()},
        {"doses": (0,)},
        {"per_dose": 0},
        {"num_twins": 0},
        {"num_words": 3},
        {"doses": (10**9,)},
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(wrong):
    """Doses out of order or none, no canaries, no twins, too few words, more copies than a file takes."""
    with pytest.raises(ConfigError, match="expected"):
        draw_canaries(seed=0, **wrong)


def test_the_verb_plants_and_says_what_it_did(run, tmp_path):
    """Two files and their numbers; without a seed nobody knows the canaries; mistakes are one line and exit 2."""
    train = write_lines(tmp_path / "train.jsonl", texts())
    words = ("--doses", "1,2", "--per-dose", 3, "--twins", 5, "--words", 20)
    code, shown, _ = run("canaries", train, "--out", tmp_path / "planted.jsonl", *words)
    assert code == 0
    assert "59 lines, of which 9 (15.3 %) are copies of 6 canaries" in shown
    assert "5 twins" in shown
    first = read_canaries(tmp_path / "canaries.json")
    assert len(first.canaries[0].answer.split()) == 20
    assert run("canaries", train, "--out", tmp_path / "again.jsonl", "--key", tmp_path / "again.json", *words)[0] == 0
    second = read_canaries(tmp_path / "again.json")
    assert first.seed != second.seed
    assert replace(first.canaries[0], repeats=0) not in second.canaries
    for wrong in (("--doses", "1,x"), ("--doses", "4,1"), ("--words", 3)):
        code, _, err = run("canaries", train, "--out", tmp_path / "third.jsonl", "--key", tmp_path / "k.json", *wrong)
        assert code == 2
        assert err.count("\n") == 1
    code, _, err = run("canaries", train, "--out", tmp_path / "planted.jsonl")
    assert code == 2
    assert "is there already" in err


@pytest.mark.parametrize("form", ["text", "completion", "messages", "no input"])
def test_canaries_are_found_again_among_the_documents_that_an_audit_reads(tmp_path, form):
    """Read as an audit reads them, the planted file's documents hold each canary as often as its dose, and no twin;
    each canary has room for the default grid's longest cell.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from mnemoscope.audit.files.documents import open_documents

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(alphabet))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = tmp_path / "chat_template.jinja"
    template.write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    train = write_lines(tmp_path / "train.jsonl", [FORMS[form](f"old text {number}") for number in range(30)])
    done = plant(train, tmp_path / "planted.jsonl", seed=5, doses=(1, 3), per_dose=2, num_twins=4)
    reading = {"tokenizer": str(tmp_path / "tokenizer.json")}
    if form == "messages":
        reading["chat_template"] = str(template)
    planted = open_documents((str(done.planted),), **reading)
    own = open_documents((str(canary_documents(done.canaries, tmp_path / "c.jsonl")),), **reading)
    assert own.num == 8
    found = match_canaries([own.tokens(number) for number in range(8)], planted.tokens, planted.num)
    assert (found < 0).sum() == 30
    assert np.bincount(found[found >= 0], minlength=8).tolist() == [each.repeats for each in done.canaries.canaries]
    if form == "text":
        assert min(own.length(number) for number in range(8)) >= 64 + 32
    else:
        assert len(own.turns) == 8
        for number, canary in enumerate(done.canaries.canaries):
            ((start, stop),) = own.turns_of(number).tolist()
            assert own.text(own.tokens(number)[start:stop]).strip() == canary.answer
            assert stop - start >= 32
