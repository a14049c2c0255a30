"""Questions -> answers of an endpoint: several at once, spaced, tried again, within a budget, and never lost.

Questions are asked in the order of their hashes, so that what a budget leaves out is left out at random.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, final

from mnemoscope.audit.black_box.completions import CompletionsClient, NoAnswerError
from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.audit.black_box.journal import Journal, Spending
from mnemoscope.audit.black_box.pacing import Pace
from mnemoscope.audit.black_box.questions import Question
from mnemoscope.errors import EndpointError
from mnemoscope.progress import Progress
from mnemoscope.retries import wait_seconds

_MOST_WAIT_SECONDS: Final = 600.0
"""That a server may ask for; one that wants more is left alone, and the audit told to come back."""
_MOST_REFUSED: Final = 5
"""Prompts in a row, before the first answer, after which the endpoint and not the prompt is to blame."""
_GRACE_SECONDS: Final = 5.0
"""For answers that are on their way when everything stops."""
_LATER: Final = "what is answered is kept: run again later"

_log = logging.getLogger(__name__)


class Answers(NamedTuple):
    """What an endpoint has said, by question; questions in neither were left out by the budget."""

    texts: dict[str, str]
    refusals: dict[str, str]
    """Why it does not answer a question."""
    spending: Spending


def ask_endpoint(
    endpoint: Endpoint, questions: Mapping[str, Question], *, folder: Path, progress: Progress | None = None
) -> Answers:
    """The answers to questions, by their keys: those that the folder's journal has, and the others asked now.

    Ends early, without an error, where the budget is spent. EndpointError where the endpoint refuses or does not answer
    in as many tries as allowed; ConfigError without the key; StoreError for a folder that cannot be written.
    """
    with Journal(folder) as journal:
        _Asking(endpoint, questions, journal, progress).run()
        texts = {key: journal.answers[key] for key in questions if key in journal.answers}
        refusals = {key: journal.refusals[key] for key in questions if key in journal.refusals}
        return Answers(texts, refusals, journal.spending)


@final
class _Asking:
    """Threads that ask what the journal does not have."""

    def __init__(
        self, endpoint: Endpoint, questions: Mapping[str, Question], journal: Journal, progress: Progress | None
    ) -> None:
        self._endpoint, self._journal, self._progress = endpoint, journal, progress
        self._client = CompletionsClient(endpoint)
        self._stop = threading.Event()
        self._pace = Pace(endpoint.requests_per_minute, self._stop)
        open_keys = sorted(key for key in questions if key not in journal.answers and key not in journal.refusals)
        self._waiting: Iterator[tuple[str, Question]] = iter([(key, questions[key]) for key in open_keys])
        self._num_open, self._num_all = len(open_keys), len(questions)
        self._num_done = len(questions) - len(open_keys)
        self._early: dict[str, str] = {}
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def run(self) -> None:
        """Ask everything; the first error, if any, is raised in the end."""
        self._tell(0)
        number = min(self._endpoint.max_concurrent, self._num_open)
        # Daemons: whoever presses Ctrl-C must not wait for an answer that takes two minutes.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(number)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self._stop.is_set():
                    thread.join(0.1)
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(_GRACE_SECONDS / max(1, number))
        if self._journal.answers:
            for key, reason in self._early.items():
                self._journal.refuse(key, reason)
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    following = next(self._waiting, None)
                if following is None or not self._settle(*following):
                    return
        except Exception as error:  # it is raised again where everything was started
            with self._lock:
                self._error = self._error or error
            self._stop.set()

    def _settle(self, key: str, question: Question) -> bool:
        """Ask a question until it is answered or refused; False where the budget or a stop ends everything."""
        for number in range(1, self._endpoint.max_tries + 1):
            if not self._pace.enter() or not self._send(key, question):
                return False
            try:
                answer = self._client.ask(question.prompt, question.max_tokens)
            except NoAnswerError as error:
                if self._refused(key, question, error, number):
                    return True
                continue
            cost = question.num_tokens if answer.num_tokens is None else answer.num_tokens
            self._journal.answer(key, answer.text, cost)
            self._tell(1)
            return True
        raise AssertionError("unreachable")

    def _send(self, key: str, question: Question) -> bool:
        budget = self._endpoint
        is_sent = self._journal.send(
            key, question.num_tokens, max_requests=budget.max_requests, max_tokens=budget.max_tokens
        )
        if not is_sent:
            with self._lock:
                self._waiting = iter(())
        return is_sent

    def _refused(self, key: str, question: Question, error: NoAnswerError, number: int) -> bool:
        """Whether nothing more is to be done for a question; EndpointError where nothing is to be done at all."""
        place = self._endpoint.address
        if error.kind == "prompt" and self._journal.answers:
            self._journal.refuse(key, str(error))
            self._tell(1)
            return True
        self._journal.fail(key, 0 if error.is_free else question.num_tokens)
        if error.kind == "prompt":
            # Not in the journal: as long as nothing was ever answered, the endpoint may be what is wrong.
            with self._lock:
                self._early[key] = str(error)
                if len(self._early) < min(_MOST_REFUSED, self._num_all) or self._journal.answers:
                    return True
            raise EndpointError(f"{place}: refuses every prompt: {error}")
        if error.kind == "final":
            raise EndpointError(f"{place}: {error}")
        if number == self._endpoint.max_tries:
            raise EndpointError(f"{place}: no answer in {number} tries ({error}); {_LATER}")
        self._wait(error, number)
        return False

    def _wait(self, error: NoAnswerError, number: int) -> None:
        """Until the next try; where the server says how long, no other question leaves either."""
        seconds = wait_seconds(number) if error.wait_seconds is None else error.wait_seconds
        if seconds > _MOST_WAIT_SECONDS:
            words = f"asks to be left alone for {seconds:.0f} seconds ({error})"
            raise EndpointError(f"{self._endpoint.address}: {words}; {_LATER}")
        level = logging.INFO if number < 3 else logging.WARNING
        _log.log(level, "%s: %s; try %d follows in %.1f s", self._endpoint.address, error, number + 1, seconds)
        if error.wait_seconds is not None:
            self._pace.hold(seconds)
        self._stop.wait(seconds)

    def _tell(self, num_done: int) -> None:
        with self._lock:
            self._num_done += num_done
            if self._progress is not None:
                self._progress(self._endpoint.model, self._num_done, self._num_all)
