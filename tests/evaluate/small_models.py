"""Models that are small but real."""

from transformers import AutoConfig

from wmtp.model.modeling import MTPConfig, MTPForCausalLM, initialise


def small_model(
    heads: int, vocabulary: int, *, seed: int = 0, init_std: float = 0.4, positions: int = 64
) -> MTPForCausalLM:
    """A Llama of 16 hidden units and a layer below the heads, in float32, ready for evaluation."""
    backbone = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1 + heads,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = MTPForCausalLM(MTPConfig(backbone, heads=heads))
    initialise(model, seed, init_std)
    return model.eval()
