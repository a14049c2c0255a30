"""tokenizer.json, from a file, a folder or a hub name -> a tokenizer with its hash and its special tokens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.sources import reason
from mnemoscope.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_USUAL_BOS: Final = ("<s>", "<|begin_of_text|>", "<bos>")
_USUAL_EOS: Final = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@final
class TextTokenizer:
    """A tokenizer as its file has it, without the truncation, padding and special tokens that it may add."""

    def __init__(self, path: Path, *, name: str, config: Path | None) -> None:
        from tokenizers import Tokenizer  # late: most corpora are tokens already

        self.name = name
        try:
            content = path.read_bytes()
            self.tokenizer: Tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # tokenizers raises bare Exception for whatever it cannot parse
            raise CorpusError(f"{name}: not a readable tokenizer.json ({reason(error)})") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.digest = hashlib.sha256(content).hexdigest()
        self._config = _read_config(config)

    @property
    def max_id(self) -> int:
        """The largest token id it can give."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    @property
    def bos_id(self) -> int:
        """The beginning-of-sequence token; CorpusError where the tokenizer has none."""
        return self._special("bos_token", _USUAL_BOS)

    @property
    def end_of_text_id(self) -> int:
        """The token that ends a document; CorpusError where the tokenizer has none."""
        return self._special("eos_token", _USUAL_EOS)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The ids of each text, int64, no special tokens added; UnicodeEncodeError for a lone surrogate."""
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encoded]

    def _special(self, role: str, usual: tuple[str, ...]) -> int:
        named = self._config.get(role)
        named = named.get("content") if isinstance(named, dict) else named
        candidates = usual if not isinstance(named, str) else (named,)
        for token in candidates:
            found = self.tokenizer.token_to_id(token)
            if found is not None:
                return found
        tried = " or ".join(candidates)
        raise CorpusError(f"{self.name}: no {role}: it has no {tried}; name one in tokenizer_config.json beside it")


def load_tokenizer(name: str, *, base: Path | None) -> TextTokenizer:
    """The tokenizer of a file, of a folder that holds tokenizer.json, or of a hub name."""
    path = Path(name).expanduser()
    path = path if path.is_absolute() or base is None else base / path
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            raise CorpusError(f"{path}: the folder holds no tokenizer.json; expected one")
        path = path / "tokenizer.json"
    if path.is_file():
        beside = path.with_name("tokenizer_config.json")
        is_own = path.name == "tokenizer.json" and beside.is_file()
        return TextTokenizer(path, name=str(path), config=beside if is_own else None)
    if name.endswith(".json") or not _HUB_NAME.fullmatch(name):
        raise CorpusError(f"{path}: no such tokenizer; expected tokenizer.json, its folder, or a hub name")
    return _load_from_hub(name)


def _load_from_hub(name: str) -> TextTokenizer:
    from huggingface_hub import hf_hub_download  # late: a tenth of a second, only for hub names

    try:
        path = Path(hf_hub_download(name, "tokenizer.json"))
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(
            f"{name}: no such file or folder, and no tokenizer.json of that hub name ({reason(error)})"
        ) from error
    try:
        config = Path(hf_hub_download(name, "tokenizer_config.json"))
    except (OSError, ValueError, RuntimeError):
        config = None
    return TextTokenizer(path, name=name, config=config)


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorpusError(f"{path}: not valid JSON ({reason(error)})") from error
    if not isinstance(config, dict):
        raise CorpusError(f"{path}: expected a JSON object")
    return config
