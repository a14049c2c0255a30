"""Logits per index and couplings of neighbours -> one distribution over vectors of matched bits.

The score of a vector y in {0, 1}^L is the sum of the emissions where y is 1 and of the couplings where neighbours
agree. Any two-state Markov chain can be written so, and the other way round: the message that an index receives from
all later ones turns the scores into conditional log-odds, after which a prefix is a prefix: later indices are summed
out already. (Sum-product on a chain; Koller and Friedman, "Probabilistic Graphical Models", 2009, ch. 10.)

Axes: R examples, L indices, E = L - 1 neighbours, N = L + 1 numbers of matches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ChainLogits(NamedTuple):
    """What a predictor says of R sequences."""

    emission_RL: Tensor
    """For a match at each index, natural log-odds if there were no neighbours."""
    coupling_RE: Tensor
    """[R or 1, L - 1]: added where index i and index i + 1 agree."""


class Markov(NamedTuple):
    """The same as conditional log-odds of a match, from the first index to the last."""

    first_R: Tensor
    after_match_RE: Tensor
    after_miss_RE: Tensor

    def prefix(self, num_tokens: int) -> Markov:
        """The first so many indices; what follows them is summed out."""
        last = num_tokens - 1
        return Markov(self.first_R, self.after_match_RE[:, :last], self.after_miss_RE[:, :last])


def uncoupled(emission_RL: Tensor) -> ChainLogits:
    """Independent indices."""
    return ChainLogits(emission_RL, emission_RL.new_zeros(1, emission_RL.shape[1] - 1))


def to_markov(chain: ChainLogits) -> Markov:
    """The conditional log-odds of a chain."""
    coupling_RE = chain.coupling_RE.expand(len(chain.emission_RL), -1)
    to_come = chain.emission_RL[:, -1]
    logits = [to_come]
    for index in range(coupling_RE.shape[1] - 1, -1, -1):
        coupling_R = coupling_RE[:, index]
        to_come = chain.emission_RL[:, index] + _message(to_come, coupling_R)
        logits.append(to_come)
    logit_RL = torch.stack(logits[::-1], dim=1)
    return Markov(logit_RL[:, 0], logit_RL[:, 1:] + coupling_RE, logit_RL[:, 1:] - coupling_RE)


def from_markov(markov: Markov) -> ChainLogits:
    """The chain with these conditional log-odds."""
    coupling_RE = (markov.after_match_RE - markov.after_miss_RE) / 2
    logit_RL = torch.cat([markov.first_R[:, None], markov.after_match_RE - coupling_RE], dim=1)
    message_RE = _message(logit_RL[:, 1:], coupling_RE)
    return ChainLogits(torch.cat([logit_RL[:, :-1] - message_RE, logit_RL[:, -1:]], dim=1), coupling_RE)


def negative_log_likelihoods(markov: Markov, matched_RL: Tensor) -> Tensor:
    """Of each whole vector of bits, in nats, [R]."""
    matched_RL = matched_RL.bool()
    following_RE = torch.where(matched_RL[:, :-1], markov.after_match_RE, markov.after_miss_RE)
    logits_RL = torch.cat([markov.first_R[:, None], following_RE], dim=1)
    losses_RL = F.binary_cross_entropy_with_logits(logits_RL, matched_RL.to(logits_RL.dtype), reduction="none")
    return losses_RL.sum(1)


def match_probabilities(markov: Markov) -> Tensor:
    """The marginal probability of a match at each index, [R, L]."""
    probability_R = markov.first_R.sigmoid()
    found = [probability_R]
    after_match_RE, after_miss_RE = markov.after_match_RE.sigmoid(), markov.after_miss_RE.sigmoid()
    for index in range(after_match_RE.shape[1]):
        probability_R = torch.lerp(after_miss_RE[:, index], after_match_RE[:, index], probability_R)
        found.append(probability_R)
    return torch.stack(found, dim=1)


def full_match_log_probabilities(markov: Markov) -> Tensor:
    """The natural logarithm of the probability that all indices match, [R]."""
    return F.logsigmoid(markov.first_R) + F.logsigmoid(markov.after_match_RE).sum(1)


def num_matched_distributions(markov: Markov) -> Tensor:
    """The probability of each number of matches, [R, N]."""
    num_rows, num_edges = markov.after_match_RE.shape
    match_R = markov.first_R.sigmoid()
    missed_RN, matched_RN = (markov.first_R.new_zeros(num_rows, num_edges + 2) for _ in range(2))
    missed_RN[:, 0], matched_RN[:, 1] = 1 - match_R, match_R
    after_match_RE, after_miss_RE = markov.after_match_RE.sigmoid(), markov.after_miss_RE.sigmoid()
    for index in range(num_edges):
        on_R1, off_R1 = after_match_RE[:, index, None], after_miss_RE[:, index, None]
        hit_RN = (matched_RN * on_R1 + missed_RN * off_R1).roll(1, dims=1)  # the last entry is zero: no wrap
        missed_RN = matched_RN * (1 - on_R1) + missed_RN * (1 - off_R1)
        matched_RN = hit_RN
    return missed_RN + matched_RN


def most_probable(markov: Markov) -> Tensor:
    """The most probable vector of bits, bool [R, L]; of equals, the one that misses (Viterbi, from the end)."""
    on, off = markov.after_match_RE, markov.after_miss_RE
    best_match_R = best_miss_R = markov.first_R.new_zeros(len(markov.first_R))
    choices: list[tuple[Tensor, Tensor]] = []
    for index in range(on.shape[1] - 1, -1, -1):
        hits = [F.logsigmoid(logit[:, index]) + best_match_R for logit in (on, off)]
        misses = [F.logsigmoid(-logit[:, index]) + best_miss_R for logit in (on, off)]
        choices.append((hits[0] > misses[0], hits[1] > misses[1]))
        best_match_R, best_miss_R = torch.maximum(hits[0], misses[0]), torch.maximum(hits[1], misses[1])
    said_R = F.logsigmoid(markov.first_R) + best_match_R > F.logsigmoid(-markov.first_R) + best_miss_R
    said = [said_R]
    for after_match_R, after_miss_R in reversed(choices):
        said.append(torch.where(said[-1], after_match_R, after_miss_R))
    return torch.stack(said, dim=1)


def _message(to_come: Tensor, coupling: Tensor) -> Tensor:
    """What the log-odds of an index, all later ones summed out, add to those of the index before it."""
    return F.softplus(to_come + coupling) - F.softplus(to_come - coupling) - coupling
