"""Random databases around app_users: tables, keys of every kind, rows. Everything follows from the seed."""

import random
import re
import uuid

OWNERS = ["postgres", "shop_owner", "billing_owner"]
SCHEMAS = ["public", "Shop", "billing"]
NAMES = ["orders", "Orders", "my table", 'we"ird', "roles", "user", "notes", "a_very_long_name_of_a_table_that_goes_on_to_the_limit_of_63byte"]
USER_COLUMNS = ["user_id", "Owner", "created by", "uid", "order"]
ACTIONS = ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]
RESERVED = {"user", "order"}
#: Types whose text form depends on settings, with values that show it.
FANCY = {
    "float8": ["0.1", "1e-300", "3.14159265358979"],
    "timestamptz": ["2024-02-29 12:34:56.789+02", "infinity"],
    "interval": ["1 year 2 mons -3 days 04:05:06.7", "-00:00:01"],
    "bytea": [r"\xdeadbeef00", r"\x"],
    "jsonb": ['{"a": [1, null, "ü\\n"]}', "null"],
    "numeric(12,4)": ["1.5000", "NaN"],
    "text[]": ['{a,NULL,"b\\"c,d"}', "{}"],
    "date": ["2024-03-04", "0044-03-15 BC"],
}


def quote(name):
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


def columns_sql(names):
    return ", ".join(map(quote, names))


def literal(value):
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


class Column:
    def __init__(self, name, kind, notnull=False, generated_from=None, text_of=False):
        self.name, self.kind, self.notnull = name, kind, notnull
        self.generated_from, self.text_of = generated_from, text_of

    def sql(self):
        if self.generated_from:
            of = quote(self.generated_from) + ("::text" if self.text_of else "")
            return f"{quote(self.name)} {self.kind} GENERATED ALWAYS AS ({of}) STORED"
        return f"{quote(self.name)} {self.kind}{' NOT NULL' if self.notnull else ''}"


class Unique:
    """A primary key, unique constraint, unique index or exclusion constraint; knows which rows collide."""

    def __init__(self, name, columns, sql, *, referable=False, nulls_collide=False, where=None, where_uses=(), fold=(), overlaps=None):
        self.name, self.columns, self.sql, self.uses = name, columns, sql, {*columns, *where_uses}
        self.referable, self.nulls_collide, self.where, self.fold, self.overlaps = referable, nulls_collide, where, set(fold), overlaps

    def collide(self, one, other):
        if self.where and not (self.where(one) and self.where(other)):
            return False
        for column in self.columns:
            a, b = one[column], other[column]
            if a is None or b is None:
                if not (self.nulls_collide and a is None and b is None):
                    return False
                continue
            if column == self.overlaps:
                (a1, a2), (b1, b2) = ([int(x) for x in re.findall(r"\d+", r)] for r in (a, b))
                if not (a1 < b2 and b1 < a2):
                    return False
            elif (a.lower() != b.lower()) if column in self.fold else (a != b):
                return False
        return True


class ForeignKey:
    def __init__(self, name, child, columns, parent, keys, options, validated):
        self.name, self.child, self.columns, self.parent, self.keys = name, child, columns, parent, keys
        self.options, self.validated = options, validated
        self.acts = bool(re.search("CASCADE|RESTRICT|SET", options))

        #: The number of the only partition that has the key.
        self.only = None

    def binds(self, row):
        return self.only is None or self.child.partition_of(row) == self.only

    def applies(self, row):
        # By columns that decide in which partition a row lies, it refers in all of them.
        return self.child.partition_by in self.columns or self.binds(row)

    def sql(self):
        # Partitioned tables cannot have such keys.
        valid = "" if self.validated else " NOT VALID"
        at = self.child.name if self.only is None else self.child.part_name(self.only)
        return (
            f"ALTER TABLE {at} ADD CONSTRAINT {quote(self.name)} FOREIGN KEY ({columns_sql(self.columns)}) "
            f"REFERENCES {self.parent.name} ({columns_sql(self.keys)}) {self.options}{valid};"
        )


