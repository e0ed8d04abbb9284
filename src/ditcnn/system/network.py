"""Whether the network gives anything, told soon: a library's own attempts take half a minute to give up."""

import functools
import os
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ditcnn.system.errors import InputError
from ditcnn.system.text import one_line

__all__ = ["HUB_NAMES", "ask_hub_early", "hub", "hub_offline_if_unreachable", "reachable"]

PATIENCE = 2.0  # seconds
HUB_NAMES = ("hf-hub:", "hf_hub:")  # before a name of the hub


def hub() -> str:
    """Return the address of Hugging Face's hub, or of the one that is set in its place."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def reachable(url: str) -> bool:
    """Say whether a connection to the host of a URL, or to the proxy in front of it, can be had; asked once a process."""
    return ask(url)()


@functools.cache
def ask(url: str, seconds: float = PATIENCE) -> Callable[[], bool]:
    """Begin to find out whether a host is reachable; return what waits for the answer."""
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
    end = time.monotonic() + seconds

    def answer() -> bool:
        thread.join(max(0.0, end - time.monotonic()))
        return connected.is_set()

    return answer


def ask_hub_early(name: str) -> None:
    """Find out whether the hub is there, where a model's name may need it, while libraries are imported.

    Raises:
        InputError: The name is the hub's alone, which cannot be reached, and the model is not in its cache.
    """
    if name.startswith(HUB_NAMES):
        from huggingface_hub import try_to_load_from_cache

        try:
            cached = isinstance(try_to_load_from_cache(name.partition(":")[2].partition("@")[0], "config.json"), str)
        except ValueError as error:
            raise InputError(f"{name}: {one_line(error)}") from None
        if not cached and not reachable(hub()):
            raise InputError(f"{name}: the model cannot be had: {hub()} cannot be reached, and it is not in the cache.")
    elif "." in name and not os.path.exists(name):
        ask(hub())


@contextmanager
def hub_offline_if_unreachable() -> Iterator[None]:
    """While in use, Hugging Face's library takes from its cache alone what the network cannot give."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before and not reachable(hub()):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
