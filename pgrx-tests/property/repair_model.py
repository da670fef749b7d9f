"""What a re-key and a merge ought to do, told in plain Python over rows of text: nothing of the extension's own code."""

from collections import Counter

from random_schema import quote


def snapshot(world, connection):
    """Every row of every table as text: {table: Counter(tuples)}."""
    parts = []
    for i, t in enumerate(world.tables):
        values = ", ".join(f"{quote(c.name)}::text" for c in t.columns)
        parts.append(f"SELECT {i}, ARRAY[{values}]::text[] FROM {'' if t.partition_by else 'ONLY '}{t.name}")
    found = {t: Counter() for t in world.tables}
    for place, values in connection.execute(" UNION ALL ".join(parts)).fetchall():
        found[world.tables[place]][tuple(values)] += 1
    return found


def rows_of(world, state):
    return {t: [dict(zip((c.name for c in t.columns), v)) for v in sorted(state[t].elements(), key=repr)] for t in world.tables}


def as_state(world, rows):
    return {t: Counter(tuple(row[c.name] for c in t.columns) for row in rows[t]) for t in world.tables}


def refers(key, child, parent):
    values = [child[c] for c in key.columns]
    return None not in values and values == [parent[k] for k in key.keys]


def orphans(world, rows):
    """Rows per key that refer to nobody."""
    return {
        key.name: sum(
            None not in [row[c] for c in key.columns] and not any(refers(key, row, p) for p in rows[key.parent]) for row in rows[key.child]
        )
        for key in world.keys
    }


class Refused(Exception):
    pass


class Cascade:
    """Changes some rows; what refers to a changed key follows, as ON UPDATE CASCADE everywhere would have it."""

    def __init__(self, world, state):
        self.world = world
        self.before = rows_of(world, state)
        self.after = {t: [dict(row) for row in rows] for t, rows in self.before.items()}
        self.gone = set()
        self.changed = {}

    def change(self, table, place, values):
        old, new = self.before[table][place], self.after[table][place]
        told = {}
        for column, value in values.items():
            if new[column] != value and not table.column(column).generated_from:
                told[column] = value
        for c in table.columns:
            if c.generated_from in told and new[c.name] != told[c.generated_from]:
                told[c.name] = told[c.generated_from]
        if not told:
            return
        new.update(told)
        self.changed.setdefault((table, place), set()).update(told)
        for key in self.world.keys:
            if key.parent is table and any(k in told for k in key.keys):
                self.follow(key, old, new)

    def follow(self, key, old, heir):
        for place, row in enumerate(self.before[key.child]):
            if not refers(key, row, old):
                continue
            wanted = [heir[k] for k in key.keys]
            if None in wanted:
                raise Refused("no key to refer to")
            self.change(key.child, place, dict(zip(key.columns, wanted)))

    def leaves_orphans(self):
        """Whether a row that changes in the columns of a key refers to nobody by it afterwards: the server refuses that."""
        return any(
            key.child is t
            and (columns & set(key.columns) or "MATCH FULL" in key.options and None in [self.after[t][place][c] for c in key.columns])
            and (t, place) not in self.gone
            and self.dangles(key, self.after[t][place])
            for (t, place), columns in self.changed.items()
            for key in self.world.keys
        )

    def dangles(self, key, row):
        values = [row[c] for c in key.columns]
        if None in values:
            return "MATCH FULL" in key.options and any(v is not None for v in values)
        return not any(refers(key, row, p) for i, p in enumerate(self.after[key.parent]) if (key.parent, i) not in self.gone)

    def changes_hands(self):
        """Keys of the leaving user that the staying one takes over, and by which rows refer that a foreign key would act upon."""
        users = self.world.users
        gone = [self.before[users][p] for t, p in self.gone if t is users]
        staying = [self.after[users][p] for p in self.users if (users, p) not in self.gone]
        return [
            key
            for key in self.world.keys
            if key.parent is users and key.acts
            for old in gone
            for new in staying
            if [old[k] for k in key.keys] == [new[k] for k in key.keys] and any(refers(key, row, old) for row in self.before[key.child])
        ]

    def soft(self, old_id, new_id):
        for t in self.world.tables:
            for column, is_text in t.soft:
                for place, row in enumerate(self.before[t]):
                    if row[column] == old_id:
                        self.change(t, place, {column: new_id})
                    elif is_text and row[column] == old_id.upper():
                        self.change(t, place, {column: new_id.upper()})

    def user(self, id):
        return next(i for i, row in enumerate(self.before[self.world.users]) if row["id"] == id)

    def rekey(self, old_id, new_id):
        self.users = {self.user(old_id)}
        self.change(self.world.users, self.user(old_id), {"id": new_id})
        self.soft(old_id, new_id)
        return self

    def merge(self, from_id, to_id):
        users = self.world.users
        leaving, staying = self.user(from_id), self.user(to_id)
        self.users = {leaving, staying}
        self.gone.add((users, leaving))
        theirs, ours = self.before[users][leaving], self.before[users][staying]
        # Columns that refer together are taken over together.
        groups = [key.columns for key in self.world.keys if key.child is users]
        taken = [c for c in ours if ours[c] is None and theirs[c] is not None and all(ours[x] is None for g in groups if c in g for x in g)]
        self.change(users, staying, {c: theirs[c] for c in taken})
        for key in self.world.keys:
            if key.parent is users:
                self.follow(key, theirs, self.after[users][staying])
        # What they refer to may have moved.
        self.change(users, staying, {c: self.after[users][leaving][c] for c in taken})
        self.soft(from_id, to_id)
        return self

    def collisions(self):
        """{(table, constraint): rows that came over and collide}."""
        found = {}
        for t in self.world.tables:
            moved = {p for table, p in self.changed if table is t}
            for u in t.uniques:
                for place in moved:
                    if (t, place) in self.gone:
                        continue
                    others = [p for p in range(len(self.after[t])) if p != place and (t, p) not in self.gone]
                    if any(u.collide(self.after[t][place], self.after[t][p]) for p in others):
                        found[label(t), u.name] = found.get((label(t), u.name), 0) + 1
        return found

    def references(self):
        """{table: (columns, rows)} of what refers to the user, the user's own row not counted."""
        found = {}
        for (t, place), columns in self.changed.items():
            if (t is self.world.users and place in self.users) or (t, place) in self.gone:
                continue
            columns = {c for c in columns if not t.column(c).generated_from}
            known, rows = found.get(label(t), (set(), 0))
            found[label(t)] = (known | columns, rows + 1)
        return found

    def state(self):
        return as_state(self.world, {t: [r for p, r in enumerate(rows) if (t, p) not in self.gone] for t, rows in self.after.items()})


