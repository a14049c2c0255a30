"""The predictors that a sceptic would pick: rates, regressions on a context's scalars, and another run's answer.

None knows of neighbouring indices by itself; calibration couples them as it does for every predictor.

Axes: R examples, L continuation, G summaries, C bins of another run's num_matched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mnemoscope.errors import ConfigError
from mnemoscope.prediction.chain import ChainLogits, Markov, from_markov, uncoupled
from mnemoscope.prediction.examples import Examples, HintBits
from mnemoscope.prediction.features import NUM_ENTROPY_AND_LOSS, FeatureSet, Reader, fit_reader

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CERTAIN: Final = 15.0
"""Log-odds that stand for certainty: 3 in ten million."""
_RIDGE: Final = 4.0
"""Penalty of squared weights of the logistic regression, in nats per sequence set: it has 12 features."""
_BOOSTING: Final[dict[str, Any]] = {
    "max_iter": 60,
    "learning_rate": 0.07,
    "max_leaf_nodes": 12,
    "early_stopping": False,
}
_LEAF_SEQUENCES: Final = 6
"""Least sequences' worth of rows in a leaf of the boosted trees."""
_BINS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Upper edges of the share that another run matched; 0 and 1 stand alone."""


@final
@dataclass(frozen=True, eq=False)
class RatePredictor:
    """The same for every sequence: the rate of matches, over all indices or at each."""

    logits_L: Floats

    def predict(self, examples: Examples, rows: Integers) -> ChainLogits:
        """Float64 logits [R, L]."""
        return uncoupled(torch.from_numpy(self.logits_L).expand(len(rows), -1))


@final
@dataclass(frozen=True, eq=False)
class LogisticPredictor:
    """A logistic regression per index on the entropy and the loss of the context: mean, last, min, max, recent."""

    reader: Reader
    weight_GL: Floats
    bias_L: Floats

    def predict(self, examples: Examples, rows: Integers) -> ChainLogits:
        """Float64 logits [R, L]."""
        summary_RG = _summaries(self.reader, examples, rows)[:, :NUM_ENTROPY_AND_LOSS]
        return uncoupled(torch.from_numpy(summary_RG @ self.weight_GL + self.bias_L))


@final
@dataclass(frozen=True, eq=False)
class BoostingPredictor:
    """Boosted trees on all scalars of the context and the index."""

    reader: Reader
    trees: Any
    """scikit-learn's HistGradientBoostingClassifier."""
    continuation: int

    def predict(self, examples: Examples, rows: Integers) -> ChainLogits:
        """Float64 logits [R, L]."""
        table = with_index(_summaries(self.reader, examples, rows), self.continuation)
        return uncoupled(torch.from_numpy(decision(self.trees, table)).reshape(len(rows), -1))


@final
@dataclass(frozen=True, eq=False)
class FullMatchPredictor:
    """Boosted trees that say for each continuation whether all of it matches, and nothing else.

    As a chain: what holds of a continuation holds of each of its indices, and a longer one needs the shorter.
    """

    reader: Reader
    trees: tuple[Any, ...]
    """One classifier per continuation."""
    continuations: tuple[int, ...]
    """Ascending, in tokens."""
    continuation: int
    """L."""

    def predict(self, examples: Examples, rows: Integers) -> ChainLogits:
        """Float64 logits [R, L]."""
        summary_RG = _summaries(self.reader, examples, rows)
        log_odds = [torch.from_numpy(decision(trees, summary_RG)) for trees in self.trees]
        after_match_RE = torch.full((len(rows), self.continuation - 1), CERTAIN, dtype=torch.float64)
        for index, shorter in enumerate(self.continuations[:-1]):
            gap_R = F.logsigmoid(log_odds[index + 1]) - F.logsigmoid(log_odds[index])
            stays_R = gap_R.clamp(-CERTAIN, -np.exp(-CERTAIN)).exp()
            after_match_RE[:, shorter - 1] = torch.logit(stays_R)
        never_RE = torch.full_like(after_match_RE, -CERTAIN)
        return from_markov(Markov(log_odds[0], after_match_RE, never_RE))


@final
@dataclass(frozen=True, eq=False)
class HintPredictor:
    """The rate of matches given another run's bit at the index, and how much of the continuation it matched."""

    hint: str
    logits_3C: Floats
    """By the other run's bit (0, 1, unknown), and by the bin of its share of matches."""

    def predict(self, examples: Examples, rows: Integers) -> ChainLogits:
        """Float64 logits [R, L]; ConfigError where the examples do not have the hint."""
        bits_RL = hint_of(examples, self.hint)[rows]
        return uncoupled(torch.from_numpy(self.logits_3C[bits_RL.astype(np.int64), hint_bins(bits_RL)[:, None]]))


def fit_majority(examples: Examples, train: Integers) -> RatePredictor:
    """One rate for all: its vector is all matched or all missed, whichever is commoner."""
    matched_RL = examples.labels[train]
    logit = _log_odds(np.array(matched_RL.sum(), np.float64), np.array(matched_RL.size, np.float64))
    return RatePredictor(np.full(matched_RL.shape[1], logit))


def fit_index_rate(examples: Examples, train: Integers) -> RatePredictor:
    """The rate at each index."""
    matched_RL = examples.labels[train]
    return RatePredictor(_log_odds(matched_RL.sum(axis=0).astype(np.float64), np.float64(len(matched_RL))))


