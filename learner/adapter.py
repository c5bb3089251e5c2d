"""An adapter to publish: PEFT's two files as bytes, their digest, and a canary that proves which adapter is served."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion, Canary, Trajectory
from learner.batch import collate
from learner.policy import LoraPolicy


def adapter_files(policy: LoraPolicy, dtype: torch.dtype | None = None) -> AdapterFiles:
    """The policy's adapter as the files that PEFT and vLLM read, in fp32 unless `dtype` is given."""
    config = policy.model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    config["base_model_name_or_path"] = policy.spec.base_model
    tensors = {name: t.to(dtype) if dtype else t for name, t in adapter_tensors(policy).items()}
    return AdapterFiles(weights=save(tensors), config_json=json.dumps(config, indent=2, default=_plain, sort_keys=True))


def adapter_tensors(policy: LoraPolicy) -> dict[str, Tensor]:
    """LoRA's A and B by PEFT's names, on the CPU."""
    return {name: t.detach().contiguous().cpu() for name, t in get_peft_model_state_dict(policy.model).items()}


def digest(files: AdapterFiles) -> str:
    """sha256 (hex) of the weights."""
    return hashlib.sha256(files.weights).hexdigest()


def load_adapter(policy: LoraPolicy, tensors: dict[str, Tensor]) -> None:
    """Restore the result of `adapter_tensors`. ConfigError if names or shapes are those of another adapter."""
    expected = {name: t.shape for name, t in adapter_tensors(policy).items()}
    if expected != {name: t.shape for name, t in tensors.items()}:
        raise ConfigError(
            f"the saved adapter's {len(tensors)} tensors differ in name or shape from the {len(expected)} of this "
            "recipe. Resume with the model section that the run began with."
        )
    set_peft_model_state_dict(policy.model, tensors)


def adapter_version(
    policy: LoraPolicy, files: AdapterFiles, number: int, step: int, example: Trajectory, tolerance: float
) -> AdapterVersion:
    """Describe `files` as version `number`, with their digest and with a canary made from `example`."""
    return AdapterVersion(
        number=number,
        digest=digest(files),
        learner_step=step,
        canary=make_canary(policy, example, tolerance),
    )


def make_canary(policy: LoraPolicy, example: Trajectory, tolerance: float) -> Canary:
    """Log-probabilities of `example`'s tokens and of the stop token after them: plain softmax, no mask or gradient."""
    token_ids = np.append(example.token_ids, np.int32(policy.spec.stop_token_id)).astype(np.int32)
    n = len(token_ids)
    text = replace(
        example,
        token_ids=token_ids,
        is_action=np.ones(n, dtype=np.bool_),
        log_reward=np.zeros((1, n + 1), dtype=np.float32),
        reward_terms=("none",),
    )
    with torch.no_grad():
        scored = policy.log_probs(collate([text], policy.spec), masked=False)
    return Canary(
        prompt_token_ids=example.prompt_token_ids,
        token_ids=token_ids,
        log_probs=scored.log_pf[0].float().cpu().numpy(),
        tolerance=tolerance,
    )


def _plain(value: object) -> object:
    """JSON form of the sets and enums in PEFT's configuration."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
