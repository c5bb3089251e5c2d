"""Rewards from an HTTP endpoint of the user's own.

    POST {"prompts": [...], "completions": [...], "columns": {"answer": [...]}}  ->  {"rewards": [1.0, null, ...]}

The answer may also be the bare list. null means no opinion.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import Field

from buffer.errors import RewardError
from rewards.verifiers.endpoint import Endpoint
from rewards.verifiers.verifier import Answers, Grade, Verifier, VerifierSettings


class EndpointSettings(VerifierSettings):
    """Fields of verifiers that send requests."""

    url: str = Field(pattern=r"^https?://")
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with a bearer token, set where the reward workers run."""
    limit_s: float = Field(default=60.0, gt=0.0)
    """Time limit of one request, s."""
    patience_s: float = Field(default=240.0, gt=0.0)
    """Time for which an endpoint that is down is tried again, s. Then its strings go to quarantine. Below
    actors.advanced.wait_limit_s and learner.advanced.wait_limit_s, which end a run."""
    max_requests: int = Field(default=4, ge=1)
    """Largest number of requests in flight, for each reward worker."""

    @property
    def longest_wait_s(self) -> float:
        """Its patience, and the last request."""
        return self.patience_s + self.limit_s


class Http(EndpointSettings):
    """{kind = "http", url = "https://..."}"""

    kind: Literal["http"]
    batch_size: int = Field(default=32, ge=1)
    """Answers in one request."""
    highest: float | None = None
    """The largest number that it answers. With it `evaluate` can draw from the target exactly."""

    @property
    def highest_reward(self) -> float | None:
        """As the recipe says."""
        return self.highest

    def build(self) -> Verifier:
        """Never fails: whether the endpoint answers shows at the first call."""
        endpoint = Endpoint(self.url, self.token_env, self.limit_s, self.patience_s)

        def one(answers: Answers, deadline: float) -> Sequence[Grade]:
            body = {"prompts": answers.prompts, "completions": answers.completions, "columns": answers.columns}
            try:
                return _grades(endpoint.post(body, deadline), len(answers.texts), self.url)
            except RewardError as error:
                return [error] * len(answers.texts)

        def verify(answers: Answers) -> list[Grade]:
            deadline, parts = endpoint.deadline(), list(_parts(answers, self.batch_size))
            with ThreadPoolExecutor(self.max_requests) as threads:
                return [grade for part in threads.map(one, parts, [deadline] * len(parts)) for grade in part]

        return verify


def _parts(answers: Answers, size: int) -> Iterator[Answers]:
    for i in range(0, len(answers.texts), size):
        part = slice(i, i + size)
        columns = {name: values[part] for name, values in answers.columns.items()}
        yield Answers(answers.prompts[part], answers.completions[part], answers.texts[part], columns)


def _grades(answer: object, n: int, url: str) -> list[Grade]:
    rewards = answer.get("rewards") if isinstance(answer, dict) else answer
    if not isinstance(rewards, list) or len(rewards) != n:
        count = f" with {len(rewards)} values" if isinstance(rewards, list) else ""
        raise RewardError(f'{url} must answer {{"rewards": [...]}} with {n} values, but answered {answer!r:.80}{count}')
    return [_grade(reward, url) for reward in rewards]


def _grade(reward: object, url: str) -> Grade:
    if reward is None:
        return None
    if isinstance(reward, int | float) and math.isfinite(reward):
        return float(reward)
    return RewardError(f"{url} answered the reward {reward!r:.80}: it must be a finite number or null")
