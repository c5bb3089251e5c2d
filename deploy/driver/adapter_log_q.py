"""log q of given strings under a run's adapter, computed by the learner's own code: no engine is involved."""

from collections.abc import Callable, Sequence

from buffer.types import AdapterFiles, FloatArray, Trajectory
from deploy.driver.preflight import Checked

LogQ = Callable[[Sequence[Trajectory], bool], FloatArray]
"""(N strings, of the base model instead of the adapter) -> [N] log q(Z ⊤), nats."""


def load_log_q(checked: Checked, files: AdapterFiles) -> LogQ:
    """Load the policy of a run with this adapter, on the learner's device if there is one here."""
    import torch
    from safetensors.torch import load

    from learner.adapter import load_adapter
    from learner.given_strings import log_q_of_given
    from learner.policy import LoraPolicy
    from lm.load import device_of

    torch.set_num_threads(checked.config.evaluation.cores)
    learner = checked.config.learner
    policy = LoraPolicy(checked.spec, device_of(learner.device, learner.gpus))
    load_adapter(policy, load(files.weights))
    return lambda strings, base_model: log_q_of_given(policy, strings, learner.max_tokens, base_model)