class Check:
    """That a column's text is not below a bound; NOT VALID, where rows break it."""

    def __init__(self, name, table, column, bound, part):
        self.name, self.table, self.column, self.bound, self.part = name, table, column, bound, part

    def breaks(self, row):
        return (self.part is None or self.table.partition_of(row) == self.part) and row[self.column] is not None and row[self.column] < self.bound

    def sql(self):
        at = self.table.name if self.part is None else self.table.part_name(self.part)
        valid = " NOT VALID" if any(map(self.breaks, self.table.rows)) else ""
        return f"ALTER TABLE {at} ADD CONSTRAINT {quote(self.name)} CHECK ({quote(self.column)}::text COLLATE \"C\" >= {literal(self.bound)}){valid};"


class Table:
    def __init__(self, schema, name):
        self.name = f"{quote(schema)}.{quote(name)}"
        self.columns, self.uniques, self.rows, self.pk = [], [], [], None
        self.owner, self.partition_by, self.parent, self.forced = "postgres", None, None, False
        self.soft = []
        #: How the table is partitioned, and (bounds, which values) of each partition; by hash nobody knows which.
        self.method, self.parts = "HASH", []
        self.number, self.touched = 0, False
        self.checks = []

    def part_name(self, i):
        return f"{self.name.partition('.')[0]}.{quote(f'part {self.number} {i}')}"

    def partition_of(self, row):
        """None where no partition takes it."""
        return next((i for i, (_, holds) in enumerate(self.parts) if holds(row[self.partition_by])), None)

    def refuses(self, row):
        """Whether the server would not take the row, for a CHECK or for want of a partition."""
        return any(check.breaks(row) for check in self.checks) or bool(self.parts) and self.partition_of(row) is None

    def column(self, name):
        return next((c for c in self.columns if c.name == name), None)

    def fits(self, row, rows=None):
        return not any(u.collide(row, r) for u in self.uniques for r in (self.rows if rows is None else rows) if r is not row)

    def fill(self, row):
        """Computes the generated columns."""
        for c in self.columns:
            if c.generated_from:
                row[c.name] = row.get(c.generated_from)
            row.setdefault(c.name, None)
        return row

    def referable(self):
        return [u.columns for u in self.uniques if u.referable]


