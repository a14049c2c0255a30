"""What transitions, frequency, entropy, embeddings and prediction say, as short claims in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses import Verdict as Judgement
from mnemoscope.analyses.boundary import EXPLAINED, NO_DIFFERENCE, NOT_BEYOND, OPPOSITE, SURVIVES, TOO_FEW, TOO_WIDE
from mnemoscope.analyses.embedding_finding import CLAIMS
from mnemoscope.analyses.transitions import TransitionsResult
from mnemoscope.intervals import format_share
from mnemoscope.report.claims import STATES, Claim
from mnemoscope.report.rows import Record, records
from mnemoscope.report.spoken import plural, points_words, share_words

BOUNDARY_WORDS: Final = {
    SURVIVES: "it goes beyond what this selection explains",
    OPPOSITE: "the opposite goes beyond what this selection explains",
    NOT_BEYOND: "text never seen shows it too",
    EXPLAINED: "nothing is shown beyond what this selection explains",
    NO_DIFFERENCE: "no step can be told from zero",
    TOO_WIDE: "the interval is too wide to tell",
    TOO_FEW: "there are too few sequences to tell",
}
_PREFIX: Final = "verdict of "


def persistence_claim(result: TransitionsResult) -> Claim:
    """Whether what one model recites, the next does too."""
    figures, verdict = result.finding.figures, result.finding.verdict
    kept = kept_row(result)
    if kept is None:
        return Claim("No two models were compared on the same training sequences.", "undecided")
    later = {"size": "the next larger", "step": "the next checkpoint", "final": "the final model"}
    next_ = f"{kept['model_to']} ({later.get(str(figures['relation']), 'the next')})"
    if kept["share"] is None:
        words = f"{kept['model_from']} recites nothing that {next_} could keep"
    else:
        words = (
            f"Of the {plural(kept['num_sequences'], 'sequence')} that {kept['model_from']} recites, {next_} recites "
            f"{kept['num_chosen']:,} too, {share_words(kept)}"
        )
    by_size = figures["relation"] == "size"
    what = "That sequences keep their level of score, and the more so the larger the models (a published finding)"
    verb = _VERBS[verdict] if figures["dominance_num_levels"] else "not tested"
    told = f"{what}: {verb}." if by_size else "No two sizes were compared, as the published finding does."
    return Claim(f"{words}.", "plain", f" {told} {_staying_words(figures)}.")


_VERBS: Final[Mapping[Judgement, str]] = {"holds": "found", "fails": "not found", "undecided": "open"}


def _staying_words(figures: Mapping[str, Any]) -> str:
    """How commonly sequences stay at their level of score, over the levels that hold enough of them."""
    told, of = figures["dominance_num_dominant"], figures["dominance_num_levels"]
    if not of:
        return "No level holds enough sequences to tell"
    words = f"At {told} of {plural(of, 'level')} more sequences stay than go to any one other"
    if figures.get("growth_num_levels"):
        rising, falling, levels = (figures[f"growth_num_{name}"] for name in ("rising", "falling", "levels"))
        words += (
            f"; between the first two sizes and the last two the share that stays rises at {rising} of "
            f"{plural(levels, 'level')} and falls at {falling}, beyond chance"
        )
    elif figures["relation"] == "size":
        words += "; with one step of size nothing can be said about growth"
    return words


def kept_row(result: TransitionsResult) -> Record | None:
    """What became of the memorized set at the finding's last pair and cell."""
    figures = result.finding.figures
    names = ("relation", "context_from", "continuation_from", "group")
    rows = [
        row
        for row in records(result.kept_gained_lost)
        if row["fate"] == "kept" and all(row[name] == figures.get(name) for name in names)
    ]
    return rows[-1] if rows else None


def boundary_claim(name: str, result: AnalysisResult) -> Claim:
    """Whether the boundary effect of frequency or of entropy is more than selection."""
    counts = boundary_counts(result)
    what = {
        "frequency": "Rarer words just where recitation breaks off",
        "entropy": "A model less sure of itself just where recitation breaks off",
    }[name]
    if not result.finding.figures.get("num_tests"):
        return Claim(
            f"{what} (a published finding): not tested, no model's sample holds enough sequences.", "undecided"
        )
    total = sum(counts.values())
    lead = {
        "holds": "found, beyond what choosing sequences by their score brings about by itself",
        "fails": "nothing found beyond what choosing sequences by their score brings about by itself",
        "undecided": "open, for choosing sequences by their score may bring it about by itself",
    }[result.finding.verdict]
    return Claim(
        f"{what} (a published finding): {lead}.", STATES[result.finding.verdict], f" {told_verdicts(counts, total)}."
    )


