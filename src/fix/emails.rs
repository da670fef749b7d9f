//! Taking auth's e-mails over, also where users of one call hold each other's.

use super::outcome::Outcome;
use super::repair::Repair;
use crate::error::{Error, Failure};
use crate::pg::{self, Arg, Mode, Session, subtransaction};
use crate::statements::candidates::Candidate;
use crate::statements::changes::{self, Done, TableChanges, Update};
use crate::statements::collisions;
use crate::statements::rekey::Collision;
use crate::statements::rows;
use onagui_decide::failure::must_pass_on;
use onagui_decide::repair::{Action, order_of_exchange};
use pgrx::Uuid;
use serde_json::json;
use std::collections::HashMap;

/// Gives each of `todo` auth's e-mail. `leaving` are app users who will be gone by then.
pub fn exchange(
    repair: &Repair,
    todo: Vec<Candidate>,
    leaving: &[Uuid],
) -> Result<Vec<Outcome>, Error> {
    let (todo, without): (Vec<_>, Vec<_>) = todo.into_iter().partition(|c| c.auth_key.is_some());
    let mut outcomes: Vec<Outcome> = without
        .iter()
        .map(|candidate| {
            let mut row = Outcome::of(candidate, Action::None, "unchanged");
            row.details =
                json!({ "reason": "auth has no e-mail; the app user keeps the one it has" });
            row
        })
        .collect();
    let holders: HashMap<&str, usize> =
        todo.iter().enumerate().filter_map(|(i, c)| Some((c.app_key.as_deref()?, i))).collect();
    let wants: Vec<Option<usize>> = todo
        .iter()
        .enumerate()
        .map(|(i, c)| holders.get(c.auth_key.as_deref()?).copied().filter(|holder| *holder != i))
        .collect();
    let (order, rings) = order_of_exchange(&wants);
    if !repair.apply {
        let ids = todo.iter().filter_map(|c| c.app_user_id);
        let ids: Vec<Uuid> = ids.chain(leaving.iter().copied()).collect();
        for candidate in &todo {
            outcomes.push(pg::connect(|session| rehearse(repair, session, candidate, &ids))?);
        }
        return Ok(outcomes);
    }
    // Whoever waits for a ring goes after it.
    for ring in rings {
        let ring: Vec<&Candidate> = ring.into_iter().map(|i| &todo[i]).collect();
        outcomes.extend(together(repair, &ring)?);
    }
    for place in order {
        outcomes.extend(together(repair, &[&todo[place]])?);
    }
    Ok(outcomes)
}

fn rehearse(
    repair: &Repair,
    session: &Session,
    candidate: &Candidate,
    exchanging: &[Uuid],
) -> Result<Outcome, Error> {
    let mut row = Outcome::of(candidate, Action::UpdateEmail, "planned");
    let table = &repair.mover.references.tables[0];
    let shape = repair.mover.shape(session, 0, Mode::Read);
    let source = format!("FROM {} t WHERE t.id = $1", table.target());
    let moved =
        collisions::moved(shape, &source, |c| (c.quoted == "email").then(|| "$2".to_owned()));
    let mut found = Vec::new();
    for unique in shape.touched_by(&["email".to_owned()]) {
        let sql = format!(
            "SELECT count(*) FROM ({}) AS p(a, b, c, d, e)",
            collisions::pairs(table, unique, &moved, "t.id = ANY ($3)")
        );
        let args: [Arg; 3] = [
            Arg::of(candidate.app_user_id),
            Arg::of(candidate.auth_email.clone()),
            exchanging.to_vec().into(),
        ];
        let rows = pg::as_role(table.owner, || {
            session.run(&sql, &args, Mode::Read).one::<i64>().unwrap_or_default()
        });
        if rows > 0 {
            found.push(Collision {
                table: table.label.clone(),
                constraint: unique.name.clone(),
                rows: rows as u64,
            });
        }
    }
    if !found.is_empty() {
        row.outcome = "refused";
        row.details = json!({
            "reason": "another app user holds this e-mail",
            "conflicts": Collision::to_json(&found),
        });
        let email = candidate.email.clone().unwrap_or_default();
        row = row.refused_for(Error::EmailTaken { email });
    }
    Ok(row)
}

