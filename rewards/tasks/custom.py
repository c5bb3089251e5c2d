"""A task from a TOML file alone: prompts made of your rows by a template, and log R as a weighted sum of terms.

template = "A line about {topic}:"      rows = [{topic = "rain"}, {topic = "tea"}]      held_out = 1
terms    = [{kind = "continuation"}, {kind = "keywords", words = ["rain"], penalty = 4.0}]

One prompt to train on, "A line about rain:", and one in the split "test", "A line about tea:". Where the frozen model
gives a string and its stop −20 nats, log R is −20 if it has the word and −24 if not. deploy/recipes/custom.toml is a
whole recipe to copy; custom_terms.py lists the kinds of terms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.constraints.settings import prefix_texts
from rewards.judging.text_metrics import over_samples, spread_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.constrained import constraint_floor, satisfied_share
from rewards.tasks.custom_rows import Row, Template, read_rows
from rewards.tasks.custom_terms import CheckedTerm, note_of, read_terms
from rewards.tasks.text import of_split, text_of, text_prompt


class CustomTask(Task):
    """log R = Σ weight x term, of the terms that the recipe lists."""

    explanations: ClassVar[Mapping[str, str]] = {
        "tokens": "of a sample, without the stop token",
        "diversity": "1 - mean cosine of two samples of a prompt, by sentence embeddings",
        "distinct_1": "different tokens as a share of all, of each prompt's samples together",
        "distinct_2": "different pairs of neighbouring tokens as a share of all, likewise",
        "distinct": "different strings as a share of each prompt's samples",
        "samples": "drawn",
    }

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
        """`template` makes a prompt of each row: of `rows`, of `file` (JSON lines), or of `prompts`, each the field
        {text}. A row's field `id` names its prompt, else row-1, row-2, ... do. The last `held_out` are split "test".

        `log_epsilon` (nats, < 0) bounds the log mass of all that fails a hard constraint; `stop_text` is what the stop
        token adds to the text that constraints read. ValueError for what does not fit.
        """
        constraint_floor(log_epsilon, None)
        self._tokenizer = tokenizer
        self._stop_text = stop_text
        self._terms = read_terms(terms, log_epsilon)
        found, made = read_rows(rows, file, prompts), Template(template, "template")
        if not 0 <= held_out < len(found):
            raise ValueError(f"held_out = {held_out} must leave one of the {len(found)} rows to train on: lower it")
        self._questions: dict[str, dict[str, ScoreRequest]] = {}
        every = [self._add(f"row-{k}", which, row, made) for k, (which, row) in enumerate(found, start=1)]
        cut = len(every) - held_out
        self._prompts = {TRAIN: every[:cut]} | ({"test": every[cut:]} if held_out else {})
        self.splits = tuple(self._prompts)
        if shared := {prompt.text for prompt in every[:cut]} & {prompt.text for prompt in every[cut:]}:
            raise ValueError(f"prompt {min(shared)!r:.80} is trained on and held out: take one of its rows out")
        self.needs_base_model = any(self._questions.values())

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """A row each, in order."""
        return of_split(self._prompts, split)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """One for each term of a model, in the recipe's order."""
        return list(self._questions[prompt.id].values())

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """The recipe's terms [T+1], each with its weight, and a note `_satisfied_NAME` for each constraint."""
        texts = prefix_texts(self._tokenizer, token_ids, self._stop_text)
        answers = dict(zip(self._questions[prompt.id], base_scores, strict=True))
        return {
            name: values for term in self._terms for name, values in term.score(texts, answers.get(term.name)).items()
        }

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """The mean of each term as it counts in log R, `satisfied_NAME` of each constraint, and `explanations`; with
        intervals over prompts."""
        means = {f"mean_{term.name}": over_samples(samples, _reader(term.name)) for term in self._terms}
        checked = [term.name for term in self._terms if isinstance(term, CheckedTerm)]
        shares = {f"satisfied_{name}": satisfied_share(samples, note_of(name)) for name in checked}
        return {
            **means,
            **shares,
            **spread_figures(samples, lambda sample: text_of(self._tokenizer, sample.token_ids), judges),
        }

    def _add(self, name: str, which: str, row: Row, made: Template) -> Prompt:
        """A row's prompt; what the frozen model is asked about it is kept, by the term's name."""
        prompt = replace(text_prompt(self._tokenizer, str(row.get("id", name)), made.fill(row, which)), fields=row)
        if not len(prompt.token_ids):
            raise ValueError(f"the prompt of {which} has no token: write some text in template")
        if prompt.id in self._questions:
            raise ValueError(f"{which} has the id {prompt.id!r}, as a row before: give each its own")
        asked = {term.name: term.question(prompt, row, which, self._tokenizer) for term in self._terms}
        self._questions[prompt.id] = {key: question for key, question in asked.items() if question is not None}
        return prompt


def _reader(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample.terms[name]
