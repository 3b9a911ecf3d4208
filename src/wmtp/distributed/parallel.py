"""The model over several processes: replicated (DDP), sharded (FSDP2), or sharded within replicated groups (HSDP)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from wmtp.config import DevicesConfig
from wmtp.distributed.world import World

REPLICATED_PARAMETERS = 300_000_000
"""Up to this size `devices.parallel: auto` replicates: parameters, gradients and Adam's state take 5 GB."""


def is_sharded(devices: DevicesConfig, parameters: int, world: World) -> bool:
    """Whether the model is sharded over these processes."""
    if world.group is None or devices.parallel == "ddp":
        return False
    asked = devices.parallel == "fsdp" or devices.mesh is not None or devices.cpu_offload
    return asked or parameters > REPLICATED_PARAMETERS


def replicate(module: nn.Module, world: World) -> nn.Module:
    """The module on its device, with gradients averaged over the processes."""
    module.to(world.device)
    if world.group is None:
        return module
    alike = [name for name, _ in module.named_buffers()]
    alike += [name for name, p in module.named_parameters() if not p.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, alike)
    return DistributedDataParallel(module, process_group=world.group, gradient_as_bucket_view=True)


def shard(
    module: nn.Module,
    devices: DevicesConfig,
    world: World,
    *,
    compute_dtype: torch.dtype,
    methods: Sequence[str],
) -> None:
    """Shard every layer and head separately, and the rest (embedding, norm, unembedding) with the root.

    The root stays gathered from its forward to the end of its backward, so that scores and loss read one
    unembedding. Matrix products see the same bf16 weights as under autocast alone; gradients are reduced in float32.

    Args:
        module: on rank 0 with its weights; elsewhere, or everywhere if they will be loaded, without storage.
        compute_dtype: of matrix products.
        methods: methods besides `forward` that need parameters.
    """
    mesh = _mesh(devices, world)
    offload = OffloadPolicy()
    if devices.cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=world.device.type == "cuda")
    is_half = compute_dtype is torch.bfloat16
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_half else None,
        reduce_dtype=torch.float32 if is_half else None,
        cast_forward_inputs=False,
    )
    for unit in _layers(module):
        _fill(unit, world)
        fully_shard(
            unit,
            mesh=mesh,
            reshard_after_forward=devices.reshard_after_forward,
            mp_policy=policy,
            offload_policy=offload,
        )
    _fill(module, world)
    fully_shard(module, mesh=mesh, reshard_after_forward=False, offload_policy=offload)
    for method in methods:
        register_fsdp_forward_method(module, method)


def accumulating(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Wrap a micro-batch's forward and backward pass: replicas communicate only in the last one."""
    if isinstance(module, DistributedDataParallel) and not is_last:
        return module.no_sync()
    if isinstance(module, FSDPModule):
        module.set_reshard_after_backward(is_last, recurse=False)
    return nullcontext()


def reshard(module: nn.Module) -> None:
    """Free what a forward pass without a backward pass has gathered."""
    if isinstance(module, FSDPModule):
        module.reshard()


def full(tensor: Tensor) -> Tensor:
    """The full tensor, gathered if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _mesh(devices: DevicesConfig, world: World) -> DeviceMesh:
    if devices.mesh is None:
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    shape = (devices.mesh.replicate, devices.mesh.shard)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of all models inside, as transformers names them."""
    kinds = {kind for m in module.modules() for kind in getattr(m, "_no_split_modules", None) or ()}
    yield from [m for m in module.modules() if type(m).__name__ in kinds]


def _fill(unit: nn.Module, world: World) -> None:
    """Allocate the unit's parameters that are not sharded yet, with rank 0's values where it has them."""
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for submodule in unit.modules():
        for name, parameter in submodule._parameters.items():
            if parameter is None or isinstance(parameter, DTensor):
                continue
            if parameter not in filled:
                values = torch.empty(parameter.shape, dtype=parameter.dtype, device=world.device)
                if world.any(world.is_first and not parameter.is_meta):
                    if world.is_first:
                        values.copy_(parameter.detach())
                    dist.broadcast(values, 0, group=world.group)
                filled[parameter] = nn.Parameter(values, parameter.requires_grad)
            setattr(submodule, name, filled[parameter])
