from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from neuralbot.conversation import Conversation, Turn, encode, encode_prompt
from neuralbot.data.tokenized import IGNORED, Tokenized, tokenize, with_short_documents
from neuralbot.errors import DataError, ModelError


def row(question: str, answer: str) -> Conversation:
    return Conversation((Turn("user", question), Turn("assistant", answer)), where="a.json: row 1")


def run(
    tokenizer: PreTrainedTokenizerFast, rows: list[Conversation], length: int, everything: bool = False
) -> Tokenized:
    return tokenize(rows, tokenizer, length, everything, where="training rows")


def test_labels_are_the_targets(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    conversation = row("What is it?", "A bag.")
    done = run(tiny_tokenizer, [conversation], 100)
    encoded = encode(tiny_tokenizer, conversation)
    assert done.rows[0]["input_ids"] == encoded.ids
    labels = done.rows[0]["labels"]
    assert tiny_tokenizer.decode([label for label in labels if label != IGNORED]) == "A bag.<|end|>"
    assert all(label in (IGNORED, index) for label, index in zip(labels, encoded.ids, strict=True))
    assert (done.dropped, done.notices) == (0, ())


def test_train_on_inputs_labels_all(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (found,) = run(tiny_tokenizer, [row("What is it?", "A bag.")], 100, everything=True).rows
    assert found["labels"] == found["input_ids"]


def test_a_cut_answer_loses_its_end_and_is_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    conversation = row("Q", "word " * 30)
    length = len(encode(tiny_tokenizer, conversation).ids) - 5
    done = run(tiny_tokenizer, [conversation, row("Q", "A")], length)
    assert len(done.rows[0]["input_ids"]) == length
    assert tiny_tokenizer.eos_token_id not in done.rows[0]["labels"]
    assert done.rows[1]["labels"].count(tiny_tokenizer.eos_token_id) == 1
    assert done.notices == (
        f"training rows: 1 of 2 have an answer that is cut at data.max_seq_length={length}: trained without its end",
    )


def test_losing_only_what_is_no_target_is_not_called_a_cut(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    conversation = row("Q", "A")
    done = run(tiny_tokenizer, [conversation], len(encode(tiny_tokenizer, conversation).ids) - 1)
    assert done.notices == ()


def test_rows_without_a_target_are_dropped_and_many_are_blamed_on_the_length(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    short, long = row("Q", "A"), row("word " * 60, "A")
    done = run(tiny_tokenizer, [short] * 9 + [long], 40)
    assert (len(done.rows), done.dropped) == (9, 1)
    assert done.notices[0].endswith(
        "1 of 10 were dropped, no answer is left within data.max_seq_length=40; that is 10% of them: raise it"
    )
    done = run(tiny_tokenizer, [short] * 99 + [long], 40)
    assert done.notices == ("training rows: 1 of 100 were dropped, no answer is left within data.max_seq_length=40",)


@pytest.mark.parametrize("length", [128, 64, 48, 32, 24, 16, 8, 4, 1])
def test_no_length_leaves_a_row_without_target(tiny_tokenizer: PreTrainedTokenizerFast, length: int) -> None:
    rows = [row("word " * count, "answer " * 4) for count in range(0, 60, 3)]
    try:
        done = run(tiny_tokenizer, rows, length)
    except DataError as error:
        assert f"data.max_seq_length={length}" in str(error)
        return
    assert len(done.rows) + done.dropped == len(rows)
    for found in done.rows:
        assert len(found["input_ids"]) == len(found["labels"]) <= length
        assert any(label != IGNORED for label in found["labels"][1:])


def test_nothing_usable_is_an_error(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"training rows: 0 usable of 2 rows.*data\.max_seq_length=8"):
        run(tiny_tokenizer, [row("word " * 20, "A")] * 2, 8)


def test_a_document_is_shortened_so_that_its_summary_stays_whole(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    document = "The town opened a library. " * 40
    turns = (Turn("user", f"{document}\nSummarize.", document=document), Turn("assistant", "A library opened."))
    done = run(tiny_tokenizer, [Conversation(turns)], 120)
    (found,) = done.rows
    text = tiny_tokenizer.decode(found["input_ids"])
    assert "\nSummarize.<|end|>" in text
    assert tiny_tokenizer.decode([label for label in found["labels"] if label != IGNORED]) == "A library opened.<|end|>"
    assert 90 < len(found["input_ids"]) <= 120
    assert done.notices == ("training rows: 1 of 1 had their document shortened to fit data.max_seq_length=120",)


@pytest.mark.parametrize("prompt", [30, 60, 200])
def test_a_question_about_a_document_has_a_budget_of_its_own(
    tiny_tokenizer: PreTrainedTokenizerFast, prompt: int
) -> None:
    document = "The town opened a library. " * 40
    turns = (Turn("user", f"{document}\nSummarize.", document=document), Turn("assistant", "A library opened."))
    rows = [Conversation(turns), row("Q", "A"), row("word " * 250, "A")]
    done = tokenize(rows, tiny_tokenizer, 600, False, "training rows", prompt)
    asked = done.rows[0]["labels"].index(next(x for x in done.rows[0]["labels"] if x != IGNORED))
    assert prompt - 10 < asked <= prompt
    assert "\nSummarize.<|end|>" in tiny_tokenizer.decode(done.rows[0]["input_ids"])
    assert done.rows[0]["input_ids"][:asked] == encode_prompt(
        tiny_tokenizer, with_short_documents(rows, tiny_tokenizer, prompt)[0][0].turns[:1]
    )
    assert [len(done.rows[place]["input_ids"]) for place in (1, 2)] == [
        len(encode(tiny_tokenizer, one).ids) for one in rows[1:]
    ]
    assert done.notices == (
        "training rows: 1 of 3 had their document shortened to fit data.max_seq_length=600 and "
        f"data.max_prompt_length={prompt}",
        f"training rows: 1 of 3 ask in more than data.max_prompt_length={prompt} tokens, but not about a document that "
        "could be shortened: kept as they are",
    )


def test_a_row_that_cannot_be_rendered_is_named(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    bad = Conversation((Turn("assistant", "a"), Turn("user", "b")), where="b.json: row 3")
    with pytest.raises(DataError, match=r"^b\.json: row 3: a conversation has to begin with the user's turn"):
        run(tiny_tokenizer, [row("Q", "A"), bad], 100)


def test_a_refusing_template_names_the_row(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    import copy

    tokenizer = copy.copy(tiny_tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system') if messages[0].role == 'system' }}" + str(
        tiny_tokenizer.chat_template
    )
    bad = Conversation((Turn("system", "s"), *row("Q", "A").turns), where="b.json: row 3")
    with pytest.raises(ModelError, match=r"^b\.json: row 3: the chat template refuses .*no system"):
        run(tokenizer, [row("Q", "A"), bad], 100)
