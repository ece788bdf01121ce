"""Workers in a Ray cluster: each an actor, spread over its nodes.

``ray`` is the cluster that RAY_ADDRESS names or this machine is a node of, else one that is started here; ``ray://HOST:PORT`` is one whose
head has Ray's client server there, and outlives the head, since no part of Ray runs in this process.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from aprgraph.graph.errors import ExecutorError
from aprgraph.runtime.executors.worker_process import outcome_of, prepare_worker
from aprgraph.runtime.executors.workers import ATTEMPTS, OnNotice, WorkerLostError, WorkersExecutor

#: Seconds for a cluster whose head is gone to come back, and for a free place in it. Another attempt waits as long again.
_PATIENCE = 60.0
_CONNECTIONS = 3
_AGAIN = 1.0


class RayCalls:
    """The actor: a process on some node."""

    def __init__(self, threads: int) -> None:
        prepare_worker(threads)

    def place(self) -> str:
        """Which process it is."""
        return f"process {os.getpid()} on {os.uname().nodename}"

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[bool, Any]:
        """See ``outcome_of``."""
        return outcome_of(function, arguments, keywords)


class RayCluster:
    """The connection of this process to a cluster, made again when it is lost."""

    def __init__(self, address: str | None) -> None:
        # A call while the head is away would start a cluster of its own in this process; it is to fail.
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "5")
        try:
            import ray  # noqa: PLC0415 -- an extra, which takes a second
        except ModuleNotFoundError:
            raise ExecutorError("the executor ray needs Ray, which is not installed; pip install 'aprgraph[ray]'") from None
        self._ray: Any = ray
        self._address = address
        self._lock = threading.Lock()
        for attempt in range(_CONNECTIONS):  # a client server on a busy machine may be too late for the first
            try:
                _within(_PATIENCE, self._again if attempt else self._connect)
            except Exception as error:  # noqa: BLE001, PERF203 -- Ray raises whatever its transport does
                if attempt + 1 == _CONNECTIONS:
                    where = address or "this machine"
                    raise ExecutorError(f"no Ray cluster at {where}: {_first_line(error)}; start one with `ray start`") from None
            else:
                return

    def processors(self) -> int:
        """How many the nodes have together."""
        return int(self._ray.cluster_resources().get("CPU", 1))

    def ensure(self) -> None:
        """Connect again where the cluster does not answer. Raises WorkerLostError where it does not come back."""
        with self._lock:
            until = time.monotonic() + _PATIENCE
            while True:
                try:
                    _within(_PATIENCE, self._ray.cluster_resources)
                except Exception as error:  # noqa: BLE001 -- as above
                    if time.monotonic() > until:
                        raise WorkerLostError(f"the Ray cluster is gone: {_first_line(error)}") from None
                else:
                    return
                time.sleep(_AGAIN)
                with contextlib.suppress(Exception):
                    _within(_PATIENCE, self._again)

    def start(self, threads: int) -> Any:
        """A new actor that has ``threads`` processors to itself."""
        return self._ray.remote(RayCalls).options(num_cpus=threads, max_restarts=0, scheduling_strategy="SPREAD").remote(threads)

    def get(self, reference: Any, seconds: float | None = None) -> Any:
        """What a call of an actor gives. Raises WorkerLostError."""
        try:
            return self._ray.get(reference, timeout=seconds)
        except Exception as error:  # noqa: BLE001 -- RayError and its kin; what a call raises is in its outcome
            raise WorkerLostError(f"a Ray worker is gone or never came: {_first_line(error)}") from None

    def end(self, actor: Any) -> None:
        """End an actor's process, whatever it does."""
        with contextlib.suppress(Exception):
            self._ray.kill(actor)

    def close(self) -> None:
        """Leave the cluster."""
        with contextlib.suppress(Exception):
            _within(_PATIENCE, self._ray.shutdown)

    def _again(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.shutdown()
        self._connect()

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is not None:
            self._ray.init(self._address, **quiet)
            return
        try:
            self._ray.init("auto", **quiet)
        except ConnectionError:
            if "RAY_ADDRESS" in os.environ:
                raise
            self._ray.init(include_dashboard=False, **quiet)


class RayWorker:
    """An actor as a worker."""

    def __init__(self, cluster: RayCluster, threads: int) -> None:
        cluster.ensure()
        self._cluster = cluster
        try:
            self._actor = cluster.start(threads)
            self.place = str(cluster.get(self._actor.place.remote(), _PATIENCE))
        except WorkerLostError:
            raise
        except Exception as error:  # noqa: BLE001 -- the cluster has gone since
            raise WorkerLostError(f"no Ray worker can be started: {_first_line(error)}") from None

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """See ``Worker.call``."""
        try:
            reference = self._actor.call.remote(function, arguments, keywords)
        except Exception as error:  # noqa: BLE001 -- as above
            raise WorkerLostError(f"{self.place} is gone: {_first_line(error)}") from None
        is_well, found = self._cluster.get(reference)
        if not is_well:
            raise found
        return found

    def close(self) -> None:
        """See ``Worker.close``."""
        self._cluster.end(self._actor)

    kill = close


def _within(seconds: float, function: Callable[[], Any]) -> None:
    """Call ``function``, and raise what it raises, or TimeoutError: Ray's client can wait for ever for a head that is half gone."""
    failure: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 -- raised by whoever waits
            failure.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    if failure:
        raise failure[0]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{f' ({lines[0].strip()})' if lines else ''}"


def open_ray(
    address: str | None,
    workers: int | None = None,
    *,
    threads: int | None = None,
    attempts: int = ATTEMPTS,
    on_notice: OnNotice | None = None,
) -> WorkersExecutor:
    """An executor of ``workers`` actors (default: as many as there are processors) of ``threads`` threads (default: 1).

    ``address`` is ``ray://HOST:PORT``, None for the cluster of this machine. Raises ExecutorError.
    """
    cluster = RayCluster(address)
    share = threads or 1
    count = workers or max(1, cluster.processors() // share)
    return WorkersExecutor(lambda _lane: RayWorker(cluster, share), count, attempts=attempts, on_notice=on_notice, on_close=cluster.close)
