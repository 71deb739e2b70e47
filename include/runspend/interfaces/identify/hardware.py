"""Find the GPUs that this process may use, and the limits of its container on cores and memory.

GPUs come from `CUDA_VISIBLE_DEVICES` and from NVML, NVIDIA's management library, which the driver installs. A slice of a GPU (MIG) counts
as its share of the GPU's compute slices. Limits come from the control group, version 2 or 1.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from runspend.core import machine_tags
from runspend.interfaces.identify.environment import Found

LIBRARY = "libnvidia-ml.so.1"
SLICES, SLICES_OF_OTHERS = {"A30": 4}, 7  # compute slices of a whole GPU
MOST = 4096  # characters of CUDA_VISIBLE_DEVICES that are read
OWN_GROUPS = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 for "no limit"


@dataclass(frozen=True)
class Gpu:
    """A GPU or a slice of one. `device` is the number of the GPU, and `share` is the part of the whole GPU."""

    name: str
    uuid: str
    device: int
    share: Fraction = Fraction(1)


def find_gpus(there: list[Gpu] | None) -> Iterator[Found]:
    """Yield the number and the names of the GPUs that this process sees. `there` is the result of `ask_driver`.

    Without NVIDIA's driver, only the number of GPUs in CUDA_VISIBLE_DEVICES is known. If it names none, nothing is yielded instead of 0,
    because the machine may have GPUs of another vendor.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else _chosen(visible)
    if there is None:
        if chosen and not any(name.startswith("MIG") for name in chosen):
            yield Found(machine_tags.GPU_COUNT, str(len(chosen)), "environment variable CUDA_VISIBLE_DEVICES")
        return
    seen = _pick(there, [str(number) for number in range(len({gpu.device for gpu in there}))] if chosen is None else chosen)
    origin = "NVIDIA's driver" if chosen is None else "NVIDIA's driver and CUDA_VISIBLE_DEVICES"
    count = sum((gpu.share for gpu in seen), Fraction(0))
    yield Found(machine_tags.GPU_COUNT, f"{float(count):.4g}", origin)
    if names := Counter(gpu.name for gpu in seen):
        yield Found(machine_tags.GPU_TYPE, ", ".join(names), origin)


def find_limits(root: Path = Path("/sys/fs/cgroup")) -> Iterator[Found]:
    """Yield the limits of this process on cores and on memory in bytes. A resource without a limit is left out."""
    cores = [found for folder in _groups(root, "cpu") if (found := _cores(folder)) is not None]
    if cores and 0 < min(cores) < (os.cpu_count() or 1):
        yield Found(machine_tags.CORES, f"{min(cores):.4g}", "control group")
    memory = [found for folder in _groups(root, "memory") if (found := _bytes(folder)) is not None]
    if memory and 0 < min(memory) < min(UNLIMITED, _memory_of_machine()):
        yield Found(machine_tags.MEMORY, str(min(memory)), "control group")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of all its parents, because each may set a limit."""
    for line in _read(OWN_GROUPS).splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" or controller in controllers.split(","):
            top = root if number == "0" else root / controller
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder != top and top in folder.parents)
    yield from (root, root / controller)


def _cores(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not re.fullmatch(r"[0-9]{1,18}", quota) or not re.fullmatch(r"[1-9][0-9]{0,17}", period):
        return None  # "max", or -1 in version 1
    return int(quota) / int(period)


def _bytes(folder: Path) -> int | None:
    limits = (_read(folder / name) for name in ("memory.max", "memory.limit_in_bytes"))
    return next((int(text) for text in limits if re.fullmatch(r"[0-9]{1,20}", text)), None)


def _memory_of_machine() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return UNLIMITED


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _chosen(visible: str) -> list[str]:
    """Return the names in CUDA_VISIBLE_DEVICES up to the first invalid one, such as -1. CUDA ignores the rest too."""
    names: list[str] = []
    for name in visible[:MOST].split(","):
        if not re.fullmatch(r"[0-9]{1,4}|GPU-[0-9a-f-]+|MIG-[0-9A-Za-z/-]+", name.strip()):
            break
        names.append(name.strip())
    return names


def _pick(there: list[Gpu], chosen: list[str]) -> list[Gpu]:
    """Return the GPUs that are named by number, by UUID or by the start of a UUID, each once.

    Only the first slice counts, because a process can use only one slice of a GPU.
    """
    picked: list[Gpu] = []
    has_slice = False
    for name in chosen:
        for gpu in there:
            is_named = gpu.device == int(name) if name.isdigit() else gpu.uuid.startswith(name)
            if is_named and gpu not in picked and not (gpu.share != 1 and has_slice):
                picked.append(gpu)
                has_slice = has_slice or gpu.share != 1
                break
    return picked


def ask_driver(library: Any = None) -> list[Gpu] | None:
    """Return all GPUs and slices of this machine, or None without a driver. `library` is NVML, by default that of the driver."""
    try:
        nvml = library if library is not None else ctypes.CDLL(LIBRARY)
        if nvml.nvmlInit_v2() != 0:
            return None
    except (OSError, AttributeError):
        return None
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        return [gpu for number in range(count.value) for gpu in _ask_device(nvml, number)]
    except AttributeError:  # the driver is too old for one of the functions
        return None
    finally:
        nvml.nvmlShutdown()


def _ask_device(nvml: Any, number: int) -> list[Gpu]:
    device = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(device)) != 0:
        return []
    current, pending, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    is_sliced = nvml.nvmlDeviceGetMigMode(device, ctypes.byref(current), ctypes.byref(pending)) == 0 and current.value == 1
    if not is_sliced:
        return [Gpu(_text_of(nvml.nvmlDeviceGetName, device), _text_of(nvml.nvmlDeviceGetUUID, device), number)]
    slices = []
    nvml.nvmlDeviceGetMaxMigDeviceCount(device, ctypes.byref(most))
    for place in range(most.value):
        part = ctypes.c_void_p()
        if nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, ctypes.c_uint(place), ctypes.byref(part)) != 0:
            continue
        name = _text_of(nvml.nvmlDeviceGetName, part)  # "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
        compute = re.search(r"MIG (?:[0-9]+c\.)?([0-9]+)g\.", name)
        share = Fraction(int(compute[1]) if compute else 1, next((n for model, n in SLICES.items() if model in name), SLICES_OF_OTHERS))
        slices.append(Gpu(name, _text_of(nvml.nvmlDeviceGetUUID, part), number, share))
    return slices


def _text_of(function: Any, device: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(96)
    return text.value.decode("utf-8", "replace") if function(device, text, ctypes.c_uint(96)) == 0 else ""
