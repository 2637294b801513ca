"""A stand-in for an agent.

It answers a line of JSON, {"to": "host:port", "up": n, "down": n}, with the seconds that it took to send and receive
these numbers of bytes. A line without "to" makes it the side that receives and sends them.
"""

import argparse
import contextlib
import json
import os
import socket
import threading
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--host", "--port", "--frames-port", "--folder", "--ready-file"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    with socket.create_server((arguments.host, int(arguments.port))) as server:
        host, port = server.getsockname()
        with open(arguments.ready_file + ".new", "w") as file:
            facts = {"cores": len(os.sched_getaffinity(0)), "omp": os.environ["OMP_NUM_THREADS"]}
            here = f"{host}:{port}"
            json.dump({"address": here, "frames": here, "pid": os.getpid(), **facts}, file)
        os.replace(arguments.ready_file + ".new", arguments.ready_file)
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def answer(conn: socket.socket) -> None:
    with conn, conn.makefile("rwb") as stream, contextlib.suppress(OSError):
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while line := stream.readline():
            asked = json.loads(line)
            if asked.get("eat"):
                kept = bytearray(asked["eat"])
                stream.write(f"{len(kept)}\n".encode())
            elif "to" in asked:
                stream.write(json.dumps(ask(asked)).encode() + b"\n")
            else:
                stream.read(asked["up"])
                stream.write(bytes(asked["down"]))
            stream.flush()


def ask(asked: dict) -> list[float]:
    host, _, port = asked["to"].rpartition(":")
    try:
        conn = socket.create_connection((host, int(port)), 0.5)
    except OSError:
        return []
    with conn, conn.makefile("rwb") as stream:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.settimeout(10)
        took = []
        for up, down in ((1, 1), *[(asked["up"], asked["down"])] * asked.get("times", 1)):
            start = time.perf_counter()
            stream.write(json.dumps({"up": up, "down": down}).encode() + b"\n" + bytes(up))
            stream.flush()
            stream.read(down)
            took.append(time.perf_counter() - start)
        return took[1:]


if __name__ == "__main__":
    main()
