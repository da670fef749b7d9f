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


def rows_of(world, connection):
    """The same as dicts, each table's rows in the order in which they lie there."""
    rows = {}
    for t in world.tables:
        values = ", ".join(f"{quote(c.name)}::text" for c in t.columns)
        query = f"SELECT ARRAY[{values}]::text[] FROM {'' if t.partition_by else 'ONLY '}{t.name} ORDER BY tableoid::bigint, ctid"
        rows[t] = [dict(zip((c.name for c in t.columns), v)) for (v,) in connection.execute(query).fetchall()]
    return rows


def as_state(world, rows):
    return {t: Counter(tuple(row[c.name] for c in t.columns) for row in rows[t]) for t in world.tables}


def holds(key, child, parent):
    values = [child[c] for c in key.columns]
    return None not in values and values == [parent[k] for k in key.keys]


def refers(key, child, parent):
    return key.applies(child) and holds(key, child, parent)


def orphans(world, rows, bound_only=False):
    """Rows per key that refer to nobody; with `bound_only`, of those that lie where the key stands: no other is checked."""
    return {
        key.name: sum(
            (key.binds(row) if bound_only else key.applies(row)) and None not in [row[c] for c in key.columns] and not any(refers(key, row, p) for p in rows[key.parent]) for row in rows[key.child]
        )
        for key in world.keys
    }


class Refused(Exception):
    pass


#: More rounds than any chain of keys is long.
ROUNDS = 100


