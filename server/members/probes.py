"""What is found out in child processes, and how it is remembered from plan to plan.

Runs in the process that plans. Models, rules and augmentations flow in, what children found flows
out; a running server remembers it by all that it depends on, so that a change costs a process only
for what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from workers.backends.inspection import inspect_models
from workers.rules.trial import Trial, Tried, try_rules
from workers.runtime.spec import FileStamp, ModelSignature, ModelSource
from workers.worker.augmentation import AugmentationTrial, try_augmentations

__all__ = ["EACH_TIME", "Probes"]

Question = TypeVar("Question", bound=msgspec.Struct)
Answer = TypeVar("Answer")

#: Answers that are remembered, of each kind: those of some configurations of the largest size.
_MOST = 512


@dataclass(frozen=True)
class Probes:
    """The ways to find out, which may raise as they are documented to."""

    inspect_models: Callable[[Sequence[ModelSource]], list[ModelSignature]] = inspect_models
    try_rules: Callable[[Sequence[Trial]], list[Tried]] = try_rules
    try_augmentations: Callable[[Sequence[AugmentationTrial]], list[str]] = try_augmentations

    @classmethod
    def remembering(cls) -> Probes:
        """Return probes that ask the same only once, as long as no file has changed."""
        return cls(
            _Memory(inspect_models, _model, lambda _: True),
            _Memory(try_rules, lambda one: (one, one.rule.stamps), lambda one: not one.problem),
            _Memory(
                try_augmentations,
                lambda one: (one, one.augmentation.stamps),
                lambda problem: not problem,
            ),
        )


#: Those of commands, which plan once.
EACH_TIME = Probes()


def _model(source: ModelSource) -> tuple[ModelSource, tuple[FileStamp, ...]]:
    """A model without its member's name and links; a fake has no files and can't change."""
    stamps = source.stamps or (() if source.backend != "fake" else (FileStamp("", 0, 0),))
    return msgspec.structs.replace(source, member="", links=""), stamps


class _Memory(Generic[Question, Answer]):
    """Remembers answers to questions.

    `key` says what an answer depends on, and the stamps of the files among that: without any,
    nobody knows what else it depends on, and it is asked again. `is_lasting` tells answers that are
    worth remembering.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Question]], list[Answer]],
        key: Callable[[Question], tuple[Question, tuple[FileStamp, ...]]],
        is_lasting: Callable[[Answer], bool],
    ) -> None:
        self._ask = ask
        self._key = key
        self._is_lasting = is_lasting
        self._answers: dict[bytes, Answer] = {}

    def __call__(self, questions: Sequence[Question]) -> list[Answer]:
        keys = [self._encoded(one) for one in questions]
        new = [i for i, key in enumerate(keys) if key not in self._answers]
        found = dict(zip(new, self._ask([questions[i] for i in new]), strict=True))
        answers = [found[i] if i in found else self._answers[key] for i, key in enumerate(keys)]
        # Those of now become the last ones; the first are forgotten.
        for key, answer in zip(keys, answers, strict=True):
            if key and self._is_lasting(answer):
                self._answers.pop(key, None)
                self._answers[key] = answer
        for key in [*self._answers][: max(0, len(self._answers) - _MOST)]:
            del self._answers[key]
        return answers

    def _encoded(self, question: Question) -> bytes:
        asked, stamps = self._key(question)
        return msgspec.json.encode(asked) if stamps else b""
