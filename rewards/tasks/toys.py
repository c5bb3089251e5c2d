"""Toys with an exact posterior: R is drawn once for every string of a few symbols, with or without a tool.

With symbols a and b, at most two of them, seed 0 and spread 1:

string   ""       a        b        aa       ab       ba       bb
log R     0.126   -0.132    0.640    0.105   -0.536    0.362    1.304     log Z = 2.372
share     0.106    0.082    0.177    0.104    0.055    0.134    0.344

With writes = {b = ["c"]} a tool turns "b" into "bc": the last string is then "bcbc", still of two actions. Strings
shorter than `min_actions` are not listed. All other strings together have at most 1e-4 of the mass of those listed,
whatever the vocabulary.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from lm.tokens import encode_behind, encode_prompt, find_token
from rewards.judging.binomial import binomial_share
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, Task, Terms

MAX_STRINGS = 10_000
FLOOR_SHARE = 1e-4
"""Mass of all other strings together, as a share of the target's mass."""


class SymbolTool:
    """A tool (buffer/tool.py) that writes fixed symbols after its triggers."""

    def __init__(self, writes: Mapping[int, Sequence[int]]) -> None:
        """`writes`: trigger token id -> the token ids that the tool writes."""
        self._writes = {trigger: np.array(written, dtype=np.int32) for trigger, written in writes.items()}
        self.triggers = frozenset(self._writes)
        self.max_tokens = max(map(len, self._writes.values()))

    def answer(self, token_ids: IntArray) -> IntArray:
        """The tokens to write after `token_ids` [T]; none unless the last one is a trigger."""
        return self._writes.get(int(token_ids[-1]), np.zeros(0, dtype=np.int32))


