"""Packed passes of the frozen model against plain ones: one call of the model per prefix."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PretrainedConfig,
)

from buffer.errors import ConfigError
from buffer.types import IntArray, PolicySpec, Prompt, given_trajectory
from learner.batch import collate
from learner.policy import LoraPolicy
from lm.attention import PackedAttention
from lm.load import _proof_tokens
from lm.packing import ScoredRow, pack, scoring_passes
from rewards.base_model import BaseModel
from rewards.task import BaseLogProbs, ScoreRequest
from tests.support.tiny import LINEAR_LAYERS, VOCABULARY

LIMIT = 1e-3
"""Largest difference in nats, fp32."""
CPU = torch.device("cpu")
TOKENS = st.integers(3, len(VOCABULARY) - 1)


def ids(tokens: Sequence[int]) -> IntArray:
    return np.array(tokens, dtype=np.int32)


def plain_model(folder: Path | str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, attn_implementation="eager"
    ).eval()


@torch.inference_mode()
def naive(model: Any, spec: PolicySpec, request: ScoreRequest, response: IntArray) -> BaseLogProbs:
    """The scores of a response of n tokens by n + 1 passes of [X][z_1:i][Y]."""
    allowed = sorted({*(spec.allowed_token_ids or ()), spec.stop_token_id})
    tokens, stop, target = [], [], []
    for i in range(len(response) + 1):
        text = np.concatenate([request.context, response[:i], request.target])
        logits = model(input_ids=torch.from_numpy(text)[None].long()).logits[0]
        begin = len(request.context) + i
        plain = logits.log_softmax(-1)
        at_prefix = logits[begin - 1]
        log_p = at_prefix - at_prefix[allowed].logsumexp(-1) if request.masked else plain[begin - 1]
        stop.append(float(log_p[spec.stop_token_id]))
        if i < len(response):
            tokens.append(float(log_p[int(response[i])]))
        target.append(sum(float(plain[begin - 1 + j, int(y)]) for j, y in enumerate(request.target)))
    return BaseLogProbs(*(np.array(x, dtype=np.float32) for x in (tokens, stop, target)))


def difference(scores: BaseLogProbs, expected: BaseLogProbs) -> float:
    """Largest difference of any log-probability, nats."""
    pairs = [(getattr(scores, name), getattr(expected, name)) for name in ("tokens", "stop", "target")]
    assert all(a.shape == b.shape and a.dtype == np.float32 for a, b in pairs)
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrix products this small are slower on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    return plain_model(tiny_model)


@pytest.fixture(scope="module")
def models(tiny_spec: PolicySpec) -> Callable[[int], BaseModel]:
    """max_tokens of a pass -> the model; each is loaded once."""
    loaded: dict[int, BaseModel] = {}

    def of(max_tokens: int) -> BaseModel:
        if max_tokens not in loaded:
            loaded[max_tokens] = BaseModel(tiny_spec, CPU, max_tokens)
        return loaded[max_tokens]

    return of


Contexts = st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=3)
Targets = st.lists(st.lists(TOKENS, max_size=4), min_size=1, max_size=2)
LETTERS = st.integers(VOCABULARY.index("a"), VOCABULARY.index("c"))


@settings(max_examples=100, deadline=None)
@given(Contexts, Targets, st.data())
def test_packed_passes_agree_with_one_pass_per_prefix(
    plain: Any,
    tiny_spec: PolicySpec,
    models: Callable[[int], BaseModel],
    contexts: list[list[int]],
    targets: list[list[int]],
    data: st.DataObject,
) -> None:
    requests, responses = [], []
    for _ in range(data.draw(st.integers(1, 5), "rows")):
        context, target = ids(data.draw(st.sampled_from(contexts))), ids(data.draw(st.sampled_from(targets)))
        requests.append(ScoreRequest(context, target, masked=data.draw(st.booleans(), "masked")))
        responses.append(ids(data.draw(st.lists(LETTERS, max_size=6), "response")))
    for twice in range(data.draw(st.integers(0, 1), "duplicated")):
        requests.append(requests[twice])
        responses.append(responses[twice])
    model = models(data.draw(st.sampled_from([1, 12, 30, 8192]), "max_tokens"))
    base_scores = model.score(requests, responses)
    for request, response, scores in zip(requests, responses, base_scores, strict=True):
        assert difference(scores, naive(plain, tiny_spec, request, response)) < LIMIT
    order = data.draw(st.permutations(range(len(requests))))
    reordered = model.score([requests[k] for k in order], [responses[k] for k in order])
    for k, scores in zip(order, reordered, strict=True):
        assert difference(scores, base_scores[k]) < LIMIT


def test_a_fixed_batch_scores_the_same_to_the_bit_twice(tiny_spec: PolicySpec) -> None:
    rng = np.random.default_rng(0)
    requests = [ScoreRequest(ids([3, 4]), ids(rng.integers(3, 60, 5).tolist()), k % 2 == 0) for k in range(8)]
    responses = [ids(rng.integers(3, 60, k).tolist()) for k in range(8)]
    model = BaseModel(tiny_spec, CPU)
    first = model.score(requests, responses)
    model.score(requests[:3], responses[:3])
    for before, after in zip(first, model.score(requests, responses), strict=True):
        assert before.tokens.tobytes() == after.tokens.tobytes()
        assert before.stop.tobytes() == after.stop.tobytes()
        assert before.target.tobytes() == after.target.tobytes()


def test_a_token_that_is_not_allowed_has_a_finite_log_p_of_at_most_0(
    tiny_spec: PolicySpec, models: Callable[[int], BaseModel]
) -> None:
    response = ids(range(64))
    [scores] = models(8192).score([ScoreRequest(ids([3]), masked=True)], [response])
    assert np.isfinite(scores.tokens).all() and (scores.tokens <= 0).all()


def test_targets_behind_some_prefixes_are_those_of_all_and_fill_the_places_before_them(
    models: Callable[[int], BaseModel],
) -> None:
    request, response = ScoreRequest(ids([3, 4]), ids([2, 6, 2])), ids([5, 6, 5, 7])
    behind = ids([1, 3, 4])
    for room in (8192, 16):
        [whole], [some] = (
            models(room).score([r], [response]) for r in (request, replace(request, at_stops=True, behind=behind))
        )
        assert some.target == pytest.approx(whole.target[[1, 1, 3, 3, 4]], abs=1e-5)
        assert some.tokens == pytest.approx(whole.tokens, abs=1e-5)
        assert some.stop == pytest.approx(whole.stop, abs=1e-5)


def test_no_request_gives_no_score(models: Callable[[int], BaseModel]) -> None:
    assert models(8192).score([], []) == []


def test_a_budget_cuts_a_response_into_passes_of_at_most_that_many_tokens() -> None:
    rng = np.random.default_rng(0)
    rows = [
        ScoredRow(k, ids(rng.integers(9, size=5).tolist()), ids(rng.integers(9, size=10).tolist()), ids([1, 2, 3, 4]), np.arange(11), False)
        for k in range(3)
    ]  # fmt: skip
    parts = list(scoring_passes(rows, 30))
    assert max(len(pack(part, 0).tokens) for part in parts) <= 30
    prefixes = sorted((row.row, i) for part in parts for row in part for i in row.prefixes.tolist())
    assert prefixes == [(row, i) for row in range(3) for i in range(11)], "every prefix once"


def saved(config: PretrainedConfig, model_class: Any, folder: Path) -> str:
    torch.manual_seed(0)
    model_class(config).to(torch.float32).save_pretrained(folder)
    return str(folder)


SIZES: dict[str, Any] = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    initializer_range=0.3,
)  # fmt: skip


CAPS = dict(SIZES, final_logit_softcapping=1.0, attn_logit_softcapping=1.0, sliding_window=8)
SUPPORTED: dict[str, tuple[PretrainedConfig, Any]] = {
    "full": (MistralConfig(**SIZES, sliding_window=None), MistralForCausalLM),
    "window": (MistralConfig(**SIZES, sliding_window=8), MistralForCausalLM),
    "window and caps": (Gemma2Config(**CAPS), Gemma2ForCausalLM),
    "logits scaled": (GraniteConfig(**SIZES, logits_scaling=4.0), GraniteForCausalLM),
    "bias of the output layer": (PhiConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}), PhiForCausalLM),
}


@pytest.mark.parametrize("kind", SUPPORTED)
def test_windows_caps_biases_and_scales_are_computed(tiny_spec: PolicySpec, tmp_path: Path, kind: str) -> None:
    """By the frozen model for prefixes and targets, and by the learner for branches, on strings longer than the window."""
    folder = saved(*SUPPORTED[kind], tmp_path)
    spec, plain = replace(tiny_spec, base_model=folder, allowed_token_ids=None), plain_model(folder)
    rng = np.random.default_rng(0)
    request = ScoreRequest(ids(rng.integers(64, size=12).tolist()), ids(rng.integers(64, size=3).tolist()))
    responses = [ids([5, 6, *rng.integers(64, size=6).tolist()]) for _ in "abc"]
    expected = [naive(plain, spec, request, response) for response in responses]
    for score, one in zip(BaseModel(spec, CPU).score([request] * 3, responses), expected, strict=True):
        assert difference(score, one) < LIMIT
    prompt = Prompt("p", "", request.context)
    rows = [given_trajectory(prompt, z, "on_policy", np.zeros((1, len(z) + 1), np.float32), ("r",)) for z in responses]
    spec = replace(spec, max_actions=10, min_actions=0)
    with torch.no_grad():
        scored = LoraPolicy(spec, CPU).log_probs(collate(rows, spec))
    assert np.abs(scored.log_pf.numpy() - [one.tokens for one in expected]).max() < LIMIT
    assert np.abs(scored.log_pterm.numpy() - [one.stop for one in expected]).max() < LIMIT


REFUSED: list[tuple[str, PretrainedConfig, Any]] = [
    ("0 of its 2 layers use", BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2), BloomForCausalLM),
    ("1 of its 2 layers use", Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]), Lfm2ForCausalLM),
    ("does not know the attention", FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2), FalconForCausalLM),
    ("0 of its 2 layers use", MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4), MambaForCausalLM),
]  # fmt: skip


@pytest.mark.parametrize("load", [BaseModel, LoraPolicy], ids=["frozen model", "policy"])
@pytest.mark.parametrize(("reason", "config", "model_class"), REFUSED, ids=[type(case[1]).__name__ for case in REFUSED])
def test_a_model_whose_tokens_meet_outside_of_attention_is_refused_by_both_sides(
    tiny_spec: PolicySpec, tmp_path: Path, reason: str, config: PretrainedConfig, model_class: Any, load: Any
) -> None:
    folder = saved(config, model_class, tmp_path)
    with pytest.raises(ConfigError, match=reason):
        load(replace(tiny_spec, base_model=folder), CPU)


def test_a_window_too_wide_for_a_proof_does_not_make_it_longer(tiny_spec: PolicySpec, tmp_path: Path) -> None:
    """As Phi-3.5's, whose window is wider than any string of a run."""
    config = MistralConfig(**dict(SIZES, max_position_embeddings=131072), sliding_window=262144)
    assert _proof_tokens(config) < 100
    request, response = ScoreRequest(ids([3, 4]), ids([5, 6, 7])), ids([4, 5])
    folder = saved(config, MistralForCausalLM, tmp_path)
    spec = replace(tiny_spec, base_model=folder)
    [score] = BaseModel(spec, CPU).score([request], [response])
    assert difference(score, naive(plain_model(folder), spec, request, response)) < LIMIT


