"""Every field of a recipe's sections `model`, `data`, `finetuning`, `evaluation` and `serving`, and its default.

The first three carry the field names and defaults of neural_chat's classes of the same name, so that old scripts
fit; `prompt_style`, `test_file`, evaluation and serving are our own. This is the one home of these defaults: the recipe
reader, the JSON schema and the run folder take them from here. The fields of section `training` are those of
`transformers.TrainingArguments` (see recipe/training_keys.py). Nothing is checked here: recipe/ does that.

`metadata` holds only what `HfArgumentParser` hands on to argparse (help, choices).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from neuralbot.prompt_styles import PROMPT_STYLES

TASKS = ("completion", "chat", "summarization", "code-generation", "image2text")
PEFT_METHODS = ("lora", "llama_adapter", "ptun", "prefix", "prompt")
VIRTUAL_TOKENS = ("ptun", "prefix", "prompt")  # the methods that put tokens of their own before each text
KERNELS = ("fast", "reference")
DEVICES = ("auto", "cpu", "cuda", "hpu", "xpu")


def _says(text: str, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"help": text, "choices": list(choices)} if choices else {"help": text}


@dataclass
class ModelArguments:
    """Which base model, and where its parts come from."""

    model_name_or_path: str | None = field(
        default=None, metadata=_says('The base model: a Hugging Face name, a folder, or "seedling" (the embedded one).')
    )
    config_name: str | None = field(
        default=None, metadata=_says("Name or folder of the config, if it lies elsewhere; kept with the run.")
    )
    tokenizer_name: str | None = field(
        default=None, metadata=_says("Name or folder of the tokenizer, if it lies elsewhere.")
    )
    cache_dir: str | None = field(default=None, metadata=_says("Folder for downloaded models."))
    use_fast_tokenizer: bool = field(default=True, metadata=_says("Kept for old recipes: tokenizers are always fast."))
    model_revision: str = field(default="main", metadata=_says("Branch, tag or commit of the model on the hub."))
    token: str | None = field(
        default=None,
        repr=False,
        metadata=_says("Access token for gated models. Better: `hf auth login`, or HF_TOKEN in the environment."),
    )
    use_auth_token: bool = field(default=False, metadata=_says("Kept for old recipes: see token."))
    trust_remote_code: bool = field(
        default=False, metadata=_says("Kept for old recipes: code from a model repository is never run.")
    )


@dataclass
class DataArguments:
    """Which rows, how they are split and how long they may be."""

    dataset_name: str | None = field(default=None, metadata=_says("A data set of the Hugging Face hub, or a folder."))
    dataset_config_name: str | None = field(
        default=None, metadata=_says('Configuration of the data set, such as "3.0.0".')
    )
    train_file: str | None = field(
        default=None,
        metadata=_says("Training rows: json, jsonl, csv, tsv, txt, parquet, .gz of these, or a folder of such files."),
    )
    validation_file: str | None = field(default=None, metadata=_says("Rows for the evaluation loss during training."))
    train_dir: str | None = field(default=None, metadata=_says("Kept for old recipes: image folders are not read."))
    validation_dir: str | None = field(
        default=None, metadata=_says("Kept for old recipes: image folders are not read.")
    )
    image_column: str = field(default="image", metadata=_says("Kept for old recipes: images are not read."))
    caption_column: str = field(default="text", metadata=_says("Kept for old recipes: images are not read."))
    max_seq_length: int = field(default=512, metadata=_says("Longest row in tokens, question and answer together."))
    validation_split_percentage: int = field(
        default=0, metadata=_says("Share of the training rows (in %) held back for evaluation without validation_file.")
    )
    overwrite_cache: bool = field(
        default=False, metadata=_says("Tokenise the rows anew, even if an earlier run left them in the cache.")
    )
    pad_to_max_length: bool = field(default=False, metadata=_says("Pad every row to max_seq_length."))
    max_train_samples: int | None = field(default=None, metadata=_says("Use at most this many training rows."))
    max_eval_samples: int | None = field(
        default=None, metadata=_says("Use at most this many validation rows; null: all, or 1,000 of streamed ones.")
    )
    keep_in_memory: bool = field(
        default=False, metadata=_says("Kept for old recipes: what is too large for the memory is left on the disk.")
    )
    dataset_seed: int = field(default=42, metadata=_says("Seed of shuffles and splits of the rows."))
    dataset_cache_directory: str | None = field(default=None, metadata=_says("Folder for downloaded data sets."))
    dataset_concatenation: bool = field(default=False, metadata=_says("Kept for old recipes: see finetuning.kernels."))
    special_tokens: list[str] | None = field(
        default=None,
        metadata=_says(
            "Tokens to add to the vocabulary, for marks that the rows hold; their embeddings are trained, with LoRA "
            "too. One that the chat template writes is a control token: in a row it stays text."
        ),
    )
    max_source_length: int = field(default=384, metadata=_says("Kept for old recipes: see max_prompt_length."))
    max_target_length: int = field(default=128, metadata=_says("Kept for old recipes: see evaluation.max_new_tokens."))
    num_beams: int = field(default=4, metadata=_says("Kept for old recipes: see evaluation.num_beams."))
    streaming: bool = field(
        default=False,
        metadata=_says(
            "Read, convert and tokenise the rows while training. Files that are large beside the memory are streamed "
            "in any case."
        ),
    )
    preprocessing_num_workers: int | None = field(default=None, metadata=_says("Processes for tokenising."))
    test_file: str | None = field(default=None, metadata=_says("Held-out rows, scored before and after tuning."))
    dataset_revision: str | None = field(
        default=None, metadata=_says("Branch, tag or commit of the data set on the hub; null: its main branch.")
    )
    prompt_style: str | None = field(
        default=None,
        metadata=_says(
            "How turns are written as text. null: by the tokenizer's own chat template, or the style of the task if "
            "it has none. A name: by this style, in training and serving.",
            tuple(PROMPT_STYLES),
        ),
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata=_says(
            "Longest question in tokens, where it is about a document, which is shortened; null: what max_seq_length "
            "leaves beside the answer."
        ),
    )
    columns: dict[str, str] | None = field(
        default=None,
        metadata=_says("Which column is which field, where its name does not say: {question: Anfrage}."),
    )
    sources: list[dict[str, Any]] | None = field(
        default=None,
        metadata=_says(
            "Several sources of training rows, in place of train_file and dataset_name: a list of mappings with path "
            "(a file or folder) or name (a data set of the hub, with config, revision and split), and perhaps weight."
        ),
    )
    on_bad_row: Literal["stop", "skip"] = field(
        default="stop",
        metadata=_says(
            "Rows that cannot be used. stop: the first ends the run. skip: they are left out, counted and written to "
            "rejects.jsonl of the run."
        ),
    )
    max_bad_rows: int = field(default=100, metadata=_says("on_bad_row skip: more bad rows than this end the run."))


@dataclass
class SourceArguments:
    """One entry of data.sources."""

    path: str | None = field(default=None, metadata=_says("A file, or a folder of files."))
    name: str | None = field(default=None, metadata=_says("A data set of the Hugging Face hub."))
    config: str | None = field(default=None, metadata=_says("Configuration of the data set."))
    revision: str | None = field(default=None, metadata=_says("Branch, tag or commit of the data set."))
    split: str | None = field(default=None, metadata=_says("Split of the data set; null: its training split."))
    columns: dict[str, str] | None = field(
        default=None, metadata=_says("Which column is which field, where the names do not tell.")
    )
    weight: float | None = field(
        default=None,
        metadata=_says(
            "Share of the mixed rows, beside the weights of the other sources: of weights 2 and 1, two of three rows "
            "come from the first. A source that ends before the others begins again. Without weights, every row of "
            "every source is used once in an epoch."
        ),
    )


@dataclass
class FinetuningArguments:
    """What is trained, and for which task."""

    lora_rank: int = field(default=8, metadata=_says("Rank of the LoRA matrices."))
    lora_alpha: int = field(default=16, metadata=_says("Scale of the LoRA update: it is multiplied by alpha / rank."))
    lora_dropout: float = field(default=0.05, metadata=_says("Dropout before the LoRA matrices."))
    lora_target_modules: list[str] | None = field(
        default=None, metadata=_says("Names of the modules that get LoRA; null: the usual ones of the model family.")
    )
    lora_all_linear: bool = field(default=False, metadata=_says("LoRA on every linear layer except the output layer."))
    adapter_layers: int = field(
        default=30, metadata=_says("llama_adapter: number of layers with an adapter, counted from the last.")
    )
    adapter_len: int = field(default=10, metadata=_says("llama_adapter: length of the adapter prompt."))
    num_virtual_tokens: int = field(default=10, metadata=_says("ptun, prefix, prompt: number of virtual tokens."))
    ptun_hidden_size: int = field(default=1024, metadata=_says("ptun: width of the prompt encoder."))
    peft: str = field(
        default="lora",
        metadata=_says(
            "What is trained beside the frozen base. lora: thin matrices in its layers. ptun, prompt: tokens before "
            "each text. prefix: keys and values before those of each text. llama_adapter: prompts with a gate.",
            PEFT_METHODS,
        ),
    )
    train_on_inputs: bool = field(default=False, metadata=_says("Learn the question too, not only the answer."))
    device: str = field(default="auto", metadata=_says("Where to train.", DEVICES))
    task: str = field(default="completion", metadata=_says("What the rows teach.", TASKS))
    eval_ppl: bool = field(default=True, metadata=_says("Report the perplexity beside the evaluation loss."))
    do_lm_eval: bool = field(
        default=False,
        metadata=_says("Run lm-evaluation-harness after tuning, and before it with evaluation.before_tuning."),
    )
    lm_eval_tasks: list[str] = field(
        default_factory=lambda: ["truthfulqa_mc", "lambada_openai"],
        metadata=_says(
            "Tasks of lm-evaluation-harness: names, whose rows are on the hub, or task files (.yaml) over local rows."
        ),
    )
    qlora: bool = field(default=False, metadata=_says("LoRA on a base quantised to `bits`."))
    double_quant: bool = field(default=True, metadata=_says("qlora: quantise the quantisation constants too."))
    quant_type: str = field(default="nf4", metadata=_says("qlora: number format.", ("nf4", "fp4")))
    bits: int = field(
        default=4, metadata=_says("qlora: 4 or 8. full_finetune: 16 or 32 (bits of the weights); 4 stands for unset.")
    )
    full_finetune: bool = field(default=False, metadata=_says("Train all weights instead of an adapter."))
    kernels: str = field(
        default="fast",
        metadata=_says(
            "fast: rows packed without padding, shared beginnings computed once, own kernels; where the model allows. "
            "reference: the plain loop of transformers, for every model.",
            KERNELS,
        ),
    )

    @property
    def virtual_tokens(self) -> int:
        """How many places of the context the tuning itself takes."""
        return self.num_virtual_tokens if self.peft in VIRTUAL_TOKENS and not self.full_finetune else 0


@dataclass
class EvaluationArguments:
    """How the held-out rows of `data.test_file` are scored."""

    metric: Literal[
        "auto", "exact_match", "f1", "rouge", "bleu", "contains", "unit_tests", "labels", "loss", "none"
    ] = field(
        default="auto",
        metadata=_says(
            "What is scored. auto: exact_match for completion, rouge for summarization, contains for chat, unit_tests "
            "for code-generation. f1: words, as SQuAD. bleu: with chrF. labels: the likeliest label as the answer. "
            "loss: with perplexity and token accuracy."
        ),
    )
    labels: list[str] | None = field(
        default=None, metadata=_says("labels: the answers to choose from; null: those that the test rows hold.")
    )
    before_tuning: bool = field(default=True, metadata=_says("Score the base model too, to show the difference."))
    max_samples: int | None = field(default=None, metadata=_says("Score at most this many rows; null: all."))
    max_new_tokens: int = field(default=128, metadata=_says("Longest answer in tokens."))
    num_beams: int = field(
        default=1, metadata=_says("Beams of the search for the likeliest answer; 1: always the likeliest token.")
    )
    batch_size: int = field(default=32, metadata=_says("Answers generated at the same time."))
    show_samples: int = field(default=3, metadata=_says("Questions with answers printed at the end."))
    samples: int = field(
        default=1,
        metadata=_says("Answers to each question: 1 is the likeliest answer; more are drawn, for pass@k and means."),
    )
    temperature: float = field(default=0.8, metadata=_says("Several samples: higher is more varied."))
    top_p: float = field(
        default=0.95, metadata=_says("Several samples: drawn among the likeliest tokens that sum up to this share.")
    )
    seed: int = field(default=0, metadata=_says("Seed of the drawn answers and of the intervals."))
    timeout_s: float = field(default=5.0, metadata=_says("unit_tests: seconds one answer may run."))
    sandbox: Literal["namespaces", "filter"] = field(
        default="namespaces",
        metadata=_says(
            "unit_tests: what holds the code of an answer. namespaces: no network, no files but Python's own, limits "
            "and a filter of system calls; refused where the kernel denies namespaces. filter: the last two alone, "
            "so that an answer can read your files."
        ),
    )


@dataclass
class ServingArguments:
    """How the tuned model answers unless a request says otherwise; stored with the run."""

    system_prompt: str | None = field(default=None, metadata=_says("System message of every conversation."))
    temperature: float = field(default=0.1, metadata=_says("Higher is more varied."))
    top_k: int = field(default=40, metadata=_says("Sample among the k likeliest tokens; 0: no limit."))
    top_p: float = field(default=0.75, metadata=_says("Sample among the likeliest tokens that sum up to this share."))
    repetition_penalty: float = field(default=1.1, metadata=_says("Above 1: repeated tokens become less likely."))
    max_new_tokens: int = field(default=256, metadata=_says("Longest answer in tokens."))
    do_sample: bool = field(default=True, metadata=_says("false: always the likeliest token."))
    stop: list[str] = field(default_factory=list, metadata=_says("Texts that end an answer."))
    seed: int | None = field(default=None, metadata=_says("Seed of the sampling; null: a new one each time."))


@dataclass(frozen=True, kw_only=True)
class PretrainArguments:
    """Shape, length and speed of a pretraining; all required, see recipes/seedling.yaml."""

    output_dir: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    max_steps: int
    tokens_per_batch: int
    learning_rate: float
    muon_learning_rate: float
    weight_decay: float
    warmup_steps: int
    seed: int