def fit_logistic(examples: Examples, train: Integers) -> LogisticPredictor:
    """All indices' regressions at once: convex, by L-BFGS in float64."""
    reader = fit_reader(examples, train, FeatureSet(task="context", states=False))
    summary_RG = torch.from_numpy(_summaries(reader, examples, train)[:, :NUM_ENTROPY_AND_LOSS])
    matched_RL = torch.from_numpy(examples.labels[train]).double()
    weight_GL = torch.zeros(summary_RG.shape[1], matched_RL.shape[1], dtype=torch.float64, requires_grad=True)
    bias_L = torch.zeros(matched_RL.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_GL, bias_L], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits_RL = summary_RG @ weight_GL + bias_L
        loss = F.binary_cross_entropy_with_logits(logits_RL, matched_RL, reduction="sum")
        # The tiny penalty of the bias keeps an index at which nothing ever matches from running away.
        loss = loss + 0.5 * _RIDGE * weight_GL.square().sum() + 0.01 * bias_L.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return LogisticPredictor(reader, weight_GL.detach().numpy(), bias_L.detach().numpy())


def fit_boosting(examples: Examples, train: Integers, features: FeatureSet, *, seed: int) -> BoostingPredictor:
    """Trees over all indices of all training sequences."""
    reader = fit_reader(examples, train, features)
    matched_RL = examples.labels[train]
    table = with_index(_summaries(reader, examples, train), matched_RL.shape[1])
    trees = _boost(table, matched_RL.ravel(), leaf_rows=_LEAF_SEQUENCES * matched_RL.shape[1], seed=seed)
    return BoostingPredictor(reader, trees, matched_RL.shape[1])


def fit_full_match(
    examples: Examples, train: Integers, features: FeatureSet, *, continuations: tuple[int, ...], seed: int
) -> FullMatchPredictor:
    """One classifier per continuation, of its full match."""
    reader = fit_reader(examples, train, features)
    summary_RG = _summaries(reader, examples, train)
    matched_RL = examples.labels[train]
    trees = tuple(
        _boost(summary_RG, np.all(matched_RL[:, :n], axis=1), leaf_rows=_LEAF_SEQUENCES, seed=seed)
        for n in continuations
    )
    return FullMatchPredictor(reader, trees, continuations, matched_RL.shape[1])


def fit_hint(examples: Examples, train: Integers, hint: str) -> HintPredictor:
    """Rates by bit and bin, each drawn towards the bit's rate by the weight of one example."""
    bits_RL, matched_RL = hint_of(examples, hint)[train], examples.labels[train]
    bins_RL = np.broadcast_to(hint_bins(bits_RL)[:, None], bits_RL.shape)
    cells = (bits_RL.astype(np.int64), bins_RL)
    hits_3C, sizes_3C = np.zeros((3, len(_BINS) + 1)), np.zeros((3, len(_BINS) + 1))
    np.add.at(hits_3C, cells, matched_RL)
    np.add.at(sizes_3C, cells, 1)
    rate_31 = (hits_3C.sum(axis=1, keepdims=True) + 0.5) / (sizes_3C.sum(axis=1, keepdims=True) + 1)
    return HintPredictor(hint, _log_odds(hits_3C + rate_31, sizes_3C + 1, prior=0.0))


def hint_of(examples: Examples, hint: str) -> HintBits:
    """Another run's bits; ConfigError where the examples do not have them."""
    if hint not in examples.hints:
        raise ConfigError(f"{examples.model}: no hint {hint!r}; expected one of {sorted(examples.hints) or 'none'}")
    return examples.hints[hint]


def hint_bins(bits_RL: HintBits) -> Integers:
    """The bin of each sequence's share of known matches: 0, the quarters, 1."""
    is_match_RL = bits_RL == 1
    return np.searchsorted(_BINS, is_match_RL.mean(axis=1), side="left") + is_match_RL.all(axis=1)


def with_index(summary_RG: Floats, continuation: int) -> Floats:
    """A row per sequence and index: the summaries and the index."""
    index = np.tile(np.arange(continuation, dtype=np.float64), len(summary_RG))
    return np.column_stack([np.repeat(summary_RG, continuation, axis=0), index])


def decision(trees: Any, table: Floats) -> Floats:
    """Log-odds within ±CERTAIN; a constant where training knew one class."""
    if isinstance(trees, float):
        return np.full(len(table), trees)
    return np.clip(np.asarray(trees.decision_function(table), np.float64), -CERTAIN, CERTAIN)


def _boost(table: Floats, is_match: NDArray[Any], *, leaf_rows: int, seed: int) -> Any:
    """Boosted trees; the log-odds themselves where there is one class only."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if is_match.all() or not is_match.any():
        return float(_log_odds(np.float64(is_match.sum()), np.float64(len(is_match))))
    leaf_rows = max(1, min(leaf_rows, len(table) // 4))
    return HistGradientBoostingClassifier(min_samples_leaf=leaf_rows, random_state=seed, **_BOOSTING).fit(
        table, is_match
    )


def _summaries(reader: Reader, examples: Examples, rows: Integers) -> Floats:
    return reader.read(examples, rows).summary.double().numpy()


def _log_odds(hits: Any, sizes: Any, *, prior: float = 0.5) -> Any:
    """Of a rate with half an example of either kind added."""
    return np.log(hits + prior) - np.log(sizes - hits + prior)
