//! Code of the application that runs when rows of a table are written.

use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;

/// Whether a trigger, or anything in a constraint, default, generated column or index that is not built in, takes part
/// in an INSERT. What is built in leaves no dependency, so whatever else is depended on counts; and what is built in but
/// may do anything, as set_config() does.
pub(super) fn read_runs_code(session: &Session, table: Oid) -> bool {
    const RUNS_CODE: &str = "
        WITH part(classid, objid) AS (
            SELECT 'pg_class'::regclass, $1::oid
            UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = $1
            UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = $1
            UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = $1
        )
        SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1 AND tgtype & 4 <> 0)
            OR EXISTS (SELECT FROM pg_class WHERE oid = $1 AND relispartition)
            OR EXISTS (SELECT FROM pg_depend d JOIN part p ON p.classid = d.classid AND p.objid = d.objid
                        WHERE d.refclassid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass,
                                                   'pg_namespace'::regclass, 'pg_collation'::regclass))
            OR EXISTS (SELECT FROM (SELECT adbin::text FROM pg_attrdef WHERE adrelid = $1
                                    UNION ALL SELECT conbin::text FROM pg_constraint WHERE conrelid = $1) e(tree)
                        CROSS JOIN LATERAL regexp_matches(e.tree, ':(?:op)?funcid ([0-9]+)', 'g') AS f(id)
                        JOIN pg_proc p ON p.oid = f.id[1]::oid
                        WHERE p.provolatile = 'v'
                          AND p.proname NOT IN ('gen_random_uuid', 'random', 'clock_timestamp', 'nextval'))";
    session.run(RUNS_CODE, &[table.into()], Mode::Fresh).one().unwrap_or(true)
}

pub(super) fn read_changes_rows(session: &Session, table: Oid) -> bool {
    let sql = format!("SELECT {}", before_trigger("$1", INSERT));
    session.run(&sql, &[table.into()], Mode::Fresh).one().unwrap_or(true)
}

/// Events in `pg_trigger.tgtype` (src/include/catalog/pg_trigger.h).
const INSERT: u8 = 4;
pub const UPDATE: u8 = 16;

/// SQL: whether the table, or a partition of it, has a BEFORE trigger for each row that an event fires.
pub fn before_trigger(table: &str, event: u8) -> String {
    has_trigger(table, &format!("g.tgtype & 3 = 3 AND g.tgtype & {event} <> 0"))
}

/// SQL: whether the table, or a partition of it, has an AFTER trigger.
pub fn after_trigger(table: &str) -> String {
    has_trigger(table, "g.tgtype & 2 = 0")
}

/// Whether an AFTER INSERT trigger of the application fires before those of foreign keys, and may make what these look for:
/// triggers fire in the order of their names.
pub fn read_precedes_keys(session: &Session, table: Oid) -> bool {
    let earlier =
        has_trigger("$1", "g.tgtype & 7 = 5 AND g.tgname < 'RI_ConstraintTrigger' COLLATE \"C\"");
    session.run(&format!("SELECT {earlier}"), &[table.into()], Mode::Read).one().unwrap_or(true)
}

/// OFFSET 0 has each table looked up by index: foreign keys alone make four triggers each.
fn has_trigger(table: &str, which: &str) -> String {
    format!(
        "EXISTS (SELECT FROM (SELECT {table}::oid UNION ALL
                              SELECT p.relid FROM pg_catalog.pg_partition_tree({table}::oid::pg_catalog.regclass) p) t(id)
                  CROSS JOIN LATERAL (SELECT FROM pg_catalog.pg_trigger g
                                       WHERE g.tgrelid = t.id AND {which} AND NOT g.tgisinternal OFFSET 0) g)"
    )
}
