"""The machines that this one can play: names, packages, processor, wheels."""

from __future__ import annotations

from dataclasses import dataclass

from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """One processor architecture.

    Attributes:
        name: as ``uname -m`` says.
        debian: Debian's word.
        emulator: of userland.
        cpu: the processor that it plays.
        triplet: of its library folder.
        cpuinfo: ``/proc/cpuinfo`` of such a board: LiteRT reads it and does not survive that of another architecture.
        numpy: Debian's packages of it, where numpy has no wheel.
    """

    name: str
    debian: str
    emulator: str
    cpu: str
    triplet: str
    cpuinfo: str
    numpy: tuple[str, ...] = ()


_A72 = """processor\t: {index}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
_A15 = """processor\t: {index}
model name\t: ARMv7 Processor rev 3 (v7l)
BogoMIPS\t: 108.00
Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm
CPU implementer\t: 0x41
CPU architecture: 7
CPU variant\t: 0x2
CPU part\t: 0xc0f
CPU revision\t: 4

"""


def _board(processors: str, name: str) -> str:
    return "".join(processors.format(index=index) for index in range(2)) + f"Hardware\t: {name}\n"


AARCH64 = Architecture(
    "aarch64", "arm64", "qemu-aarch64-static", "cortex-a72", "aarch64-linux-gnu", _board(_A72, "BCM2711")
)
ARMV7 = Architecture(
    "armv7l", "armhf", "qemu-arm-static", "cortex-a15", "arm-linux-gnueabihf", _board(_A15, "Generic DT board"),
    ("python3-numpy",),
)  # fmt: skip
ARCHITECTURES = {"aarch64": AARCH64, "armv7": ARMV7}


def architecture(name: str) -> Architecture:
    """An architecture by the name that targets use.

    Raises:
        InputError: unknown, or one that no runtime has wheels for.
    """
    if name == "riscv64":
        raise InputError("no runtime has a wheel for riscv64 (ai-edge-litert, tflite-runtime, executorch: none)")
    if name not in ARCHITECTURES:
        raise InputError(f"unknown architecture '{name}'; choose from {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
