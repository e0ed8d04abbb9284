"""Whether the network gives anything, told soon: a library's own attempts take half a minute to give up."""

import functools
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hub_offline_if_unreachable", "reachable"]

PATIENCE = 2.0  # seconds
HUB = "https://huggingface.co"


@functools.cache
def reachable(url: str, seconds: float = PATIENCE) -> bool:
    """Say whether a connection to the host of a URL, or to the proxy in front of it, can be had; asked once a process."""
    parts = urllib.parse.urlsplit(url)
    proxies = {} if urllib.request.proxy_bypass(parts.hostname or "") else urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy:
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
        except (OSError, UnicodeError):
            return
        connected.set()

    # In a thread: the search for a host's address has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return connected.is_set()


@contextmanager
def hub_offline_if_unreachable() -> Iterator[None]:
    """While in use, Hugging Face's library takes from its cache alone what the network cannot give."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before and not reachable(os.environ.get("HF_ENDPOINT") or HUB):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
