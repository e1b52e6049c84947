"""The device a net works on."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself, rather than slower by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, made the current one; by default the first GPU, or the CPU where there is none.

    Raises:
        ValueError: This machine has no such device.
    """
    count = torch.cuda.device_count()
    if device is None:
        device = "cuda" if count else "cpu"
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{n}" for n in range(count))]
    if str(device) not in known:
        raise ValueError(f"device must be one of this machine's, {', '.join(known)}; got {str(device)!r}")
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)  # events, streams and kernels of our own go to the current one
    return chosen
