"""Beam search, plain or in diverse groups: the strings that a policy finds most likely, not samples of it.

Shapes   R live prefixes, V vocabulary.  Logs are natural, in nats.

Diverse beam search (Vijayakumar et al., arXiv 1610.02424) divides the beams into groups that choose in turn; a group
loses `penalty` nats for a token, the stop included, once for every earlier group's prefix that took it in the same
step. The penalty moves the choice alone: log q of a string is the policy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from buffer.types import IntArray, PolicySpec

PENALTY = 0.5
"""Nats, as in the paper's experiments on captions."""


@dataclass(frozen=True, slots=True)
class Beam:
    """A string, or a prefix that is still growing."""

    token_ids: tuple[int, ...] = ()
    log_pf: tuple[float, ...] = ()
    log_stop: float = 0.0
    """0 where stopping was forced, or has not been decided."""

    @property
    def log_q(self) -> float:
        """log q of the string, or of the prefix."""
        return sum(self.log_pf) + self.log_stop


@torch.inference_mode()
def beam_search(
    model: Any, spec: PolicySpec, prompt: IntArray, beams: int, groups: int = 1, penalty: float = PENALTY
) -> list[Beam]:
    """Up to `beams` strings behind `prompt` [P], the likeliest first; each of `groups` keeps beams / groups.

    `model` is a transformers model with the policy's weights. The stop, the lengths and the tokens of `spec` hold as in
    sampling. The search of a group ends when no live prefix is likelier than the strings it has.
    """
    width = beams // groups
    output = model(input_ids=torch.from_numpy(prompt).long()[None].to(model.device), use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(groups)
    logits = output.logits[:, -1].repeat(groups, 1)
    live, strings = [[Beam()] for _ in range(groups)], [list[Beam]() for _ in range(groups)]
    for length in range(spec.max_actions):
        log_q = _log_q(logits, spec, length)
        rows: list[int] = []
        taken, first = torch.zeros(log_q.shape[1], device=log_q.device), 0
        for group, prefixes in enumerate(live):
            chosen = _choose(prefixes, log_q[first : first + len(prefixes)], taken, width, penalty)
            first += len(prefixes)
            stopped = [beam for _, beam in chosen[:width] if beam.token_ids[-1] == spec.stop_token_id]
            strings[group] = _best([*strings[group], *map(_finished, stopped)], width)
            going = [(row, beam) for row, beam in chosen if beam.token_ids[-1] != spec.stop_token_id][:width]
            if len(strings[group]) == width:
                going = [(row, beam) for row, beam in going if beam.log_q > strings[group][-1].log_q]
            for beam in (*stopped, *(beam for _, beam in going)):
                taken[beam.token_ids[-1]] += 1
            rows += [first - len(prefixes) + row for row, _ in going]
            live[group] = [beam for _, beam in going]
        if not rows:
            break
        if length + 1 < spec.max_actions:
            cache.batch_select_indices(torch.tensor(rows, device=log_q.device))
            newest = torch.tensor([[beam.token_ids[-1]] for group in live for beam in group], device=log_q.device)
            logits = model(input_ids=newest, past_key_values=cache, use_cache=True).logits[:, -1]
    return _best(
        [beam for ended, cut in zip(strings, live, strict=True) for beam in _best([*ended, *cut], width)], beams
    )


def _log_q(logits: Tensor, spec: PolicySpec, length: int) -> Tensor:
    """[R, V] log q of the next token behind prefixes of `length` actions."""
    logits = logits.float()
    if spec.allowed_token_ids is not None:
        allowed = torch.tensor([*spec.allowed_token_ids, spec.stop_token_id], device=logits.device)
        logits = torch.full_like(logits, -torch.inf).index_copy(1, allowed, logits[:, allowed])
    if spec.forbidden_token_ids:
        logits = logits.index_fill(1, torch.tensor(spec.forbidden_token_ids, device=logits.device), -torch.inf)
    if length < spec.min_actions:
        logits = logits.index_fill(1, torch.tensor([spec.stop_token_id], device=logits.device), -torch.inf)
    return logits.log_softmax(-1)


def _choose(
    prefixes: Sequence[Beam], log_q: Tensor, taken: Tensor, width: int, penalty: float
) -> list[tuple[int, Beam]]:
    """The 2 · `width` best continuations of a group, a stop counted as a token, each with the row of its prefix. A stop
    counts where it is among the first `width`; at least `width` of the others go on."""
    if not prefixes:
        return []
    scores = torch.tensor([beam.log_q for beam in prefixes], device=log_q.device)[:, None] + log_q - penalty * taken
    best = scores.flatten().topk(min(2 * width, scores.numel()))
    chosen = []
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if score == -torch.inf:
            break
        row, token = divmod(index, log_q.shape[1])
        prefix = prefixes[row]
        longer = Beam((*prefix.token_ids, token), (*prefix.log_pf, float(log_q[row, token])))
        chosen.append((row, longer))
    return chosen


def _finished(beam: Beam) -> Beam:
    """A string whose last token is the stop, without it."""
    return Beam(beam.token_ids[:-1], beam.log_pf[:-1], beam.log_pf[-1])


def _best(beams: Sequence[Beam], number: int) -> list[Beam]:
    return sorted(beams, key=lambda beam: beam.log_q, reverse=True)[:number]
