//! Whether the confirmation that an auth user has is one of the e-mail they have.

use crate::pg::{self, Seen};
use pgrx::Uuid;
use std::cell::RefCell;
use std::collections::HashSet;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Given,
    /// It is of another one, as far as `auth.users` tells.
    Lacking,
    /// As it was before: the log may know better.
    AsRecorded,
}

thread_local! {
    /// Who was confirmed, or linked, in which transaction, the latest of the session's.
    static CONFIRMED: RefCell<(u64, HashSet<Uuid>)> = RefCell::default();
}

/// No more are noted of one transaction: whoever confirms as many is no administrator who corrects an e-mail.
const MOST: usize = 100_000;

/// Notes that an auth user has been confirmed, or linked, in this transaction.
pub fn note(id: Uuid) {
    CONFIRMED.with_borrow_mut(|(transaction, confirmed)| {
        if *transaction != pg::transaction() {
            (*transaction, *confirmed) = (pg::transaction(), HashSet::new());
        }
        if confirmed.len() < MOST {
            confirmed.insert(id);
        }
    });
}

/// The same, if the UPDATE has confirmed them, anew or for the first time.
pub fn note_if_confirmed(before: &Seen, after: &Seen) {
    if let Some(id) = after.person.id
        && after.confirmed_at.is_some()
        && after.confirmed_at != before.confirmed_at
    {
        note(id);
    }
}

fn was_confirmed_just_now(after: &Seen) -> bool {
    CONFIRMED.with_borrow(|(transaction, confirmed)| {
        after.person.id.is_some_and(|id| confirmed.contains(&id))
            && *transaction == pg::transaction()
    })
}

fn address(email: &Option<String>) -> Option<String> {
    email.as_ref().map(|email| email.to_lowercase())
}

fn is_same_address(before: &Seen, after: &Seen) -> bool {
    address(&before.person.email) == address(&after.person.email)
}

/// An administrator who corrects and confirms an e-mail in one call confirms it before it is set (supabase/auth,
/// internal/api/admin.go, adminUserUpdate): what was confirmed is the e-mail that comes, not the one that was there.
pub fn was_of_another(before: &Seen, after: &Seen) -> bool {
    !is_same_address(before, after) && was_confirmed_just_now(after)
}

impl Proof {
    /// Where an identity is unlinked, the Auth server sets another e-mail first, which anybody may have named as theirs, and takes
    /// the confirmation of the old one back only in a later UPDATE (supabase/auth, internal/models/user.go,
    /// UpdateUserEmailFromIdentities). An e-mail that the user has asked for is confirmed by the UPDATE that sets it and ends the
    /// request (ConfirmEmailChange), or by the next one.
    pub fn of(before: &Seen, after: &Seen) -> Self {
        let is_asked_for = address(&before.email_change) == address(&after.person.email)
            && after.email_change != before.email_change;
        let is_confirmed = after.confirmed_at != before.confirmed_at || is_asked_for;
        if is_confirmed || was_of_another(before, after) {
            Proof::Given
        } else if is_same_address(before, after) {
            Proof::AsRecorded
        } else {
            Proof::Lacking
        }
    }
}
