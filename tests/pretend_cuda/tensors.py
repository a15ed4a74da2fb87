"""Tensors that say cuda:0 and compute on the CPU in their own dtype, and refuse what CUDA refuses.

They are CPU tensors of a subclass. Every call of torch on them passes through `Device.run`, and so does every call of a
thread in which `PretendMode` is on, which is how tensors come to the device.
"""

import threading
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode

from .clock import Clock, event_class
from .stalls import Stalls

CUDA = torch.device("cuda:0")
ANSWERS = {
    torch.Tensor.device.__get__: CUDA,
    torch.Tensor.is_cuda.__get__: True,
    torch.Tensor.is_cpu.__get__: False,
    torch.Tensor.get_device: 0,
}
READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__format__", "__repr__", "__contains__"}
READS |= {"nonzero", "masked_select", "unique", "equal", "allclose", "linalg_solve", "linalg_inv"}
HEAVY = {"conv2d", "linear", "matmul", "__matmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
# Of these a CPU tensor without dimensions may be an argument: its value goes along with the launch.
POINTWISE = {"add", "sub", "mul", "div", "pow", "truediv", "radd", "rsub", "rmul", "rtruediv", "rdiv", "where", "clamp"}
POINTWISE |= {"eq", "ne", "lt", "gt", "le", "ge", "iadd", "isub", "imul", "itruediv"}
OWN = {"to", "cpu", "cuda", "copy_", "pin_memory", "is_pinned", "_has_compatible_shallow_copy_type"}
WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
MIXES = {"__getitem__", "__setitem__", "__set__"}


class CudaTensor(torch.Tensor):
    """`current` is the device that is pretended now."""

    current: "Device"

    def __new__(cls, data: torch.Tensor, requires_grad: bool = False) -> torch.Tensor:
        return torch.nn.Parameter(data, requires_grad)  # accelerate makes parameters by the class of the old ones

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        copied = self.detach().clone()
        memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if hasattr(self, "_is_param") else copied
        return memo[id(self)]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return cls.current.run(func, args, kwargs or {})


class PretendMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return CudaTensor.current.run(func, args, kwargs or {})


class Device:
    """One pretended device: its clock, its stalls, and memory that runs out at the allocation `fails_at`."""

    def __init__(self) -> None:
        self.stalls = Stalls()
        self.clock = Clock(self.stalls)
        self.Event = event_class(self.clock, self.stalls)
        self._own = threading.local()
        self.allocations = self.launches = self.items = 0
        self.fails_at: set[int] = set()
        self.slowness: Callable[[str], float] = lambda name: 1.0  # of heavy work by the kernels that are in force
        self._pinned: set[int] = set()

    @property
    def tape(self) -> list | None:
        """While this thread records a graph: (func, args, kwargs, result) of each of its launches."""
        return getattr(self._own, "tape", None)

    @tape.setter
    def tape(self, tape: list | None) -> None:
        self._own.tape = tape

    def run(self, func, args, kwargs):
        """What a call of torch gives; all of them come through here."""
        if func in ANSWERS and isinstance(args[0], CudaTensor):
            return ANSWERS[func]
        name = getattr(func, "__name__", "")
        if name in OWN:
            return getattr(self, f"own_{name.strip('_')}")(*args, **kwargs)
        tensors = _tensors((args, kwargs))
        ours = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
        wanted, is_pinned = kwargs.get("device"), kwargs.get("pin_memory")
        is_made_here = _is_cuda(wanted)
        if is_made_here or is_pinned:
            kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
        if not ours and not is_made_here:
            result = func(*args, **kwargs)
            return self._pin(result) if is_pinned else result
        self._refuse(name, args, ours, [tensor for tensor in tensors if not isinstance(tensor, CudaTensor)])
        if is_made_here and name in ("tensor", "as_tensor"):
            self.wait("copy to device")
        result = func(*args, **kwargs)
        if wanted is not None and not is_made_here:
            return result
        return self._launched(func, name, args, kwargs, ours, result)

    def _refuse(self, name, args, ours, others) -> None:
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        indices = _tensors(args[1]) if name in ("__getitem__", "__setitem__") else []
        if ours and (name in READS or any(index.dtype == torch.bool for index in indices)):
            self.wait("wait")
        if any(index.dim() and not isinstance(index, CudaTensor) for index in indices):
            self.wait("copy to device")
        is_pointwise = name.strip("_") in POINTWISE
        if ours and name not in MIXES and any(other.dim() or not is_pointwise for other in others):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")

    def _launched(self, func, name, args, kwargs, ours, result):
        """Counts and times it if it made a tensor or changed one; its results are tensors of the device."""
        held = {tensor.untyped_storage()._cdata for tensor in ours}
        fresh = [t for t in _tensors(result) if t.untyped_storage()._cdata not in held]
        if (
            fresh
            or name == "__setitem__"
            or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")
        ):
            items = round(sum(tensor.numel() for tensor in fresh) * self.slowness(name)) if name in HEAVY else 0
            self.launch(items, len(fresh))
            if self.tape is not None:
                self.tape.append((func, args, kwargs, result, fresh, items))
        return _ours(result)

    def launch(self, items: int = 0, allocated: int = 0) -> None:
        for _ in range(allocated):
            self.allocations += 1
            if self.allocations in self.fails_at:
                raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        self.launches += 1
        self.items += items
        self.clock.launch()
        if self.tape is None:
            self.clock.work(items)

    def wait(self, kind: str) -> None:
        """The host waits for all that was launched on the current stream."""
        self.stalls.note(kind)
        self.clock.wait_until(self.clock.stream.ends_s)

    def own_has_compatible_shallow_copy_type(self, one, other) -> bool:
        return isinstance(one, CudaTensor) == isinstance(other, CudaTensor)  # a parameter that moves is another object

    # --- copies

    def own_to(self, tensor, *args, copy=False, **kwargs):
        if args and isinstance(args[0], torch.Tensor):
            other, *args = args
            args = [CUDA if isinstance(other, CudaTensor) else other.device, other.dtype, *args]
        device, dtype, is_async, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        is_here, goes_here = isinstance(tensor, CudaTensor), _is_cuda(device)
        options = {"dtype": dtype or tensor.dtype, "copy": copy}
        options |= {"memory_format": memory_format} if memory_format is not None else {}
        if device is not None and device.type == "meta":
            return tensor.to(device, **options)
        if device is None or is_here == goes_here:
            result = tensor.to(**options)
            return self._launched(torch.Tensor.to, "to", (tensor,), options, [tensor], result) if is_here else result
        moved = tensor.to(**options | {"copy": True})
        if goes_here:
            self._note_upload(tensor, is_async)
            self.launch(allocated=1)
            return moved.as_subclass(CudaTensor)
        self.launch()
        return self._download(self._pin(torch.empty_like(moved)), moved) if is_async else self._downloaded(moved)

    def own_cpu(self, tensor, *_, **__):
        return self.own_to(tensor, "cpu")

    def own_cuda(self, tensor, device=None, non_blocking=False, **_):
        return self.own_to(tensor, CUDA, non_blocking=non_blocking)

    def own_copy(self, target, source, non_blocking=False):
        is_here, was_here = isinstance(target, CudaTensor), isinstance(source, CudaTensor)
        if is_here and not was_here and source.dim():
            self._note_upload(source, non_blocking)
        if not is_here and was_here:
            if non_blocking and self.own_is_pinned(target):
                self.launch()
                return self._download(target, source.clone())
            self._downloaded(source)
        result = target.copy_(source)
        return (
            self._launched(torch.Tensor.copy_, "copy_", (target, source), {}, [target], result) if is_here else result
        )

    def _note_upload(self, source, is_async: bool) -> None:
        if not is_async:
            self.wait("copy to device")
        elif not self.own_is_pinned(source):
            self.stalls.note("pageable copy")

    def _downloaded(self, values):
        self.wait("copy to host")
        return values

    def _download(self, target, values):
        """Into pinned memory, which holds nonsense until the device is there."""
        target.fill_(float("nan") if target.is_floating_point() else 77)
        self.clock.write_later(lambda: target.copy_(values))
        return target

    def own_pin_memory(self, tensor, *_):
        return self._pin(tensor.clone())

    def _pin(self, tensor):
        self._pinned.add(tensor.untyped_storage()._cdata)
        return tensor

    def own_is_pinned(self, tensor, *_):
        return tensor.untyped_storage()._cdata in self._pinned


def _is_cuda(device) -> bool:
    if isinstance(device, int):
        return True
    return device is not None and torch.device(device).type == "cuda"


def _tensors(item) -> list[torch.Tensor]:
    """Those in an argument or a result."""
    if isinstance(item, torch.Tensor):
        return [item]
    if isinstance(item, dict):
        item = list(item.values())
    return [tensor for each in item for tensor in _tensors(each)] if isinstance(item, (list, tuple)) else []


def _ours(item):
    """A result with its tensors on the device."""
    if type(item) is torch.Tensor:
        return item.as_subclass(CudaTensor)
    if type(item) in (list, tuple):
        return type(item)(map(_ours, item))
    return type(item)(list(map(_ours, item))) if isinstance(item, tuple) else item  # a named tuple of torch's own
