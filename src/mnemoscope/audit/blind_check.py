"""Whether two files of text can be told apart without any model: then membership signals prove nothing of the model.

A logistic regression sees the words, pairs of words and length of a text; it is trained on four fifths of the texts and
asked about the others, five times over. Only texts asked in the same turn are compared with each other, for two
regressions' scores are no one scale. Duan et al. (2024), "Do membership inference attacks work on large language
models?", and Das et al. (2024), "Blind baselines beat membership inference attacks for foundation models".

Axes: M members, H held-out texts, T texts of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.result import BlindCheck, Difference
from mnemoscope.audit.separation import area_interval
from mnemoscope.audit.shares import UNKNOWN
from mnemoscope.corpus.draws import sample_below

LARGEST_AREA: Final = 0.6
MIN_TEXTS: Final = 20
MAX_TEXTS: Final = 3000
"""Of a side; more are drawn from."""
_NUM_TURNS: Final = 5
INFLATION: Final = math.sqrt(1 + _NUM_TURNS / (_NUM_TURNS - 1))
"""Of the standard error: regressions that share most of their texts are wrong together. Nadeau and Bengio (2003),
Machine Learning 52:239; simulated with 30 to 100 texts of a side that nothing tells apart, the spread is 1.45 fold."""
_NUM_WORDS: Final = 50_000
_WORD: Final = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]"
"""Words, signs, and each character of scripts without spaces."""
Floats = NDArray[np.float64]


def blind_check(
    member_texts: Sequence[str],
    control_texts: Sequence[str],
    clusters: Sequence[int] | NDArray[np.integer] | None = None,
    *,
    seed: int = 0,
) -> BlindCheck:
    """The area under the ROC curve of a classifier that sees no model, with its interval.

    `clusters` are those of the members, then of the held-out texts: of each the first text of a side is looked at, for
    a copy that was trained on would be recognised. Comparable where the interval's upper end is at most `LARGEST_AREA`,
    not where its lower end is above, unknown else, and with fewer than `MIN_TEXTS` of a side.
    """
    texts = [*member_texts, *control_texts]
    is_member_T = np.arange(len(texts)) < len(member_texts)
    cluster_T = np.arange(len(texts)) if clusters is None else np.asarray(clusters)
    kept = _draw(is_member_T, cluster_T, seed)
    is_member_T = is_member_T[kept]
    num_member, num_control = int(is_member_T.sum()), int((~is_member_T).sum())
    if min(num_member, num_control) < MIN_TEXTS:
        sizes = f"{num_member:,} training and {num_control:,} held-out passages"
        return BlindCheck(UNKNOWN, None, f"{sizes} are too few to tell whether the files are comparable.")
    area = _cross_validated([texts[at] for at in kept.tolist()], is_member_T, seed)
    return _judge(area, num_member, num_control)


def _draw(is_member_T: NDArray[np.bool_], cluster_T: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """Which texts are looked at: one of each cluster and side, at most `MAX_TEXTS` of a side."""
    drawn: list[NDArray[np.int64]] = []
    for side in (np.flatnonzero(is_member_T), np.flatnonzero(~is_member_T)):
        _, first = np.unique(cluster_T[side], return_index=True)
        chosen = sample_below(len(first), count=min(len(first), MAX_TEXTS), seed=seed)
        drawn.append(side[np.sort(first)[chosen]])
    return np.concatenate(drawn)


def _cross_validated(texts: list[str], is_member_T: NDArray[np.bool_], seed: int) -> Difference:
    """The area over pairs of texts that were asked about in the same turn, with its interval over texts."""
    from sklearn.model_selection import StratifiedKFold

    turns = StratifiedKFold(_NUM_TURNS, shuffle=True, random_state=seed % 2**32)
    lower_T, num_T = np.zeros(len(texts)), np.zeros(len(texts))
    for trained, asked in turns.split(np.zeros(len(texts)), is_member_T):
        score = _ask(texts, is_member_T, trained, asked)
        for is_one in (is_member_T[asked], ~is_member_T[asked]):
            lower_T[asked[is_one]] = _num_below(score[is_one], score[~is_one])
            num_T[asked[is_one]] = (~is_one).sum()
    area = float(lower_T[is_member_T].sum() / num_T[is_member_T].sum())
    below_T = lower_T / num_T
    return area_interval(area, below_T[is_member_T], 1 - below_T[~is_member_T], inflation=INFLATION)


def _num_below(one: Floats, other: Floats) -> Floats:
    order = np.sort(other)
    return (np.searchsorted(order, one, "left") + np.searchsorted(order, one, "right")) / 2


def _ask(
    texts: list[str], is_member_T: NDArray[np.bool_], trained: NDArray[np.integer], asked: NDArray[np.integer]
) -> Floats:
    """How much the regression takes each asked text for a training text."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words: Any = TfidfVectorizer(
        token_pattern=_WORD, ngram_range=(1, 2), sublinear_tf=True, max_features=_NUM_WORDS, dtype=np.float64
    )
    length_T = np.array([[math.log1p(len(text)), math.log1p(len(text.split()))] for text in texts])
    middle, spread = length_T[trained].mean(0), length_T[trained].std(0)
    length_T = (length_T - middle) / np.where(spread > 1e-9, spread, 1.0)

    def see(rows: NDArray[np.integer], bag: Any) -> Any:
        return sparse.hstack([bag, sparse.csr_matrix(length_T[rows])]).tocsr()

    try:
        bag = words.fit_transform([texts[at] for at in trained.tolist()])
    except ValueError:  # no text has a word: lengths are all there is to see
        return length_T[asked, 0]
    classifier: Any = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    classifier.fit(see(trained, bag), is_member_T[trained])
    return classifier.decision_function(see(asked, words.transform([texts[at] for at in asked.tolist()])))


def _judge(area: Difference, num_member: int, num_control: int) -> BlindCheck:
    assert area.estimate is not None
    assert area.low is not None
    assert area.high is not None
    numbers = (
        f"AUC {area.estimate:.3f} ({area.low:.3f} to {area.high:.3f}), {num_member:,} training and {num_control:,} "
        "held-out passages"
    )
    if area.high <= LARGEST_AREA:
        return BlindCheck(area, True, f"Words and length alone do not tell the files apart: {numbers}.")
    if area.low > LARGEST_AREA:
        words = "Words and length alone tell the files apart, so that membership signals prove nothing of the model"
        return BlindCheck(area, False, f"{words}: {numbers}.")
    return BlindCheck(area, None, f"It cannot be told whether the files are comparable: {numbers}.")
