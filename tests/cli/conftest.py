"""A model and a tokenizer for what is shown of generation."""

from small_decoders import build_model as build_model
from small_decoders import tokenizer as tokenizer
