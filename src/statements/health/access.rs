//! Settings, privileges, row security.

use super::{Report, read};
use crate::catalog::{App, House};
use crate::error::Error;
use crate::pg::Session;
use crate::settings;
use onagui_decide::signup::LinkPolicy;

/// The settings that keep users from being synced, or that loosen the rule of identity.
pub fn settings(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let rows = read(session, SETTINGS, &[]);
    for row in 0..rows.len() {
        let detail: String = rows.get(row, 1).unwrap_or_default();
        let remedy: String = rows.get(row, 2).unwrap_or_default();
        if rows.get(row, 3) == Some(true) {
            report.fail(detail, remedy);
        } else {
            report.warn(detail, remedy);
        }
    }
    let senseless = read(session, SENSELESS, &[]);
    report.warn_rows(&senseless);
    if rows.is_empty() && senseless.is_empty() {
        let link_by_email = match settings::link_policy() {
            LinkPolicy::Verified => "verified",
            LinkPolicy::Always => "always",
            LinkPolicy::Never => "never",
        };
        report.ok(format!("nothing is switched off, onagui_sync.link_by_email is {link_by_email}"));
    }
    Ok(())
}

/// Where a setting was made for this database, or for roles, the way to undo it: `place(name, value, rolname, undo)`.
macro_rules! place {
    () => {
        "place AS (
        SELECT lower(split_part(c.line, '=', 1)) AS name, btrim(substr(c.line, strpos(c.line, '=') + 1)) AS value, r.rolname,
               format('ALTER %s RESET %s; ',
                      CASE WHEN r.oid IS NULL AND d.oid IS NULL THEN 'ROLE ALL'
                           WHEN r.oid IS NULL THEN 'DATABASE ' || quote_ident(d.datname)
                           WHEN d.oid IS NULL THEN 'ROLE ' || quote_ident(r.rolname)
                           ELSE format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END,
                      lower(split_part(c.line, '=', 1))) AS undo
          FROM pg_db_role_setting p
          LEFT JOIN pg_database d ON d.oid = p.setdatabase
          LEFT JOIN pg_roles r ON r.oid = p.setrole
         CROSS JOIN LATERAL unnest(p.setconfig) AS c(line)
         WHERE (d.oid IS NULL OR d.datname = current_database())
               AND starts_with(lower(c.line), 'onagui_sync.'))"
    };
}

/// ALTER DATABASE and ALTER ROLE take any name and any value from a session that does not know the settings yet. What means nothing is
/// passed over then, and the default is in force.
const SENSELESS: &str = concat!(
    "WITH ",
    place!(),
    "SELECT CASE WHEN s.name IS NULL THEN format('%s = %s: there is no such setting, it has no effect', p.name, p.value)
                 ELSE format('%s = %s: it takes no such value, %s is in force', p.name, p.value, s.boot_val) END
            || coalesce(' (role ' || quote_ident(p.rolname) || ')', ''),
            rtrim(p.undo)
       FROM place p LEFT JOIN pg_settings s ON s.name = p.name
      WHERE s.name IS NULL
            OR NOT CASE s.vartype
                       WHEN 'enum' THEN lower(p.value) = ANY (s.enumvals)
                       WHEN 'bool' THEN p.value ~* '^(on|off?|1|0|t(r(ue?)?)?|f(a(l(se?)?)?)?|y(es?)?|no?)$'
                       WHEN 'integer' THEN p.value ~ '^[+]?[.]?[0-9]'
                       ELSE true END
      ORDER BY 1, 2"
);

