//! `onagui.undo_fix()`: everything back to what it was, or nothing.

mod obstacles;

use super::repair::Repair;
use crate::catalog::House;
use crate::catalog::references::Table;
use crate::error::{Error, Failure, plain};
use crate::pg::{self, Arg, Call, JsonbText, Mode, Raw, Reply, Session, connect, subtransaction};
use crate::statements::audit::{self, Entry};
use crate::statements::changes::{self, Wanted};
use crate::statements::done::{self, Done, Step};
use crate::statements::merge::{self, OnConflict};
use crate::statements::rekey::{Holding, Referring};
use crate::statements::rows::{self, Address};
use crate::statements::{followers, restored, undo};
use obstacles::{has_passed_on, in_use, left_behind, renamed};
use onagui_decide::registration::parse_uuid;
use pgrx::{JsonB, Uuid};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;

const NOT_WHOLE: &str = "the entry is not whole";

struct Logged {
    action: String,
    email: Option<String>,
    auth_user_id: Option<Uuid>,
    old_app_user_id: Option<Uuid>,
    new_app_user_id: Option<Uuid>,
    rows: u64,
    steps: Vec<Step>,
    /// Users who exchanged their e-mails can only take them back together. One entry has the steps for all of them.
    exchange: Option<String>,
    /// What was moved along with a re-key: objects of `table` and `columns`.
    references: Vec<Value>,
    /// Ids that were auth users' already when they were left, by a person's decision.
    auths: Vec<Uuid>,
}

/// What was taken back, for the log: steps that would do it again, last first.
#[derive(Default)]
struct Undone {
    steps: Vec<Step>,
    rows: u64,
    /// What was moved along with a re-key.
    references: Vec<Referring>,
    /// Where the rows lie that were changed so far, by the numbers they have in the log.
    known: undo::Known,
    /// Where rows lay before the first step, by where they lie now.
    origins: HashMap<Address, Address>,
}

/// `onagui.undo_fix(p_audit_id)`.
pub fn undo_fix(call: &Call) -> Result<Reply, Error> {
    let audit_id: i64 = call.arg(0).ok_or(Error::NullArgument { name: "p_audit_id" })?;
    let TakenBack { action, email, rows, by } =
        take_back(House::find()?, audit_id, &super::actor(), None)?;
    Ok(Reply::of(plain(&format!(
        "UNDONE: {action} of {}, with {} to the user; audit_id {by}",
        email.as_deref().unwrap_or("a user without e-mail"),
        super::rows_that_refer(rows)
    ))))
}

/// What was taken back, and which entry tells of that.
pub struct TakenBack {
    action: String,
    email: Option<String>,
    rows: u64,
    by: i64,
}

/// Takes back what an entry of the audit log tells of, and records that, and why where no person has asked for it.
pub fn take_back(
    house: House,
    audit_id: i64,
    actor: &str,
    reason: Option<&str>,
) -> Result<TakenBack, Error> {
    let logged = read(house, audit_id)?;
    let repair = Repair::start(house, true, OnConflict::Error, actor.to_owned())?;
    let attempt =
        || subtransaction(|| pg::connect(|session| reverse(&repair, session, audit_id, &logged)));
    let undone = repair
        .once_more(|| repair.mover().at_once_or_in_order(attempt))
        .map_err(|failure| refusal(audit_id, failure))?;
    let rows = undone.rows;
    let entry = Entry {
        auth_user_id: logged.auth_user_id,
        old_app_user_id: logged.new_app_user_id,
        new_app_user_id: logged.old_app_user_id,
        email: logged.email.clone(),
        rows_changed: rows,
        details: undone.into_details(audit_id, reason),
        ..Entry::new("undo", "done", &repair.actor)
    };
    let by = audit::record(house, vec![entry]).first().copied().unwrap_or_default();
    pg::as_role(house.owner, || {
        connect(|session| {
            session.run(
                "UPDATE onagui.sync_audit_log SET undone_by = $2 WHERE audit_id = $1",
                &[audit_id.into(), by.into()],
                Mode::Fresh,
            );
            if let Some(exchange) = &logged.exchange {
                session.run(
                    "UPDATE onagui.sync_audit_log l SET undone_by = $2 FROM onagui.sync_audit_log o
                      WHERE o.audit_id = $1 AND l.occurred_at = o.occurred_at AND l.details ->> 'exchange' = $3 AND l.undone_by IS NULL",
                    &[audit_id.into(), by.into(), exchange.clone().into()],
                    Mode::Fresh,
                );
            }
        })
    });
    Ok(TakenBack { action: logged.action, email: logged.email, rows, by })
}

