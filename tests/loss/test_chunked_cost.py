"""What the chunked loss holds in memory and how many matrix products it does, seen below autograd."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from wmtp.loss import chunked, linear_cross_entropy_per_token, reference, weighted_linear_cross_entropy

N, D, V, CHUNK = 1000, 16, 1000, 128
PRODUCTS = {"mm", "addmm", "addmm_"}


class Watch(TorchDispatchMode):
    """Counts operations, and the bytes of the storages that they make while these are alive."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.largest_bytes = self.peak_bytes = 0
        self._known = {x.untyped_storage()._cdata for x in inputs}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations[func.overloadpacket.__name__] += 1
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for output in result if isinstance(result, tuple | list) else [result]:
            if isinstance(output, Tensor) and (storage := output.untyped_storage())._cdata not in self._known:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.largest_bytes = max(self.largest_bytes, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._alive.values()))
        return result


def make_inputs(n: int, dtype: torch.dtype, zeros: float = 0.0) -> list[Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(n, D, dtype=dtype, requires_grad=True)
    unembedding = torch.randn(V, D, dtype=dtype, requires_grad=True)
    weights = torch.rand(n) + 0.1
    weights[: int(zeros * n)] = 0
    return [hidden, unembedding, torch.randint(0, V, (n,)), weights]


def watch(function: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> Watch:
    with Watch(inputs) as seen:
        loss, _ = function(*inputs)
        if loss.requires_grad:
            loss.backward()
    return seen


def in_chunks(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    return weighted_linear_cross_entropy(*inputs, chunk_size=CHUNK)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_never_more_than_a_chunk_of_logits(dtype, zeros, monkeypatch):
    half = dtype == torch.bfloat16
    in_float32 = 16 * V * 4 if half else 0
    monkeypatch.setattr(chunked, "_CPU_BUFFER_BYTES", in_float32)
    inputs = make_inputs(N, dtype, zeros)
    exact = torch.promote_types(dtype, torch.float32).itemsize
    chunk = CHUNK * V * dtype.itemsize
    numbers = 64 * N + 2 * CHUNK * D * exact
    gradients = V * D * exact + N * D * dtype.itemsize
    product = V * D * dtype.itemsize if half else 0  # before it is added to a float32 sum
    cast = V * D * dtype.itemsize if half else 0  # of the sum, to the dtype of the unembedding

    seen = watch(in_chunks, inputs)
    assert seen.largest_bytes == chunk
    assert seen.peak_bytes < chunk + in_float32 + gradients + max(product, cast) + numbers
    assert watch(reference.weighted_linear_cross_entropy, inputs).peak_bytes > 4 * seen.peak_bytes

    with Watch(inputs) as per_token:
        linear_cross_entropy_per_token(*inputs[:3], where=inputs[3] != 0, chunk_size=CHUNK)
    assert per_token.largest_bytes == chunk
    assert per_token.peak_bytes < chunk + in_float32 + numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extra_memory_does_not_grow_with_the_rows(dtype):
    """Beyond the gradients and a few numbers per row."""
    extra = []
    for n in (CHUNK, 8 * CHUNK):
        seen = watch(in_chunks, make_inputs(n, dtype))
        extra.append(seen.peak_bytes - n * D * dtype.itemsize - n * 64)
    assert extra[1] <= extra[0]


def test_backward_hands_the_gradients_over_without_a_copy():
    inputs = make_inputs(N, torch.float32)
    loss, _ = in_chunks(*inputs)
    computed = [gradient.data_ptr() for gradient in loss.grad_fn.gradients]
    (3 * loss).backward()
    assert [inputs[0].grad.data_ptr(), inputs[1].grad.data_ptr()] == computed


def test_rows_of_weight_zero_cost_no_product():
    full, sparse = (watch(in_chunks, make_inputs(10 * CHUNK, torch.float32, zeros)) for zeros in (0.0, 0.7))
    assert [sum(seen.operations[name] for name in PRODUCTS) for seen in (full, sparse)] == [30, 9]


@pytest.mark.parametrize(
    ("frozen", "products", "holds_a_matrix"),
    [([], 3, True), ([0], 2, True), ([1], 2, False), ([0, 1], 1, False)],
)
def test_computes_only_the_gradients_that_are_needed(frozen, products, holds_a_matrix):
    inputs = make_inputs(4, torch.float32)
    for index in frozen:
        inputs[index] = inputs[index].detach()
    seen = watch(in_chunks, inputs)
    assert sum(seen.operations[name] for name in PRODUCTS) == products
    assert (seen.largest_bytes == V * D * 4) == holds_a_matrix

    with torch.no_grad():
        without = watch(in_chunks, inputs)
    assert sum(without.operations[name] for name in PRODUCTS) == 1
    assert without.largest_bytes == 4 * V * 4
