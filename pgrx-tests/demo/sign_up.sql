-- One sign-up with :email and :meta, in the statements of the Auth server; :confirmed says whether the mail is waited for.
-- Whoever includes it is the Auth server's role then; the id is in :id.
\connect - supabase_auth_admin
SELECT gen_random_uuid() AS id, gen_random_uuid() AS session, md5(random()::text) AS token \gset
\set phone ''
\set app_meta '{"provider": "email", "providers": ["email"]}'
\set provider email
\set sso false
\set anonymous false
BEGIN;
\ir ../fixtures/auth_server/insert_user.sql
\if :confirmed
  \ir ../fixtures/auth_server/confirm_email.sql
COMMIT;
BEGIN;
  \ir ../fixtures/auth_server/sign_in.sql
\else
  \ir ../fixtures/auth_server/ask_to_confirm.sql
\endif
COMMIT;
