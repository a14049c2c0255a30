"""What factors say, as short claims in plain words: how much is memorized, and how it grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from mnemoscope.analyses import Verdict as Judgement
from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.report.rows import Record, last_checkpoints, records, source_name
from mnemoscope.report.spoken import (
    bound_words,
    copies_words,
    counted,
    lengths_words,
    plural,
    points_words,
    share_words,
    size_words,
)

State = Literal["found", "not found", "undecided", "plain", "warning"]
STATES: Final[Mapping[Judgement, State]] = {"holds": "found", "fails": "not found", "undecided": "undecided"}


class Claim(NamedTuple):
    """One or two sentences, and whether what they speak of was found."""

    lead: str
    """What a reader in a hurry reads."""
    state: State
    detail: str = ""
    """What goes on from there, punctuation included."""

    @property
    def words(self) -> str:
        """All of it."""
        return self.lead + self.detail


def largest_rows(result: FactorsResult) -> list[Record]:
    """The largest final model's member rows that hold sequences, over the grid."""
    rows = last_checkpoints(row for row in records(result.memorized) if row["group"] == "member")
    known = [row for row in rows if row["share"] is not None]
    return [row for row in known if row["model"] == known[-1]["model"]]


def longest_row(result: FactorsResult) -> Record | None:
    """That model's row at its longest context and, of those, longest continuation: the hardest recitation asked for."""
    return max(largest_rows(result), key=lambda row: (row["context"], row["continuation"]), default=None)


def excess_row(result: FactorsResult, row: Record) -> Record | None:
    """The same cell beside its control; None where there is no control, or an empty one."""
    names = ("model", "context", "continuation")
    rows = [other for other in records(result.excess) if all(other[name] == row[name] for name in names)]
    return next((other for other in rows if other["excess"] is not None), None)


def amount_claim(result: FactorsResult) -> Claim:
    """How much the largest model memorized, at the longest lengths."""
    row = longest_row(result)
    if row is None:
        return Claim(
            "No sequence of the training text was scored: nothing can be said about memorization.", "undecided"
        )
    level = 100 * float(result.finding.figures.get("level") or 0.95)
    place = lengths_words(row["context"], row["continuation"])
    named = f"{row['model']} ({size_words(row['num_non_embedding_parameters'])} without embeddings)"
    if row["num_memorized"] == 0:
        return Claim(
            f"{named} recites none of {plural(row['num_sequences'], 'training sequence')} ({place}).",
            "undecided" if row["small_stratum"] else "not found",
            f"{_elsewhere(result)} None in this many is no proof of none at all: {bound_words(row['share_high'])} of "
            f"such text would fit it, by the {level:g} % interval.",
        )
    counts = counted(row, "num_memorized", "num_sequences")
    other = excess_row(result, row)
    return Claim(
        f"{named} recites {counts} training sequences, every token right",
        "plain" if other is None else "found" if other["excess_low"] > 0 else "undecided",
        f" ({place}; a token is a piece of a word): {share_words(row)}. Brackets hold the {level:g} % interval, the "
        f"range that this many sequences leave open; each stands alone, so that about {100 - level:.3g} in 100 miss.",
    )


def _elsewhere(result: FactorsResult) -> str:
    """What the model recites at other lengths, where it recites nothing at the longest."""
    rows = largest_rows(result)
    best = max(rows, key=lambda row: row["share"])
    if best["num_memorized"] == 0:
        return " Nor does it at other lengths." if len(rows) > 1 else ""
    place = lengths_words(best["context"], best["continuation"])
    return f" At other lengths it does: {counted(best, 'num_memorized', 'num_sequences')} ({place})."


def control_claim(result: FactorsResult) -> Claim | None:
    """The same of text that no model saw, and what is left; None where nothing was scored at all."""
    row = longest_row(result)
    if row is None:
        return None
    other = excess_row(result, row)
    if other is None:
        guessed = "Anyone can continue some text, such as lists and licences: what is recited may be partly guessed."
        missing = "No unseen text was scored beside it (a control)."
        return Claim(missing, "warning", f" {guessed}" if row["num_memorized"] else "")
    counts = counted(other, "num_control_memorized", "num_control_sequences")
    excess = points_words(*(other[f"excess{end}"] for end in ("", "_low", "_high")))
    seen = f"Of text that it never saw, {row['model']} recites {counts} sequences"
    if other["num_memorized"] == 0:
        return Claim(f"{seen}.", "plain")
    if other["excess_low"] > 0:
        return Claim(
            f"{row['model']} recites more of its training text than of text that it never saw",
            "found",
            f": {excess} more. Of the unseen text it recites {counts} sequences; only what goes beyond that counts as "
            "memorized.",
        )
    if other["excess_high"] < 0:
        return Claim(f"{seen}, a larger share than of its training text (a difference of {excess}).", "not found")
    return Claim(
        f"{seen}: whether it recites more of its training text is open (a difference of {excess}).", "undecided"
    )


