//! The triggers on `auth.users`, and whatever else writes app users from there.

use super::{Report, read};
use crate::catalog::{Auth, House};
use crate::error::Error;
use crate::pg::Session;
use crate::signup;

/// The extension's triggers on `auth.users`, and its trigger function anywhere else.
pub fn triggers(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let (faults, remedy) = signup::triggers::faults(session, &auth);
    for fault in &faults {
        let foreign =
            fault.strip_prefix("auth.users has a trigger ").and_then(|rest| rest.split(' ').next());
        report.fail(
            format!("{fault}: sign-ups are not synced as they should be"),
            match foreign {
                Some(name) => {
                    format!("ALTER TRIGGER {name} ON auth.users RENAME TO {name}_old; {remedy}")
                }
                None => remedy.to_owned(),
            },
        );
    }
    let strays = read(session, STRAYS, &[auth.table.into()]);
    for row in 0..strays.len() {
        report.fail(
            strays.get::<String>(row, 1).unwrap_or_default(),
            strays.get::<String>(row, 2).unwrap_or_default(),
        );
    }
    if faults.is_empty() && strays.is_empty() {
        report.ok("attached to auth.users and enabled");
    }
    Ok(())
}

/// The extension's trigger function on another table, or under another name.
const STRAYS: &str = "
    SELECT format('trigger %s on %s calls the extension''s trigger function, which belongs to the triggers of auth.users that enable_sync() makes',
                  t.tgname, t.tgrelid::regclass),
           format('DROP TRIGGER %I ON %s;', t.tgname, t.tgrelid::regclass)
      FROM pg_trigger t
     WHERE t.tgfoid = 'onagui.sync_auth_user_to_app_users()'::regprocedure
       AND NOT t.tgisinternal AND t.tgparentid = 0
       AND (t.tgrelid <> $1
            OR t.tgname NOT IN ('trigger_sync_auth_user_to_app_users', 'trigger_sync_auth_user_changes',
                                'trigger_sync_auth_user_deletes', 'trigger_sync_auth_user_truncates'))
     ORDER BY 1";

/// Triggers of somebody else's that write app users too, the pattern this extension replaces, or what refers to them before
/// they are there.
pub fn others(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let rows =
        read(session, &format!("WITH RECURSIVE {OTHER}, {FRONT} {OTHERS}"), &[auth.table.into()]);
    let names = "SELECT string_agg(format('%s (%s)', other.tgname, other.name), ', ' ORDER BY other.tgname) FROM other";
    let names = read(session, &format!("WITH {OTHER} {names}"), &[auth.table.into()]);
    let fine = match names.one::<String>() {
        None => {
            "nothing else on auth.users writes app users, or refers to them before they are there"
                .into()
        }
        // Their functions may do what they do not mention, and fail.
        Some(names) => format!(
            "no other trigger on auth.users seems to write app users, or to refer to them before they are there; there are: {names}"
        ),
    };
    report.warn_each(&rows, &fine);
    Ok(())
}

