"""A network of PyTorch that JAX runs on all of its devices: exported once for each shape, and compiled.

Nothing of a network is written twice: `torch.export` says what it does, and JAX does the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from torch import nn

from sd_space.model.jax_operations import OPERATIONS, as_jax_dtype
from sd_space.model.unet_runner import CannotRun

_ROWS, _WHOLE = PartitionSpec("rows"), PartitionSpec()


class JaxNetwork:
    """Runs `rows` rows on each device; fewer are padded to that many, and more take several calls.

    `network` is on PyTorch's meta device and in the dtype to compute in; `weights` are its own, in any.
    """

    def __init__(self, network: nn.Module, weights: Mapping[str, torch.Tensor], rows: int):
        self._network, self._rows = network, rows
        devices = jax.devices()
        mesh = Mesh(np.array(devices), ("rows",))
        self._by_rows, self._mesh = NamedSharding(mesh, _ROWS), mesh
        self._rows_a_call = rows * len(devices)
        dtypes = {name: as_jax_dtype(tensor.dtype) for name, tensor in network.state_dict().items()}
        self._weights = {
            name: jax.device_put(tensor.float().numpy().astype(dtypes[name]), NamedSharding(mesh, _WHOLE))
            for name, tensor in weights.items()
        }
        self._programs: dict[tuple[tuple[int, ...], ...], Callable[..., jax.Array]] = {}  # by the shapes of a row

    def compile(self, inputs: Sequence[torch.Tensor]) -> None:
        """For inputs like these, whatever their rows, unless it has been done. Raises CannotRun."""
        shapes = _row_shapes(inputs)
        if shapes not in self._programs:
            self._programs[shapes] = self._compiled([x.dtype for x in inputs], shapes)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Rows of what the network gives, in float32; compiles first what is new."""
        self.compile(inputs)
        program, most = self._programs[_row_shapes(inputs)], self._rows_a_call
        calls = [
            program(self._weights, *(self._placed(x[first : first + most]) for x in inputs))
            for first in range(0, len(inputs[0]), most)
        ]
        rows = np.concatenate([np.asarray(call).astype(np.float32) for call in calls])
        return torch.from_numpy(rows[: len(inputs[0])])

    def _placed(self, rows: torch.Tensor) -> jax.Array:
        missing = self._rows_a_call - len(rows)
        padded = np.pad(rows.float().numpy(), [(0, missing)] + [(0, 0)] * (rows.ndim - 1), mode="edge")
        return jax.device_put(padded.astype(as_jax_dtype(rows.dtype)), self._by_rows)

    def _compiled(self, dtypes: Sequence[torch.dtype], shapes: tuple[tuple[int, ...], ...]) -> Callable[..., jax.Array]:
        examples = [
            torch.empty(self._rows, *shape, dtype=dtype, device="meta")
            for dtype, shape in zip(dtypes, shapes, strict=True)
        ]
        replay = _replay_of(self._network, examples)
        specs = (_WHOLE, *(_ROWS for _ in shapes))
        program = jax.jit(jax.shard_map(replay, mesh=self._mesh, in_specs=specs, out_specs=_ROWS))
        arguments = [
            jax.ShapeDtypeStruct((self._rows_a_call, *shape), as_jax_dtype(dtype), sharding=self._by_rows)
            for dtype, shape in zip(dtypes, shapes, strict=True)
        ]
        with jax.default_matmul_precision("highest"):  # else TPUs take float32 for bfloat16
            return program.lower(self._weights, *arguments).compile()


def _row_shapes(inputs: Sequence[torch.Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(x.shape[1:]) for x in inputs)


class _Replay(torch.fx.Interpreter):
    """Does with arrays what the exported graph does with tensors."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return OPERATIONS[_name_of(target)](*args, **kwargs)


def _replay_of(network: nn.Module, examples: Sequence[torch.Tensor]) -> Callable[..., jax.Array]:
    """A function of the weights by their names, and of the inputs. Raises CannotRun."""
    with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode cannot be exported
        exported = torch.export.export(network, tuple(examples))
    called = {_name_of(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    if unknown := called - OPERATIONS.keys():
        raise CannotRun(f"no operation {', '.join(sorted(unknown))}")
    signature, module = exported.graph_signature, exported.graph_module
    names = signature.inputs_to_parameters | signature.inputs_to_buffers
    order = [names[spec.arg.name] for spec in signature.input_specs if spec.arg.name in names]

    def replay(weights: Mapping[str, jax.Array], *inputs: jax.Array) -> jax.Array:
        return _Replay(module).run(*(weights[name] for name in order), *inputs)[0]

    return replay


def _name_of(target: Any) -> str:
    """Of an operation without its overload: `mul` of `aten.mul.Tensor`."""
    return target._schema.name.removeprefix("aten::") if hasattr(target, "_schema") else target.__name__
