"""The tokenizer's rules: begin-of-text once, no truncation or padding, text behind other text, single tokens."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from buffer.errors import ModelError
from lm.tokens import encode_behind, encode_prompt, find_token, load_tokenizer


def byte_level() -> Tokenizer:
    """GPT-2's kind: each byte is a token, <s> and </s> are put around a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return around(tokenizer)


def sentence_piece(metaspace: bool = False) -> Tokenizer:
    """Llama 2's kind: a space in front of every text, bytes as tokens where a character is unknown."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehilnorstuw.,", "▁a", "▁s", "▁so", "so"]
    merges = [("▁", "a"), ("▁", "s"), ("▁s", "o"), ("s", "o")]
    tokenizer = Tokenizer(
        models.BPE({token: i for i, token in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return around(tokenizer)


def around(tokenizer: Tokenizer) -> Tokenizer:
    special = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B", special_tokens=special
    )
    return tokenizer


KINDS = {"bytes": byte_level(), "sentencepiece": sentence_piece(), "metaspace": sentence_piece(metaspace=True)}


def tokens(tokenizer: Tokenizer, ids: object) -> list[str]:
    return [tokenizer.id_to_token(int(i)) for i in ids]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_begins_with_begin_of_text_once_and_has_no_end_of_text(kind: str) -> None:
    tokenizer = KINDS[kind]
    plain, marked = encode_prompt(tokenizer, "hello"), encode_prompt(tokenizer, "<s>hello")
    for ids in (plain, marked):
        assert tokens(tokenizer, ids).count("<s>") == 1 and tokens(tokenizer, ids)[0] == "<s>"
        assert "</s>" not in tokens(tokenizer, ids)
    assert len(encode_prompt(tokenizer, "")) == 1


def test_a_tokenizer_that_puts_nothing_in_front_adds_nothing() -> None:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.ByteLevel()
    assert tokens(tokenizer, encode_prompt(tokenizer, "ab")) == ["a", "b"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [". so", "so", " so", ", so", " a.", "."])
def test_text_behind_other_text_is_that_text(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    ids = encode_behind(tokenizer, text)
    written = "".join(tokens(tokenizer, ids)).replace("▁", " ").replace("Ġ", " ")
    assert written == text
    whole = encode_prompt(tokenizer, "he" + text)
    assert whole.tolist() == [*encode_prompt(tokenizer, "he"), *ids]


def test_no_text_is_no_token() -> None:
    assert all(len(encode_behind(tokenizer, "")) == 0 for tokenizer in KINDS.values())


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_a_newline_is_found_by_its_byte_and_a_full_stop_without_a_space(kind: str) -> None:
    tokenizer = KINDS[kind]
    assert find_token(tokenizer, "\n") == tokenizer.token_to_id("<0x0A>")
    assert find_token(tokenizer, ".") == tokenizer.token_to_id(".")
    assert find_token(tokenizer, "</s>") == tokenizer.token_to_id("</s>")
    assert find_token(tokenizer, "hello") is None


def test_truncation_and_padding_of_the_file_are_turned_off(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(max_length=4)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert tokens(loaded, encode_prompt(loaded, "abcdefgh")) == ["<s>", *"abcdefgh"]
    assert tokens(loaded, encode_behind(loaded, "ab")) == ["a", "b"]


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be read"):
        load_tokenizer(tmp_path)
