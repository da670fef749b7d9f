//! What must be done one step after the other, though to foreign keys a change is one statement.
//!
//! A foreign key that acts (CASCADE, SET NULL, RESTRICT …) looks for what refers to the key of a row that is deleted or
//! changed, and does not mind that another row has that key by then. So where a key to which rows refer passes from one
//! row to another, the one must have lost it a step before the other gets it: rows that give way go first, and what
//! refers to them comes to the row that stays by the key it has until then. Rows of which the conflict came about by
//! another row's giving way go before that one.

use super::changes::{TableChanges, Update};
use super::elements;
use super::plan::{Plan, Row, Side};
use super::rows::Text;
use crate::catalog::references::ForeignKey;
use crate::catalog::shape::Shape;
use crate::error::Error;
use crate::pg::{self, Arg, Json};
use std::collections::BTreeSet;

/// Who gives way to whom.
type Round = Vec<(Row, Row)>;

/// The steps that lead to `last`, which does not go as one. Fails where there are none.
pub fn before<'a>(last: &Plan<'a>, rounds: &[Round]) -> Result<Vec<Plan<'a>>, Error> {
    let each_round: Vec<Round> = rounds.iter().rev().cloned().collect();
    let each_row = each_round.iter().flatten().map(|pair| vec![*pair]).collect();
    let at_once = vec![each_round.concat()];
    for rounds in [at_once, each_round, each_row] {
        if let Ok(Some(steps)) = attempt(last, &rounds) {
            return Ok(steps);
        }
    }
    // The leaving user's own row is not what is in the way.
    let places = last.gone.keys().map(|(place, _)| *place).filter(|place| *place > 0);
    let tables: BTreeSet<&str> =
        places.map(|place| last.mover.references.tables[place].label.as_str()).collect();
    Err(Error::Entangled { tables: tables.into_iter().collect::<Vec<_>>().join(", ") })
}

fn attempt<'a>(last: &Plan<'a>, rounds: &[Round]) -> Result<Option<Vec<Plan<'a>>>, Error> {
    let mut steps: Vec<Plan> = Vec::new();
    for number in 0..rounds.len() {
        let mut plan = Plan::new(last.session, last.mover, last.mode);
        let gone: Vec<&(Row, Row)> = rounds[..=number].iter().flatten().collect();
        for (loser, heir) in &gone {
            plan.learn(loser)?;
            plan.learn(heir)?;
        }
        for (loser, heir) in gone {
            plan.give_way(loser, heir, Side::App);
        }
        plan.follow()?;
        plan.know_again(&steps)?;
        // For the time being a row may refer to another one: it comes back with a later step.
        plan.loosened = plan.loosened()?;
        let places: BTreeSet<usize> = plan.rows.keys().map(|(place, _)| *place).collect();
        let collide = places.into_iter().any(|place| !plan.meetings(place).is_empty());
        if collide || plan.hands_over(steps.last()) {
            return Ok(None);
        }
        steps.push(plan);
    }
    Ok((!last.hands_over(steps.last())).then_some(steps))
}

