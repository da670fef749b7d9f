//! Merging one app user into another: what is planned before anything is written.
//!
//! The row of the user who goes gives way to the row of the user who stays, and everything that refers to the one, by
//! whichever key, comes to the other. Where a row that comes over would collide with one that is there, one of the two
//! gives way to the other in the same manner, and so on until nothing collides.
//!
//! A re-key is planned in the same way where tables are such that no condition on a row alone tells whether it refers to
//! the user.

use super::changes::{self, Wanted};
use super::done::{self, Done, Step};
use super::plan::{Known, Plan, Row, Side};
use super::rekey::{Collision, Held, Mover, Referring, unquoted};
use super::rows::{self, Text};
use super::{checks, email_key, fit, settle, steps};
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Raw, Session};
use onagui_decide::repair::Action;
use pgrx::Uuid;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What to do where rows collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse the merge.
    Error,
    /// The row of the auth user stays.
    KeepAuth,
    /// The row of the user who goes stays.
    KeepApp,
}

/// A planned merge, or a re-key planned row by row.
pub struct Merge<'a> {
    pub plan: Plan<'a>,
    /// What must be done first, one after the other.
    pub steps: Vec<Plan<'a>>,
    /// The users' own rows.
    users: Vec<Row>,
    pub own: OwnFields,
    pub collisions: Vec<Collision>,
    /// Those in which no row may give way, whosever rows are to stay, in words.
    pub stuck: Vec<String>,
    /// Some collision was left as it is: nothing may be done.
    pub unsettled: bool,
}

/// What becomes of the leaving user's own fields, by column.
#[derive(Default)]
pub struct OwnFields {
    /// Those that the staying user lacked.
    pub taken_over: Vec<String>,
    /// Those of which the staying user has another value, which stays.
    pub given_up: Vec<String>,
}

impl<'a> Merge<'a> {
    /// Plans to merge the app user `from` into the app user `to`. To be done, both must be locked.
    pub fn plan(
        session: &'a Session,
        mover: &'a Mover,
        from: Uuid,
        to: Uuid,
        policy: OnConflict,
        mode: Mode,
    ) -> Result<Self, Error> {
        Self::plan_after(&[], || Plan::new(session, mover, mode), from, to, policy)
    }

    /// The same for a rehearsal in which others, `before`, are merged into `to` before.
    pub fn rehearse(
        session: &'a Session,
        mover: &'a Mover,
        before: &[Uuid],
        from: Uuid,
        to: Uuid,
        policy: OnConflict,
    ) -> Result<Self, Error> {
        Self::plan_after(before, || Plan::new(session, mover, Mode::Read), from, to, policy)
    }

    fn plan_after(
        before: &[Uuid],
        nothing: impl Fn() -> Plan<'a>,
        from: Uuid,
        to: Uuid,
        policy: OnConflict,
    ) -> Result<Self, Error> {
        let mut left = Left::new();
        pg::with_stable_text(|| {
            loop {
                let mut turn = from;
                let planned =
                    Self::in_turn(nothing(), (before, from, to), policy, &left, &mut turn);
                // The row by which the leaving user refers to another gives way, and the one that stays has no such key.
                if let Err(Error::NoKeyToReferTo { place: 0, columns, .. }) = &planned {
                    let left = left.entry(turn).or_default();
                    let known = left.len();
                    left.extend(columns.iter().cloned());
                    if left.len() > known {
                        continue;
                    }
                }
                return planned;
            }
        })
    }

    /// `turn` becomes the user who is planned last, also where that fails.
    fn in_turn(
        mut plan: Plan<'a>,
        (before, from, to): (&[Uuid], Uuid, Uuid),
        policy: OnConflict,
        left: &Left,
        turn: &mut Uuid,
    ) -> Result<Self, Error> {
        let mut users = Vec::new();
        for other in before {
            *turn = *other;
            users.extend(hand_over(&mut plan, *other, to, left.get(other))?.0);
            plan.follow()?;
            settle::settle(&mut plan, policy)?;
            // What came over is the staying user's from now on.
            plan.rows.values_mut().for_each(|known| known.side = known.side.and(Some(Side::Auth)));
        }
        let state = |(row, known): (&Row, &Known)| {
            (*row, (known.after.clone(), plan.gone.contains_key(row)))
        };
        plan.earlier = plan.rows.iter().map(state).collect();
        *turn = from;
        let (last, own) = hand_over(&mut plan, from, to, left.get(&from))?;
        users.extend(last);
        Ok(Merge { own, ..Self::settle(plan, users, policy)? })
    }

