"""Tokens that the tokenizer has and the model lacks, in every text that a task gives to either."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from buffer.errors import ConfigError
from buffer.types import IntArray, Prompt, given_trajectory
from deploy.driver.check_rows import check_rows
from rewards.task import BaseLogProbs, ScoreRequest, Task, Terms

ROWS = 13


def ids(*tokens: int) -> IntArray:
    return np.array(tokens, np.int32)


class Texts(Task):
    """Every text that a task may bring."""

    def __init__(self, context: int = 1, target: int = 1, listed: int = 1) -> None:
        self._request = ScoreRequest(ids(0, context), ids(target))
        self._listed = ids(listed)
        self.splits = ("train", "test")

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        return [Prompt(f"{split}-1", "", ids(1))]

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        return [self._request]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        raise NotImplementedError

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        return {"train-1": [(ids(), 0.0), (self._listed, 0.0)]}


@pytest.mark.parametrize(
    ("task", "demonstrated", "words"),
    [
        (Texts(context=13), 1, "the context in front of a response to prompt 'train-1'"),
        (Texts(target=13), 1, "the target of prompt 'train-1'"),
        (Texts(listed=13), 1, "a string that the task lists for prompt 'train-1'"),
        (Texts(), 13, "demonstration 1, of prompt 'train-1',"),
    ],
)
def test_a_token_beyond_the_model_s_rows_is_refused_wherever_it_stands(
    task: Task, demonstrated: int, words: str
) -> None:
    demonstrations = [given_trajectory(task.prompts()[0], ids(demonstrated), "demonstration")]
    with pytest.raises(ConfigError, match=f"{words} has token 13, beyond the 13 rows of tiny"):
        check_rows(task, demonstrations, ROWS, "tiny")
    check_rows(task, demonstrations, ROWS + 1, "tiny")
    check_rows(task, demonstrations, None, "tiny")


def test_an_error_in_score_requests_is_one_sentence() -> None:
    task = Texts()
    task._request = None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="It must return the requests of every prompt"):
        check_rows(task, [], ROWS, "tiny")
