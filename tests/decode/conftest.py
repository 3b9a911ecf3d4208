"""Models that can be decoded in every way there is."""

from small_decoders import build_model as build_model
from small_decoders import count_upwards as count_upwards
from small_decoders import recompute as recompute
from small_decoders import tokenizer as tokenizer
