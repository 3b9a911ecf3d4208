import math

import torch

from wmtp.loss import reference


def test_is_the_weighted_sum_of_negative_log_probabilities():
    hidden = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    unembedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    loss, ce = reference.weighted_linear_cross_entropy(
        hidden, unembedding, torch.tensor([0, 2]), torch.tensor([0.5, 3.0], dtype=torch.float64)
    )
    first = math.log(math.e + 2) - 1
    second = math.log(math.exp(2) + 2)
    assert ce.tolist() == [first, second] or torch.allclose(ce, torch.tensor([first, second]).double())
    torch.testing.assert_close(loss.item(), 0.5 * first + 3 * second, rtol=1e-14, atol=0)


def test_gradient_is_weight_times_softmax_minus_onehot():
    torch.manual_seed(0)
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    unembedding = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.tensor([0, 4, 2, 2]), torch.tensor([1.0, 0.0, 2.5, 0.1], dtype=torch.float64)
    reference.weighted_linear_cross_entropy(hidden, unembedding, targets, weights)[0].backward()

    onehot = torch.nn.functional.one_hot(targets, 5)
    dlogits = weights[:, None] * ((hidden @ unembedding.t()).softmax(1) - onehot)
    torch.testing.assert_close(hidden.grad, dlogits @ unembedding)
    torch.testing.assert_close(unembedding.grad, dlogits.t() @ hidden)


def test_rows_of_weight_zero_are_not_read():
    hidden = torch.tensor([[1.0, 0.0], [torch.nan, torch.inf]])
    unembedding = torch.eye(2)
    loss, ce = reference.weighted_linear_cross_entropy(
        hidden, unembedding, torch.tensor([0, -100]), torch.tensor([1.0, 0.0])
    )
    assert loss.isfinite()
    assert ce.isnan().tolist() == [False, True]
    per_token = reference.linear_cross_entropy_per_token(
        hidden, unembedding, torch.tensor([0, 10**9]), where=torch.tensor([True, False])
    )
    torch.testing.assert_close(per_token, ce, equal_nan=True, rtol=0, atol=0)


def test_per_token_computes_every_row_by_default():
    hidden, unembedding = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2)
    targets = torch.tensor([3, 0, 1])
    ce = reference.linear_cross_entropy_per_token(hidden, unembedding, targets)
    expected = -(hidden @ unembedding.t()).log_softmax(1)[torch.arange(3), targets]
    torch.testing.assert_close(ce, expected.detach())
    assert not ce.requires_grad
