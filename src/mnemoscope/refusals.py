"""What is refused of a study before anything of it is written: models, texts and settings that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemoscope.config import ModelConfig, StudyConfig
from mnemoscope.errors import ModelError
from mnemoscope.scorer import facts_of
from mnemoscope.store import Run
from mnemoscope.texts import GroupText

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM


def check_sources(config: StudyConfig) -> None:
    """Refuse imported scores, and a model folder that is not there or not safe, before the first model is scored."""
    from mnemoscope.model import locate

    _ = config.scoring_mode
    for model in config.models:
        locate(model)


def check_traceable(config: StudyConfig, model: CausalLM) -> None:
    """Refuse a model that the study wants traced and that cannot be."""
    if config.traces is not None:
        from mnemoscope.tracing import check_traceable

        check_traceable(model, config.traces.context_layers)


def check_tokenizer(text: GroupText, config: ModelConfig) -> None:
    """Refuse a model that was trained with another tokenizer than the text's, where both are known."""
    from tokenizers import Tokenizer

    from mnemoscope.model import find_files

    folder = find_files(config)
    own = None if folder is None else folder / "tokenizer.json"
    if text.corpus.tokenizer is None or own is None or not own.is_file():
        return
    if Tokenizer.from_file(str(own)).get_vocab() != text.corpus.tokenizer.get_vocab():
        raise ModelError(
            f"{config.label}: its tokenizer.json gives other ids than the tokenizer of {text.config.paths[0]}; "
            "expected models of one tokenizer in a study (set the corpus's `tokenizer`, or study the model apart)"
        )


def check_logits(text: GroupText, run: Run, model: CausalLM) -> None:
    """Refuse a model whose logits are no numbers, on one batch of a group, before anything is written."""
    windows = text.read(text.selection.sequence_ids[: run.identity.batch_size], short_rows="skip")
    facts_of(run, model, windows, mode="exact")
