// Templates by name, for files that carry none: what the families' own templates write for a system prompt, questions
// and answers.
#include "engine/text/chat_template.h"

#include <algorithm>

namespace hearth {

namespace {

// A line end after `%}` is none of the text.
constexpr NamedTemplate templates[] = {
    {"phi-4", R"({% for m in messages -%}
<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>
{%- endfor %}
{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %})"},
    {"chatml", R"({% for m in messages %}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %})"},
    // 3.2 and 3.3, too. A date is part of what they were trained on, and this is the one that their templates fall back
    // to.
    {"llama-3.1", R"({% set first = messages[0].role == 'system' %}
{{ bos_token }}<|start_header_id|>system<|end_header_id|>

Cutting Knowledge Date: December 2023
Today Date: 26 Jul 2024

{{ messages[0].content | trim if first }}<|eot_id|>
{%- for m in messages[1 if first else 0:] %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>
{%- endfor %}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %})"},
    {"llama-3", R"({{ bos_token }}
{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>
{%- endfor %}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %})"},
    {"gemma", R"({% set first = messages[0].role == 'system' %}
{{ bos_token }}
{%- for m in messages[1 if first else 0:] -%}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ messages[0].content ~ '\n\n' if first and loop.first }}{{ m.content | trim }}<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}<start_of_turn>model
{% endif %})"},
    {"phi-3", R"({% for m in messages %}
<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>
{% endif %})"},
    {"zephyr", R"({% for m in messages %}
<|{{ m.role }}|>
{{ m.content }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>
{% endif %})"},    // TinyLlama, too
    {"llama-2", R"({% set first = messages[0].role == 'system' %}
{% for m in messages[1 if first else 0:] %}
{% set content = ('<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' if first and loop.first else '') ~ m.content %}
{% if m.role == 'user' %}{{ bos_token }}[INST] {{ content | trim }} [/INST]
{%- else %} {{ content | trim }} {{ eos_token }}
{%- endif %}
{% endfor %})"},
    {"mistral-v3", R"({% set first = messages[0].role == 'system' %}
{{ bos_token }}
{%- for m in messages[1 if first else 0:] %}
{% if m.role == 'user' %}[INST] {{ messages[0].content ~ '\n\n' if first and loop.last }}{{ m.content }}[/INST]
{%- else %} {{ m.content | trim }}{{ eos_token }}
{%- endif %}
{% endfor %})"},
    {"mistral", R"({% set first = messages[0].role == 'system' %}
{{ bos_token }}
{%- for m in messages[1 if first else 0:] %}
{% if m.role == 'user' %} [INST] {{ messages[0].content ~ '\n\n' if first and loop.first }}{{ m.content }} [/INST]
{%- else %} {{ m.content }}{{ eos_token }}
{%- endif %}
{% endfor %})"},
    {"deepseek-3", R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'user' %}<｜User｜>{{ m.content }}
{%- elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}{{ eos_token }}
{%- else %}{{ m.content }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}<｜Assistant｜>{% endif %})"},
    {"deepseek", R"({{ bos_token }}
{%- for m in messages %}
{% if m.role == 'user' %}
User: {{ m.content }}

{% elif m.role == 'assistant' %}
Assistant: {{ m.content }}{{ eos_token }}
{%- else %}
{{ m.content }}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}Assistant:{% endif %})"},
    {"vicuna", R"({% if messages[0].role != 'system' -%}
A chat between a curious user and an artificial intelligence assistant. )"
               R"(The assistant gives helpful, detailed, and polite answers to the user's questions. {% endif %}
{% for m in messages %}
{% if m.role == 'user' %}USER: {{ m.content }} {% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}{{ eos_token }}
{%- else %}{{ m.content }} {% endif %}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %})"},
    {"llava", R"({% if messages[0].role != 'system' -%}
A chat between a curious human and an artificial intelligence assistant. )"
              R"(The assistant gives helpful, detailed, and polite answers to the human's questions. {% endif %}
{% for m in messages %}
{% if m.role == 'user' %}USER: {{ m.content }} {% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}{{ eos_token }}
{%- else %}{{ m.content }} {% endif %}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %})"},
    {"alpaca", R"({% if messages[0].role != 'system' %}
Below is an instruction that describes a task. Write a response that appropriately completes the request.

{% endif %}
{% for m in messages %}
{{ {'user': '### Instruction:\n', 'assistant': '### Response:\n'}.get(m.role, '') }}{{ m.content }}

{% endfor %}
{% if add_generation_prompt %}### Response:
{% endif %})"},
    {"none", R"({% for m in messages %}
{{ m.content }}{{ '\n' if m.role != 'user' }}
{%- endfor %})"},
};

}    // namespace

std::span<const NamedTemplate> chat_templates() { return templates; }

const NamedTemplate* find_chat_template(std::string_view name)
{
    const auto found = std::find_if(std::begin(templates), std::end(templates),
                                    [&](const NamedTemplate& t) { return t.name == name; });
    return found == std::end(templates) ? nullptr : &*found;
}

}    // namespace hearth
