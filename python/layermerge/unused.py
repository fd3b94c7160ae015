"""Delete from a graph module what its graph no longer uses."""

from __future__ import annotations

from torch import fx, nn


def delete_unused(module: fx.GraphModule) -> None:
    """Delete submodules, parameters and buffers that no node of the graph uses.

    Unlike `torch.fx.GraphModule.delete_all_unused_submodules`, this also deletes the parameters of
    a module of which only a child is still called: a batch norm that holds its own activation, or
    a block that holds a scale. They would get no gradient, which distributed training refuses.
    """
    module.delete_all_unused_submodules()
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    used = called | read
    for name, part in list(module.named_modules()):
        if any(name == target or name.startswith(f"{target}.") for target in used):
            continue
        prefix = f"{name}." if name else ""
        tensors = [*part._parameters, *part._buffers]
        unused = [own for own in tensors if f"{prefix}{own}" not in read]
        if not unused:
            continue
        if name:
            part = _as_container(part)
            parent, _, own_name = name.rpartition(".")
            module.get_submodule(parent)._modules[own_name] = part
        for own in unused:
            delattr(part, own)


def _as_container(part: nn.Module) -> nn.Module:
    """A module that computes nothing, with the same parameters, buffers and children."""
    container = nn.Module()
    container._parameters = dict(part._parameters)
    container._buffers = dict(part._buffers)
    container._non_persistent_buffers_set = set(part._non_persistent_buffers_set)
    container._modules = part._modules
    container.training = part.training
    return container
