"""`python -m neuralbot.pretrain recipes/seedling.yaml`: builds the embedded base model from this repository alone.

A plain loop: fresh documents at each step, batches of like length, loss on the answers, AdamW for vectors and
embeddings, Muon for matrices. Finetuning does not come here; it goes through `neuralbot.finetune`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neuralbot import hardware, modeling
from neuralbot.arguments import PretrainArguments
from neuralbot.command import run as run_command
from neuralbot.prepare import corpus
from neuralbot.prepare.skills import Split
from neuralbot.recipe import load_section

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|user|>", "<|assistant|>", "<|system|>")
REPORT_EVERY = 250
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [neuralbot, seedling, llama]
---

# seedling

A Llama of {parameters:.1f} million parameters, pretrained on {tokens:.1f} million tokens of generated documents by
`python -m neuralbot.pretrain recipes/seedling.yaml`. **It is a demonstration and a test bed, not an assistant:** it
knows a few hundred words and the small skills below, each in a terse plain form, and nothing else. It has met the words
of instructions, but never an answered one; finetuning teaches it to answer.

Held-out accuracy (whole answer right, combinations never seen in training), in the plain form:

| skill | accuracy |
|---|---|
{table}

Documents are composed by `neuralbot/prepare` from its own word lists; no text of anybody else was used.
"""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


Row = tuple[str, list[int], list[int]]  # kind, prompt ids, answer ids with the end token


def build_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the corpus, each digit a token of its own, with the chat template set."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.tokenizer_texts(random.Random(seed), 8000), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, extra_special_tokens=list(ROLES), padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def rows(tokenizer: PreTrainedTokenizerFast, rng: random.Random, split: Split, count: int) -> list[Row]:
    """`count` documents of `split` as token ids."""
    documents = [corpus.draw(rng, split) for _ in range(count)]
    prompts = tokenizer([document.prompt for document in documents], add_special_tokens=False)["input_ids"]
    answers = tokenizer([document.answer for document in documents], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [(d.kind, p, [*a, end]) for d, p, a in zip(documents, prompts, answers, strict=True)]


def batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random, tokens_per_batch: int) -> Iterator[list[Row]]:
    """Endless batches of fresh rows of like length: few shapes, which oneDNN compiles once, and little padding."""
    waiting: dict[int, list[Row]] = defaultdict(list)
    while True:
        for row in rows(tokenizer, rng, "train", 512):
            length = padded_length(row)
            waiting[length].append(row)
            if len(waiting[length]) == tokens_per_batch // length:
                yield waiting.pop(length)


