"""How often runs in half precision say something else than float32, as a table for a terminal and as words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mnemoscope.analyses.flip_counts import FlipCount
from mnemoscope.flips import FlipRate
from mnemoscope.intervals import format_share
from mnemoscope.report.layout import Column, lay_out


def flip_words(rate: FlipRate) -> str:
    """`small in bfloat16: 12 of 256 members at k = 32, n = 48 differ from float32, 4.7 % (2.7 to 8.0), ...`."""
    count = rate.longest
    if count is None:
        return f"{rate.label} in {rate.dtype}: no member was long enough to be scored in float32"
    differ = (
        f"{count.num_changed:,} of {count.num_sequences:,} members at k = {count.context}, n = {count.continuation}"
    )
    full = f"full matches: {count.num_gained:,} gained, {count.num_lost:,} lost"
    return f"{rate.label} in {rate.dtype}: {differ} differ from float32, {_share(count)}; {full}"


def flip_table(rates: Sequence[FlipRate]) -> Table:
    """A row for each model, group and corner of the grid; all cells are in the stored table of counts."""
    rows = [(rate, count) for rate in rates for count in _corners(rate.counts)]
    near = sorted({f"{rate.near_margin:g}" for rate in rates})
    columns = [
        Column("model", [rate.label for rate, _ in rows]),
        Column("format", [rate.dtype for rate, _ in rows]),
        Column("group", [count.group for _, count in rows]),
        Column("k", [str(count.context) for _, count in rows]),
        Column("n", [str(count.continuation) for _, count in rows]),
        Column("of", [f"{count.num_sequences:,}" for _, count in rows]),
        Column("differ", [_share(count) for _, count in rows]),
        Column("near\nof them", [_near(count) for _, count in rows]),
        Column("first mis-\nmatches", [f"{count.num_first_changed:,}" for _, count in rows]),
        Column("full\ngained", [f"{count.num_gained:,}" for _, count in rows]),
        Column("full\nlost", [f"{count.num_lost:,}" for _, count in rows]),
        Column("bits turned", [_bits(count) for _, count in rows]),
        Column("nats", [f"{count.largest_log_probability_difference:.2g}" for _, count in rows]),
        Column("logits", [_logits(count) for _, count in rows]),
    ]
    caption = (
        f"near: with a float32 margin below {' or '.join(near)} logits on the path; nats, logits: the largest "
        "differences of log-probabilities and of margins"
    )
    return lay_out("Differences from float32, sequences of a random sample scored in both", columns, caption=caption)


def _corners(counts: Sequence[FlipCount]) -> list[FlipCount]:
    contexts, continuations = ({getattr(each, name) for each in counts} for name in ("context", "continuation"))
    return [
        each
        for each in counts
        if each.context in (min(contexts), max(contexts))
        and each.continuation in (min(continuations), max(continuations))
    ]


def _share(count: FlipCount) -> str:
    return format_share(count.num_changed / count.num_sequences, count.share_low, count.share_high)


def _near(count: FlipCount) -> str:
    return f"{count.num_changed_near:,} of {count.num_changed:,}" if count.num_changed else ""


def _bits(count: FlipCount) -> str:
    return f"{count.num_bits_flipped:,} of {count.num_bits:,}" if count.num_bits else ""


def _logits(count: FlipCount) -> str:
    return "" if count.largest_margin_difference is None else f"{count.largest_margin_difference:.2g}"
