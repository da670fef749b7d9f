//! Builds and keeps the statements; the only room that runs SQL.
//!
//! Every statement runs inside [`crate::pg::as_role`], which pins the search_path to `pg_catalog, pg_temp`. Functions
//! and operators are never looked up in pg_temp, so an unqualified one is the server's own.

pub mod audit;
pub mod candidates;
pub mod changes;
pub mod checks;
pub mod collisions;
pub mod creation;
pub mod done;
pub mod emails;
pub mod facts;
pub mod fields;
pub mod fit;
pub mod followers;
pub mod health;
pub mod mapping;
pub mod merge;
pub mod one_statement;
pub mod order;
pub mod people;
pub mod plan;
pub mod publications;
pub mod refresh;
pub mod registration;
pub mod rekey;
pub mod restored;
pub mod rows;
pub mod settle;
pub mod signup;
pub mod status;
pub mod steps;
pub mod undo;
pub mod variants;
pub mod verify;
mod whose;
mod writing;

use crate::pg::{Mode, RowSet, Session};
use pgrx::pg_sys::Oid;

/// The rows a trigger was called for, as statements name them.
pub const NEW_USERS: &std::ffi::CStr = c"new_users";

/// Offers `new` to the statements of `session` as `new_users`.
pub fn offer_new(session: &Session, new: &RowSet) {
    session.offer(NEW_USERS, new);
}

/// The look-up key of an e-mail expression: what makes two e-mails the same. An index on it serves the look-up.
pub fn email_key(expression: &str) -> String {
    format!("lower(btrim({expression}::text))")
}

/// A source for FROM: the elements of an argument that is a [`crate::pg::Json`] array, each a jsonb `r` with its `place`, from
/// 1 to `count`. They are parsed one at a time: a jsonb of all of them takes ten times their size to be made. The planner
/// learns that they are few; it would take a few for a hundred, and read a whole table rather than look these up in it.
pub fn elements(argument: &str, count: usize) -> String {
    format!(
        "(SELECT e.r::jsonb AS r, e.place FROM json_array_elements({argument}) WITH ORDINALITY AS e(r, place) LIMIT {count})"
    )
}

/// Whether there is a cast from one type to another.
pub fn has_cast(session: &Session, from: Oid, to: Oid, mode: Mode) -> bool {
    const CAST: &str =
        "SELECT EXISTS (SELECT FROM pg_cast WHERE castsource = $1 AND casttarget = $2)";
    session.run(CAST, &[from.into(), to.into()], mode).one().unwrap_or_default()
}

/// A name as SQL writes it.
pub fn quote(name: &str) -> String {
    pgrx::spi::quote_identifier(name)
}
