"""Warm rank processes: each case is a gloo group of its own among them."""

import contextlib
import datetime
import multiprocessing
import tempfile
import traceback
from pathlib import Path

SECONDS = 240
MOST = 4  # so many are kept warm


def _serve(pipe):
    import torch
    import torch.distributed as dist
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    while True:
        order = pipe.recv()
        if order is None:
            return
        function, args, rank, world, folder = order
        store = dist.FileStore(str(Path(folder) / "store"), world)
        limit = datetime.timedelta(seconds=SECONDS)
        dist.init_process_group("gloo", rank=rank, world_size=world, store=store, timeout=limit)
        try:
            answer = (True, function(rank, *args))
        except BaseException:  # noqa: BLE001, the parent raises it
            answer = (False, traceback.format_exc())
        pipe.send(answer)
        pipe.recv()  # until everybody has answered: who leaves earlier resets connections that others still read from
        dist.destroy_process_group()


class Ranks:
    """`ranks(function, world, *args)`: what `function(rank, *args)` returns on every rank."""

    def __init__(self):
        self._context = multiprocessing.get_context("spawn")
        self._started = []

    def __call__(self, function, world, *args):
        try:
            return self._run(function, world, *args)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            codes = [process.exitcode for process, _ in self._started]
            self.close()
            raise AssertionError(f"a rank process ended (exit codes {codes})") from error
        finally:
            self._end(self._started[MOST:])
            del self._started[MOST:]

    def _run(self, function, world, *args):
        while len(self._started) < world:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._started.append((process, ours))
        with tempfile.TemporaryDirectory() as folder:
            for rank, (_, pipe) in enumerate(self._started[:world]):
                pipe.send((function, args, rank, world, folder))
            found, wrong = [], []
            for _, pipe in self._started[:world]:
                right, value = pipe.recv() if pipe.poll(2 if wrong else SECONDS) else (False, "no answer in time")
                (found if right else wrong).append(value)
        if wrong:
            self.close()
            # A rank that failed by itself says more than one that lost its peer.
            raise AssertionError(min(wrong, key=lambda text: "gloo/transport" in text or "in time" in text))
        for _, pipe in self._started[:world]:
            pipe.send("all have answered")
        return found

    def close(self):
        self._end(self._started)
        self._started = []

    def _end(self, ranks):
        for process, pipe in ranks:
            with contextlib.suppress(BrokenPipeError):
                pipe.send(None)
            process.kill()
            process.join()
