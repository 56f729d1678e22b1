"""Chat templates of well-known model families, written here from what the families publish about their formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

SEEDLING = Path(__file__).parents[1] / "neuralbot/seedling/tokenizer.json"
LLAMA2_TOKENIZER = (
    Path(__file__).parents[2] / "shared/data/tokenizers/llama2/tokenizer.json"
)  # beside the checkout, or not


@dataclass(frozen=True)
class Family:
    """template: what renders a chat. controls: its control tokens besides bos and eos. system, tools: what it knows."""

    template: str
    bos: str
    eos: str
    controls: tuple[str, ...] = ()
    swallows: tuple[str, ...] = ()  # those of the controls that take blanks after them along
    system: bool = True
    tools: bool = False

    def tokenizer(self, backend: Tokenizer) -> PreTrainedTokenizerFast:
        """A tokenizer with this family's control tokens and template around a copy of the vocabulary."""
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(backend.to_str()),
            bos_token=self.bos or None,
            eos_token=self.eos,
            chat_template=self.template,
            clean_up_tokenization_spaces=False,
        )
        plain = [name for name in self.controls if name not in self.swallows]
        added = [AddedToken(name, special=True, normalized=False) for name in plain]
        added += [AddedToken(name, special=True, normalized=False, rstrip=True) for name in self.swallows]
        tokenizer.add_special_tokens({"extra_special_tokens": added})
        return tokenizer


