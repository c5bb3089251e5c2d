"""AdamW on LoRA's A and B: clipped gradients, a learning rate given at every step, and a state for checkpoints."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from buffer.errors import TributaryError

_PREFIX = "optimiser."


class Optimiser:
    """AdamW whose gradients are scaled down to `max_grad_norm`."""

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float, max_grad_norm: float) -> None:
        self._parameters = parameters
        self._max_grad_norm = max_grad_norm
        self._adamw = torch.optim.AdamW(parameters, lr=0.0, weight_decay=weight_decay)

    def clip_gradients(self) -> float:
        """Scale the gradients down to the largest allowed L2 norm; return the norm that they had."""
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm))

    def step(self, learning_rate: float) -> None:
        """Update the parameters by their gradients. TributaryError if one is not finite then: with finite gradients,
        the moments were not."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        if not bool(torch.stack([parameter.isfinite().all() for parameter in self._parameters]).all()):
            raise TributaryError(
                "the adapter is not finite after a step whose loss and gradient were: the optimiser's moments are "
                "damaged, and no reward is to blame. `tributary train --resume` with the folder of the run goes on "
                "from the newest checkpoint; with learner.learning_rate lower than before, if it happens again."
            )

    def tensors(self) -> dict[str, Tensor]:
        """The moments and step counts, on the CPU, each named by its parameter's index."""
        return {
            f"{_PREFIX}{index}.{name}": value.detach().cpu()
            for index, moments in self._adamw.state_dict()["state"].items()
            for name, value in moments.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `tensors`; ignore names of other parts of a checkpoint."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(_PREFIX):
                index, name = key.removeprefix(_PREFIX).split(".")
                state.setdefault(int(index), {})[name] = value
        self._adamw.load_state_dict(self._adamw.state_dict() | {"state": state})
