"""Completions of an OpenAI-compatible server, as token ids with their log-probabilities."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Completion:
    """One response."""

    token_ids: Sequence[int]
    """With the stop, if it stopped."""
    log_probs: Sequence[float]
    """Of each token, nats."""
    finish_reason: str


def is_up(url: str) -> bool:
    """True once the server accepts requests."""
    try:
        with urllib.request.urlopen(f"{url}/health") as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def complete(url: str, model: str, prompt: Sequence[int], **parameters: Any) -> list[Completion]:
    """Responses to a prompt of token ids."""
    body = {"model": model, "prompt": list(prompt), "logprobs": 1, "return_tokens_as_token_ids": True, **parameters}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        choices = json.load(answer)["choices"]
    return [
        Completion(
            [int(token.partition(":")[2]) for token in choice["logprobs"]["tokens"]],
            choice["logprobs"]["token_logprobs"],
            choice["finish_reason"],
        )
        for choice in choices
    ]
