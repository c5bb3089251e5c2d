"""A model of about 40,000 weights that reads any text: tests run the shipped recipes on it."""

from importlib import resources
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from deploy.config import load_recipe
from deploy.driver.preflight import Checked, check

RECIPES = sorted(
    path.name.removesuffix(".toml")
    for path in resources.files("deploy").joinpath("recipes").iterdir()
    if path.name.endswith(".toml")
)
LINES = [
    "Question: 6 - 0 - 4 - 8 = ? Answer: 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6. The answer is -6.",
    "The weather forecast for tomorrow says that it will rain in the mountains, so it is objective.",
    "Beginning: She went home. Ending: He laughed. Middle: They met, so it is subjective.",
    *["1 + 2 - 3 + 4 - 5 + 6 - 7 = 8"] * 20,
    "a b c",
]
VOCABULARY = 420
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no role ' + message.role) }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if think %}<think>{% endif %}{% endif %}"
)


def make_text_model(folder: Path, layers: int = 2, seed: int = 0) -> Path:
    """A Llama with random weights and a byte-level tokenizer that splits digits, saved like any base model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(LINES * 10, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, max_position_embeddings=2048, initializer_range=0.1, tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


def checked_recipe(name: str, model: Path, *overrides: str) -> Checked:
    """A shipped recipe on the model in folder `model`, in fp32 on the CPU."""
    on_cpu = ['model.dtype="float32"', 'model.quantization="none"']
    on_cpu += [f"{section}.gpus=0.0" for section in ("actors", "learner", "rewards")]
    on_cpu += [f'{section}.device="cpu"' for section in ("learner", "rewards")]
    return check(load_recipe(name, [f'model.name="{model}"', *on_cpu, *overrides]))
