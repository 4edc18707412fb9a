"""Work that is shared out among workers in pieces: how long a piece is, and what becomes of one whose worker died.

How long a piece is. An engine (dask's scheduler, the parent of a pool of processes) takes about 1 ms for a task: to
send it, to note that it is done, to receive what it gives. A worker that takes 20 ms for a piece loses at most 5 % by
that; and an engine that serves ``W`` workers, one task after the other, is at work for at most 5 % of the time, and no
worker waits for it, if a piece takes ``W`` times 20 ms. That is a second for 50 workers. Where there are fewer, a piece
takes a second in an executor of the caller's, since dask on a busy machine was seen to take 6 ms for a task
(bench/cluster.py), and 0.1 s in our own processes and in maps, so that a bar moves. Towards the end of the work or of a
time budget pieces are shorter: no worker idles long.

What that means for the largest checks, on paper: a billion entries of a loss of 1 s on 1,000 machines.

- Entry by entry: 2e9 evaluations by central differences take 2e9 s / 1,000 = 2e6 s, 23 days. The engine's 1 ms for
  each of them would take 2e6 s too: the engine alone, which does one task at a time, would be as slow as all machines
  together, and 1,000 tasks a second are the most that it can do. In pieces of 20 s there are 1e8 of them, for which the
  engine takes 1e5 s (28 hours, 5 % of the time). More machines than 1,000 need longer pieces, in proportion.
- By probes: three directions and the noise of the loss take some 20 evaluations, whatever the number of entries. They
  depend on one another in four or five rounds, of 1 s each where 20 machines share them; the other 980 have nothing to
  do. What takes longer is to send 8 GB of parameters to each of them: 8 s at 1 GB/s, and to write them at each
  evaluation, about 1 s. So a minute stands against 23 days; single wrong entries take a few dozen evaluations more.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from fastgc._evaluation import executors
from fastgc._evaluation.evaluator import LEAST_SECONDS, described
from fastgc._evaluation.parcels import Folder, LackingError, Parcel, contents, opened, portable
from fastgc._evaluation.threads import single_threaded_blas
from fastgc._evaluation.workers_option import named
from fastgc._evaluation.working_time import now
from fastgc._words import Workers

_TASK_SECONDS, _TASK_SHARE = 1e-3, 0.05  # what an engine takes for a task, and the share of it in a piece: see above
_PIECES_LEFT = 16  # pieces of the work of each worker: one is idle at the end for at most 1/16 of its time
_WORTHWHILE = 0.03  # seconds of work: twice the 0.015 s that it takes to share it out
_DEATHS = 3  # at one piece: machines fail and memory runs out once in a while, but hardly three times at one place
# Without any answer for so long, or for so many times the seconds that a piece takes, a warning tells of it.
_PATIENCE_SECONDS, _PATIENCE_PIECES = 60.0, 20

single_threaded = functools.partial(single_threaded_blas, openmp=True)  # another number may change the last bits


def piece_length(count: int, seconds: float, workers: int, left: float, usual: float) -> int:
    """The number of evaluations in a piece of ``count`` evaluations, of so many seconds each.

    ``left`` are the seconds until the deadline, ``usual`` those of a piece where there are few workers.
    """
    shortest = _TASK_SECONDS / _TASK_SHARE
    longest = max(usual, workers * shortest)
    even = count * seconds / (workers * _PIECES_LEFT)
    wanted = min(longest, max(shortest, even), max(0.0, left) / _PIECES_LEFT)
    return max(1, min(int(wanted / seconds), -(-count // workers)))


class SharedWork:
    """Work on an object that every worker receives once.

    Parameters
    ----------
    payload : has ``opened()``, whose result has the methods that the workers are asked for
    function : the caller's function, in the payload
    words : what messages call that function, and it with its arguments, such as "the loss" and "loss or args"
    seconds : approximate time of an evaluation

    Raises
    ------
    TypeError
        For a payload that cannot be pickled.
    """

    def __init__(
        self, workers: Workers, payload: object, function: object, words: tuple[str, str], *, seconds: float
    ) -> None:
        self.name = "python"  # how the function is evaluated, for reports: here, until there is enough to share out
        self.workers, self.seconds, self.words = workers, seconds, words
        self.count, self._start = executors.choose(workers)
        self._engine: executors.Engine | None = None  # until there is enough work to share out
        self.folder = Folder()
        try:
            self.parcel = self.folder.parcel("check", payload, function)
        except OSError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise TypeError(
                f"{named(workers)}, but {words[1]} cannot be pickled for other processes ({described(error)}); leave "
                f"out open files, locks and handles (create them inside {words[0].split()[-1]}), or use workers=1"
            ) from error
        except BaseException:
            self.close()
            raise

    def worthwhile(self, evaluations: int) -> bool:
        """Whether so many evaluations are worth sharing out."""
        return evaluations >= 2 and evaluations * self.seconds >= _WORTHWHILE

    @property
    def pace(self) -> float | None:
        """Seconds for each evaluation while all workers are at work, once they have begun; None before."""
        return None if self._engine is None else self.seconds / self.count

    def results(
        self,
        method: str,
        count: int,
        arguments: Callable[[slice], tuple[object, ...]],
        place: Callable[[slice], str],
        deadline: float,
        ends: Sequence[int] = (),
    ) -> Generator[tuple[int, slice, Any]]:
        """The number of each piece, the evaluations in it, and what ``method`` gives for its arguments.

        ``place`` says in words which evaluations are in a piece, which may end only at ``ends``, if there are any.
        After an exception nothing is left at work, as far as the engine lets us.
        """
        self._engine = self._engine or self._start()
        length = piece_length(count, self.seconds, self.count, deadline - now(), self._engine.piece_seconds)
        parts = list(_parts(ends or range(length, count + length, length), count, length))
        words = _Words(named(self.workers), self.words[0], parts, place, length * self.seconds)
        tasks = deque((k, {}, self.parcel, method, *arguments(part)) for k, part in enumerate(parts))
        spent, done = 0.0, False
        try:
            with contextlib.closing(self._answers(tasks, words, deadline)) as answers:
                for number, result, seconds in answers:
                    spent += seconds
                    yield number, parts[number], result
            done = True
        finally:
            if not done and self._engine is not None:
                engine, self._engine = self._engine, None
                engine.end()
        self.seconds = max(spent / count, LEAST_SECONDS)

    def _answers(
        self, tasks: deque[executors.Task], words: _Words, deadline: float
    ) -> Generator[tuple[int, Any, float]]:
        """The answers to all tasks. Those that workers died at are done again; the third time each alone.

        All tasks that are at work when a worker dies are suspects, since most engines do not say which one it was.
        """
        patience = max(_PATIENCE_SECONDS, _PATIENCE_PIECES * words.seconds)
        watch = executors.Watch(deadline, patience, lambda seconds: words.tell(seconds, waiting))
        deaths: Counter[int] = Counter()
        alone: deque[executors.Task] = deque()
        assert self._engine is not None
        self.name = f"python ({self._engine.label})"
        while tasks or alone:
            queue = tasks or deque([alone.popleft()])
            waiting = {task[0]: task for task in queue}
            died = False
            with contextlib.closing(self._engine.outcomes(_run, queue, watch)) as outcomes:
                for task, found in outcomes:
                    if isinstance(found, executors.Death):
                        died = True
                        deaths[task[0]] += 1
                        words.refuse(task[0], found, deaths[task[0]])
                        (alone if deaths[task[0]] == _DEATHS - 1 else tasks).append(task)
                    elif found[1] == "lacks":
                        queue.appendleft((task[0], _sent(task, found[2]), *task[2:]))
                    else:
                        waiting.pop(task[0], None)
                        yield _received(found)
            if died or queue:
                self._engine = self._engine.renewed()
                self.name = f"python ({self._engine.label})"

    def close(self) -> None:
        """Keep our processes for the next check, and remove the files."""
        if self._engine is not None:
            self._engine.release()
            self._engine = None
        self.folder.close()


class _Words:
    """What messages say of the pieces of some work."""

    def __init__(
        self, workers: str, what: str, parts: list[slice], place: Callable[[slice], str], seconds: float
    ) -> None:
        self.workers, self.what, self.parts, self.place, self.seconds = workers, what, parts, place, seconds

    def refuse(self, number: int, death: executors.Death, times: int) -> None:
        """Raise where a worker has died at a piece for the last time."""
        if times < _DEATHS and not death.last:
            return
        again = "three times " if times == _DEATHS else ""
        raise RuntimeError(
            f"{self.workers}: a worker process died {again}while it evaluated {self.what} with "
            f"{self.place(self.parts[number])} (out of memory? a crash of compiled code?): {described(death.error)}; "
            "try fewer workers, or workers=1 to see the crash itself"
        ) from death.error

    def tell(self, seconds: float, waiting: Mapping[int, object]) -> None:
        """Warn that there was no answer for so many seconds."""
        first = self.place(self.parts[min(waiting)])
        warnings.warn(
            f"{self.workers}: no result for {seconds:.0f} s, where a piece was to take about {self.seconds:.2g} s; "
            f"{len(waiting)} pieces are left, the first with {first}. Waiting: a call hangs, a worker is stopped, or "
            "the machine is busy",
            RuntimeWarning,
            stacklevel=2,
        )


def _parts(ends: Sequence[int], count: int, length: int) -> Iterator[slice]:
    """Pieces of at least so many evaluations that end where they may."""
    start = 0
    for end in ends:
        if end - start >= length or end >= count:
            yield slice(start, min(end, count))
            start = end


def _sent(task: executors.Task, token: str) -> dict[str, bytes]:
    """What goes along with a task the second time: also the parcel that its worker lacks."""
    parcels = {each.token: each for each in task if isinstance(each, Parcel)}
    return {**task[1], token: contents(parcels[token])}


def _received(answer: Any) -> tuple[int, Any, float]:
    """The number, the result and the seconds of an answer; an exception that ends the check is raised."""
    number, kind, result, seconds = answer
    if kind == "raised":
        raise pickle.loads(result)
    return number, result, seconds


# --- in a worker ---


def _run(number: int, sent: Mapping[str, bytes], check: Parcel, method: str, *arguments: object) -> Any:
    """Do one task: its number, what became of it, the result and the seconds it took.

    It became "done"; or "raised", with the exception pickled, whatever engine brings it; or "lacks", with the token of
    the parcel that this worker has not received.
    """
    try:
        with single_threaded():
            subject = opened(check, sent, lambda payload: payload.opened())
            given = [opened(each, sent) if isinstance(each, Parcel) else each for each in arguments]
            begin = time.perf_counter()
            result = getattr(subject, method)(*given)
            return number, "done", result, time.perf_counter() - begin
    except LackingError as error:
        return number, "lacks", str(error), 0.0
    except Exception as error:
        return number, "raised", portable(error), 0.0