/// Changes all of `users` in one subtransaction: one user, or a ring of users who hold each other's e-mails.
fn together(repair: &Repair, users: &[&Candidate]) -> Result<Vec<Outcome>, Error> {
    let done = subtransaction(|| pg::connect(|session| change(repair, session, users)));
    match done {
        Ok(outcomes) => Ok(outcomes),
        Err(failure) if must_pass_on(&failure.sqlstate) && failure.sqlstate != "40001" => {
            Err(failure.into())
        }
        Err(failure) => Ok(users
            .iter()
            .map(|candidate| {
                let failure = if failure.sqlstate == "23505" {
                    let email = candidate.email.clone().unwrap_or_default();
                    Failure {
                        constraint: failure.constraint.clone(),
                        ..Failure::from(Error::EmailTaken { email })
                    }
                } else {
                    (*failure).clone()
                };
                Outcome::failed(candidate, Action::UpdateEmail, Box::new(failure))
            })
            .collect()),
    }
}

fn change(repair: &Repair, session: &Session, users: &[&Candidate]) -> Result<Vec<Outcome>, Error> {
    for still in repair.finder.lock(session, users) {
        if !still {
            if let [alone] = users {
                return Ok(vec![Outcome::overtaken(alone)]);
            }
            let table = repair.mover.references.tables[0].label.clone();
            return Err(Error::ChangedMeanwhile { table });
        }
    }
    let mut steps = Vec::new();
    let mut set = |candidate: &Candidate, before: &Option<String>, after: &Option<String>| {
        let done = set_email(repair, session, candidate, before.clone(), after.clone())?;
        steps.push(json!({ "changes": done }));
        Ok::<_, Error>(())
    };
    let is_ring = users.len() > 1;
    // Nobody holds an address of the ring any more while its members take theirs.
    let parked = |candidate: &Candidate| match (is_ring, candidate.app_user_id) {
        (false, _) => candidate.app_email.clone(),
        (true, _) if may_be_null(repair) => None,
        (true, id) => id.map(|id| format!("exchange-{id}")),
    };
    if is_ring {
        for candidate in users {
            set(candidate, &candidate.app_email, &parked(candidate))?;
        }
    }
    for candidate in users {
        set(candidate, &parked(candidate), &candidate.auth_email)?;
    }
    // A ring is taken back together: one by one, each would find their address with another.
    let id = session.run("SELECT gen_random_uuid()::text", &[], Mode::Fresh).one::<String>();
    Ok(users
        .iter()
        .map(|candidate| {
            let mut row = Outcome::of(candidate, Action::UpdateEmail, "done");
            row.details = json!({ "before": candidate.app_email, "after": candidate.auth_email });
            if is_ring {
                row.details["exchange"] = json!(id);
            }
            row.undo = json!(steps);
            row
        })
        .collect())
}

fn may_be_null(repair: &Repair) -> bool {
    repair.target().app.column("email").is_some_and(|c| !c.not_null)
}

/// Sets the e-mail of the candidate's app user.
fn set_email(
    repair: &Repair,
    session: &Session,
    candidate: &Candidate,
    before: Option<String>,
    after: Option<String>,
) -> Result<Vec<Done>, Error> {
    let table = &repair.mover.references.tables[0];
    let shape = repair.mover.shape(session, 0, Mode::Fresh);
    let id = candidate.app_user_id.ok_or_else(|| Error::AppUserGone { id: "NULL".into() })?;
    let address = rows::address_of(session, table, id)
        .ok_or_else(|| Error::AppUserGone { id: id.to_string() })?;
    let mut of_table = TableChanges::new(table, shape);
    of_table
        .updated
        .insert(vec!["email".into()], vec![Update::new(address, vec![before], vec![after])]);
    changes::apply(session, &repair.mover, &[of_table])
}