def label(table):
    return table.name


def by_tag(table, rows):
    return {row["tag"]: row for row in rows}


def check_merge_with_losers(world, naive, before, after, removed, policy):
    """A merge in which rows gave way, judged by what must be so whatever the order in which they did."""
    rows, now = rows_of(world, before), rows_of(world, after)
    gone = {}
    for t in world.tables:
        images = removed.get(label(t), [])
        left = Counter(tuple(image[c.name] for c in t.columns) for image in images)
        if t is world.users:
            assert {image["id"] for image in images} == {world.from_id}
        else:
            assert not left - before[t], f"{t.name}: rows in the audit log that never were there"
        assert sum(after[t].values()) == sum(before[t].values()) - len(images), f"{t.name}: rows were lost that the audit log does not have"
        gone[t] = left
    tagged = {t: by_tag(t, now[t]) for t in world.tables if t.column("tag")}
    moving = {t: {c for k in world.keys if k.child is t for c in k.columns} | {s for s, _ in t.soft} for t in world.tables}
    heirs = {}
    user_rows = {row["id"]: row for row in now[world.users]}

    def same_row(t, row):
        """The row as it is now, None if it gave way."""
        if t is world.users:
            return user_rows.get(row["id"])
        return tagged[t].get(row["tag"])

    for t in tagged:
        for row in rows[t]:
            new = tagged[t].get(row["tag"])
            if new is None:
                continue
            for c in t.columns:
                if c.name not in moving[t] and c.generated_from not in moving[t]:
                    assert new[c.name] == row[c.name], f"{t.name} {row}: {c.name} changed"
            for key in world.keys:
                if key.child is not t or (key.parent is not world.users and key.parent not in tagged):
                    continue
                for parent in rows[key.parent]:
                    if not refers(key, row, parent):
                        continue
                    kept = same_row(key.parent, parent)
                    if kept is not None:
                        assert refers(key, new, kept), f"{t.name} {row} -> {new}: {key.name} no longer refers to {kept}"
                    else:
                        heir = [p for p in now[key.parent] if refers(key, new, p)]
                        assert heir, f"{t.name} {row}: {key.name} is an orphan"
                        heirs.setdefault((key.parent, repr(parent)), set()).add(repr(heir[0]))
    for (t, row), found in heirs.items():
        assert len(found) == 1, f"{t.name} {row}: its children came to different rows: {found}"
    losers = sum(sum(g.values()) for t, g in gone.items() if t is not world.users)
    # Without any collision there is nothing to give way; with one, something must.
    assert losers > 0
    if policy == "keep_auth":
        # Only what came over may give way.
        for t in tagged:
            moved = {repr(rows[t][place]) for table, place in naive.changed if table is t}
            via = {repr(row) for row in rows[t] if reached(world, naive, t, row)}
            for image in removed.get(label(t), []):
                row = {c.name: image[c.name] for c in t.columns}
                assert repr(row) in moved | via, f"{t.name} {row} gave way and never came over"


def reached(world, naive, t, row):
    """Whether it refers, however deep, to a row that moved: it may come over with a row that gave way."""
    seen, todo = set(), [(t, row)]
    while todo:
        table, one = todo.pop()
        if (table, repr(one)) in seen:
            continue
        seen.add((table, repr(one)))
        for key in world.keys:
            if key.child is table:
                for place, parent in enumerate(naive.before[key.parent]):
                    if refers(key, one, parent):
                        if (key.parent, place) in naive.changed or (key.parent, place) in naive.gone:
                            return True
                        todo.append((key.parent, parent))
    return False