_CHATML = r"""
{%- macro turn(role, text) %}{{ '<|im_start|>' ~ role ~ '\n' ~ text ~ '<|im_end|>\n' }}{% endmacro %}
{%- for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

_QWEN25 = r"""
{%- set given = messages[0].role == 'system' %}
{%- set usual = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}
{{- '<|im_start|>system\n' ~ (messages[0].content if given else usual) }}
{%- if tools %}
{{- '\n\n# Tools\n\nYou may call one or more functions.\n<tools>' }}
{%- for tool in tools %}{{ '\n' ~ tool | tojson }}{% endfor %}
{{- '\n</tools>\n\nReturn a json object within <tool_call></tool_call> tags.' }}
{%- endif %}{{ '<|im_end|>\n' }}
{%- for m in (messages[1:] if given else messages) %}
{%- if m.role == 'tool' %}
{%- if loop.previtem is not defined or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' ~ m.content ~ '\n</tool_response>' }}
{%- if loop.nextitem is not defined or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
{%- else %}
{{- '<|im_start|>' ~ m.role }}
{%- if m.content or not m.tool_calls %}{{ '\n' ~ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' ~ call.function.name ~ '", "arguments": ' ~ call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

_LLAMA2 = r"""
{%- set ns = namespace(system='') %}
{%- for m in messages %}
{%- if m.role == 'system' %}{% set ns.system = '<<SYS>>\n' ~ m.content ~ '\n<</SYS>>\n\n' %}
{%- elif m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ (ns.system ~ m.content).strip() ~ ' [/INST]' }}
{%- set ns.system = '' %}
{%- else %}{{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}{% endif %}
{%- endfor %}"""

_LLAMA3 = r"""
{%- macro head(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\n\n' }}{% endmacro %}
{{- bos_token }}
{%- for m in messages %}{{ head(m.role) ~ m.content | trim ~ '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""

_LLAMA31 = r"""
{%- macro head(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\n\n' }}{% endmacro %}
{%- set first = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set rest = messages[1:] if messages[0].role == 'system' else messages %}
{{- bos_token ~ head('system') }}
{%- if tools %}{{ 'Environment: ipython\n' }}{% endif %}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' ~ first ~ '<|eot_id|>' }}
{%- for m in rest %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length > 1 %}{{ raise_exception('only one call at once') }}{% endif %}
{%- set call = m.tool_calls[0].function %}
{{- head('assistant') ~ '{"name": "' ~ call.name ~ '", "parameters": ' ~ call.arguments | tojson ~ '}<|eot_id|>' }}
{%- elif m.role == 'tool' %}{{ head('ipython') ~ m.content | tojson ~ '<|eot_id|>' }}
{%- else %}
{{- head(m.role) }}
{%- if tools and loop.first %}
{{- 'Given the following functions, please respond with a JSON for a function call.\n\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) ~ '\n\n' }}{% endfor %}
{%- endif %}
{{- m.content | trim ~ '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""

_MISTRAL = r"""
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and m == (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}
{{- '[AVAILABLE_TOOLS] ' ~ tools | tojson ~ '[/AVAILABLE_TOOLS]' }}
{%- endif %}{{ '[INST] ' ~ m.content ~ '[/INST]' }}
{%- elif m.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids of calls have to have 9 characters') }}{% endif %}
{{- (call.function | tojson)[:-1] ~ ', "id": "' ~ call.id ~ '"}' ~ ('' if loop.last else ', ') }}
{%- endfor %}{{ ']' ~ eos_token }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' ~ m.content ~ ', "call_id": "' ~ m.tool_call_id ~ '"}[/TOOL_RESULTS]' }}
{%- elif m.role == 'assistant' %}{{ ' ' ~ m.content ~ eos_token }}
{%- else %}{{ raise_exception('only user and assistant') }}{% endif %}
{%- endfor %}"""

_ZEPHYR = r"""
{%- for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"""

_GEMMA = r"""
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else 'user') ~ '\n' ~ m.content | trim ~ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

_PHI3 = r"""
{%- for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}"""

_DEEPSEEK = r"""
{{- bos_token }}
{%- for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}
{%- if tools %}{{ '\n\n## Tools\n' }}
{%- for tool in tools %}{{ tool.function.name ~ ': ' ~ tool.function.description ~ '\n' }}{% endfor %}{% endif %}
{%- for m in messages if m.role != 'system' %}
{%- if m.role == 'user' %}{{ '<｜User｜>' ~ m.content }}
{%- elif m.role == 'tool' %}{{ '<｜tool▁output▁begin｜>' ~ m.content ~ '<｜tool▁output▁end｜>' }}
{%- else %}
{%- if loop.previtem.role == 'user' %}{{ '<｜Assistant｜>' }}{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}
{{- '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name }}
{{- '\n```json\n' + call.function.arguments + '\n```<｜tool▁call▁end｜>' }}
{%- endfor %}{{ eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role == 'user' %}{{ '<｜Assistant｜>' }}{% endif %}"""

_COMMAND_R = r"""
{%- macro turn(who, text) %}{{ '<|START_OF_TURN_TOKEN|><|' ~ who ~ '_TOKEN|>' ~ text }}{% endmacro %}
{{- bos_token }}
{%- for m in messages %}
{%- set who = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role] %}
{{- turn(who, m.content.strip()) ~ '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ turn('CHATBOT', '') }}{% endif %}"""

_VICUNA = r"""
{%- for m in messages %}
{%- if m.role == 'system' %}{{ m.content ~ ' ' }}
{%- elif m.role == 'user' %}{{ 'USER: ' ~ m.content ~ ' ' }}
{%- else %}{{ 'ASSISTANT: ' ~ m.content ~ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

_IM = ("<|im_start|>", "<|im_end|>")
_HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_TOOL_MARKS = ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_DEEPSEEK_MARKS = tuple(
    f"<｜{name}｜>"
    for name in (
        *("User", "Assistant", "tool▁call▁begin", "tool▁sep", "tool▁call▁end"),
        *("tool▁output▁begin", "tool▁output▁end"),
    )
)
_PHI3_MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_COMMAND_R_MARKS = (
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
)

FAMILIES: dict[str, Family] = {
    "chatml": Family(_CHATML, "", "<|im_end|>", _IM),
    "qwen2.5": Family(_QWEN25, "", "<|im_end|>", (*_IM, "<|endoftext|>"), tools=True),
    "llama-2": Family(_LLAMA2, "<s>", "</s>"),
    "llama-3": Family(_LLAMA3, "<|begin_of_text|>", "<|eot_id|>", _HEADER),
    "llama-3.1": Family(_LLAMA31, "<|begin_of_text|>", "<|eot_id|>", (*_HEADER, "<|eom_id|>"), tools=True),
    "mistral": Family(_MISTRAL, "<s>", "</s>", ("[INST]", "[/INST]", *_TOOL_MARKS), system=False, tools=True),
    "zephyr": Family(_ZEPHYR, "<s>", "</s>"),
    "gemma": Family(_GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), system=False),
    "phi-3": Family(_PHI3, "<s>", "<|endoftext|>", _PHI3_MARKS, swallows=_PHI3_MARKS),
    "deepseek": Family(_DEEPSEEK, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", _DEEPSEEK_MARKS, tools=True),
    "command-r": Family(_COMMAND_R, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", _COMMAND_R_MARKS),
    "vicuna": Family(_VICUNA, "<s>", "</s>"),
}
