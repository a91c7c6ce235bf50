"""A service that cleans pictures for many clients, in one asyncio loop with one engine.

    python stream_asyncio.py --port 8765 --engine model.derain
    python stream_asyncio.py --port 8765 --send rain.jpg clean.png

A client sends a picture (PNG, JPEG, ...) after its length in four bytes, the most significant first, as often as it
likes, and gets each back as PNG in the same way; a length of 0 says that it was no picture. The engine works in
threads, so that the loop goes on; no more pictures are in work than `--at-once` says, the others wait where they
are, in their senders.

It calls the engine picture by picture: `Engine.stream` is for frames that keep coming, and asks for the next one
before it gives a result, which a client that waits for its answer does not send.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
from pathlib import Path

import cv2
import numpy as np

import derain_engine

#: Bytes of a picture that are taken.
MOST = 64 << 20


def cleaned(engine: derain_engine.Engine, data: bytes) -> bytes:
    """Return the picture without its rain as PNG; nothing for what is no picture."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if picture is None:
        return b""
    clean = engine(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return cv2.imencode(".png", cv2.cvtColor(clean, cv2.COLOR_RGB2BGR))[1].tobytes()


async def receive(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    if length > MOST:
        raise ValueError(f"{length} bytes are too many")
    return await reader.readexactly(length)


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(struct.pack(">I", len(data)) + data)
    await writer.drain()


async def serve(engine: derain_engine.Engine, host: str, port: int, at_once: int) -> None:
    """Serve until it is cancelled; print where it listens."""
    places = asyncio.Semaphore(at_once)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                data = await receive(reader)
                async with places:
                    answer = await asyncio.to_thread(cleaned, engine, data)
                await send(writer, answer)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            print(f"a client has gone, or speaks another language: {error}", flush=True)
        finally:
            writer.close()

    server = await asyncio.start_server(client, host, port)
    print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


async def ask(host: str, port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    await send(writer, data)
    answer = await receive(reader)
    writer.close()
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="to listen on or to ask (%(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--at-once", type=int, default=2, help="pictures in work at the same time (%(default)s)"
    )
    parser.add_argument("--engine", default="model.derain", help="an engine file (%(default)s)")
    parser.add_argument("--send", nargs=2, metavar=("RAINY", "CLEAN"), help="be a client: files")
    arguments = parser.parse_args()
    if arguments.send:
        answer = asyncio.run(ask(arguments.host, arguments.port, Path(arguments.send[0]).read_bytes()))
        if not answer:
            raise SystemExit(f"{arguments.send[0]} is no picture.")
        Path(arguments.send[1]).write_bytes(answer)
        return
    with derain_engine.load(arguments.engine, mode="throughput") as engine:
        try:
            asyncio.run(serve(engine, arguments.host, arguments.port, arguments.at_once))
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
