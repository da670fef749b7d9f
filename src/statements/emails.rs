//! Auth's e-mail comes to a row to which others refer by the one it has: they follow.

use super::done::Done;
use super::merge::Merge;
use super::rekey::{Collision, Mover};
use super::rows::Text;
use super::signup::Target;
use crate::error::{Error, Failure};
use crate::pg::{self, Mode, connect, subtransaction};
use onagui_decide::repair::Action;
use pgrx::Uuid;

/// Whether some foreign key may mind a change of the e-mail: by it, by what is generated from it, or to a partition. Much
/// cheaper than to find out what refers to users.
const MAY_BE_KEY: &str = "
    SELECT EXISTS (SELECT FROM pg_constraint c
                    WHERE c.contype = 'f'
                      AND c.confrelid IN (SELECT $1 UNION ALL SELECT t.relid FROM pg_partition_tree($1::regclass) t)
                      AND (c.confrelid <> $1 AND c.conparentid = 0
                           OR EXISTS (SELECT FROM pg_attribute a
                                       WHERE a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey)
                                         AND (a.attname = 'email' OR a.attgenerated <> ''))))";

impl Target {
    /// Gives app users these e-mails where rows refer to them by those they have, and does nothing where none do. Answers what
    /// was done, step by step.
    pub fn bring_emails(&self, emails: &[(Uuid, Text)]) -> Result<Vec<Vec<Done>>, Error> {
        let may_be_key = || {
            pg::as_role(self.house.owner, || {
                connect(|session| {
                    let rows = session.run_kept(MAY_BE_KEY, &[self.app.table.into()], Mode::Fresh);
                    rows.one().unwrap_or(true)
                })
            })
        };
        if emails.is_empty() || !may_be_key() {
            return Ok(Vec::new());
        }
        connect(|session| {
            let mover = Mover::get(self.house, &self.app)?;
            let users: Vec<Uuid> = emails.iter().map(|(id, _)| *id).collect();
            mover.lock(session, &users);
            let mover = mover.hold(session, &self.app)?;
            if !mover.email_is_key() {
                return Ok(Vec::new());
            }
            let bring = |emails: &[(Uuid, Text)]| {
                let merge = Merge::plan_emails(session, &mover, emails, Mode::Fresh)?;
                match merge.unsettled {
                    true => Err(Error::Collides {
                        what: Collision::in_words(&merge.collisions),
                        action: Action::UpdateEmail,
                    }),
                    false => merge.carry_out(),
                }
            };
            match bring(emails) {
                // To a foreign key that acts it is the e-mail they have, but for its case: it takes a step between.
                Err(Error::Entangled { .. }) => {
                    let between = first_allowed(&Placeholder::ALL, |placeholder| {
                        let of = |(id, email): &(Uuid, Text)| placeholder.of(*id, email.as_deref());
                        let held = emails.iter().map(|user| (user.0, Some(of(user))));
                        bring(&held.collect::<Vec<_>>())
                    })?;
                    Ok(between.into_iter().chain(bring(emails)?).collect())
                }
                brought => brought,
            }
        })
    }
}

/// What a user has for an e-mail until the one they are to get is free.
#[derive(Clone, Copy)]
pub enum Placeholder {
    /// In nobody's domain (RFC 2606).
    Invalid,
    /// In the domain of the one they are to get.
    SameDomain,
    /// The same, as short as can be.
    Short,
}

impl Placeholder {
    pub const ALL: [Self; 3] = [Self::Invalid, Self::SameDomain, Self::Short];

    /// `email` is the one the user `id` is to get.
    pub fn of(self, id: Uuid, email: Option<&str>) -> String {
        // Ids may be alike at their start, or at their end: folded, they still differ.
        let id = u128::from_be_bytes(*id.as_bytes());
        let half = (id >> 64 ^ id) as u64;
        let quarter = (half >> 32 ^ half) as u32;
        let same = email.and_then(|email| Some(email.trim().rsplit_once('@')?.1));
        let domain = same.unwrap_or("x.invalid");
        match self {
            Self::Invalid => format!("{half:016x}@x.invalid"),
            Self::SameDomain => format!("{half:016x}@{domain}"),
            Self::Short => format!("{quarter:08x}@{domain}"),
        }
    }
}

/// Does it in one of the ways of holding an e-mail meanwhile, the first that the application allows: it need not take every
/// e-mail.
pub fn first_allowed<W: Copy, R>(
    ways: &[W],
    attempt: impl Fn(W) -> Result<R, Error>,
) -> Result<R, Box<Failure>> {
    let mut ways = ways.iter().peekable();
    loop {
        let way = ways.next().expect("there is a last way, which is not gone beyond");
        match subtransaction(|| attempt(*way)) {
            Err(failure) if ways.peek().is_some() && is_disallowed(&failure) => {}
            attempted => return attempted,
        }
    }
}

/// By a constraint, or for its length.
fn is_disallowed(failure: &Failure) -> bool {
    let sqlstate = failure.sqlstate.as_str();
    sqlstate == "22001" || sqlstate.starts_with("235") && sqlstate != "23505"
}
