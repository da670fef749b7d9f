//! Constraints and constraint triggers that may be deferred, and must not wait for COMMIT: they would run as the session's role.
//!
//! `SET CONSTRAINTS` takes names, which need not be unique in their schema, and looks the schema up with the rights of whoever
//! says it. It cannot defer a name that another constraint has which is not deferrable.

use crate::pg::{self, Arg, Kept, Mode, Session};
use pgrx::pg_sys::Oid;
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::LazyLock;

/// A constraint, or constraint trigger, that may be deferred.
pub struct Deferrable {
    /// Qualified and quoted.
    pub name: String,
    /// It is deferred until somebody says otherwise.
    pub initially: bool,
    /// A foreign key by which other tables refer to this one: a row that is new cannot break it.
    pub inbound: bool,
}

/// The condition that setting the name `c.conname` of the schema `n` fires nothing but what `owner`, an SQL expression, has put
/// on tables: whatever waits under a name fires, and nobody else's trigger, or index on an expression, may run as this owner. A
/// foreign key runs as the owners of its tables, a partition's copy of a trigger is the trigger of whoever has the table above.
pub fn is_nobody_elses(owner: &str) -> String {
    format!(
        "NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class ot ON ot.oid = o.conrelid
                      WHERE o.connamespace = n.oid AND o.conname = c.conname AND o.condeferrable AND o.contype <> 'f'
                        AND ot.relowner <> {owner}
                        AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g
                                          JOIN pg_catalog.pg_partition_ancestors(o.conrelid) x ON g.tgparentid <> 0
                                          JOIN pg_catalog.pg_class xt ON xt.oid = x.relid AND xt.relowner = {owner}
                                          JOIN pg_catalog.pg_trigger above ON above.tgrelid = x.relid AND above.tgname = g.tgname
                                         WHERE g.tgconstraint = o.oid))"
    )
}

/// Those of table `$1` and its partitions, and what its triggers, if it has any, may write to in other tables of `$2`'s, its
/// owner's.
static OF_TABLE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.conname),
                bool_and(c.condeferred)
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o
                                 WHERE o.connamespace = n.oid AND o.conname = c.conname AND NOT o.condeferred),
                bool_and(c.contype = 'f' AND c.confrelid = $1 AND c.conrelid <> $1)
           FROM pg_catalog.pg_constraint c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
           JOIN pg_catalog.pg_class t ON t.oid = c.conrelid
          WHERE c.condeferrable
            AND (c.conrelid = $1
                 OR EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.conrelid) x WHERE x.relid = $1)
                 OR c.contype = 'f' AND c.confrelid = $1
                 -- What the table's triggers write elsewhere.
                 OR c.condeferred
                    AND EXISTS (SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid
                                 WHERE g.tgrelid = $1 AND NOT g.tgisinternal
                                   AND (t.relowner = $2 OR c.contype = 'f' AND f.prosecdef AND t.relowner = f.proowner)))
            AND pg_catalog.has_schema_privilege($2, n.oid, 'USAGE')
            AND {nobody_elses}
          GROUP BY n.oid, n.nspname, c.conname
          ORDER BY 1",
        nobody_elses = is_nobody_elses("$2"),
    )
});

/// The same, read.
pub fn read(session: &Session, table: Oid, owner: Oid) -> Vec<Deferrable> {
    let rows = session.run_kept(&OF_TABLE, &[Arg::from(table), Arg::from(owner)], Mode::Fresh);
    let each = (0..rows.len()).filter_map(|row| {
        let (name, initially, inbound) = (rows.get(row, 1)?, rows.get(row, 2)?, rows.get(row, 3)?);
        Some(Deferrable { name, initially, inbound })
    });
    each.collect()
}

/// The tables on which something may wait that runs code of whoever put it there: each name it waits under, with the table and
/// its partitions, which have copies.
const WAITING_ROOMS: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.conname), x.at
      FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
     CROSS JOIN LATERAL (SELECT c.conrelid::pg_catalog.oid AS at
                         UNION SELECT p.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(c.conrelid) p) x
     WHERE c.condeferrable AND c.contype IN ('t', 'x')";

/// By name, the tables.
type WaitingRooms = HashMap<String, Vec<Oid>>;

thread_local! {
    static ROOMS: Kept<WaitingRooms> = const { Kept::new() };
}

fn waiting_rooms(session: &Session) -> Rc<WaitingRooms> {
    let version = pg::catalog_version();
    let learn = || {
        // What SET CONSTRAINTS sees, others may have made after the transaction's snapshot.
        let rows = pg::with_latest_snapshot(|| {
            pg::with_pinned_path(|| session.run(WAITING_ROOMS, &[], Mode::Read))
        });
        let mut rooms = WaitingRooms::new();
        for row in 0..rows.len() {
            if let (Some(name), Some(table)) = (rows.get::<String>(row, 1), rows.get(row, 2)) {
                rooms.entry(name).or_default().push(table);
            }
        }
        Ok::<_, Infallible>(rooms)
    };
    let Ok(rooms) = ROOMS.with(|rooms| rooms.get(version, |_| true, |_| true, learn));
    rooms
}

/// Makes immediate those of these names under which anything waits, so that it fires as COMMIT would fire it: as the session's role.
/// Answers which. They must not be made immediate again as anybody else, as whom what waits would fire: what has just fired may
/// have deferred them again. (Then what is written under them now is refused, and what waits fires at COMMIT.) What belongs to a
/// statement that is not finished fires with that.
pub fn fire_as_session(session: &Session, names: &[&str]) -> BTreeSet<String> {
    let mut said = BTreeSet::new();
    if names.is_empty() {
        return said;
    }
    loop {
        let rooms = waiting_rooms(session);
        let waits = |name: &str| {
            rooms
                .get(name)
                .is_some_and(|tables| tables.iter().any(|table| pg::triggers_wait(*table)))
        };
        let fire: BTreeSet<&str> =
            names.iter().copied().filter(|name| !said.contains(*name) && waits(name)).collect();
        if fire.is_empty() {
            return said;
        }
        let fire: Vec<&str> = fire.into_iter().collect();
        let sql = format!("SET CONSTRAINTS {} IMMEDIATE", fire.join(", "));
        pg::as_session(|| session.run(&sql, &[], Mode::Fresh));
        said.extend(fire.into_iter().map(str::to_owned));
    }
}
