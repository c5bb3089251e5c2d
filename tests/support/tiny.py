"""A model of about 80,000 weights and a target over 40 strings: tests run the real parts on them in seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from buffer.types import IntArray, PolicySpec, Prompt, Trajectory
from rewards.task import TRAIN, BaseLogProbs, Judges, Sample, Task, Terms
from tests.support.oracle import String, all_strings, log_sum

SYMBOLS = ("a", "b", "c")
MAX_ACTIONS = 3
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VOCABULARY = ["<pad>", "<s>", "</s>", "draw", "a", "b", "c", "."]


def make_tiny_model(folder: Path) -> Path:
    """A two-layer Llama with random weights and a word-level tokenizer, saved like any base model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, max_position_embeddings=128, initializer_range=0.3, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


class TinyTask(Task):
    """The 40 strings of at most three letters out of a, b, c; log R of each is drawn once from N(0, `spread`²), nats."""

    needs_base_model = False

    def __init__(self, tokenizer: Tokenizer, spread: float = 1.0, seed: int = 7) -> None:
        self._ids = [tokenizer.token_to_id(symbol) for symbol in SYMBOLS]
        self._prompt = Prompt("tiny", "draw", np.array(tokenizer.encode("draw").ids, dtype=np.int32))
        rng = np.random.default_rng(seed)
        self.log_r: dict[String, float] = {
            z: float(rng.normal(scale=spread)) for z in all_strings(len(SYMBOLS), MAX_ACTIONS)
        }

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        return [self._prompt]

    def string(self, token_ids: Sequence[int]) -> String:
        """Symbols 0..2 of the token ids."""
        return tuple(self._ids.index(int(t)) for t in token_ids)

    def tokens(self, string: String) -> IntArray:
        """Token ids of the symbols: the inverse of `string`."""
        return np.array([self._ids[v] for v in string], dtype=np.int32)

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        symbols = [self._ids.index(int(t)) if int(t) in self._ids else -1 for t in token_ids]
        return {"table": np.array([self.log_r.get(tuple(symbols[:i]), -20.0) for i in range(len(symbols) + 1)])}

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        return {"letters": float(len(token_ids))}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> dict[str, float]:
        drawn = [self.string(sample.token_ids) for sample in samples["tiny"]]
        log_z = log_sum(list(self.log_r.values()))
        tv = 0.5 * sum(abs(drawn.count(z) / len(drawn) - np.exp(r - log_z)) for z, r in self.log_r.items())
        return {"total_variation": float(tv), "samples": float(len(drawn))}

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        return {"tiny": [(self.tokens(z), r) for z, r in self.log_r.items()]}

    def log_mass(self) -> tuple[float, float]:
        return log_sum(list(self.log_r.values())), -1e9


def tiny_trajectory(task: TinyTask, string: String, pad_to: int | None = None, **changes: object) -> Trajectory:
    """A scored trajectory of a string, as a reward worker adds it. `pad_to` repeats its first letter to that length."""
    tokens = task.tokens(string)
    if pad_to is not None:
        tokens = np.append(tokens, np.full(pad_to - len(tokens), tokens[0], np.int32)).astype(np.int32)
    prompt = task.prompts()[0]
    n = len(tokens)
    fields: dict[str, object] = dict(
        prompt_id=prompt.id, prompt_token_ids=prompt.token_ids, token_ids=tokens, is_action=np.ones(n, np.bool_),
        log_pf=np.zeros(n, np.float32), log_pterm=np.zeros(n + 1, np.float32), policy_version=0, adapter_digest="00",
        behaviour="on_policy", task="tiny", sampled_at=0.0, sampling_s=0.0,
        log_reward=np.asarray(task.log_reward(prompt, tokens, [])["table"], np.float32)[None], reward_terms=("table",),
    )  # fmt: skip
    return Trajectory(**(fields | changes))  # type: ignore[arg-type]


def tiny_spec(folder: Path) -> PolicySpec:
    """The policy of the tiny model: only a, b, c and the stop can be sampled."""
    return PolicySpec(
        base_model=str(folder), dtype="float32", lora_rank=16, lora_alpha=16, lora_targets=LINEAR_LAYERS,
        stop_token_id=VOCABULARY.index("."), max_actions=MAX_ACTIONS, allowed_token_ids=tuple(VOCABULARY.index(s) for s in SYMBOLS),
    )  # fmt: skip


PACED = "buffer.samples_per_insert=5.0"
"""For a run whose distribution is judged: enough trajectories that none of the 40 strings stays unseen, however slow the
actor is. Without it 600 trajectories in the same steps left a string with 8 % of the mass unseen in one run of three."""


def tiny_recipe(model: Path) -> dict[str, Any]:
    """Sections of a recipe that trains the tiny model on `TinyTask`."""
    return {
        "model": {"name": str(model), "lora_rank": 16, "lora_alpha": 16, "lora_targets": list(LINEAR_LAYERS)},
        "policy": {"stop": ".", "max_actions": MAX_ACTIONS, "allowed_tokens": list(SYMBOLS)},
        "task": {"name": "tests.support.tiny:TinyTask"},
        "actors": {
            "max_model_len": 64, "max_in_flight": 64, "push_size": 16,
            "behaviours": [
                {"name": "on_policy", "weight": 1.0},
                {"name": "suppressed", "weight": 1.0, "suppress_stop": True},
                {"name": "hot", "weight": 2.0, "temperature_low": 2.0, "temperature_high": 2.0},
            ],
        },
        "buffer": {"capacity": 1000, "min_size_to_sample": 20},
        "learner": {"steps": 300, "batch_size": 64, "learning_rate": 5e-3, "decay_fraction": 0.7, "publish_every": 2},
        "evaluation": {"samples": 8000, "threads": 1},
    }  # fmt: skip