def told_verdicts(counts: Mapping[str, int], total: int) -> str:
    """`In 3 of 7 models selection can explain it, in 1 there is no such step, ...`."""
    first, *others = [(count, BOUNDARY_WORDS[verdict]) for verdict, count in counts.items()]
    if total == 1:
        return f"In the one model {first[1]}"
    words = [f"In {first[0]} of {plural(total, 'model')} {first[1]}", *(f"in {count} {said}" for count, said in others)]
    return ", ".join(words)


def boundary_counts(result: AnalysisResult) -> Counter[str]:
    """How many models came to each verdict of the boundary test, survivors first."""
    figures = result.finding.figures
    found = Counter(str(value) for name, value in figures.items() if name.startswith(_PREFIX))
    return Counter({verdict: found[verdict] for verdict in BOUNDARY_WORDS if found[verdict]})


EMBEDDING_WORDS: Final[Mapping[str, str]] = {
    CLAIMS[0]: "similar scores lie side by side",
    CLAIMS[1]: "the distance between scores shrinks while decoding, their direction staying",
    CLAIMS[2]: "larger models spread scores further apart",
}


def embedding_states(result: AnalysisResult) -> dict[str, Judgement]:
    """Of each published claim about embeddings whether it holds here; empty where nothing was compared."""
    figures = result.finding.figures
    if "num_models" not in figures:
        return {}
    failed, open_ = (str(figures.get(name) or "").split(", ") for name in ("not_reproduced", "undecided"))
    tested = CLAIMS if "smallest_model" in figures else CLAIMS[:2]  # the third is about sizes
    return {name: "fails" if name in failed else "undecided" if name in open_ else "holds" for name in tested}


def embedding_claim(result: AnalysisResult) -> Claim:
    """Which of the published patterns of internal states are found."""
    states = embedding_states(result)
    if not states:
        return Claim(
            "Whether a model's internal states (embeddings) tell memorized text from other cannot be told: too few "
            "sequences of different scores.",
            "undecided",
        )
    parts = [
        f" {title}: {'; '.join(EMBEDDING_WORDS[name] for name, state in states.items() if state == wanted)}."
        for wanted, title in (("holds", "Found"), ("fails", "Not found"), ("undecided", "Open"))
        if wanted in states.values()
    ]
    num_found, verdicts = list(states.values()).count("holds"), set(states.values())
    return Claim(
        f"Of {len(states)} published patterns in the models' internal states (embeddings) {num_found or 'none'} "
        f"{'is' if num_found < 2 else 'are'} found here.",
        STATES[verdicts.pop()] if len(verdicts) == 1 else "plain",
        "".join(parts),
    )


def prediction_claim(result: AnalysisResult) -> Claim:
    """Whether it can be foreseen what a model will recite."""
    figures = result.finding.figures
    tokens = _figure(figures, "context_token_accuracy")
    if tokens is None:
        return Claim("Whether recitation can be foreseen cannot be told: no predictor could be tested.", "undecided")
    words = (
        f"From the context alone, before {figures['model']} writes a word, a trained predictor foresees rightly for "
        f"{format_share(*tokens)} of the tokens whether they will match"
    )
    tested = (
        f" ({plural(_count(figures), 'test sequence')}, weighted so that every score counts the same, which is not "
        "how sequences come)"
    )
    best, gain = figures.get("context_token_accuracy_best_baseline"), _figure(figures, "context_token_accuracy_gain")
    if best is None or gain is None:
        return Claim(words, "undecided", f"{tested}. No simpler method was tested beside it.")
    lead = {
        "holds": "It beats every simpler method",
        "fails": "It does not beat every simpler method",
        "undecided": "Whether it beats every simpler method is open",
    }[result.finding.verdict]
    beaten = f"ahead of {figures['num_baselines_beaten']} of {figures['num_baselines']}, by an interval each"
    against = f"against the best of them, {best}, the gain is {points_words(*gain, signed=True)}"
    return Claim(words, STATES[result.finding.verdict], f"{tested}. {lead}: it is {beaten}; {against}.")


def flagging_words(result: AnalysisResult) -> str:
    """What ranking sequences as they come would find among the first hundredth; empty where nobody ranked."""
    recall = _figure(result.finding.figures, "recall_at_1_percent")
    if recall is None:
        return ""
    words = f"of sequences as they come, the hundredth ranked first holds {format_share(*recall)} of all full matches"
    full = result.finding.figures.get("full_match_share")
    most = f"; no ranking could hold more than {100 * min(1.0, 0.01 / float(full)):.0f} %" if full else ""
    return words + most


def _figure(figures: Mapping[str, Any], name: str) -> tuple[float, float, float] | None:
    values = [figures.get(f"{name}{end}") for end in ("", "_low", "_high")]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return (known[0], known[1], known[2]) if len(known) == len(values) else None


def _count(figures: Mapping[str, Any]) -> int:
    return int(figures.get("num_sequences") or 0)
