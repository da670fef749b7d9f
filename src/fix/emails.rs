//! Taking auth's e-mails over, also where users of one call hold each other's.

use super::outcome::Outcome;
use super::rehearsal::{collides, may_be_foreseen, refused};
use super::repair::Repair;
use crate::error::{Error, Failure};
use crate::pg::{self, Arg, Mode, Session};
use crate::statements::candidates::Candidate;
use crate::statements::changes::{self, TableChanges, Update, Wanted, Written};
use crate::statements::done::{self, Done, Step};
use crate::statements::emails::{Placeholder, first_allowed};
use crate::statements::merge::Merge;
use crate::statements::rekey::Collision;
use crate::statements::rows;
use crate::statements::{checks, collisions};
use onagui_decide::failure::must_pass_on;
use onagui_decide::repair::{Action, Status, order_of_exchange};
use pgrx::Uuid;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// Gives each of `todo` auth's e-mail; adds to `outcomes` what became of them.
pub fn exchange(
    repair: &Repair,
    todo: Vec<Candidate>,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Error> {
    let (mut todo, without): (Vec<_>, Vec<_>) =
        todo.into_iter().partition(|c| c.auth_key.is_some());
    outcomes.extend(without.iter().map(|candidate| {
        let mut row = Outcome::of(candidate, Action::None, "unchanged");
        row.details = json!({ "reason": "auth has no e-mail; the app user keeps the one it has" });
        row
    }));
    // Whose address will be free: of those who get another, and of those who go.
    let merged = |o: &Outcome| o.action == Action::Merge && o.outcome == "planned";
    let leaving = |outcomes: &[Outcome]| -> Vec<Uuid> {
        outcomes.iter().filter(|o| merged(o)).filter_map(|o| o.old_app_user_id).collect()
    };
    let free = |ids: Vec<Uuid>| repair.free.borrow_mut().extend(ids);
    free(leaving(outcomes));
    loop {
        let tried = if repair.apply {
            change_all(repair, &todo)?
        } else {
            free(todo.iter().filter_map(|c| c.app_user_id).collect());
            rehearse_all(repair, &todo, &mut repair.free.borrow_mut())?
        };
        let waits = |o: &Outcome| o.failure.as_ref().is_some_and(|f| f.sqlstate == "23505");
        let (blocked, rest): (Vec<_>, Vec<_>) =
            todo.into_iter().zip(tried).partition(|(_, outcome)| waits(outcome));
        outcomes.extend(rest.into_iter().map(|(_, outcome)| outcome));
        let (waiting, refused): (Vec<_>, Vec<_>) = blocked.into_iter().unzip();
        let brought = repair.bring_forward(&waiting);
        if brought.is_empty() {
            outcomes.extend(refused);
            return Ok(());
        }
        let (emails, others): (Vec<_>, Vec<_>) =
            brought.into_iter().partition(|c| c.status == Status::EmailMismatch);
        repair.settle_each(&others, outcomes)?;
        free(leaving(outcomes));
        todo = waiting;
        todo.extend(emails);
    }
}

/// Of each of `todo` the one who holds what they want, by their places.
fn wants(todo: &[Candidate]) -> Vec<Option<usize>> {
    let holders: HashMap<&str, usize> =
        todo.iter().enumerate().filter_map(|(i, c)| Some((c.app_key.as_deref()?, i))).collect();
    let holder = |key: &str| holders.get(key).copied();
    todo.iter()
        .enumerate()
        .map(|(i, c)| holder(c.auth_key.as_deref()?).filter(|holder| *holder != i))
        .collect()
}

/// What became of each of `todo`, in their order.
fn change_all(repair: &Repair, todo: &[Candidate]) -> Result<Vec<Outcome>, Error> {
    let (order, rings) = order_of_exchange(&wants(todo));
    // Whoever waits for a ring goes after it.
    let groups = rings.into_iter().chain(order.into_iter().map(|place| vec![place]));
    let mut outcomes: Vec<Option<Outcome>> = todo.iter().map(|_| None).collect();
    for group in groups {
        pg::check_interrupts();
        let users: Vec<&Candidate> = group.iter().map(|place| &todo[*place]).collect();
        let turn = repair.turns.get() + 1;
        repair.turns.set(turn);
        for (place, outcome) in group.iter().zip(together(repair, &users)?) {
            outcomes[*place] = Some(Outcome { turn, ..outcome });
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// What would become of each of `todo`, if the app users in `free` gave up their e-mails; those who do not are taken out.
fn rehearse_all(
    repair: &Repair,
    todo: &[Candidate],
    free: &mut HashSet<Uuid>,
) -> Result<Vec<Outcome>, Error> {
    let look = |candidate: &Candidate, free: &HashSet<Uuid>| {
        pg::check_interrupts();
        match pg::rehearsal(|| pg::connect(|session| rehearse(repair, session, candidate, free))) {
            Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
            Err(failure) => Ok(Outcome::failed(candidate, Action::UpdateEmail, failure)),
            looked => looked.map_err(Error::from),
        }
    };
    let mut outcomes =
        todo.iter().map(|c| look(c, free)).collect::<Result<Vec<Outcome>, Error>>()?;
    // Whoever is refused keeps the e-mail that somebody else may be waiting for.
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); todo.len()];
    for (place, holder) in wants(todo).into_iter().enumerate() {
        if let Some(holder) = holder {
            waiting[holder].push(place);
        }
    }
    let mut refused: Vec<usize> =
        (0..todo.len()).filter(|place| outcomes[*place].failure.is_some()).collect();
    while let Some(place) = refused.pop() {
        if let Some(id) = todo[place].app_user_id {
            free.remove(&id);
        }
        for next in std::mem::take(&mut waiting[place]) {
            if outcomes[next].failure.is_none() {
                outcomes[next] = look(&todo[next], free)?;
                if outcomes[next].failure.is_some() {
                    refused.push(next);
                }
            }
        }
    }
    Ok(outcomes)
}

fn rehearse(
    repair: &Repair,
    session: &Session,
    candidate: &Candidate,
    free: &HashSet<Uuid>,
) -> Result<Outcome, Error> {
    let mut row = Outcome::of(candidate, Action::UpdateEmail, "planned");
    row.details = told(candidate);
    let mover = repair.mover();
    let table = &mover.references.tables[0];
    let shape = mover.shape(session, 0);
    let email = vec![candidate.auth_email.clone()];
    if let Err(error) = (Written { table, shape }).check_fit(session, "email", email, Mode::Read) {
        row.details = json!({ "reason": "the e-mail does not fit into the column" });
        row.outcome = "refused";
        return Ok(row.refused_for(error));
    }
    if let Err(error) = mover.check_publications() {
        return Ok(refused(candidate, Action::UpdateEmail, error));
    }
    let source = format!("FROM {} t WHERE t.id = $1", table.target());
    let moved =
        collisions::moved(shape, &source, |c| (c.quoted == "email").then(|| "$2".to_owned()));
    let email = ["email".to_owned()];
    let args = [Arg::of(candidate.app_user_id), Arg::of(candidate.auth_email.clone())];
    let broken = checks::broken(session, (table, shape), &email, (&moved, &args), Mode::Read);
    if let Err(error) = checks::fail(broken, false) {
        return Ok(refused(candidate, Action::UpdateEmail, error));
    }
    let mut found = Vec::new();
    let mut holder = None;
    for unique in shape.touched_by(&email) {
        let sql = format!(
            "SELECT t.id FROM ({}) AS p(a, b, at, row, e) JOIN {} t ON t.tableoid = p.at AND t.ctid = p.row::tid",
            collisions::pairs(table, unique, &moved, "false"),
            table.target()
        );
        let holders: Vec<Uuid> =
            pg::as_role(table.owner, || session.run(&sql, &args, Mode::Read).column());
        let rows = holders.iter().filter(|holder| !free.contains(holder)).count();
        holder = holder.or(holders.into_iter().next());
        if rows > 0 {
            found.push(Collision {
                table: table.label.clone(),
                constraint: unique.name.clone(),
                rows: rows as u64,
            });
        }
    }
    if found.is_empty() && mover.email_is_key() {
        return rehearse_with_children(repair, session, candidate, holder, row);
    }
    if found.is_empty() && mover.email_refers() {
        let email = [(candidate.app()?, candidate.auth_email.clone())];
        if let Err(error) = Merge::plan_emails(session, &mover, &email, Mode::Read) {
            return Ok(refused(candidate, Action::UpdateEmail, error));
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

fn told(candidate: &Candidate) -> Value {
    json!({ "before": candidate.app_email, "after": candidate.auth_email })
}

/// The same where rows refer to the user by the e-mail, and follow. `holder` is who gives it up.
fn rehearse_with_children(
    repair: &Repair,
    session: &Session,
    candidate: &Candidate,
    holder: Option<Uuid>,
    row: Outcome,
) -> Result<Outcome, Error> {
    let id = candidate.app()?;
    let email = candidate.auth_email.as_deref();
    let wanted = (id, candidate.auth_email.clone());
    let mover = repair.mover();
    let plan = |wanted: &[(Uuid, _)]| Merge::plan_emails(session, &mover, wanted, Mode::Read);
    // Where a foreign key acts, an e-mail passes from one to another in steps: what refers to the user is the same then.
    let in_steps = |planned: &Result<Merge, Error>| {
        holder.is_some() && matches!(planned, Err(Error::Entangled { .. }))
    };
    let refuse = |error| match error {
        Error::Raised(failure) if !may_be_foreseen(&failure) => Err(failure.into()),
        error => Ok(refused(candidate, Action::UpdateEmail, error)),
    };
    let mut alone = plan(std::slice::from_ref(&wanted));
    if in_steps(&alone) {
        let held = |way: Placeholder| plan(&[(id, Some(way.of(id, email)))]);
        alone = first_allowed(&Placeholder::ALL, held).map_err(Error::from);
    }
    let alone = match alone {
        Ok(merge) => merge,
        Err(error) => return refuse(error),
    };
    let mut row = row.moves(alone.referring());
    let mut collisions = alone.collisions.clone();
    if let Some(holder) = holder {
        let held = |way: Placeholder| {
            let aside = (holder, Some(way.of(holder, email)));
            match plan(&[aside.clone(), wanted.clone()]) {
                // What is in the way is the holder's, and goes first.
                planned if in_steps(&planned) => match plan(&[aside]) {
                    alone if in_steps(&alone) => Ok(Vec::new()),
                    alone => alone.map(|_| Vec::new()),
                },
                planned => Ok(planned?.collisions),
            }
        };
        match first_allowed(&Placeholder::ALL, held) {
            Ok(found) => collisions = found,
            Err(failure) => return refuse(failure.into()),
        }
    }
    if !collisions.is_empty() {
        row.outcome = "refused";
        row.details = json!({
            "reason": "rows would collide",
            "conflicts": Collision::to_json(&collisions),
        });
        row = row.refused_for(collides(&collisions, Action::UpdateEmail));
    }
    Ok(row)
}

/// Changes all of `users` in one subtransaction: one user, or a ring of users who hold each other's e-mails.
fn together(repair: &Repair, users: &[&Candidate]) -> Result<Vec<Outcome>, Error> {
    let change_by = |way| pg::connect(|session| change(repair, session, users, way));
    let change = || first_allowed(&Parking::ways(repair, users.len() > 1), change_by);
    match repair.once_more(change) {
        Ok(outcomes) => Ok(outcomes),
        Err(failure) if must_pass_on(&failure.sqlstate) && failure.sqlstate != "40001" => {
            Err(failure.into())
        }
        Err(failure) => {
            let ids = users.iter().filter_map(|c| c.app_user_id).collect();
            users.iter().map(|candidate| explain(repair, candidate, &ids, &failure)).collect()
        }
    }
}

/// Why it failed. Who holds the e-mail is looked up again, for the details.
fn explain(
    repair: &Repair,
    candidate: &Candidate,
    exchanging: &HashSet<Uuid>,
    failure: &Failure,
) -> Result<Outcome, Error> {
    let failed = |failure| Outcome::failed(candidate, Action::UpdateEmail, Box::new(failure));
    if !may_be_foreseen(failure) {
        return Ok(failed(failure.clone()));
    }
    let look = || pg::connect(|session| rehearse(repair, session, candidate, exchanging));
    match pg::with_own_changes(|| pg::rehearsal(look)) {
        Ok(outcome) if outcome.failure.is_some() => Ok(outcome),
        Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
        _ if failure.sqlstate == "23505" => {
            let email = candidate.email.clone().unwrap_or_default();
            let constraint = failure.constraint.clone();
            Ok(failed(Failure { constraint, ..Failure::from(Error::EmailTaken { email }) }))
        }
        _ => Ok(failed(failure.clone())),
    }
}

/// What the users of a ring hold until their new addresses are free.
#[derive(Clone, Copy)]
enum Parking {
    /// Nobody minds two users with one address for a moment.
    Nothing,
    Null,
    With(Placeholder),
}

impl Parking {
    fn ways(repair: &Repair, is_ring: bool) -> Vec<Self> {
        let email = ["email".to_owned()];
        let mover = repair.mover();
        let shape = pg::connect(|session| mover.shape(session, 0));
        let is_unique = shape.touched_by(&email).next().is_some();
        let nulls_collide = shape.touched_by(&email).any(|unique| unique.nulls_collide);
        let may_be_null = repair.target().app.column("email").is_some_and(|c| !c.not_null);
        let may_be_null = may_be_null && !nulls_collide && !mover.email_is_key();
        if !(is_ring && is_unique) {
            return vec![Parking::Nothing];
        }
        let null = may_be_null.then_some(Parking::Null);
        null.into_iter().chain(Placeholder::ALL.map(Parking::With)).collect()
    }

    fn of(self, candidate: &Candidate) -> Option<String> {
        match self {
            Parking::Nothing => candidate.app_email.clone(),
            Parking::Null => None,
            Parking::With(placeholder) => {
                let email = candidate.auth_email.as_deref();
                candidate.app_user_id.map(|id| placeholder.of(id, email))
            }
        }
    }
}

fn change(
    repair: &Repair,
    session: &Session,
    users: &[&Candidate],
    parking: Parking,
) -> Result<Vec<Outcome>, Error> {
    let still = repair.finder().lock(session, users, repair.surveyed_at.get());
    if still.contains(&false) {
        let is_synced = |candidate: &&Candidate| {
            let (app, auth) = (candidate.app()?, candidate.auth()?);
            let now = repair.finder().decided(session, app, auth, Mode::Fresh)?;
            Ok::<_, Error>(now.status == Status::Synced)
        };
        // A ring of which only some were changed is another one now.
        if users.len() == 1 || users.iter().all(|user| is_synced(user).unwrap_or(false)) {
            return Ok(users.iter().map(|user| Outcome::overtaken(user)).collect());
        }
        let table = repair.mover().references.tables[0].label.clone();
        return Err(Error::ChangedMeanwhile { table });
    }
    let mover = repair.hold(session)?;
    let mut steps = Vec::new();
    // What refers to each of them, as the last step moves it.
    let mut moved = Vec::new();
    let mut set = |candidate: &Candidate, before: &Option<String>, after: &Option<String>| {
        if mover.email_is_key() {
            let email = [(candidate.app()?, after.clone())];
            let merge = Merge::plan_emails(session, &mover, &email, Mode::Fresh)?;
            if merge.unsettled {
                return Err(collides(&merge.collisions, Action::UpdateEmail));
            }
            steps.extend(merge.carry_out()?);
            moved.push(merge.referring());
        } else {
            let done = set_email(repair, session, candidate, before.clone(), after.clone())?;
            steps.push(done);
        }
        Ok::<_, Error>(())
    };
    if !matches!(parking, Parking::Nothing) {
        for candidate in users {
            set(candidate, &candidate.app_email, &parking.of(candidate))?;
        }
    }
    for candidate in users {
        set(candidate, &parking.of(candidate), &candidate.auth_email)?;
    }
    // A ring is taken back together: one by one, each would find their address with another.
    let id = session.run("SELECT gen_random_uuid()::text", &[], Mode::Fresh).one::<String>();
    done::trace(steps.iter_mut());
    done::number(steps.iter_mut());
    let mut undo = Some(steps.into_iter().map(Step::Changes).collect());
    let mut moved = moved.split_off(moved.len().saturating_sub(users.len())).into_iter();
    Ok(users
        .iter()
        .map(|candidate| {
            let mut row = Outcome::of(candidate, Action::UpdateEmail, "done");
            if let Some(moved) = moved.next() {
                row = row.moves(moved);
            }
            row.details = told(candidate);
            if users.len() > 1 {
                row.details["exchange"] = json!(id);
            }
            // With the first of a ring, for all of it.
            row.undo = undo.take();
            row
        })
        .collect())
}

/// Sets the e-mail of the candidate's app user.
fn set_email(
    repair: &Repair,
    session: &Session,
    candidate: &Candidate,
    before: Option<String>,
    after: Option<String>,
) -> Result<Vec<Done>, Error> {
    let mover = repair.mover();
    let table = &mover.references.tables[0];
    let shape = mover.shape(session, 0);
    let id = candidate.app()?;
    let address = rows::address_of(session, table, id)
        .ok_or_else(|| Error::AppUserGone { id: id.to_string() })?;
    let mut of_table = TableChanges::new(table, shape);
    of_table
        .updated
        .insert(vec!["email".into()], vec![Update::new(address, vec![before], vec![after])]);
    changes::apply(session, &mover, &[of_table], Wanted::Keys)
}