def size_claim(result: FactorsResult) -> Claim:
    """Whether larger models memorize more."""
    figures, verdict = result.finding.figures, result.finding.verdict
    if "smallest_model" not in figures:
        few = "Only one model was scored" if figures.get("num_models", 0) == 1 else "No two sizes of model were scored"
        return Claim(f"{few}: whether larger models memorize more cannot be told here.", "undecided")
    place = lengths_words(_whole(figures["context"]), _whole(figures["continuation"]))
    what = "the lead over unseen text" if figures["size_of"] == "excess" else "the recited share"
    first, last = _ends_by_size(result, figures)
    change = points_words(*(_number(figures[f"size_difference{end}"]) for end in ("", "_low", "_high")), signed=True)
    span = f"from {first} to {last} {what} changes by {change}, with {place}"
    # Without unseen text a larger model may remember more, or only guess better.
    verb = "memorize" if figures["size_of"] == "excess" else "recite"
    if verdict == "holds":
        return Claim(f"Larger models {verb} more", "found", f": {span}.")
    if verdict == "undecided":
        return Claim(f"Whether larger models {verb} more is open", "undecided", f": {span}.")
    if _number(figures["size_difference_high"]) < 0:
        return Claim(f"Larger models do not {verb} more, but less", "not found", f": {span}.")
    falls = f"{figures['num_steps_down']} of {plural(_whole(figures['num_steps']), 'step')} from one size to the next"
    return Claim(
        f"Larger models do not always {verb} more",
        "not found",
        f": {what} falls at {falls} (corrected for their number); {span}.",
    )


def _ends_by_size(result: FactorsResult, figures: Mapping[str, Any]) -> tuple[str, str]:
    """Smallest and largest model, each with its share of members at the reference cell."""
    cell = [row for row in reference_rows(result, records(result.memorized)) if row["group"] == "member"]
    by_model = {row["model"]: row for row in cell}
    smallest, largest = (by_model[figures[f"{end}_model"]] for end in ("smallest", "largest"))
    return _with_size(smallest), _with_size(largest)


def _with_size(row: Record) -> str:
    """`demo-3M (3.16 million parameters, 139 of 510 recited)`."""
    size = size_words(row["num_non_embedding_parameters"])
    return f"{row['model']} ({size}, {counted(row, 'num_memorized', 'num_sequences')} recited)"


def copies_claim(result: FactorsResult) -> Claim:
    """Whether sequences that stand in the training text more often are recited more: the dose-response."""
    largest = {row["model"] for row in largest_rows(result)}
    rows = [row for row in reference_rows(result, records(result.repeat_classes)) if row["model"] in largest]
    rows = sorted((r for r in rows if r["group"] == "member" and r["share"] is not None), key=_fewest_copies)
    if len(rows) < 2:
        why = "How often each sequence stands in the training text is not known"
        why = "All sequences stand in the training text equally often" if rows else why
        return Claim(f"{why}: whether text with more copies is recited more cannot be told here.", "undecided")
    first, last = rows[0], _most_copied(rows)
    place = lengths_words(first["context"], first["continuation"])
    ends = ", and ".join(
        f"{counted(row, 'num_memorized', 'num_sequences')} that stand there "
        f"{copies_words(row['num_repeats_low'], row['num_repeats_high'])}, {share_words(row)}"
        for row in (first, last)
    )
    if last["share_low"] > first["share_high"]:
        words, state = "Text with more copies in the training data is recited more", "found"
    elif last["share_high"] < first["share_low"]:
        words, state = "Text with more copies in the training data is not recited more, but less", "not found"
    else:
        words, state = "Whether text with more copies in the training data is recited more is open", "undecided"
    return Claim(words, state, f": with {place}, {first['model']} recites {ends}.")


def _fewest_copies(row: Record) -> int:
    return int(row["num_repeats_low"])


def _most_copied(rows: Sequence[Record]) -> Record:
    """The class of most copies that is not small; where all but the first are, the last."""
    large = [row for row in rows[1:] if not row["small_stratum"]]
    return large[-1] if large else rows[-1]


