"""A tokenizer as SentencePiece's are: a space before every text, which decoding takes away again."""

from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

MERGES = [("▁", "▁"), ("▁▁", "▁▁"), ("r", "e"), ("re", "t"), ("▁", "ret"), ("▁", "x"), ("▁", "y"), ("▁", "=")]


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """Letters, single bytes for what is no letter, and some pieces with spaces before them; as that of Llama 2."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abdefnorstuxy=():+0123"]
    pieces += [left + right for left, right in MERGES]
    backend = Tokenizer(
        models.BPE(
            {piece: index for index, piece in enumerate(pieces)},
            MERGES,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", clean_up_tokenization_spaces=False
    )
