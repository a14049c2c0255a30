"""A large corpus counted in parts, by as many workers as the engine has; the counts of the parts are added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Final, NamedTuple, final

from mnemoscope.corpus import Corpus
from mnemoscope.counting import ROWS_AT_ONCE, CountRequest, Counts, count_corpus
from mnemoscope.engines import Engine, Once
from mnemoscope.texts import GroupText

PART_TOKENS: Final = 25_000_000
"""Of the smallest part: about as long to count as it takes another process to start."""
MAX_PARTS: Final = 64
"""Each part comes back with a number for every n-gram of the sample."""


class RowRange(NamedTuple):
    """The rows start to stop of the members' corpus."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"rows {self.start} to {self.stop} of the corpus"


def plan_parts(corpus: Corpus, *, part_tokens: int = PART_TOKENS) -> list[RowRange]:
    """Ranges that cover the corpus once; one alone unless there are tokens for several, as its first rows have it."""
    first = corpus.tokens(0, min(ROWS_AT_ONCE, len(corpus)))
    num_tokens = len(corpus) * sum(map(len, first)) // len(first)
    num_parts = max(1, min(num_tokens // part_tokens, MAX_PARTS, len(corpus)))
    edges = [len(corpus) * number // num_parts for number in range(num_parts + 1)]
    return [RowRange(*edge) for edge in pairwise(edges)]


def count_in_parts(
    request: CountRequest,
    texts: Once[dict[str, GroupText]],
    *,
    engine: Engine,
    progress: Callable[[int, int], None] | None = None,
    part_tokens: int = PART_TOKENS,
) -> Counts:
    """What the members' corpus answers; `progress` hears of the rows read and of all rows."""
    corpus, num_done = texts()["member"].corpus, 0

    def tell(part: RowRange, num_rows: int) -> None:
        nonlocal num_done
        num_done += num_rows
        if progress is not None:
            progress(num_done, len(corpus))

    parts = plan_parts(corpus, part_tokens=part_tokens)
    return reduce(add, engine.run(parts, CounterFactory(request, texts), tell))


@final
@dataclass(frozen=True)
class CounterFactory:
    """Makes the workers that count a range of rows."""

    request: CountRequest
    texts: Once[dict[str, GroupText]]

    @property
    def device(self) -> str:
        """No GPU counts."""
        return "cpu"

    def __call__(self, tell: Callable[[int], None]) -> Callable[[RowRange], Counts]:
        """A worker with the corpus open."""
        corpus = self.texts()["member"].corpus

        def count(part: RowRange) -> Counts:
            num_before = 0

            def progress(num_read: int, num_rows: int) -> None:
                nonlocal num_before
                tell(num_read - num_before)
                num_before = num_read

            return count_corpus(self.request, corpus, start=part.start, stop=part.stop, progress=progress)

        return count

    def release(self) -> None:
        """Nothing is held that weighs."""
