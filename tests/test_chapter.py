"""The arithmetic of convolutional networks as textbooks teach it, held against torch.

Notation: input x of length T (or height and width), kernel w of size k, stride S, padding P, output z, loss L and
delta = dL/dz. Where printed derivations often drop an index, the formula stated here has it: a weight is used at every
output position, so its gradient is a sum over all of them.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipelines.shared.learning.classics import LeNet

SMALL = settings(max_examples=60, deadline=None)


def output_size(t: int, k: int, s: int, p: int) -> int:
    """T' = (T - k + 2P) / S + 1, rounded down: a last step that does not fit is left out."""
    return (t - k + 2 * p) // s + 1


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- output sizes ---


@SMALL
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 4))
def test_sizes_of_convolutions_in_one_dimension(t, k, s, p):
    assume(t + 2 * p >= k)
    z = functional.conv1d(numbers(1, 1, t), numbers(1, 1, k), stride=s, padding=p)
    assert z.shape[-1] == output_size(t, k, s, p)


@SMALL
@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3)
)
def test_sizes_of_convolutions_in_two_dimensions(height, width, kh, kw, s, p):
    assume(height + 2 * p >= kh)
    assume(width + 2 * p >= kw)
    z = functional.conv2d(numbers(1, 2, height, width), numbers(3, 2, kh, kw), stride=s, padding=p)
    assert z.shape[1:] == (3, output_size(height, kh, s, p), output_size(width, kw, s, p))


@SMALL
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 4))
def test_sizes_of_pooling(t, k, s, p):
    assume(p <= k // 2)  # more padding than half a window would give windows without a single number
    assume(t + 2 * p >= k)
    for pool in (functional.max_pool1d, functional.avg_pool1d):
        assert pool(numbers(1, 1, t), k, s, p).shape[-1] == output_size(t, k, s, p)


def test_sizes_and_parameters_of_lenet_layer_by_layer():
    """32 -> 28 -> 14 -> 10 -> 5, then 400, 120, 84 and ten classes: about 60 thousand parameters."""
    side, sizes = 32, []
    for k, s in ((5, 1), (2, 2), (5, 1), (2, 2)):
        side = output_size(side, k, s, 0)
        sizes.append(side)
    assert sizes == [28, 14, 10, 5]
    network, seen = LeNet(), {}
    for name in ("conv1", "conv2", "fc1", "fc2"):
        getattr(network, name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.shape}))
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 84)
    assert seen == {"conv1": (2, 6, 28, 28), "conv2": (2, 16, 10, 10), "fc1": (2, 120), "fc2": (2, 84)}
    weights = {name: sum(p.numel() for p in layer.parameters()) for name, layer in network.named_children()}
    assert weights == {
        "conv1": 6 * (5 * 5 * 1 + 1), "conv2": 16 * (5 * 5 * 6 + 1), "fc1": 120 * (400 + 1), "fc2": 84 * (120 + 1)
    }  # fmt: skip
    assert sum(weights.values()) + 10 * (84 + 1) == 61_706


# --- what a convolution is ---


def convolution(x: np.ndarray, w: np.ndarray, s: int, p: int) -> np.ndarray:
    """z[o, i, j] = sum over c, a, b of w[o, c, a, b] x[c, S i + a - P, S j + b - P]; outside the picture x is 0."""
    x = np.pad(x, ((0, 0), (p, p), (p, p)))
    height, width = output_size(x.shape[1], w.shape[2], s, 0), output_size(x.shape[2], w.shape[3], s, 0)
    z = np.zeros((len(w), height, width))
    for o, i, j in itertools.product(range(len(w)), range(height), range(width)):
        for c, a, b in itertools.product(*map(range, w.shape[1:])):
            z[o, i, j] += w[o, c, a, b] * x[c, s * i + a, s * j + b]
    return z


@pytest.mark.parametrize(("s", "p"), [(1, 0), (2, 1), (3, 2)])
def test_convolution_is_elementwise_product_and_sum(s, p):
    x, w = numbers(3, 7, 6), numbers(4, 3, 3, 2, seed=1)
    z = functional.conv2d(x[None], w, stride=s, padding=p)[0]
    assert torch.allclose(z, torch.from_numpy(convolution(x.numpy(), w.numpy(), s, p)))


