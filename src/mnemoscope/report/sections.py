"""The sections of a report: per perspective its question, finding, figures, tables and what the null or control says.

Pure: sentences and tables come from the results as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses import Verdict as Judgement
from mnemoscope.report.estimates import caption_words
from mnemoscope.report.section_checks import checks_of, sizes_of
from mnemoscope.report.study_facts import StudyFacts

__all__ = ["Section", "SectionTable", "sections"]


class SectionTable(NamedTuple):
    """A table with a line that says what its rows are."""

    name: str
    caption: str
    table: pa.Table


class Section(NamedTuple):
    """One perspective of a study."""

    name: str
    title: str
    question: str
    """One line that a layman understands."""
    finding: str
    state: Judgement
    """Whether the published finding holds here."""
    figures: tuple[str, ...]
    """Names of the figures that there are, most telling first."""
    tables: tuple[SectionTable, ...]
    """Those with rows, most telling first."""
    checks: tuple[str, ...]
    """What the null, the control or the baseline says."""
    n: str
    """How much stands behind it."""


class _Frame(NamedTuple):
    """What does not depend on the study."""

    title: str
    question: str
    figures: tuple[str, ...]
    captions: Mapping[str, str]


_FRAMES: Final[Mapping[str, _Frame]] = {
    "factors": _Frame(
        "How much is memorized",
        "How much of its training text can a model recite word for word, and what makes it more: size, a longer "
        "beginning, a shorter ending, copies of the text, training time?",
        (
            "memorized_by_size",
            "memorized_by_repeats",
            "memorized_by_step",
            "memorized_by_context",
            "memorized_by_continuation",
            "score_bins",
        ),
        {
            "memorized": "Sequences whose whole continuation was recited, by model, group, context and continuation, "
            "with what near-ties could make of the share.",
            "excess": "The same beside text that no model saw: the member share minus the control share.",
            "repeat_classes": "Recited sequences by how often they stand in the training text, in doubling classes.",
            "steps": "Recited sequences along training, for models with several checkpoints.",
            "trend": "Curves fitted along model size, context and continuation: several forms, each with its interval.",
            "bins": "Sequences by score, the share of the continuation that was right, in twelve bins.",
            "repeats": "Recited sequences by the exact number of copies.",
            "first_mismatch": "Sequences by the place of their first wrong token.",
            "num_matched": "Sequences by the exact number of right tokens.",
        },
    ),
    "transitions": _Frame(
        "What becomes of a sequence from one model to the next",
        "What a small or early model recites, does a larger or later one recite too?",
        (
            *("transitions_by_size", "transitions_by_step", "transitions_by_context", "transitions_by_continuation"),
            "transitions_inverse",
        ),
        {
            "kept_gained_lost": "The memorized set from one model, context or length to the next: kept, lost, gained.",
            "levels": "Of the sequences at a level of score under one model, the share at each level under the other; "
            "and the inverse.",
            "prediction": "How well the first model's memorized set foretells the second's.",
            "regression": "What each cell would hold by regression to the mean alone, by symmetry, and by chance.",
            "tests": "Whether as many sequences rose as fell: paired tests on the same sequences.",
            "noise": "How many change between two twins of one model: the noise floor.",
            "scores": "The same cross-tabulation by exact number of right tokens; empty cells are left out.",
        },
    ),
    "frequency": _Frame(
        "How common the words are where recitation breaks off",
        "Does a model lose the thread at rare words, beyond what picking the sequences where it was lost brings about "
        "by itself?",
        (
            "frequency_1gram",
            "frequency_1gram_boundary",
            "frequency_2gram",
            "frequency_2gram_boundary",
            "frequency_1gram_log",
            "frequency_2gram_log",
        ),
        {
            "boundary": "The step at the boundary, the same step at matching places inside the context, what is left, "
            "and the same of unseen text.",
            "sentences": "Mean corpus frequency over context and continuation, by model and score.",
            "strata": "How many sequences were sampled of each score, and how many they stand for.",
            "curves": "Frequency by place in the sequence with bands, beside a null without memory.",
        },
    ),
    "entropy": _Frame(
        "How sure the model is where recitation breaks off",
        "Is a model unsure of the next token just where it stops to recite, beyond what picking those sequences brings "
        "about by itself?",
        ("entropy_by_index", "entropy_boundary"),
        {
            "boundary": "The jump at the boundary, the same at matching places inside the context, what is left, and "
            "the same of unseen text.",
            "sentences": "Mean entropy (how unsure the model is, in nats) over context and continuation, by model and "
            "score.",
            "trend": "How these run with model size.",
            "strata": "How many sequences were sampled of each score, and how many they stand for.",
            "curves": "Entropy by place in the sequence with bands, beside a null without memory.",
        },
    ),
    "embeddings": _Frame(
        "What goes on inside the model",
        "Can one see in a model's internal states how much of a sequence it will recite?",
        (
            "embedding_distances",
            "embedding_order",
            "embedding_spread",
            "embedding_path_pca",
            "embedding_cosine",
            "embedding_neighbour_cosine",
            "embedding_path_umap",
        ),
        {
            "models": "One row for each model and side: how far scores lie apart, whether in order, and how that "
            "changes while decoding.",
            "separability": "How well a simple classifier tells scores apart from the state alone.",
            "trend": "How far scores lie apart, along model size.",
            "groups": "Every score: how many sequences stand behind it, and whether they suffice.",
            "steps": "The same as by model, at each decoding step, beside random groups.",
            "path": "Each score's mean state in two dimensions, step by step.",
            "distances": "Distance between the mean states of two scores, step by step.",
            "centred_cosines": "Cosine between the mean states of two scores, the step's grand mean taken off.",
            "cosines": "Cosine between the mean states of two scores, as they are.",
        },
    ),
    "prediction": _Frame(
        "Can it be foreseen",
        "Can one tell which sequences a model will recite, before or while it decodes them, and better than by simple "
        "means?",
        (
            "prediction_accuracy",
            "prediction_gains",
            "prediction_calibration",
            "prediction_by_model",
            "prediction_by_continuation",
            "prediction_by_score",
            "prediction_fully_by_score",
            "prediction_transfer",
        ),
        {
            "metrics": "Every measure of every predictor, on sequences that none was trained on.",
            "gains": "Our predictor minus each other one, on the same sequences.",
            "controls": "What predictors say of text that no model saw.",
            "calibration": "Foretold probabilities beside what came of them, in tenths.",
            "by_score": "Accuracy for sequences of each number of right tokens.",
            "transfer": "Predictors that learned from another model, beside those that learned from the model itself.",
        },
    ),
}


def sections(
    results: Mapping[str, AnalysisResult], facts: StudyFacts, figures: Mapping[str, Sequence[str]]
) -> tuple[Section, ...]:
    """A section for each analysis that there is; `figures` are the names of its figures, by analysis."""
    return tuple(
        _section(name, frame, results[name], facts, figures.get(name, ()))
        for name, frame in _FRAMES.items()
        if name in results
    )


def _section(name: str, frame: _Frame, result: AnalysisResult, facts: StudyFacts, figures: Sequence[str]) -> Section:
    return Section(
        name=name,
        title=frame.title,
        question=frame.question,
        finding=result.finding.sentence,
        state=result.finding.verdict,
        figures=tuple(_in_order(figures, frame.figures)),
        tables=tuple(_tables(frame, result)),
        checks=checks_of(result),
        n=sizes_of(result, facts),
    )


def _tables(frame: _Frame, result: AnalysisResult) -> Iterator[SectionTable]:
    for name in _in_order(list(result.tables), tuple(frame.captions)):
        table = result.tables[name]
        if table.num_rows:
            yield SectionTable(name, frame.captions.get(name, "") + caption_words(name, result), table)


def _in_order(names: Sequence[str], first: Sequence[str]) -> list[str]:
    """The names, those of `first` in its order and then the others in theirs."""
    return [name for name in first if name in names] + [name for name in names if name not in first]