/// The remedy undoes it where it was set: for the database, for roles, or in the server's configuration.
const SETTINGS: &str = concat!(
    "WITH danger(name, value, spellings, meaning) AS (VALUES
        ('onagui_sync.enabled', 'off', ARRAY['off', 'false', 'no', '0'], 'sign-ups are not synced'),
        ('onagui_sync.link_by_email', 'always', ARRAY['always'],
         'whoever signs up with somebody''s address inherits their app user, before the address is confirmed'),
        ('onagui_sync.on_error', 'raise', ARRAY['raise'], 'a sign-up fails when its app user cannot be written')),
    setting AS (
        SELECT d.*, s.source, s.boot_val, s.setting = d.value AS is_so
          FROM danger d JOIN pg_settings s ON s.name = d.name),
    ",
    place!(),
    ",
    dangerous AS (
        SELECT p.* FROM place p JOIN setting s ON s.name = p.name AND lower(p.value) = ANY (s.spellings))
    SELECT format('%s is %s: %s', s.name, s.value, s.meaning),
           coalesce((SELECT string_agg(p.undo, '' ORDER BY p.undo) FROM dangerous p WHERE p.name = s.name), '')
           || CASE WHEN s.source IN ('configuration file', 'command line', 'environment variable')
                   THEN format('ALTER SYSTEM SET %s = %s; SELECT pg_reload_conf(); ', s.name, s.boot_val) ELSE '' END
           || format('SET %s = %s;', s.name, s.boot_val),
           s.name = 'onagui_sync.enabled'
      FROM setting s WHERE s.is_so
    UNION ALL
    SELECT format('%s is %s for role %I: %s', s.name, s.value, p.rolname, s.meaning), rtrim(p.undo),
           s.name = 'onagui_sync.enabled'
      FROM setting s JOIN dangerous p ON p.name = s.name AND p.rolname IS NOT NULL
     WHERE NOT s.is_so
     ORDER BY 1"
);

/// Functions and tables of the extension that the wrong role may use, or the right one may not.
pub fn privileges(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let mut fits = true;
    if let Ok(app) = App::read(session) {
        let rows = read(session, OWNER, &[app.table.into()]);
        for row in 0..rows.len() {
            fits = false;
            let (detail, remedy) = (rows.get(row, 1), rows.get(row, 2));
            report.fail(detail.unwrap_or_else(String::new), remedy.unwrap_or_else(String::new));
        }
        let rows = read(session, EXPOSED, &[app.table.into()]);
        fits &= rows.is_empty();
        report.warn_rows(&rows);
    }
    let rows = read(session, PRIVILEGES, &[]);
    if fits || !rows.is_empty() {
        report
            .warn_each(&rows, "nobody may do more than they should, and app users can be written");
    }
    Ok(())
}

/// App users are written with the rights of their table's owner, who can have been deprived of them.
const OWNER: &str = "
    SELECT format('%s, who owns onagui.app_users, may not %s there: sign-ups are written as the owner', quote_ident(r.rolname), p.name),
           format('GRANT %s ON onagui.app_users TO %I;', p.name, r.rolname)
      FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
     CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS p(name)
     WHERE c.oid = $1 AND NOT has_table_privilege(r.oid, c.oid, p.name)
     UNION ALL
    SELECT format('%s, who owns onagui.app_users, may not use the schema onagui: sign-ups are written as the owner', quote_ident(r.rolname)),
           format('GRANT USAGE ON SCHEMA onagui TO %I;', r.rolname)
      FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
     WHERE c.oid = $1 AND NOT has_schema_privilege(r.oid, c.relnamespace, 'USAGE')";

