"""A torch device that is not the CPU, for machines without a GPU: its data lies in CPU tensors inside.

A tensor on "pretend:0" says so, `.numpy()` and `np.asarray` of it raise, and an operation on it and on a CPU tensor that
is not a scalar raises, as on CUDA. So a tensor that was made on the wrong device fails in a test. It says nothing about
memory, speed or kernels.

Importing this module registers the device in this process, for good, and replaces `torch.tensor` and `torch.as_tensor`,
which would fill a device's memory from the host directly: import it in a process of its own.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "pretend"
aten = torch.ops.aten
MAY_MIX = {
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
"""CUDA takes CPU tensors here: copies, and indices that lie on the CPU."""
WRITES = {aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Of these, the values must lie on the device all the same."""


class _Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
    """`torch.pretend`: the functions of an accelerator that torch, transformers and autograd call."""

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16, torch.float32]

    def empty_cache(self) -> None:
        pass

    def synchronize(self, device: object = None) -> None:
        pass

    @contextlib.contextmanager
    def device(self, index: int) -> Iterator[None]:
        yield


backend_registration._setup_privateuseone_for_python_backend(rename=NAME, backend_module=_Module())
DEVICE = torch.device(NAME, 0)


class PretendTensor(Tensor):
    """A tensor on the device; `inner` is the CPU tensor with its data."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "PretendTensor":
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PretendTensor({self.inner})"

    def __getitem__(self, index: Any) -> Tensor:
        """Torch does not dispatch the index tensor that it makes of a list."""
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        """A copy on the CPU. In inference mode torch does not dispatch the conversion."""
        return self.inner.clone() if torch.is_inference_mode_enabled() else super().cpu(*args, **kwargs)

    def tolist(self) -> Any:
        """Allowed on any device."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        """On the device, as on CUDA."""
        return torch.tensor(data, **{"dtype": self.dtype, "device": DEVICE} | kwargs)

    def numpy(self, **_: Any) -> Any:
        """As CUDA says."""
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the inner tensors; what it makes is on the device, or where `device` says."""
    values, spec = pytree.tree_flatten((args, kwargs))
    _check_devices(func, args, values)
    if func is aten._fused_sdp_choice.default:
        return 0  # the plain formula
    ours = {id(value.inner): value for value in values if isinstance(value, PretendTensor)}
    inner = [value.inner if isinstance(value, PretendTensor) else value for value in values]
    inner_args, inner_kwargs = pytree.tree_unflatten(inner, spec)
    device = inner_kwargs.get("device")
    on_device = bool(ours) if device is None else torch.device(device).type == NAME
    if device is not None:
        inner_kwargs |= (
            {"device": torch.device("cpu"), "pin_memory": False}
            if "pin_memory" in inner_kwargs
            else {"device": torch.device("cpu")}
        )
    result = func(*inner_args, **inner_kwargs)
    if func is aten.copy_.default:
        return args[0]

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, PretendTensor):
            return value
        if on_device:
            return ours[id(value)] if id(value) in ours else PretendTensor(value)
        return value.clone() if id(value) in ours else value

    return pytree.tree_map(placed, result)


def _check_devices(func: Any, args: tuple[Any, ...], values: list[Any]) -> None:
    """RuntimeError where CUDA would raise one."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    on_cpu = [t for t in tensors if not isinstance(t, PretendTensor) and t.dim() > 0]
    if len(on_cpu) == sum(t.dim() > 0 for t in tensors) and not any(isinstance(t, PretendTensor) for t in tensors):
        return
    if func in WRITES:
        on_cpu = [t for t in on_cpu if t is args[2]]
    if on_cpu and (func in WRITES or func not in MAY_MIX):
        shapes = [tuple(t.shape) for t in on_cpu]
        raise RuntimeError(f"{func}: expected all tensors on one device, found {DEVICE} and the CPU, shapes {shapes}")


_FALLBACK = torch.library.Library("_", "IMPL")
_FALLBACK.fallback(lambda op, *args, **kwargs: _dispatch(op, args, kwargs), "PrivateUse1")
_FACTORIES = torch.library.Library("aten", "IMPL")
for _name, _op in (("empty.memory_format", aten.empty.memory_format), ("empty_strided", aten.empty_strided.default)):
    _FACTORIES.impl(_name, lambda *args, _op=_op, **kwargs: _dispatch(_op, args, kwargs), "PrivateUse1")


def _placed_after(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` and `torch.as_tensor`, by way of the CPU."""

    def made(
        data: Any, dtype: torch.dtype | None = None, device: Any = None, requires_grad: bool = False, **kwargs: Any
    ) -> Tensor:
        tensor = make(data, dtype=dtype, **kwargs)
        tensor = tensor if device is None else tensor.to(device)
        return tensor.requires_grad_() if requires_grad else tensor

    return made


torch.tensor = _placed_after(torch.tensor)
torch.as_tensor = _placed_after(torch.as_tensor)
