"""A study tried out for a minute, with its own models on random rows of its own corpora; nothing is kept of it.

What cannot fit is found before anything is loaded. Then each model has its part of the time, and of that each way of
using it: calls grow until they are as large as a run's, which warms up, and those that follow are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mnemoscope.config import Grid, Mode, ModelConfig, StudyConfig
from mnemoscope.engines import Once
from mnemoscope.errors import MnemoscopeError
from mnemoscope.model_files import model_size
from mnemoscope.peaks import peak_bytes, start_peak
from mnemoscope.pilot_rows import Call, RandomRows, SeenRows, num_available
from mnemoscope.scorer import let_go
from mnemoscope.study_plan import ModelPilot, Rate
from mnemoscope.texts import GroupText
from mnemoscope.traces import path_tokens, traced_contexts

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

_BATCHES_PER_CALL: Final = 2
"""Passes in a timed call: what waits for decoding is gathered over some of them, as in a run."""
_GROWTH: Final = 4
"""How many times larger a call is than the one before."""
_FIRST_GROWTH: Final = 2.0
"""How much longer the second call is taken to last; of later ones it is seen."""
_GRADED_OVER_EXACT: Final = 6.0
"""A guess of how much longer mode graded takes where nothing is memorized; decides the first call's size alone."""
_SHARES: Final = {"exact": 3.0, "control": 1.5, "graded": 3.5, "traces": 2.0}
"""Parts of a model's time."""

Tell = Callable[[str, float], None]
"""Told what is being measured and the share of the time that is over."""


class Pilot(NamedTuple):
    """What was measured, and how many sequences there are."""

    models: tuple[ModelPilot, ...]
    selected: dict[str, int]
    available: dict[str, int]


def find_misfits(config: StudyConfig, texts: Once[dict[str, GroupText]]) -> list[str]:
    """Why a study cannot run on this machine, a line each; found without loading a model."""
    misfits: list[str] = []
    for model in config.models:
        try:
            misfits += _find_model_misfits(model, config.grid)
        except MnemoscopeError as error:
            misfits.append(str(error))
    try:
        for text in texts().values():
            RandomRows(text, seed=0).take(1)
    except MnemoscopeError as error:
        misfits.append(str(error))
    return misfits


def _find_model_misfits(config: ModelConfig, grid: Grid) -> list[str]:
    import torch

    from mnemoscope.memory import free_bytes
    from mnemoscope.model import pick_device

    size, device = model_size(config), pick_device(config)
    if size is None:
        return []
    misfits: list[str] = []
    if size.max_positions is not None and grid.window_tokens > size.max_positions:
        misfits.append(
            f"{config.label}: the grid's window (longest context + longest continuation) is {grid.window_tokens} "
            f"tokens, the model has {size.max_positions} positions: shorten contexts or continuations"
        )
    needed = size.weight_bytes(config.dtype)
    for place in {"cpu", device.type}:  # weights are put together in the machine's memory wherever they go then
        free = free_bytes(torch.device(place))
        if needed > free:
            misfits.append(
                f"{config.label}: its safetensors of {size.file_bytes:,} bytes take {needed:,} bytes in "
                f"{config.dtype}, {free:,} are free on {place}: expected more memory, a smaller model or dtype"
            )
    return misfits


def measure_study(config: StudyConfig, texts: Once[dict[str, GroupText]], *, seconds: float, tell: Tell) -> Pilot:
    """What a study's models do on this machine, one after the other, in about so many seconds."""
    opened = texts()
    begun = time.monotonic()
    models: list[ModelPilot] = []
    for number, model in enumerate(config.models):
        until = begun + seconds * (number + 1) / len(config.models)

        def say(what: str) -> None:
            tell(what, min(1.0, (time.monotonic() - begun) / seconds))

        models.append(_measure_model(model, _Measuring(config, opened, until, say)))
    tell("measured", 1.0)
    selected = {group: len(text.selection) for group, text in opened.items()}
    available = {group: num_available(text) for group, text in opened.items()}
    return Pilot(tuple(models), selected, available)


