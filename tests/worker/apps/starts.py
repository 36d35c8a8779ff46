"""A client process that starts sagas in one of many ways: ``python -m tests.worker.apps.starts``.

It prints one line of JSON: for each saga its id, the number that it was started with and the one
that came back, and how many connections the servers counted.
"""

import sys

if "greenlets" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import asyncio
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import redis

from celery_saga import Saga, SagaManager
from tests.worker.apps.site import app, sagas
from tests.worker.apps.steps import late

saga = Saga("numbered", app=app)
saga.local_step(late, name="a")
saga.local_step(late, name="b")
saga.commit()

servers = [redis.Redis.from_url(url) for url in json.loads(os.environ["SAGA_TEST_SERVERS"])]


def connections():
    return sum(server.info("clients")["connected_clients"] for server in servers)


def in_use():
    """The servers' ids of a connection to the store and of one from the broker's pool."""
    with app.pool.acquire(block=True) as connection:
        broker = connection.default_channel.client.client_id()
    return sagas._runtime.store.client.client_id(), broker


def connected():
    """Of all connections to the store's server, and to the broker's."""
    in_use()  # both are connected now
    with app.pool.acquire(block=True) as connection:
        clients = [sagas._runtime.store.client, connection.default_channel.client]
        return [{int(one["id"]) for one in client.client_list()} for client in clients]


def one(number):
    result = saga.delay(number=number)
    return result.id, number, result.get(timeout=60).number


def threads(how_many, numbers):
    """That many new threads at the same moment."""
    barrier, found = threading.Barrier(how_many), []

    def work(number):
        barrier.wait()
        found.append(one(number))

    pool = [threading.Thread(target=work, args=(number,)) for number in numbers]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return found


def in_threads(rounds=5, how_many=50):
    counts, found = [], []
    for turn in range(int(rounds)):
        first = turn * how_many
        found += threads(how_many, range(first, first + how_many))
        counts.append(connections())
    return found, counts


def in_children(busy, children=5, each=12):
    """The parent starts some and forks; then all of them start and wait at the same time."""
    found = [one(number) for number in range(3)]
    parents = connected()
    stop, more = threading.Event(), []

    def resume():
        while not stop.is_set():
            more.append(one(len(more) + 900_000))

    background = threading.Thread(target=resume)
    if busy:
        background.start()
    pipes = []
    for child in range(1, int(children) + 1):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                own = [one(number) for number in range(child * 1000, child * 1000 + each)]
                own += threads(4, range(child * 1000 + 500, child * 1000 + 504))
                for used, before in zip(in_use(), parents, strict=True):
                    assert used not in before, "the parent's connection"
                with os.fdopen(writing, "w") as out:
                    json.dump(own, out)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        pipes.append((pid, reading))
    found += [one(number) for number in range(3, 3 + each)]
    for pid, reading in pipes:
        with os.fdopen(reading) as own:
            text = own.read()
        assert os.waitpid(pid, 0)[1] == 0, f"child {pid} failed"
        found += json.loads(text)
    stop.set()
    if busy:
        background.join()
    return found + more, [connections()]


def in_a_loop(how_many=60):
    async def main():
        results = await asyncio.gather(
            *(asyncio.to_thread(saga.delay, number=number) for number in range(how_many))
        )
        runs = await asyncio.gather(
            *(sagas.run(saga, {"number": number}) for number in range(1000, 1000 + how_many))
        )
        found = [
            (result.id, number, (await asyncio.to_thread(result.get, 60)).number)
            for number, result in enumerate(results)
        ]
        found += [(run.saga_id, 1000 + n, run.context.number) for n, run in enumerate(runs)]
        return found, [connections()]

    return asyncio.run(main())


def in_greenlets(how_many=50):
    with ThreadPoolExecutor(how_many) as pool:  # greenlets, as all is patched
        found = list(pool.map(one, range(how_many)))
    return found, [connections()]


def of_no_app(how_many=8):
    """In threads, which have no current app, with a saga of shared tasks alone."""
    global saga
    saga = Saga("shared", steps=[late]).commit()
    return threads(how_many, range(how_many)), [connections()]


WAYS = {
    "threads": in_threads,
    "children": lambda: in_children(False),
    "busy-children": lambda: in_children(True),
    "loop": in_a_loop,
    "greenlets": in_greenlets,
    "no-app": of_no_app,
}

if __name__ == "__main__":
    assert isinstance(sagas, SagaManager)
    before = connections()
    found, counts = WAYS[sys.argv[1]]()
    print(json.dumps({"sagas": found, "before": before, "counts": counts}))
