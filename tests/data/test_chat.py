"""Chat templates: the ids of transformers for ordinary messages, and text that stays text."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from wmtp.data.chat import DATE, Chat
from wmtp.errors import WMTPError

CONTROL = ["<bos>", "<|im_start|>", "<|im_end|>", "<turn>", "</turn>", "<|eot|>", "<|h|>", "<|/h|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|h|>' + m.role + '<|/h|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
TOOLS = "{% if tools %}<|im_start|>tools{{ tools | tojson }}<|im_end|>{% endif %}" + CHATML
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == "
    "'system' %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }} [/INST]{% elif m.role == 'assistant' %}"
    "{{ m.content }}<|eot|>{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n### END\n{% endfor %}### assistant:\n"
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA, "tools": TOOLS, "inst": INST, "plain": PLAIN}
MESSAGES = [
    "x",
    "  spaces around \n",
    "\n\nlines\n\n",
    "é€ ```python\ndef f(x):\n    return x\n```",
    "a" * 50,
]


@pytest.fixture(scope="module")
def chatting() -> PreTrainedTokenizerFast:
    """Bytes, some pairs of them across line ends, and control tokens; it puts a BOS before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ċ", "Ċ"), ("a", "a"), ("Ċ", "x"), ("r", "Ċ"), ("Ġ", "Ġ"), ("aa", "aa")]
    pieces = [*alphabet, *(a + b for a, b in pairs)]
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<|eot|>")


def with_template(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_ordinary_messages_get_the_ids_of_transformers(
    chatting: PreTrainedTokenizerFast, template: str, system: str | None
) -> None:
    if template == "gemma" and system is not None:
        return
    tokenizer = with_template(chatting, TEMPLATES[template])
    chat = Chat(tokenizer, system)
    before = [] if system is None else [{"role": "system", "content": system}]
    for message in MESSAGES:
        messages = [*before, {"role": "user", "content": message}]
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert chat.ids(message) == theirs
        assert chat.text(message) == tokenizer.decode(theirs)
        assert theirs.count(tokenizer.bos_token_id) == ("bos_token" in TEMPLATES[template])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "message", ["What is <|im_end|>?", " <bos></turn><|eot|> ", "\n\n<|h|>system<|/h|>\n\nxaa"]
)
def test_control_tokens_in_a_message_are_text(
    chatting: PreTrainedTokenizerFast, template: str, message: str
) -> None:
    tokenizer = with_template(chatting, TEMPLATES[template])
    chat = Chat(tokenizer)
    special = set(tokenizer.added_tokens_decoder)
    own = [token for token in chat.ids("nothing") if token in special]
    ids = chat.ids(message)
    assert [token for token in ids if token in special] == own
    assert tokenizer.decode(ids) == chat.text(message)


ENDS = {
    "chatml": "<|im_end|>",
    "llama": "<|eot|>",
    "gemma": "</turn>",
    "tools": "<|im_end|>",
    "inst": "<|eot|>",
}


def test_an_answer_ends_where_the_template_ends_it(chatting: PreTrainedTokenizerFast) -> None:
    for name, token in ENDS.items():
        chat = Chat(with_template(chatting, TEMPLATES[name]))
        assert (chat.end, chat.end_text) == (chatting.convert_tokens_to_ids(token), None)
    chat = Chat(with_template(chatting, PLAIN))
    assert chat.end is None
    assert chat.end_text is not None
    assert chat.end_text.startswith("### END")


REFUSED = {
    "no chat template": (None, None),
    "System role not supported": (GEMMA, "Be brief."),
    "leaves the system message out": ("{{ messages[-1].content }}", "Be brief."),
    "leaves the user's message out": ("Hello.", None),
    "refuses it": ("{% for", None),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_templates_that_cannot_be_used_are_refused_in_a_line(
    chatting: PreTrainedTokenizerFast, reason: str
) -> None:
    template, system = REFUSED[reason]
    chatting.chat_template = template
    with pytest.raises(WMTPError, match=reason) as caught:
        Chat(chatting, system)
    assert "\n" not in str(caught.value)


def test_the_day_does_not_change_a_prompt(chatting: PreTrainedTokenizerFast) -> None:
    dated = "{% set date_string = date_string or strftime_now('%d') %}{{ date_string }}"
    assert Chat(with_template(chatting, dated + CHATML)).text("x").startswith(DATE + "<|im_start|>")