/// What stands in the way was not foreseen: a constraint refused, or a table is not what it was.
fn refusal(audit_id: i64, failure: Box<Failure>) -> Error {
    let of_the_schema = ["22", "23", "42", "0A"];
    // A published table without a replica identity, for instance: our own words have a DETAIL.
    let is_bare = failure.sqlstate == "55000" && failure.detail.is_none();
    if is_bare || of_the_schema.iter().any(|class| failure.sqlstate.starts_with(class)) {
        let more = if is_bare { &failure.hint } else { &failure.detail };
        let mut why = vec![failure.message.clone()];
        why.extend(more.as_ref().map(|d| d.trim_end_matches('.').to_owned()));
        return Error::CannotUndo { audit_id, why };
    }
    Error::Raised(failure)
}

/// Which entry undid it, which undid that, and so on.
const UNDONE_BY: &str = "
    WITH RECURSIVE chain(audit_id, by, place) AS (
        SELECT l.audit_id, l.undone_by, 1 FROM onagui.sync_audit_log l WHERE l.audit_id = $1
        UNION ALL
        SELECT l.audit_id, l.undone_by, c.place + 1
          FROM chain c JOIN onagui.sync_audit_log l ON l.audit_id = c.by)
    SELECT c.by FROM chain c WHERE c.by IS NOT NULL ORDER BY c.place";

/// All entries of an exchange, in the same order whichever of them is to be undone. They are of one transaction.
const LOCK_EXCHANGE: &str = "
    SELECT l.audit_id FROM onagui.sync_audit_log l
     WHERE (l.occurred_at, l.details ->> 'exchange') = (SELECT o.occurred_at, o.details ->> 'exchange' FROM onagui.sync_audit_log o WHERE o.audit_id = $1)
     ORDER BY l.audit_id FOR UPDATE";

/// Whether a later entry about rows of the table has been undone. Its rows are what they were, but for what triggers set; which
/// rows these are, the entry of a re-key does not tell.
const HAS_BEEN_BACK: &str = "
    SELECT EXISTS (SELECT FROM onagui.sync_audit_log l
                    WHERE l.audit_id > $1 AND l.undone_by IS NOT NULL
                      AND ($3 OR l.details @> jsonb_build_object('references', jsonb_build_array(jsonb_build_object('table', $2::text)))
                           OR l.details @> jsonb_build_object('undo', jsonb_build_array(jsonb_build_object(
                                  'changes', jsonb_build_array(jsonb_build_object('table', $2::text)))))))";

/// What triggers have set last in the row of the table $2 with the key $3, in entries about the auth user $4 after $1 that were undone,
/// and in the undos of them.
const SET_SINCE: &str = "
    SELECT jsonb_object_agg(last.name, last.value)
      FROM (SELECT DISTINCT ON (s.name) s.name, s.value
              FROM onagui.sync_audit_log l,
                   jsonb_path_query(l.details, '$.undo[*].changes[*] ? (@.table == $table).moved[*].rows[*]',
                                    jsonb_build_object('table', $2::text)) AS r(changed),
                   jsonb_each(r.changed -> 'set') AS s(name, value)
             WHERE l.auth_user_id = $4 AND l.audit_id > $1 AND (l.undone_by IS NOT NULL OR l.action = 'undo')
                   AND r.changed -> 'key' = $3
             ORDER BY s.name, l.audit_id DESC) last";