class _Measuring(NamedTuple):
    """What the measures of a model need."""

    config: StudyConfig
    texts: dict[str, GroupText]
    until: float
    """On the monotonic clock."""
    say: Callable[[str], None]


def _measure_model(config: ModelConfig, measuring: _Measuring) -> ModelPilot:
    """The measures of one model, which is let go of afterwards."""
    from mnemoscope.model import find_files, load_model, pick_device

    measuring.say(f"{config.label}: loading")
    device, is_fetched = pick_device(config), find_files(config) is None
    start_peak(device)
    loading = Once(partial(load_model, config))
    begun = time.monotonic()
    loading()
    load_seconds = time.monotonic() - begun
    try:
        return _measure_loaded(config, loading(), measuring, load_seconds=load_seconds, is_fetched=is_fetched)
    finally:
        let_go(loading)


def _measure_loaded(
    config: ModelConfig, model: CausalLM, measuring: _Measuring, *, load_seconds: float, is_fetched: bool
) -> ModelPilot:
    study = measuring.config
    sizes = _batch_sizes(model, study)
    seen = {group: SeenRows(RandomRows(text, seed=text.config.seed)) for group, text in measuring.texts.items()}
    clock = _Clock(measuring, config.label, traces=study.traces is not None)
    score = partial(_score, model, study.grid)
    with _count_forwards(model) as forwards:
        exact = score(seen["member"], mode="exact", batch_size=sizes["exact"], budget=clock.budget("exact"))
        teacher_forced = forwards.per_sequence(seen["member"].num_scored)
        if "control" in seen:
            budget = clock.budget("control")
            first = first_size(exact, sizes["exact"], budget, slower=1.0)
            score(seen["control"], mode="exact", batch_size=sizes["exact"], budget=budget, first=first)
        forwards.num_tokens, num_exact = 0, seen["member"].num_scored
        budget = clock.budget("graded")
        first = first_size(exact, sizes["graded"], budget, slower=_GRADED_OVER_EXACT)
        graded = score(seen["member"], mode="graded", batch_size=sizes["graded"], budget=budget, first=first)
        decoded = forwards.per_sequence(seen["member"].num_scored - num_exact) - teacher_forced
    traced = None
    if study.traces is not None:
        budget = clock.budget("traces")
        first = first_size(graded, sizes["graded"], budget, slower=1.0)
        call = partial(_trace, model, study, seen["member"].rows, sizes["graded"])
        traced = time_calls(call, sizes["graded"], budget, first=first)
    return ModelPilot(
        label=config.label,
        device=model.device.type,
        num_parameters=model.identity.num_parameters,
        weight_bytes=sum(parameter.nbytes for parameter in model.network.parameters()),
        width=_width(model),
        load_seconds=load_seconds,
        is_fetched=is_fetched,
        peak_bytes=peak_bytes(model.device),
        batch_size=sizes,
        rates={"exact": exact, "graded": graded},
        traced=traced,
        teacher_forced=teacher_forced,
        decoded=max(0.0, decoded),
        storing=seen["member"].measure_storing(study),
        cells=tuple(cell for group, each in seen.items() for cell in each.count(group, study)),
        near=seen["member"].near_share(study),
    )


def _batch_sizes(model: CausalLM, study: StudyConfig) -> dict[Mode, int]:
    """As a run on this machine would have them."""
    from mnemoscope.memory import choose_batch_size

    modes: tuple[Mode, ...] = ("exact", "graded")
    if study.batch_size != "auto":
        return dict.fromkeys(modes, study.batch_size)
    return {mode: choose_batch_size(model, study.grid, mode) for mode in modes}


def _score(
    model: CausalLM, grid: Grid, seen: SeenRows, *, mode: Mode, batch_size: int, budget: float, first: int = 1
) -> Rate:
    return time_calls(partial(seen.score, model, grid, mode, batch_size), batch_size, budget, first=first)


