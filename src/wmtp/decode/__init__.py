"""Generation: `generate` continues prompts as `DecodeOptions` says; with several heads in fewer forwards.

It reads and emits over a `batch` of rows with one `cache`; `drafter` proposes what head 0 verifies, `sampling`
chooses tokens, `stopping` ends rows, `ties` compares what was decoded greedily.
"""
