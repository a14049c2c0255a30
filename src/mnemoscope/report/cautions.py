"""What a reader of a study's numbers should be careful of, as claims in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses.factors import SMALL_STRATUM, FactorsResult
from mnemoscope.intervals import share_decimals
from mnemoscope.report.claims import Claim, longest_row
from mnemoscope.report.estimates import is_unknown, known_row, known_words
from mnemoscope.report.flip_table import flip_words
from mnemoscope.report.rows import records
from mnemoscope.report.spoken import counted, joined, plural
from mnemoscope.report.study_facts import StudyFacts


def cautions(results: Mapping[str, AnalysisResult], facts: StudyFacts) -> list[Claim]:
    """One claim about what was scored and one about how firm the numbers are, where there is something to tell."""
    factors = results.get("factors")
    kinds = ([*_about_scores(results, facts), *_about_texts(factors, facts)], list(_about_numbers(factors, facts)))
    return [
        Claim(first, "warning", "".join(f" {sentence}" for sentence in others))
        for first, *others in filter(None, kinds)
    ]


def _about_scores(results: Mapping[str, AnalysisResult], facts: StudyFacts) -> Iterator[str]:
    if facts.mode == "imported":
        yield (
            "These scores were computed elsewhere and imported: only how many tokens matched is known, so nothing here "
            "can tell how they came about, nor how many hang on near-ties."
        )
    if facts.mode == "exact":
        yield (
            "Only whole recitations and first mistakes were scored (mode exact): sequences that are half right count "
            "as not recited, and none is followed from model to model."
        )
    row = known_row(results)
    if row is not None:
        yield (
            f"Whole recitations were counted for every sequence, but only of {known_words(row)} training sequences is "
            f"it known how many tokens {row['model']} got right at the longest lengths (mode two-phase): numbers of "
            "half right ones, and what becomes of them from model to model, are weighted estimates from a random "
            "sample."
        )
    elif facts.mode == "two-phase" and is_unknown(results):
        yield (
            "Whole recitations were counted for every sequence, but none of those was graded (mode two-phase) of which "
            "the first mistake leaves open how much is right: nothing is known of numbers of half right ones, and "
            "traced sequences stand for those alone that are right up to the last token or the one before."
        )
    if not facts.is_complete:
        yield "The study is not complete: numbers may change."
    if facts.missing_models:
        yield f"Not scored yet: {joined(facts.missing_models)}."


def _about_texts(factors: AnalysisResult | None, facts: StudyFacts) -> Iterator[str]:
    member = facts.groups.get("member")
    if member is not None and member.drawn == "listed":
        yield (
            "The sequences were chosen by a list, not at random: the shares speak of that list, not of the whole "
            "training text."
        )
    if member is not None and member.drawn == "sample":
        yield f"The shares are of {plural(member.num_sequences, 'sequence')} drawn at random from the training text."
    if member is not None and member.num_short:
        yield f"{plural(member.num_short, 'sequence')} of the training text were too short and are left out."
    if "control" in facts.groups:
        yield "That no model saw the unseen text, and that it is of the same kind, is the study's word."
    if isinstance(factors, FactorsResult):
        row = longest_row(factors)
        if row is not None and row["num_unique"] is None:
            yield (
                "Whether sequences are copies of one another is not known: each counts as one, and intervals may be "
                "too narrow."
            )
        if row is not None and row["num_unique"] not in (None, row["num_sequences"]):
            unique = counted(row, "num_unique", "num_sequences")
            yield f"Only {unique} sequences differ from one another; intervals take that into account."


def _about_numbers(factors: AnalysisResult | None, facts: StudyFacts) -> Iterator[str]:
    """Near-ties that could come out otherwise, and shares of few sequences."""
    half = [model.label for model in facts.models if model.dtype not in (None, "float32")]
    if half:
        yield f"{joined(half)} ran in a half-precision number format, in which near-ties are common."
    for model in facts.models:
        if model.flips is not None:
            yield f"Held against float32 on a random sample: {flip_words(model.flips)}."
    if not isinstance(factors, FactorsResult):
        return
    row = longest_row(factors)
    if row is not None and row["num_fragile"]:
        # Not an interval: how far the share would move if all of them fell the same way.
        decimals = share_decimals(row["share_low"], row["share_high"])
        low, high = (f"{100 * row[f'share_if_flipped_{end}']:.{decimals}f}" for end in ("low", "high"))
        yield (
            f"For {counted(row, 'num_fragile', 'num_sequences')} sequences the model's two best tokens came so close "
            "somewhere that another machine may choose otherwise; if all of them fell the same way, the share at the "
            f"longest lengths, {100 * row['share']:.{decimals}f} %, would be {low} or {high} %."
        )
    small = small_strata(factors)
    if small[0]:
        which = f"{small[0]:,} of {plural(small[1], 'share')}" if small[1] > 1 else "The one share"
        yield (
            f"{which} by model, length, copies and training step {'rest' if small[0] > 1 else 'rests'} on fewer than "
            f"{SMALL_STRATUM} different sequences, and {'are' if small[0] > 1 else 'is'} marked."
        )


def small_strata(factors: FactorsResult) -> tuple[int, int]:
    """Shares of full matches that rest on few unique sequences, and all of them; steps stand in `memorized` too."""
    rows = [row for table in (factors.memorized, factors.repeat_classes) for row in records(table)]
    return sum(bool(row["small_stratum"]) for row in rows), len(rows)