/// Triggers on `auth.users` that are not the extension's. The bits of tgtype are those of src/include/catalog/pg_trigger.h.
/// Triggers of rows fire before those of a statement, and those of one kind in the order of their names.
const OTHER: &str = "
    other AS (
         SELECT t.tgname, p.oid::regproc AS name, p.oid::regprocedure AS called,
                -- Without its comments; what looks like one in a literal is none.
                regexp_replace(p.prosrc, '(''[^'']*'')|--[^\n]*|/[*]([^*]|[*]+[^*/])*[*]+/', E'\\\\1 ', 'g') AS prosrc,
                t.tgnargs > 0 OR t.tgqual IS NOT NULL AS has_more,
                (SELECT c FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%') AS path,
                t.tgtype & 4 <> 0 AS of_insert, t.tgtype & 16 <> 0 AS of_update,
                t.tgtype & 2 <> 0 OR t.tgtype & 1 > o.tgtype & 1 OR t.tgtype & 1 = o.tgtype & 1 AND t.tgname < o.tgname AS is_early
           FROM pg_trigger t
           JOIN pg_proc p ON p.oid = t.tgfoid
           LEFT JOIN pg_trigger o ON o.tgrelid = t.tgrelid
                AND o.tgname = CASE WHEN t.tgtype & 4 <> 0 THEN 'trigger_sync_auth_user_to_app_users'
                                    WHEN t.tgtype & 16 <> 0 THEN 'trigger_sync_auth_user_changes' END
          WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled <> 'D'
            AND p.oid <> 'onagui.sync_auth_user_to_app_users()'::regprocedure)";

/// What may be written in place of app users: views over them, however deep, and tables with a rule about them. Names are
/// as common as `users`, so they count only where something is written to them.
const FRONT: &str = "
    app AS (
         SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'onagui' AND c.relname = 'app_users'),
    behind(oid) AS (
         SELECT app.oid FROM app
         UNION
         SELECT w.ev_class
           FROM behind
           JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = behind.oid
                AND d.classid = 'pg_rewrite'::regclass
           JOIN pg_rewrite w ON w.oid = d.objid),
    front AS (
         SELECT c.oid::regclass AS name, n.nspname,
                format('[[:<:]](insert[[:space:]]+into|merge[[:space:]]+into|update|delete[[:space:]]+from)[[:space:]]+'
                       '(only[[:space:]]+)?(\"?%s\"?[[:space:]]*[.][[:space:]]*)%%s\"?%s([^[:alnum:]_$]|$)',
                       regexp_replace(n.nspname, '[^[:alnum:]_]', '.', 'g'),
                       regexp_replace(c.relname, '[^[:alnum:]_]', '.', 'g')) AS written
           FROM behind JOIN pg_class c ON c.oid = behind.oid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid NOT IN (SELECT app.oid FROM app))";

/// A function that only looks whether the app user is there, or changes the row that is, does not make them. One that writes a table
/// which is gone (app users under their former name, mostly) fails.
const OTHERS: &str = "
    SELECT format('trigger %s on auth.users calls %s, which seems to write app_users as well%s', other.tgname, other.called,
                  ', through ' || through.names),
           format(E'DROP TRIGGER %I ON auth.users;\n-- or, as the function''s owner, with whatever else it is the trigger of: DROP FUNCTION %s CASCADE;'
                  '\n-- What else the function does is lost; that belongs into an AFTER INSERT trigger on onagui.app_users.',
                  other.tgname, one_line.called)
      FROM other
     CROSS JOIN LATERAL (
           SELECT string_agg(front.name::text, ', ' ORDER BY front.name::text) AS names
             FROM front
            -- Without its schema the name is another table's where the function's search_path lacks the schema.
            WHERE other.prosrc ~* format(front.written, CASE WHEN position(front.nspname IN other.path) = 0 THEN '' ELSE '?' END)) through
     CROSS JOIN LATERAL (
           SELECT regexp_replace(
                      other.prosrc,
                      '([[:<:]](from|join|update|update[[:space:]]+only)[[:space:]]+|,[[:space:]]*)(only[[:space:]]+)?(\"?onagui\"?[[:space:]]*[.][[:space:]]*)?\"?app_users[[:>:]]'
                      '|[[:<:]]app_users\"?([.][[:alnum:]_\"]+)?%(row)?type[[:>:]]',
                      '', 'gi') AS code) without_looks
     CROSS JOIN LATERAL (SELECT regexp_replace(other.called::text, '[[:cntrl:]]', ' ', 'g') AS called) one_line -- it would end the comment
     WHERE (other.of_insert OR other.of_update)
       AND (without_looks.code ~* '[[:<:]]app_users[[:>:]]' AND without_looks.code ~* '[[:<:]](insert|merge|execute)[[:>:]]'
            OR through.names IS NOT NULL)
    UNION
    SELECT format('trigger %s on auth.users calls %s, which seems to write %s: its foreign key %s wants the app user''s row, which %s',
                  other.tgname, other.called, c.conrelid::regclass, c.conname,
                  CASE WHEN NOT other.of_insert THEN 'who is PENDING gets after that, so that they cannot confirm their e-mail'
                       WHEN other.is_early AND NOT c.condeferred THEN 'is made after that, so that sign-ups fail'
                       ELSE 'who is PENDING or in CONFLICT has not got, so that their sign-ups fail' END),
           CASE WHEN other.of_insert
                THEN format('-- have app_users fire it instead, when the row comes: CREATE TRIGGER %1$s AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION %2$s();%3$s its names must be qualified, and it may ask nothing of NEW that app_users has not got (who may not drop triggers of auth.users makes it anew under another name for this, and drops the old one: DROP FUNCTION %2$s CASCADE); then DROP TRIGGER %1$s ON auth.users;',
                            regexp_replace(format('%I', other.tgname), '[[:cntrl:]]', ' ', 'g'), regexp_replace(other.name::text, '[[:cntrl:]]', ' ', 'g'),
                            CASE WHEN other.has_more THEN ' with its WHEN and its arguments;' END)
                ELSE '-- let the function leave out whoever has no row: ... WHERE EXISTS (SELECT FROM onagui.app_users a WHERE a.id = NEW.id)' END
      FROM other
      JOIN app ON true
      JOIN pg_constraint c ON c.contype = 'f' AND c.confrelid = app.oid AND c.conrelid <> app.oid AND c.conparentid = 0
     CROSS JOIN LATERAL (SELECT c.conrelid AS oid UNION SELECT x.relid FROM pg_partition_tree(c.conrelid) x) written
      JOIN pg_class child ON child.oid = written.oid
      JOIN pg_namespace n ON n.oid = child.relnamespace
     CROSS JOIN LATERAL (
           SELECT format('[[:space:]]+(only[[:space:]]+)?(\"?%s\"?[[:space:]]*[.][[:space:]]*)%s\"?%s([^[:alnum:]_$]|$)',
                         regexp_replace(n.nspname, '[^[:alnum:]_]', '.', 'g'),
                         -- As with what stands for app users.
                         CASE WHEN position(n.nspname IN other.path) = 0 THEN '' ELSE '?' END,
                         regexp_replace(child.relname, '[^[:alnum:]_]', '.', 'g')) AS table,
                  (SELECT string_agg(regexp_replace(a.attname, '[^[:alnum:]_]', '.', 'g'), '|')
                     FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) AS columns) named
     WHERE other.prosrc !~* '[[:<:]]app_users[[:>:]]'
       AND (other.prosrc ~* ('[[:<:]](insert|merge)[[:space:]]+into' || named.table)
            OR other.prosrc ~* ('[[:<:]]update' || named.table || '((?![[:<:]]where[[:>:]])[^;])*[[:<:]](' || named.columns || ')\"?[[:space:]]*:?='))
       AND (other.of_insert OR other.of_update AND other.is_early)
    UNION
    SELECT format('trigger %s on auth.users calls %s, which seems to write %s.%s: there is no such table, so that %s',
                  other.tgname, other.called, gone.schema, gone.name,
                  CASE WHEN other.of_insert THEN 'sign-ups fail' ELSE 'what it is fired by fails' END),
           regexp_replace(
               format('-- Have the function write what has taken its place, or leave that out; or DROP TRIGGER %I ON auth.users;', other.tgname),
               '[[:cntrl:]]', ' ', 'g')
      FROM other
     CROSS JOIN LATERAL regexp_matches(
           other.prosrc,
           '[[:<:]](?:insert[[:space:]]+into|update|delete[[:space:]]+from)[[:space:]]+(?:only[[:space:]]+)?'
           '(\"[^\"]+\"|[[:alpha:]_][[:alnum:]_$]*)[[:space:]]*[.][[:space:]]*(\"[^\"]+\"|[[:alpha:]_][[:alnum:]_$]*)', 'gi') AS m
     CROSS JOIN LATERAL (
           SELECT CASE WHEN m[1] LIKE '\"%' THEN btrim(m[1], '\"') ELSE lower(m[1]) END AS schema,
                  CASE WHEN m[2] LIKE '\"%' THEN btrim(m[2], '\"') ELSE lower(m[2]) END AS name) gone
     WHERE gone.schema <> 'pg_temp'
       AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE n.nspname = gone.schema AND c.relname = gone.name)
     ORDER BY 1";
