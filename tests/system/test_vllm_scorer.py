"""The vLLM scorer gives the same log-probabilities as the transformers scorer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from buffer.errors import ConfigError
from buffer.types import IntArray, PolicySpec
from rewards.base_model import BaseModel
from rewards.task import ScoreRequest
from rewards.vllm_scorer import VllmScorer

LIMIT = 1e-3
"""Largest difference in nats, fp32."""


@pytest.fixture(scope="module")
def scorer(tiny_spec: PolicySpec) -> VllmScorer:
    """One engine for all tests of this file: it takes half a minute to start."""
    return VllmScorer(tiny_spec, on_gpu=False, max_model_len=64)


def ids(*tokens: int) -> IntArray:
    return np.array(tokens, dtype=np.int32)


@pytest.mark.parametrize("mask", ["allowed", "forbidden"])
def test_both_scorers_agree_at_every_prefix(
    tiny_spec: PolicySpec, scorer: VllmScorer, monkeypatch: pytest.MonkeyPatch, mask: str
) -> None:
    if mask == "forbidden":  # a few: what they leave is known to fp32's precision over its mass
        tiny_spec = replace(tiny_spec, allowed_token_ids=None, forbidden_token_ids=(20, 21, 22, 23))
        monkeypatch.setattr(scorer, "_spec", tiny_spec)
    rng = np.random.default_rng(0)
    contexts = [ids(3), ids(3, 4, 5, 6), rng.integers(3, 60, 40).astype(np.int32)]
    requests, responses = [], []
    for k in range(18):
        requests.append(ScoreRequest(contexts[k % 3], masked=k % 2 == 0))
        responses.append(rng.integers(4, 7 if k < 9 else 60, k % 7).astype(np.int32))
    plain = BaseModel(tiny_spec, torch.device("cpu"))
    for _ in range(2):  # the second time from the prefix cache
        by_vllm, by_transformers = scorer.score(requests, responses), plain.score(requests, responses)
        for ours, expected in zip(by_vllm, by_transformers, strict=True):
            for name in ("tokens", "stop", "target"):
                assert getattr(ours, name) == pytest.approx(getattr(expected, name), abs=LIMIT)


def test_a_target_or_a_text_that_is_too_long_is_refused(scorer: VllmScorer) -> None:
    with pytest.raises(ConfigError, match="target of 2 tokens"):
        scorer.score([ScoreRequest(ids(3), ids(4, 5))], [ids(4)])
    with pytest.raises(ConfigError, match="57 tokens and a response of 7 exceed the 63 tokens"):
        scorer.score([ScoreRequest(ids(*range(3, 60)))], [ids(*[4] * 7)])
