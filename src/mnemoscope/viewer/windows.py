"""The text of sequences, read from the corpora when a page needs it: previews, and the search for words.

Words are looked for in what the explorer shows, token after token, with everything that could do harm or not be seen
spelled out; and in the text as the tokenizer decodes it whole, where characters of several tokens are themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, final

from mnemoscope.redaction import redact_sequence
from mnemoscope.report.escapes import escape
from mnemoscope.report.explorer_data import preview
from mnemoscope.sequence_facts import SequenceFacts, SequencePick
from mnemoscope.sequence_texts import Corpora, open_corpora, read_true_tokens, token_texts
from mnemoscope.sequences import read_many
from mnemoscope.store import GROUPS, Group, Study
from mnemoscope.texts import GroupText
from mnemoscope.viewer.statements import Row

_Tokens = tuple[int, ...]
PATIENCE_SECONDS: Final = 5.0
"""That a sequence, or a search, waits for its corpus to be opened."""
LIST_SECONDS: Final = 0.3
"""The same of a list, which is of use without its previews."""


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
        self._shown: dict[Group, dict[int, str]] = {group: {} for group in GROUPS}  # in small letters, escaped
        self._lock = threading.RLock()

    def start(self) -> None:
        """Begin to open the corpora, which can take longer than a page can wait."""
        with self._lock:
            if self._opening is None:
                self._opening = threading.Thread(target=self._open, daemon=True)
                self._opening.start()

    def corpora(self, *, for_list: bool = False) -> Corpora:
        """The corpora, open; of those that cannot be read, or are not open in time, why."""
        self.start()
        assert self._opening is not None
        self._opening.join(LIST_SECONDS if for_list else PATIENCE_SECONDS)
        return self._opened or Corpora(texts={}, faults=dict.fromkeys(GROUPS, "its corpus is still being opened"))

    def _open(self) -> None:
        try:
            self._opened = open_corpora(self._study)
        except Exception as error:  # told wherever a text is missed; a thread has nobody else to tell
            said = f"the corpus cannot be opened: {str(error) or type(error).__name__}"
            self._opened = Corpora(texts={}, faults=dict.fromkeys(GROUPS, said))

    @property
    def _opened_texts(self) -> Mapping[Group, GroupText]:
        assert self._opened is not None  # who has no fault is open
        return self._opened.texts

    def fault(self, group: Group, *, for_list: bool = False) -> str | None:
        """Why the text of a group is unknown; None where it is not."""
        corpora = self.corpora(for_list=for_list)
        if group not in corpora.texts:
            return corpora.faults.get(group, "there is no such corpus")
        is_text = corpora.texts[group].corpus.tokenizer is not None
        return None if is_text else "its tokens have no text: no tokenizer is known of the corpus"

    def sequences(self, picks: Sequence[SequencePick]) -> list[SequenceFacts]:
        """Everything that is stored of some sequences, without what is private where the text is redacted."""
        corpora = self.corpora()
        with self._lock:  # a corpus goes on from where it was last read: two readers would take from each other
            found = read_many(self._study, picks, corpora=corpora)
        return [redact_sequence(facts) for facts in found] if self._redact else found

    def previews(self, group: Group, rows: Sequence[Row], context: int) -> dict[int, str | None]:
        """The first words of the context and of the true continuation, by id, where they are known.

        With redaction they are those that the sequence itself shows, with all that is stored of it taken into account.
        """
        if not rows or self.fault(group, for_list=True) is not None:
            return {}
        with self._lock:
            if self._redact:
                redacted = self.sequences([SequencePick(group, row.sequence_id) for row in rows])
                return {facts.sequence_id: preview(facts.tokens, facts.texts, context) for facts in redacted}
            windows = self._read(group, rows)
            texts = self._token_texts(group, windows.values())
            return {sequence_id: preview(tokens, texts, context) for sequence_id, tokens in windows.items()}

    def find(self, group: Group, rows: Sequence[Row], words: str) -> Hits:
        """Those whose text holds the words, be they large or small letters."""
        with self._lock:
            windows = self._read(group, rows)
            texts = self._token_texts(group, windows.values())
        shown = self._shown[group]
        # Characters that are spread over tokens, none of which is text by itself, are only there in the whole.
        split = {place: tokens for place, tokens in windows.items() if any(token not in texts for token in tokens)}
        whole = dict(zip(split, self._decode(group, split.values()), strict=True))
        wanted = words.lower()
        found = {
            place
            for place, tokens in windows.items()
            if wanted in "".join([shown.get(token) or f"<{token}>" for token in tokens])
            or wanted in (whole.get(place) or "".join([texts.get(token, "") for token in tokens])).lower()
        }
        return Hits(found, len(rows) - len(windows))

    def _decode(self, group: Group, windows: Iterable[_Tokens]) -> list[str]:
        tokenizer = self._opened_texts[group].corpus.tokenizer
        assert tokenizer is not None  # a fault otherwise
        return tokenizer.decode_batch([list(tokens) for tokens in windows], skip_special_tokens=False)

    def _read(self, group: Group, rows: Sequence[Row]) -> dict[int, _Tokens]:
        """The windows of the rows, by id; none of those that the corpus does not hold any more."""
        found = read_true_tokens(self.corpora(), group, {row.sequence_id: row.window_hash for row in rows})
        return {sequence_id: text.tokens for sequence_id, text in found.items() if text.tokens is not None}

    def _token_texts(self, group: Group, windows: Iterable[_Tokens]) -> Mapping[int, str]:
        """The texts of at least these tokens that are text by themselves; kept for the next time."""
        known = self._texts[group]
        tokenizer = self._opened_texts[group].corpus.tokenizer
        assert tokenizer is not None  # a fault otherwise
        if new := {token for tokens in windows for token in tokens} - known.keys():
            texts = token_texts(tokenizer, sorted(new))
            self._shown[group].update((token, escape(text).lower()) for token, text in texts.items())
            known.update(texts)
        return known
