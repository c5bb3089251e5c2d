"""The model card of a run's policy: README.md as the hub reads it, with what it samples and what is known of that."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.driver.certificate import EXPLANATIONS
from deploy.driver.preflight import Checked
from deploy.formatting import figure
from deploy.models.registry import MODELS, hub_id
from learner.schedule import reward_temperature

MAX_PROMPT = 300
"""Characters of a prompt that are shown."""
MAX_TOKEN_IDS = 64
"""Allowed tokens that are listed; a longer list is in the run's recipe."""


def model_card(checked: Checked, step: int, digest: str, record: Mapping[str, Any], merged: bool = False) -> str:
    """The text of README.md for the adapter of learner step `step` with sha256 `digest`, or for its `merged` weights.

    `record` is the content of evaluation.json or summary.json with a certificate of this adapter; {} without one.
    """
    parts = [
        _front_matter(checked, merged),
        f"# {checked.config.task.name}\n",
        _what(checked, step, digest, merged),
        "## Is it the target?\n",
        *_certificate(record),
        "## How to sample from it\n",
        *(f"- {line}" for line in _sampling(checked)),
    ]
    return "\n".join(parts) + "\n"


def _front_matter(checked: Checked, merged: bool) -> str:
    """YAML. The base model is named by its hub id; without one, and for the licence, which is not known, it is left
    out. JSON strings are YAML strings."""
    base = hub_id(checked.config.model.name)
    lines = [f"base_model: {json.dumps(base)}"] if base else []
    if base:
        lines.append(f"base_model_relation: {'finetune' if merged else 'adapter'}")
    lines += [f"library_name: {'transformers' if merged else 'peft'}", "pipeline_tag: text-generation"]
    return "\n".join(["---", *lines, "tags:", "- tributary", *([] if merged else ["- lora"]), "---", ""])


def _what(checked: Checked, step: int, digest: str, merged: bool) -> str:
    """Paragraphs: what it is, what it samples, and of which base model."""
    task, prompt = checked.task, checked.prompts[0].text
    example = json.dumps(prompt[:MAX_PROMPT] + ("..." if len(prompt) > MAX_PROMPT else ""), ensure_ascii=False)
    purpose = (type(task).__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    kind = "A language model with a LoRA adapter merged into its weights" if merged else "A LoRA adapter"
    number = f"{len(checked.prompts):,} prompts, such as" if len(checked.prompts) > 1 else "one prompt:"
    return (
        f"{kind}, trained by Tributary for {step:,} steps to *sample*: it writes a response Z to a prompt X with "
        f"probability proportional to the reward R(Z) of the task. {_target(checked, step)}\n\n"
        + (f"Task `{checked.config.task.name}`: {purpose}\n\n" if purpose else "")
        + f"It was trained on {number}\n\n    {example}\n\n"
        f"{_base_model(checked)}\n\n"
        f"sha256 of the adapter's safetensors: `{digest}`.\n"
    )


def _target(checked: Checked, step: int) -> str:
    temperature = reward_temperature(step, checked.config.learner)
    return "" if temperature == 1 else f"The target is R^(1/T) at reward temperature T = {temperature:.3g}."


def _base_model(checked: Checked) -> str:
    """Which base weights the adapter belongs to, and how a loader finds them."""
    name = checked.config.model.name
    quantized = " Its base weights were used in 4 bits (nf4)." if checked.spec.quantization != "none" else ""
    if name in MODELS:
        return (
            f"Base model: {MODELS[name].description}. The weights of `{hub_id(name)}` on the hub, which "
            "`adapter_config.json` names, are not quantized, so probabilities differ with them. `tributary model get "
            f"{name}` makes the weights of the training; give their folder to the loader.{quantized}"
        )
    if hub_id(name):
        return f"Base model: `{name}` of the hub; `adapter_config.json` names it.{quantized}"
    return (
        f"Base model: a local folder, `{Path(checked.spec.base_model).name}`. `adapter_config.json` has its path on "
        f"the machine of the training; elsewhere give the loader the folder of the same weights.{quantized}"
    )


def _certificate(record: Mapping[str, Any]) -> Iterator[str]:
    """The verdict and a table of the figures that are known."""
    if not record:
        yield "Not known: this adapter has not been evaluated. `tributary evaluate --run DIR` does it.\n"
        return
    certificate = record["certificate"]["after"]
    yield f"Verdict of the certificate: **{certificate['text']}**. {certificate['exact_draws']}\n"
    yield "| figure | value | 95 % interval | meaning |\n| --- | --- | --- | --- |"
    for name, value in certificate["figures"].items():
        if value is None or not math.isfinite(value):
            continue
        low, high = certificate["intervals"].get(name, (None, None))
        interval = "" if low is None or high is None else f"{figure(low)} to {figure(high)}"
        yield f"| {name} | {figure(value)} | {interval} | {EXPLANATIONS.get(name, '').replace('|', chr(92) + '|')} |"
    yield ""


def _sampling(checked: Checked) -> Iterator[str]:
    """What generation_config.json says, and what it can't say."""
    spec = checked.spec
    stop = json.dumps(checked.config.policy.stop, ensure_ascii=False)
    yield (
        f"Temperature 1, without top-p and top-k; the stop is the token {stop} (id {spec.stop_token_id}), after at "
        f"most {spec.max_actions} tokens. `generation_config.json` says so: give it to `generate()`, or to vLLM as "
        "`--generation-config`."
    )
    yield (
        "vLLM also ends a response at the tokenizer's own end-of-text token, which is an ordinary token of this "
        f"policy: `ignore_eos` with `stop_token_ids = [{spec.stop_token_id}]` turns that off."
    )
    if spec.min_actions:
        yield (
            f"The stop is not possible before {spec.min_actions} tokens. vLLM does not read that from "
            f"`generation_config.json`: set `min_tokens = {spec.min_actions}`."
        )
    if spec.allowed_token_ids is not None:
        ids = sorted({*spec.allowed_token_ids, spec.stop_token_id})
        listed = f"{ids}" if len(ids) <= MAX_TOKEN_IDS else "those of `policy.allowed_tokens` in the run's recipe"
        yield (
            f"**The policy chooses among {len(ids):,} tokens only, and no file can say so.** Plain `generate()` writes "
            "other tokens, too, and does not sample the target. Restrict it: `prefix_allowed_tokens_fn` of "
            f"`generate()`, or `allowed_token_ids` of vLLM's sampling parameters, with {listed}."
        )
    if spec.forbidden_token_ids:
        yield (
            f"The policy never chooses the tokens {sorted(spec.forbidden_token_ids)}. `generation_config.json` says so "
            "to `generate()`; vLLM does not read that: set `logit_bias` to -100 for each of them."
        )
    if checked.task.tool:
        yield "A tool wrote into the responses during training. Plain `generate()` does not run it."
