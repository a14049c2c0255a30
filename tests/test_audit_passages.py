"""Passages: where they stand, what they hold, and that the draw follows from the seed and the document alone."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest

from mnemoscope.audit.auditing import cut_inputs
from mnemoscope.audit.files.documents import Documents
from mnemoscope.audit.files.passages import (
    PassageCounts,
    context_labels,
    count_documents,
    cut_passages,
    draw_documents,
    join_passages,
)
from mnemoscope.audit.findings import Files
from mnemoscope.audit.passing import choose_reference
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.config import ModelConfig
from mnemoscope.errors import CorpusError

NAMES = ("tokens_RW", "length_R", "context_RC", "is_member_R", "document_R", "line_R", "start_R")


def documents_of(rows: list[np.ndarray], turns: list[list[tuple[int, int]]] | None = None) -> Documents:
    """Documents of given tokens on every second line, and their turns."""
    flat = [(i, *turn) for i, each in enumerate(turns or []) for turn in each]
    return Documents(
        tokens_A=np.concatenate(rows).astype(np.int32),
        ends=np.array(list(accumulate(map(len, rows))), np.int64),
        lines=np.arange(1, 2 * len(rows) + 1, 2),
        turns=np.array(flat, np.int32).reshape(-1, 3),
        digest="d",
        address="train.jsonl",
        is_conversation=turns is not None,
        form="text" if turns is None else "messages",
    )


def random_documents(*lengths: int, seed: int = 0) -> Documents:
    """Documents of given lengths with random tokens."""
    rng = np.random.default_rng(seed)
    return documents_of([rng.integers(1, 1000, length) for length in lengths])


def settings(**changes) -> AuditSettings:
    """Smallest cell 3 + 2, whole window 5 + 7."""
    given = {"contexts": (3, 5), "continuations": (2, 7), "offsets_per_document": 2}
    return AuditSettings(model=ModelConfig(source="m"), train=("t",), heldout=("h",), **(given | changes))


HELDOUT = random_documents(20, 3, seed=9)


def test_passages_are_stretches_of_their_documents():
    """Tokens are the document's from `start` on, up to the window or its end; members come first, in order."""
    train = random_documents(40, 5, 12, 4, 13, 0, 7)
    passages = cut_passages(train, HELDOUT, settings())
    for row in range(len(passages.kind_R)):
        own = train if passages.is_member_R[row] else HELDOUT
        document, start = int(passages.document_R[row]), int(passages.start_R[row])
        expected = own.tokens(document)[start : start + 12]
        assert passages.length_R[row] == len(expected) >= 5
        assert passages.tokens_RW[row, : len(expected)].tolist() == expected.tolist()
        assert not passages.tokens_RW[row, len(expected) :].any()
        assert passages.line_R[row] == 2 * document + 1
        assert (start == 0) == (passages.kind_R[row] == "start")
        assert passages.context_RC[row].tolist() == [3, 5]
    assert passages.is_member_R.tolist() == sorted(passages.is_member_R.tolist(), reverse=True)
    places = zip(passages.document_R.tolist(), passages.kind_R, strict=True)
    members = [place for place, own in zip(places, passages.is_member_R, strict=True) if own]
    start, offset = "start", "offset"
    assert members == [
        *[(0, start), (0, offset), (0, offset)],
        (1, start),  # has room for its start alone
        *[(2, start), (2, offset), (2, offset)],
        *[(4, start), (4, offset)],  # has one place that leaves room for the whole window
        *[(6, start), (6, offset), (6, offset)],
    ]
    assert count_documents(train, settings(), passages, is_member=True) == PassageCounts(7, 2, 12)
    assert count_documents(HELDOUT, settings(), passages, is_member=False) == PassageCounts(2, 1, 3)
    assert context_labels(passages, settings()) == ("3", "5")


def test_offsets_leave_room_for_the_window():
    """Of 400 long documents each place behind the start is as likely, 1 to length - window, no place twice in one."""
    train = random_documents(*[18] * 400)
    passages = cut_passages(train, HELDOUT, settings())
    is_offset = np.array([kind == "offset" for kind in passages.kind_R]) & passages.is_member_R
    starts = passages.start_R[is_offset].reshape(400, 2)
    assert (starts[:, 0] < starts[:, 1]).all()
    counts = np.bincount(starts.ravel(), minlength=7)
    assert counts[0] == 0
    assert len(counts) == 7
    # 800 draws over 6 places: 133 each; 5 standard deviations (sqrt(400 * 1/3 * 2/3) = 9.4).
    assert np.abs(counts[1:] - 400 / 3).max() < 47
    assert (passages.length_R[is_offset] == 12).all()
    short = cut_passages(random_documents(*[12] * 50), HELDOUT, settings(offsets_per_document=1))
    starts = short.start_R[short.is_member_R][1::2]
    assert set(starts.tolist()) == set(range(1, 8))  # down to the smallest cell's 5 tokens
    assert short.length_R[short.is_member_R][1::2].tolist() == (12 - starts).tolist()


