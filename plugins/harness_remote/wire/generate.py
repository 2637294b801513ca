"""Generate ``agent_pb2.py`` and its types from ``agent.proto`` (``make proto``). It needs grpcio-tools."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness.errors import HarnessError

__all__ = ["generate"]


def generate(folder: Path) -> Path:
    """Write ``harness_remote/agent_pb2.py`` and ``agent_pb2.pyi`` under ``folder``. Return the path of the first.

    The generated check of protobuf's version is removed, because a board has the protobuf that its other packages
    need. The rest does not depend on protoc's version.

    Raises:
        HarnessError: protoc refuses the file.
    """
    from grpc_tools import protoc

    sources = Path(__file__).resolve().parents[2]
    name = "harness_remote/agent.proto"
    if protoc.main(
        ["protoc", f"-I{sources}", f"--python_out={folder}", f"--pyi_out={folder}", str(sources / name)]
    ):
        raise HarnessError(f"protoc refuses {name}")
    made = folder / "harness_remote" / "agent_pb2.py"
    text = made.read_text()
    text = re.sub(r"^# Protobuf Python Version: .*\n|^.*import runtime_version.*\n", "", text, flags=re.M)
    text = re.sub(r"^_runtime_version\.ValidateProtobufRuntimeVersion\(.*?^\)\n", "", text, flags=re.M | re.S)
    made.write_text(text)
    return made


if __name__ == "__main__":
    sys.stdout.write(f"{generate(Path(__file__).resolve().parents[2])}\n")
