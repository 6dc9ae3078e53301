"""Style classes of our own, each the smallest that does in plain PyTorch what one of NeMo's does.

They are shown whole in the study, with their lines counted: nothing here but PyTorch's public classes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, SequenceParallel


class ColwiseEachModule(ColwiseParallel):
    """ColwiseParallel for a linear that has linears inside: each module's own parameters, since all are visited."""

    def _partition_linear_fn(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        for key, old in list(module.named_parameters(recurse=False)):
            new = distribute_tensor(old, device_mesh, [Shard(0)], src_data_rank=self.src_data_rank)
            module.register_parameter(key, nn.Parameter(new, requires_grad=old.requires_grad))


class SequenceParallelFrozen(SequenceParallel):
    """SequenceParallel that leaves frozen parameters frozen."""

    def _replicate_module_fn(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        trains = {key: old.requires_grad for key, old in module.named_parameters()}
        super()._replicate_module_fn(name, module, device_mesh)
        for key, new in module.named_parameters():
            new.requires_grad_(trains[key])


class FirstDimSharded(ParallelStyle):
    """Every parameter of a module, whatever the module is, sharded over its first dimension."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, self._shard)

    @staticmethod
    def _shard(name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        for key, old in list(module.named_parameters(recurse=False)):
            new = nn.Parameter(distribute_tensor(old, device_mesh, [Shard(0)]), requires_grad=old.requires_grad)
            module.register_parameter(key, new)


class ReplicatedSummed(ParallelStyle):
    """Parameters stay whole and local; the gradient of every backward pass is summed over the ranks."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def summed(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            dist.all_reduce(gradient, group=device_mesh.get_group())
            return gradient

        for parameter in module.parameters():
            parameter.register_hook(summed)
        return module