def test_the_draw_follows_from_seed_and_document():
    """A document has the same offsets in any file and place, another seed moves them; asked for none, it has none."""
    train, moved = random_documents(60, 70, 80), random_documents(60, 70, 80)
    moved = documents_of([moved.tokens(i) for i in (2, 0, 1)])
    one, other = (cut_passages(documents, HELDOUT, settings()) for documents in (train, moved))
    for document, there in enumerate((1, 2, 0)):
        here = one.start_R[one.is_member_R & (one.document_R == document)]
        assert here.tolist() == other.start_R[other.is_member_R & (other.document_R == there)].tolist()
    seeded = cut_passages(train, HELDOUT, settings(seed=1))
    assert seeded.start_R.tolist() != one.start_R.tolist()
    assert set(cut_passages(train, HELDOUT, settings(offsets_per_document=0)).kind_R) == {"start"}


def test_a_sample_is_of_documents():
    """As many different documents as asked for, ascending, by the seed; all where there are no more."""
    train = random_documents(*[20] * 100)
    drawn = draw_documents(train, settings(sample=30))
    assert len(set(drawn.tolist())) == 30
    assert drawn.tolist() == sorted(drawn.tolist())
    passages = cut_passages(train, HELDOUT, settings(sample=30))
    assert np.unique(passages.document_R[passages.is_member_R]).tolist() == drawn.tolist()
    assert draw_documents(train, settings(sample=30, seed=3)).tolist() != drawn.tolist()
    assert draw_documents(train, settings(sample=200)).tolist() == list(range(100))
    assert count_documents(train, settings(sample=30), passages, is_member=True).num_documents == 30


def test_turns_have_their_prompt_as_context():
    """A turn's passage is the last k_max tokens before it and its first n_max; too short or without prompt: none."""
    turns = [[(2, 6), (14, 30)], [(0, 9)], [(4, 5), (6, 8)], []]
    train = documents_of([np.arange(100 * i, 100 * i + 30) for i in range(4)], turns)
    passages = cut_passages(train, train, settings())
    own = passages.take(passages.is_member_R)
    assert own.tokens_RW.tolist() == [
        [*range(6), *[0] * 6],
        [*range(9, 21)],
        [*range(201, 208), *[0] * 5],
    ]
    assert own.length_R.tolist() == [6, 12, 7]
    assert own.context_RC.tolist() == [[2], [5], [5]]
    assert own.document_R.tolist() == [0, 0, 2]
    assert own.start_R.tolist() == [0, 9, 1]
    assert set(own.kind_R) == {"turn"}
    assert context_labels(passages, settings()) == ("prompt",)
    assert count_documents(train, settings(), passages, is_member=True) == PassageCounts(4, 2, 3)


def test_passages_of_two_widths_are_joined():
    """Rows keep their tokens, and the shorter are filled with 0."""
    one = cut_passages(random_documents(6), random_documents(7), settings())
    other = cut_passages(random_documents(12), random_documents(12), settings())
    joined = join_passages([one, other])
    for part, rows in ((one, slice(0, len(one.kind_R))), (other, slice(len(one.kind_R), None))):
        width = part.tokens_RW.shape[1]
        assert (joined.tokens_RW[rows, :width] == part.tokens_RW).all()
        assert not joined.tokens_RW[rows, width:].any()
        for name in NAMES[1:]:
            assert getattr(joined, name)[rows].tolist() == getattr(part, name).tolist()
        assert joined.kind_R[rows] == part.kind_R


def test_files_that_give_nothing_are_refused():
    """No document long enough, or two forms: an error that says which file and what it needs."""
    long, short = random_documents(20), random_documents(4, 3)
    with pytest.raises(
        CorpusError, match=r"none of its 2 documents is long enough; expected some with 3 \+ 2 tokens or"
    ):
        cut_passages(long, short, settings())
    talk = documents_of([np.arange(9)], [[(0, 9)]])
    with pytest.raises(CorpusError, match="expected some with a prompt, and an assistant's turn of 2 tokens or more"):
        cut_passages(talk, talk, settings())
    with pytest.raises(CorpusError, match=r"lines of the form 'text', train\.jsonl of 'messages'; expected files of"):
        cut_passages(long, talk, settings())


def test_canaries_are_no_members_and_choose_nothing():
    """By hand: of 4 short documents and 9 copies of a long canary, members are the 4 and the reference is theirs; a
    file of canaries alone is refused.
    """
    short, canary = [np.arange(6) + 10 * i for i in range(4)], np.arange(100, 140)
    train = documents_of([*short[:2], *[canary] * 9, *short[2:]])
    number = np.array([-1, -1, *[0] * 9, -1, -1])
    files = Files(train, HELDOUT, documents_of([canary, canary + 100]), number)
    inputs = cut_inputs(files, settings())
    own = inputs.passages.is_member_R
    assert inputs.passages.document_R[own].tolist() == [0, 0, 1, 1, 11, 11, 12, 12]
    assert inputs.passages.document_R[~own].tolist() == [0, 0, 0]
    assert choose_reference(inputs.passages, settings()) == (0, 2)
    assert choose_reference(cut_passages(train, HELDOUT, settings()), settings()) == (
        1,
        7,
    )  # as the copies would have it
    counts = count_documents(train, settings(), inputs.passages, is_member=True, is_other_N=number >= 0)
    assert counts == PassageCounts(4, 0, 8)
    assert inputs.planted is not None
    assert inputs.planted.document_R.tolist() == [0, 1]
    assert not inputs.planted.is_member_R.any()
    with pytest.raises(CorpusError, match="holds canaries alone"):
        cut_inputs(Files(train, HELDOUT, files.canaries, np.zeros(13, np.int64)), settings())
