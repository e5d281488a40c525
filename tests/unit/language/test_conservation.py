"""LRP conserves the score in every family of models, left-padded too; padding gets nothing."""

from __future__ import annotations

import pytest
import torch

from tests.unit.language import small_models
from xaikit import AttnLRP, LRPUniformEpsilon, Position
from xaikit.core.errors import InvalidInputError

T = small_models.transformers
SIZE = {**small_models.SIZE, "vocab_size": 50, "pad_token_id": 0}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
CODERS = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
PADDED = torch.tensor([[0, 0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15]])
TEXT = {"input_ids": PADDED, "attention_mask": (PADDED != 0).long()}
RIGHT = {name: value.flip(1) for name, value in TEXT.items()}  # BERT reads its first position
SECOND = {"decoder_input_ids": torch.tensor([[1, 3, 4], [2, 3, 6]])}
IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}
SOUND = {"input_features": torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}
TOKEN, FIRST = Position(-1, 5), "model.layers.0.input"
BOTH = ("model.encoder.layers.0.input", "model.decoder.layers.0.input")
FAMILIES = {
    "bert": lambda: (T.BertForSequenceClassification(T.BertConfig(**SIZE, num_labels=3)), RIGHT, "bert.embeddings", 1),
    "gpt2": lambda: (small_models.gpt2(), TEXT, "transformer.h.0.input", TOKEN),
    "bloom": lambda: (  # its activation is a function of autograd; it computes NaN at padding
        T.BloomForCausalLM(T.BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=4)),
        {"input_ids": PADDED[1:]}, "transformer.h.0.input", TOKEN,
    ),
    "llama": lambda: (small_models.llama(), TEXT, FIRST, TOKEN),
    "qwen2": lambda: (T.Qwen2ForCausalLM(T.Qwen2Config(**SIZE, num_key_value_heads=2)), TEXT, FIRST, TOKEN),
    "gemma": lambda: (T.GemmaForCausalLM(T.GemmaConfig(**SIZE, num_key_value_heads=2, head_dim=4)), TEXT, FIRST, TOKEN),
    "mistral": lambda: (
        T.MistralForCausalLM(T.MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=3)), TEXT, FIRST, TOKEN
    ),
    "mixtral": lambda: (
        T.MixtralForCausalLM(T.MixtralConfig(**SIZE, num_key_value_heads=2, num_local_experts=4)), TEXT, FIRST, TOKEN
    ),
    "mamba": lambda: (small_models.mamba(), TEXT, "backbone.embeddings", TOKEN),
    "t5": lambda: (small_models.t5(), TEXT | SECOND, ("encoder.embed_tokens", "decoder.embed_tokens"), TOKEN),
    "bart": lambda: (T.BartForConditionalGeneration(T.BartConfig(**CODERS)), TEXT | SECOND, BOTH, TOKEN),
    "whisper": lambda: (
        T.WhisperForConditionalGeneration(
            T.WhisperConfig(
                **CODERS, num_mel_bins=4, max_source_positions=8, max_target_positions=16, pad_token_id=0,
                bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
            )
        ),
        SOUND | SECOND, BOTH, TOKEN,
    ),
    "clip": lambda: (
        T.CLIPModel(
            T.CLIPConfig(text_config={**SIZE, "eos_token_id": 49, "max_position_embeddings": 16}, vision_config=VISION)
        ),
        {"input_ids": torch.tensor([[3, 7, 9, 49], [4, 5, 6, 49]])} | IMAGES,
        ("text_model.embeddings", "vision_model.embeddings"), torch.tensor([0, 1]),
    ),
    "llava": lambda: (
        T.LlavaForConditionalGeneration(
            T.LlavaConfig(
                text_config={"model_type": "llama", **SIZE, "num_key_value_heads": 2},
                vision_config={"model_type": "clip_vision_model", **VISION}, image_token_id=49,
            )
        ),
        {"input_ids": torch.tensor([[5, *[49] * 4, 6], [7, *[49] * 4, 8]])} | IMAGES,
        "model.language_model.layers.0.input", TOKEN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_relevance_sums_to_the_score(family):
    torch.manual_seed(0)
    model, inputs, layer, target = FAMILIES[family]()
    dtype = torch.float32 if family == "mixtral" else torch.float64  # its experts' product takes no float64
    model = model.to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("A_log"):  # or the decay of Mamba's states underflows
                constant = name.endswith("bias") or "relative_attention_bias" in name
                parameter.mul_(0 if constant else 5 if parameter.ndim > 1 else 1)
    head = "logits_per_image" if family == "clip" else "logits"
    result = LRPUniformEpsilon(model, layer=layer, epsilon=1e-9, head=head).explain(inputs, target)
    values = result.values if isinstance(result.values, tuple) else (result.values,)
    sums = torch.stack([value.flatten(1).sum(1) for value in values]).sum(0)
    assert torch.allclose(sums.double(), result.scores.double(), rtol=0.01, atol=1e-6)
    if "attention_mask" in inputs:
        assert not values[0][inputs["attention_mask"] == 0].any()
    if family in ("llama", "bart", "llava"):  # its softmax need not conserve, and is all that does not
        assert AttnLRP(model, layer=layer, epsilon=1e-9).explain(inputs, target).lost == {}


def test_a_model_that_fails_says_its_own_error():
    class Failing(torch.nn.Module):
        def forward(self, input_ids):
            raise InvalidInputError(f"seven tokens are too many: {input_ids.shape[1]}")

    with pytest.raises(InvalidInputError, match="seven tokens are too many: 7"):
        AttnLRP(Failing(), layer=None).output({"input_ids": PADDED})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """The rows are those of full precision, within the rounding of the type."""
    from xaikit import GradientXInput
    from xaikit.language import explain_generation

    model = small_models.llama()
    for explainer in (GradientXInput, AttnLRP) if dtype == torch.bfloat16 else (GradientXInput,):
        exact = explain_generation(explainer(model.double()), None, [5, 6, 7], generated=[8, 9]).values
        rows = explain_generation(explainer(model.to(dtype)), None, [5, 6, 7], generated=[8, 9]).values
        assert (rows.double() - exact).abs().max() < 0.05 * exact.abs().max()


def test_gradient_checkpointing_changes_nothing():
    from xaikit.language import explain_generation

    model = small_models.llama()
    plain = explain_generation(AttnLRP(model), None, [5, 6, 7], generated=[8, 9]).values
    name = next(n for n in ("activation_checkpointing_enable", "gradient_checkpointing_enable") if hasattr(model, n))
    getattr(model, name)()
    model.train()
    assert torch.equal(explain_generation(AttnLRP(model), None, [5, 6, 7], generated=[8, 9]).values, plain)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:torch.ao.quantization")
def test_quantised_linear_layers_are_refused():
    from xaikit.core.errors import InvalidTypeError
    from xaikit.language import explain_generation

    model = small_models.llama().float()
    model.lm_head = torch.ao.nn.quantized.dynamic.Linear(16, 340)
    with pytest.raises(InvalidTypeError, match="a quantised model .* has no gradient"):
        explain_generation(AttnLRP(model), None, [5, 6, 7], generated=[8, 9])