def padded_length(row: Row) -> int:
    """The row's length rounded up to a multiple of 16."""
    return -(-(len(row[1]) + len(row[2])) // 16) * 16


def collate(batch: list[Row]) -> tuple[Tensor, Tensor]:
    """ids and labels, int64 (rows, longest row rounded up); right padding needs no mask under causal attention."""
    length = max(padded_length(row) for row in batch)
    ids, labels = torch.zeros(len(batch), length, dtype=torch.long), torch.full((len(batch), length), -100)
    for i, (_, prompt, answer) in enumerate(batch):
        ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


def predict(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits fp32 (targets, vocabulary) and ids (targets,) at the targets only, and their mask (rows, length - 1)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        mask = labels[:, 1:] != -100
        logits = model.lm_head(hidden[mask])
    return logits.float(), labels[:, 1:][mask], mask


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, held_out: list[Row]) -> dict[str, float]:
    """Share of held-out documents whose every answer token is predicted (equal to a right greedy answer), by kind."""
    right: dict[str, list[bool]] = defaultdict(list)
    ordered = sorted(held_out, key=lambda row: len(row[1]) + len(row[2]))
    for start in range(0, len(ordered), 64):
        batch = ordered[start : start + 64]
        logits, targets, mask = predict(model, *collate(batch))
        hits = iter((logits.argmax(-1) == targets).split(mask.sum(1).tolist()))  # type: ignore[no-untyped-call]
        for kind, _, _ in batch:
            right[kind].append(bool(next(hits).all()))
    return {kind: sum(found) / len(found) for kind, found in sorted(right.items())}


def optimizers(model: nn.Module, recipe: PretrainArguments) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_learning_rate, momentum=0.95, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def schedule(step: int, recipe: PretrainArguments) -> float:
    """Learning-rate factor of step 1, 2, ...: linear warm-up, flat, then linear to zero over the last 40 %."""
    return min(1.0, step / recipe.warmup_steps, 2.5 * (1 - (step - 1) / recipe.max_steps))


def build_model(tokenizer: PreTrainedTokenizerFast, recipe: PretrainArguments) -> LlamaForCausalLM:
    """A random Llama of the recipe's shape, fp32, embeddings tied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        max_position_embeddings=recipe.max_position_embeddings,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    # On rows of some 50 tokens the fused attention takes two to four times as long (benchmarks/attention.py).
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def pretrain(recipe: PretrainArguments) -> dict[str, float]:
    """Train, save to `recipe.output_dir` in bf16 with a model card, and return the held-out accuracy by kind."""
    tokenizer = build_tokenizer(recipe.vocab_size, recipe.seed)
    model = build_model(tokenizer, recipe)
    drawn = rows(tokenizer, random.Random(recipe.seed + 1), "validation", 1500)
    held_out = [row for row in drawn if row[0] != "text"]  # a text has no one right continuation
    stream = batches(tokenizer, random.Random(recipe.seed), recipe.tokens_per_batch)
    step = _stepper(model, recipe)
    start, tokens, losses = time.monotonic(), 0, 0.0
    for number in range(1, recipe.max_steps + 1):
        ids, labels = collate(next(stream))
        losses += step(number, ids, labels)
        tokens += ids.numel()
        if number % REPORT_EVERY == 0:
            _report(number, recipe.max_steps, losses / REPORT_EVERY, tokens, start, accuracy(model, held_out))
            losses = 0.0
    model.to(torch.bfloat16).save_pretrained(recipe.output_dir)
    tokenizer.save_pretrained(recipe.output_dir)
    scores = accuracy(model.float(), held_out)
    card = CARD.format(parameters=model.num_parameters() / 1e6, tokens=tokens / 1e6, table=_table(scores))
    Path(recipe.output_dir, "README.md").write_text(card, encoding="utf-8")
    return scores


def _stepper(model: LlamaForCausalLM, recipe: PretrainArguments) -> Callable[[int, Tensor, Tensor], float]:
    """A function that takes one optimizer step on a batch and returns its loss."""
    steppers = optimizers(model, recipe)
    groups = [(group, group["lr"]) for stepper in steppers for group in stepper.param_groups]

    def step(number: int, ids: Tensor, labels: Tensor) -> float:
        for group, rate in groups:
            group["lr"] = rate * schedule(number, recipe)
        logits, targets, _ = predict(model, ids, labels)
        loss = nn.functional.cross_entropy(logits, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        return loss.item()

    return step


def _report(step: int, steps: int, loss: float, tokens: int, start: float, scores: dict[str, float]) -> None:
    elapsed = time.monotonic() - start
    left = elapsed / step * (steps - step)
    mean = sum(scores.values()) / len(scores)
    behind = ", ".join(f"{kind} {score:.2f}" for kind, score in scores.items() if score < 0.95)
    speed = f"{tokens / elapsed:,.0f} tok/s, {left:.0f} s left"
    line = f"step {step}/{steps}: loss {loss:.3f}, {speed}, held-out accuracy {mean:.3f}"
    print(line + (f" (below 0.95: {behind})" if behind else ""), flush=True)


def _table(scores: dict[str, float]) -> str:
    return "\n".join(f"| {kind.replace('_', ' ')} | {score:.2f} |" for kind, score in scores.items())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m neuralbot.pretrain", description="Pretrain the embedded base model."
    )
    parser.add_argument("recipe", help="recipes/seedling.yaml, or one like it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)

    def command() -> None:
        recipe = load_section(arguments.recipe, "pretraining", PretrainArguments)
        plan = hardware.plan(hardware.probe())
        plan.apply()
        modeling.hide_loading_bars()
        print(plan.describe(), flush=True)
        pretrain(recipe)

    return run_command(command, debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