def first_size(known: Rate, batch_size: int, budget: float, *, slower: float) -> int:
    """Sequences that take half of a part's time, or a batch, if each takes so many times as long as at a known rate."""
    return max(1, min(batch_size, int(budget / 2 * known.per_second / slower)))


class _Clock:
    """Divides what is left of a model's time among what is still to be measured."""

    def __init__(self, measuring: _Measuring, label: str, *, traces: bool) -> None:
        absent = {"control"} - measuring.texts.keys() | (set() if traces else {"traces"})
        self._measuring, self._label = measuring, label
        self._shares = {part: share for part, share in _SHARES.items() if part not in absent}

    def budget(self, part: str) -> float:
        """Seconds for a part, which is not asked for again."""
        self._measuring.say(f"{self._label}: {part}")
        left = max(0.0, self._measuring.until - time.monotonic())
        total = sum(self._shares.values())
        return left * self._shares.pop(part) / total


def time_calls(call: Callable[[int], Call], batch_size: int, budget: float, *, first: int = 1) -> Rate:
    """The rate of calls in about so many seconds: they grow while time is left for two of the next size, and those of
    the last size are timed.

    Small calls are no measure, since a pass takes hardly longer for a whole batch; where time is too short for a
    second large call, the first one counts, and the rate says the size that was reached. `first` is the size of the
    first call.
    """
    until = time.monotonic() + budget
    num_rows, last, growth = first, call(first), _FIRST_GROWTH
    while num_rows < batch_size * _BATCHES_PER_CALL and last.seconds * growth < (until - time.monotonic()) / 2:
        num_rows = _next_size(num_rows, batch_size)
        before, last = last, call(num_rows)
        growth = min(max(1.0, last.seconds / before.seconds), _GROWTH)
    timed: list[Call] = []
    while time.monotonic() + last.seconds < until:
        last = call(num_rows)
        timed.append(last)
    return _rate(timed or [last], min(num_rows, batch_size))


def _next_size(num_rows: int, batch_size: int) -> int:
    most = batch_size if num_rows < batch_size else batch_size * _BATCHES_PER_CALL
    return min(_GROWTH * num_rows, most)


def _rate(timed: Sequence[Call], batch_size: int) -> Rate:
    rates = [each.num_sequences / each.seconds for each in timed]
    num_sequences = sum(each.num_sequences for each in timed)
    return Rate(
        per_second=num_sequences / sum(each.seconds for each in timed),
        slowest=min(rates),
        fastest=max(rates),
        num_sequences=num_sequences,
        num_calls=len(timed),
        batch_size=batch_size,
    )


def _trace(model: CausalLM, study: StudyConfig, rows: RandomRows, batch_size: int, num_rows: int) -> Call:
    """Trace some rows at the longest traced context."""
    from mnemoscope.tracing import trace_sequences

    grid = Grid(contexts=traced_contexts(study)[-1:], continuations=(path_tokens(study),))
    layers = () if study.traces is None else study.traces.context_layers
    windows = rows.take(num_rows)
    begun = time.monotonic()
    trace_sequences(model, windows.tokens, grid, batch_size=batch_size, layers=layers)
    return Call(len(windows.sequence_ids), time.monotonic() - begun)


def _width(model: CausalLM) -> int:
    output = model.network.get_output_embeddings()
    return int(getattr(model.config, "hidden_size", 0) if output is None else output.weight.shape[1])


@dataclass
class _Forwards:
    num_tokens: int = 0

    def per_sequence(self, num_sequences: int) -> float:
        return self.num_tokens / num_sequences


@contextmanager
def _count_forwards(model: CausalLM) -> Generator[_Forwards]:
    """Counts the tokens that go through the network meanwhile."""
    forwards = _Forwards()

    def count(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens = named.get("input_ids", arguments[0] if arguments else None)
        forwards.num_tokens += 0 if tokens is None else tokens.numel()

    hook = model.network.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield forwards
    finally:
        hook.remove()
