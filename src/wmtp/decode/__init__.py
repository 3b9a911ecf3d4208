"""Generation: `generate` (next-token, greedy or sampled) and `speculative` (the same in fewer forwards).

Both are a way of reading and emitting over a `batch` of rows with one `cache`; `drafter` proposes what
`speculative` verifies, `sampling` chooses tokens, `stopping` ends rows, `ties` compares what was decoded greedily.
"""
