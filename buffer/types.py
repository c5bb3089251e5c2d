"""The types that cross a process boundary.

Shapes    P prompt tokens, T response tokens, K reward terms.  Logs are natural, in nats.
Prefixes  position i in 0..T stands for the prefix z_1:i; log_pterm and log_reward have T+1 entries, log_pf has T.
States    a prefix is a *state* when the policy chooses what comes next (is_action[i]) or when it is the whole string
          (i = T). Without tools every prefix is a state.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

NOT_SCORED = np.zeros((0, 0), dtype=np.float32)
"""`log_reward` of a trajectory that no reward worker has seen: no terms."""


def prompt_digest(prompt_id: str) -> bytes:
    """8 bytes that identify a prompt in every process."""
    return hashlib.blake2b(prompt_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def content_id(prompt_id: str, prompt_token_ids: IntArray, token_ids: IntArray) -> str:
    """32 hex digits that identify a response [T] to a prompt [P]: equal content, equal id."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        prompt_id.encode("utf-8", "surrogatepass"),
        prompt_token_ids.astype("<i4").tobytes(),
        token_ids.astype("<i4").tobytes(),
    ):
        digest.update(struct.pack("<Q", len(part)))  # so that no two splits of the same bytes are equal
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A condition X: the policy's context before it acts."""

    id: str
    """Unique within a task."""
    text: str
    token_ids: IntArray
    """[P] the policy's context, with the special tokens that the model expects in front."""
    fields: Mapping[str, str | int | float] = field(default_factory=dict)
    """Data for the task only, such as the target Y."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled response Z with its log-probabilities, scores and origin. Immutable once scored."""

    prompt_id: str
    prompt_token_ids: IntArray
    """[P]"""
    token_ids: IntArray
    """[T] the response; the stop token is not part of it."""
    is_action: BoolArray
    """[T] false where a tool wrote the token."""
    log_pf: FloatArray
    """[T] log q(z_i | z_1:i-1) when it was sampled, under the untempered policy, nats; 0 where a tool wrote."""
    log_pterm: FloatArray
    """[T+1] log q(stop | z_1:i) likewise; 0 after the last allowed action, where stopping is forced; -inf where it is
    not allowed."""
    policy_version: int
    """Version of the adapter that sampled it; staleness = newest version - policy_version."""
    adapter_digest: str
    """sha256 (hex) of the adapter's safetensors bytes."""
    behaviour: str
    """Sampling behaviour: on_policy, tempered, suppressed, ..."""
    task: str
    sampled_at: float
    """Unix time, s."""
    sampling_s: float
    """Time from request to last token, s."""
    log_reward: FloatArray = field(default_factory=lambda: NOT_SCORED)
    """[K, T+1] log R(z_1:i stop), untempered, term by term; log R is the sum over terms. Finite at every state.
    [K, 1] where only the whole string has a reward, as with a verifier."""
    reward_terms: tuple[str, ...] = ()
    """[K] names of the terms."""
    labels: Mapping[str, float] = field(default_factory=dict)
    """The task's labels of the whole string, for people to read (such as valid = 1)."""
    scoring_s: float = 0.0

    @property
    def content_id(self) -> str:
        """32 hex digits: the same for the same response to the same prompt, whoever sampled it."""
        return content_id(self.prompt_id, self.prompt_token_ids, self.token_ids)

    @property
    def is_scored(self) -> bool:
        """True once a reward worker has filled `log_reward`."""
        return len(self.reward_terms) > 0

    @property
    def has_reward(self) -> BoolArray:
        """[T+1] true at prefixes that have a reward: all states, or the end alone."""
        if self.log_reward.shape[-1] == len(self.token_ids) + 1:
            return self.is_state
        end = np.zeros(len(self.token_ids) + 1, dtype=np.bool_)
        end[-1] = True
        return end

    @property
    def is_state(self) -> BoolArray:
        """[T+1] true at prefixes where the policy chooses what comes next, and at the end; see the module docstring."""
        return np.append(self.is_action, True)


