"""What PyTorch's operations are called in JAX: those that exported UNets and VAE decoders consist of.

Sums and norms are taken in float32 and then rounded, as PyTorch does for bfloat16.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import Array

_DTYPES = {torch.float32: jnp.float32, torch.bfloat16: jnp.bfloat16}


def as_jax_dtype(dtype: torch.dtype) -> Any:
    return _DTYPES[dtype]


def _as_given(x: Array, *_: Any, **__: Any) -> Array:
    return x


def _nothing(*_: Any, **__: Any) -> None:
    """For checks that were made while the graph was exported."""


def _in_float32(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: function(x.astype(jnp.float32)).astype(x.dtype)


def _arange(start: float, end: float, *, dtype: torch.dtype, **_: Any) -> Array:
    return jnp.arange(start, end, dtype=as_jax_dtype(dtype))


def _to(x: Array, dtype: torch.dtype, *_: Any, **__: Any) -> Array:
    return x.astype(as_jax_dtype(dtype))


def _slice(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _expand(x: Array, sizes: Sequence[int]) -> Array:
    own = (1,) * (len(sizes) - x.ndim) + x.shape
    return jnp.broadcast_to(x, tuple(old if new == -1 else new for old, new in zip(own, sizes, strict=True)))


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    sums = jnp.matmul(x, weight.T, preferred_element_type=jnp.float32)
    return (sums if bias is None else sums + bias).astype(x.dtype)


def _conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Array:
    sums = jax.lax.conv_general_dilated(
        x,
        weight,
        tuple(stride),
        [(pixels, pixels) for pixels in padding],
        rhs_dilation=tuple(dilation),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=groups,
        preferred_element_type=jnp.float32,
    )
    return (sums if bias is None else sums + bias[:, None, None]).astype(x.dtype)


def _group_norm(x: Array, groups: int, weight: Array, bias: Array, eps: float = 1e-5, _: bool = True) -> Array:
    rows, channels, *sides = x.shape
    normed = _normed(x.astype(jnp.float32).reshape(rows, groups, -1), 1, eps).reshape(x.shape)
    each = (channels,) + (1,) * len(sides)
    return (normed * weight.reshape(each) + bias.reshape(each)).astype(x.dtype)


def _layer_norm(x: Array, shape: Sequence[int], weight: Array, bias: Array, eps: float = 1e-5, _: bool = True) -> Array:
    return (_normed(x.astype(jnp.float32), len(shape), eps) * weight + bias).astype(x.dtype)


def _normed(x: Array, dims: int, eps: float) -> Array:
    axes = tuple(range(-dims, 0))
    return (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + eps)


def _attention(query: Array, key: Array, value: Array) -> Array:
    """(R, heads, L, D) each; JAX has the heads behind the tokens."""
    swapped = [x.swapaxes(1, 2) for x in (query, key, value)]
    return jax.nn.dot_product_attention(*swapped).swapaxes(1, 2)


def _gelu(x: Array, *, approximate: str = "none") -> Array:
    return _in_float32(lambda wide: jax.nn.gelu(wide, approximate=approximate == "tanh"))(x)


def _upsample_nearest2d(x: Array, size: Sequence[int] | None, scales: Sequence[float] | None = None) -> Array:
    for axis in (2, 3):
        old = x.shape[axis]
        new = size[axis - 2] if size else math.floor(old * scales[axis - 2])  # type: ignore[index]
        x = jnp.repeat(x, new // old, axis) if new % old == 0 else x.take(jnp.arange(new) * old // new, axis)
    return x


# By the name of PyTorch's operation, whatever its overload.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "_assert_tensor_metadata": _nothing,
    "add": jnp.add,
    "arange": _arange,
    "cat": lambda parts, dim=0: jnp.concatenate(parts, dim),
    "chunk": lambda x, chunks, dim=0: jnp.split(x, chunks, dim),
    "contiguous": _as_given,
    "conv2d": _conv2d,
    "cos": jnp.cos,
    "div": jnp.divide,
    "dropout": _as_given,  # which is for training
    "exp": jnp.exp,
    "expand": _expand,
    "gelu": _gelu,
    "getitem": lambda parts, index: parts[index],
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "mul": jnp.multiply,
    "permute": jnp.transpose,
    "reshape": jnp.reshape,
    "scaled_dot_product_attention": _attention,
    "silu": _in_float32(jax.nn.silu),
    "sin": jnp.sin,
    "slice": _slice,
    "to": _to,
    "transpose": jnp.swapaxes,
    "unsqueeze": jnp.expand_dims,
    "upsample_nearest2d": _upsample_nearest2d,
    "view": jnp.reshape,
}
