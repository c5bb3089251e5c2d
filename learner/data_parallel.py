"""Several learners that act as one: each computes the rows it drew, all of them the same loss.

What an objective reads is a few numbers a prefix, so the ranks simply exchange these: each holds the estimates of the
whole batch, its own rows with gradient. The loss and its denominator are then those of one learner with all rows, for
every objective, also where trajectories of one prompt lie on different ranks; the sum of the ranks' gradients is the
gradient. (A mean of per-rank losses would be another objective.)

Shapes   B trajectories of all ranks, b of this one, T response tokens.
"""

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

ANSWER_LIMIT = timedelta(minutes=10)
"""A rank that waits longer for the others gives up; a learner's own waits are shorter
(learner.advanced.wait_limit_s)."""


class DataParallel:
    """This process's place among the learners; alone, every method is the identity."""

    def __init__(self, number: int = 0, size: int = 1, address: str = "", device: torch.device | None = None) -> None:
        """`address` is host:port, where rank 0 listens; waits until all `size` ranks are there."""
        self.number = number
        self.size = size
        self._device = device or torch.device("cpu")
        if size > 1:
            backend = "nccl" if self._device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend, init_method=f"tcp://{address}", rank=number, world_size=size, timeout=ANSWER_LIMIT
            )

    @property
    def leads(self) -> bool:
        """Whether this one publishes and saves."""
        return self.number == 0

    def rows_of_all(self, rows: Tensor) -> Tensor:
        """[b, ...] of each rank, one below the other in order of rank: [B, ...]. Second dimensions are padded with 0.

        This rank's own rows keep their gradient.
        """
        if self.size == 1:
            return rows
        shape = torch.tensor([*rows.shape, 0, 0][:2], device=self._device)
        shapes = [torch.zeros_like(shape) for _ in range(self.size)]
        dist.all_gather(shapes, shape)
        largest = torch.stack(shapes).amax(0).tolist()
        wire = rows.detach().to(torch.uint8) if rows.dtype == torch.bool else rows.detach()
        padded = wire.new_zeros([max(n, 1) for n in largest] if rows.dim() == 2 else largest[:1])
        padded[tuple(slice(n) for n in rows.shape)] = wire
        found = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded.contiguous())
        parts = [part[: int(s[0])].to(rows.dtype) for part, s in zip(found, shapes, strict=True)]
        if rows.dim() == 2:
            rows = torch.nn.functional.pad(rows, (0, largest[1] - rows.shape[1]))
        parts[self.number] = rows
        return torch.cat(parts)

    def own_rows(self, rows: Tensor, count: int) -> Tensor:
        """The `count` rows of `rows_of_all` that came from this rank."""
        if self.size == 1:
            return rows
        counts = self._gather_number(count)
        begin = sum(counts[: self.number])
        return rows[begin : begin + count]

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks."""
        if self.size == 1:
            return
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        begin = 0
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(flat[begin : begin + parameter.numel()].view_as(parameter))
                begin += parameter.numel()

    def all_agree(self, ready: bool) -> bool:
        """True if every rank says so; all ranks must ask."""
        return ready if self.size == 1 else all(self._gather_number(int(ready)))

    def all_same(self, number: int) -> bool:
        """Whether every rank gives the same number; all ranks must ask."""
        return self.size == 1 or len(set(self._gather_number(number))) == 1

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()

    def _gather_number(self, number: int) -> list[int]:
        own = torch.tensor([number], device=self._device)
        found = [torch.zeros_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return [int(n) for n in found]
