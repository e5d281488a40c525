"""Hugging Face transformers with two small layers, for ten classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, images, token_ids
from xaikit.core.torchvision_ops import import_torchvision

import_torchvision()  # transformers imports it; it is mended first where its operators do not match torch

import transformers as hf  # noqa: E402

SMALL = {"vocab_size": 100, "num_labels": 10}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


class Text(nn.Module):
    """Token ids to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.m = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.m(input_ids=ids).logits

    def from_emb(self, embeddings: Tensor) -> Tensor:
        return self.m(inputs_embeds=embeddings).logits


class MaskedText(Text):
    """The last three tokens of the second text are padding."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.m(input_ids=ids, attention_mask=self.attention_mask(ids)).logits

    def from_emb(self, embeddings: Tensor) -> Tensor:
        return self.m(inputs_embeds=embeddings, attention_mask=self.attention_mask(embeddings)).logits

    @staticmethod
    def attention_mask(inputs: Tensor) -> Tensor:
        mask = torch.ones(inputs.shape[:2], dtype=torch.long)
        mask[1, -3:] = 0
        return mask


class EncoderClassifier(nn.Module):
    """An encoder, the mean of its states, and a linear head."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.m = model
        self.fc = nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.m(input_ids=ids).last_hidden_state.mean(1))

    def from_emb(self, embeddings: Tensor) -> Tensor:
        return self.fc(self.m(inputs_embeds=embeddings).last_hidden_state.mean(1))


class Pixels(nn.Module):
    """Images to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.m = model

    def forward(self, x: Tensor) -> Tensor:
        return self.m(pixel_values=x).logits


def _t5() -> nn.Module:
    config = hf.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return EncoderClassifier(hf.T5EncoderModel(config), 32)


def _vit() -> nn.Module:
    config = hf.ViTConfig(**BERT, image_size=32, patch_size=8, num_labels=10)
    return Pixels(hf.ViTForImageClassification(config))


def _text(build: Callable[[], nn.Module], embedding: str, wrapper: Callable[[nn.Module], nn.Module] = Text) -> Entry:
    return Entry(lambda: wrapper(build()), token_ids, lambda model: model.m.get_submodule(embedding))


def entries() -> dict[str, Entry]:
    """Name to architecture."""

    def bert(**options: object) -> Callable[[], nn.Module]:
        return lambda: hf.BertForSequenceClassification(hf.BertConfig(**BERT, **SMALL, **options))

    def distilbert() -> nn.Module:
        config = hf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **SMALL)
        return hf.DistilBertForSequenceClassification(config)

    def gpt2() -> nn.Module:
        return hf.GPT2ForSequenceClassification(hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, pad_token_id=0, **SMALL))

    def llama() -> nn.Module:
        config = hf.LlamaConfig(**BERT, num_key_value_heads=2, pad_token_id=0, **SMALL)
        return hf.LlamaForSequenceClassification(config)

    def roberta() -> nn.Module:
        return hf.RobertaForSequenceClassification(hf.RobertaConfig(**BERT, **SMALL))

    words = "bert.embeddings.word_embeddings"
    return {
        "hf:bert": _text(bert(), words),
        "hf:bert+mask": _text(bert(), words, MaskedText),
        "hf:bert-eager": _text(bert(attn_implementation="eager"), words, MaskedText),
        "hf:distilbert": _text(distilbert, "distilbert.embeddings.word_embeddings"),
        "hf:roberta": _text(roberta, "roberta.embeddings.word_embeddings"),
        "hf:gpt2": _text(gpt2, "transformer.wte"),
        "hf:llama": _text(llama, "model.embed_tokens"),
        "hf:t5enc": Entry(_t5, token_ids, lambda model: model.m.shared),
        "hf:vit": Entry(_vit, images(32)),
    }
