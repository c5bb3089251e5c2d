"""A language model as judge, on any endpoint with the chat interface of OpenAI, such as `vllm serve`."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import Field

from buffer.errors import RewardError
from rewards.tasks.custom_rows import Template
from rewards.verifiers.endpoint import Endpoint
from rewards.verifiers.http import EndpointSettings
from rewards.verifiers.text import last_number
from rewards.verifiers.verifier import Answers, Grade, Verifier

QUESTION = (
    "Here is a question and an answer.\n\nQuestion: {prompt}\n\nAnswer: {completion}\n\n"
    "How good is the answer, from 0 (useless) to 10 (perfect)? Reply with the number only."
)


class Judge(EndpointSettings):
    """{kind = "judge", url = "http://localhost:8000/v1/chat/completions", model = "..."}"""

    kind: Literal["judge"]
    model: str
    question: str = QUESTION
    """What the judge is sent: a template with {prompt}, {completion} and the columns of the row."""
    perfect: float = Field(default=10.0, gt=0.0)
    """The number for a perfect answer; r is the judge's number divided by it."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest reply."""

    def build(self) -> Verifier:
        """ValueError for a bad template."""
        endpoint = Endpoint(self.url, self.token_env, self.limit_s, self.patience_s)
        template = Template(self.question, "question")

        def verify(answers: Answers) -> list[Grade]:
            deadline = endpoint.deadline()

            def one(i: int) -> Grade:
                return self._one(endpoint, template, answers, i, deadline)

            with ThreadPoolExecutor(self.max_requests) as threads:
                return list(threads.map(one, range(len(answers.texts))))

        return verify

    def _one(self, endpoint: Endpoint, template: Template, answers: Answers, i: int, deadline: float) -> Grade:
        row = {name: values[i] for name, values in answers.columns.items()}
        try:
            question = template.fill(
                {**row, "prompt": plain(answers.prompts[i]), "completion": answers.texts[i]}, "the row"
            )
            body = {
                "model": self.model,
                "messages": [{"role": "user", "content": question}],
                "temperature": 0.0,
                "max_tokens": self.max_tokens,
            }
            return self._number(endpoint.post(body, deadline))
        except (RewardError, ValueError) as error:
            return error if isinstance(error, RewardError) else RewardError(str(error))

    def _number(self, answer: Any) -> Grade:
        try:
            reply = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            return RewardError(f"the judge at {self.url} answered no chat completion: {answer!r:.80}")
        if (number := last_number(re.sub(r"(?s)<think>.*?</think>", "", str(reply)))) is None:
            return RewardError(f"the judge {self.model!r} gave no number: {reply!r:.80}")
        if not 0.0 <= number <= self.perfect:
            return RewardError(f"the judge {self.model!r} gave {number:g}, which is not in 0..{self.perfect:g}")
        return number / self.perfect


def plain(prompt: object) -> str:
    """A prompt as text: that of the last message of a conversation."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping):
        return str(prompt[-1].get("content", ""))
    return str(prompt)