class ToyTask(Task):
    """log R ~ Normal(0, spread²) on every string of min_actions..max_actions symbols, drawn from a seed."""

    needs_base_model = False
    explanations: ClassVar[Mapping[str, str]] = {
        "total_variation": "Total variation distance of the samples from the exact posterior.",
        "noise_floor": "Mean total variation of as many exact draws.",
        "valid": "Share of samples that are strings of the table.",
        "log_z": "Exact log of the sum of R^(1/temperature), in nats.",
        "log_z_samples": "Estimate of log_z from the samples: log-mean-exp of log R / temperature - log q, in nats.",
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_actions: int,
        min_actions: int = 0,
        symbols: Sequence[str] = ("a", "b", "c"),
        writes: Mapping[str, Sequence[str]] | None = None,
        spread: float = 1.0,
        seed: int = 0,
        temperature: float = 1.0,
        prompt: str = "draw",
    ) -> None:
        """`max_actions` and `min_actions` must equal the policy's, and `temperature` the learner's last reward
        temperature, because samples are compared with R^(1/temperature). `writes`: symbol -> symbols that a tool writes
        after it.
        """
        _check_numbers(max_actions, min_actions, len(symbols), spread, temperature)
        ids = [_one_token(tokenizer, symbol) for symbol in symbols]
        if len(set(ids)) < len(ids):
            raise ValueError(f"symbols = {list(symbols)} has one token twice: give each symbol once")
        if writes:
            self.tool = _tool(tokenizer, symbols, writes)
        tokens = encode_prompt(tokenizer, prompt)
        if not len(tokens):
            raise ValueError(f"prompt = {prompt!r} has no token: write a word")
        self._prompt = Prompt("toy", prompt, tokens)
        self._temperature = self.mass_temperature = temperature
        strings = [s for n in range(min_actions, max_actions + 1) for s in itertools.product(ids, repeat=n)]
        values = np.random.default_rng(seed).normal(scale=spread, size=len(strings))
        self._log_r = {self._with_tool_text(s): float(v) for s, v in zip(strings, values, strict=True)}
        tempered = np.array(list(self._log_r.values())) / temperature
        self._log_z = float(np.logaddexp.reduce(tempered))
        self._posterior = np.exp(tempered - self._log_z)  # [K]
        # a model's vocabulary may be padded beyond the tokenizer's
        max_log_strings = math.log(2 * tokenizer.get_vocab_size() + 128) * max_actions + math.log(max_actions + 1)
        self._floor = temperature * (self._log_z + math.log(FLOOR_SHARE) - max_log_strings)

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The one prompt."""
        return [self._prompt]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`table` [T+1]: the string's value in the table, a constant floor for all other strings."""
        ids = token_ids.tolist()
        return {"table": np.array([self._log_r.get(tuple(ids[:i]), self._floor) for i in range(len(ids) + 1)])}

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """valid: 1 if the string is in the table."""
        return {"valid": float(tuple(token_ids.tolist()) in self._log_r)}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`."""
        drawn = samples[self._prompt.id]
        if not drawn:
            return {"log_z": self._log_z}
        counts = self.histogram(drawn)
        shares = counts / len(drawn)
        log_w = [sample.log_reward / self._temperature - sample.log_q for sample in drawn]
        return {
            "total_variation": 0.5 * float(np.abs(shares - self._posterior).sum() + 1.0 - shares.sum()),
            "noise_floor": expected_total_variation(self._posterior, len(drawn)),
            "valid": binomial_share(int(counts.sum()), len(drawn)),
            "log_z": self._log_z,
            "log_z_samples": float(np.logaddexp.reduce(log_w)) - math.log(len(drawn)),
        }

    def histogram(self, samples: Sequence[Sample]) -> NDArray[np.int_]:
        """[K] number of draws of each string of the table, in the order of `support`."""
        drawn = Counter(tuple(sample.token_ids.tolist()) for sample in samples)
        return np.array([drawn[string] for string in self._log_r])

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        """Every string of the table with its log R; the tool's text is part of the strings."""
        return {self._prompt.id: [(np.array(s, dtype=np.int32), value) for s, value in self._log_r.items()]}

    def log_mass(self) -> tuple[float, float]:
        """log Σ R^(1/temperature) over the table, and the bound of the floor's mass over all other strings."""
        return self._log_z, self._log_z + math.log(FLOOR_SHARE)

    def _with_tool_text(self, actions: Sequence[int]) -> tuple[int, ...]:
        """The string that these actions lead to, with the text that the tool writes."""
        string: list[int] = []
        for action in actions:
            string.append(action)
            if self.tool is not None and action in self.tool.triggers:
                string += self.tool.answer(np.array(string, dtype=np.int32)).tolist()
        return tuple(string)


def expected_total_variation(shares: NDArray[np.float64], draws: int) -> float:
    """Mean total variation between `shares` [K] and N independent draws from them, which is pure sampling noise.

    ½ Σ E|n_k/N − p_k|, with De Moivre's E|n − N p| = 2 (m+1) C(N, m+1) p^(m+1) (1−p)^(N−m) of a binomial, m = ⌊N p⌋.
    """
    total = 0.0
    for p in shares.tolist():
        m = math.floor(draws * p)
        if 0.0 < p < 1.0 and m < draws:
            log_choose = math.lgamma(draws + 1) - math.lgamma(m + 2) - math.lgamma(draws - m)
            log_mean = log_choose + math.log(m + 1) + (m + 1) * math.log(p) + (draws - m) * math.log1p(-p)
            total += 2.0 * math.exp(log_mean) / draws
    return 0.5 * total


def _check_numbers(max_actions: int, min_actions: int, symbols: int, spread: float, temperature: float) -> None:
    if not 0 <= min_actions <= max_actions or max_actions < 1:
        raise ValueError(
            f"min_actions = {min_actions} and max_actions = {max_actions} must be 0 <= min <= max and max >= 1: give "
            "the values of policy.min_actions and policy.max_actions"
        )
    if not symbols or spread < 0 or not temperature > 0:
        raise ValueError(
            f"symbols must not be empty, spread = {spread} must be at least 0 and temperature = {temperature} above 0"
        )
    if max_actions * math.log(symbols + 1) > math.log(MAX_STRINGS):  # (V+1)^N bounds the number of strings
        raise ValueError(
            f"{symbols} symbols and max_actions = {max_actions} make too many strings to list. Lower one of them until "
            f"(symbols + 1)^max_actions is at most {MAX_STRINGS:,}"
        )


def _tool(tokenizer: Tokenizer, symbols: Sequence[str], writes: Mapping[str, Sequence[str]]) -> SymbolTool:
    for trigger, written in writes.items():
        if trigger not in symbols or not written:
            raise ValueError(
                f"writes has {trigger!r} = {written!r}: the key must be one of symbols = {list(symbols)}, the "
                "value a list of at least one symbol"
            )
    return SymbolTool({_one_token(tokenizer, t): [_one_token(tokenizer, w) for w in ws] for t, ws in writes.items()})


def _one_token(tokenizer: Tokenizer, text: str) -> int:
    """The token with this name, or the only token of this text, as policy.allowed_tokens is parsed."""
    token = find_token(tokenizer, text)
    if token is None:
        ids = encode_behind(tokenizer, text).tolist()
        raise ValueError(
            f"{text!r} becomes {len(ids)} tokens: {ids}. Use a symbol that is one token of the model, such as a letter"
        )
    return token