/// Clients of the API for whom row security and the table's rights leave e-mails open, in whatever column they are. By an e-mail that
/// somebody else is to have a user keeps these from their app user.
///
/// The remedy takes nothing else away, and gives nobody what they have not got.
const EXPOSED: &str = "
    WITH holds_email AS (
        SELECT a.attname
          FROM pg_attribute a
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
           AND (a.attname = 'email'
                OR CASE WHEN EXISTS (SELECT FROM onagui.sync_column s WHERE s.app_column = a.attname)
                        THEN EXISTS (SELECT FROM onagui.sync_column s
                                      WHERE s.app_column = a.attname
                                        AND CASE s.source WHEN 'column' THEN s.key IN ('email', 'email_change', 'raw_user_meta_data', 'raw_app_meta_data')
                                                          ELSE coalesce(s.key, 'email') = 'email' END)
                        ELSE a.attname = 'metadata' END
                OR a.attgenerated <> ''
                   AND EXISTS (SELECT FROM pg_attribute e
                                 JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = e.attnum
                                WHERE e.attrelid = $1 AND e.attname = 'email'
                                  AND (d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.objsubid = a.attnum
                                       OR d.classid = 'pg_attrdef'::regclass
                                          AND d.objid IN (SELECT f.oid FROM pg_attrdef f WHERE f.adrelid = $1 AND f.adnum = a.attnum))))),
    client AS (
        SELECT r.oid, r.rolname, r.rolbypassrls FROM pg_roles r WHERE r.rolname IN ('anon', 'authenticated')),
    open AS (
        SELECT r.rolname AS role, p.what, c.oid, has_table_privilege(r.oid, c.oid, p.what) AS of_table,
               EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0 AND a.privilege_type = p.what) AS is_public,
               (SELECT string_agg(quote_ident(h.attname), ', ' ORDER BY h.attname <> 'email', h.attname)
                  FROM holds_email h
                 WHERE (p.what = 'SELECT' OR h.attname = 'email') AND has_column_privilege(r.oid, c.oid, h.attname, p.what)) AS columns
          FROM pg_class c
         CROSS JOIN client r
          JOIN (VALUES ('SELECT', 'r'), ('UPDATE', 'w')) AS p(what, cmd) ON p.what = 'UPDATE' OR r.rolname = 'anon'
         WHERE c.oid = $1 AND has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
           AND (NOT c.relrowsecurity OR r.rolbypassrls
                OR EXISTS (SELECT FROM pg_policy y
                            WHERE y.polrelid = c.oid AND y.polpermissive AND y.polcmd IN ('*', p.cmd)
                              AND (0 = ANY (y.polroles) OR r.oid = ANY (y.polroles))
                              -- A row of one's own shows nobody else's e-mail.
                              AND (p.what = 'UPDATE' OR pg_get_expr(y.polqual, y.polrelid) = 'true'))))
    SELECT CASE o.what
           WHEN 'SELECT' THEN format('%I may read everybody''s e-mail in onagui.app_users (%s)', o.role, o.columns)
           ELSE format('%I may change the e-mail in onagui.app_users: whoever writes somebody else''s there keeps them from their app user', o.role) END,
           CASE WHEN NOT o.of_table THEN format('REVOKE %s (%s) ON onagui.app_users FROM %I;', o.what, o.columns, o.role)
                ELSE format('REVOKE %s ON onagui.app_users FROM %s%I;', o.what, CASE WHEN o.is_public THEN 'PUBLIC, ' END, o.role)
                     || coalesce(anew.grants, '') END
      FROM open o
     -- What goes along with the right to the table.
     CROSS JOIN LATERAL (
           SELECT string_agg(CASE WHEN g.whole THEN format(' GRANT %s ON onagui.app_users TO %I;', o.what, g.rolname)
                                  WHEN g.columns IS NOT NULL THEN format(' GRANT %s (%s) ON onagui.app_users TO %I;', o.what, g.columns, g.rolname)
                                  ELSE '' END, '' ORDER BY g.rolname) AS grants
             FROM (SELECT r.rolname, r.rolname = 'service_role' OR r.rolname = 'authenticated' AND o.what = 'SELECT' AND o.role = 'anon' AS whole,
                          (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                             FROM pg_attribute a
                            WHERE a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
                              AND has_column_privilege(r.oid, o.oid, a.attnum, o.what)
                              AND CASE o.what WHEN 'SELECT' THEN a.attname NOT IN (SELECT h.attname FROM holds_email h)
                                              ELSE a.attname NOT IN ('id', 'email') AND a.attgenerated = '' END) AS columns
                     FROM pg_roles r
                    WHERE r.rolname = o.role
                       OR o.is_public AND r.rolname IN ('anon', 'authenticated', 'service_role')
                          AND has_table_privilege(r.oid, o.oid, o.what)) g) anew
     WHERE o.columns IS NOT NULL
     ORDER BY 1";

