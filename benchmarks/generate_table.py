"""The tables of answering speeds, from the file that `python -m benchmarks.generate` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = ("answered by", "weights", "prefill", "decode", "of the bandwidth", "at once", "first token, then")
_ALIGNMENT = ("---", "---", "---:", "---:", "---:", "---:", "---:")
_NAMES = {
    "neuralbot": "**neuralbot**",
    "genai": "OpenVINO GenAI alone",
    "transformers": "transformers, bf16",
    "itrex": "ITREX, bf16",
    "llama.cpp": "llama.cpp",
}
_FAILED = ("failed",) * (len(_HEAD) - 2)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown between the markers: a row for each method, then what was measured, and where."""
    (result,) = results
    rows = [_row(name, own) for name, own in result["methods"].items()]
    lines = [f"| {' | '.join(row)} |" for row in (_HEAD, _ALIGNMENT, *rows)]
    return "\n".join([*lines, "", _what(result), _where(result), *_missing(result)])


def sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """The README's words: int8 beside transformers."""
    (result,) = results
    ours, theirs = (_medians(result["methods"][name]) for name in ("neuralbot-int8", "transformers"))
    settings = result["settings"]
    return (
        f"A {result['shape']['name']} in int8 reads {ours['prefill']:.0f} and writes {ours['decode']:.1f} tokens a "
        f"second, {ours['many']:.0f} for {settings['streams']} chats at once; transformers in bf16 reads "
        f"{theirs['prefill']:.0f} and writes {theirs['decode']:.1f}, {theirs['many']:.0f} as a batch "
        f"({result['hardware']['cpu']}, {result['threads']} threads, prompts of {settings['prompt_tokens']} tokens)."
    )


def _row(name: str, own: Mapping[str, Any]) -> tuple[str, ...]:
    who, _, weights = name.partition("-")
    label = "neuralbot, torch engine" if weights == "torch" else _NAMES[who]
    if who == "genai":
        label += ", its own settings" if weights.endswith("-defaults") else ", neuralbot's settings"
    kept = weights.removesuffix("-defaults") if weights.startswith("int") else "bf16"
    if "decode_tokens_per_s" not in own:
        return (label, kept, *_FAILED)
    found = _medians(own)
    return (
        label,
        kept,
        f"{found['prefill']:.0f}",
        f"{found['decode']:.1f}",
        f"{own['share_of_bandwidth']:.0%}".replace("%", " %"),
        f"{found['many']:.0f}" if "many" in found else "",
        f"{own['cold_first_token_s']['median']:.2f} s, {own['warm_first_token_s']['median']:.2f} s",
    )


def _medians(own: Mapping[str, Any]) -> dict[str, float]:
    rates = {"prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s", "many": "many_tokens_per_s"}
    return {name: own[key]["median"] for name, key in rates.items() if key in own}


def _what(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    bandwidth = max(rate for found in result["bandwidth_gb_per_s"] for rate in found.values())
    return (
        f"Tokens per second; medians of {settings['rounds']} interleaved rounds. {result['shape']['name']} with random "
        f"weights, prompts of {settings['prompt_tokens']} tokens, {settings['new_tokens']} new ones. Of the bandwidth: "
        f"what one stream reads of the weights, of the {bandwidth:.0f} GB/s that this machine reached in the same run. "
        f"At once: {settings['streams']} streams. First token: below a system prompt of {settings['system_tokens']} "
        "tokens, and of another question below the same one."
    )


def _where(result: Mapping[str, Any]) -> str:
    versions = {name: version for own in result["methods"].values() for name, version in own["versions"].items()}
    used = {
        name: ", ".join(found["linear_layers"]) or found["isa"]
        for name, found in result["onednn"].items()
        if name != "torch"
    }
    names = ("openvino-genai", "torch", "transformers", "llama-cpp-python")
    return (
        f"{result['hardware']['cpu']} ({result['hardware']['isa']}), {result['threads']} threads; oneDNN: torch "
        f"{result['onednn']['torch']['bf16_product']}, {', '.join(f'{name} {what}' for name, what in used.items())}; "
        f"{', '.join(f'{name} {versions[name]}' for name in names if name in versions)}."
    )


def _missing(result: Mapping[str, Any]) -> list[str]:
    return [f"Not measured: {name} ({why})." for name, why in result["not_measured"].items()]
