//! SQLSTATE, message, DETAIL and HINT of every error.

use super::{Decision, Error, Failure, plain};
use crate::catalog::tables::{APP_USERS, AUTH_USERS};
use onagui_decide::registration::Wrong;
use onagui_decide::repair::Action;

/// What makes rows without an id like others.
pub const GIVE_IDS: &str = "UPDATE onagui.app_users SET id = gen_random_uuid() WHERE id IS NULL;";

/// What lets those have a row who have no e-mail.
pub const SPARE_EMAIL: &str = "ALTER TABLE onagui.app_users ALTER COLUMN email DROP NOT NULL;";

/// What to do about a column of `auth.users`.
pub const MADE_BY_AUTH: &str =
    "The Auth server makes this column; do not add or change it by hand.";

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (sqlstate, message, detail, hint): (&str, String, String, String) = match error {
            Error::Raised(failure) => return *failure,
            // The trigger.
            Error::NotATrigger => (
                "39P01",
                "sync_auth_user_to_app_users() was not called by a trigger".into(),
                "It was called as an ordinary function.".into(),
                "SELECT onagui.enable_sync(); attaches it to auth.users.".into(),
            ),
            Error::NotAfter => (
                "39P01",
                "sync_auth_user_to_app_users() must be fired AFTER the change".into(),
                "The trigger is a BEFORE or INSTEAD OF trigger.".into(),
                "Drop the trigger, then SELECT onagui.enable_sync(); attaches the right ones.".into(),
            ),
            Error::NotForEachRow => (
                "39P01",
                "sync_auth_user_to_app_users() must be fired for each row on UPDATE".into(),
                "The trigger is a FOR EACH STATEMENT trigger.".into(),
                "Drop the trigger, then SELECT onagui.enable_sync(); attaches the right ones.".into(),
            ),
            Error::NoTransitionTable => (
                "39P01",
                "sync_auth_user_to_app_users() needs a transition table".into(),
                "The statement trigger has no REFERENCING clause.".into(),
                "Drop the trigger, then SELECT onagui.enable_sync(); attaches the right ones.".into(),
            ),
            Error::WrongTable { table } => (
                "39P01",
                "sync_auth_user_to_app_users() belongs on auth.users only".into(),
                format!("It was fired by a trigger on {table}."),
                "Drop that trigger. SELECT onagui.enable_sync(); attaches the right ones to auth.users."
                    .into(),
            ),
            // The two tables, and who may do what with them.
            Error::TableMissing { table } => (
                "42P01",
                format!("table {table} does not exist"),
                format!("onagui_sync works on auth.users and onagui.app_users; {table} was not found."),
                if table == "onagui.app_users" {
                    "Create it in a migration of your own, or call SELECT onagui.create_app_users();"
                        .into()
                } else {
                    "Supabase Auth creates it; start the Auth server once, or create it, then SELECT onagui.enable_sync();"
                        .into()
                },
            ),
            Error::ColumnMissing { table, column } => (
                "42703",
                format!("table {table} has no column {column}"),
                format!("onagui_sync needs {table} to have the columns id uuid and email."),
                match table {
                    AUTH_USERS => MADE_BY_AUTH.into(),
                    _ => format!("ALTER TABLE {table} ADD COLUMN {column} ...;"),
                },
            ),
            Error::ColumnUnfit { table, column, found, wanted } => (
                "42804",
                format!("column {column} of {table} has a type onagui_sync cannot use"),
                format!("It is {found}; it must be {wanted}."),
                match table {
                    AUTH_USERS => MADE_BY_AUTH.into(),
                    _ => format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE ...;"),
                },
            ),
            Error::NotATable { table, kind } => (
                "42P01",
                format!("{table} is not a table"),
                format!("It is a {kind}; onagui_sync writes to ordinary and partitioned tables only."),
                "Rename it and create a table of that name.".into(),
            ),
            Error::NotInSnapshot { table } => (
                "42P01",
                format!("{table} is newer than what this transaction sees"),
                "The transaction is REPEATABLE READ or SERIALIZABLE, and the table was created after it had begun.".into(),
                "A new transaction sees it.".into(),
            ),
            Error::AuthNotOrdinary { kind } => (
                "42P01",
                "auth.users is not an ordinary table".into(),
                format!("It is a {kind}; onagui_sync follows the ordinary table that the Auth server makes."),
                "Let auth.users be an ordinary table, also where logical replication fills it; then SELECT onagui.enable_sync();"
                    .into(),
            ),
            Error::MayNotAttach { role } => (
                "42501",
                "permission denied: onagui_sync reads auth.users and attaches triggers to it".into(),
                format!("Role {role} may not SELECT from auth.users or not create a TRIGGER on it."),
                "Let a role that may, or a superuser, call it.".into(),
            ),
            Error::TriggerNameTaken { name } => (
                "42710",
                format!("auth.users has a trigger {name} that is not the extension's"),
                "It calls another function than onagui.sync_auth_user_to_app_users().".into(),
                "Drop the trigger, for example with DROP FUNCTION ... CASCADE of the function it calls, or have the owner of auth.users \
                 rename it; then call enable_sync(), or CREATE EXTENSION, again."
                    .into(),
            ),
            Error::AuthUsersBusy => (
                "55P03",
                "auth.users is in use by a transaction that did not end in time".into(),
                "Triggers are made and dropped when nobody else uses the table, and sign-ups wait behind whoever waits for that: at most as long \
                 as onagui_sync.lock_timeout and lock_timeout say."
                    .into(),
                "Try again once it has ended (a dump?): SELECT pid, state, xact_start, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks \
                 WHERE relation = 'auth.users'::regclass). To switch syncing off at once: LOAD 'onagui_sync'; ALTER SYSTEM SET onagui_sync.enabled = off; \
                 SELECT pg_reload_conf();"
                    .into(),
            ),
            Error::RowsDiscarded { wanted, written } => (
                "09000",
                "a trigger or rule on onagui.app_users discarded the row".into(),
                format!("{written} of {wanted} rows were written."),
                "A BEFORE trigger must return the row: RETURN NEW.".into(),
            ),
            Error::NoAuthId => (
                "23502",
                "the auth user has no id".into(),
                "auth.users.id is NULL, and an app user has the id of the auth user.".into(),
                "ALTER TABLE auth.users ALTER COLUMN id SET NOT NULL; keeps such rows out.".into(),
            ),
            Error::IdChanged => (
                "09000",
                "a trigger on onagui.app_users changed the id of the row".into(),
                "The row must have the id of the auth user.".into(),
                "A BEFORE INSERT trigger must leave NEW.id as it is.".into(),
            ),
            Error::MayNotCreate { role } => (
                "42501",
                "permission denied to create a table in schema onagui".into(),
                format!("Role {role} lacks CREATE on the schema."),
                format!("GRANT CREATE ON SCHEMA onagui TO {role}; as the schema's owner."),
            ),
            // What was asked of the status.
            Error::UnknownStatus { found } => (
                "22023",
                format!("{found} is not a status"),
                format!("p_status holds {found}."),
                "A status is SYNCED, EMAIL_MISMATCH, MISMATCHED, DUPLICATE, MISSING_IN_APP_USERS, MISSING_IN_AUTH, \
                 PENDING or CONFLICT, for example p_status => ARRAY['MISMATCHED', 'DUPLICATE']."
                    .into(),
            ),
            Error::NegativeLimit { limit } => (
                "22023",
                "p_limit must not be negative".into(),
                format!("p_limit is {limit}."),
                "Leave p_limit out, or NULL, for all rows.".into(),
            ),
            // A user who cannot be repaired.
            Error::HeldBack { table } => (
                "55000",
                format!("rows of {table} could not be changed"),
                "A trigger of the application held at least one of them back, or wrote something else; nothing was changed.".into(),
                format!(
                    "See the BEFORE triggers of {table}: \\d {table}. One that keeps or sets the column itself, to auth.uid() for instance, can be put aside \
                     by ALTER TABLE {table} DISABLE TRIGGER ...; during the fix, in its transaction, which ends with ENABLE TRIGGER."
                ),
            ),
            Error::AppUserGone { id } => (
                "P0002",
                "there is no such app user".into(),
                format!("onagui.app_users has no row with the id {id}."),
                "SELECT * FROM onagui.user_sync_status; shows the ids of both sides.".into(),
            ),
            Error::AuthUserGone { id } => (
                "P0002",
                "there is no such auth user".into(),
                format!("auth.users has no user with the id {id} that is not deleted."),
                "SELECT * FROM onagui.user_sync_status; shows the ids of both sides.".into(),
            ),
            Error::ChangedMeanwhile { table } => (
                "40001",
                "somebody else changed the user meanwhile".into(),
                format!("A row of {table} is not as it was a moment ago; nothing was changed."),
                "Try again.".into(),
            ),
            Error::TableReplaced { table } => (
                "55000",
                "a table has another owner than a moment ago".into(),
                format!("{table} is not the table that was looked at, or was given to somebody else meanwhile; nothing was written to it."),
                "Look at who has put it there, then try again.".into(),
            ),
            Error::ReferencesChanged => (
                "40001",
                "what refers to users was changed meanwhile".into(),
                "Foreign keys, columns or registered references are not what this transaction saw of them; nothing was changed.".into(),
                "Try again, in a new transaction.".into(),
            ),
            Error::NoKeyToReferTo { table, parent, columns, .. } => (
                "23505",
                "the users cannot be merged: rows refer to a key that the row which stays does not have".into(),
                format!("Rows of {table} refer by ({}) to a key that is NULL in the row of {parent} that stays.", columns.join(", ")),
                format!("Give that row of {parent} a key, or have those rows refer to another, then try again."),
            ),
            Error::KeysDisagree { table, columns } => (
                "23503",
                "the user cannot be moved: rows would have to follow two keys that do not agree".into(),
                format!("Rows of {table} refer by ({}) to rows that do not go together.", columns.join(", ")),
                "Look at those rows, and at what they refer to by these columns; change them, then try again.".into(),
            ),
            Error::KeyIsTaken { table, constraint } => (
                "23503",
                "the users cannot be merged: rows refer to a key that would have to change hands".into(),
                format!(
                    "Rows of {table} refer by the foreign key {constraint} to a key of the leaving user that the auth \
                     user's row lacks, and the foreign key acts on them when a key changes or goes."
                ),
                "Give the auth user's row of onagui.app_users a key of its own, or move those rows, then try again.".into(),
            ),
            Error::Entangled { tables } => (
                "23503",
                "the users cannot be merged: rows that would give way depend on each other".into(),
                format!("Rows of {tables} would give way, and pass their keys on to one another."),
                "Merge with the other p_on_conflict, or remove the conflicts of one of these tables by hand first.".into(),
            ),
            Error::DoesNotFit { table, column, kind } => (
                "22001",
                format!("a value does not fit into {column} of {table}"),
                format!("The column is of type {kind}; the value would be cut or rounded."),
                format!("Give the column room: ALTER TABLE {table} ALTER COLUMN {column} TYPE ...;"),
            ),
            Error::Orphans { table, constraint, rows } => (
                "23503",
                "the user cannot be moved: rows would refer to nobody".into(),
                format!("{} of {table} would violate the foreign key {constraint}, or do so already (NOT VALID).", rows_in_words(rows)),
                "Let those rows refer to what is there, or to NULL, then try again.".into(),
            ),
            Error::CannotLeave { table, constraint, rows } => (
                "0A000",
                "the user cannot be moved: rows would have to leave their partition".into(),
                format!(
                    "{} of {table} would go to another partition; the foreign key {constraint} refers to one that has \
                     partitions itself, and PostgreSQL moves no row out of these.",
                    rows_in_words(rows)
                ),
                "Let the foreign key refer to the whole table, or to a partition that has none, then try again.".into(),
            ),
            Error::HeldByPublication { table, publication, write } => (
                "55000",
                "the user cannot be moved: rows of a published table cannot be changed".into(),
                format!(
                    "The publication {publication:?} publishes {write}s of {table}, which has no replica identity; the server \
                     refuses every {} there, even that of a foreign key (ON ... CASCADE, SET NULL) which meets no row.",
                    write.to_uppercase()
                ),
                format!("Give it a primary key, or ALTER TABLE {table} REPLICA IDENTITY FULL; then try again."),
            ),
            Error::Adopted { table } => (
                "55000",
                "rows that had the id already refer to the user now".into(),
                format!("rows of {table} had the id before the user got it, and refer to the user since"),
                "Remove or change those rows, then try again.".into(),
            ),
            Error::CannotTellApart { table } => (
                "55000",
                "rows cannot be told apart".into(),
                format!("rows of {table} had the id before, have changed, and cannot be told apart for want of a primary key"),
                "Give the table a primary key.".into(),
            ),
            Error::Collides { what, action } => (
                "23505",
                match action {
                    Action::Merge => "the users cannot be merged: both have rows of which only one may exist".into(),
                    Action::UpdateEmail => "the e-mail cannot be taken over: rows with it exist already".into(),
                    Action::Create => "the row cannot be made: a row with one of its values exists already".into(),
                    _ => "the user cannot be re-keyed: rows with the new id exist already".into(),
                },
                what,
                match action {
                    Action::Merge => "Choose whose rows stay: fix_user_ids(), fix_user_id() and fix_all_user_ids() take p_on_conflict => 'keep_auth' or 'keep_app', \
                     for example SELECT * FROM onagui.fix_user_ids(ARRAY['...'], p_apply => true, p_on_conflict => 'keep_auth'); What gives \
                     way is kept in the audit log and undo_fix() brings it back."
                        .into(),
                    _ => "Look at those rows, remove or change what should not be there, then try again.".into(),
                },
            ),
            Error::CollidesWithOthers { what } => (
                "23505",
                "the users cannot be merged: rows would collide with others that are not theirs".into(),
                what,
                "Such a row does not give way, whatever p_on_conflict says: look at the two, change or remove one of them, then try again.".into(),
            ),
            Error::TooMuchToKeep { megabytes } => (
                "54000",
                "the users cannot be merged: more changes than an entry of the audit log can keep".into(),
                format!("To take it back, {megabytes} MB would have to be kept; an entry has room for 160."),
                "Merge with the other p_on_conflict, or remove or move some of the rows that would give way by hand first.".into(),
            ),
            Error::ValuesMissing { table, columns } => (
                "23502",
                "the row cannot be made: columns that are NOT NULL would have no value".into(),
                format!("{table} demands ({}), for which there is neither a value in auth.users nor a default that would do.", columns.join(", ")),
                match columns.iter().any(|column| column == "email") && table == APP_USERS {
                    // It is not for sync_column to say where it comes from.
                    true => format!("Users who sign up by phone or anonymously have no e-mail: {SPARE_EMAIL}"),
                    false => format!("Give it a DEFAULT, or tell where it comes from: INSERT INTO onagui.sync_column (app_column, source, key) VALUES ({}, 'user_meta', '...');", pgrx::spi::quote_literal(&columns[0])),
                },
            ),
            Error::RefersToNobody { table, columns, constraint } => (
                "23503",
                "the row cannot be made: it would refer to what is not there".into(),
                format!("What {table} would have in ({}) violates its foreign key {constraint}.", columns.join(", ")),
                "Make the row it is to refer to, or change the column's DEFAULT or where its value comes from (onagui.sync_column), then try again.".into(),
            ),
            Error::Violates { what, on_the_way: false } => (
                "23514",
                "rows would violate a CHECK constraint, or fit into no partition".into(),
                what,
                "Change those rows, what the constraint demands, or make the partition; then try again.".into(),
            ),
            Error::Violates { what, on_the_way: true } => (
                "23514",
                "rows would violate a CHECK constraint, or fit into no partition, on the way".into(),
                format!("{what} Rows that give way pass their keys on, and between two steps what refers to them has the id of another user, or another key."),
                "Merge with the other p_on_conflict, change what the constraint demands, or remove the conflicts of these tables by hand first; then try again.".into(),
            ),
            // Who is who.
            Error::EmailTaken { email } => (
                "23505",
                "another app user holds this e-mail".into(),
                format!("{email} is in onagui.app_users under another id."),
                "SELECT * FROM onagui.sync_status(p_email => '...'); shows both. If the other one is to get another e-mail in turn, name both in one call: SELECT * FROM onagui.fix_user_ids(ARRAY['...', '...'], p_apply => true); else change theirs, or merge the two.".into(),
            ),
            Error::UnknownEmail { email } => (
                "P0002",
                "nobody has this e-mail".into(),
                format!("Neither auth.users nor onagui.app_users has {email:?}."),
                "Case and outer spaces do not matter; look for it with SELECT * FROM onagui.sync_status(p_email => '...');".into(),
            ),
            Error::OnlyAnAppUser { email } => (
                "P0002",
                "no auth user has this e-mail".into(),
                format!("Only onagui.app_users has {email:?}, so there is no id to take over."),
                "The person must sign up first; a confirmed sign-up with this e-mail links the app user by itself, unless its id was an auth user's once or onagui_sync.link_by_email is never.".into(),
            ),
            Error::Conflict { email, reason, decision } => (
                "21000",
                "a person must decide who is who".into(),
                format!("{email}: {reason}."),
                match decision {
                    Decision::AnothersRow => "SELECT * FROM onagui.fix_user_ids(ARRAY['...'], p_apply => true); gives the other user the e-mail they have now; the same once more helps this one.".into(),
                    Decision::NoId => format!("{GIVE_IDS} gives ids to all rows without one; then fix again."),
                    Decision::WhoIsWho => "See SELECT * FROM onagui.sync_status(p_email => '...'); then decide with onagui.fix_user_id(p_app_user_id => ..., p_auth_user_id => ..., p_apply => true).".into(),
                },
            ),
            Error::Unconfirmed { email } => (
                "55000",
                "the e-mail is not confirmed yet".into(),
                format!("The auth user with {email} has not confirmed it: anybody could have signed up with it."),
                "Wait for the confirmation. It links the app user by itself, unless the auth user has a row already or onagui_sync.link_by_email is never; then fix again.".into(),
            ),
            // What was asked of a repair.
            Error::BadArgument { name, value, wanted } => (
                "22023",
                format!("{name} has a value that does not fit"),
                format!("It is {value}."),
                format!("It must be {wanted}."),
            ),
            Error::NullArgument { name } => (
                "22023",
                format!("{name} must not be NULL"),
                "The function cannot guess what was meant.".into(),
                format!("Give {name} a value."),
            ),
            Error::InTransaction => (
                "25001",
                "fix_all_user_ids() cannot run inside a transaction block".into(),
                "It commits after each batch.".into(),
                "CALL it on its own, outside BEGIN ... COMMIT, or use SELECT * FROM onagui.fix_user_ids(p_apply => true);".into(),
            ),
            // Undo.
            Error::NoSuchAudit { audit_id } => (
                "P0002",
                "there is no such entry in the audit log".into(),
                format!("onagui.sync_audit_log has no audit_id {audit_id}."),
                "SELECT audit_id, occurred_at, action, email FROM onagui.sync_audit_log ORDER BY audit_id DESC;".into(),
            ),
            Error::UndoneAlready { audit_id, by } => (
                "55000",
                "this has been undone already".into(),
                format!("audit_id {audit_id} was undone by audit_id {}.", in_turn(&by)),
                match by.as_slice() {
                    [.., last] if by.len().is_multiple_of(2) => {
                        format!("So it is in force. To undo it: SELECT onagui.undo_fix({last});")
                    }
                    [.., last] => {
                        format!("To do it again, undo the undo: SELECT onagui.undo_fix({last});")
                    }
                    [] => "Nothing was changed.".into(),
                },
            ),
            Error::NothingToUndo { audit_id, action, outcome } => (
                "55000",
                "this entry of the audit log tells of nothing that could be undone".into(),
                format!("audit_id {audit_id} is of action {action}, outcome {outcome}."),
                "What a fix has done can be undone, and a link; what merely followed auth.users cannot.".into(),
            ),
            Error::CannotUndo { audit_id, why } => (
                "55000",
                "this cannot be undone as things are now".into(),
                format!("audit_id {audit_id}: {}.", why.join("; ").trim_end_matches('.')),
                format!(
                    "Nothing was changed. Undo later entries of the log that concern these rows first, the last one first (SELECT audit_id, action, email \
                     FROM onagui.sync_audit_log WHERE audit_id > {audit_id} AND outcome = 'done' AND undone_by IS NULL AND details ?| '{{undo,exchange}}' \
                     ORDER BY audit_id DESC;), or put the rows in order by hand (an e-mail that has followed auth.users since, for instance), then \
                     try again. A trigger of the application may have done it: ALTER TABLE ... DISABLE TRIGGER ...; during the undo, in its transaction, which ends with ENABLE TRIGGER. A foreign key that did not hold before (NOT VALID, or added since) \
                     must be dropped first; it can be added again NOT VALID."
                ),
            ),
            // Registered references.
            Error::NoSuchColumn { table, column } => (
                "42703",
                format!("{table} has no column {column:?}"),
                "A column that is to be registered as a reference must be there.".into(),
                format!("See the columns of {table}: \\d {table}"),
            ),
            Error::NotAReference { table, column, why } => (
                "22023",
                format!("{column} of {table} cannot be registered as a reference"),
                why,
                "A reference is a uuid, text or varchar column, not a generated one, of an ordinary or partitioned table.".into(),
            ),
            Error::NotYoursToMove { table, column } => (
                "42501",
                format!("permission denied for {column} of {table}"),
                "Fixes change what is registered, as the table's owner. Only who may UPDATE the column can register it, or take \
                 that back; where the owner is a superuser, only a superuser can register it."
                    .into(),
                format!("Let the owner of {table} GRANT UPDATE ({column}) on it to you, or do it."),
            ),
            // The registration call.
            Error::NoToken => (
                "42501",
                "permission denied: this call needs the token of the user it is for".into(),
                "request.jwt.claims has no sub with a uuid, so it is not known who is calling.".into(),
                "Sign in first and send the user's access token; a server's own calls use service_role.".into(),
            ),
            Error::NotOneself => (
                "42501",
                "permission denied: users can only register themselves".into(),
                "The userId in the body is not the sub of the token.".into(),
                "Send the id of the user who is signed in, or leave the body to a server's call as service_role.".into(),
            ),
            Error::BadBody(wrong) => {
                let (message, detail) = bad_body(&wrong);
                (
                    "22023",
                    message,
                    detail,
                    r#"For example: {"userId": "8c5d7f5e-...", "email": "ann@example.com", "username": "ann", "metadata": {"theme": "dark"}}; username and metadata may be left out."#.into(),
                )
            }
            Error::NotAnAuthUser => (
                "22023",
                "userId is not the id of an auth user".into(),
                "auth.users has no user with this id that is not deleted; nothing is made for ids it does not know.".into(),
                "Sign the user up first: auth.signUp() alone makes the app user, too.".into(),
            ),
            Error::NotTheirEmail => (
                "22023",
                "email is not the auth user's e-mail".into(),
                "auth.users has another e-mail for this userId, or none.".into(),
                "Send the e-mail the user has signed up with; to change it, use auth.updateUser(), and the app user follows.".into(),
            ),
            Error::UsernameTaken { username } => (
                "23505",
                "this username is taken".into(),
                format!("Another app user has the username {username:?}."),
                "Choose another one, or leave it out: then a free one is found at the first registration.".into(),
            ),
            Error::RegistrationConflict { reason } => (
                "21000",
                "the user cannot be registered: a person must decide who is who".into(),
                format!("The reason: {reason}."),
                "An operator sees both sides with SELECT * FROM onagui.sync_status(p_email => '...'); and decides with onagui.fix_user_id(...).".into(),
            ),
            Error::AppRefused { sqlstate, constraint } => {
                let detail = match constraint {
                    Some(name) => format!("The constraint {name:?} or a trigger of the application refused it ({sqlstate})."),
                    None => format!("The application's table or one of its triggers refused it ({sqlstate})."),
                };
                return Failure {
                    sqlstate,
                    message: "the app user could not be written".into(),
                    detail: Some(plain(&detail)),
                    hint: Some("The server's log has the error in full, for those who run the application.".into()),
                    ..Failure::default()
                };
            }
            // All calls.
            Error::Rehearsed => {
                return Failure { is_rehearsal: true, message: "rehearsed".into(), ..Failure::default() };
            }
            Error::ForeignTable => (
                "42809",
                "users are not looked for on other servers".into(),
                "A partition of onagui.app_users or of auth.users is a foreign table: the connection would be made with the \
                 rights of the extension's owner."
                    .into(),
                "ALTER TABLE ... DETACH PARTITION ...;".into(),
            ),
            Error::NotWhole => (
                "42P01",
                "onagui_sync is not whole: its table onagui.sync_audit_log was not found".into(),
                "The extension's schema or table has been renamed.".into(),
                "Rename it back: ALTER SCHEMA ... RENAME TO onagui;".into(),
            ),
        };
        Failure {
            sqlstate: sqlstate.into(),
            message: plain(&message),
            detail: Some(plain(&detail)),
            hint: Some(plain(&hint)),
            ..Failure::default()
        }
    }
}

