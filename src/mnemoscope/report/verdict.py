"""The verdict: what a study found, in words that a layman understands in a minute.

Pure: results and facts in, text out. Every number is one of the tables' or the findings'; computed is which sentence
is said, and the interval of the share of scores below 0.3, which no table has: bins are added up for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses import Verdict as Judgement
from mnemoscope.analyses.embeddings import EmbeddingsResult
from mnemoscope.analyses.entropy import EntropyResult
from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.analyses.frequency import FrequencyResult
from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.analyses.transitions import TransitionsResult
from mnemoscope.intervals import normal_quantile, wilson
from mnemoscope.report.cautions import cautions
from mnemoscope.report.claims import (
    Claim,
    State,
    amount_claim,
    context_judgement,
    control_claim,
    copies_claim,
    excess_row,
    length_claim,
    longest_row,
    reference_rows,
    size_claim,
    step_claim,
)
from mnemoscope.report.perspective_claims import (
    boundary_claim,
    embedding_claim,
    embedding_states,
    persistence_claim,
    prediction_claim,
)
from mnemoscope.report.rows import Record, last_checkpoints, records
from mnemoscope.report.spoken import bound_words, counted, joined, share_words
from mnemoscope.report.study_facts import StudyFacts

__all__ = ["Claim", "State", "Verdict", "published_states", "verdict"]

LOW_BINS: Final = 4
"""Score bins 0 to 3: scores below 0.3."""


class Verdict(NamedTuple):
    """One sentence, and the claims behind it, most important first."""

    headline: str
    claims: tuple[Claim, ...]


def verdict(results: Mapping[str, AnalysisResult], facts: StudyFacts) -> Verdict:
    """What was found, what was not, what is undecided, and what to be careful of: 13 claims at most."""
    return Verdict(_headline(results), tuple(_claims(results, facts)))


def _headline(results: Mapping[str, AnalysisResult]) -> str:
    factors = results.get("factors")
    if not isinstance(factors, FactorsResult):
        return "How much is memorized is not known here: the analysis of the scores is missing."
    row = longest_row(factors)
    if row is None:
        return "No sequence of the training text has been scored."
    control = excess_row(factors, row)
    if row["num_memorized"] == 0:
        bound = bound_words(row["share_high"])
        texts = f"{row['num_sequences']:,} tried"
        return f"{row['model']} recites {_tokens(row)} of no training sequence without a mistake, of {texts} ({bound})."
    counts = counted(row, "num_memorized", "num_sequences")
    words = f"{row['model']} recites {_tokens(row)} of {counts} training sequences without a mistake"
    if control is None:
        return f"{words}, {share_words(row)}; how much of this is guessing is not known, as no unseen text was scored."
    unseen = counted(control, "num_control_memorized", "num_control_sequences")
    return f"{words}, {share_words(row)}, against {unseen} sequences that it never saw."


def _tokens(row: Record) -> str:
    n = row["continuation"]
    return "the next token" if n == 1 else f"the next {n:,} tokens"


def _claims(results: Mapping[str, AnalysisResult], facts: StudyFacts) -> Iterator[Claim]:
    factors = results.get("factors")
    if isinstance(factors, FactorsResult):
        yield from _amount_claims(factors)
        if longest_row(factors) is not None:
            told = (size_claim, copies_claim, length_claim, step_claim)
            yield from (claim for tell in told if (claim := tell(factors)) is not None)
    yield _published_claim(results)
    for name, result in results.items():
        match result:
            case TransitionsResult():
                yield persistence_claim(result)
            case FrequencyResult() | EntropyResult():
                yield boundary_claim(name, result)
            case EmbeddingsResult():
                yield embedding_claim(result)
            case PredictionResult():
                yield prediction_claim(result)
            case _:
                pass
    yield from cautions(results, facts)


def _amount_claims(factors: FactorsResult) -> Iterator[Claim]:
    """How much, and how much of unseen text; in one where both say the same, for the headline has said it, too."""
    amount, control = amount_claim(factors), control_claim(factors)
    if control is not None and control.state == amount.state == "found":
        yield Claim(control.lead, "found", f"{control.detail} {amount.words}")
        return
    yield amount
    if control is not None:
        yield control


def published_states(results: Mapping[str, AnalysisResult]) -> dict[str, Judgement | None]:
    """Of each published finding whether it holds here; None where this study did not ask."""
    states: dict[str, Judgement | None] = dict.fromkeys(
        (*_FACTOR_FINDINGS, *_FINDINGS.values(), *_EMBEDDING_FINDINGS.values())
    )
    factors = results.get("factors")
    if isinstance(factors, FactorsResult):
        states |= _factor_states(factors)
    for name, words in _FINDINGS.items():
        if name in results and _is_tested(results[name]):
            states[words] = results[name].finding.verdict
    if "embeddings" in results:
        for name, state in embedding_states(results["embeddings"]).items():
            states[_EMBEDDING_FINDINGS[name]] = state
    return states


def _is_tested(result: AnalysisResult) -> bool:
    """Whether there was anything to test: sizes to compare, or enough sequences at the boundary."""
    figures = result.finding.figures
    if isinstance(result, TransitionsResult):
        return figures.get("relation") == "size" and bool(figures["dominance_num_levels"])
    return bool(figures.get("num_tests"))


_FACTOR_FINDINGS: Final = (
    "larger models recite more",
    "longer contexts bring out more",
    "most scores stay below 0.3",
)
_FINDINGS: Final = {
    "transitions": "scores persist from model to model, ever more with size",
    "frequency": "words are rarer where recitation breaks off, beyond what choosing by score explains",
    "entropy": "the model is less sure where recitation breaks off, beyond what choosing by score explains",
}
_EMBEDDING_FINDINGS: Final = {
    "the order of scores": "internal states lie in the order of scores",
    "distance shrinking at a steady cosine": "the distance of internal states shrinks while decoding",
    "larger models spreading further": "larger models spread internal states further",
}


def _factor_states(factors: FactorsResult) -> dict[str, Judgement | None]:
    figures = factors.finding.figures
    size: Judgement | None = factors.finding.verdict if "smallest_model" in figures else None
    return dict(zip(_FACTOR_FINDINGS, (size, context_judgement(figures), _judge_low_scores(factors)), strict=True))


def _judge_low_scores(factors: FactorsResult) -> Judgement | None:
    """Whether more than half of the sequences score below 0.3 in every final model, or in none, beyond chance; None
    without scores.
    """
    bins, totals = (
        last_checkpoints(row for row in reference_rows(factors, records(table)) if row["group"] == "member")
        for table in (factors.bins, factors.memorized)
    )
    low_scores: defaultdict[str, int] = defaultdict(int)
    estimated = {row["model"]: [each for each in bins if each["model"] == row["model"]] for row in bins}
    num_known = {model: _independent(rows) for model, rows in estimated.items() if "num_known" in rows[0]}
    for row in bins:
        low_scores[row["model"]] += row["num_chosen"] if row["bin"] < LOW_BINS else 0
    judged: set[Judgement] = {
        _judge_half(
            low_scores[row["model"]] / row["num_sequences"],
            min(row["num_unique"] or row["num_sequences"], num_known.get(row["model"], row["num_sequences"])),
        )
        for row in totals
        if row["num_sequences"] and row["model"] in low_scores
    }
    return None if not judged else judged.pop() if len(judged) == 1 else "undecided"


def _independent(bins: Sequence[Record]) -> float:
    """Independent sequences that an estimate is worth: the n of the Wilson interval of the fullest bin but that of full
    matches, from its lower end. More are known, but these are counted, and each of the others stands for many.
    """
    row = max(bins[:-1], key=lambda row: row["share"])
    low, gap = row["share_low"], row["share"] - row["share_low"]
    return normal_quantile(0.95) ** 2 * low * (1 - low) / gap**2 if gap > 0 else row["num_known"]


def _judge_half(share: float, num_unique: float) -> Judgement:
    """Whether the interval of a share lies beyond a half; copies of a sequence count as one."""
    low, high = (float(end) for end in wilson(share * num_unique, num_unique))
    return "holds" if low > 0.5 else "fails" if high < 0.5 else "undecided"


def _published_claim(results: Mapping[str, AnalysisResult]) -> Claim:
    """The published findings in one list: which hold, which fail, which are open, which were not tested."""
    states = published_states(results)
    words = {wanted: [name for name, state in states.items() if state == wanted] for wanted in _COUNTED}
    untested = [name for name, state in states.items() if state is None]
    rest = f" Not tested: {'; '.join(untested)}." if untested else ""
    told = {wanted: names for wanted, names in words.items() if names}
    if not told:
        return Claim(f"None of {len(states)} published findings could be tested here.", "plain")
    counts = [f"{len(names)} {_COUNTED[wanted][len(names) != 1]}" for wanted, names in told.items()]
    counts += [f"{len(untested)} {'is' if len(untested) == 1 else 'are'} not tested"] if untested else []
    lists = [f" {_LISTED[wanted]}: {'; '.join(names)}." for wanted, names in told.items()]
    return Claim(f"Of {len(states)} published findings, {joined(counts)}.", "plain", "".join(lists) + rest)


_COUNTED: Final[Mapping[str, tuple[str, str]]] = {
    "holds": ("holds here", "hold here"),
    "fails": ("is not found", "are not found"),
    "undecided": ("is open", "are open"),
}
"""Of one finding, and of several."""
_LISTED: Final[Mapping[str, str]] = {
    "holds": "Holds",
    "fails": "Not found",
    "undecided": "Open, neither shown nor ruled out",
}
