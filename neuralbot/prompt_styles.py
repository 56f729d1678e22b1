"""Prompt styles for tokenizers that bring no chat template of their own, or for a recipe that names one.

A style IS a chat template: set on the tokenizer, it is saved with the run, so serving cannot differ from training. The
strings of a first exchange are those that people use: ITREX's neural_chat (alpaca, chat, question_answer,
summarization), Magicoder (code), published tutorials (the others). A system turn and further exchanges follow the same
pattern, and each answer ends in the end token. A blank that belongs before an answer is not part of the prompt, but
the first thing that is answered: tokenizers join it to the word behind it. Templates are rendered by transformers in a
sandbox, with `trim_blocks` and `lstrip_blocks` on.

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

# The one style that knows tools: their descriptions first, calls as JSON between tags, a result under its own heading.
_CHAT = r"""
{%- if tools %}{{ '### Tools:\n' + tools | tojson }}{{ eos_token }}{{ '\n' }}{% endif %}
{%- for message in messages %}
{{- '### ' + message.role | capitalize + ':\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{%- if message.content or not loop.first %}{{ '\n' }}{% endif %}
{{- '<tool_call>' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '</tool_call>' }}
{%- endfor %}{{ eos_token }}
{%- if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"""

# A system turn takes the place of the first sentence.
_CODE = r"""
{%- if messages[0].role != 'system' %}
{{- 'You are an exceptionally intelligent coding assistant that consistently delivers accurate and reliable ' }}
{{- 'responses to user instructions.\n\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\n\n' }}
{%- elif message.role == 'assistant' %}{{ '@@ Response\n' + message.content }}{{ eos_token }}
{%- if not loop.last %}{{ '\n\n' }}{% endif %}
{%- else %}{{ '@@ Instruction\n' + message.content + '\n\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '@@ Response\n' }}{% endif %}"""

# The system turn holds "Summary: ...\n\nSpecific information: ...".
_CUSTOMER_AGENT = r"""
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\n\n###\n\n' }}
{%- elif message.role == 'assistant' %}{{ 'Agent: ' + message.content }}{{ eos_token }}
{%- if not loop.last %}{{ '\n' }}{% endif %}
{%- else %}{{ 'Customer: ' + message.content + '\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Agent:' }}{% endif %}"""

# For prompts that bring a form of their own.
_PLAIN = r"""
{%- for message in messages %}{{ message.content }}
{%- if message.role == 'assistant' %}{{ eos_token }}{% elif message.role == 'system' %}{{ '\n\n' }}{% endif %}
{%- endfor %}"""

_QUESTION_ANSWER_BRACKETS = r"""
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\n\n' }}
{%- elif message.role == 'assistant' %}{{ '[Response]:' + message.content }}{{ eos_token }}
{%- if not loop.last %}{{ '\n' }}{% endif %}
{%- else %}{{ '[Question] : ' + message.content + ' \n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[Response]:' }}{% endif %}"""

_QUESTION_ANSWER_HEADINGS = r"""
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\n\n' }}
{%- elif message.role == 'assistant' %}{{ ' ### Answer: ' + message.content }}{{ eos_token }}
{%- if not loop.last %}{{ '\n' }}{% endif %}
{%- else %}{{ '### Question: ' + message.content + '\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ ' ### Answer:' }}{% endif %}"""

_USER_ASSISTANT = r"""
{%- for message in messages %}
{%- if message.role == 'system' %}{{ 'System:' + message.content }}
{%- elif message.role == 'assistant' %}{{ '\nAssistant: ' + message.content }}{{ eos_token }}
{%- else %}{{ '\nUser: ' + message.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '\nAssistant:' }}{% endif %}"""

PROMPT_STYLES: dict[str, str] = {
    name: template.removeprefix("\n")
    for name, template in {
        "alpaca": _ALPACA,
        "chat": _CHAT,
        "code": _CODE,
        "customer_agent": _CUSTOMER_AGENT,
        "plain": _PLAIN,
        "question_answer": _QUESTION_ANSWER,
        "question_answer_brackets": _QUESTION_ANSWER_BRACKETS,
        "question_answer_headings": _QUESTION_ANSWER_HEADINGS,
        "summarization": _SUMMARIZATION,
        "user_assistant": _USER_ASSISTANT,
    }.items()
}

STYLE_OF_TASK: dict[str, str] = {
    "completion": "alpaca",
    "code-generation": "alpaca",
    "summarization": "summarization",
    "chat": "chat",
}