class Cascade:
    """Changes some rows; what refers to a changed key follows, as ON UPDATE CASCADE everywhere would have it.

    A row is (table, place). `gone` has the rows that give way, each with the one that stays and the side it was on.
    """

    def __init__(self, world, rows):
        self.world = world
        self.before = rows
        self.after = {t: [dict(row) for row in rows] for t, rows in self.before.items()}
        self.gone = {}
        self.soft_rows = set()
        self.disturbed = set()
        self.taken = []

    def old(self, row):
        return self.before[row[0]][row[1]]

    def new(self, row):
        return self.after[row[0]][row[1]]

    def all(self):
        return [(t, place) for t in self.world.tables for place in range(len(self.before[t]))]

    def moved(self):
        return [row for row in self.all() if self.new(row) != self.old(row) and row not in self.gone]

    def heir(self, row):
        while row in self.gone:
            row = self.gone[row][0]
        return row

    def change(self, row, values):
        new = self.new(row)
        had = dict(new)
        new.update({c: v for c, v in values.items() if not row[0].column(c).generated_from})
        row[0].fill(new)
        return new != had

    def parents(self, row, arriving=False):
        """(key, row it refers to) as things were; also by keys of the partition where it comes to lie."""
        for key in self.world.keys:
            if key.child is row[0] and (key.applies(self.old(row)) or arriving and key.applies(self.new(row))):
                for place, parent in enumerate(self.before[key.parent]):
                    if holds(key, self.old(row), parent):
                        yield key, (key.parent, place)

    def is_disturbed(self, key, parent):
        return parent in self.gone or any(self.new(parent)[k] != self.old(parent)[k] for k in key.keys)

    def follow(self):
        """Brings along what refers to rows that have changed or given way. A row that two keys pull to and fro may yet give
        way itself: see is_torn()."""
        for _ in range(ROUNDS):
            changed = False
            ties = [(row, key, parent) for row in self.all() for key, parent in self.parents(row, arriving=True)]
            for row, key, parent in ties:
                if self.is_disturbed(key, parent):
                    self.disturbed.add((key, parent))
                if (key, parent) not in self.disturbed or row in self.gone and not (row in self.users and set(key.columns) <= set(self.taken)):
                    continue
                changed |= self.change(row, self.wanted(row, key, parent))
            if self.taken:
                leaving, staying = self.users
                changed |= self.change(staying, {c: self.new(leaving)[c] for c in self.taken})
            if not changed:
                return

    def wanted(self, row, key, parent):
        """What the columns of a key must be for the row to refer to its parent as that will be."""
        heir = self.heir(parent)
        if any(self.new(heir)[k] is None for k in key.keys):
            raise Refused("no key to refer to")
        return {c: self.new(heir)[k] if self.new(heir)[k] != self.old(parent)[k] else self.old(row)[c] for c, k in zip(key.columns, key.keys)}

    def is_torn(self):
        """Whether two keys want a row that stays to be different things."""
        return any(
            (key, parent) in self.disturbed and any(self.new(row)[c] != value for c, value in self.wanted(row, key, parent).items())
            for row in self.all()
            if row not in self.gone
            for key, parent in self.parents(row, arriving=True)
        )

    def leaves_orphans(self):
        """Whether a row that changes in the columns of a key refers to nobody by it afterwards: the server refuses that."""
        return any(
            key.child is row[0]
            and key.binds(self.new(row))
            and (
                any(self.new(row)[c] != self.old(row)[c] for c in key.columns)
                or not key.binds(self.old(row))
                or "MATCH FULL" in key.options and None in [self.new(row)[c] for c in key.columns]
            )
            and self.dangles(key, self.new(row))
            for row in self.moved()
            for key in self.world.keys
        )

    def is_refused(self):
        """Whether the server would not take a row that changes."""
        return any(row[0].refuses(self.new(row)) for row in self.moved())

    def disagrees(self):
        """Whether a row that follows one key would leave, by another, a row that stays where it is."""
        return any(
            key.binds(self.old(row)) and not self.is_disturbed(key, parent) and any(self.new(row)[c] != self.old(row)[c] for c in key.columns)
            for row in self.moved()
            for key, parent in self.parents(row)
        )

    def dangles(self, key, row):
        values = [row[c] for c in key.columns]
        if None in values:
            return "MATCH FULL" in key.options and any(v is not None for v in values)
        return not any(refers(key, row, p) for i, p in enumerate(self.after[key.parent]) if (key.parent, i) not in self.gone)

    def changes_hands(self):
        """Keys of the leaving user that the staying one takes over, and by which rows refer that a foreign key would act upon."""
        users = self.world.users
        gone = [self.old(row) for row in self.users if row in self.gone]
        staying = [self.new(row) for row in self.users if row not in self.gone]
        return [
            key
            for key in self.world.keys
            if key.parent is users and key.acts
            for old in gone
            for new in staying
            if [old[k] for k in key.keys] == [new[k] for k in key.keys] and any(refers(key, row, old) for row in self.before[key.child])
        ]

    def soft(self, old_id, new_id):
        for row in self.all():
            for column, is_text in row[0].soft:
                if self.old(row)[column] == old_id:
                    self.soft_rows.add(row)
                    self.change(row, {column: new_id})
                elif is_text and self.old(row)[column] == old_id.upper():
                    self.soft_rows.add(row)
                    self.change(row, {column: new_id.upper()})

    def user(self, id):
        return self.world.users, next(i for i, row in enumerate(self.before[self.world.users]) if row["id"] == id)

    def rekey(self, old_id, new_id):
        self.users = [self.user(old_id)]
        self.change(self.users[0], {"id": new_id})
        self.soft(old_id, new_id)
        self.follow()

    def merge(self, from_id, to_id):
        leaving, staying = self.users = [self.user(from_id), self.user(to_id)]
        self.gone[leaving] = staying, "app"
        theirs, ours = self.old(leaving), self.old(staying)
        # Columns that refer together are taken over together.
        groups = [key.columns for key in self.world.keys if key.child is self.world.users]
        self.taken = [c for c in ours if ours[c] is None and theirs[c] is not None and all(ours[x] is None for g in groups if c in g for x in g)]
        # A field that holds the leaving user's own id, though another that goes with it is NULL, is the staying one's then.
        own = {c for g in groups for c in g if theirs[c] == from_id}
        self.change(leaving, {c: to_id for c in self.taken if c in own})
        self.change(staying, {c: self.new(leaving)[c] for c in self.taken})
        self.soft(from_id, to_id)
        self.follow()

    # ---- rows that collide

    def meetings(self, table):
        """[(index, row that changes, other row)] of rows that collide."""
        rows = [(table, place) for place in range(len(self.after[table])) if (table, place) not in self.gone]
        moved = set(self.moved())
        return [
            (u, one, other)
            for u in table.uniques
            for one in rows
            if one in moved
            for other in rows
            if one != other and u.collide(self.new(one), self.new(other))
        ]

    def tables(self):
        """Each after those it refers to."""
        left, order = sorted(self.world.tables, key=label), []
        while left:
            free = [t for t in left if not any(k.child is t and k.parent is not t and k.parent in left for k in self.world.keys)]
            order.append((free or left)[0])
            left.remove(order[-1])
        return order

    def side(self, row):
        """'app' for a row that comes over with anything of the user who goes, 'auth' if only with what gives way on the other side."""
        found, seen, todo = set(), set(), [row]
        while todo:
            one = todo.pop()
            if one in seen:
                continue
            seen.add(one)
            if one in self.gone and one != row:
                found.add(self.gone[one][1])
                continue
            if one in self.soft_rows or one in self.users and len(self.users) == 1:
                found.add("app")
            todo += [parent for key, parent in self.parents(one) if self.is_disturbed(key, parent)]
        return "app" if "app" in found else "auth"

    def comes_by(self, unique, row, against):
        """Whether the row comes over by the key of the index, or, where neither does, by what else decides whether it is in it. Whom it
        names elsewhere does not make it anybody's."""

        def comes(row, columns):
            new, old, decides = self.new(row), self.old(row), row[0].partition_by
            anew = decides and new[decides] != old[decides] and any(row[0].column(c).generated_from for c in columns)
            return row in self.moved() and (bool(anew) or any(new[c] != old[c] for c in columns))

        return comes(row, unique.columns) or not comes(against, unique.columns) and comes(row, unique.uses)

    def is_id(self, table, column, seen=()):
        """Whether a user's id stands there, through whichever keys it came."""
        if (table, column) == (self.world.users, "id") or column in [c for c, _ in table.soft]:
            return True
        parts = ((k.parent, k.keys[k.columns.index(column)]) for k in self.world.keys if k.child is table and column in k.columns)
        return any(self.is_id(*part, (*seen, part)) for part in parts if part not in seen)

    def are_of_one(self, unique, *pair):
        """Whether rows that collide are both of the two users: the key of the index has in it the staying user's id, or all by which
        both refer to a row that two became. By a part of that they are if both refer to it, and neither names anybody else."""
        table, staying = pair[0][0], self.new(self.users[1])["id"]
        keys = set(unique.columns) | {table.column(c).generated_from for c in unique.columns}
        named = [{c: self.new(row)[c] for c in self.new(row) if self.new(row)[c] is not None and self.is_id(table, c)} for row in pair]
        if all(any(c in keys and id.lower() == staying for c, id in ids.items()) for ids in named):
            return True
        names_others = any(id.lower() != staying for ids in named for id in ids.values())
        uses = set(unique.uses) | {table.column(c).generated_from for c in unique.uses}
        if not names_others and all(any(c in uses for c in ids) for ids in named):
            return True
        heirs = {self.heir(row) for row in self.gone}
        for one, other in pair, pair[::-1]:
            new, theirs = self.new(one), self.new(other)

            def is_alike(columns, others):
                return all(theirs[o] is not None and theirs[o] == new[c] for c, o in zip(columns, others))

            todo, seen = [(one, {c: c for c in new})], []
            while todo:
                step = todo.pop()
                if step in seen:
                    continue
                seen.append(step)
                child, names = step
                for key, parent in self.parents(child):
                    if not set(key.columns) <= set(names):
                        continue
                    columns, heir = [names[c] for c in key.columns], self.heir(parent)
                    if heir in heirs and (child == one or all(self.new(heir)[k] == new[c] for k, c in zip(key.keys, columns))):
                        alike = [k.columns for k in self.world.keys if child == one and (k.child, k.parent, k.keys) == (table, key.parent, key.keys) and set(k.columns) <= keys]
                        if set(columns) <= keys:
                            if any(is_alike(columns, others) for others in [columns, *alike]):
                                return True
                        elif child == one and keys & set(columns) and is_alike(columns, columns) and not names_others:
                            return True
                    todo.append((parent, dict(zip(key.keys, columns))))
        return False

    def settle(self, policy):
        """Lets rows give way, and answers {(table, constraint): rows that come over and collide}. Raises Refused where none may."""
        met, stuck = {}, set()

        def note(table, meetings):
            moved = set(self.moved())
            for u, one, other in meetings:
                come = {a for a, b in ((one, other), (other, one)) if a in moved and self.comes_by(u, a, b)}
                met.setdefault((label(table), u.name), set()).update(come)

        todo = self.tables()
        while todo:
            table = todo.pop(0)
            meetings = self.meetings(table)
            theirs = [m for m in meetings if not self.gone or table is not self.world.users and self.are_of_one(*m)]
            others = [m for m in meetings if m not in theirs]
            note(table, theirs)
            stuck.discard(table)
            if policy == "error" or table is self.world.users or not theirs:
                note(table, others)
                if meetings:
                    stuck.add(table)
                continue
            self.let_give_way(table, theirs, policy.removeprefix("keep_"))
            self.follow()
            todo = self.tables()
        self.met = {key: len(rows) for key, rows in met.items()}
        if stuck:
            raise Refused("conflicts")

    def let_give_way(self, table, meetings, side):
        other = "app" if side == "auth" else "auth"
        come = {row for u, *pair in meetings for row, against in (pair, pair[::-1]) if self.comes_by(u, row, against)}
        ranks = {}
        for _, *pair in meetings:
            for row in pair:
                ranks[row] = ((0 if self.side(row) == side else 2) if row in come else 1, row[1])
        first = sorted(table.uniques, key=lambda u: ("PRIMARY KEY" not in u.sql, u.name))
        kept, losers = [], {}
        for row in sorted(ranks, key=ranks.get):
            against = [(first.index(u), ranks[b if a == row else a], b if a == row else a) for u, a, b in meetings if row in (a, b)]
            against = [one for one in against if one[2] in kept]
            if against:
                losers[row] = min(against, key=lambda one: one[:2])[2], self.side(row) if row in come else other
            else:
                kept.append(row)
        self.gone.update(losers)

    # ---- what came of it

    def references(self):
        """{table: (columns, rows)} of what refers to the user, the user's own row not counted."""
        found = {}
        for row in self.all():
            columns = {c.name for c in row[0].columns if self.new(row)[c.name] != self.old(row)[c.name] and not c.generated_from}
            if row in self.users or not (columns or row in self.gone or self.new(row) != self.old(row)):
                continue
            known, rows = found.get(label(row[0]), (set(), 0))
            found[label(row[0])] = (known | columns, rows + 1)
        return found

    def removed(self):
        return as_state(self.world, {t: [self.before[t][p] for p in range(len(self.before[t])) if (t, p) in self.gone] for t in self.world.tables})

    def state(self):
        return as_state(self.world, {t: [r for p, r in enumerate(rows) if (t, p) not in self.gone] for t, rows in self.after.items()})


def label(table):
    return table.name
