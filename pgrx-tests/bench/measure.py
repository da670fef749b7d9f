"""What the measurements share: servers, databases, the clock, figures."""

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from figure import Figure  # noqa: E402

HERE = Path(__file__).resolve().parent


def say(text):
    print(text, file=sys.stderr, flush=True)


@dataclass
class Bench:
    """How thoroughly to measure, and the servers to measure on."""

    major: str
    quick: bool = False
    only: str = None
    _servers: dict = field(default_factory=dict)

    def rounds(self, thorough):
        return max(3, thorough // 4) if self.quick else thorough

    def server(self, durable=False):
        """A server for CPU figures, or one that waits for the disk as a real one does."""
        if durable not in self._servers:
            # Nothing in the background, so that what is measured is the backend's own work.
            settings = {
                "autovacuum": "off",
                "shared_buffers": "1GB",
                "max_wal_size": "20GB",
                "checkpoint_timeout": "1h",
                "statement_timeout": "0",
                "idle_in_transaction_session_timeout": "0",
            }
            server = support.Server(self.major, settings=settings, durable=durable, on_disk=True).start()
            server.make_template()
            with_extension = server.database("with_extension")
            with_extension.install()
            for connection in with_extension._opened:
                connection.close()
            self._servers[durable] = server
        return self._servers[durable]

    def database(self, trigger, durable=False):
        """A database with app_users as onagui.create_app_users() makes it, and with this trigger on auth.users:
        none, ours, or a function of peers.sql."""
        database = self.server(durable).database(template="with_extension")
        if trigger != "ours":
            database.sql("SELECT onagui.disable_sync()")
        if trigger not in ("ours", None):
            database.sql((HERE / "peers.sql").read_text(), role="supabase_admin")
            database.sql(
                f"CREATE TRIGGER on_auth_user_created AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.{trigger}()",
                role="supabase_admin",
            )
        return database

    def stop(self):
        for server in self._servers.values():
            for worry in server.remove():
                say(f"server log: {worry}")


class Backend:
    """A connection, as the Auth server's role unless told otherwise, and the CPU time of the process that serves it."""

    def __init__(self, database, role="supabase_auth_admin"):
        self.database = database
        self.connection = database.connect(role)
        self.connection.prepare_threshold = 0
        # CPUCLOCK_SCHED of that process, as clock_getcpuclockid(3) makes it: nanoseconds, user and system.
        self._clock = (~self.connection.info.backend_pid << 3) | 2

    def cpu(self):
        """Microseconds."""
        return time.clock_gettime_ns(self._clock) / 1000

    def measure(self, work):
        """CPU and wall time of work(connection), in microseconds."""
        wall, cpu = time.perf_counter(), self.cpu()
        work(self.connection)
        cpu = self.cpu() - cpu
        return cpu, (time.perf_counter() - wall) * 1e6


def interleaved(names, rounds, once, what):
    """once(name) for each name in each round, the order turning; returns {name: [value of each round]}.
    The first round warms caches and plans up and is thrown away."""
    values = {name: [] for name in names}
    names = list(names)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = once(name)
            if number:
                values[name].append(value)
        say(f"  {what}: round {number} of {rounds}") if number % max(1, rounds // 5) == 0 else None
    return values


def quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 2 else (min(values), statistics.median(values), max(values))
    return low, statistics.median(values), high


def added(values, base):
    """What each round took more than the round of `base`."""
    return [value - nothing for value, nothing in zip(values, base)]


def compare(what, against, unit, ours, peer, target, note="", **more):
    """A figure from the two series of one interleaved run: the ratio of their medians, the spread of the rounds' ratios."""
    # A round in which the peer added nothing at all has no ratio.
    ratios = [o / p for o, p in zip(ours, peer) if p]
    low, _, high = quartiles(ratios)
    ours, peer = statistics.median(ours), statistics.median(peer)
    return Figure(what, against, unit, ours, peer, ours / peer, low, high, target, note, **more)
