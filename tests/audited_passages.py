"""Passages with known lengths and planted recitations, networks in folders, and when two passes say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnemoscope.audit.facts import AuditFacts, Passages
from mnemoscope.audit.settings import AuditSettings, Sampling
from mnemoscope.config import ModelConfig
from mnemoscope.engines.local import LocalEngine
from networks import VOCAB, generate

CONTEXTS, CONTINUATIONS = (4, 9), (5, 12)
SAMPLINGS = (Sampling(), Sampling(temperature=0.7, top_k=5), Sampling(temperature=2.0), Sampling(top_k=1000))


def save(folder: Path, network, **changes) -> ModelConfig:
    """The network in a folder."""
    network.save_pretrained(folder)
    return ModelConfig(source=str(folder), **changes)


def settings(model: ModelConfig, **changes) -> AuditSettings:
    """A small grid."""
    given = {"contexts": CONTEXTS, "continuations": CONTINUATIONS, "samplings": SAMPLINGS, "batch_size": 5}
    return AuditSettings(model=model, train=("t",), heldout=("h",), **(given | changes))


def passages_of(rows: list[np.ndarray], contexts: list[tuple[int, ...]] | None = None) -> Passages:
    """Passages of given tokens; every other one is held out, and those with one context are turns."""
    contexts = contexts or [CONTEXTS] * len(rows)
    tokens_RW = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for tokens_W, row in zip(tokens_RW, rows, strict=True):
        tokens_W[: len(row)] = row
    return Passages(
        tokens_RW=tokens_RW,
        length_R=np.array([len(row) for row in rows], np.int32),
        context_RC=np.array(contexts, np.int32),
        kind_R=["turn" if len(contexts[0]) == 1 else "start"] * len(rows),
        is_member_R=np.arange(len(rows)) % 2 == 0,
        document_R=np.arange(len(rows), dtype=np.int32),
        line_R=np.arange(1, len(rows) + 1),
        start_R=np.zeros(len(rows), np.int32),
    )


def planted(network, *, num_rows: int, seed: int = 0) -> Passages:
    """Passages of several lengths; a third recited from context 9 on, a third so but for one token."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(num_rows):
        tokens = rng.integers(0, VOCAB, [21, 17, 14, 9, 21, 21][row % 6])
        if row % 3 and len(tokens) > 9:
            tokens[9:] = generate(network, tokens[None, :9], len(tokens) - 9)[0]
            if row % 3 == 2:
                tokens[rng.integers(9, len(tokens))] ^= 1
        rows.append(tokens)
    return passages_of(rows)


def same(one: AuditFacts, other: AuditFacts, **tolerance) -> None:
    """The same facts; numbers to within a tolerance, which is none unless given."""
    for known, again in zip(
        (*one.tokens, one.path_Rn, one.trigger_R), (*other.tokens, other.path_Rn, other.trigger_R), strict=True
    ):
        assert known.dtype == again.dtype
        np.testing.assert_allclose(known, again, **({"atol": 0, "rtol": 0} | tolerance))
    assert one.reference == other.reference


class Recording:
    """An engine that notes which tasks it is given."""

    def __init__(self, workers: int = 1) -> None:
        self._engine = LocalEngine(workers)
        self.parts: list[int] = []

    def run(self, tasks, make_worker, tell):
        self.parts += [task.number for task in tasks]
        return self._engine.run(tasks, make_worker, tell)

    def workers_per_device(self, device):
        return self._engine.workers_per_device(device)
