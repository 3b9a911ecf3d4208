"""The built-in benchmark: generated programming problems with tests, in MBPP's format."""

from wmtp.data.tinycode.benchmark import Corpus, Row, generate

__all__ = ["Corpus", "Row", "generate"]
