"""Terms of a custom task's log R, as the tables of a recipe describe them. Each contributes weight x its value.

{kind = "continuation"}                               log p_LM(Z ⊤ | prompt)
{kind = "continuation", context = "...", stop = false}   log p_LM(Z | another context); weight < 0 works against it
{kind = "target", target = " So: {answer}."}          log p_LM(Y | prompt, Z)
{kind = "length", per_token = 0.5, most = 20}         −0.5 nats for each token beyond 20
{kind = "keywords", words = [...]}, "regex", "json_schema", "function", "classifier"
                                                      log c(Z): hard, or with penalty = 3.0 soft
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer

from buffer.types import Prompt
from lm.tokens import encode_behind, encode_prompt
from rewards.config import LENGTH
from rewards.constraints import CONSTRAINTS
from rewards.constraints.settings import Constraint, TableSettings, read_table
from rewards.task import NO_TARGET, BaseLogProbs, ScoreRequest, Terms
from rewards.tasks.constrained import constraint_floor, satisfied
from rewards.tasks.custom_rows import Row, Template


class TermSettings(TableSettings):
    """Fields of every term."""

    kind: str
    name: str = Field(default="", pattern=r"^([a-z][a-z0-9_]{0,39})?$")
    """Name in figures and in rewards.weights; the default is the kind."""
    weight: float = 1.0


class Continuation(TermSettings):
    """log p_LM(Z ⊤ | context)"""

    kind: Literal["continuation"]
    context: str | None = None
    """A template; the default is the prompt."""
    stop: bool = True
    """False: the stop token is not scored."""
    masked: bool = False
    """Renormalise over the policy's allowed tokens and the stop token."""


class Target(TermSettings):
    """log p_LM(Y | context, Z)"""

    kind: Literal["target"]
    target: str
    """A template of Y, which directly follows Z: begin it with the space or comma that belongs there."""
    context: str | None = None


class Length(TermSettings):
    """−per_token nats for each token of Z below `least` or beyond `most`; the default name is `tokens`."""

    kind: Literal["length"]
    per_token: float = Field(gt=0.0)
    least: int = Field(default=0, ge=0)
    most: int | None = Field(default=None, ge=0)
    """None: no limit. 0: every token costs `per_token`."""


class ConstraintTermSettings(TermSettings):
    """log c(Z). The table has the fields of the constraint, too."""

    penalty: float | None = None
    """Nats subtracted where c fails: a soft term. Without it the term is hard, with the task's log_epsilon as floor."""


KINDS: dict[str, type[TermSettings]] = {
    "continuation": Continuation,
    "target": Target,
    "length": Length,
    **dict.fromkeys(CONSTRAINTS, ConstraintTermSettings),
}


class Term:
    """One term of log R."""

    def __init__(self, name: str, settings: TermSettings) -> None:
        self.name = name
        self.settings = settings

    def score_request(self, prompt: Prompt, row: Row, row_name: str, tokenizer: Tokenizer) -> ScoreRequest | None:
        """The request for the base model, for one row; None for a term that does not need the model."""
        return None

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """The weighted term [T+1], nats, from the text of every prefix [T+1] and the result of `score_request`."""
        raise NotImplementedError


class ModelTerm(Term):
    """Log-probability of the base model: a continuation or a target."""

    def __init__(self, name: str, settings: Continuation | Target) -> None:
        """Raise ValueError for a bad template."""
        super().__init__(name, settings)
        self._target = Template(settings.target, f"target of term {name!r}") if isinstance(settings, Target) else None
        self._context = None if settings.context is None else Template(settings.context, f"context of term {name!r}")

    def score_request(self, prompt: Prompt, row: Row, row_name: str, tokenizer: Tokenizer) -> ScoreRequest:
        """Raise ValueError for a field that the row does not have, and for a text without tokens."""
        context, target = prompt.token_ids, NO_TARGET
        if self._context:
            context = encode_prompt(tokenizer, self._context.fill(row, row_name))
        if self._target:
            target = encode_behind(tokenizer, self._target.fill(row, row_name))
        if not len(context) or (self._target and not len(target)):
            raise ValueError(f"context or target of term {self.name!r} has no token for {row_name}: write some text")
        masked = isinstance(self.settings, Continuation) and self.settings.masked
        return ScoreRequest(context, target, masked, at_stops=bool(len(target)))

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """log p_LM of the string or of its target."""
        assert base_scores is not None
        if isinstance(self.settings, Continuation):
            log_p = base_scores.log_p_stop if self.settings.stop else base_scores.log_p_prefix
        else:
            log_p = base_scores.target
        return {self.name: self.settings.weight * log_p}


