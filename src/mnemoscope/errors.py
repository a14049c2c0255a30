"""Every error Mnemoscope raises on purpose. One line each: what came, what is allowed, what to do.

MnemoscopeError          never raised itself; the command line turns each into one line and exit 2
├── ConfigError          a study file or an option that cannot be meant
├── CorpusError          a corpus file that is not what it says it is (names file, place, expectation)
├── ModelError           a model that cannot be loaded safely, or that does not fit the corpus
├── ScoringError         logits that are not numbers (names the sequence)
├── EngineError          workers that end without a word, again and again (names the shard); a Ray that is not there
├── EndpointError        a model behind an address that refuses, or does not answer; what it has answered is kept
└── StoreError           a results folder of another run, not writable, full, or damaged; an address that refuses
"""

from __future__ import annotations


class MnemoscopeError(Exception):
    """The root of the tree; its text is one line made for the user."""


class ConfigError(MnemoscopeError, ValueError):
    """A study file or option that cannot be meant; a ValueError too, so that pydantic gathers them all."""


class CorpusError(MnemoscopeError):
    """A corpus that is unreadable, truncated, lying about itself, or too short for the grid."""


class ModelError(MnemoscopeError):
    """A model that cannot be loaded safely, or whose vocabulary or positions do not fit the corpus."""


class ScoringError(MnemoscopeError):
    """Logits that are NaN or infinite, or a sequence for which memory does not suffice."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message, row)
        self.row = row
        """The sequence's row in the array that was being scored, where one is to blame."""

    def __str__(self) -> str:
        return str(self.args[0])


class EngineError(MnemoscopeError):
    """A task that several workers did not live to finish, or a cluster that does not answer or has no place."""


class EndpointError(MnemoscopeError):
    """A completions endpoint that refuses, redirects, breaks off or does not answer; its answers so far are kept."""


class StoreError(MnemoscopeError):
    """A results folder or address that belongs to another run, cannot be written or reached, or is damaged."""
