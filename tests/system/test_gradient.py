"""The gradient is the same however a batch is split: into passes, over ranks, with or without checkpointing."""

import functools
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from peft import LoraConfig
from tokenizers import Tokenizer
from torch import multiprocessing

from buffer.errors import AdapterError, ConfigError
from buffer.types import PolicySpec, Trajectory
from learner.batch import collate
from learner.config import ON_POLICY_OBJECTIVES
from learner.data_parallel import DataParallel, listen_at
from learner.gradient import Gradient
from learner.objectives import OBJECTIVES
from learner.policy import LoraPolicy
from lm import attention
from tests.support.tiny import TinyTask, tiny_trajectory

LAMBDA = 0.8


def policy(spec: PolicySpec, gradient_checkpointing: bool = False) -> LoraPolicy:
    """A policy whose adapter is not the identity, the same in every process."""
    torch.manual_seed(1)
    result = LoraPolicy(spec, torch.device("cpu"), gradient_checkpointing)
    for name, parameter in result.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return result


def mixed_rows(model: Path, count: int = 64) -> list[Trajectory]:
    """Ragged strings of three prompts of different lengths, some with a tool's text."""
    task = TinyTask(Tokenizer.from_file(str(model / "tokenizer.json")))
    rng, strings = np.random.default_rng(2), list(task.log_r)
    rows = []
    for k in range(count):
        row = tiny_trajectory(task, strings[int(rng.integers(len(strings)))])
        prompt = int(rng.integers(3))
        acts = row.is_action.copy()
        if len(acts) == 3 and k % 4 == 0:
            acts[1] = False
        ids = np.concatenate([row.prompt_token_ids, row.prompt_token_ids[:1].repeat(prompt)])
        rows.append(replace(row, prompt_id=f"p{prompt}", prompt_token_ids=ids, is_action=acts))
    return rows


def gradient(
    q: LoraPolicy,
    rows: list[Trajectory],
    objective: str,
    max_tokens: int = 0,
    data_parallel: DataParallel | None = None,
) -> tuple[torch.Tensor, float, torch.Tensor]:
    """(gradient, loss, residuals)."""
    parameters = q.trainable_parameters()
    _, loss = Gradient(q, parameters, objective, LAMBDA, data_parallel or DataParallel()).compute(
        collate(rows, q.spec, max_tokens), temperature=1.3
    )
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return flat, float(loss.value.detach()), loss.residual


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def plain_row(q: LoraPolicy, row: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """(log_pf [T], log_pterm [T+1]) of one string by one causal pass of transformers, all logits kept, loops for the rules."""
    spec = q.spec
    ids = torch.tensor([[*row.prompt_token_ids.tolist(), *row.token_ids.tolist()]])
    logits = q.model(input_ids=ids).logits[0, len(row.prompt_token_ids) - 1 :].float()
    assert spec.allowed_token_ids is not None
    banned = torch.ones(logits.shape[-1], dtype=torch.bool)
    banned[[*spec.allowed_token_ids, spec.stop_token_id]] = False
    log_q = logits.masked_fill(banned, -torch.inf).log_softmax(-1)
    nothing, actions = torch.zeros(()), 0
    log_pf, log_pterm = [], []
    for i in range(len(row.token_ids) + 1):
        end = i == len(row.token_ids)
        acts = not end and bool(row.is_action[i])
        log_pterm.append(log_q[i, spec.stop_token_id] if (end or acts) and actions < spec.max_actions else nothing)
        if not end:
            log_pf.append(log_q[i, int(row.token_ids[i])] if acts else nothing)
            actions += acts
    return torch.stack(log_pf) if log_pf else torch.zeros(0), torch.stack(log_pterm)


def test_the_packed_pass_has_the_values_and_the_gradient_of_plain_causal_passes(
    tiny_spec: PolicySpec, tiny_model: Path
) -> None:
    """Ragged strings, tool tokens and several prompts in one batch."""
    q, rows = policy(tiny_spec), mixed_rows(tiny_model, 32)
    assert len({len(r.token_ids) for r in rows}) > 2 and len({r.prompt_id for r in rows}) == 3
    assert any(not r.is_action.all() for r in rows)
    packed = q.log_probs(collate(rows, tiny_spec))
    plain = [plain_row(q, row) for row in rows]
    for k, (log_pf, log_pterm) in enumerate(plain):
        assert float((packed.log_pf[k, : len(log_pf)] - log_pf).detach().abs().sum()) < 1e-4
        assert float((packed.log_pterm[k, : len(log_pterm)] - log_pterm).detach().abs().max()) < 1e-4

    parameters = q.trainable_parameters()
    weights = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(4))
    ours = (packed.log_pf.sum(1) * weights[:, 0] + packed.log_pterm.sum(1) * weights[:, 1]).sum()
    theirs = sum(pf.sum() * w[0] + pt.sum() * w[1] for (pf, pt), w in zip(plain, weights, strict=True))
    flat = [torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)]) for total in (ours, theirs)]
    assert relative(flat[0], flat[1]) < 1e-4


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_many_small_passes_give_the_gradient_of_one(tiny_spec: PolicySpec, tiny_model: Path, objective: str) -> None:
    q, rows = policy(tiny_spec), mixed_rows(tiny_model, 24)
    whole, loss, _ = gradient(q, rows, objective)
    assert float(whole.norm()) > 0
    assert len(collate(rows, tiny_spec, 10).parts) > 5
    parts, loss_of_parts, _ = gradient(q, rows, objective, max_tokens=10)
    assert relative(parts, whole) < 1e-5 and loss_of_parts == pytest.approx(loss, rel=1e-6)