def test_convolution_in_one_dimension_by_hand():
    """Five numbers, three weights, padded with a zero on either side: five answers."""
    x, w = torch.tensor([[[1.0, 2, -1, 1, -3]]]), torch.tensor([[[1.0, 0, -1]]])
    assert functional.conv1d(x, w, padding=1).flatten().tolist() == [-2, 2, 1, 2, 1]
    assert functional.conv1d(x, w).flatten().tolist() == [2, 1, 2]


def test_what_networks_call_convolution_is_correlation():
    """The mathematical convolution turns the kernel round; networks do not, as they learn it anyway."""
    x, w = numbers(9), numbers(4, seed=1)
    ours = functional.conv1d(x[None, None], w.flip(0)[None, None], padding=3).flatten()
    assert np.allclose(ours, np.convolve(x, w))


def test_a_convolution_is_a_linear_layer_with_shared_weights():
    """z = M x with a banded M: k weights however long the signal, where a full layer would have T T' of them."""
    t, k = 8, 3
    w = numbers(k)
    m = torch.zeros(output_size(t, k, 1, 0), t, dtype=torch.float64)
    for i in range(len(m)):
        m[i, i : i + k] = w
    x = numbers(t, seed=1)
    assert torch.allclose(m @ x, functional.conv1d(x[None, None], w[None, None]).flatten())
    assert torch.count_nonzero(m) == k * len(m) < m.numel()


# --- pooling and its gradients ---


def windows(x: torch.Tensor, k: int, s: int):
    return [(i, slice(s * i, s * i + k)) for i in range(output_size(len(x), k, s, 0))]


@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize("kind", ["mean", "max", "sum"])
def test_pooling_and_its_gradient(kind, s):
    """dL/dx_t = sum over the windows i that hold t of delta_i times 1/k (mean), 1 (sum), or 1 at the largest (max)."""
    k = 3
    x, delta = numbers(10).requires_grad_(), numbers(output_size(10, k, s, 0), seed=1)
    pooled = {
        "mean": lambda: functional.avg_pool1d(x[None, None], k, s),
        "max": lambda: functional.max_pool1d(x[None, None], k, s),
        "sum": lambda: k * functional.avg_pool1d(x[None, None], k, s),
    }[kind]().flatten()
    reduce = {"mean": torch.mean, "max": torch.max, "sum": torch.sum}[kind]
    expected, gradient = torch.zeros_like(pooled), torch.zeros_like(x)
    for i, window in windows(x, k, s):
        expected[i] = reduce(x[window]).detach()
        if kind == "max":
            gradient[window.start + int(x[window].argmax())] += delta[i]
        else:
            gradient[window] += delta[i] / (k if kind == "mean" else 1)
    assert torch.allclose(pooled, expected)
    pooled.backward(delta)
    assert torch.allclose(x.grad, gradient)


def test_a_gradient_through_max_pooling_goes_to_the_winner_alone():
    x = torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]], requires_grad=True)
    functional.max_pool2d(x, 2).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 0, 0]


# --- backpropagation through a convolution ---


def test_backpropagation_in_one_dimension():
    """z_i = sum over a of w_a x_(i+a) + b, y = tanh z:

    delta_i = dL/dy_i (1 - y_i^2);  dL/dw_a = sum over i of delta_i x_(i+a);  dL/db = sum over i of delta_i;
    dL/dx_t = sum over a of w_a delta_(t-a), where delta is 0 outside the output.
    """
    t, k = 9, 3
    x, w, b = numbers(t).requires_grad_(), numbers(k, seed=1).requires_grad_(), numbers(1, seed=2).requires_grad_()
    upstream = numbers(t - k + 1, seed=3)
    y = functional.conv1d(x[None, None], w[None, None], b).flatten().tanh()
    y.backward(upstream)
    delta = upstream * (1 - y.detach() ** 2)
    for a in range(k):
        assert w.grad[a] == pytest.approx(sum(delta[i] * x[i + a] for i in range(len(delta))).item())
    assert b.grad.item() == pytest.approx(delta.sum().item())
    for at in range(t):
        terms = [w[a] * delta[at - a] for a in range(k) if 0 <= at - a < len(delta)]
        assert x.grad[at] == pytest.approx(sum(terms).item())
    one_position = delta[0] * x[:k].detach()  # what is left when the sum over positions is dropped
    assert not torch.allclose(w.grad, one_position)


