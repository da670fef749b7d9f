-- Break and repair: a mismatched user with roles, the rehearsal, the fix, the undo. Runs after signups.sql.
\set ECHO none
\echo '=== Break: while sync is off, Fay signs up, and the application makes a row for her with an id of its own'
\connect - supabase_admin
ALTER DATABASE demo SET onagui_sync.enabled = off;
\set confirmed true
\set email 'fay@example.com'
\set meta '{}'
\ir sign_up.sql
\connect - supabase_admin
ALTER DATABASE demo RESET onagui_sync.enabled;
\connect - postgres
\set ECHO queries
WITH fay AS (INSERT INTO onagui.app_users (id, email, username) VALUES (gen_random_uuid(), 'fay@example.com', 'fay') RETURNING id)
INSERT INTO public.roles SELECT id, role FROM fay, (VALUES ('editor'), ('cashier')) AS had (role);
SELECT email, auth_user_id, app_user_id, sync_status FROM onagui.user_sync_status WHERE email = 'fay@example.com';

\set ECHO none
\echo '=== Rehearse: what would be done, to which tables and how many rows. Nothing changes'
\set ECHO queries
SELECT action, outcome, rows_changed, details -> 'references' AS "references" FROM onagui.fix_user_ids(ARRAY['fay@example.com']);

\set ECHO none
\echo '=== Repair'
\set ECHO queries
SELECT action, outcome, rows_changed, audit_id FROM onagui.fix_user_ids(ARRAY['fay@example.com'], true);
SELECT a.id = u.id AS "same id", array_agg(r.role ORDER BY r.role) AS roles
  FROM auth.users a JOIN onagui.app_users u USING (email) JOIN public.roles r ON r.user_id = u.id
 WHERE email = 'fay@example.com' GROUP BY 1;

\set ECHO none
\echo '=== Take it back, and do it again'
SELECT max(audit_id) AS done FROM onagui.sync_audit_log WHERE email = 'fay@example.com' \gset
\set ECHO queries
SELECT onagui.undo_fix(:done);
SELECT sync_status FROM onagui.user_sync_status WHERE email = 'fay@example.com';
SELECT onagui.fix_user_id_mismatch('fay@example.com');
SELECT * FROM onagui.sync_summary() WHERE users > 0;
\set ECHO none
