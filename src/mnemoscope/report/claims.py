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
            "not found",
            f"{_elsewhere(result)} None in this many is no proof of none at all: {bound_words(row['share_high'])} of "
            f"such text would fit it, by the {level:g} % interval.",
        )
    counts = counted(row, "num_memorized", "num_sequences")
    return Claim(
        f"{named} recites {counts} training sequences, every token right",
        "found" if _is_beyond(excess_row(result, row)) else "undecided",
        f" ({place}; a token is a piece of a word): {share_words(row)}. Brackets hold the {level:g} % interval, the "
        "range that this many sequences leave open.",
    )


def _elsewhere(result: FactorsResult) -> str:
    """What the model recites at other lengths, where it recites nothing at the longest."""
    rows = largest_rows(result)
    best = max(rows, key=lambda row: row["share"])
    if best["num_memorized"] == 0:
        return " Nor does it at other lengths." if len(rows) > 1 else ""
    place = lengths_words(best["context"], best["continuation"])
    return f" At other lengths it does: {counted(best, 'num_memorized', 'num_sequences')} ({place})."


def _is_beyond(row: Record | None) -> bool:
    """Whether more was recited than of unseen text; True where there is none to compare: a caution tells of that."""
    return row is None or row["excess_low"] > 0


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
        return Claim(f"{seen}.", "found", f" What it recites beyond that, {excess}, is what counts as memorized.")
    if other["excess_high"] < 0:
        return Claim(f"{seen}, more than of the training text (a difference of {excess}).", "not found")
    return Claim(f"{seen}: the difference, {excess}, may be none.", "undecided")


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
    if verdict == "holds":
        return Claim("Larger models memorize more", "found", f": {span}.")
    if verdict == "undecided":
        return Claim("Whether larger models memorize more is open", "undecided", f": {span}.")
    if _number(figures["size_difference_high"]) < 0:
        return Claim("Larger models do not memorize more, but less", "not found", f": {span}.")
    steps = plural(_whole(figures["num_steps_down"]), "step")
    return Claim(f"Memorization does not rise steadily with size, it falls at {steps}", "not found", f": {span}.")


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
        return Claim(f"{why}: whether copies drive memorization cannot be told here.", "undecided")
    first, last = rows[0], _most_copied(rows)
    place = lengths_words(first["context"], first["continuation"])
    ends = ", and ".join(
        f"{counted(row, 'num_memorized', 'num_sequences')} that stand there "
        f"{copies_words(row['num_repeats_low'], row['num_repeats_high'])}, {share_words(row)}"
        for row in (first, last)
    )
    if last["share_low"] > first["share_high"]:
        words, state = "Copies in the training text matter", "found"
    elif last["share_high"] < first["share_low"]:
        words, state = "More copies in the training text do not bring more recitations, but fewer", "not found"
    else:
        words, state = "Whether copies in the training text matter is open", "undecided"
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
        rising, falling, of = (figures[f"context_num_{name}"] for name in ("rising", "falling", "models"))
        state = "found" if rising == of else "not found" if falling and not rising else "undecided"
        told = {"found": "Longer contexts bring out more", "not found": "Longer contexts do not bring out more"}
        lead = told.get(state, "Whether longer contexts bring out more is open")
        details.append(
            f": {first['model']} recites {share_words(first)} after {first['context']:,} tokens and "
            f"{share_words(last)} after {last['context']:,} ({_lead(rising, falling, of)})."
        )
    first, last = _ends_along(rows, "continuation", "context")
    if first is not last:
        details += [" Longer continuations are harder, as they must be"] if details else []
        details.append(
            f": {share_words(first)} for {first['continuation']:,} tokens to recite, {share_words(last)} for "
            f"{last['continuation']:,}."
        )
    return Claim(lead, state, "".join(details)) if details else None


def _lead(rising: Any, falling: Any, of: Any) -> str:
    return f"surely more in {rising} of {plural(int(of), 'model')}, surely less in {falling}"


def _ends_along(rows: Sequence[Record], along: str, fixed: str) -> tuple[Record, Record]:
    """The rows at the shortest and longest length, at the shortest of the other."""
    shortest = min(row[fixed] for row in rows)
    line = sorted((row for row in rows if row[fixed] == shortest), key=lambda row: row[along])
    return line[0], line[-1]


def step_claim(result: FactorsResult) -> Claim | None:
    """How memorization grows over training; None without two checkpoints of one source."""
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
        f"share goes from {share_words(first)} to {share_words(last)}"
    )
    if last["share_low"] > first["share_high"]:
        return Claim("It grows during training", "found", f": {span}.")
    if last["share_high"] < first["share_low"]:
        return Claim("It does not grow during training, but falls", "not found", f": {span}.")
    return Claim("Whether it grows during training is open", "undecided", f": {span}.")


def reference_rows(result: FactorsResult, rows: Iterable[Record]) -> list[Record]:
    """Rows of the cell that was chosen before looking, at which models are compared."""
    figures = result.finding.figures
    cell = figures.get("context"), figures.get("continuation")
    return [row for row in rows if (row["context"], row["continuation"]) == cell]


def _number(value: Any) -> float:
    return float(value)


def _whole(value: Any) -> int:
    return int(value)