class ConstraintTerm(Term):
    """log c of a constraint, at least its floor, and a note that tells if c holds."""

    def __init__(self, name: str, settings: ConstraintTermSettings, constraint: Constraint, log_epsilon: float) -> None:
        super().__init__(name, settings)
        self._constraint = constraint
        self._floor = constraint_floor(log_epsilon, settings.penalty)

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """The term and its note."""
        log_c = self._constraint(texts)
        return {
            self.name: self.settings.weight * np.maximum(log_c, self._floor),
            satisfied_note(self.name): satisfied(log_c),
        }


class LengthTerm(Term):
    """A penalty on the number of tokens. ValueError where it would be 0 for all lengths, or for none."""

    def __init__(self, name: str, settings: Length) -> None:
        super().__init__(name, settings)
        least, most = settings.least, settings.most
        if most is None and not least:
            raise ValueError("a term of kind length needs least, most or both; most = 0 makes every token cost")
        if most is not None and most < least:
            raise ValueError(f"a term of kind length has least = {least} and most = {most}: no text has such a length")
        self._length = settings

    def score(self, texts: Sequence[str], base_scores: BaseLogProbs | None) -> Terms:
        """The penalty: 0 from `least` to `most` tokens."""
        n, most = np.arange(len(texts)), self._length.most
        outside = np.maximum(self._length.least - n, 0) + (0 if most is None else np.maximum(n - most, 0))
        return {self.name: -self._length.weight * self._length.per_token * outside}


def read_terms(tables: Sequence[Mapping[str, object]], log_epsilon: float) -> list[Term]:
    """Parse the recipe's terms, in order. Raise ValueError for tables that don't fit, alone or together."""
    terms = [_read_term(table, f"terms[{k}]", log_epsilon) for k, table in enumerate(tables, start=1)]
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1 or name == LENGTH:
            raise ValueError(
                f"two terms have the name {name!r}, or rewards.length_penalty has it: set name = '...' on one of them"
            )
    if not terms:
        raise ValueError(f"terms is empty: write a [[task.options.terms]] with kind = one of: {', '.join(KINDS)}")
    _check_hard(terms)
    return terms


def satisfied_note(name: str) -> str:
    """Name of the note that is 1 where the constraint holds."""
    return f"_satisfied_{name}"


def _read_term(table: Mapping[str, object], where: str, log_epsilon: float) -> Term:
    kind = table.get("kind") if isinstance(table, Mapping) else None
    if isinstance(kind, str) and kind in CONSTRAINTS:
        common_fields = ConstraintTermSettings.model_fields
        constraint_table = {key: value for key, value in table.items() if key == "kind" or key not in common_fields}
        constraint = read_table(CONSTRAINTS, constraint_table, where).build()
        settings = read_table(KINDS, {key: value for key, value in table.items() if key in common_fields}, where)
        assert isinstance(settings, ConstraintTermSettings)
        return ConstraintTerm(settings.name or settings.kind, settings, constraint, log_epsilon)
    settings = read_table(KINDS, table, where)
    if isinstance(settings, Length):
        return LengthTerm(settings.name or "tokens", settings)
    assert isinstance(settings, Continuation | Target)
    return ModelTerm(settings.name or settings.kind, settings)


def _check_hard(terms: Sequence[Term]) -> None:
    """Raise ValueError for a hard term without p_LM(Z): only with a power of at least 1 of it have failing strings a
    bounded mass, because the floor is relative to p_LM(Z)."""
    has_likelihood = any(isinstance(t.settings, Continuation) and t.settings.weight >= 1.0 for t in terms)
    for term in terms:
        hard = isinstance(term.settings, ConstraintTermSettings) and term.settings.penalty is None
        if hard and not (has_likelihood and term.settings.weight == 1.0):
            raise ValueError(
                f"term {term.name!r} is hard, with weight = {term.settings.weight}: it must have weight 1, next to a "
                "term of kind continuation with weight 1 or more, or failing strings would have unbounded mass. Add "
                "such a term, or make this one soft with penalty = nats"
            )
