"""An exported model as an MLflow model: text in, its greedy continuation out.

MLflow keeps a copy of this file with the model and runs it to load the model.
"""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pandas import DataFrame

MODEL_ARTIFACT = "model"
MAX_NEW_TOKENS = 128


class ServedModel(PythonModel):
    """Continues prompts; the parameter `max_new_tokens` says how far at most."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the folder that `wmtp export` wrote."""
        from wmtp.data.tokenizer import load_tokenizer
        from wmtp.decode.ends import end_tokens
        from wmtp.model.loading import load_causal_lm

        folder = context.artifacts[MODEL_ARTIFACT]
        self._model = load_causal_lm(folder, MODEL_ARTIFACT).eval()
        self._tokenizer = load_tokenizer(folder)
        self._ends = end_tokens(self._model, self._tokenizer)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  (MLflow passes it by name)
        model_input: DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """The continuations of a table's column `prompt`, without the prompts, up to the end of text."""
        limit = (params or {}).get("max_new_tokens", MAX_NEW_TOKENS)
        return [self._continue(prompt, limit) for prompt in model_input["prompt"]]

    def _continue(self, prompt: str, max_new_tokens: int) -> str:
        import torch

        from wmtp.data.tokenizer import decode_completion, encode_prompts

        ids = torch.tensor(encode_prompts(self._tokenizer, [prompt]))
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self._ends),
            pad_token_id=self._tokenizer.eos_token_id,
        )
        tokens = output[0, ids.shape[1] :].tolist()
        return decode_completion(self._tokenizer, [t for t in tokens if t not in self._ends])


set_model(ServedModel())
