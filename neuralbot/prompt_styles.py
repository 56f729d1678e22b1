"""Prompt styles for tokenizers that bring no chat template of their own. A style IS a chat template.

Set on the tokenizer, a style is saved with the run, so serving cannot differ from training. The strings are those of
ITREX's neural_chat for the first exchange; a system turn and further exchanges follow the same pattern. Templates are
rendered by transformers in a sandbox, with `trim_blocks` and `lstrip_blocks` on.

Does not: write a start token (`conversation.ensure_chat_template` adds one where the tokenizer does).
"""

from __future__ import annotations

_ALPACA = r"""
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\n\n' }}
{%- elif message.role == 'assistant' %}{{ '### Response:\n' + message.content }}{{ eos_token }}
{%- if not loop.last %}{{ '\n\n' }}{% endif %}
{%- else %}
{%- if loop.first %}{{ 'Below is an instruction that describes a task' }}
{%- if message.input %}{{ ', paired with an input that provides further context' }}{% endif %}
{{- '. Write a response that appropriately completes the request.\n\n' }}
{%- endif %}
{%- if message.input %}{{ '### Instruction:\n' + message.instruction + '\n\n### Input:\n' + message.input + '\n\n' }}
{%- else %}{{ '### Instruction:\n' + message.content + '\n\n' }}{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"""

_QUESTION_ANSWER = r"""
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\n\n' }}
{%- elif message.role == 'assistant' %}{{ 'Answer: ' + message.content }}{{ eos_token }}
{%- if not loop.last %}{{ '\n\n' }}{% endif %}
{%- else %}{{ 'Question: ' + message.content + '\n\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Answer: ' }}{% endif %}"""

# The user's turn already ends in the request "Summarize the highlights of this article." (data.formats).
_SUMMARIZATION = r"""
{%- for message in messages %}
{{- message.content }}
{%- if message.role == 'assistant' %}{{ eos_token }}{% endif %}
{%- if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}
{%- endfor %}"""

_CHAT = r"""
{%- for message in messages %}
{{- '### ' + message.role | capitalize + ':\n' + message.content }}{{ eos_token }}
{%- if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"""

PROMPT_STYLES: dict[str, str] = {
    name: template.removeprefix("\n")
    for name, template in {
        "alpaca": _ALPACA,
        "question_answer": _QUESTION_ANSWER,
        "summarization": _SUMMARIZATION,
        "chat": _CHAT,
    }.items()
}

STYLE_OF_TASK: dict[str, str] = {
    "completion": "alpaca",
    "code-generation": "alpaca",
    "summarization": "summarization",
    "chat": "chat",
}
