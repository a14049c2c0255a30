"""The text of sequences, read from the corpora when a page needs it: previews, and the search for words.

Words are looked for in what the explorer shows, token after token, with everything that could do harm or not be seen
spelled out; and in the text as the tokenizer decodes it whole, where characters of several tokens are themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, final

from mnemoscope.errors import MnemoscopeError
from mnemoscope.redaction import redact_sequence
from mnemoscope.report.escapes import escape
from mnemoscope.report.explorer_data import preview
from mnemoscope.sequence_facts import SequencePick
from mnemoscope.sequence_texts import Corpora, open_corpora, read_true_tokens, token_texts
from mnemoscope.sequences import read_many
from mnemoscope.store import GROUPS, Group, Study
from mnemoscope.viewer.statements import Row

_Tokens = tuple[int, ...]
_PATIENCE_SECONDS: Final = 2.0


class Hits(NamedTuple):
    """What a search found in some sequences."""

    sequence_ids: set[int]
    num_unread: int
    """Sequences whose text the corpus does not hold any more."""


@final
class WindowTexts:
    """A study's corpora, opened when they are first needed; for any number of threads, one at a time."""

    def __init__(self, study: Study, *, redact: bool) -> None:
        self._study = study
        self._redact = redact
        self._opened: Corpora | None = None
        self._opening: threading.Thread | None = None
        self._texts: dict[Group, dict[int, str]] = {group: {} for group in GROUPS}
        self._lock = threading.RLock()

    @property
    def corpora(self) -> Corpora:
        """The corpora, open; of those that cannot be read, why.

        A large corpus can take longer to open than a page can wait: then it is said to be on its way.
        """
        with self._lock:
            if self._opening is None:
                self._opening = threading.Thread(target=self._open, daemon=True)
                self._opening.start()
        self._opening.join(_PATIENCE_SECONDS)
        return self._opened or Corpora(texts={}, faults=dict.fromkeys(GROUPS, "its corpus is still being opened"))

    def _open(self) -> None:
        try:
            self._opened = open_corpora(self._study)
        except MnemoscopeError as error:
            self._opened = Corpora(texts={}, faults=dict.fromkeys(GROUPS, str(error)))

    def fault(self, group: Group) -> str | None:
        """Why the text of a group is unknown; None where it is not."""
        if group not in self.corpora.texts:
            return self.corpora.faults.get(group, "there is no such corpus")
        is_text = self.corpora.texts[group].corpus.tokenizer is not None
        return None if is_text else "its tokens have no text: no tokenizer is known of the corpus"

    def previews(self, group: Group, rows: Sequence[Row], context: int) -> dict[int, str | None]:
        """The first words of the context and of the true continuation, by id, where they are known.

        With redaction they are those that the sequence itself shows, with all that is stored of it taken into account.
        """
        if not rows or self.fault(group) is not None:
            return {}
        with self._lock:
            if self._redact:
                picks = [SequencePick(group, row.sequence_id) for row in rows]
                redacted = [redact_sequence(facts) for facts in read_many(self._study, picks, corpora=self.corpora)]
                return {facts.sequence_id: preview(facts.tokens, facts.texts, context) for facts in redacted}
            windows = self._read(group, rows)
            texts = self._token_texts(group, windows.values())
            return {sequence_id: preview(tokens, texts, context) for sequence_id, tokens in windows.items()}

    def find(self, group: Group, rows: Sequence[Row], words: str) -> Hits:
        """Those whose text holds the words, be they large or small letters."""
        tokenizer = self.corpora.texts[group].corpus.tokenizer
        assert tokenizer is not None  # nobody searches where there is a fault
        wanted = words.lower()
        with self._lock:
            windows = self._read(group, rows)
            texts = self._token_texts(group, windows.values())
            shown = {token: escape(texts[token]) for tokens in windows.values() for token in tokens if token in texts}
        decoded = tokenizer.decode_batch([list(tokens) for tokens in windows.values()], skip_special_tokens=False)
        found = {
            sequence_id
            for (sequence_id, tokens), whole in zip(windows.items(), decoded, strict=True)
            if wanted in whole.lower() or wanted in "".join(shown.get(token, f"<{token}>") for token in tokens).lower()
        }
        return Hits(found, len(rows) - len(windows))

    def _read(self, group: Group, rows: Sequence[Row]) -> dict[int, _Tokens]:
        """The windows of the rows, by id; none of those that the corpus does not hold any more."""
        found = read_true_tokens(self.corpora, group, {row.sequence_id: row.window_hash for row in rows})
        return {sequence_id: text.tokens for sequence_id, text in found.items() if text.tokens is not None}

    def _token_texts(self, group: Group, windows: Iterable[_Tokens]) -> Mapping[int, str]:
        """The texts of at least these tokens that are text by themselves; kept for the next time."""
        known = self._texts[group]
        tokenizer = self.corpora.texts[group].corpus.tokenizer
        assert tokenizer is not None  # as above
        if new := {token for tokens in windows for token in tokens} - known.keys():
            known.update(token_texts(tokenizer, sorted(new)))
        return known