impl Failure {
    /// The same, with what to do where code of the application does not see a name.
    pub fn with_advice(mut self) -> Self {
        let is_name = matches!(self.sqlstate.as_str(), "42P01" | "42883" | "42704" | "3F000");
        if is_name && self.context.is_some() {
            let advice = "Code of the application runs with search_path = pg_catalog, pg_temp here: qualify the name, or give \
                          the function a SET search_path.";
            self.hint = Some(
                self.hint.iter().map(String::as_str).chain([advice]).collect::<Vec<_>>().join(" "),
            );
        }
        self
    }
}

fn bad_body(wrong: &Wrong) -> (String, String) {
    let not_fit = |key: &str| format!("{key} in the body does not fit");
    match wrong {
        Wrong::NotAnObject { found } => {
            ("the body must be a JSON object".into(), format!("It is {found}."))
        }
        Wrong::Missing { key } => (
            format!("{key} is missing in the body"),
            format!("There is no key {key}, or it is null; keys are case-sensitive."),
        ),
        Wrong::WrongType { key, found, wanted } => {
            (not_fit(key), format!("It is {found}; it must be {wanted}."))
        }
        Wrong::NotAUuid { found } => (not_fit("userId"), format!("{found:?} is not a uuid.")),
        Wrong::TooLong { key, longest } => (
            not_fit(key),
            format!("It has more than {longest} characters, which is what the column takes."),
        ),
        Wrong::TooLongForIndex { key, length } => (
            not_fit(key),
            format!(
                "It has {length} characters, which is more than the index on the column takes."
            ),
        ),
    }
}

fn in_turn(by: &[i64]) -> String {
    let by: Vec<String> = by.iter().map(i64::to_string).collect();
    by.join(", that by audit_id ")
}

fn rows_in_words(rows: usize) -> String {
    format!("{rows} row{}", if rows == 1 { "" } else { "s" })
}
