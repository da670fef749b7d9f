-- Sign-ups as they arrive. Statements are shown with `\set ECHO queries`; the Auth server's only where they are the point.
\set ECHO none
\echo
\echo '=== The extension, installed by postgres, who is no superuser'
\set ECHO queries
SELECT current_user, current_setting('is_superuser') AS superuser;
CREATE EXTENSION onagui_sync;
SELECT onagui.create_app_users();
SELECT tgname AS "triggers on auth.users" FROM pg_trigger WHERE tgrelid = 'auth.users'::regclass AND NOT tgisinternal ORDER BY 1;

\set ECHO none
\echo '=== Ann signs up. This is what the Auth server sends, in its two transactions'
\set confirmed true
\set email 'ann@example.com'
\set meta '{"username": "ann", "full_name": "Ann Archer"}'
\set QUIET off
\ir sign_up.sql
\set QUIET on
\echo
\echo '=== Bob names no username; Cleo wants one that is taken'
\set email 'bob@example.com'
\set meta '{}'
\ir sign_up.sql
\set email 'cleo@example.com'
\set meta '{"username": "ann"}'
\ir sign_up.sql
\connect - postgres
\set ECHO queries
SELECT a.id, a.email AS "email in auth.users", u.email AS "in onagui.app_users", u.username, u.full_name
  FROM auth.users a LEFT JOIN onagui.app_users u USING (id) ORDER BY a.created_at;

\set ECHO none
\echo '=== The application knew Dora before she signs up: her row has another id, and a role refers to it'
\set ECHO queries
CREATE TABLE public.roles (user_id uuid NOT NULL REFERENCES onagui.app_users, role text);
WITH dora AS (INSERT INTO onagui.app_users (id, email, username) VALUES (gen_random_uuid(), 'dora@example.com', 'dora') RETURNING id)
INSERT INTO public.roles SELECT id, 'editor' FROM dora RETURNING *;

\set ECHO none
\echo '=== She signs up. Until she has followed the link in the mail, anybody could have typed her address: nothing is linked'
\set confirmed false
\set email 'dora@example.com'
\ir sign_up.sql
\connect - postgres
\set ECHO queries
SELECT action, outcome, email FROM onagui.sync_audit_log ORDER BY audit_id;

\set ECHO none
\echo '=== The link is followed: her row, and what refers to it, gets the id that Auth knows her by'
\connect - supabase_auth_admin
BEGIN;
\ir ../fixtures/auth_server/confirm_email.sql
COMMIT;
\connect - postgres
\set ECHO queries
SELECT a.id AS "id in auth.users", u.id AS "id in onagui.app_users", r.role
  FROM auth.users a LEFT JOIN onagui.app_users u USING (email) LEFT JOIN public.roles r ON r.user_id = u.id
 WHERE a.email = 'dora@example.com';

\set ECHO none
\echo '=== A conflict: Bob deletes his account, and somebody signs up with his address. Is it Bob? A person must say'
\connect - supabase_auth_admin
DELETE FROM users WHERE email = 'bob@example.com';
\set confirmed true
\set email 'bob@example.com'
\ir sign_up.sql
\connect - postgres
\set ECHO queries
SELECT a.id AS "signed up as", u.id AS "row of the first Bob", u.username
  FROM auth.users a JOIN onagui.app_users u ON u.email = a.email WHERE a.email = 'bob@example.com';
SELECT action, outcome, email, auth_user_id, old_app_user_id FROM onagui.sync_audit_log ORDER BY audit_id;

\set ECHO none
\echo '=== Even with onagui.app_users gone, people can sign up; what could not be done is on record'
\set ECHO queries
ALTER TABLE onagui.app_users RENAME TO app_users_old;
\set ECHO none
\set email 'emil@example.com'
\ir sign_up.sql
\connect - postgres
\set ECHO queries
ALTER TABLE onagui.app_users_old RENAME TO app_users;
SELECT count(*) AS "Emil in auth.users" FROM auth.users WHERE email = 'emil@example.com';
SELECT outcome, email, details #>> '{error,sqlstate}' AS sqlstate, details #>> '{error,message}' AS message
  FROM onagui.sync_audit_log ORDER BY audit_id DESC LIMIT 1;
\set ECHO none