def test_the_proof_sees_a_window_that_is_not_computed(
    tiny_spec: PolicySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(MistralConfig(**SIZES, sliding_window=8), MistralForCausalLM, tmp_path)
    monkeypatch.setattr(PackedAttention, "_mask", partialmethod_without_window(PackedAttention._mask))
    with pytest.raises(ConfigError, match="where a plain one gives"):
        BaseModel(replace(tiny_spec, base_model=folder), CPU)


def partialmethod_without_window(mask: Any) -> Any:
    return lambda self, window, dtype: mask(self, None, dtype)


def adapted(base: Path, folder: Path, targets: Sequence[str] = LINEAR_LAYERS) -> Any:
    """The tiny model under a random adapter, which is saved in `folder`."""
    model = get_peft_model(plain_model(base), LoraConfig(r=4, lora_alpha=8, target_modules=list(targets)))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model.eval()


def test_an_adapter_is_merged_into_the_frozen_weights(
    tiny_model: Path, tiny_spec: PolicySpec, models: Callable[[int], BaseModel], tmp_path: Path
) -> None:
    under = adapted(tiny_model, tmp_path)
    request, response = ScoreRequest(ids([3, 4]), ids([5, 6, 7])), ids([4, 5, 6])
    [scores] = BaseModel(tiny_spec, CPU, adapter=tmp_path).score([request], [response])
    expected = naive(under, tiny_spec, request, response)
    assert difference(scores, expected) < LIMIT
    [without] = models(8192).score([request], [response])
    assert difference(without, expected) > 10 * LIMIT


def test_a_folder_without_an_adapter_of_this_model_is_refused(
    tiny_model: Path, tiny_spec: PolicySpec, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        BaseModel(tiny_spec, CPU, adapter=tmp_path)
    other = saved(MistralConfig(**SIZES, sliding_window=None), MistralForCausalLM, tmp_path / "other")
    adapted(Path(other), tmp_path / "shapes")
    with pytest.raises(ConfigError, match="does not load"):
        BaseModel(tiny_spec, CPU, adapter=tmp_path / "shapes")
    adapted(tiny_model, tmp_path / "names", targets=("q_proj", "v_proj"))
    config = tmp_path / "names" / "adapter_config.json"
    config.write_text(config.read_text().replace("v_proj", "k_proj"))
    with pytest.raises(ConfigError, match="8 of whose tensors have no place"):
        BaseModel(tiny_spec, CPU, adapter=tmp_path / "names")