def total_log_reward(trajectory: "Trajectory", weights: Mapping[str, float]) -> FloatArray:
    """[T+1] log R(z_1:i stop), nats, untempered: the weighted sum of the terms; weights default to 1. [1], that of the
    whole string, where no other prefix has a reward.

    A term whose name begins with "_" is a note and has weight 0.
    """
    term_weights = [0.0 if name.startswith("_") else weights.get(name, 1.0) for name in trajectory.reward_terms]
    return np.asarray(np.array(term_weights, dtype=np.float32) @ trajectory.log_reward, dtype=np.float32)


def given_trajectory(
    prompt: Prompt,
    token_ids: IntArray,
    behaviour: str,
    log_reward: FloatArray = NOT_SCORED,
    reward_terms: tuple[str, ...] = (),
    is_action: BoolArray | None = None,
) -> Trajectory:
    """A string [T] that no policy sampled: a demonstration, a string of a list, the empty one.

    Every token is an action unless `is_action` [T] is given.
    """
    n = len(token_ids)
    return Trajectory(
        prompt_id=prompt.id,
        prompt_token_ids=prompt.token_ids,
        token_ids=token_ids,
        is_action=np.ones(n, dtype=np.bool_) if is_action is None else is_action,
        log_pf=np.zeros(n, dtype=np.float32),
        log_pterm=np.zeros(n + 1, dtype=np.float32),
        policy_version=0,
        adapter_digest="",
        behaviour=behaviour,
        task="",
        sampled_at=0.0,
        sampling_s=0.0,
        log_reward=log_reward,
        reward_terms=reward_terms,
    )


@dataclass(frozen=True, slots=True)
class Canary:
    """Fixed tokens with their log-probabilities under an adapter: proves that an actor serves this adapter."""

    prompt_token_ids: IntArray
    """[P]"""
    token_ids: IntArray
    """[T]"""
    log_probs: FloatArray
    """[T] nats, computed by the learner under this adapter."""
    tolerance: float
    """Mean |difference| over the tokens, nats, that rounding seldom exceeds (actors/canary.py)."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One published state of the policy."""

    number: int
    """0 is the untrained adapter, equal to the base model."""
    digest: str
    """sha256 (hex) of the safetensors bytes."""
    learner_step: int
    canary: Canary


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A PEFT adapter folder in memory."""

    weights: bytes
    """adapter_model.safetensors"""
    config_json: str
    """adapter_config.json"""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """The definition of the policy that actor and learner share."""

    base_model: str
    """Local folder with config.json, tokenizer.json and safetensors."""
    dtype: str
    """Dtype of the weights: float32, bfloat16 or float16. Log-probabilities and losses are always fp32."""
    lora_rank: int
    lora_alpha: int
    lora_targets: tuple[str, ...]
    stop_token_id: int
    max_actions: int
    """Stopping is forced after this many: log q(stop | z_1:N) = 0."""
    min_actions: int = 0
    """Stopping is masked before this many."""
    allowed_token_ids: tuple[int, ...] | None = None
    """When given, q is renormalised over these and the stop token, in sampling and in the loss."""
    forbidden_token_ids: tuple[int, ...] = ()
    """q is renormalised over all others, in sampling and in the loss. Not together with `allowed_token_ids`."""
    quantization: str = "none"
    """Quantization of the base weights under the adapter: none, or nf4 (4 bits; Dettmers et al., arXiv 2305.14314)."""

    @property
    def is_masked(self) -> bool:
        """Whether q is renormalised over a part of the vocabulary."""
        return self.allowed_token_ids is not None or bool(self.forbidden_token_ids)

    def permits(self, token_ids: IntArray) -> BoolArray:
        """Elementwise: whether q may choose the token, as an action or as the stop."""
        if self.allowed_token_ids is not None:
            return np.isin(token_ids, [*self.allowed_token_ids, self.stop_token_id])
        return ~np.isin(token_ids, self.forbidden_token_ids)
