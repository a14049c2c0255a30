"""The boundary effect as a test that can fail.

A sequence of score 0 is by definition one whose token k was missed, so a fall of frequency and a jump of entropy at
k are expected from selection alone. The statistic is therefore value[b] - value[b-1] at the break b (k; for the
half-memorized k + n / 2) *minus* the mean of the same difference at positions inside the same sequence's context
where the same happened:

(a) token i was hit or missed as token b was, after an equally long run of hits (lengths 0, 1, 2-3, 4-7 and 8 or more
    are told apart), and for the memorized the next tokens were hit too. What is left is `unexplained`. Because a
    sequence is compared with itself, its being easy or hard does not bias the comparison. Sequences without such a
    position are left out, and counted.
(b) The same among the control, held-out sequences that the model cannot have memorized.
(c) The difference that a memory-free null expects (`memory_free`), beside it for the reader.

Verdict. The p-value of (a) is that of a mean of zero, by Student's t with the bootstrap's standard error and the
number of clusters less one; that of (b) the same for the unexplained part less the control's. Both must speak, so the
larger counts; where no control stratum suffices (a) stands alone and the note says so. Holm over all strata, n-grams
and models of the table. "survives": adjusted p below 1 - level, and the unexplained part is on the same side of zero
as its lead over the control's. "not shown beyond held-out text": (a) alone speaks after Holm. "no boundary
difference": the interval of the difference itself holds zero. "undecided": too few clusters, or an interval of the
unexplained part that holds the whole difference, so that it may all be unexplained. Otherwise "explained by selection".

A model survives where one of the scores does at which recitation breaks off, half-memorized and unmemorized: what is
memorized breaks off nowhere. Else its verdict is that of the unmemorized, where they are enough. The published effect
has a direction (rarer tokens, more entropy); one that survives the other way round is no evidence for it. Only the
last checkpoint of a size speaks.

Axes: R rows, I token indices, K statistics, B resamples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mnemoscope import intervals
from mnemoscope.analyses import Verdict
from mnemoscope.analyses.columns import Row, Value
from mnemoscope.analyses.curves import (
    SIZE,
    STRATUM,
    Measure,
    Settings,
    Stratum,
    ends,
    keys_of,
    plain,
    stratum_means,
    too_few,
    with_intervals,
)
from mnemoscope.analyses.samples import (
    MIN_CLUSTERS,
    Bools,
    Floats,
    Integers,
    Means,
    Traced,
    break_index,
    num_clusters,
    score_class,
)
from mnemoscope.resampling import percentile_interval

SURVIVES, OPPOSITE, EXPLAINED = "survives", "survives the other way round", "explained by selection"
NOT_BEYOND = "not shown beyond held-out text"
NO_DIFFERENCE = "no boundary difference"
TOO_FEW, TOO_WIDE = "undecided: too few", "undecided: interval too wide"
PHRASES = {
    SURVIVES: "it survives its controls",
    OPPOSITE: "it survives its controls, but the other way round",
    NOT_BEYOND: "it is not shown to go beyond held-out text",
    EXPLAINED: "nothing is shown beyond selection",
    NO_DIFFERENCE: "none can be told from zero",
    TOO_FEW: "it is undecided (too few sequences)",
    TOO_WIDE: "it is undecided (interval too wide)",
}
BREAKS = ("unmemorized", "half")
"""The classes of score whose recitation breaks off, the one with the stronger published effect first."""
RUN_CAP = 8
"""Runs of hits longer than this are not told apart."""

TESTED_MEANS = ("difference", "inside_difference", "unexplained")
CONTROL_MEANS = ("control_difference", "control_unexplained")
BOUNDARY = (
    *(*STRATUM, "index", *SIZE, "num_compared", *ends(*TESTED_MEANS), "num_control_compared"),
    *(
        *ends(*CONTROL_MEANS, "unexplained_gap"),
        "null_difference",
        "p_inside",
        "p_inside_holm",
        "p_value",
        "p_holm",
        "verdict",
        "note",
    ),
)


class Compared(NamedTuple):
    """A stratum's difference, that inside the context, and the unexplained part, over its compared rows."""

    stratum: Stratum
    """Only the rows that have a matched position."""
    means: Means


