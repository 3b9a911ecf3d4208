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


def mtp_model(
    kind: str = "llama",
    *,
    heads: int = 3,
    layers: int = 4,
    vocabulary: int = 50,
    tied: bool = True,
    seed: int = 1,
) -> MTPForCausalLM:
    """A model over any backbone, with fewer key than query heads, in float32, ready for evaluation."""
    backbone = AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        sliding_window=None,
    )
    model = MTPForCausalLM(MTPConfig(backbone, heads=heads, dtype="float32")).eval()
    initialise(model, seed=seed, std=0.2)
    return model
