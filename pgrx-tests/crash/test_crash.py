"""The server, or one of its processes, dies at a random moment under load: what was acknowledged is there, nothing is there
by halves, and the batch goes on.

ROUNDS=100 runs more of them; SEED=n runs the one that failed, as far as chance lets it.
"""

import os
import random
import signal
import time

import pytest

import support
import town
from crowd import Application, Batch, Crowd, Fixing, SigningUp, Undoing

ROUNDS = int(os.environ.get("ROUNDS", "10"))
FIRST = int(os.environ.get("FIRST_SEED", "1"))
SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else list(range(FIRST, FIRST + ROUNDS))
KINDS = [SigningUp, SigningUp, SigningUp, Application, Application, Fixing, Fixing, Undoing, Batch]


@pytest.fixture(scope="module")
def server():
    """One that waits for the disk."""
    server = support.Server(settings={"autovacuum": "off"}, durable=True).start()
    try:
        server.make_template()
        town.build(server, users=40)
        yield server
    finally:
        worries = [worry for worry in server.remove() if "terminated by signal 9" not in worry]
    assert not worries, "the server log tells of:\n" + "\n".join(worries)


def kill_a_backend(server, crowd, rng):
    """The postmaster starts all over again by itself."""
    os.kill(rng.choice(crowd.clients).pid, signal.SIGKILL)


def stop_at_once(server, crowd, rng):
    server.stop("immediate")


def kill_all(server, crowd, rng):
    server.kill()


@pytest.mark.parametrize("seed", SEEDS)
def test_crash(server, seed):
    rng = random.Random(seed)
    crash = [kill_a_backend, stop_at_once, kill_all][seed % 3]
    before = server.database(template="town")
    crowd = Crowd(before, seed, KINDS).start()
    time.sleep(rng.uniform(0.1, 1.5))
    crash(server, crowd, rng)
    if crash is not kill_a_backend:
        server.start()
    crowd.stop()
    support.wait_until(server.is_up, "the server has recovered")
    db = support.Database(server, before.name)
    print(f"seed {seed}, {crash.__name__}: {dict(crowd.done)}")
    try:
        print("after the crash:", town.check(db, crowd))
        print("in the end:", town.finish(db, crowd))
    finally:
        db.drop()
