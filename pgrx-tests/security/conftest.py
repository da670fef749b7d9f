"""Roles that belong to a test alone, and spies: code that says in the server's log as whom it ran."""

import re
import uuid

import pytest



@pytest.fixture
def plain(db):
    """Makes plain login roles; they go with the test's database."""
    made = []

    def make(name="plain"):
        role = f"{name}_{uuid.uuid4().hex[:8]}"
        db.sql(f"CREATE ROLE {role} LOGIN", role="supabase_admin")
        made.append(role)
        return role

    yield make
    for connection in db._opened:
        connection.close()
    for role in made:
        with db.server.connect(db.name) as admin:
            admin.execute(f"DROP OWNED BY {role} CASCADE")
        with db.server.connect() as admin:
            admin.execute(f"DROP OWNED BY {role} CASCADE")
            admin.execute(f"DROP ROLE {role}")


class Spies:
    """Functions of a role that tell the server's log who they are, and try to become somebody else."""

    ATTEMPTS = (
        "SET ROLE supabase_admin",
        "SET SESSION AUTHORIZATION supabase_admin",
        "RESET ROLE",
        "RESET SESSION AUTHORIZATION",
        "SELECT set_config(''role'', ''supabase_admin'', false)",
        "DELETE FROM onagui.sync_audit_log",
        "SELECT 1 FROM onagui.sync_known_id",
        "ALTER ROLE {role} SUPERUSER",
        "SELECT 1 FROM pg_authid",
    )

    def __init__(self, db, role):
        self.db, self.role = db, role
        self.mark = f"spy-{uuid.uuid4().hex[:8]}"
        db.sql(f"CREATE SCHEMA {role} AUTHORIZATION {role}; GRANT USAGE ON SCHEMA {role} TO PUBLIC", role="supabase_admin")
        attempts = ", ".join(f"'{attempt.format(role=role)}'" for attempt in self.ATTEMPTS)
        self.body = f"""
            DECLARE
                attempt text;
            BEGIN
                RAISE LOG '{self.mark} % as %', spot, current_user;
                FOREACH attempt IN ARRAY ARRAY[{attempts}] LOOP
                    BEGIN
                        EXECUTE attempt;
                        RAISE LOG '{self.mark} % gained % as %', spot, attempt, current_user;
                    EXCEPTION WHEN OTHERS THEN
                    END;
                END LOOP;
            END"""
        self.run(f"CREATE FUNCTION {role}.spy(spot text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$ {self.body.removesuffix('END')} RETURN ''; END $f$")
        self.run(
            f"""CREATE FUNCTION {role}.spy_row() RETURNS trigger LANGUAGE plpgsql AS $f$
                BEGIN
                    PERFORM {role}.spy(TG_NAME || ' ' || TG_OP);
                    PERFORM set_config('search_path', '{role}', false), set_config('request.jwt.claims', '{{"sub": "x"}}', false),
                            set_config('statement_timeout', '7s', false), set_config('onagui.mine', '{role}', false);
                    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
                    RETURN NEW;
                END $f$"""
        )

    def run(self, query, params=None):
        return self.db.sql(query, params, role=self.role)

    def on(self, table, column, deferred=True):
        """Everywhere on a table of the role's where code can stand; `column` is a text column of it."""
        r, t = self.role, table
        name = table.replace(".", "_")
        self.run(
            f"""
            CREATE INDEX ON {t} (({r}.spy('{name} index') || {column}));
            CREATE INDEX ON {t} (id) WHERE {r}.spy('{name} predicate') = '';
            CREATE STATISTICS {r}.{name}_statistics ON ({r}.spy('{name} statistics') || {column}), id FROM {t};
            ALTER TABLE {t} ADD spy_default text DEFAULT {r}.spy('{name} default'),
                            ADD spy_generated text GENERATED ALWAYS AS ({r}.spy('{name} generated') || {column}) STORED,
                            ADD CHECK ({r}.spy('{name} check') || {column} IS DISTINCT FROM 'x');
            CREATE DOMAIN {r}.{name}_domain AS text CHECK ({r}.spy('{name} domain') = '');
            ALTER TABLE {t} ADD spy_domain {r}.{name}_domain DEFAULT 'x';
            CREATE TRIGGER {name}_before BEFORE INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION {r}.spy_row();
            CREATE TRIGGER {name}_after AFTER INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION {r}.spy_row();
            CREATE TRIGGER {name}_statement AFTER INSERT OR UPDATE OR DELETE ON {t} FOR EACH STATEMENT EXECUTE FUNCTION {r}.spy_row();
            ALTER TABLE {t} ENABLE ROW LEVEL SECURITY;
            ALTER TABLE {t} FORCE ROW LEVEL SECURITY;
            CREATE POLICY spy ON {t} USING ({r}.spy('{name} policy') = '') WITH CHECK ({r}.spy('{name} policy') = '');
            """
        )
        if deferred:
            self.run(f"CREATE CONSTRAINT TRIGGER {name}_deferred AFTER INSERT OR UPDATE OR DELETE ON {t} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {r}.spy_row()")
        # From here on only what others make the code do is of interest.
        self.forget()

    def forget(self):
        self.start = len(self._log())

    def _log(self):
        return (self.db.server.folder / "server.log").read_text(errors="replace")

    def seen(self):
        """Who ran the spies: a set of (spot, role); and what they gained."""
        new = self._log()[self.start :]
        told = [re.sub(r".*?LOG:  ", "", line) for line in new.splitlines() if f"LOG:  {self.mark} " in line]
        gained = [line for line in told if " gained " in line]
        ran = {tuple(line.removeprefix(self.mark).strip().rsplit(" as ", 1)) for line in told if " gained " not in line}
        return ran, gained


@pytest.fixture
def spies(db):
    return lambda role: Spies(db, role)
