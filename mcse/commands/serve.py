"""``mcse serve``: a model as a service."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcse.encoders.inputs import Precision
from mcse.encoders.loading import load_encoder
from mcse.errors import printable
from mcse.manifest import Reading
from mcse.progress import phase
from mcse.search.together import MOST_WAITING

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765


def run(
    model: str,
    *,
    index: Path | None = None,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    token: str | None = None,
    name: str | None = None,
    most_waiting: int = MOST_WAITING,
    pooling: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
    precision: Precision = "float32",
    device: str | None = None,
) -> int:
    """Answers until Ctrl-C, or SIGTERM.

    ``index`` is one of sentences, of images, or what ``mcse embed`` wrote; the token is ``MCSE_TOKEN`` by default, and
    the name in answers the last part of the model's.

    Raises:
        ValueError: A model or index that does not fit, or the extra ``serve`` is not installed.
    """
    check_port(port)
    if most_waiting < 1:
        raise ValueError(f"--most-waiting must be at least 1, got {most_waiting}")
    try:
        from mcse.search.hardening import in_address, is_loopback, listen, names_of
        from mcse.search.served_index import open_served
        from mcse.search.service import ServiceOptions, build_service
    except ModuleNotFoundError as error:
        raise ValueError(f"the service needs {error.name}: pip install 'mcse[serve]'") from error
    token = os.environ.get("MCSE_TOKEN") if token is None else token
    if token is not None and not token.strip():
        raise ValueError("--token (MCSE_TOKEN) is empty")
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)
    with phase(f"loading {model}"):
        encoder = load_encoder(model, pooling=pooling, precision=precision, device=device, reading=reading)
    served = None if index is None else open_served(index, encoder, model)
    short = name or model.rstrip("/").rpartition("/")[2]
    options = ServiceOptions(
        name=short, also=frozenset({model}), token=token, names=names_of(host), most_waiting=most_waiting
    )
    if not is_loopback(host):
        secret = "the token" if token else "there is no token, so everybody who reaches this machine can use it"
        print(f"ATTENTION: {host} is no loopback address; {secret}", file=sys.stderr)
    about = "" if served is None else f", an index of {len(served.index):,}"
    address = f"http://{in_address(host)}:{port}"
    print(printable(f"{short}, width {encoder.dimension}{about}: {address}/v1/embeddings (Ctrl-C ends)"), flush=True)
    listen(build_service(encoder, options, index=served), host=host, port=port)
    return 0


def check_port(port: int) -> None:
    """Refuses what is no port.

    Raises:
        ValueError: It is none.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, got {port}")
