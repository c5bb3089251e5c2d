"""The terms that a custom task's log R is made of, as a recipe's tables describe them. Each is weight x what it says.

{kind = "continuation"}                               log p_LM(Z ⊤ | prompt)
{kind = "continuation", context = "...", stop = false}   log p_LM(Z | another context); with weight < 0, against it
{kind = "target", target = " So: {answer}."}          log p_LM(Y | prompt, Z)
{kind = "length", per_token = 0.5, most = 20}         −0.5 nats for each token beyond 20
{kind = "keywords", words = [...]}, "regex", "json_schema", "function", "classifier"
                                                      log c(Z): hard, or with penalty = 3.0 soft
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from tokenizers import Encoding, Tokenizer

from buffer.types import IntArray, Prompt
from rewards.constraints import CONSTRAINTS
from rewards.constraints.settings import Constraint, TableSettings, read_table
from rewards.scorer import LENGTH
from rewards.task import NO_TARGET, BaseLogProbs, ScoreRequest, Terms
from rewards.tasks.constrained import constraint_floor, satisfied
from rewards.tasks.custom_rows import Row, Template


class TermSettings(TableSettings):
    """What every term has."""

    kind: str
    name: str = Field(default="", pattern=r"^([a-z][a-z0-9_]{0,39})?$")
    """In figures and in rewards.weights; the kind's own name where none is given."""
    weight: float = 1.0


class Continuation(TermSettings):
    """log p_LM(Z ⊤ | context)"""

    kind: Literal["continuation"]
    context: str | None = None
    """A template; the prompt itself where none is given."""
    stop: bool = True
    """False leaves the stop token unscored."""
    masked: bool = False
    """Renormalise over the policy's allowed tokens and the stop."""


class Target(TermSettings):
    """log p_LM(Y | context, Z)"""

    kind: Literal["target"]
    target: str
    """A template of Y, which stands straight behind Z: begin it with the space or comma that belongs there."""
    context: str | None = None


class Length(TermSettings):
    """−per_token nats for each token of Z below `least` or beyond `most`; called `tokens`."""

    kind: Literal["length"]
    per_token: float = Field(gt=0.0)
    least: int = Field(default=0, ge=0)
    most: int = Field(default=0, ge=0)


class Checked(TermSettings):
    """log c(Z), with the constraint's own fields beside these."""

    penalty: float | None = None
    """Nats taken off where c fails: soft. Without it the term is hard, and the task's log_epsilon its floor."""


KINDS: dict[str, type[TermSettings]] = {
    "continuation": Continuation,
    "target": Target,
    "length": Length,
    **dict.fromkeys(CONSTRAINTS, Checked),
}


class Term:
    """One term at work."""

    def __init__(self, name: str, settings: TermSettings) -> None:
        self.name = name
        self.settings = settings

    def question(self, prompt: Prompt, row: Row, which: str, tokenizer: Tokenizer) -> ScoreRequest | None:
        """What the frozen model is asked about a row; None for a term that needs no model."""
        return None

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """The term [T+1], nats, weighted, from the text of every prefix [T+1] and the answer to its question."""
        raise NotImplementedError


class ModelTerm(Term):
    """Asks the frozen model: a continuation or a target."""

    def __init__(self, name: str, settings: Continuation | Target) -> None:
        """ValueError for a bad template."""
        super().__init__(name, settings)
        self._target = Template(settings.target, f"target of term {name!r}") if isinstance(settings, Target) else None
        self._context = None if settings.context is None else Template(settings.context, f"context of term {name!r}")

    def question(self, prompt: Prompt, row: Row, which: str, tokenizer: Tokenizer) -> ScoreRequest:
        """ValueError for a field that the row does not have, and for an empty text."""
        context, target = prompt.token_ids, NO_TARGET
        if self._context:
            context = _tokens(tokenizer.encode(self._context.fill(row, which)))
        if self._target:
            target = _tokens(tokenizer.encode(self._target.fill(row, which), add_special_tokens=False))
        if not len(context) or (self._target and not len(target)):
            raise ValueError(f"term {self.name!r}: its context or target has no token for {which}. Write some text")
        return ScoreRequest(context, target, isinstance(self.settings, Continuation) and self.settings.masked)

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """log p_LM of the string, or of its target."""
        assert base_scores is not None
        if isinstance(self.settings, Continuation):
            return {
                self.name: self.settings.weight
                * (base_scores.log_p_stop if self.settings.stop else base_scores.log_p_prefix)
            }
        return {self.name: self.settings.weight * base_scores.target}


