"""Examples of one model -> its predictors, trained and calibrated -> what they say of examples, as arrays.

A predictor is fitted on the training split and calibrated on the validation split; only the originals see the test
split before it is reported, which is their flaw. Predictors are independent of each other, so they may be fitted in
threads: how many decides nothing but the time.

Axes: R examples, L traced continuation, n continuation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from mnemoscope.errors import ConfigError
from mnemoscope.prediction import baselines, chain
from mnemoscope.prediction.calibration import IDENTITY, Calibration, fit_calibration, prior_weights
from mnemoscope.prediction.chain import ChainLogits
from mnemoscope.prediction.examples import Examples
from mnemoscope.prediction.features import FeatureSet, Reader, fit_reader
from mnemoscope.prediction.networks import Body, Network, build_network, shape_of
from mnemoscope.prediction.original import OriginalPredictor, train_original
from mnemoscope.prediction.settings import (
    HINTED,
    NETWORKS,
    ORIGINALS,
    PREDICTORS,
    PRIORS,
    PredictionSettings,
    Prior,
    Task,
)
from mnemoscope.prediction.splits import assign_splits
from mnemoscope.prediction.training import apply_network, train_network

Integers = NDArray[np.int64]

FEWEST_ROWS = 10
"""Sequences in training, and in validation, below which nothing can be learned."""


@final
@dataclass(frozen=True, eq=False)
class NetworkPredictor:
    """A trained network and how its features are read."""

    network: Network
    reader: Reader
    uses_states: bool
    """Whether hidden states are read: where they helped on the validation split."""

    def predict(self, examples: Examples, rows: Integers) -> ChainLogits:
        """Float64 logits [R, L]."""
        return apply_network(self.network, self.reader, examples, rows, uses_states=self.uses_states)


Predictor = (
    NetworkPredictor
    | OriginalPredictor
    | baselines.RatePredictor
    | baselines.LogisticPredictor
    | baselines.BoostingPredictor
    | baselines.FullMatchPredictor
    | baselines.HintPredictor
)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """A predictor of one task, trained on one model's traces with one seed."""

    task: Task
    name: str
    """One of `PREDICTORS`, or a hint's name."""
    seed: int
    trained_on: str
    """The model whose traces it learned."""
    context: int
    continuation: int
    """L: it says as many bits."""
    predictor: Predictor
    calibrations: Mapping[tuple[Prior, int], Calibration]
    """By prior and continuation n."""
    best_epoch: int | None
    """Of networks, from 0."""
    seconds: float
    """Training and calibration took so long."""

    def predict(self, examples: Examples, rows: Integers | None = None) -> ChainLogits:
        """The uncalibrated chain of some examples, of all by default. Their matched bits are not read."""
        if examples.context != self.context:
            raise ConfigError(
                f"{examples.model}: examples of context {examples.context}; expected {self.context}, the context that "
                f"{self.name} was trained at"
            )
        return self.predictor.predict(examples, np.arange(len(examples)) if rows is None else rows)


class Predictions(NamedTuple):
    """What a predictor says of R examples for one prior and continuation."""

    prior: Prior
    continuation: int
    rows: Integers
    """int64 [R], of the examples."""
    probability_Rn: NDArray[np.float32]
    """Of a match at each index."""
    predicted_Rn: NDArray[np.bool_]
    """The most probable vector; for the originals each index's own most probable bit, which is the same there."""
    full_match_probability_R: NDArray[np.float32]
    expected_matched_R: NDArray[np.float32]