const PRIVILEGES: &str = "
    WITH member AS (
        SELECT d.classid, d.objid
          FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'onagui_sync'),
    object AS (
        SELECT 'ROUTINE ' || p.oid::regprocedure AS name, p.proname AS short, p.oid, true AS is_function,
               coalesce(p.proacl, acldefault('f', p.proowner)) AS acl,
               p.prorettype = 'trigger'::regtype
               OR p.proname IN ('enable_sync', 'disable_sync', 'register_reference', 'unregister_reference',
                                'create_app_users', 'prune_audit') AS is_installers
          FROM member m JOIN pg_proc p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass
         UNION ALL
        SELECT 'TABLE ' || c.oid::regclass, c.relname, c.oid, false, c.relacl, false
          FROM member m JOIN pg_class c ON c.oid = m.objid AND m.classid = 'pg_class'::regclass
         WHERE c.relkind IN ('r', 'v')),
    granted AS (
        SELECT o.*, a.privilege_type,
               CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE r.rolname END AS grantee
          FROM object o CROSS JOIN LATERAL aclexplode(o.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee)
    SELECT format('%s has %s on %s', g.grantee, g.privilege_type, g.name),
           format('REVOKE %s ON %s FROM %s;', g.privilege_type, g.name,
                  CASE g.grantee WHEN 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(g.grantee) END)
      FROM granted g
     WHERE (g.grantee IN ('PUBLIC', 'anon', 'authenticated')
            AND NOT (g.short = 'sync_ping' AND g.grantee <> 'PUBLIC')
            AND NOT (g.short = 'sync_user_registration' AND g.grantee = 'authenticated'))
        OR (g.grantee = 'service_role'
            AND (g.is_installers OR NOT g.is_function AND g.privilege_type <> 'SELECT'))
     UNION ALL
    SELECT format('service_role may not use %s', o.name),
           format('GRANT %s ON %s TO service_role;', CASE WHEN o.is_function THEN 'EXECUTE' ELSE 'SELECT' END, o.name)
      FROM object o
     WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role')
       AND CASE WHEN o.is_function
                THEN NOT o.is_installers AND NOT has_function_privilege('service_role', o.oid, 'EXECUTE')
                ELSE o.short IN ('user_sync_status', 'sync_audit_log')
                     AND NOT has_table_privilege('service_role', o.oid, 'SELECT') END
     UNION ALL
    SELECT 'service_role may not use schema onagui',
           format('GRANT USAGE ON SCHEMA onagui TO %s;',
                  (SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles
                    WHERE rolname IN ('anon', 'authenticated', 'service_role')))
     WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role') AND NOT has_schema_privilege('service_role', 'onagui', 'USAGE')
     UNION ALL
    SELECT format('%s may create objects in schema onagui', g.grantee),
           format('REVOKE CREATE ON SCHEMA onagui FROM %s;',
                  CASE g.grantee WHEN 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(g.grantee) END)
      FROM (SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE r.rolname END AS grantee
              FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
             WHERE n.nspname = 'onagui' AND a.privilege_type = 'CREATE') g
     WHERE g.grantee IN ('PUBLIC', 'anon', 'authenticated', 'service_role')
     ORDER BY 1";

/// The extension writes as each table's owner with row security not forced. Only a trigger function of the table's that
/// is SECURITY DEFINER leaves that, and meets the policies again where row security is forced on its owner.
pub fn row_security(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let app = App::read(session)?;
    let rows = read(
        session,
        "SELECT format('row security is forced on onagui.app_users, and its trigger %s calls %s, which is SECURITY DEFINER and has to obey the policies while a sign-up is written',
                       t.tgname, p.oid::regprocedure),
                'ALTER TABLE onagui.app_users NO FORCE ROW LEVEL SECURITY;'
           FROM pg_class c
           JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
           JOIN pg_proc p ON p.oid = t.tgfoid AND p.prosecdef
           JOIN pg_roles r ON r.oid = p.proowner AND NOT r.rolsuper AND NOT r.rolbypassrls
          WHERE c.oid = $1 AND c.relrowsecurity AND c.relforcerowsecurity
          ORDER BY t.tgname",
        &[app.table.into()],
    );
    report.warn_each(&rows, "row security keeps no sign-up from being written");
    Ok(())
}
