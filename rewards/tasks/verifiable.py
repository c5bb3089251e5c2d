"""Answers that a function, a rule or an endpoint can grade: samples p_ref(Z ⊤ | X) · exp(Σ w r(X, Z) / β).

prompt   a row's question        r = 1 for a right answer, else 0        β = rewards.beta = 0.1, w = rewards.weights
right    log R = log p_ref(Z ⊤ | X) + 10
wrong    log R = log p_ref(Z ⊤ | X)

This is the optimum of KL-regularised reinforcement learning with coefficient β, which GRPO and PPO climb towards; here
the policy samples it. Only whole answers have a reward. Rewards are functions as TRL calls them, or rewards/verifiers.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.errors import RewardError
from buffer.types import FloatArray, IntArray, Prompt
from rewards.config import BASE
from rewards.data_file import Row, read_data
from rewards.judging.pass_at_k import pass_at_k
from rewards.judging.text_metrics import TEXT_EXPLANATIONS, mean_over_prompts, mean_over_samples, text_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, Task, Terms
from rewards.tasks.text import decode_text, prompts_of_split
from rewards.tasks.verifiable_rows import PromptMaker, split_rows
from rewards.verifiers import read_rewards
from rewards.verifiers.verifier import Answers, Grade

PASS_K = 8
TEST = "test"


class VerifiableTask(Task):
    """log R = log p_ref + Σ w r / β. Terms: `base` and each reward by its name."""

    whole_strings_only = True
    explanations: ClassVar[Mapping[str, str]] = {
        "reward": "Mean of the sum of the rewards, without weights.",
        "correct": "Share of samples with the largest value of every reward whose largest value is known.",
        "pass_at_8": "Probability that one of 8 samples is correct.",
        "majority": "Share of prompts whose most frequent sample is correct (maj@K, K samples).",
        "distinct_correct": "Mean number of different correct samples of a prompt.",
        **TEXT_EXPLANATIONS,
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        model_folder: Path,
        rewards: Sequence[object],
        file: str = "",
        test_file: str = "",
        split: str = "",
        test_split: str = "",
        held_out: int | float = 0,
        prompt: str = "prompt",
        chat: bool = False,
        system: str = "",
        template_arguments: Mapping[str, object] | None = None,
    ) -> None:
        """`file`: JSON lines, CSV, Parquet, or a folder of `datasets`, of which `split` names one; "" is
        rewards/data/questions.jsonl. `prompt`: the column
        with the prompt, a text or a list of messages, or a template of columns. `chat`: send a text as a message of the
        user, after `system`, through the model's chat template with `template_arguments`.

        The split "test" is `test_file` or `test_split`, or the last `held_out` rows (below 1: that share).
        `rewards`: see rewards/verifiers. Raise ValueError for options and rows that don't fit.
        """
        file = file or str(resources.files("rewards").joinpath("data", "questions.jsonl"))
        self._tokenizer = tokenizer
        self._rewards = read_rewards(rewards)
        self.longest_wait_s = sum(reward.longest_wait_s for reward in self._rewards)  # one after the other
        maker = PromptMaker(tokenizer, model_folder, prompt, chat, system, template_arguments or {})
        self._rows: dict[str, Row] = {}
        self._shown: dict[str, object] = {}
        self._prompts = {
            name: [self._add(maker, f"{prefix}-{k}", *row) for k, row in enumerate(rows, start=1)]
            for name, prefix, rows in _read_splits(file, test_file, split, test_split, held_out)
        }
        self.splits = tuple(self._prompts)
        _check_apart(self._prompts)

    @property
    def largest_terms(self) -> Mapping[str, float]:  # type: ignore[override]
        """Of every reward, where it is known, as the buffer keeps it."""
        return {r.name: float(np.float32(r.highest)) for r in self._rewards if r.highest is not None}

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """One prompt per row, in order."""
        return prompts_of_split(self._prompts, split)

    def batch_terms(self, prompts: Sequence[Prompt], responses: Sequence[IntArray]) -> Sequence[Terms | RewardError]:
        """[B] each reward r [1] by its name; a reward without an opinion is 0."""
        if not prompts:
            return []
        texts = [self._text(response) for response in responses]
        shown = [self._shown[prompt.id] for prompt in prompts]
        rows = [self._rows[prompt.id] for prompt in prompts]
        completions = [
            [{"role": "assistant", "content": text}] if isinstance(prompt, list) else text
            for prompt, text in zip(shown, texts, strict=True)
        ]
        columns = dict.fromkeys(name for row in rows for name in row)
        ids = {"completion_ids": [response.tolist() for response in responses]}  # as TRL passes them
        values = {**ids, **{name: [row.get(name) for row in rows] for name in columns}}
        answers = Answers(shown, completions, texts, values)
        grades = [reward.verify(answers) for reward in self._rewards]
        return [self._terms(of_answer) for of_answer in zip(*grades, strict=True)]

    def _terms(self, grades: Sequence[Grade]) -> Terms | RewardError:
        """The terms of one answer, or the first error."""
        terms: dict[str, FloatArray] = {}
        for reward, grade in zip(self._rewards, grades, strict=True):
            if isinstance(grade, RewardError):
                return grade
            terms[reward.name] = np.array([grade or 0.0], dtype=np.float32)
        return terms

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`base` [1]: log p_ref(Z ⊤ | X)."""
        return {BASE: base_scores[0].log_p_stop[-1:]}

    def prior(self, prompt: Prompt) -> IntArray | None:
        """The prompt, where the largest value of every reward is known."""
        return prompt.token_ids if len(self.largest_terms) == len(self._rewards) else None

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations` and `mean_NAME` of each reward, with intervals over prompts."""
        names = [reward.name for reward in self._rewards]
        figures: dict[str, Figure] = {
            "reward": mean_over_samples(samples, lambda s: sum(s.terms[name] for name in names)),
            **{f"mean_{name}": mean_over_samples(samples, _term(name)) for name in names},
        }
        if self.largest_terms:
            figures |= {
                "correct": mean_over_samples(samples, lambda s: float(self._is_correct(s))),
                "pass_at_8": mean_over_prompts(
                    samples, lambda drawn: pass_at_k(len(drawn), sum(map(self._is_correct, drawn)), PASS_K)
                ),
                "majority": mean_over_prompts(samples, self._majority),
                "distinct_correct": mean_over_prompts(
                    samples, lambda drawn: float(len({s.token_ids.tobytes() for s in drawn if self._is_correct(s)}))
                ),
            }
        return {**figures, **text_figures(samples, lambda s: decode_text(self._tokenizer, s.token_ids), judges)}

    def _majority(self, drawn: Sequence[Sample]) -> float:
        """1 if the most frequent string is correct, else 0; of several that are equally frequent, the share."""
        counts = Counter(sample.token_ids.tobytes() for sample in drawn)
        correct = {sample.token_ids.tobytes(): self._is_correct(sample) for sample in drawn}
        most = max(counts.values())
        return float(np.mean([correct[string] for string, count in counts.items() if count == most]))

    def _is_correct(self, sample: Sample) -> bool:
        return all(sample.terms[name] >= largest for name, largest in self.largest_terms.items())

    def _add(self, maker: PromptMaker, default_id: str, row_name: str, row: Row) -> Prompt:
        """Make a row's prompt and keep what its rewards need. ValueError for a column that a reward needs and the row
        does not have."""
        for reward in self._rewards:
            if missing := [column for column in reward.columns if column not in row]:
                raise ValueError(
                    f"{row_name} has no column {missing[0]!r}, which the reward {reward.name!r} reads. Its columns: "
                    f"{', '.join(map(str, row)) or 'none'}"
                )
        prompt, shown = maker.make(str(row.get("id", default_id)), row, row_name)
        if prompt.id in self._rows:
            raise ValueError(f"{row_name} has the id {prompt.id!r}, as an earlier row does: give each row its own id")
        self._rows[prompt.id], self._shown[prompt.id] = row, shown
        return prompt

    def _text(self, token_ids: IntArray) -> str:
        """An answer without its stop token, as engines return it."""
        text: str = self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=True)
        return text


def _read_splits(
    file: str, test_file: str, split: str, test_split: str, held_out: int | float
) -> list[tuple[str, str, list[tuple[str, Row]]]]:
    """(split, prefix of its prompt ids, rows with their names) of the training split and perhaps of "test"."""
    if sum(map(bool, (test_file, test_split, held_out))) > 1:
        raise ValueError("test_file, test_split and held_out each make the split 'test': give one of them")
    rows = read_data(file, split)
    if test_file or test_split:
        return [(TRAIN, "row", rows), (TEST, "test", read_data(test_file or file, test_split))]
    train, _ = split_rows(rows, held_out)
    parts = [(TRAIN, "row", rows[:train]), (TEST, "test", rows[train:])]
    return [part for part in parts if part[2]]


def _check_apart(prompts: Mapping[str, Sequence[Prompt]]) -> None:
    """ValueError for a prompt that is in both splits."""
    if shared := {p.text for p in prompts[TRAIN]} & {p.text for p in prompts.get(TEST, ())}:
        raise ValueError(f"prompt {min(shared)!r:.80} is in the training split and in 'test': remove one of its rows")


def _term(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample.terms[name]