class World:
    def __init__(self, seed, has_gist):
        self.seed = seed
        self.random = random.Random(seed)
        self.extra = random.Random(f"extra {seed}")
        self.has_gist = has_gist
        self.tables, self.keys = [], []
        self.serial = 0
        self.taken = set()
        r = self.random
        self.users = self._users_table()
        for _ in range(r.choice([1, 1, 2, 3, 3, 4, 5, 6, 8, 12])):
            self._table()
        self._cycles()
        self._rows()
        self._checks(random.Random(f"checks {seed}"))

    def chance(self, p):
        return self.random.random() < p

    def id(self):
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def label(self, prefix):
        self.serial += 1
        return f"{prefix}{self.serial}"

    # ---- app_users

    def _users_table(self):
        t = Table("onagui", "app_users")
        t.columns = [Column("id", "uuid", True), Column("email", "text"), Column("username", self.random.choice(["text", "varchar(40)"]))]
        if self.chance(0.3):
            t.columns.insert(0, Column("tenant", "int", self.chance(0.5)))
        if self.chance(0.3):
            t.columns.append(Column("note", "text"))
        if self.chance(0.25):
            self._fancy(t)
        if self.chance(0.15):
            t.partition_by = "id"
            self._split(t)
        if self.chance(0.15):
            t.columns.append(Column("id text", "text", generated_from="id", text_of=True))
            if self.chance(0.5):
                self._unique(t, ["id text"], "constraint")
        self._unique(t, ["id"], self.random.choice(["pk", "pk", "constraint"]) if t.partition_by else self.random.choice(["pk", "pk", "constraint", "index"]))
        if not t.partition_by or True:
            if self.chance(0.5):
                self._unique(t, ["username"], self.random.choice(["constraint", "index", "deferrable"]))
            if t.column("tenant") and self.chance(0.7):
                self._unique(t, ["id", "tenant"], self.random.choice(["constraint", "index"]))
            if t.column("tenant") and self.chance(0.3):
                self._unique(t, ["tenant", "username"], "constraint")
        self.tables.append(t)
        if self.chance(0.35):
            t.columns.append(Column("referred by", "uuid"))
            self._key(t, ["referred by"], t, ["id"])
        t.forced = self.chance(0.2)
        t.rows = []
        t.touched = self.extra.random() < 0.2
        return t

    # ---- other tables

    def _table(self):
        r = self.random
        while True:
            schema, name = r.choice(SCHEMAS), r.choice(NAMES)
            if (schema, name) not in self.taken:
                break
        self.taken.add((schema, name))
        t = Table(schema, name)
        t.number, t.touched = len(self.tables), self.extra.random() < 0.25
        t.owner, t.forced = r.choice(OWNERS), self.chance(0.25)
        t.anonymous = self.chance(0.1)
        if not t.anonymous:
            t.columns.append(Column("tag", "int", True))
        t.columns.append(Column("n", "int", self.chance(0.5)))
        t.columns.append(Column("txt", "text"))
        if self.has_gist:
            t.columns.append(Column("span", "int4range"))
        if self.chance(0.3):
            self._fancy(t)
        for name in r.sample(USER_COLUMNS, r.choice([0, 1, 1, 1, 2])):
            self._user_column(t, name)
        for _ in range(r.choice([0, 0, 1, 1, 2])):
            self._parent_key(t)
        if self.chance(0.2):
            kind = r.choice(["uuid", "text", "varchar"])
            t.columns.append(Column("soft", kind))
            t.soft.append(("soft", kind != "uuid"))
        ids = [c.name for c in t.columns if c.name in USER_COLUMNS or c.name.startswith("p")] + [s for s, _ in t.soft]
        if ids and self.chance(0.15):
            of = t.column(r.choice(ids))
            t.columns.append(Column("gen", "text" if self.chance(0.5) else of.kind, generated_from=of.name))
            t.columns[-1].text_of = t.columns[-1].kind == "text"
            if of.kind == "uuid" and t.columns[-1].kind == "uuid" and any(k.child is t and k.columns == [of.name] and k.parent is self.users and k.validated for k in self.keys) and self.chance(0.5):
                self.keys.append(ForeignKey(self.label("fk gen"), t, ["gen"], self.users, ["id"], r.choice(["", "ON DELETE CASCADE"]), True))
            ids.append("gen")
        if self.chance(0.12) and not t.anonymous:
            t.partition_by = r.choice([i for i in ids if i != "gen"] + ["tag"])
            self._split(t)
            for key in self.keys:
                key.validated |= key.child is t
                if key.child is t and t.parts and not t.column("gen") and self.extra.random() < 0.6:
                    key.only = self.extra.randrange(len(t.parts))
                    key.validated &= t.partition_by not in key.columns
        self._uniques(t, ids)
        if t.parts and ids and self.extra.random() < 0.4:
            self._unique_in_part(t, [self.extra.choice(ids)] + self.extra.choice([[], ["n"]]))
        r.shuffle(t.columns)
        self.tables.append(t)
        if self.chance(0.2):
            c = t.column(r.choice(ids)) if ids else None
            if any(u == ["tag"] for u in t.referable()):
                t.columns.append(Column("parent tag", "int"))
                self._key(t, ["parent tag"], t, ["tag"])
            for key in t.referable():
                if c and len(key) > 1 and any(x in ids for x in key) and self.chance(0.5):
                    names = [f"self {k}" for k in key]
                    if not any(t.column(n) for n in names):
                        t.columns += [Column(n, t.column(k).kind) for n, k in zip(names, key)]
                        self._key(t, names, t, key)
        if self.chance(0.08) and not t.partition_by and not any(c.generated_from for c in t.columns):
            self._heir_table(t)

    def _split(self, t):
        """Partitions by list or by range, of which it is known what is where."""
        r, column = self.extra, t.column(t.partition_by)
        if r.random() < 0.35:
            return
        if t.column("n") and r.random() < 0.4:
            t.partition_by, column = "n", t.column("n")
        if column.name == "n" and r.random() < 0.6:
            t.method = "LIST"
            t.parts = [("FOR VALUES IN (0, 1)", lambda v: v in ("0", "1")), ("FOR VALUES IN (2, NULL)", lambda v: v in ("2", None))]
        else:
            bound = {"int": "2" if column.name == "n" else "60", "bigint": "60"}.get(column.kind, "8")
            if column.kind in ("uuid", "public.user_id"):
                bound = "80000000-0000-0000-0000-000000000000"
            number = column.kind in ("int", "bigint")
            t.method = "RANGE"
            below = lambda v: v is not None and (int(v) < int(bound) if number else v.lower() < bound)
            t.parts = [(f"FOR VALUES FROM (MINVALUE) TO ('{bound}')", below)]
            if r.random() < 0.5:
                t.parts.append((f"FOR VALUES FROM ('{bound}') TO (MAXVALUE)", lambda v: v is not None and not below(v)))
        t.parts.append(("DEFAULT", lambda v: True))

    def _unique_in_part(self, t, columns):
        i, name = self.extra.randrange(len(t.parts)), self.label("u ")
        sql = f"CREATE UNIQUE INDEX {quote(name)} ON {t.part_name(i)} ({columns_sql(columns)});"
        t.uniques.append(Unique(name, columns, sql, where=lambda row: t.partition_of(row) == i, where_uses=[t.partition_by]))

    def _heir_table(self, parent):
        """An inheritance child: has the columns, none of the keys."""
        t = Table("public", self.label("heir "))
        t.parent, t.owner, t.anonymous = parent, parent.owner, parent.anonymous
        t.columns = [Column(c.name, c.kind, c.notnull) for c in parent.columns]
        for key in [k for k in self.keys if k.child is parent]:
            if self.chance(0.7):
                self._key(t, key.columns, key.parent, key.keys)
        if not t.anonymous:
            self._unique(t, ["tag"], "constraint")
        self.tables.append(t)

    def _fancy(self, t):
        for kind in self.random.sample(sorted(FANCY), 2):
            t.columns.append(Column(f"f {kind[:4]}", kind))

    def _user_column(self, t, name):
        if t.column(name):
            return
        keys = self.users.referable()
        wide = [k for k in keys if len(k) > 1 and "id" in k]
        if wide and self.chance(0.4):
            key = self.random.choice(wide)
            names = [name if k == "id" else f"{name} {k}" for k in key]
        elif ["username"] in keys and self.chance(0.15):
            key, names = ["username"], [name]
        else:
            key, names = ["id"], [name]
        for n, k in zip(names, key):
            kind = self.users.column(k).kind
            if kind == "uuid" and self.chance(0.08):
                kind = "public.user_id"
            t.columns.append(Column(n, kind, self.chance(0.4)))
        if self.chance(0.93):
            self._key(t, names, self.users, key)
        else:
            t.soft += [(n, t.column(n).kind != "uuid") for n, k in zip(names, key) if k == "id" and t.column(n).kind == "uuid"]

    def _parent_key(self, t):
        """A key to another table, if possible to one that has the user's id in it."""
        choices = [(p, k) for p in self.tables[1:] for k in p.referable() if not p.parent]
        if not choices:
            return
        choices += [(p, k) for p, k in choices if any(x in USER_COLUMNS or x.startswith("p") for x in k)] * 3
        parent, key = self.random.choice(choices)
        names = []
        for k in key:
            kind = parent.column(k).kind
            shared = next((c.name for c in t.columns if c.kind == kind and c.name in USER_COLUMNS and c.name not in names), None)
            if shared and kind in ("uuid", "public.user_id") and self.chance(0.4):
                names.append(shared)
                continue
            name = self.label("p")
            t.columns.append(Column(name, "bigint" if kind == "int" and self.chance(0.3) else kind, self.chance(0.25)))
            names.append(name)
        self._key(t, names, parent, key)

    def _key(self, child, columns, parent, keys, validated=None):
        update, delete = self.random.choice(ACTIONS), self.random.choice(ACTIONS)
        if self.chance(0.3):
            update = "NO ACTION"
        options = f"ON UPDATE {update} ON DELETE {delete}"
        if self.chance(0.25):
            options += " DEFERRABLE INITIALLY " + self.random.choice(["DEFERRED", "IMMEDIATE"])
        if len(columns) > 1 and self.chance(0.1) and all(self.is_nullable(child, c) for c in columns):
            options = "MATCH FULL " + options
        if child.partition_by:
            validated = True
        if validated is None:
            validated = self.chance(0.88)
        self.keys.append(ForeignKey(self.label("fk "), child, columns, parent, keys, options, validated))

    @staticmethod
    def is_nullable(t, c):
        return not t.column(c).notnull

    def _unique(self, t, columns, kind):
        if t.partition_by and t.partition_by not in columns:
            columns = columns + [t.partition_by]
        if t.partition_by and kind == "expression":
            kind = "index"
        if any(t.column(c).generated_from for c in columns) and kind == "pk":
            kind = "constraint"
        name, cols = self.label("u "), columns_sql(columns)
        add = f"ALTER TABLE {t.name} ADD CONSTRAINT {quote(name)} "
        index = f"CREATE UNIQUE INDEX {quote(name)} ON {t.name} "
        plain = dict(referable=not any(t.column(c).generated_from and t.column(c).text_of for c in columns))
        if kind == "pk":
            for c in columns:
                t.column(c).notnull = True
            t.pk = columns
            u = Unique(name, columns, f"{add}PRIMARY KEY ({cols});", **plain)
        elif kind == "constraint":
            u = Unique(name, columns, f"{add}UNIQUE ({cols});", **plain)
        elif kind == "deferrable":
            when = self.random.choice(["DEFERRED", "IMMEDIATE"])
            u = Unique(name, columns, f"{add}UNIQUE ({cols}) DEFERRABLE INITIALLY {when};")
        elif kind == "index":
            u = Unique(name, columns, f"{index}({cols});", **plain)
        elif kind == "nulls" and self.extra.random() < 0.5:
            u = Unique(name, columns, f"{add}UNIQUE NULLS NOT DISTINCT ({cols});", nulls_collide=True, **plain)
        elif kind == "nulls":
            u = Unique(name, columns, f"{index}({cols}) NULLS NOT DISTINCT;", nulls_collide=True)
        elif kind == "partial" and "n" not in columns:
            u = Unique(name, columns, f"{index}({cols}) WHERE n > 1;", where=lambda row: row["n"] is not None and int(row["n"]) > 1, where_uses="n")
        elif kind == "expression":
            parts = ", ".join(f"lower({quote(c)})" if t.column(c).kind == "text" else quote(c) for c in columns)
            u = Unique(name, columns, f"{index}({parts});", fold=[c for c in columns if t.column(c).kind == "text"])
        elif kind == "exclude" and not t.partition_by:
            later = self.random.choice(["", " DEFERRABLE INITIALLY DEFERRED"])
            parts = ", ".join(f"{quote(c)} WITH =" for c in columns)
            some, where = "", None
            if "n" not in columns and self.extra.random() < 0.3:
                some, where = " WHERE (n > 0)", lambda row: row["n"] is not None and int(row["n"]) > 0
            u = Unique(name, columns, f"{add}EXCLUDE USING btree ({parts}){some}{later};", where=where, where_uses="n" if where else "")
        elif kind == "gist" and self.has_gist and not t.partition_by and all(t.column(c).kind in ("uuid", "int", "text", "bigint") for c in columns):
            parts = ", ".join(f"{quote(c)} WITH =" for c in columns)
            later = self.extra.choice(["", "", " DEFERRABLE INITIALLY DEFERRED", " DEFERRABLE"])
            u = Unique(name, columns + ["span"], f"{add}EXCLUDE USING gist ({parts}, span WITH &&){later};", overlaps="span")
        else:
            return
        t.uniques.append(u)

    def _uniques(self, t, ids):
        r = self.random
        real = [i for i in ids if not t.column(i).generated_from]
        shape = r.choice(["tag", "tag", "user", "composite", "composite", "three", "none"])
        if t.anonymous:
            shape = r.choice(["none", "none", "user", "composite"])
        if shape == "tag":
            self._unique(t, ["tag"], "pk")
        elif shape == "user" and real:
            self._unique(t, [r.choice(real)], "pk")
        elif shape == "composite" and real:
            self._unique(t, r.sample([r.choice(real), "n"], 2), "pk")
        elif shape == "three" and real:
            self._unique(t, r.sample([r.choice(real), "n", "txt"], 3), "pk")
        for _ in range(r.choice([0, 0, 1, 1, 2])):
            if not ids:
                break
            columns = [r.choice(ids)] + r.choice([[], ["n"], ["n"], ["txt"], ["n", "txt"]])
            r.shuffle(columns)
            self._unique(t, columns, r.choice(["constraint", "index", "deferrable", "nulls", "partial", "expression", "exclude", "gist"]))
        if t.pk is None and not t.anonymous and self.chance(0.5):
            self._unique(t, ["tag"], "constraint")

    def _cycles(self):
        """Keys from earlier tables to later ones, from app_users too."""
        for t in self.tables:
            if t.parent or not self.chance(0.15):
                continue
            choices = [(p, k) for p in self.tables[1:] for k in p.referable() if p is not t and not p.parent]
            if choices:
                parent, key = self.random.choice(choices)
                names = [self.label("c") for _ in key]
                t.columns += [Column(n, parent.column(k).kind) for n, k in zip(names, key)]
                for heir in self.tables:
                    if heir.parent is t:
                        heir.columns += [Column(n, parent.column(k).kind) for n, k in zip(names, key)]
                self._key(t, names, parent, key)

    # ---- rows

    def _rows(self):
        r = self.random
        self.from_id, self.to_id = self.id(), self.id()
        self.is_merge = self.chance(0.6)
        others = [self.id() for _ in range(r.choice([0, 1, 2, 3]))]
        self.email = f"u{self.seed}@example.com"
        self._user(self.from_id, self.email)
        if self.is_merge:
            self._user(self.to_id, r.choice([self.email, f" {self.email.upper()} "]))
        for i, other in enumerate(others):
            self._user(other, f"other{i}.{self.seed}@example.com")
        for t in self.tables[1:]:
            for _ in range(r.choice([0, 1, 3, 6, 6, 10, 16])):
                self._row(t)
        for t in self.tables:
            for row in t.rows:
                for key in self.keys:
                    if key.child is t and all(row[c] is None for c in key.columns) and self.chance(0.6):
                        self._try(t, row, key)

    def _user(self, id, email):
        t = self.users
        for _ in range(20):
            row = t.fill({"id": id, "email": email})
            self._plain(t, row, {"username", "tenant", "note"})
            if t.fits(row):
                t.rows.append(row)
                return
        raise AssertionError(f"seed {self.seed}: no room for a user")

    def _plain(self, t, row, only=None):
        r = self.random
        for c in t.columns:
            if c.kind in FANCY:
                row[c.name] = None if self.chance(0.3) else r.choice(FANCY[c.kind])
            elif c.name == "span":
                low = r.randrange(0, 12)
                row["span"] = None if self.chance(0.2) else f"[{low},{low + r.randrange(1, 4)})"
            elif c.name in (only or {"n", "txt"}):
                if c.notnull or self.chance(0.7):
                    row[c.name] = str(r.randrange(0, 4)) if c.kind == "int" else r.choice(["a", "b", "A", "ü", "c d"]) + (str(r.randrange(0, 30)) if c.name == "username" else "")

    def _row(self, t):
        r = self.random
        self.serial += 1
        row = {"tag": str(self.serial)} if not t.anonymous else {}
        self._plain(t, row)
        for c in t.columns:
            row.setdefault(c.name, None)
        for key in [k for k in self.keys if k.child is t]:
            if key.parent is not t:
                self._refer(t, row, key)
        for name, is_text in t.soft:
            value = r.choice([None, self.from_id, self.from_id, self.to_id, self.id()])
            if value and is_text:
                value = r.choice([value, value, value.upper(), value + "x"])
            row[name] = value
        for c in t.columns:
            if c.notnull and row[c.name] is None and not c.generated_from:
                if c.kind in ("int", "bigint"):
                    row[c.name] = str(r.randrange(0, 4))
                elif c.name == "txt":
                    row[c.name] = r.choice(["a", "b", "A"])
                else:
                    return
        t.fill(row)
        if self._valid(t, row) and t.fits(row):
            t.rows.append(row)

    def _refer(self, t, row, key):
        if not key.validated and self.chance(0.2):
            for c, k in zip(key.columns, key.keys):
                if row[c] is None:
                    row[c] = self.to_id if self.chance(0.5) and key.parent.column(k).kind in ("uuid", "public.user_id") and not self.is_merge else self._stray(key.parent.column(k).kind)
            return
        if all(t.column(c).generated_from for c in key.columns):
            return
        wanted = [p for p in key.parent.rows if all(row[c] in (None, p[k]) for c, k in zip(key.columns, key.keys))]
        must = any(t.column(c).notnull for c in key.columns)
        if wanted and (must or self.chance(0.8)):
            mine = [p for p in wanted if self.from_id in p.values() or self.to_id in p.values()]
            parent = self.random.choice(mine if mine and self.chance(0.7) else wanted)
            for c, k in zip(key.columns, key.keys):
                row[c] = parent[k]
            if self.chance(0.1) and "MATCH FULL" not in key.options and len(key.columns) > 1:
                column = self.random.choice(key.columns)
                if not t.column(column).notnull:
                    row[column] = None

    def _stray(self, kind):
        return {"int": "77", "bigint": "77", "uuid": self.id(), "public.user_id": self.id()}.get(kind, "stray")

    def _valid(self, t, row):
        for key in self.keys:
            if key.child is t and key.validated and key.applies(row):
                values = [row[c] for c in key.columns]
                if None in values:
                    if "MATCH FULL" in key.options and any(v is not None for v in values):
                        return False
                    continue
                if not any(values == [p[k] for k in key.keys] for p in key.parent.rows + ([row] if key.parent is t else [])):
                    return False
        return True

    def _try(self, t, row, key):
        """Fills a key that was left NULL: to itself, in a cycle."""
        if any(t.column(c).generated_from for c in key.columns) or not key.parent.rows:
            return
        new = dict(row)
        parent = self.random.choice(key.parent.rows)
        for c, k in zip(key.columns, key.keys):
            new[c] = parent[k]
        t.fill(new)
        # What refers to the row by these columns must go on doing so.
        is_key = any(c in k.keys for k in self.keys if k.parent is t for c in key.columns)
        gens = [c for c in t.columns if c.generated_from in key.columns]
        if not is_key and not gens and self._valid(t, new) and t.fits(new, [x for x in t.rows if x is not row]):
            row.update(new)

    # ---- what no row may be

    def _checks(self, r):
        for t in self.tables:
            if len(t.parts) > 1 and t.parts[-1][0] == "DEFAULT" and r.random() < 0.3:
                *parts, last = t.parts
                only_last = any(key.child is t and key.only == len(parts) for key in self.keys)
                if not any(t.partition_of(row) == len(parts) for row in t.rows) and not only_last and not any(t.part_name(len(parts)) in u.sql for u in t.uniques):
                    t.parts = parts
            kinds = ("uuid", "text", "varchar", "public.user_id")
            columns = [c.name for c in t.columns if c.kind in kinds and c.name != "txt"]
            has_heir = any(heir.parent is t for heir in self.tables)
            if columns and not has_heir and r.random() < 0.15:
                part = r.randrange(len(t.parts)) if t.parts and r.random() < 0.5 else None
                t.checks.append(Check(self.label("check "), t, r.choice(columns), r.choice("1248"), part))

    # ---- as SQL

    def script(self):
        r = random.Random(self.seed + 1)
        out = []
        for t in self.tables:
            parts = [c.sql() for c in t.columns] if not t.parent else []
            if r.random() < 0.2 and not t.parent:
                parts.insert(r.randrange(len(parts) + 1), "dropped int DEFAULT 1")
            if t.touched and not t.parent:
                parts.insert(r.randrange(len(parts) + 1), '"touched at" timestamptz DEFAULT clock_timestamp()')
            partition = f" PARTITION BY {t.method} ({quote(t.partition_by)})" if t.partition_by else ""
            inherits = f" INHERITS ({t.parent.name})" if t.parent else ""
            out.append(f"CREATE TABLE {t.name} ({', '.join(parts)}){inherits}{partition};")
            if "dropped int DEFAULT 1" in parts:
                out.append(f"ALTER TABLE {t.name} DROP COLUMN dropped;")
            if t.partition_by:
                out += self._partitions(t, r)
            if t.touched and not t.parent:
                out.append(f"CREATE TRIGGER touch BEFORE UPDATE ON {t.name} FOR EACH ROW EXECUTE FUNCTION public.touch();")
            out += [u.sql for u in t.uniques]
            names = [c.name for c in t.columns if not c.generated_from]
            for row in t.rows:
                out.append(f"INSERT INTO {t.name} ({columns_sql(names)}) VALUES ({', '.join(literal(row[n]) for n in names)});")
        out += [k.sql() for k in self.keys]
        out += [check.sql() for t in self.tables for check in t.checks]
        for t in self.tables:
            if t.owner != "supabase_admin":
                out.append(f"ALTER TABLE {t.name} OWNER TO {t.owner};")
            if t.forced:
                out.append(f"ALTER TABLE {t.name} ENABLE ROW LEVEL SECURITY; ALTER TABLE {t.name} FORCE ROW LEVEL SECURITY;")
            out += [f"SELECT onagui.register_reference({literal(t.name)}, {literal(c)});" for c, _ in t.soft]
        out.append(
            "INSERT INTO auth.users (id, email, email_confirmed_at, is_sso_user) VALUES "
            + ", ".join(f"({literal(i)}, {literal(e)}, now(), false)" for i, e in self.auth_users())
            + ";"
        )
        return "\n".join(out)

    def _partitions(self, t, r):
        count = len(t.parts) or r.choice([1, 2, 3])
        for i in range(count):
            name = t.part_name(i)
            values = t.parts[i][0] if t.parts else f"FOR VALUES WITH (MODULUS {count}, REMAINDER {i})"
            if r.random() < 0.5 or any(c.generated_from for c in t.columns):
                yield f"CREATE TABLE {name} PARTITION OF {t.name} {values}; ALTER TABLE {name} OWNER TO {r.choice([t.owner, OWNERS[1]])};"
            else:
                columns = [c.sql() for c in t.columns] + (['"touched at" timestamptz'] if t.touched else [])
                r.shuffle(columns)
                yield (
                    f"CREATE TABLE {name} (gone int, {', '.join(columns)}); ALTER TABLE {name} DROP COLUMN gone; "
                    f"ALTER TABLE {t.name} ATTACH PARTITION {name} {values};"
                )

    def auth_users(self):
        yield self.to_id, self.email
        for row in self.users.rows:
            if row["id"] not in (self.from_id, self.to_id):
                yield row["id"], row["email"]

    def clear(self):
        return (
            "SET client_min_messages = error; "
            + "".join(f"DROP TABLE IF EXISTS {t.name} CASCADE; " for t in self.tables)
            + "DELETE FROM auth.users; DELETE FROM onagui.sync_reference;"
        )
