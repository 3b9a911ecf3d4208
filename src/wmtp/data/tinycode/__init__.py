"""The built-in benchmark: generated programming problems with tests, in MBPP's format."""

from wmtp.data.tinycode.compositions import FAMILIES
from wmtp.data.tinycode.corpus import Corpus, Row, generate

__all__ = ["FAMILIES", "Corpus", "Row", "generate"]
