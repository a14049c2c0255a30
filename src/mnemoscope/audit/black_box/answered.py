"""A model behind an endpoint, its training files and held-out ones -> the result of an audit, as far as answers tell.

One context is asked about, the reference; an answer says no probabilities, so that extraction by sampling, margins and
membership signals stay unknown, and do not decide. What is recited is read from texts (`endpoint_facts`), and then
stands for as many tokens.

Axes: R passages, W tokens of the longest one, C contexts, S ways of sampling, n index in the continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.auditing import finish, read_inputs
from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.audit.black_box.endpoint_facts import EndpointFacts, ask_passages
from mnemoscope.audit.black_box.endpoint_rows import endpoint_exposed, endpoint_near, endpoint_recited
from mnemoscope.audit.facts import AuditFacts, Passages, TokenFacts
from mnemoscope.audit.files.passages import context_labels
from mnemoscope.audit.findings import Findings, Wishes
from mnemoscope.audit.passing import choose_reference
from mnemoscope.audit.result import AuditResult
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.errors import ConfigError
from mnemoscope.progress import Progress

KNOWABLE: Final = ("max_recited_excess", "max_near_excess", "max_leaks", "min_passages")
"""The criteria that every audit of an endpoint can judge."""


def run_black_box(
    endpoint: Endpoint,
    settings: AuditSettings,
    folder: Path | str,
    wishes: Wishes | None = None,
    *,
    progress: Progress = lambda label, num_done, num_all: None,
) -> AuditResult:
    """Audit what answers at an endpoint, and write audit.json, summary.md and report.html into `folder`.

    The same call again asks only what has no answer yet. Of the settings' model nothing is read. ConfigError without a
    tokenizer, which cuts texts into passages; EndpointError and others as `ask_passages`.
    """
    folder, wishes = Path(folder), wishes or Wishes()
    if settings.tokenizer is None:
        raise ConfigError("--tokenizer: expected one with --endpoint, to cut the files into passages")
    # Its name is the server's own: no folder here, and nothing that a hub is to be asked for.
    inputs = read_inputs(settings, wishes, folder, model=None)
    everything = inputs.everything
    context, continuation = choose_reference(everything, settings)
    tokenizer = inputs.files.train.tokenizer
    if tokenizer is None:
        raise ConfigError(f"{settings.train[0]}: holds tokens; expected files of text with --endpoint")

    def encode(text: str) -> Sequence[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    told = ask_passages(
        endpoint,
        everything,
        inputs.files.train.text,
        encode=encode,
        context_labels=context_labels(everything, settings),
        continuations=settings.continuations,
        contexts=(context,),
        folder=folder / "answers",
        progress=progress,
    )
    facts = facts_of(told, settings, continuation, encode)
    is_own_R = np.arange(len(everything.kind_R)) < inputs.num_own
    is_known_R = told.known_RCN[:, 0].any(1)
    findings = Findings(
        settings=settings,
        wishes=wishes,
        files=inputs.files,
        facts=facts.take(is_own_R & is_known_R),
        canaries=inputs.canaries,
        planted=facts.take(~is_own_R & is_known_R),
        passages=everything.take(is_own_R),
    )
    heard = told.take(is_own_R & is_known_R)
    result = findings.result()
    result = replace(
        result,
        matches=endpoint_recited(heard, findings.units.different()),
        near=endpoint_near(
            heard,
            findings.units.different(),
            context=0,
            continuation=continuation,
            least_similarity=settings.near_similarity,
        ),
        exposed=endpoint_exposed(
            heard,
            findings.units,
            findings.copies_R,
            context=0,
            continuation=continuation,
            least_similarity=settings.near_similarity,
            describe=findings.describe,
        ),
        signals=(),
        extraction=(),
        notes=(*told.notes, *result.notes),
        provenance=result.provenance
        | {"model": {"label": endpoint.model}, "endpoint": {"address": endpoint.address, "model": endpoint.model}},
    )
    return finish(result, inputs.earlier, replace(wishes, fail_on=wishes.fail_on or _knowable(wishes, result)), folder)


def _knowable(wishes: Wishes, result: AuditResult) -> tuple[str, ...]:
    """The criteria that decide where nothing else is said: those that answers tell of."""
    more = {
        "max_code_leaks": wishes.thresholds.max_code_leaks is not None,
        "max_canaries_recited": any(dose.repeats for dose in result.canaries),
    }
    return (*KNOWABLE, *(name for name, is_judged in more.items() if is_judged))


def facts_of(
    told: EndpointFacts, settings: AuditSettings, continuation: int, encode: Callable[[str], Sequence[int]]
) -> AuditFacts:
    """Answers as facts of one context: the tokens up to the first mismatch are greedy ones, all else is unknown.

    `continuation` is the reference's.
    """
    passages = told.passages._replace(context_RC=told.passages.context_RC[:, list(told.contexts)])
    num, width = passages.tokens_RW.shape
    start_R, stop_R = passages.context_RC[:, 0], passages.context_RC[:, 0] + _num_recited(told)
    places_W = np.arange(width)
    is_hit_RW = (places_W >= start_R[:, None]) & (places_W < stop_R[:, None])
    nothing_RW = np.full((num, width), np.nan, np.float32)
    return AuditFacts(
        passages=passages,
        tokens=TokenFacts(
            generated_RW=np.where(is_hit_RW, passages.tokens_RW, -1).astype(np.int32),
            margin_RW=nothing_RW,
            log_probability_RW=nothing_RW,
            mean_RW=nothing_RW,
            deviation_RW=nothing_RW,
            sampled_RSW=np.full((num, len(settings.samplings), width), np.nan, np.float32),
        ),
        path_Rn=_paths(told, passages, stop_R, continuation, encode),
        trigger_R=np.full(num, -1, np.int32),
        context_labels=told.context_labels,
        continuations=told.continuations,
        samplings=settings.samplings,
        reference=(0, continuation),
    )


def _num_recited(told: EndpointFacts) -> NDArray[np.int64]:
    """Tokens [R] of the continuation that stand for what the answer's text has of it.

    Texts decide: of the longest continuation that the answer begins with, all; of the next one at least one is missed.
    """
    num_R = np.zeros(len(told.passages.kind_R), np.int64)
    for place, continuation in enumerate(told.continuations):
        known_R, recited_R = told.known_RCN[:, 0, place], told.recited_RCN[:, 0, place]
        partly_R = np.clip(told.num_recited_RCN[:, 0, place], num_R, continuation - 1)
        num_R = np.where(recited_R, continuation, np.where(known_R & (num_R >= _before(told, place)), partly_R, num_R))
    return num_R


def _before(told: EndpointFacts, place: int) -> int:
    """The next shorter continuation, 0 before the first."""
    return told.continuations[place - 1] if place else 0


def _paths(
    told: EndpointFacts,
    passages: Passages,
    stop_R: NDArray[np.int64],
    continuation: int,
    encode: Callable[[str], Sequence[int]],
) -> NDArray[np.int32]:
    """Int32 [R, n]: the tokens of each answer, cut anew behind what is recited; -1 behind its end."""
    path_Rn = np.full((len(stop_R), continuation), -1, np.int32)
    for row, (start, stop) in enumerate(zip(passages.context_RC[:, 0].tolist(), stop_R.tolist(), strict=True)):
        answer = told.answers[row][0]
        if answer is None:
            continue
        recited: list[int] = passages.tokens_RW[row, start:stop].tolist()
        said = [*recited, *list(encode(answer))[len(recited) :]][:continuation]
        path_Rn[row, : len(said)] = said
    return path_Rn