/// Reads the entry and locks it, so that two undos of it follow each other.
fn read(house: House, audit_id: i64) -> Result<Logged, Error> {
    pg::as_role(house.owner, || {
        connect(|session| {
            let exchange = "SELECT l.details ->> 'exchange' FROM onagui.sync_audit_log l WHERE l.audit_id = $1";
            if session.run(exchange, &[audit_id.into()], Mode::Fresh).one::<String>().is_some() {
                session.run(LOCK_EXCHANGE, &[audit_id.into()], Mode::Fresh);
            }
            let rows = session.run(
                "SELECT l.action, l.outcome, l.email, l.auth_user_id, l.old_app_user_id, l.new_app_user_id,
                        coalesce(nullif(l.details -> 'undo', 'null'),
                                 (SELECT o.details -> 'undo' FROM onagui.sync_audit_log o
                                   WHERE o.details ->> 'exchange' = l.details ->> 'exchange' AND o.occurred_at = l.occurred_at
                                     AND jsonb_typeof(o.details -> 'undo') = 'array' LIMIT 1)),
                        l.undone_by, coalesce(l.rows_changed, 0), l.details ->> 'exchange',
                        l.details -> 'references'
                   FROM onagui.sync_audit_log l WHERE l.audit_id = $1 FOR UPDATE",
                &[audit_id.into()],
                Mode::Fresh,
            );
            if rows.is_empty() {
                return Err(Error::NoSuchAudit { audit_id });
            }
            if rows.get::<i64>(0, 8).is_some() {
                let by = session.run(UNDONE_BY, &[audit_id.into()], Mode::Fresh).column();
                return Err(Error::UndoneAlready { audit_id, by });
            }
            let action: String = rows.get(0, 1).unwrap_or_default();
            let parts: Vec<Raw> =
                rows.get::<Raw>(0, 7).and_then(|undo| undo.read()).unwrap_or_default();
            let steps: Option<Vec<Step>> = parts.iter().map(Raw::read).collect();
            match steps {
                None => Err(Error::CannotUndo { audit_id, why: vec![NOT_WHOLE.into()] }),
                Some(steps) if !steps.is_empty() => Ok(Logged {
                    references: match rows.get::<JsonB>(0, 11) {
                        Some(JsonB(Value::Array(references))) => references,
                        _ => Vec::new(),
                    },
                    auths: steps.iter().filter_map(Step::auths).collect(),
                    action,
                    email: rows.get(0, 3),
                    auth_user_id: rows.get(0, 4),
                    old_app_user_id: rows.get(0, 5),
                    new_app_user_id: rows.get(0, 6),
                    exchange: rows.get(0, 10),
                    rows: rows.get::<i64>(0, 9).unwrap_or_default() as u64,
                    steps,
                }),
                _ => Err(Error::NothingToUndo {
                    audit_id,
                    action,
                    outcome: rows.get(0, 2).unwrap_or_default(),
                }),
            }
        })
    })
}

impl Undone {
    fn remember(&mut self, done: &[Done]) {
        for row in done::moved(done) {
            if let (Some(origin), Some(now)) = (&row.origin, &row.now) {
                self.origins.insert(*now, *origin);
                self.known.extend(row.number.map(|number| (number, *now)));
            }
        }
    }

    /// What the audit log tells of it.
    fn into_details(mut self, audit_id: i64, reason: Option<&str>) -> String {
        #[derive(Serialize)]
        struct Details<'r> {
            undoes: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'r str>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            references: Vec<Referring>,
            undo: Vec<Step>,
        }
        done::number(self.steps.iter_mut().filter_map(|step| match step {
            Step::Changes(done) => Some(done),
            _ => None,
        }));
        let Undone { steps: undo, references, .. } = self;
        let details = Details { undoes: audit_id, reason, references, undo };
        serde_json::to_string(&details).expect("an object with texts as keys")
    }
}

fn reverse(
    repair: &Repair,
    session: &Session,
    audit_id: i64,
    logged: &Logged,
) -> Result<Undone, Error> {
    let users: Vec<Uuid> =
        [logged.old_app_user_id, logged.new_app_user_id].into_iter().flatten().collect();
    repair.mover().lock(session, &users);
    repair.hold(session)?;
    let is_rekey = logged.steps.iter().any(|step| matches!(step, Step::Rekey(_)));
    let mut undone = Undone {
        // More may move back with a re-key than once moved. What else changes with one is the user's own row.
        rows: if is_rekey { 0 } else { logged.rows },
        ..Undone::default()
    };
    for step in logged.steps.iter().rev() {
        match step {
            Step::Rekey(rekey) => {
                take_back_rekey(repair, session, audit_id, logged, rekey, &mut undone)?
            }
            Step::Changes(done) => {
                take_back_changes(repair, session, audit_id, logged, done, &mut undone)?
            }
            // Whoever takes the undo of this undo back needs to know it as well.
            Step::Auths(id) => undone.steps.push(Step::Auths(id.clone())),
        }
    }
    Ok(undone)
}

impl Step {
    fn auths(&self) -> Option<Uuid> {
        match self {
            Step::Auths(id) => id_of(id),
            _ => None,
        }
    }
}

fn id_of(text: &str) -> Option<Uuid> {
    parse_uuid(text).map(Uuid::from_bytes)
}

