"""Sequences -> ranked by the risk that a model recites them, from their contexts alone: nothing is decoded.

One pass over k tokens of each sequence, and a predictor that learned from a study's traces what such a pass tells.

Axes: R sequences, k context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.config import CorpusConfig, TracesConfig
from mnemoscope.corpus import Windows, check_vocabulary
from mnemoscope.errors import ConfigError, ModelError
from mnemoscope.predictions import PredictionPlan, plan_predictions, predictor_path, settings_of
from mnemoscope.progress import Progress
from mnemoscope.ranking import COLUMNS, Ranking, count_forwards
from mnemoscope.store import Study
from mnemoscope.texts import GroupText, open_text

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM
    from mnemoscope.prediction.fitting import Fitted

PREDICTOR: Final = "transformer"
SEQUENCES_AT_ONCE: Final = 4096


def rank_corpus(
    study: Study,
    reading: CorpusConfig,
    *,
    label: str | None = None,
    context: int | None = None,
    continuation: int | None = None,
    progress: Progress = lambda name, num_done, num_sequences: None,
) -> Ranking:
    """The sequences of a corpus by the risk that a model of the study recites them: the largest that is predicted.

    By default at the first traced context, for the longest continuation that predictors were fit to. Raises what
    `open_predictor` and the corpus raise, and ModelError where the model is not the one that was studied.
    """
    from mnemoscope.model import load_model

    label = label or next((plan.run.label for plan in reversed(_fitted_plans(study))), "any model")
    predictor = open_predictor(study, label, context=context, continuation=continuation)
    run, settings = study.run(label), study.config.traces or TracesConfig()
    model_config = next(model for model in study.config.models if model.label == label)
    text = open_text(reading, window_tokens=predictor.context, model=model_config)
    model = load_model(model_config)
    if model.identity.weights_sha256 != getattr(run.identity.model, "weights_sha256", None):
        raise ModelError(f"{label}: its weights are not those that were studied; expected the same model")
    return rank_sequences(
        predictor,
        model,
        text,
        continuation=continuation or max(n for _, n in predictor.calibrations),
        batch_size=run.identity.batch_size,
        layers=settings.context_layers,
        progress=lambda num_done, num_sequences: progress(f"{label} contexts", num_done, num_sequences),
    )


def open_predictor(study: Study, label: str, *, context: int | None = None, continuation: int | None = None) -> Fitted:
    """The study's predictor of a model from its context: `context` (default: the first traced), first seed.

    ConfigError where the study has none for that model, context or continuation, or where it needs what new sequences
    do not have.
    """
    from mnemoscope.prediction.fitting import NetworkPredictor
    from mnemoscope.prediction.saving import load_predictor

    plans = _fitted_plans(study)
    chosen = [plan for plan in plans if plan.run.label == label and context in (None, plan.context)]
    if not chosen:
        known = sorted({(plan.run.label, plan.context) for plan in plans})
        there = "; ".join(f"{name} at k = {k}" for name, k in known) or "none: give the study a [prediction] section"
        wanted = label if context is None else f"{label} at k = {context}"
        raise ConfigError(f"{study.folder}: no predictor of {wanted}; there are: {there}")
    predictor = load_predictor(predictor_path(chosen[0], PREDICTOR, task="context", seed=0))
    lengths = sorted({n for _, n in predictor.calibrations})
    if continuation is not None and continuation not in lengths:
        raise ConfigError(f"continuation {continuation} given; expected one that predictors were fit to: {lengths}")
    assert isinstance(predictor.predictor, NetworkPredictor)
    features = predictor.predictor.reader.features
    if features.frequency or features.copies:
        raise ConfigError(
            f"{label}: its predictor reads corpus counts, which new sequences do not have; "
            "expected a study without use_frequency and use_copies"
        )
    return predictor


def _fitted_plans(study: Study) -> list[PredictionPlan]:
    """The plans whose predictors are there and follow from what the study now holds, from small to large models."""
    return [
        plan
        for plan in plan_predictions(study)
        if plan.derived.key == plan.key and PREDICTOR in settings_of(study.config).predictors
    ]


def rank_sequences(
    predictor: Fitted,
    model: CausalLM,
    text: GroupText,
    *,
    continuation: int,
    batch_size: int,
    layers: Sequence[int] = (),
    progress: Callable[[int, int], None] = lambda num_done, num_sequences: None,
) -> Ranking:
    """The selected sequences of a text by the risk of reciting `continuation` tokens after the text's window.

    The window must be the predictor's context; `layers` those that its study traced. Memory: 24 bytes a sequence, and
    the states of 4,096 contexts. `progress` hears of sequences done and of all.
    """
    from mnemoscope.prediction.contexts import read_contexts
    from mnemoscope.prediction.fitting import predict_rows

    parts: list[dict[str, NDArray[Any]]] = []
    num_short = num_done = 0
    for windows in _windows(text):
        num_short += windows.num_short
        num_done += len(windows.sequence_ids) + windows.num_short
        if len(windows.sequence_ids):
            check_vocabulary(windows, model.identity.vocab_size, text.corpus)
            examples = read_contexts(model, windows, label=predictor.trained_on, batch_size=batch_size, layers=layers)
            said = predict_rows(predictor, examples, np.arange(len(examples)), [continuation])
            (natural,) = (one for one in said if one.prior == "natural")
            parts.append(
                {
                    "sequence_id": windows.sequence_ids,
                    "offset": windows.offsets,
                    "full_match_probability": natural.full_match_probability_R,
                    "expected_matched": natural.expected_matched_R,
                }
            )
        progress(num_done, len(text.selection))
    table = _sorted_table(parts)
    forwards = count_forwards(len(table), context=text.window_tokens, continuation=continuation)
    return Ranking(
        table=table,
        label=predictor.trained_on,
        context=text.window_tokens,
        continuation=continuation,
        forwards=forwards,
        num_short=num_short,
    )


def _windows(text: GroupText) -> Iterator[Windows]:
    for start in range(0, len(text.selection), SEQUENCES_AT_ONCE):
        yield text.read(text.selection.sequence_ids[start : start + SEQUENCES_AT_ONCE], short_rows="skip")


def _sorted_table(parts: list[dict[str, NDArray[Any]]]) -> pa.Table:
    columns = {
        name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, kind.to_pandas_dtype())
        for name, (kind, _) in COLUMNS.items()
    }
    order = np.argsort(-columns["full_match_probability"], kind="stable")
    schema = pa.schema([pa.field(name, kind, metadata={"unit": unit}) for name, (kind, unit) in COLUMNS.items()])
    return pa.table({name: values[order] for name, values in columns.items()}, schema=schema)