def length_claim(result: FactorsResult) -> Claim | None:
    """How the share runs with the context, and with the continuation; None where the grid has one of each, or where
    nothing is recited anywhere.
    """
    figures, rows = result.finding.figures, largest_rows(result)
    if not any(row["num_memorized"] for row in rows):
        return None
    lead, details = "Longer continuations are harder, as they must be", list[str]()
    state: State = "plain"
    first, last = _ends_along(rows, "context", "continuation")
    if "context_num_models" in figures and first is not last:
        state = STATES[context_judgement(figures) or "undecided"]
        told = {
            "found": "Longer contexts bring out more",
            "not found": "Longer contexts do not bring out more, but less",
        }
        lead = told.get(state, "Whether longer contexts bring out more is open")
        details.append(
            f": {first['model']} recites {share_words(first)} after {first['context']:,} tokens and "
            f"{share_words(last)} after {last['context']:,} ({_models_words(figures)})."
        )
    first, last = _ends_along(rows, "continuation", "context")
    if first is not last:
        details += [" Longer continuations are harder, as they must be"] if details else []
        details.append(
            f": {share_words(first)} for {first['continuation']:,} tokens to recite, {share_words(last)} for "
            f"{last['continuation']:,}."
        )
    return Claim(lead, state, "".join(details)) if details else None


def context_judgement(figures: Mapping[str, Any]) -> Judgement | None:
    """Whether longer contexts bring out more, or less, in every model: a claim about all of them, at the full level
    each, needs no correction for their number. None where there is one context.
    """
    if "context_num_models" not in figures:
        return None
    rising, falling, of = (figures[f"context_num_{name}"] for name in ("rising", "falling", "models"))
    return "holds" if rising == of else "fails" if falling == of else "undecided"


def _models_words(figures: Mapping[str, Any]) -> str:
    """How many models change beyond chance."""
    rising, falling, of = (_whole(figures[f"context_num_{name}"]) for name in ("rising", "falling", "models"))
    if not rising and not falling:
        return "a change that may be chance" if of == 1 else f"in none of {of} models is the change beyond chance"
    return (
        f"beyond chance, each by its own interval, it rises in {rising} of {plural(of, 'model')} and falls in {falling}"
    )


def _ends_along(rows: Sequence[Record], along: str, fixed: str) -> tuple[Record, Record]:
    """The rows at the shortest and longest length, at the shortest of the other."""
    shortest = min(row[fixed] for row in rows)
    line = sorted((row for row in rows if row[fixed] == shortest), key=lambda row: row[along])
    return line[0], line[-1]


def step_claim(result: FactorsResult) -> Claim | None:
    """How the recited share runs over training, in the run of most checkpoints; None without two of one source."""
    rows = [row for row in reference_rows(result, records(result.steps)) if row["group"] == "member"]
    rows = [row for row in rows if row["share"] is not None]
    sources = list(dict.fromkeys(row["source"] for row in rows))
    lines = [[row for row in rows if row["source"] == source] for source in sources]
    line = max(reversed(lines), key=len, default=[])
    if len(line) < 2:
        return None
    first, last = (end(line, key=lambda row: row["training_step"]) for end in (min, max))
    span = (
        f"from step {first['training_step']:,} to step {last['training_step']:,} of {source_name(first)} the recited "
        f"share goes from {share_words(first)} to {share_words(last)}, with "
        f"{lengths_words(first['context'], first['continuation'])}"
    )
    others = sum(len(some) > 1 for some in lines) - 1
    rest = f"; {plural(others, 'other training run')} with checkpoints: see the table of steps" if others else ""
    if last["share_low"] > first["share_high"]:
        return Claim("More is recited as training goes on", "found", f": {span}{rest}.")
    if last["share_high"] < first["share_low"]:
        return Claim("Less is recited as training goes on, not more", "not found", f": {span}{rest}.")
    return Claim("Whether more is recited as training goes on is open", "undecided", f": {span}{rest}.")


def reference_rows(result: FactorsResult, rows: Iterable[Record]) -> list[Record]:
    """Rows of the cell that was chosen before looking, at which models are compared."""
    figures = result.finding.figures
    cell = figures.get("context"), figures.get("continuation")
    return [row for row in rows if (row["context"], row["continuation"]) == cell]


def _number(value: Any) -> float:
    return float(value)


def _whole(value: Any) -> int:
    return int(value)
