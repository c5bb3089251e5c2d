"""The one reader of a person's files: encodings, line ends, numbers of lines, and errors of one sentence."""

from pathlib import Path

import pytest

from rewards.text_file import read_json_lines, read_text


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_utf_8_is_read_with_or_without_a_mark_and_with_either_line_end(tmp_path: Path, mark: bytes, end: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(mark + f"één{end}{end}two\u2028three{end}".encode())
    assert read_text(path, "file") == "één\n\ntwo\u2028three\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("é".encode("utf-16"), "it is encoded as UTF-16"),
        (b"\xfe\xff\x00a", "it is encoded as UTF-16"),
        ("é".encode("utf-32"), "it is encoded as UTF-32"),
        (b"one\ntw\xe9\n", "byte 6 (0xe9, line 2) is not UTF-8"),
        (b"\xef\xbb\xbfab\xff", "byte 5 (0xff, line 1) is not UTF-8"),
        ("ab".encode("utf-16-le"), "byte 1 (0x00, line 1) is not part of a text"),
    ],
)
def test_another_encoding_is_one_sentence_with_file_position_and_fix(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError) as raised:
        read_text(path, "task.options.file")
    message = str(raised.value)
    assert message.startswith(f"task.options.file = {str(path)!r} can't be read: ") and problem in message
    assert message.endswith("Save it as UTF-8") and "\n" not in message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.txt", "No such file or directory"),
        ("", "Is a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_a_path_that_can_not_be_read_is_one_sentence_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_text(f"{tmp_path}/{name}", "prompts")
    assert f"can't be read ({reason}): give the path" in str(raised.value)


def test_the_home_of_an_unknown_user_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"file = '~nobody-at-all/x' can't be read"):
        read_text("~nobody-at-all/x", "file")


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\r\n{"a": 1}\r\n \r\n[2]\r\n')
    assert list(read_json_lines(path, "file", "a row")) == [(2, {"a": 1}), (4, [2])]
    for line in ('{"a": 1', "[" * 100_000):
        path.write_text(f"\n1\n{line}\n")
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 3: .* must be a row, but is not JSON"):
            list(read_json_lines(path, "file", "a row"))