fn take_back_rekey(
    repair: &Repair,
    session: &Session,
    audit_id: i64,
    logged: &Logged,
    rekey: &Value,
    undone: &mut Undone,
) -> Result<(), Error> {
    let id = |name: &str, own: Option<Uuid>| match rekey.get(name) {
        Some(id) => id.as_str().and_then(id_of),
        None => own,
    };
    let (Some(before), Some(after)) =
        (id("from", logged.old_app_user_id), id("to", logged.new_app_user_id))
    else {
        return Err(Error::CannotUndo { audit_id, why: vec![NOT_WHOLE.into()] });
    };
    let mut why = Vec::new();
    if !repair.mover().lock(session, &[after]).contains(&after) {
        why.push(format!("app user {after} is gone"));
    }
    why.extend(has_passed_on(repair, session, audit_id, after));
    why.extend(in_use(repair, session, before, logged));
    why.extend(left_behind(repair, session, logged, after));
    for reason in renamed(repair, session, &rekey["soft"], after) {
        if !why.contains(&reason) {
            why.push(reason);
        }
    }
    if !why.is_empty() {
        return Err(Error::CannotUndo { audit_id, why });
    }
    let held = rekey["held"].as_array().cloned().unwrap_or_default();
    let done = merge::rekey(session, &repair.mover(), after, before, &held).map_err(|error| {
        let failure = Failure::from(error);
        let detail = failure.detail.map(|detail| detail.trim_end_matches('.').to_owned());
        Error::CannotUndo {
            audit_id,
            why: [Some(failure.message), detail].into_iter().flatten().collect(),
        }
    })?;
    undone.rows += Referring::total(&done.moved);
    undone.references.extend(done.moved);
    undone.steps.push(done.step);
    Ok(())
}

fn take_back_changes(
    repair: &Repair,
    session: &Session,
    audit_id: i64,
    logged: &Logged,
    done: &[Done],
    undone: &mut Undone,
) -> Result<(), Error> {
    let mover = repair.mover();
    let app_users = &mover.references.tables[0].label;
    let mut why = Vec::new();
    for row in done.iter().filter(|d| d.table == *app_users).flat_map(|d| &d.removed) {
        if let Some(id) = row.parsed()["id"].as_str().and_then(id_of) {
            why.extend(in_use(repair, session, id, logged));
        }
    }
    let tables = undo::resolve(session, &mover, done, &mut why);
    if tables.len() != done.len() {
        return Err(Error::CannotUndo { audit_id, why });
    }
    let has_been_back = |table: &Table| {
        let is_users = table.label == *app_users;
        let args = [audit_id.into(), table.label.clone().into(), is_users.into()];
        pg::as_role(repair.target().house.owner, || {
            session.run(HAS_BEEN_BACK, &args, Mode::Fresh).one().unwrap_or_default()
        })
    };
    let set_since = |table: &Table, key: &Value| {
        let key = JsonbText(key.to_string());
        let args =
            [audit_id.into(), table.label.clone().into(), key.into(), Arg::of(logged.auth_user_id)];
        let set = pg::as_role(repair.target().house.owner, || {
            session.run_by_key(SET_SINCE, &args, Mode::Fresh).one::<JsonB>()
        });
        match set {
            Some(JsonB(Value::Object(set))) => Some(set),
            _ => None,
        }
    };
    let mut inverse = undo::inverse(
        session,
        (done, &tables),
        &undone.known,
        &has_been_back,
        &set_since,
        &mut why,
    );
    let of_users = |d: &&Done| d.table == *app_users;
    let held: Vec<Holding> = done.iter().filter(of_users).flat_map(|d| d.held.clone()).collect();
    undone.rows += followers::follow(session, &mover, &mut inverse, &held, &mut why) as u64;
    if !why.is_empty() {
        return Err(Error::CannotUndo { audit_id, why });
    }
    for update in inverse.iter_mut().flat_map(|c| c.updated.values_mut()).flatten() {
        if let Some(origin) = undone.origins.get(&update.address) {
            update.origin.clone_from(origin);
        }
    }
    if !undone.origins.is_empty() {
        rows::find_again(session, &mut inverse, &HashMap::new());
    }
    let comes: Vec<Uuid> = done
        .iter()
        .filter(of_users)
        .flat_map(|d| &d.removed)
        .filter_map(|row| row.parsed()["id"].as_str().and_then(id_of))
        .collect();
    let holdings = mover.holdings(session, &comes);
    let mut now = changes::apply(session, &mover, &inverse, Wanted::Everything)?;
    for users in now.iter_mut().filter(|d| d.table == *app_users) {
        users.held = holdings.values().flatten().cloned().collect();
    }
    let wrong = restored::set_right(session, &mover, &inverse, (done, &mut now))?;
    if !wrong.is_empty() {
        let changed = |table: &String| {
            format!(
                "rows that had given way come back to {table} as something else: a trigger, of that table or of another one, changes them, or the type of a column is another now"
            )
        };
        return Err(Error::CannotUndo { audit_id, why: wrong.iter().map(changed).collect() });
    }
    undone.remember(&now);
    undone.steps.push(Step::Changes(now));
    Ok(())
}
