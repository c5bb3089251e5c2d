"""A task written in TOML only: a template turns rows of your data into prompts; log R is a weighted sum of terms.

template = "A line about {topic}:"      rows = [{topic = "rain"}, {topic = "tea"}]      held_out = 1
terms    = [{kind = "continuation"}, {kind = "keywords", words = ["rain"], penalty = 4.0}]

This gives one training prompt, "A line about rain:", and one in the split "test", "A line about tea:". If the base
model gives a finished string −20 nats, log R is −20 if it has the word and −24 if not. deploy/recipes/custom.toml is a
complete recipe to copy; custom_terms.py lists the kinds of terms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, PolicySpec, Prompt
from rewards.constraints.settings import prefix_texts
from rewards.judging.text_metrics import TEXT_EXPLANATIONS, mean_over_samples, text_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.constrained import constraint_floor, satisfied_share
from rewards.tasks.custom_rows import Row, Template, Value, read_rows
from rewards.tasks.custom_terms import ConstraintTerm, Continuation, Target, Term, read_terms, satisfied_note
from rewards.tasks.text import decode_text, make_text_prompt, prompts_of_split


class CustomTask(Task):
    """log R = Σ weight x term, over the terms of the recipe."""

    explanations: ClassVar[Mapping[str, str]] = TEXT_EXPLANATIONS

    def __init__(
        self,
        tokenizer: Tokenizer,
        terms: Sequence[Mapping[str, object]],
        template: str = "{text}",
        rows: Sequence[Row] | None = None,
        file: str | None = None,
        prompts: Sequence[str] | None = None,
        held_out: int = 0,
        log_epsilon: float = -10.0,
        stop_text: str = "",
    ) -> None:
        """`template` turns each row into a prompt. Rows come from `rows`, from `file` (JSON lines), or from `prompts`,
        each of which is a row with the field {text}. Prompt ids are the rows' field `id`, by default row-1, row-2, ...
        Fields that neither the template nor a term names may hold anything.
        The last `held_out` rows are the split "test".

        `log_epsilon` (nats, < 0) bounds the log mass of all strings that fail a hard constraint. `stop_text` is the
        text of the stop token, appended to the text that constraints read. Raise ValueError for options that don't fit.
        """
        constraint_floor(log_epsilon, None)
        self._tokenizer = tokenizer
        self._stop_token_id = -1
        self._stop_text = stop_text
        self._terms = read_terms(terms, log_epsilon)
        named_rows, prompt_template = read_rows(rows, file, prompts), Template(template, "template")
        if not 0 <= held_out < len(named_rows):
            raise ValueError(f"held_out = {held_out} must leave one of {len(named_rows)} rows to train on: lower it")
        self._requests: dict[str, dict[str, ScoreRequest]] = {}
        all_prompts = [
            self._add_prompt(f"row-{k}", row_name, row, prompt_template)
            for k, (row_name, row) in enumerate(named_rows, start=1)
        ]
        train, test = all_prompts[: len(all_prompts) - held_out], all_prompts[len(all_prompts) - held_out :]
        self._prompts = {TRAIN: train} | ({"test": test} if held_out else {})
        self.splits = tuple(self._prompts)
        if shared := {prompt.text for prompt in train} & {prompt.text for prompt in test}:
            raise ValueError(
                f"prompt {min(shared)!r:.80} is in the training split and held out: remove one of its rows"
            )
        self.needs_base_model = any(self._requests.values())

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """One prompt per row, in order."""
        return prompts_of_split(self._prompts, split)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """One request for each term that needs the base model, in the recipe's order."""
        return list(self._requests[prompt.id].values())

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """The recipe's terms [T+1], each with its weight, and a note `_satisfied_NAME` for each constraint."""
        texts = prefix_texts(self._tokenizer, token_ids, self._stop_text)
        scores = dict(zip(self._requests[prompt.id], base_scores, strict=True))
        return {
            name: values for term in self._terms for name, values in term.score(texts, scores.get(term.name)).items()
        }

    def check_policy(self, spec: PolicySpec) -> None:
        """Note the stop token, for `prior`."""
        self._stop_token_id = spec.stop_token_id

    def prior(self, prompt: Prompt) -> IntArray | None:
        """The context of a term p_LM(Z ⊤ | context), or p_LM(Z | context) with a target behind it that begins with ⊤,
        if no term can add to log R."""
        if any(term.settings.weight < 0.0 for term in self._terms):
            return None
        requests = self._requests[prompt.id]
        for term in self._terms:
            if isinstance(term.settings, Continuation) and term.settings.weight >= 1.0:
                context = requests[term.name].context
                if term.settings.stop or any(self._ends_with_stop(other, context, requests) for other in self._terms):
                    return context
        return None

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """`mean_NAME` of each term, weighted as in log R, `satisfied_NAME` of each constraint, and the figures in
        `explanations`, with intervals over prompts."""
        means = {f"mean_{term.name}": mean_over_samples(samples, _term_value(term.name)) for term in self._terms}
        constraints = [term.name for term in self._terms if isinstance(term, ConstraintTerm)]
        shares = {f"satisfied_{name}": satisfied_share(samples, satisfied_note(name)) for name in constraints}
        return {
            **means,
            **shares,
            **text_figures(samples, lambda sample: decode_text(self._tokenizer, sample.token_ids), judges),
        }

    def _ends_with_stop(self, term: Term, context: IntArray, requests: Mapping[str, ScoreRequest]) -> bool:
        """True for a target behind `context` [C] that begins with the stop token."""
        if not isinstance(term.settings, Target) or term.settings.weight < 1.0:
            return False
        request = requests[term.name]
        return bool(request.target[0] == self._stop_token_id) and np.array_equal(request.context, context)

    def _add_prompt(self, default_id: str, row_name: str, row: Row, template: Template) -> Prompt:
        """Build a row's prompt and its score requests, by the names of the terms."""
        text = template.fill(row, row_name)
        fields = {name: value for name, value in row.items() if isinstance(value, Value)}
        prompt = replace(make_text_prompt(self._tokenizer, str(fields.get("id", default_id)), text), fields=fields)
        if not len(prompt.token_ids):
            raise ValueError(f"the prompt of {row_name} has no token: write some text in template")
        if prompt.id in self._requests:
            raise ValueError(f"{row_name} has the id {prompt.id!r}, as an earlier row does: give each row its own id")
        requests = {term.name: term.score_request(prompt, row, row_name, self._tokenizer) for term in self._terms}
        self._requests[prompt.id] = {name: request for name, request in requests.items() if request is not None}
        return prompt


def _term_value(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample.terms[name]
