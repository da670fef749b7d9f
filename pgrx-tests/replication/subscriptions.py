"""What the tests of logical replication share."""

from support import wait_until

ADMIN = "supabase_admin"


def conninfo(publisher):
    environment = publisher.server.environment
    return f"host={environment['PGHOST']} port={environment['PGPORT']} dbname={publisher.name} user=supabase_admin"


def subscribe(publisher, subscriber, options="", wait=True):
    """The subscriber's database gets auth.users of the publisher's."""
    publisher.sql("CREATE PUBLICATION users FOR TABLE auth.users", role=ADMIN)
    subscriber.sql(f"CREATE SUBSCRIPTION {subscriber.name} CONNECTION '{conninfo(publisher)}' PUBLICATION users {options}", role=ADMIN)
    if wait:
        wait_for_copy(subscriber)


def wait_for_copy(subscriber):
    ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
    wait_until(lambda: subscriber.one(ready, role=ADMIN), "the first copy is done")


def worker(subscriber):
    """The process that applies; it is another one after an error."""
    query = "SELECT pid FROM pg_stat_subscription WHERE subname = %s AND relid IS NULL AND pid IS NOT NULL ORDER BY pid"
    if subscriber.server.number >= 16:
        query = query.replace("ORDER", "AND leader_pid IS NULL ORDER")
    rows = wait_until(lambda: subscriber.sql(query, [subscriber.name], role=ADMIN), "the subscription has a worker")
    return rows[0][0]


def errors(subscriber):
    """How often applying and the first copy have failed."""
    query = "SELECT apply_error_count, sync_error_count FROM pg_stat_subscription_stats WHERE subname = %s"
    [counts] = subscriber.sql(query, [subscriber.name], role=ADMIN)
    return counts


def catch_up(publisher, subscriber):
    """Waits until all that is committed there has been applied here."""
    position = publisher.one("SELECT pg_current_wal_insert_lsn()::text", role=ADMIN)
    query = "SELECT coalesce(bool_or(replay_lsn >= %s::pg_lsn), false) FROM pg_stat_replication WHERE application_name = %s"
    wait_until(lambda: publisher.one(query, [position, subscriber.name], role=ADMIN), "the subscriber has caught up")


def app_users(subscriber):
    return subscriber.sql("SELECT email FROM onagui.app_users ORDER BY email", role=ADMIN)


def wait_for(subscriber, emails):
    wait_until(lambda: app_users(subscriber) == [(email,) for email in emails], f"the app users are {emails}")