    /// Plans to give the app user `from` the id `to`, leaving alone the fields that held `from` before the user had it.
    pub fn plan_rekey(
        session: &'a Session,
        mover: &'a Mover,
        from: Uuid,
        to: Uuid,
        untouchable: &[Held],
        mode: Mode,
    ) -> Result<Self, Error> {
        pg::with_stable_text(|| {
            let mut plan = Plan::new(session, mover, mode);
            let user = plan.user(from)?;
            plan.untouchable =
                untouchable.iter().map(|held| (held.row, held.column.clone())).collect();
            plan.set(&user, Side::App, vec![("id".into(), Some(to.to_string()))]);
            plan.bring_soft_references(from, to);
            Self::settle(plan, vec![user], OnConflict::Error)
        })
    }

    /// Plans to give app users these e-mails, where rows of other tables refer to them by the ones they have.
    pub fn plan_emails(
        session: &'a Session,
        mover: &'a Mover,
        emails: &[(Uuid, Text)],
        mode: Mode,
    ) -> Result<Self, Error> {
        pg::with_stable_text(|| {
            let mut plan = Plan::new(session, mover, mode);
            let mut users = Vec::with_capacity(emails.len());
            for (id, email) in emails {
                let user = plan.user(*id)?;
                plan.set(&user, Side::App, vec![("email".into(), email.clone())]);
                users.push(user);
            }
            Self::settle(plan, users, OnConflict::Error)
        })
    }

    fn settle(mut plan: Plan<'a>, users: Vec<Row>, policy: OnConflict) -> Result<Self, Error> {
        plan.follow()?;
        let settled = settle::settle(&mut plan, policy)?;
        plan.verify()?;
        let mut steps = Vec::new();
        // No part of a plan that is put into steps may be done before.
        if !settled.unsettled && plan.earlier.is_empty() && plan.hands_over(None) {
            steps = steps::before(&plan, &settled.rounds)?;
            plan.know_again(&steps)?;
            plan.verify()?;
        }
        if plan.mode == Mode::Read {
            fit::check(plan.session, &plan.changes_since(None), Mode::Read)?;
            if !settled.unsettled {
                // What the rows break in the end is of more concern than what they break on the way.
                checks::fail(plan.broken(), false)?;
                plan.check_publications()?;
                for step in &steps {
                    checks::fail(step.broken(), true)?;
                    step.check_publications()?;
                }
            }
        }
        let settle::Settled { collisions, stuck, unsettled, .. } = settled;
        let stuck = stuck
            .iter()
            .map(|(collision, [one, other])| {
                let so = if collision.rows == 1 { ":" } else { ", such as" };
                format!("{collision}{so} {} with {}", plan.name(one), plan.name(other))
            })
            .collect();
        Ok(Merge { plan, steps, users, own: OwnFields::default(), collisions, stuck, unsettled })
    }

    /// Does what was planned. Answers the steps that take it back.
    pub fn carry_out(&self) -> Result<Vec<Vec<Done>>, Error> {
        let (session, mover) = (self.plan.session, self.plan.mover);
        let mut all: Vec<Vec<Done>> = Vec::new();
        let mut earlier = None;
        let mut moved = HashMap::new();
        for plan in self.steps.iter().chain([&self.plan]) {
            let mut changes = plan.changes_since(earlier);
            if earlier.is_some() {
                rows::find_again(session, &mut changes, &moved);
            }
            let done = changes::apply(session, mover, &changes, Wanted::Keys)?;
            let rows = done::moved(&done);
            moved.extend(rows.filter_map(|row| Some((row.was?, row.now?))));
            all.push(done);
            earlier = Some(plan);
        }
        done::number(all.iter_mut());
        Ok(all)
    }

    /// Whether what is done after it may find other rows than before, the leaving user's own apart: some change, if only in that
    /// the staying user takes a field over, or that user's row was one that refers to others.
    pub fn matters(&self) -> bool {
        let changes = |(row, known): (&Row, &Known)| {
            !known.after.is_empty() || !self.users.contains(row) && self.plan.gone.contains_key(row)
        };
        self.plan.mover.references.keys.iter().any(|key| key.child == 0)
            || self.plan.rows.iter().any(changes)
    }

