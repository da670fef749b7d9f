//! Auth's e-mail comes to a row to which others refer by the one it has: they follow.

use super::done::Done;
use super::merge::Merge;
use super::rekey::{Collision, Mover};
use super::rows::Text;
use super::signup::Target;
use crate::error::Error;
use crate::pg::{self, Mode, connect};
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
                    let between: Vec<_> =
                        emails.iter().map(|(id, _)| (*id, Some(placeholder(*id)))).collect();
                    Ok(bring(&between)?.into_iter().chain(bring(emails)?).collect())
                }
                brought => brought,
            }
        })
    }
}

/// What a user has for an e-mail until the one they are to get is free. RFC 2606: it is in nobody's domain.
pub fn placeholder(id: Uuid) -> String {
    let id: String = id.to_string().chars().filter(|c| *c != '-').take(16).collect();
    format!("{id}@x.invalid")
}
