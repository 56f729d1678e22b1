"""Text comes out once, whole and in order, whatever the token borders, the decoder and the stop strings."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neuralbot.textstream import REPLACEMENT, Detokenizer, StopStrings, TextStream, byte_token_ids, cut_at_stop

# The fixtures are read only, so sharing them between examples is safe.
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)

WORDS = ["hello", " world", "你好", "世界", "😀", "👩‍👩‍👧", "e\u0301", "ก็", "\n", "###", " User", "\ufffd", "<|end|>"]
STOPS = ["#", "###", "\n\n", "世", "😀", "o w", "界\n"]
texts = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), max_size=12).map("".join)
stops = st.lists(st.one_of(st.sampled_from(STOPS), st.text(min_size=1, max_size=3)), max_size=3)


@pytest.fixture(scope="module")
def fallback_tokenizer() -> Any:
    """Llama 2's kind: spaces as U+2581, the first one stripped, unknown characters as tokens of single bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    names = (f"<0x{byte:02X}>" for byte in range(256))
    pieces = ["<unk>", "<s>", "</s>", *names, "▁", "▁hello", "▁world", *"abcdeho世"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def decode_with(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def stream(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> TextStream:
    return TextStream(ids, lambda part: decode_with(tokenizer, part), stop=stop, byte_ids=byte_token_ids(tokenizer))


@SHARED
@given(text=texts, stop=stops)
def test_pieces_of_any_text_join_to_the_text_cut_at_the_first_stop_string(
    tiny_tokenizer: Any, fallback_tokenizer: Any, text: str, stop: list[str]
) -> None:
    for tokenizer in (tiny_tokenizer, fallback_tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(stream(tokenizer, ids, stop)) == cut_at_stop(decode_with(tokenizer, ids), stop)


@SHARED
@given(data=st.data(), stop=stops)
def test_pieces_of_any_ids_join_too_even_where_the_bytes_are_no_text(
    tiny_tokenizer: Any, fallback_tokenizer: Any, data: st.DataObject, stop: list[str]
) -> None:
    for tokenizer in (tiny_tokenizer, fallback_tokenizer):
        ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=25))
        assert "".join(stream(tokenizer, ids, stop)) == cut_at_stop(decode_with(tokenizer, ids), stop)


@SHARED
@given(text=texts, lead=st.sampled_from([" ", "\n", " \n", "hel", "世"]), stop=stops)
@example(text=" hello", lead=" ", stop=[])
@example(text=" ", lead=" \n", stop=[])
def test_what_leads_an_answer_is_cut_off_once(tiny_tokenizer: Any, text: str, lead: str, stop: list[str]) -> None:
    for whole in (text, lead + text):
        ids = tiny_tokenizer(whole, add_special_tokens=False)["input_ids"]
        pieces = TextStream(ids, lambda part: decode_with(tiny_tokenizer, part), lead=lead, stop=stop)
        assert "".join(pieces) == cut_at_stop(decode_with(tiny_tokenizer, ids).removeprefix(lead), stop)


@SHARED
@given(text=texts.filter(lambda text: REPLACEMENT not in text))
def test_no_piece_holds_half_a_character(tiny_tokenizer: Any, fallback_tokenizer: Any, text: str) -> None:
    for tokenizer in (tiny_tokenizer, fallback_tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for piece in stream(tokenizer, ids):
            assert piece and REPLACEMENT not in piece


def test_text_arrives_while_ids_do(tiny_tokenizer: Any) -> None:
    detokenizer = Detokenizer(lambda part: decode_with(tiny_tokenizer, part))
    ids = tiny_tokenizer("a😀b", add_special_tokens=False)["input_ids"]
    pieces = [detokenizer.push(token) for token in ids]
    assert len(ids) >= 3
    assert (pieces[0], pieces[-2:], detokenizer.finish()) == ("a", ["😀", "b"], "")


def test_a_character_that_never_becomes_whole_is_shown_at_the_end(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer("a😱", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(stream(tiny_tokenizer, ids)) == "a" + REPLACEMENT


def test_decoding_stays_cheap_in_long_answers(tiny_tokenizer: Any) -> None:
    lengths: list[int] = []

    def decode(part: list[int]) -> str:
        lengths.append(len(part))
        return decode_with(tiny_tokenizer, part)

    ids = tiny_tokenizer("hello world 你好 " * 100, add_special_tokens=False)["input_ids"]
    assert "".join(TextStream(ids, decode)) == "hello world 你好 " * 100
    assert max(lengths) < 16


@settings(deadline=None, max_examples=300)
@example(pieces=["ab"], stop=["abb", "b"])
@example(pieces=["ab", "b"], stop=["abb", "b"])
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_the_cut_does_not_depend_on_how_the_text_was_chopped(pieces: list[str], stop: list[str]) -> None:
    cutter, out = StopStrings(stop), ""
    for piece in pieces:
        out += cutter.push(piece)
        if cutter.hit:
            break
    else:
        out += cutter.finish()
    assert out == cut_at_stop("".join(pieces), stop)
    assert cutter.hit == any(string in "".join(pieces) for string in stop)


def test_only_what_could_become_a_stop_string_is_held_back() -> None:
    cutter = StopStrings(["\n\nUser:"])
    pieces = ("one\n", "\ntwo", "\n\nUse", "ful")
    assert [cutter.push(piece) for piece in pieces] == ["one", "\n\ntwo", "", "\n\nUseful"]
    assert (cutter.push(" end\n\n"), cutter.push("User: more"), cutter.hit) == (" end", "", True)


@pytest.mark.parametrize(
    ("stop", "limit", "reason", "consumed"),
    [((), None, "stop", 5), ((), 5, "length", 5), (("cd",), 5, "stop", 4), (("e",), 5, "stop", 5)],
)
def test_finish_reason(stop: tuple[str, ...], limit: int | None, reason: str, consumed: int) -> None:
    pieces = TextStream(range(5), lambda part: "".join("abcde"[token] for token in part), stop=stop, limit=limit)
    assert pieces.finish_reason is None
    assert "".join(pieces) == cut_at_stop("abcde", stop)
    assert (pieces.finish_reason, pieces.token_count) == (reason, consumed)


class Ids:
    """An endless iterator of ids that remembers being closed, as a generation does."""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


def test_generation_ends_at_a_stop_string_and_at_close() -> None:
    stopped, left = Ids(), Ids()
    assert list(TextStream(stopped, lambda part: "ab" * len(part), stop=["ba"])) == ["a"]
    pieces = TextStream(left, lambda part: "ab" * len(part))
    assert next(pieces) == "ab"
    pieces.close()
    assert (stopped.closed, left.closed, list(pieces)) == (True, True, [])


def test_a_dropped_stream_frees_its_ids_without_the_garbage_collector() -> None:
    ids = Ids()
    alive = weakref.ref(ids)
    pieces = TextStream(ids, lambda part: "ab" * len(part))
    next(pieces)
    gc.disable()
    try:
        del ids, pieces
        assert alive() is None
    finally:
        gc.enable()