    /// How many rows of each table come over or give way, the users' own not counted.
    pub fn referring(&self) -> Vec<Referring> {
        let mut all: BTreeMap<usize, (BTreeSet<String>, u64)> = BTreeMap::new();
        let is_touched = |row: &&Row| !self.users.contains(row) && !self.plan.is_done_before(row);
        for row in self.plan.rows.keys().filter(is_touched) {
            let (columns, rows) = all.entry(row.0).or_default();
            columns.extend(self.plan.newly_changed(row).map(|c| unquoted(c)));
            *rows += 1;
        }
        all.into_iter()
            .map(|(place, (columns, rows))| Referring {
                table: self.plan.mover.references.tables[place].label.as_str().into(),
                columns: columns.into_iter().collect(),
                rows,
            })
            .collect()
    }
}

/// What a re-key did, and what must be kept to take it back.
pub struct Rekeyed {
    pub moved: Vec<Referring>,
    pub step: Step,
}

impl Rekeyed {
    fn new(mover: &Mover, mut step: serde_json::Value, moved: Vec<Referring>) -> Self {
        let soft = mover.soft_places();
        if !soft.is_empty() {
            step["soft"] = serde_json::json!(soft);
        }
        Rekeyed { moved, step: Step::Rekey(step) }
    }

    /// Where no row held the new id before, and the entry has the two ids. Many such steps are alike, and written as fast.
    pub fn plainly(mover: &Mover, moved: Vec<Referring>) -> Self {
        Self::new(mover, serde_json::json!({}), moved)
    }
}

/// Moves the user `from` and all that refers to it to the id `to`, leaving alone what `recorded` names: fields that held
/// `from` before the user had it. The user's row must be locked.
pub fn rekey(
    session: &Session,
    mover: &Mover,
    from: Uuid,
    to: Uuid,
    recorded: &[serde_json::Value],
) -> Result<Rekeyed, Error> {
    let mut held = mover.held(session, to, Mode::Fresh);
    let is_plain = held.is_empty() && recorded.is_empty() && !mover.references.by_rows;
    let moved = if is_plain {
        mover.rekey(session, from, to)?
    } else {
        let untouchable = mover.find_held(session, recorded, from)?;
        let merge = Merge::plan_rekey(session, mover, from, to, &untouchable, Mode::Fresh)?;
        if merge.unsettled {
            return Err(Error::Collides {
                what: Collision::in_words(&merge.collisions),
                action: Action::Rekey,
            });
        }
        let done = merge.carry_out()?;
        // What held the id before may have changed along with the user, in another column.
        for row in done.iter().flat_map(|done| done::moved(done)) {
            for held in held.iter_mut().filter(|held| Some(&held.row.1) == row.was.as_ref()) {
                held.key = row.key.as_ref().map(Raw::parsed);
                held.md5.clone_from(&row.md5);
            }
        }
        merge.referring()
    };
    let step = serde_json::json!({
        "from": from.to_string(), "to": to.to_string(), "held": mover.held_to_json(session, &held)
    });
    Ok(Rekeyed::new(mover, step, moved))
}

/// Columns that are not taken over from the users who leave: what refers by them would find no key.
type Left = BTreeMap<Uuid, BTreeSet<String>>;

/// Notes that the app user `from` gives way to `to`, whose row takes over what it lacks, but for the columns in `left`. Answers
/// the rows of the two, and what becomes of the fields.
fn hand_over(
    plan: &mut Plan,
    from: Uuid,
    to: Uuid,
    left: Option<&BTreeSet<String>>,
) -> Result<([Row; 2], OwnFields), Error> {
    let leaving = plan.user(from)?;
    let staying = plan.user(to)?;
    let own = take_over(plan, (leaving, staying), (from, to), left);
    plan.give_way(&leaving, &staying, Side::App);
    plan.bring_soft_references(from, to);
    Ok(([leaving, staying], own))
}

