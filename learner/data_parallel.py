"""Several learners that act as one: each computes the rows it drew, and all compute the same loss.

An objective reads a few numbers a prefix, so the ranks simply exchange these: each holds the estimates of the whole
batch, its own rows with gradient. The loss and its denominator are then those of one learner with all rows, for
every objective, also where trajectories of one prompt lie on different ranks; the sum of the ranks' gradients is the
gradient. (A mean of per-rank losses would be another objective.)

Shapes   B trajectories of all ranks, b of this one, T response tokens.
"""

import ipaddress
import os
import socket
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from buffer.errors import ConfigError

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""A rank that waits longer for the others fails; a learner's own waits are shorter (learner.advanced.wait_limit_s)."""


def listen_at(host: str) -> socket.socket:
    """A socket for rank 0 that listens at any free port of `host`'s address, and nowhere else."""
    return socket.create_server((host, 0))


class DataParallel:
    """This process's rank among the learners; with a world of one, every method is the identity."""

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        address: str = "",
        device: torch.device | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        """Wait until all ranks have joined. `address` is host:port, where `listener` of rank 0 listens.

        Nothing that the ranks exchange is authenticated or encrypted: on one machine all of it stays on loopback.
        """
        self.rank = rank
        self.world_size = world_size
        self._device = device or torch.device("cpu")
        if world_size > 1:
            host, _, port = address.rpartition(":")
            _keep_to_loopback(host)
            store = dist.TCPStore(  # type: ignore[attr-defined]
                host,
                int(port),
                world_size,
                is_master=rank == 0,
                timeout=COLLECTIVE_TIMEOUT,
                master_listen_fd=listener.detach() if listener else None,  # its own socket would listen everywhere
            )
            backend = "nccl" if self._device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)

    @property
    def is_leader(self) -> bool:
        """True for the rank that publishes and saves."""
        return self.rank == 0

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Concatenate the rows [b, ...] of all ranks in order of rank: [B, ...]. Second dimensions are padded with 0.

        This rank's own rows keep their gradient.
        """
        if self.world_size == 1:
            return rows
        shape = torch.tensor([*rows.shape, 0, 0][:2], device=self._device)
        shapes = [torch.zeros_like(shape) for _ in range(self.world_size)]
        dist.all_gather(shapes, shape)
        largest = torch.stack(shapes).amax(0).tolist()
        wire = rows.detach().to(torch.uint8) if rows.dtype == torch.bool else rows.detach()
        padded = wire.new_zeros([max(n, 1) for n in largest] if rows.dim() == 2 else largest[:1])
        padded[tuple(slice(n) for n in rows.shape)] = wire
        gathered = [torch.zeros_like(padded) for _ in range(self.world_size)]
        dist.all_gather(gathered, padded.contiguous())
        parts = [part[: int(s[0])].to(rows.dtype) for part, s in zip(gathered, shapes, strict=True)]
        if rows.dim() == 2:
            rows = torch.nn.functional.pad(rows, (0, largest[1] - rows.shape[1]))
        parts[self.rank] = rows
        return torch.cat(parts)

    def local_rows(self, rows: Tensor, count: int) -> Tensor:
        """The `count` rows of `gather_rows` that came from this rank."""
        if self.world_size == 1:
            return rows
        counts = self._gather_number(count)
        begin = sum(counts[: self.rank])
        return rows[begin : begin + count]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks."""
        if self.world_size == 1:
            return
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        begin = 0
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(flat[begin : begin + parameter.numel()].view_as(parameter))
                begin += parameter.numel()

    def all_agree(self, ready: bool) -> bool:
        """True if every rank passes True; every rank must call this."""
        return ready if self.world_size == 1 else all(self._gather_number(int(ready)))

    def all_same(self, number: int) -> bool:
        """True if every rank passes the same number; every rank must call this."""
        return self.world_size == 1 or len(set(self._gather_number(number))) == 1

    def check_same_start(self, step: int, adapter_digest: str) -> None:
        """ConfigError unless all ranks begin alike: gradients of different adapters must not be added up."""
        if not self.all_same(step) or not self.all_same(int(adapter_digest[:15], 16)):
            raise ConfigError(
                f"learner rank {self.rank} starts after step {step} with adapter {adapter_digest[:12]}, other ranks "
                "start elsewhere. All ranks must read the same checkpoints: put the run's folder on a disk that all "
                "nodes share."
            )

    def close(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            dist.destroy_process_group()

    def _gather_number(self, number: int) -> list[int]:
        local = torch.tensor([number], device=self._device)
        gathered = [torch.zeros_like(local) for _ in range(self.world_size)]
        dist.all_gather(gathered, local)
        return [int(n) for n in gathered]


def _keep_to_loopback(host: str) -> None:
    """Have gloo and NCCL listen on loopback where `host` is there; else they choose by the machine's name."""
    if not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
        return
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
