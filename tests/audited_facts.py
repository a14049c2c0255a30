"""Facts of an audit made by hand: which passages, where from, and which of them the model recites."""

from __future__ import annotations

import numpy as np

from mnemoscope.audit.facts import AuditFacts, Passages, TokenFacts
from mnemoscope.audit.settings import Sampling
from mnemoscope.audit.units import Units

CONTEXTS, CONTINUATIONS = (2, 4), (2, 3)
WINDOW = 7


def passages_of(rows, *, member, documents=None, kinds=None, starts=None, contexts=CONTEXTS):
    """Passages of these tokens; each of a document of its own, unless told."""
    num, width = len(rows), max(map(len, rows))
    tokens_RW = np.zeros((num, width), np.int32)
    for row, tokens in enumerate(rows):
        tokens_RW[row, : len(tokens)] = tokens
    document_R = np.arange(num) if documents is None else np.array(documents)
    return Passages(
        tokens_RW=tokens_RW,
        length_R=np.array([len(tokens) for tokens in rows], np.int32),
        context_RC=np.tile(np.array(contexts, np.int32), (num, 1)),
        kind_R=list(kinds or ["start"] * num),
        is_member_R=np.array(member, np.bool_),
        document_R=document_R.astype(np.int32),
        line_R=document_R.astype(np.int64) + 1,
        start_R=np.zeros(num, np.int32) if starts is None else np.array(starts, np.int32),
    )


def facts_of(passages, *, recited, log_probability=-1.0, reference=(1, 3), seed=0):
    """The model says the truth of recited passages, and of the others everywhere a wrong token."""
    num, width = passages.tokens_RW.shape
    places = np.arange(width)
    is_known_RW = (places > 0) & (places < passages.length_R[:, None])
    recited = np.array(recited, np.bool_)
    wrong_RW = passages.tokens_RW + np.where(recited[:, None], 0, 1)
    log_RW = np.where(is_known_RW, np.broadcast_to(np.array(log_probability, np.float32), (num, width)), np.nan)
    generator = np.random.default_rng(seed)
    tokens = TokenFacts(
        generated_RW=np.where(is_known_RW, wrong_RW, -1).astype(np.int32),
        margin_RW=np.where(is_known_RW, 1.0, np.nan).astype(np.float32),
        log_probability_RW=log_RW.astype(np.float32),
        mean_RW=np.where(is_known_RW, -generator.random((num, width)) - 1, np.nan).astype(np.float32),
        deviation_RW=np.where(is_known_RW, generator.random((num, width)) + 0.1, np.nan).astype(np.float32),
        sampled_RSW=np.stack([log_RW, np.where(recited[:, None], 0 * log_RW, log_RW - np.inf)], 1).astype(np.float32),
    )
    context, n = reference
    path_Rn = np.full((num, n), -1, np.int32)
    for row in np.flatnonzero(passages.context_RC[:, context] + n <= passages.length_R):
        start = passages.context_RC[row, context]
        path_Rn[row] = tokens.generated_RW[row, start : start + n]
    return AuditFacts(
        passages=passages,
        tokens=tokens,
        path_Rn=path_Rn,
        trigger_R=np.where(recited & (path_Rn[:, 0] >= 0), 1, -1).astype(np.int32),
        context_labels=tuple(map(str, CONTEXTS)),
        continuations=CONTINUATIONS,
        samplings=(Sampling(), Sampling(top_k=1)),
        reference=reference,
    )


def units_of(passages, *, clusters=None, kept=None):
    """Each document a cluster of its own and each passage a window of its own, unless told."""
    num = len(passages.kind_R)
    return Units(
        cluster_R=np.arange(num) if clusters is None else np.array(clusters, np.int64),
        window_R=np.arange(num),
        is_kept_R=np.ones(num, np.bool_) if kept is None else np.array(kept, np.bool_),
    )


def different_rows(num, *, width=WINDOW, seed=0):
    """Rows of tokens of which no two are equal."""
    rows = np.random.default_rng(seed).integers(5, 1000, (num, width))
    assert len({tuple(row) for row in rows.tolist()}) == num
    return rows.tolist()
