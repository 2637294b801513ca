"""USB devices as sysfs lists them, and the access that this user has to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from harness.devices import sysfs

__all__ = ["UsbDevice", "attached", "udev_rule"]


@dataclass(frozen=True)
class UsbDevice:
    """A USB device.

    ``node`` is its file below ``/dev``; ``open_to_us`` is true if this user may read and write that file.
    """

    product: str
    serial: str
    node: str
    open_to_us: bool


def attached(vendor: str, products: tuple[str, ...]) -> Iterator[UsbDevice]:
    """Yield the devices with these ids (four hexadecimal digits each) that sysfs lists below ``HARNESS_SYSROOT``."""
    root = sysfs.root()
    for device in sorted(root.glob("sys/bus/usb/devices/*")):
        if sysfs.text(device / "idVendor") == vendor and sysfs.text(device / "idProduct") in products:
            numbers = [int(sysfs.text(device / name) or 0) for name in ("busnum", "devnum")]
            node = "/dev/bus/usb/{:03d}/{:03d}".format(*numbers)
            yield UsbDevice(
                product=sysfs.text(device / "idProduct") or "",
                serial=sysfs.text(device / "serial") or "",
                node=node,
                open_to_us=os.access(root / node.lstrip("/"), os.R_OK | os.W_OK),
            )


def udev_rule(vendor: str, name: str) -> str:
    """Return instructions that give this user access to a vendor's devices. ``name`` names the rule's file."""
    rule = f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{vendor}", MODE="0660", GROUP="plugdev"'
    return (
        f"write {rule} to /etc/udev/rules.d/99-{name}.rules, join the group plugdev, "
        "run udevadm control --reload, and plug it in again"
    )
