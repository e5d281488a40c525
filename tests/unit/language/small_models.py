"""Small language models with random weights, and tokenizers trained on a few sentences."""

from __future__ import annotations

import functools

import torch

from xaikit.core.torchvision_ops import import_torchvision

import_torchvision()
import transformers  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SENTENCES = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "You are a helpful assistant.\nAnswer briefly!",
    "user: assistant: system: What is the capital? Naïve café.",
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@functools.cache
def byte_level() -> transformers.PreTrainedTokenizerFast:
    """Bytes, as GPT-2 and Llama 3 read text: a space belongs to the token behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<end>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    return fast


@functools.cache
def whole_words() -> transformers.PreTrainedTokenizerFast:
    """A token for each word between spaces, so that texts can be joined without changing a token."""
    vocabulary = ["<unk>", "<pad>", *sorted({word for text in SENTENCES for word in text.split()}), "rain", "sun"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


@functools.cache
def word_pieces() -> transformers.PreTrainedTokenizerFast:
    """Parts of words, as BERT reads text, with special tokens on both sides."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "capital", "of", "france", "is", "par", "##is", "rome", "."]
    return transformers.BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def llama(**changes: object) -> torch.nn.Module:
    """A Llama with grouped queries."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{**SIZE, "num_key_value_heads": 2, "vocab_size": 340, "max_position_embeddings": 64, **changes}
    )
    return transformers.LlamaForCausalLM(config).double().eval()


def gpt2() -> torch.nn.Module:
    """A GPT-2, with learnt positions."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=340, n_positions=64)
    return transformers.GPT2LMHeadModel(config).double().eval()


def bart(layers: int = 1) -> torch.nn.Module:
    """An encoder and a decoder."""
    torch.manual_seed(0)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=340, d_model=16, encoder_layers=layers, decoder_layers=layers, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=64, **heads,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config).double().eval()


def t5(layers: int = 1) -> torch.nn.Module:
    """An encoder and a decoder that share their embeddings."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=340, d_model=16, d_ff=32, num_layers=layers, num_heads=2, d_kv=8, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).double().eval()


def bert_to_bert(layers: int = 1) -> torch.nn.Module:
    """An encoder and a decoder of one configuration, so that the encoder has a cross-attention that never runs."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=340, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    encoder, decoder = transformers.BertModel(config), transformers.BertLMHeadModel(config)
    model = transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = 1, 0, 2
    return model.double().eval()


def mamba() -> torch.nn.Module:
    """A state-space model."""
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=340, hidden_size=16, state_size=4, num_hidden_layers=2)
    return transformers.MambaForCausalLM(config).double().eval()