def fit_predictors(
    examples: Examples,
    *,
    seeds: Sequence[int] = (0,),
    settings: PredictionSettings | None = None,
    continuations: Sequence[int] | None = None,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] = lambda num_fitted, num_predictors: None,
) -> list[Fitted]:
    """Every predictor of the settings for every task, hint and seed, in that order.

    `continuations` (default: the traced one) are calibrated for. Raises ConfigError for one that was not traced, and
    where a split has too few sequences.
    """
    settings = settings or PredictionSettings()
    continuations = tuple(sorted(continuations or (examples.continuation,)))
    if not 1 <= continuations[0] <= continuations[-1] <= examples.continuation:
        raise ConfigError(
            f"{examples.model}: continuations {list(continuations)}; expected 1 to {examples.continuation} (traced)"
        )
    splits = splits_of(examples, settings)
    for name in ("train", "validation"):
        if len(splits[name]) < FEWEST_ROWS:
            raise ConfigError(
                f"{examples.model}: {len(splits[name])} sequences for {name}; expected {FEWEST_ROWS} or more: "
                "trace more of them ([traces] per_stratum)"
            )
    job = _Job(examples, splits, settings, continuations)
    plans: list[tuple[Task, str, int]] = [
        (task, name, seed) for task, name in predictors_of(examples, settings) for seed in seeds
    ]
    num_threads = num_threads or min(len(plans), os.cpu_count() or 1)
    with _one_thread_each(), ThreadPoolExecutor(max(1, num_threads)) as pool:
        fits = [pool.submit(_fit, job, task, name, seed) for task, name, seed in plans]
        try:
            for num_fitted, fit in enumerate(as_completed(fits), 1):
                fit.result()
                progress(num_fitted, len(fits))
        except BaseException:  # Ctrl-C or an error: what has not begun is not waited for
            pool.shutdown(cancel_futures=True)
            raise
        return [fit.result() for fit in fits]


def splits_of(examples: Examples, settings: PredictionSettings) -> dict[str, Integers]:
    """The rows of train, validation, test and control."""
    split_R = assign_splits(examples.cluster, examples.group, seed=settings.split_seed)
    if examples.copies_R is not None:
        split_R[(split_R == "control") & (examples.copies_R > 0)] = "copied"
    return {name: np.flatnonzero(split_R == name) for name in ("train", "validation", "test", "control")}


def predictors_of(examples: Examples, settings: PredictionSettings) -> list[tuple[Task, str]]:
    """The tasks and names of what is fitted: the settings' predictors, one for each hint of `smaller` and `earlier`."""
    found: list[tuple[Task, str]] = []
    for name in settings.predictors:
        hints = [hint for hint in examples.hints if hint.startswith(name)] if name in HINTED else [name]
        found.extend((task, hint) for task in PREDICTORS[name] for hint in hints)
    return found


def predict_rows(
    fitted: Fitted, examples: Examples, rows: Integers, continuations: Sequence[int] | None = None
) -> list[Predictions]:
    """What is said of some examples, for every calibrated prior and each continuation (default: all calibrated)."""
    wanted = {n for _, n in fitted.calibrations} if continuations is None else set(continuations)
    unknown = sorted(wanted - {n for _, n in fitted.calibrations})
    if unknown:
        known = sorted({n for _, n in fitted.calibrations})
        raise ConfigError(f"continuations {unknown} asked of {fitted.name}; expected some of {known}, calibrated for")
    said = fitted.predict(examples, rows)
    return [
        _predictions(calibration.apply(said), rows, prior=prior, continuation=n)
        for (prior, n), calibration in fitted.calibrations.items()
        if n in wanted
    ]


def _predictions(said: ChainLogits, rows: Integers, *, prior: Prior, continuation: int) -> Predictions:
    markov = chain.to_markov(said).prefix(continuation)
    probability_Rn = chain.match_probabilities(markov)
    return Predictions(
        prior=prior,
        continuation=continuation,
        rows=rows,
        probability_Rn=probability_Rn.float().numpy(),
        predicted_Rn=chain.most_probable(markov).numpy(),
        full_match_probability_R=chain.full_match_log_probabilities(markov).exp().float().numpy(),
        expected_matched_R=probability_Rn.sum(1).float().numpy(),
    )