impl<'a> Plan<'a> {
    pub fn shape(&self, place: usize) -> &'a Shape {
        self.mover.shape(self.session, place)
    }

    /// Learns of the rows that earlier steps have changed.
    pub fn know_again(&mut self, steps: &[Plan]) -> Result<(), Error> {
        self.again = steps.iter().flat_map(Plan::changed).collect();
        self.again.clone().iter().try_for_each(|row| self.learn(row))
    }

    /// The rows that change and stay.
    fn changed(&self) -> impl Iterator<Item = Row> {
        let stay = |row: &&Row| !self.gone.contains_key(*row);
        let changed = self.rows.iter().filter(|(_, known)| !known.after.is_empty());
        changed.map(|(row, _)| row).filter(stay).cloned()
    }

    /// What a field is, of which this plan or the other may know.
    fn value(&self, row: &Row, column: &str, other: Option<&Plan>) -> Text {
        match other {
            Some(other) if !self.rows.contains_key(row) => other.before(row, column),
            _ => self.after(row, column),
        }
    }

    /// The same, after an earlier step, or as it is in the table.
    fn value_after(&self, earlier: Option<&Plan>, row: &Row, column: &str) -> Text {
        match earlier {
            Some(earlier) => earlier.value(row, column, Some(self)),
            None => self.before(row, column),
        }
    }

    fn with<'r>(&'r self, earlier: Option<&'r Plan>) -> BTreeSet<&'r Row> {
        self.rows.keys().chain(earlier.into_iter().flat_map(|e| e.rows.keys())).collect()
    }

    /// Whether, after `earlier` was done, a key passes from one row to another through a foreign key that acts, and rows
    /// refer by it: to the other row in the end, or to the one before, as they will when it is taken back.
    pub fn hands_over(&self, earlier: Option<&Plan>) -> bool {
        self.keys().iter().enumerate().filter(|(_, key)| key.acts).any(|(number, key)| {
            let mut leaves: Vec<(&Row, Vec<Text>)> = Vec::new();
            let mut comes: Vec<(&Row, Vec<Text>)> = Vec::new();
            let inside = |plan: &Plan| key.parents_at.as_ref().map(|_| plan.referable(key));
            let (now, then) = (inside(self), earlier.and_then(inside));
            for row in self.with(earlier).into_iter().filter(|row| row.0 == key.parent) {
                if earlier.is_some_and(|earlier| earlier.gone.contains_key(row)) {
                    continue;
                }
                let mut was: Vec<Text> =
                    key.keys.iter().map(|k| self.value_after(earlier, row, k)).collect();
                let mut is: Vec<Text> =
                    key.keys.iter().map(|k| self.value(row, k, earlier)).collect();
                // To a key to a partition a row outside of it has no key.
                let goes = self.gone.contains_key(row);
                if let Some(now) = &now {
                    let lies = |plan: &Plan, inside: &BTreeSet<Row>| match plan.rows.get(row) {
                        Some(_) => inside.contains(row),
                        None => key.is_to(row.1.0),
                    };
                    let lay = earlier.zip(then.as_ref()).map(|(plan, inside)| lies(plan, inside));
                    if !lay.unwrap_or(key.is_to(row.1.0)) {
                        was = vec![None; key.keys.len()];
                    }
                    if !goes && !lies(self, now) {
                        is = vec![None; key.keys.len()];
                    }
                }
                if (goes || was != is) && was.iter().all(Option::is_some) {
                    leaves.push((row, was.clone()));
                }
                if !goes && was != is && is.iter().all(Option::is_some) {
                    comes.push((row, is));
                }
            }
            if leaves.is_empty() || comes.is_empty() {
                return false;
            }
            let plans = || [Some(self), earlier].into_iter().flatten();
            if plans().any(|plan| plan.loosened.contains(&number)) {
                return self.any_equal(key, &leaves, &comes);
            }
            let known = || {
                let all = plans().flat_map(|plan| &plan.parents);
                all.filter(|((_, key), _)| *key == number)
                    .map(|((child, _), parent)| (child, parent))
            };
            let after: BTreeSet<&Row> = known()
                .filter(|(child, _)| self.stays(number, child).is_some())
                .map(|(_, parent)| self.heir(parent))
                .collect();
            let before: BTreeSet<&Row> = match earlier {
                None => known().map(|(_, parent)| parent).collect(),
                Some(earlier) => known()
                    .filter(|(child, _)| earlier.stays(number, child).is_some())
                    .map(|(_, parent)| earlier.heir(parent))
                    .collect(),
            };
            let (mut referred, mut referred_before) = (comes.clone(), leaves.clone());
            referred.retain(|(row, _)| after.contains(row));
            referred_before.retain(|(row, _)| before.contains(row));
            self.any_equal(key, &leaves, &referred) || self.any_equal(key, &referred_before, &comes)
        })
    }

    fn any_equal(
        &self,
        key: &ForeignKey,
        these: &[(&Row, Vec<Text>)],
        those: &[(&Row, Vec<Text>)],
    ) -> bool {
        if these.is_empty() || those.is_empty() {
            return false;
        }
        let shape = self.shape(key.parent);
        let on: Vec<String> = (0..key.keys.len())
            .map(|i| {
                let part = |of: &str| shape.base_of_text(&key.keys[i], &format!("{of} ->> {i}"));
                key.same_key(i, &part("x.r"), &part("y.r"))
            })
            .chain(key.update_follows.then(|| {
                let row = key.keys.len();
                format!("x.r ->> {row} <> y.r ->> {row}")
            }))
            .collect();
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {} AS x JOIN {} AS y ON {})",
            elements("$1", these.len()),
            elements("$2", those.len()),
            on.join(" AND ")
        );
        let list = |all: &[(&Row, Vec<Text>)]| -> Arg {
            let with_row = |(row, key): &(&Row, Vec<Text>)| -> Vec<Text> {
                key.iter().cloned().chain([Some(format!("{row:?}"))]).collect()
            };
            Json::of(&all.iter().map(with_row).collect::<Vec<_>>()).into()
        };
        let args = [list(these), list(those)];
        let owner = self.mover.references.tables[key.parent].owner;
        let found = pg::as_role(owner, || self.session.run(&sql, &args, self.mode).one::<bool>());
        found.unwrap_or(true)
    }

    /// The plan as changes to the tables, after `earlier` was done. Rows are named by where they lay at first.
    pub fn changes_since(&self, earlier: Option<&Plan>) -> Vec<TableChanges<'a>> {
        let mut all: Vec<TableChanges> = Vec::new();
        let mut last = None;
        for row in self.with(earlier) {
            let (place, address) = row;
            if earlier.is_some_and(|earlier| earlier.gone.contains_key(row)) {
                continue;
            }
            if last != Some(*place) {
                last = Some(*place);
                let table = &self.mover.references.tables[*place];
                all.push(TableChanges::new(table, self.shape(*place)));
            }
            let Some(changes) = all.last_mut() else {
                continue;
            };
            if self.gone.contains_key(row) {
                changes.deleted.push(*address);
                continue;
            }
            // A generated column follows by itself.
            let is_written = |column: &&String| {
                changes.of.shape.column(column).is_some_and(|c| c.generated.is_none())
            };
            let plans = [Some(self), earlier].into_iter().flatten();
            let columns: BTreeSet<&String> = plans
                .filter_map(|plan| plan.rows.get(row))
                .flat_map(|known| known.after.names())
                .filter(is_written)
                .collect();
            let mut written: Vec<String> = Vec::new();
            let mut update = Update::new(*address, Vec::new(), Vec::new());
            for column in columns {
                let was = self.value_after(earlier, row, column);
                let is = self.value(row, column, earlier);
                if was != is {
                    written.push(column.to_owned());
                    update.before.push(was);
                    update.after.push(is);
                }
            }
            if !written.is_empty() {
                changes.updated.entry(written).or_default().push(update);
            }
        }
        all.retain(|changes| !changes.deleted.is_empty() || !changes.updated.is_empty());
        all
    }
}
