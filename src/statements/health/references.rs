//! What refers to app users, or seems to.

use super::{Report, read};
use crate::catalog::references::{Barred, References, Soft, Write};
use crate::catalog::{App, House};
use crate::error::Error;
use crate::pg::{Mode, Session};
use std::collections::BTreeSet;

/// Foreign keys to app users, and registered columns, without an index: a fix reads the whole table for each user, and so does
/// each DELETE. An index on the part that is the user's id will do.
pub fn unindexed(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let app = App::read(session)?;
    let rows = read(
        session,
        "SELECT format('%s (%s) refers to onagui.app_users and has no index: each %s reads the whole table',
                       c.conrelid::regclass, k.columns, CASE WHEN k.of_id IS NULL THEN 'merge' ELSE 'fix' END),
                format('CREATE INDEX %sON %s (%s);', CASE r.relkind WHEN 'p' THEN '' ELSE 'CONCURRENTLY ' END,
                       c.conrelid::regclass, k.columns)
           FROM pg_constraint c
           JOIN pg_class r ON r.oid = c.conrelid
          CROSS JOIN LATERAL (
                SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY n.place) AS columns,
                       max(n.number) FILTER (WHERE p.attname = 'id') AS of_id
                  FROM unnest(c.conkey, c.confkey) WITH ORDINALITY AS n(number, key, place)
                  JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = n.key
                  JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = n.number) k
          WHERE c.contype = 'f' AND c.confrelid = $1 AND c.conparentid = 0
            AND NOT EXISTS (
                SELECT FROM pg_index i
                 WHERE i.indrelid = c.conrelid AND i.indisvalid
                   AND (i.indkey[0] = k.of_id OR (i.indkey::int2[])[0 : cardinality(c.conkey) - 1] @> c.conkey)
                   -- Rows that refer are in it.
                   AND (i.indpred IS NULL
                        OR EXISTS (SELECT FROM pg_attribute a
                                    WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                                      AND pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', a.attname))))
          UNION
         SELECT format('%s (%I) is registered and has no index: each fix reads the whole table', r.oid::regclass, a.attname),
                format('CREATE INDEX %sON %s (%I);', CASE r.relkind WHEN 'p' THEN '' ELSE 'CONCURRENTLY ' END, r.oid::regclass, a.attname)
           FROM onagui.sync_reference s
           JOIN pg_namespace n ON n.nspname = s.table_schema
           JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = s.table_name AND r.relkind IN ('r', 'p')
           JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = s.column_name AND NOT a.attisdropped
          WHERE NOT EXISTS (
                SELECT FROM pg_index i
                 WHERE i.indrelid = r.oid AND i.indisvalid AND i.indkey[0] = a.attnum
                   AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', a.attname)))
          ORDER BY 1",
        &[app.table.into()],
    );
    report.warn_each(&rows, "whatever refers to app users has an index");
    Ok(())
}

/// Tables that fixes and merges write to, and that the server refuses to change because they are published.
pub fn published(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let app = App::read(session)?;
    let soft = Soft::read(session, Mode::Read);
    let references = References::read(session, &app, &soft, Mode::Read)?;
    let mut told = BTreeSet::new();
    for table in &references.tables {
        for write in [Write::Update, Write::Delete] {
            let Some(Barred { publication, table }) = table.barred(write) else {
                continue;
            };
            if told.insert(table) {
                report.warn(
                    format!(
                        "{table} is published by {publication:?} and has no replica identity: the server refuses each {} there, \
                         also those of fixes",
                        write.name().to_uppercase(),
                    ),
                    format!("ALTER TABLE {table} REPLICA IDENTITY FULL; -- or give it a primary key"),
                );
            }
        }
    }
    if told.is_empty() {
        report.ok("whatever refers to app users can be changed where it is published");
    }
    Ok(())
}

/// Columns named and typed like a user's id, without a foreign key and not registered: fixes would leave them behind. Arrays
/// of such, which nothing can hold in step. And what is registered but not there, under that name at least. Schemas of the
/// platform, tables of extensions, and copies of what the extension answers are left out.
pub fn possible(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let app = App::read(session)?;
    let rows = read(
        session,
        "WITH own AS (
            SELECT c.oid, n.nspname, c.relname, a.attname, a.attnum, a.atttypid,
                   format('%s.%I', c.oid::regclass, a.attname) AS name
              FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND c.oid <> $1
               AND a.attgenerated = '' -- what it is generated from may be one; it cannot
               AND n.nspname !~ '^pg_'
               AND n.nspname NOT IN ('information_schema', 'auth', 'storage', 'realtime', '_realtime', 'vault', 'pgsodium',
                                     'graphql', 'graphql_public', 'cron', 'net', 'extensions', 'supabase_functions',
                                     'supabase_migrations')
               AND NOT EXISTS (SELECT FROM pg_depend d
                                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
               -- What a copy of an answer says of the past is to stay.
               AND NOT (a.attname IN ('auth_user_id', 'app_user_id', 'old_app_user_id', 'new_app_user_id')
                        AND (SELECT array_agg(o.attname::text) && '{old_app_user_id,new_app_user_id}'
                                    OR array_agg(o.attname::text) @> '{auth_user_id,app_user_id,sync_status}'
                               FROM pg_attribute o WHERE o.attrelid = c.oid AND NOT o.attisdropped)))
         SELECT format('%s looks like the id of an app user, but has no foreign key and is not registered: a fix would leave it behind',
                       o.name),
                format('SELECT onagui.register_reference(%L, %L);', o.oid::regclass, o.attname)
           FROM own o
          WHERE o.atttypid IN ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype)
            AND (lower(o.attname) ~ '^(.*_)?(app_?users?_?|user_?(uu)?)id$'
                 OR o.atttypid = 'uuid'::regtype
                    AND lower(o.attname) ~ '^(owner|author|creator|member|assignee|sender|recipient|follower|followee|reviewer|actor|manager|.*(_|ed)by)(_?id)?$')
            AND NOT EXISTS (SELECT FROM pg_constraint f
                             WHERE f.conrelid = o.oid AND f.contype = 'f' AND o.attnum = ANY (f.conkey))
            AND NOT EXISTS (SELECT FROM onagui.sync_reference s
                             WHERE s.table_schema = o.nspname AND s.table_name = o.relname AND s.column_name = o.attname)
         UNION ALL
         SELECT format('%s looks like ids of app users: ids in arrays are not moved by fixes', o.name),
                regexp_replace(
                    format('-- Keep them in a table with a foreign key. Or after each fix, with old_app_user_id and '
                           'new_app_user_id of its answer: UPDATE %1$s SET %2$I = array_replace(%2$I, old, new) '
                           'WHERE old = ANY (%2$I);', o.oid::regclass, o.attname),
                    '[[:cntrl:]]', ' ', 'g')
           FROM own o
          WHERE o.atttypid IN ('uuid[]'::regtype, 'text[]'::regtype, 'varchar[]'::regtype)
            AND (lower(o.attname) ~ '^(.*_)?(app_?users?_?|user_?(uu)?|member_?)ids?$'
                 OR o.atttypid = 'uuid[]'::regtype
                    AND lower(o.attname) ~ '^((user|participant|owner|author|creator|member|assignee|sender|recipient|follower|followee|reviewer|actor|manager)s?|.*(_|ed)by)(_?ids?)?$')
         UNION ALL
         SELECT format('%I.%I.%I is registered, but no table has such a column: fixes pass it over; if it was renamed, register its new name',
                       s.table_schema, s.table_name, s.column_name),
                format('SELECT onagui.unregister_reference(%L, %L, %L);', s.table_schema, s.table_name, s.column_name)
           FROM onagui.sync_reference s
          WHERE NOT EXISTS (SELECT FROM pg_namespace n
                              JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.table_name AND c.relkind IN ('r', 'p')
                              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.column_name AND NOT a.attisdropped
                             WHERE n.nspname = s.table_schema)
         UNION ALL
         SELECT format('%I.%I.%I is registered, but not by a superuser, to whom the table belongs: fixes pass it over',
                       s.table_schema, s.table_name, s.column_name),
                regexp_replace(
                    format('-- Whoever may put a trigger on it would get its owner''s rights by a fix. If nobody else may, as a '
                           'superuser: SELECT onagui.register_reference(%L, %L);', c.oid::regclass, s.column_name),
                    '[[:cntrl:]]', ' ', 'g')
           FROM onagui.sync_reference s
           JOIN pg_namespace n ON n.nspname = s.table_schema
           JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.table_name
           JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
           JOIN pg_roles o ON o.oid = root.relowner AND o.rolsuper
          WHERE (to_jsonb(s) ->> 'by_superuser')::boolean IS FALSE
          ORDER BY 1",
        &[app.table.into()],
    );
    report.warn_each(&rows, "no column looks like a reference that fixes would leave behind");
    Ok(())
}
