"""The device of a net."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies in bfloat16 itself; others convert to float32, which is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return a device, and make it the current one.

    Args:
        device: Its name; by default the first GPU, or the CPU if there is no GPU.

    Raises:
        ValueError: This machine has no such device.
    """
    count = torch.cuda.device_count()
    if device is None:
        device = "cuda" if count else "cpu"
    names = ["cpu", *(["cuda"] if count else []), *(f"cuda:{n}" for n in range(count))]
    if str(device) not in names:
        raise ValueError(f"device must be one of this machine's, {', '.join(names)}; got {str(device)!r}")
    device = torch.device(device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # our events, streams and kernels use the current device
    return device
