"""Processes that read images beside the one that trains, and are no copies of it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

__all__ = ["at_start", "start_method"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def start_method() -> BaseContext:
    """Return how `torch.utils.data.DataLoader` is to start its workers: from a server that was started afresh.

    A fork of this process has each lock as it stood, but of the threads only the one that forked: a lock that another one
    held is never released there. The threads of torch.distributed take the interpreter's own locks after each collective,
    and a worker that was forked in that moment hung, and with it the job, before it had run a line
    (https://github.com/python/cpython/issues/112275, in Python before 3.12). The server has one thread; what workers need is
    imported there, once.

    A script that has workers read must keep its own doing under ``if __name__ == "__main__"``, as they import it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "ditcnn.data.stream"])
    resource_tracker.ensure_running()  # else the server starts it, and unblocks signals then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        forkserver.ensure_running()  # it and its children inherit what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def at_start(worker: int) -> None:
    """Prepare a worker: it leaves signals to the main process, and ends when that one does.

    torchrun and terminals signal the whole process group; the main process saves before it ends, and needs its workers until
    then. torch's own watch over the main process looks at the server, which lives as long as its workers do.
    """
    for signum in _SIGNALS:  # where the server was started by others, they are not blocked
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_main, daemon=True).start()


def _end_with_main() -> None:
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(0)