@pytest.mark.parametrize("s", [1, 2])
def test_backpropagation_in_two_dimensions(s):
    """With channels c, o and stride S:

    dL/dw[o,c,a,b] = sum over i, j of delta[o,i,j] x[c, S i + a, S j + b];  dL/db[o] = sum over i, j of delta[o,i,j];
    dL/dx[c,p,q] = sum over o, i, j of delta[o,i,j] w[o, c, p - S i, q - S j], where w is 0 outside the kernel.
    """
    x, w = numbers(2, 6, 5).requires_grad_(), numbers(3, 2, 3, 2, seed=1).requires_grad_()
    b = numbers(3, seed=2).requires_grad_()
    z = functional.conv2d(x[None], w, b, stride=s)[0]
    delta = numbers(*z.shape, seed=3)
    z.backward(delta)
    dw, dx = torch.zeros_like(w), torch.zeros_like(x)
    for o, i, j in itertools.product(*map(range, z.shape)):
        for c, a, e in itertools.product(*map(range, w.shape[1:])):
            dw[o, c, a, e] += delta[o, i, j] * x[c, s * i + a, s * j + e].detach()
            dx[c, s * i + a, s * j + e] += delta[o, i, j] * w[o, c, a, e].detach()
    assert torch.allclose(w.grad, dw)
    assert torch.allclose(x.grad, dx)
    assert torch.allclose(b.grad, delta.sum(dim=(1, 2)))


def test_the_gradient_of_the_input_is_a_full_convolution_with_the_turned_kernel():
    x, w = numbers(1, 1, 6, 6).requires_grad_(), numbers(1, 1, 3, 3, seed=1)
    z = functional.conv2d(x, w)
    delta = numbers(*z.shape, seed=2)
    z.backward(delta)
    assert torch.allclose(x.grad, functional.conv2d(delta, w.flip(2, 3), padding=2))


def test_the_gradient_of_the_kernel_is_a_convolution_of_the_input_with_delta():
    x, w = numbers(1, 1, 6, 6), numbers(1, 1, 3, 3, seed=1).requires_grad_()
    z = functional.conv2d(x, w)
    delta = numbers(*z.shape, seed=2)
    z.backward(delta)
    assert torch.allclose(w.grad, functional.conv2d(x, delta))


# --- receptive fields, parameters ---


def test_two_small_kernels_see_what_one_large_one_sees_with_fewer_weights():
    """Two layers of 3 x 3 reach as far as one of 5 x 5 (VGG's argument): 18 weights instead of 25 per pair of maps."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    three = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    functional.conv2d(functional.conv2d(x, three), three)[0, 0, 2, 2].backward()
    reached = torch.nonzero(x.grad[0, 0])
    assert (reached.max(dim=0).values - reached.min(dim=0).values + 1).tolist() == [5, 5]
    assert 2 * 3 * 3 < 5 * 5


def test_one_by_one_convolutions_mix_channels_only():
    x, w = numbers(1, 5, 4, 4), numbers(2, 5, 1, 1, seed=1)
    z = functional.conv2d(x, w)
    assert torch.allclose(z, torch.einsum("oc,nchw->nohw", w[:, :, 0, 0], x))


def test_the_order_of_a_monotone_activation_and_max_pooling_does_not_matter():
    x = numbers(1, 3, 8, 8)
    assert torch.equal(functional.max_pool2d(x, 2).relu(), functional.max_pool2d(x.relu(), 2))
    assert not torch.allclose(functional.avg_pool2d(x, 2).relu(), functional.avg_pool2d(x.relu(), 2))


def test_a_convolution_moves_with_its_input():
    x, w = numbers(1, 1, 12), numbers(1, 1, 3, seed=1)
    moved = functional.conv1d(torch.roll(x, 2, dims=2), w)
    assert torch.allclose(moved[..., 2:], functional.conv1d(x, w)[..., :-2])