def test_a_pass_holds_no_more_tokens_than_allowed_and_every_row_is_in_one(
    tiny_spec: PolicySpec, tiny_model: Path
) -> None:
    rows = mixed_rows(tiny_model, 40)
    batch = collate(rows, tiny_spec, max_tokens=12)
    assert max(len(part.tree.tokens) for part in batch.parts) <= 12
    assert sorted(int(k) for part in batch.parts for k in part.rows) == list(range(40))
    assert len(collate(rows, tiny_spec, max_tokens=1).parts) == 40, "a longer row has a pass of its own"


def test_gradient_checkpointing_changes_no_gradient(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    rows = mixed_rows(tiny_model, 16)
    plain, checkpointed = policy(tiny_spec), policy(tiny_spec, gradient_checkpointing=True)
    saved: list[int] = []
    for layer in checkpointed.model.get_base_model().base_model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: saved.append(1))
    a, _, _ = gradient(plain, rows, "subtb")
    b, _, _ = gradient(checkpointed, rows, "subtb")
    assert len(saved) == 4, "each of the two layers ran twice"
    assert relative(b, a) < 1e-6


def test_several_prompts_in_one_batch_score_as_each_alone(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    q, rows = policy(tiny_spec), mixed_rows(tiny_model, 24)
    together = q.log_probs(collate(rows, tiny_spec))
    for k, row in enumerate(rows):
        alone, n = q.log_probs(collate([row], tiny_spec)), len(row.token_ids)
        assert torch.allclose(together.log_pf[k, :n], alone.log_pf[0], atol=1e-5)
        assert torch.allclose(together.log_pterm[k, : n + 1], alone.log_pterm[0], atol=1e-5)


def test_attention_by_blocks_gives_the_gradient_of_the_dense_mask(
    tiny_spec: PolicySpec, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = mixed_rows(tiny_model, 40)
    dense, loss, _ = gradient(policy(tiny_spec), rows, "subtb")
    monkeypatch.setattr(attention, "BLOCK_SIZES", (4,))
    monkeypatch.setattr(attention, "KEY_COST", -(10**9))
    for gradient_checkpointing in (False, True):
        by_blocks, its_loss, _ = gradient(policy(tiny_spec, gradient_checkpointing), rows, "subtb")
        assert relative(by_blocks, dense) < 1e-5 and its_loss == pytest.approx(loss, rel=1e-5)


def test_the_sampler_and_behaviour_of_a_string_never_enter_its_loss(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    """Behaviour, version and the actor's own log-probabilities are a record; the loss reads the learner's. A policy
    gradient alone is corrected by the ratio of the two."""
    q, rows = policy(tiny_spec), mixed_rows(tiny_model, 16)
    others = [
        replace(
            row, behaviour="tempered", policy_version=7, adapter_digest="ff", sampled_at=1e9,
            log_pf=row.log_pf - 3.0, log_pterm=row.log_pterm - 2.0,
        )
        for row in rows
    ]  # fmt: skip
    for objective in sorted(set(OBJECTIVES) - set(ON_POLICY_OBJECTIVES)):
        ours, loss, _ = gradient(q, rows, objective)
        theirs, same_loss, _ = gradient(q, others, objective)
        assert loss == same_loss and torch.equal(ours, theirs)


def test_the_content_of_padding_never_changes_a_bit(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    q, rows = policy(tiny_spec), mixed_rows(tiny_model, 16)
    batch = collate(rows, tiny_spec)
    is_token = torch.arange(batch.token_ids.shape[1]) < torch.tensor([[len(row.token_ids)] for row in rows])
    assert not bool(is_token.all()), "the batch has padding"
    junk = replace(batch, token_ids=torch.where(is_token, batch.token_ids, tiny_spec.stop_token_id))
    a, b = q.log_probs(batch), q.log_probs(junk)
    assert torch.equal(a.log_pf, b.log_pf) and torch.equal(a.log_pterm, b.log_pterm)


def test_the_reward_temperature_divides_the_stored_untempered_reward(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    q, rows = policy(tiny_spec), mixed_rows(tiny_model, 16)
    batch = collate(rows, tiny_spec)
    step = Gradient(q, q.trainable_parameters(), "subtb", 1.0, DataParallel())
    cold, hot = step.compute(batch, 1.0)[0], step.compute(batch, 4.0)[0]
    moved = (cold.u - hot.u)[batch.is_terminal]
    assert torch.allclose(moved, (batch.log_reward * 0.75)[batch.is_terminal], atol=1e-5)


def test_a_prompt_that_is_the_beginning_of_another_strings_text_changes_nothing(
    tiny_spec: PolicySpec, tiny_model: Path
) -> None:
    """The two share nodes of the tree, and at the shared node only one of them may stop."""
    spec = replace(tiny_spec, min_actions=1)
    task = TinyTask(Tokenizer.from_file(str(tiny_model / "tokenizer.json")))
    first = tiny_trajectory(task, (0, 1))
    longer = np.append(first.prompt_token_ids, first.token_ids[:1]).astype(np.int32)
    second = replace(tiny_trajectory(task, (1, 2)), prompt_id="longer", prompt_token_ids=longer)
    q = policy(spec)
    together = q.log_probs(collate([first, second], spec))
    for k, row in enumerate((first, second)):
        alone = q.log_probs(collate([row], spec))
        assert torch.allclose(together.log_pf[k], alone.log_pf[0], atol=1e-5)
        assert torch.allclose(together.log_pterm[k], alone.log_pterm[0], atol=1e-5)


OBJECTIVES_OF_RANKS = ("subtb", "group_subtb", "sft")
PASS_TOKENS = (0, 30)
"""With 30 the ranks need different numbers of passes."""


def share(model: Path, number: int) -> list[Trajectory]:
    """16 rows a rank; those of rank 1 are short, so that ranks differ in width and in passes."""
    rows = mixed_rows(model)[number * 16 : (number + 1) * 16]
    if number != 1:
        return rows
    return [
        replace(r, token_ids=r.token_ids[:1], is_action=r.is_action[:1], log_reward=r.log_reward[:, :2]) for r in rows
    ]


def rank(number: int, size: int, addresses: "SimpleQueue[str]", spec: PolicySpec, model: str, out: str) -> None:
    """The work of one process of the test below."""
    torch.set_num_threads(1)
    listener = listen_at("127.0.0.1") if number == 0 else None
    if listener:
        for _ in range(size):
            addresses.put(f"127.0.0.1:{listener.getsockname()[1]}")
    data_parallel = DataParallel(number, size, addresses.get(), listener=listener)
    q, rows = policy(spec), share(Path(model), number)
    results = {
        (name, tokens): gradient(q, rows, name, tokens, data_parallel)
        for name in OBJECTIVES_OF_RANKS
        for tokens in PASS_TOKENS
    }
    assert data_parallel.all_agree(True) and not data_parallel.all_agree(number != 2)
    assert data_parallel.all_same(7) and not data_parallel.all_same(number)
    data_parallel.check_same_start(7, "ab" * 32)
    with pytest.raises(ConfigError, match=f"rank {number} starts after step 7 with adapter"):
        data_parallel.check_same_start(7, f"{number}" * 64)
    listening = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    torch.save((results, listening), f"{out}/{number}.pt")
    data_parallel.close()


@pytest.mark.slow
def test_four_ranks_of_sixteen_give_the_gradient_of_one_rank_of_sixty_four(
    tiny_spec: PolicySpec, tiny_model: Path, tmp_path: Path
) -> None:
    """Also where each accumulates over a different number of passes. What they exchange stays on loopback."""
    shares = [share(tiny_model, number) for number in range(4)]
    assert len({len(collate(rows, tiny_spec, PASS_TOKENS[1]).parts) for rows in shares}) > 1
    addresses = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(rank, (4, addresses, tiny_spec, str(tiny_model), str(tmp_path)), nprocs=4)  # type: ignore[no-untyped-call]
    saved, listening = zip(*(torch.load(tmp_path / f"{number}.pt") for number in range(4)), strict=True)
    assert all(listening) and {address for addresses in listening for address in addresses} == {"127.0.0.1"}
    for name in OBJECTIVES_OF_RANKS:
        whole, loss, residual = gradient(policy(tiny_spec), [row for rows in shares for row in rows], name)
        for number, results in enumerate(saved):
            for tokens in PASS_TOKENS:
                g, its_loss, its_residual = results[name, tokens]
                assert relative(g, whole) < 1e-5 and its_loss == pytest.approx(loss, rel=1e-6)
                assert torch.allclose(its_residual, residual[16 * number : 16 * (number + 1)], atol=1e-4)


def test_a_lora_tensor_without_a_gradient_ends_the_first_step_with_its_name(
    tiny_spec: PolicySpec, tiny_model: Path
) -> None:
    """A layer that the forward pass leaves out, such as one of a vision tower, keeps its adapter for ever."""
    q = policy(tiny_spec)
    layer = q.model.get_base_model().model.layers[1].self_attn.k_proj
    layer._disable_adapters = True
    step = Gradient(q, q.trainable_parameters(), "subtb", 1.0, DataParallel())
    with pytest.raises(AdapterError, match=r"2 of 28 LoRA tensors.*layers\.1\.self_attn\.k_proj\.lora_A"):
        step.compute(collate(mixed_rows(tiny_model), tiny_spec), 1.0)
    layer._disable_adapters = False
    step.compute(collate(mixed_rows(tiny_model), tiny_spec), 1.0)


def test_a_lora_tensor_that_is_frozen_is_an_error(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    q = policy(tiny_spec)
    frozen = [p for name, p in q.model.named_parameters() if ".lora_" in name and ".layers.0." not in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    with pytest.raises(AdapterError, match=f"{len(frozen)} of {2 * len(frozen)} LoRA tensors have no gradient"):
        gradient(q, mixed_rows(tiny_model), "subtb")


def test_a_base_weight_that_would_be_trained_is_an_error(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    q = policy(tiny_spec)
    q.model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(AdapterError, match=r"1 weights of the base model would be trained too: .*norm\.weight"):
        gradient(q, mixed_rows(tiny_model), "subtb")


def test_a_layer_that_should_have_an_adapter_and_has_none_is_an_error(
    tiny_spec: PolicySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.policy.LoraConfig", functools.partial(LoraConfig, layers_to_transform=[0]))
    with pytest.raises(AdapterError, match=r"7 of the 14 layers that model\.lora_targets names .*: model\.layers\.1"):
        policy(tiny_spec)