def first_matched_index(context: int) -> int:
    """The first index at which positions inside the context are compared: its second half, past the steep start."""
    return max(2, context // 2)


def matched_differences(
    hit_RI: Bools, tested_RI: Floats, *, context: int, num_matched: int, continuation: int
) -> Floats:
    """Per row the difference at the break, the like inside the context, and what is unexplained; float64 [R, 3].

    All three are NaN for a row without a matched position.
    """
    at_break = break_index(num_matched, context=context, continuation=continuation)
    class_RI = _run_classes(hit_RI, context)
    alike_RI = (hit_RI == hit_RI[:, at_break, None]) & (class_RI == class_RI[:, at_break, None])
    if score_class(num_matched, continuation) == "memorized":
        alike_RI &= _hits_ahead(hit_RI, min(continuation, max(1, context // 4)), context)
    index_I = np.arange(hit_RI.shape[1])
    step_RI = np.diff(tested_RI, axis=1, prepend=np.nan)
    alike_RI = alike_RI & (index_I >= first_matched_index(context)) & (index_I < context) & ~np.isnan(step_RI)
    count_R = alike_RI.sum(1)
    total_R = np.where(alike_RI, step_RI, 0.0).sum(1)
    inside_R = np.divide(total_R, count_R, out=np.full(len(count_R), np.nan), where=count_R > 0)
    difference_R = np.where(count_R > 0, step_RI[:, at_break], np.nan)
    return np.stack([difference_R, inside_R, difference_R - inside_R], axis=1)


def _run_classes(hit_RI: Bools, context: int) -> Integers:
    """The class of the run of hits that ends just before each index: bit length of its length, capped."""
    run_RI = np.zeros(hit_RI.shape, np.int64)
    for index in range(1, hit_RI.shape[1]):
        run_RI[:, index] = np.where(hit_RI[:, index - 1], run_RI[:, index - 1] + 1, 0)
    cap = min(RUN_CAP, first_matched_index(context) - 1)
    bit_lengths = np.array([length.bit_length() for length in range(cap + 1)])
    return bit_lengths[np.minimum(run_RI, cap)]


def _hits_ahead(hit_RI: Bools, num_ahead: int, context: int) -> Bools:
    """Whether the `num_ahead` tokens from each index on are all hits inside the context."""
    ahead_RI = np.zeros_like(hit_RI)
    for index in range(context - num_ahead + 1):
        ahead_RI[:, index] = hit_RI[:, index : index + num_ahead].all(1)
    return ahead_RI


def boundary_rows(
    traced: Traced, measure: Measure, nulls: Mapping[int, Floats | None], settings: Settings
) -> list[dict[str, Any]]:
    """One row per named score of the members, without the adjusted p-value and the verdict: see `judge`."""
    n = traced.continuation
    scores = [score for score in (n, n // 2, 0) if score_class(score, n) is not None]
    return [_boundary_row(traced, measure, score, nulls.get(score), settings) for score in dict.fromkeys(scores)]


def _boundary_row(
    traced: Traced, measure: Measure, score: int, null_VI: Floats | None, settings: Settings
) -> dict[str, Any]:
    at_break = break_index(score, context=traced.context, continuation=traced.continuation)
    rows = traced.rows_of("member", score)
    whole = Stratum("member", score, rows, num_clusters(traced.cluster_R[rows]))
    members, control = (_compare(traced, measure, group, score, settings) for group in ("member", "control"))
    row: dict[str, Any] = {
        **dict.fromkeys(BOUNDARY),
        **keys_of(traced, whole, measure.ngram),
        "index": at_break,
        "num_compared": len(members.stratum.rows),
        "num_control_compared": len(control.stratum.rows),
        "null_difference": None if null_VI is None else plain(null_VI[-1, at_break] - null_VI[-1, at_break - 1]),
        "note": _few_note(whole, members.stratum),
    }
    if row["note"]:
        return row
    row.update(with_intervals(TESTED_MEANS, members.means, settings.level))
    row["p_inside"] = row["p_value"] = p_value(
        members.means.estimate_K[2], members.means.resampled_BK[:, 2], members.stratum
    )
    return row | _against_control(row, members, control, settings.level)


def _compare(traced: Traced, measure: Measure, group: str, score: int, settings: Settings) -> Compared:
    rows = traced.rows_of(group, score)
    tested_RI = measure.values_RI if measure.tested_RI is None else measure.tested_RI
    values_RK = matched_differences(
        traced.hit_RI[rows],
        tested_RI[rows],
        context=traced.context,
        num_matched=score,
        continuation=traced.continuation,
    )
    compared = ~np.isnan(values_RK[:, 2])
    stratum = Stratum(group, score, rows[compared], num_clusters(traced.cluster_R[rows[compared]]))
    if too_few(stratum.num_clusters):
        return Compared(stratum, Means(np.full(3, np.nan), np.full((settings.num_resamples, 3), np.nan)))
    return Compared(stratum, stratum_means(traced, stratum, values_RK[compared], settings))


def _few_note(whole: Stratum, compared: Stratum) -> str | None:
    note = too_few(whole.num_clusters)
    if note is None and compared.num_clusters < MIN_CLUSTERS:
        return f"too few clusters with a matched position: {compared.num_clusters}, at least {MIN_CLUSTERS} needed"
    return note


def _against_control(row: Row, members: Compared, control: Compared, level: float) -> dict[str, Any]:
    """The columns of (b), and the p-value of both; the note says where (b) could not be asked."""
    if too_few(control.stratum.num_clusters):
        return {"note": f"the control was not asked: {too_few(control.stratum.num_clusters)}"}
    both = with_intervals(("control_difference", "", "control_unexplained"), control.means, level)
    gap = members.means.estimate_K[2] - control.means.estimate_K[2]
    gap_B = members.means.resampled_BK[:, 2] - control.means.resampled_BK[:, 2]
    smaller = min(members.stratum, control.stratum, key=lambda stratum: stratum.num_clusters)
    return {
        **{name: both[name] for name in ends(*CONTROL_MEANS)},
        **dict(zip(ends("unexplained_gap"), (float(gap), *percentile_interval(gap_B, level)), strict=True)),
        "p_value": max(float(str(row["p_value"])), p_value(gap, gap_B, smaller)),
    }


def p_value(estimate: float, resampled_B: Floats, stratum: Stratum) -> float:
    """Two-sided p-value of a mean of zero, by Student's t with the bootstrap's standard error."""
    error = float(np.nanstd(resampled_B, ddof=1))
    if error == 0:
        return 1.0 if estimate == 0 else 0.0
    return float(2 * stats.t.sf(abs(estimate) / error, max(1, stratum.num_clusters - 1)))


def judge(rows: Sequence[Mapping[str, Any]], *, level: float) -> list[dict[str, Any]]:
    """The rows with their Holm-adjusted p-value and verdict; undecidable rows take no part in the adjustment."""
    tested = [index for index, row in enumerate(rows) if row["p_value"] is not None]
    judged = [dict(row) for row in rows]
    for name in ("p_inside", "p_value"):
        adjusted = intervals.holm([rows[index][name] for index in tested]).tolist()
        for index, value in zip(tested, adjusted, strict=True):
            judged[index][f"{name}_holm" if name == "p_inside" else "p_holm"] = value
    return [{**row, "verdict": _verdict(row, level), "note": _note(row, level)} for row in judged]


def _verdict(row: Mapping[str, Any], level: float) -> str:
    if row["p_value"] is None:
        return TOO_FEW
    if _beyond_control(row, level):
        return SURVIVES
    if row["p_inside_holm"] < 1 - level:
        return NOT_BEYOND
    if _holds_zero(row, "difference"):
        return NO_DIFFERENCE
    return TOO_WIDE if _too_wide(row) else EXPLAINED


def _beyond_control(row: Mapping[str, Any], level: float) -> bool:
    ahead = row["unexplained_gap"] is None or row["unexplained_gap"] * row["unexplained"] > 0
    return row["p_holm"] < 1 - level and ahead


def _too_wide(row: Mapping[str, Any]) -> bool:
    """Whether all of the difference may be unexplained: it failed a test, which does not make it selection's."""
    return row["unexplained_low"] <= row["difference"] <= row["unexplained_high"]


def _holds_zero(row: Mapping[str, Any], name: str) -> bool:
    return row[f"{name}_low"] <= 0 <= row[f"{name}_high"]


def _note(row: Mapping[str, Any], level: float) -> str | None:
    notes = [row["note"]] if row["note"] else []
    if row["p_value"] is not None and row["p_inside_holm"] >= 1 - level and not _holds_zero(row, "unexplained"):
        notes.append("the unexplained part's own interval leaves out zero, but not after Holm")
    return "; ".join(notes) or None


def verdicts_by_model(rows: Sequence[Mapping[str, Any]], *, sign: int) -> dict[str, str]:
    """Each last checkpoint's verdict: "survives" if a score does at which recitation breaks off, else that of the
    unmemorized, or of the half-memorized where they are too few. `sign` is the published direction, 1 or -1.
    """
    last: dict[int, float] = {}
    for row in rows:
        size = row["num_non_embedding_parameters"]
        last[size] = max(last.get(size, 0.0), _step_of(row))
    by_model: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["score_class"] in BREAKS and _step_of(row) == last[row["num_non_embedding_parameters"]]:
            by_model[row["model"]][row["score_class"]] = _directed(row, sign)
    return {model: _model_verdict(found) for model, found in by_model.items()}


def _model_verdict(by_score: Mapping[str, str]) -> str:
    if SURVIVES in by_score.values():
        return SURVIVES
    told = [by_score[name] for name in BREAKS if by_score.get(name, TOO_FEW) != TOO_FEW]
    return told[0] if told else TOO_FEW


def _step_of(row: Mapping[str, Any]) -> float:
    """A model without a step counts as trained to the end."""
    return math.inf if row["training_step"] is None else float(row["training_step"])


def _directed(row: Mapping[str, Any], sign: int) -> str:
    is_opposite = row["verdict"] == SURVIVES and sign * row["unexplained"] < 0
    return OPPOSITE if is_opposite else row["verdict"]


def published_verdict(verdicts: Mapping[str, str]) -> Verdict:
    """Holds where every decided model shows it; fails where none does, none is open, and selection or held-out text
    accounts for it in at least one: not to see a step is no proof that there is none.
    """
    tested = {verdict for verdict in verdicts.values() if verdict != TOO_FEW}
    if SURVIVES in tested:
        return "holds" if tested <= {SURVIVES, TOO_WIDE} else "undecided"
    return "fails" if TOO_WIDE not in tested and tested - {NO_DIFFERENCE} else "undecided"


def spoken_rows(rows: Iterable[Mapping[str, Any]], *, unit: str) -> str:
    """The largest model's unmemorized row in words: the difference, that inside the context, and what is left."""
    tested = [row for row in rows if row["score_class"] == "unmemorized" and row["unexplained"] is not None]
    if not tested:
        return "no unmemorized stratum suffices for a test"
    row = tested[-1]
    decimals = max(2, 1 - math.floor(math.log10(max(abs(row["unexplained_high"] - row["unexplained_low"]), 1e-9))))
    difference, inside, unexplained, low, high = (
        f"{row[name]:+.{decimals}f}"
        for name in ("difference", "inside_difference", "unexplained", "unexplained_low", "unexplained_high")
    )
    return (
        f"for unmemorized sequences of {row['model']} the boundary step is {difference} {unit}, {inside} at matched "
        f"positions inside the context; {unexplained} ({low} to {high}) is left"
    )


def spoken_verdicts(verdicts: Mapping[str, str]) -> str:
    """How many models came to each verdict, in words."""
    counts = {verdict: list(verdicts.values()).count(verdict) for verdict in dict.fromkeys(verdicts.values())}
    noun = "model" if len(verdicts) == 1 else "models"
    return ", ".join(f"{PHRASES[verdict]} in {count} of {len(verdicts)} {noun}" for verdict, count in counts.items())


def verdict_figures(verdicts: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    """The finding's numbers: each model's verdict, and what was tested."""
    return {
        **{f"verdict of {model}": verdict for model, verdict in verdicts.items()},
        "num_tests": sum(row["p_value"] is not None for row in rows),
        "num_survive": sum(row["verdict"] == SURVIVES for row in rows),
    }