/// The fields that only the user who leaves has are taken over. Columns that refer together are taken together.
fn take_over(
    plan: &mut Plan,
    (leaving, staying): (Row, Row),
    (from, to): (Uuid, Uuid),
    left: Option<&BTreeSet<String>>,
) -> OwnFields {
    let references = &plan.mover.references;
    let shape = plan.mover.shape(plan.session, 0);
    let own: Vec<&str> = shape
        .columns
        .iter()
        .filter(|c| c.generated.is_none() && c.quoted != "id")
        .map(|c| c.quoted.as_str())
        .collect();
    // In a rehearsal others may have changed them before.
    let fields = |row: &Row| -> Vec<Text> {
        let after = plan.rows.get(row).map(|known| &known.after);
        let mut fields = plan.fields(row, &own);
        for (field, column) in fields.iter_mut().zip(&own) {
            if let Some(value) = after.and_then(|after| after.get(column)) {
                field.clone_from(value);
            }
        }
        fields
    };
    let ours = fields(&staying);
    let theirs: Vec<Text> = fields(&leaving)
        .into_iter()
        .zip(&own)
        .map(|(value, column)| {
            let is_own_id = value.as_ref().is_some_and(|value| *value == from.to_string())
                && references.tables[0].moving.iter().any(|m| m.column == **column);
            if is_own_id { Some(to.to_string()) } else { value }
        })
        .collect();
    let taken = together(plan, &own, (&theirs, &ours), left);
    let mut given_up = Vec::new();
    for (place, column) in own.iter().enumerate().filter(|(place, _)| theirs[*place].is_some()) {
        let is_same = match *column {
            "email" => is_same_email(plan, [&theirs[place], &ours[place]]),
            _ => theirs[place] == ours[place],
        };
        if !is_same && !taken.contains(&place) {
            given_up.push(unquoted(column));
        }
    }
    for (number, key) in references.keys.iter().enumerate().filter(|(_, key)| key.child == 0) {
        if taken.iter().any(|place| key.columns.iter().any(|c| c == own[*place])) {
            plan.took_over.insert((leaving, number), staying);
        }
    }
    let taken_over = taken.iter().map(|place| unquoted(own[*place])).collect();
    let taken = taken.iter().map(|place| (own[*place].to_owned(), theirs[*place].clone()));
    plan.set(&staying, Side::Auth, taken.collect());
    OwnFields { taken_over, given_up }
}

/// Which of the columns `own`, by their places, are taken over: those that are empty in `ours` and not in `theirs`, but of a
/// foreign key all or none, so that it is `theirs` then, or stays.
fn together(
    plan: &Plan,
    own: &[&str],
    (theirs, ours): (&[Text], &[Text]),
    left: Option<&BTreeSet<String>>,
) -> BTreeSet<usize> {
    let shape = plan.mover.shape(plan.session, 0);
    let is_left = |place: usize| left.is_some_and(|left| left.contains(&unquoted(own[place])));
    let is_missing =
        |place: &usize| ours[*place].is_none() && theirs[*place].is_some() && !is_left(*place);
    let mut taken: BTreeSet<usize> = (0..own.len()).filter(is_missing).collect();
    let place_of = |column: &str| own.iter().position(|c| *c == column);
    loop {
        let mut kept = taken.clone();
        for key in &plan.mover.references.together {
            let mut open: Vec<&String> = key.iter().collect();
            let mut all = Vec::new();
            let mut is_theirs = true;
            while let Some(column) = open.pop() {
                all.push(column);
                is_theirs &= match (place_of(column), shape.column(column)) {
                    (Some(place), _) => kept.contains(&place) || theirs[place] == ours[place],
                    // What is generated is theirs where all is of which it is made.
                    (None, Some(of)) if of.generated.is_some() => {
                        open.extend(&of.made_of);
                        true
                    }
                    // The id.
                    (None, _) => false,
                };
            }
            if !is_theirs {
                kept.retain(|place| all.iter().all(|column| *column != own[*place]));
            }
        }
        if kept.len() == taken.len() {
            return taken;
        }
        taken = kept;
    }
}

fn is_same_email(plan: &Plan, emails: [&Text; 2]) -> bool {
    let sql = format!("SELECT {} = {}", email_key("$1"), email_key("$2"));
    let args = emails.map(|email| Arg::of(email.clone()));
    let owner = plan.mover.house.owner;
    let is_same = || pg::as_role(owner, || plan.session.run(&sql, &args, plan.mode).one());
    emails[0] == emails[1] || is_same().unwrap_or(false)
}