class CheckedTerm(Term):
    """A constraint's log c, not below its floor, and the note whether it holds."""

    def __init__(self, name: str, settings: Checked, constraint: Constraint, log_epsilon: float) -> None:
        super().__init__(name, settings)
        self._constraint = constraint
        self._floor = constraint_floor(log_epsilon, settings.penalty)

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """log c, and its note."""
        log_c = self._constraint(texts)
        return {
            self.name: self.settings.weight * np.maximum(log_c, self._floor),
            note_of(self.name): satisfied(log_c),
        }


class LengthTerm(Term):
    """Counts tokens."""

    def __init__(self, name: str, settings: Length) -> None:
        super().__init__(name, settings)
        self._length = settings

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """0 between `least` and `most`."""
        n = np.arange(len(texts))
        outside = np.maximum(self._length.least - n, 0) + np.maximum(n - self._length.most, 0)
        return {self.name: -self._length.weight * self._length.per_token * outside}


def read_terms(tables: Sequence[Mapping[str, object]], log_epsilon: float) -> list[Term]:
    """The recipe's terms, in order. ValueError for what does not fit, alone or together."""
    terms = [_read_term(table, f"terms, number {k}", log_epsilon) for k, table in enumerate(tables, start=1)]
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1 or name == LENGTH:
            raise ValueError(
                f"two terms are called {name!r}, or rewards.length_penalty is: give one of them another name = '...'"
            )
    if not terms:
        raise ValueError(f"terms is empty: write a [[task.options.terms]] with kind = one of: {', '.join(KINDS)}")
    _check_hard(terms)
    return terms


def note_of(name: str) -> str:
    """The note that says whether a constraint holds."""
    return f"_satisfied_{name}"


def _read_term(table: Mapping[str, object], where: str, log_epsilon: float) -> Term:
    kind = table.get("kind") if isinstance(table, Mapping) else None
    if isinstance(kind, str) and kind in CONSTRAINTS:
        own = {key: value for key, value in table.items() if key == "kind" or key not in Checked.model_fields}
        constraint = read_table(CONSTRAINTS, own, where).build()
        common = {key: value for key, value in table.items() if key in Checked.model_fields}
        settings = read_table(KINDS, common, where)
        assert isinstance(settings, Checked)
        return CheckedTerm(settings.name or settings.kind, settings, constraint, log_epsilon)
    settings = read_table(KINDS, table, where)
    if isinstance(settings, Length):
        return LengthTerm(settings.name or "tokens", settings)
    assert isinstance(settings, Continuation | Target)
    return ModelTerm(settings.name or settings.kind, settings)


def _check_hard(terms: Sequence[Term]) -> None:
    """A floor is relative to p_LM(Z): without it, or with a power below 1, all failing strings have no bounded mass."""
    likely = any(isinstance(t.settings, Continuation) and t.settings.weight >= 1.0 for t in terms)
    for term in terms:
        hard = isinstance(term.settings, Checked) and term.settings.penalty is None
        if hard and not (likely and term.settings.weight == 1.0):
            raise ValueError(
                f"term {term.name!r} is hard, with weight = {term.settings.weight}: it must have weight 1, and a term "
                "of kind continuation with weight 1 or more beside it, or strings that fail would have unbounded mass. "
                "Give that, or make it soft with penalty = nats"
            )


def _tokens(encoding: Encoding) -> IntArray:
    return np.array(encoding.ids, dtype=np.int32)
