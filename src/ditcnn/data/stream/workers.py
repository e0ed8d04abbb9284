"""Processes that read images beside the one that trains, and are no copies of it."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

__all__ = ["IMPORTED_MAIN", "at_start", "end_if_importing_main", "start_method"]

IMPORTED_MAIN = 87  # a worker's exit code
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_IMPORTED_ONCE = ("ditcnn.data.stream", "ditcnn.cli")  # the latter by the command's script, which workers import


def start_method() -> BaseContext:
    """Return how `torch.utils.data.DataLoader` is to start its workers: from a server that was started afresh.

    A fork of this process has each lock as it stood, but of the threads only the one that forked: a lock that another one
    held is never released there. The threads of torch.distributed take the interpreter's own locks after each collective,
    and a worker that was forked in that moment hung, and with it the job, before it had run a line
    (https://github.com/python/cpython/issues/112275, in Python 3.11.7 for one). The server runs one thread of Python, and
    imports once what workers need.

    It is this process's own, unless other code has started one before, which then knows nothing of the signals below.
    """
    context = multiprocessing.get_context("forkserver")
    # Not "__main__": some Pythons would not import it there, in others an error in it would end the server.
    context.set_forkserver_preload([name for name in _IMPORTED_ONCE if name in sys.modules])
    resource_tracker.ensure_running()  # else ensure_running below does, and unblocks signals before it starts the server
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        forkserver.ensure_running()  # it and its children inherit what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


# A process forked from this one has no server: the one it would know of is not its child.
os.register_at_fork(after_in_child=forkserver._forkserver.__init__)  # type: ignore[misc]


def at_start(worker: int) -> None:
    """Prepare a worker: it leaves signals to the main process, and ends when that one does.

    torchrun and terminals signal the whole process group; the main process saves before it ends, and needs its workers until
    then. torch's own watch over the main process looks at the server, which lives as long as its workers do.
    """
    for signum in _SIGNALS:  # in a server that other code has started they are not blocked
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_main, daemon=True).start()


def end_if_importing_main() -> None:
    """End a worker that is importing the main script, and has come to a call there that would start a run of its own.

    In silence: the main process tells it, by the exit code, and once for all workers.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself finds out
        os._exit(IMPORTED_MAIN)


def _end_with_main() -> None:
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(0)