class _Job(NamedTuple):
    """What every predictor of a call is fitted to."""

    examples: Examples
    splits: Mapping[str, Integers]
    settings: PredictionSettings
    continuations: tuple[int, ...]

    def features(self, task: Task, *, states: bool) -> FeatureSet:
        settings = self.settings
        return FeatureSet(task=task, states=states, frequency=settings.use_frequency, copies=settings.use_copies)


def _fit(job: _Job, task: Task, name: str, seed: int) -> Fitted:
    start = time.perf_counter()
    best_epoch = None
    if name in NETWORKS:
        predictor, best_epoch = _fit_network(job, task, name, seed)
    elif name in ORIGINALS:
        predictor, best_epoch = _fit_original(job, name, seed)
    else:
        predictor = _fit_baseline(job, task, name, seed)
    return Fitted(
        task=task,
        name=name,
        seed=seed,
        trained_on=job.examples.model,
        context=job.examples.context,
        continuation=job.examples.continuation,
        predictor=predictor,
        calibrations=_calibrate(job, predictor),
        best_epoch=best_epoch,
        seconds=time.perf_counter() - start,
    )


def _fit_network(job: _Job, task: Task, name: str, seed: int) -> tuple[NetworkPredictor, int]:
    examples, settings, train = job.examples, job.settings, job.splits["train"]
    reader = fit_reader(examples, train, job.features(task, states=name != "transformer-facts"))
    body: Body = "lstm" if name == "lstm" else "transformer"
    shape = shape_of(body, reader, settings, context=examples.context, continuation=examples.continuation)
    trained = train_network(
        build_network(shape, seed=seed),
        reader,
        examples,
        train=train,
        validation=job.splits["validation"],
        settings=settings,
        seed=seed,
    )
    return NetworkPredictor(trained.network, reader, trained.uses_states), trained.best_epoch


def _fit_original(job: _Job, name: str, seed: int) -> tuple[OriginalPredictor, int]:
    return train_original(
        job.examples,
        train=np.concatenate([job.splits["train"], job.splits["validation"]]),
        reported=job.splits["test"],
        across_batch=name == "original",
        settings=job.settings,
        seed=seed,
    )


def _fit_baseline(job: _Job, task: Task, name: str, seed: int) -> Predictor:
    examples, train = job.examples, job.splits["train"]
    simple = {
        "majority": baselines.fit_majority,
        "index-rate": baselines.fit_index_rate,
        "logistic": baselines.fit_logistic,
    }
    if name in simple:
        return simple[name](examples, train)
    features = job.features(task, states=False)
    if name == "boosting":
        return baselines.fit_boosting(examples, train, features, seed=seed)
    if name == "boosting-full":
        return baselines.fit_full_match(examples, train, features, continuations=job.continuations, seed=seed)
    return baselines.fit_hint(examples, train, name)


def _calibrate(job: _Job, predictor: Predictor) -> dict[tuple[Prior, int], Calibration]:
    """By prior and continuation; the originals have none, as published."""
    pairs: list[tuple[Prior, int]] = [(prior, n) for n in job.continuations for prior in PRIORS]
    if isinstance(predictor, OriginalPredictor):
        return dict.fromkeys(pairs, IDENTITY)
    validation = job.splits["validation"]
    said = predictor.predict(job.examples, validation)
    matched_RL = job.examples.labels[validation]
    found: dict[tuple[Prior, int], Calibration] = {}
    for prior, n in pairs:
        bits_Rn = matched_RL[:, :n]
        weights_R = prior_weights(bits_Rn.sum(axis=1), job.examples.design_weight[validation], prior)
        if isinstance(predictor, baselines.FullMatchPredictor):  # it says nothing of single bits, and is not held to
            bits_Rn = np.repeat(np.all(bits_Rn, axis=1, keepdims=True), n, axis=1)
        found[prior, n] = fit_calibration(said, torch.from_numpy(bits_Rn), weights_R)
    return found


@contextmanager
def _one_thread_each() -> Generator[None]:
    """One thread per operation: sums are then added in one order, and predictors can be fitted side by side."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
