//! Which rows change when a key changes or a row gives way to another, worked out row by row before anything is written.
//!
//! Everything that refers to a changed key follows it, through every foreign key and however deep.

mod read;

use super::fields::Fields;
use super::fit;
use super::rekey::{Mover, unquoted};
use super::rows::{Address, Text};
use crate::catalog::references::{ForeignKey, Form};
use crate::error::Error;
use crate::pg::{Mode, Session};
use pgrx::Uuid;
use read::key_columns;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// A row: the place of its table, and its address.
pub type Row = (usize, Address);

/// Whose a row was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Auth,
    App,
}

/// How often the keys of one user's rows may change before it is plain that they never agree.
const ROUNDS: usize = 1_000;

/// A row as it is, in the columns that keys are made of, and what becomes of it.
pub struct Known {
    pub before: Vec<Text>,
    pub after: Fields,
    pub side: Option<Side>,
}

/// By row: its new values, and whether it gave way.
pub type Earlier = BTreeMap<Row, (Fields, bool)>;

/// What becomes of rows, and what is known of them.
pub struct Plan<'a> {
    pub mover: &'a Mover,
    pub session: &'a Session,
    /// `Read` for a rehearsal. `Fresh` to do it: then every row is locked as it is found.
    pub mode: Mode,
    /// By table: the (quoted) columns that refer or are referred to, or hold an id.
    columns: Vec<Vec<String>>,
    pub rows: BTreeMap<Row, Known>,
    /// In a rehearsal: what others will have done before.
    pub earlier: Earlier,
    /// Rows that give way, and to which.
    pub gone: BTreeMap<Row, Row>,
    losers: BTreeMap<Row, Vec<Row>>,
    /// Which row refers to which through a foreign key, as things are in the tables.
    pub parents: BTreeMap<(Row, usize), Row>,
    children: BTreeMap<(Row, usize), Vec<Row>>,
    looked_up: BTreeSet<(Row, usize)>,
    /// Where the fields by which a row that gives way refers to another were taken over by its heir.
    pub took_over: BTreeMap<(Row, usize), Row>,
    /// Fields that must stay as they are.
    pub untouchable: BTreeSet<(Row, String)>,
    /// Rows that an earlier step has changed already (see [`super::steps`]).
    pub again: BTreeSet<Row>,
    /// Foreign keys through which rows refer to others than before for the time being.
    pub loosened: BTreeSet<usize>,
    /// Tables of which rows were changed or gave way since somebody asked.
    pub touched: BTreeSet<usize>,
    /// What columns must be to refer to values of keys of other types: by foreign key, its part and the value.
    fitting: RefCell<BTreeMap<(usize, usize, String), Text>>,
    /// Rows whose keys have changed, or that gave way, and whose children must follow.
    open: BTreeMap<Row, (BTreeSet<String>, Side)>,
}

impl<'a> Plan<'a> {
    pub fn new(session: &'a Session, mover: &'a Mover, mode: Mode) -> Self {
        let columns =
            (0..mover.references.tables.len()).map(|place| key_columns(mover, place)).collect();
        Plan {
            mover,
            session,
            mode,
            columns,
            rows: BTreeMap::new(),
            earlier: BTreeMap::new(),
            gone: BTreeMap::new(),
            losers: BTreeMap::new(),
            parents: BTreeMap::new(),
            children: BTreeMap::new(),
            looked_up: BTreeSet::new(),
            took_over: BTreeMap::new(),
            untouchable: BTreeSet::new(),
            again: BTreeSet::new(),
            loosened: BTreeSet::new(),
            touched: BTreeSet::new(),
            fitting: RefCell::default(),
            open: BTreeMap::new(),
        }
    }

    pub fn keys(&self) -> &'a [ForeignKey] {
        &self.mover.references.keys
    }

    /// What a field is in the table. NULL where the row or the column is not known.
    pub fn before(&self, row: &Row, column: &str) -> Text {
        let place = self.columns[row.0].iter().position(|c| c == column);
        place.and_then(|place| self.rows.get(row)?.before[place].clone())
    }

    /// What a field is planned to be.
    pub fn after(&self, row: &Row, column: &str) -> Text {
        match self.rows.get(row).and_then(|known| known.after.get(column)) {
            Some(after) => after.clone(),
            None => self.before(row, column),
        }
    }

    /// Who stays in place of a row.
    pub fn heir<'r>(&'r self, row: &'r Row) -> &'r Row {
        let mut heir = row;
        while let Some(next) = self.gone.get(heir) {
            heir = next;
        }
        heir
    }

    /// Whether rows gave way to this one.
    pub fn has_losers(&self, row: &Row) -> bool {
        self.losers.contains_key(row)
    }

    /// Whether others will have left the row as it is planned to be now.
    pub fn is_done_before(&self, row: &Row) -> bool {
        match (self.rows.get(row), self.earlier.get(row)) {
            (Some(known), Some((after, gone))) => {
                known.after == *after && self.gone.contains_key(row) == *gone
            }
            (Some(known), None) => known.after.is_empty() && !self.gone.contains_key(row),
            (None, _) => true,
        }
    }

    /// The columns of a row that change, and that others will not have changed in the same way before.
    pub fn newly_changed<'s>(&'s self, row: &Row) -> impl Iterator<Item = &'s String> {
        let before = self.earlier.get(row).map(|(after, _)| after);
        let all = self.rows.get(row).into_iter().flat_map(|known| known.after.iter());
        let new = all.filter(move |(column, after)| {
            before.is_none_or(|before| before.get(column) != Some(*after))
        });
        new.map(|(column, _)| column)
    }

    /// Notes what a row's columns become. [`Self::follow`] brings along what refers to it by them.
    pub fn set(&mut self, row: &Row, mut side: Side, values: Vec<(String, Text)>) {
        let mut changed = Vec::new();
        for (column, after) in values {
            if self.after(row, &column) == after {
                continue;
            }
            let is_as_before = self.before(row, &column) == after;
            if let Some(known) = self.rows.get_mut(row) {
                if is_as_before {
                    known.after.remove(&column);
                } else {
                    known.after.insert(column.clone(), after);
                }
            }
            changed.push(column);
        }
        if let Some(known) = self.rows.get_mut(row) {
            // What comes over with anything of the user who goes, comes over; and what refers to it by now does too.
            if known.side == Some(Side::Auth) && side == Side::App && !self.gone.contains_key(row) {
                changed.extend(known.after.names().cloned());
                known.side = None;
            }
            side = *known.side.get_or_insert(side);
        }
        if !changed.is_empty() {
            self.touched.insert(row.0);
            self.open(row, side).extend(changed);
        }
    }

    fn open(&mut self, row: &Row, side: Side) -> &mut BTreeSet<String> {
        let open = self.open.entry(*row).or_insert_with(|| (BTreeSet::new(), side));
        if side == Side::App {
            open.1 = side;
        }
        &mut open.0
    }

    /// The row `loser` will be deleted; everything that refers to it, by any key, comes to `heir`.
    pub fn give_way(&mut self, loser: &Row, heir: &Row, side: Side) {
        let heir = *self.heir(heir);
        if self.gone.contains_key(loser) || heir == *loser {
            return;
        }
        self.losers.entry(heir).or_default().push(*loser);
        self.gone.insert(*loser, heir);
        if let Some(known) = self.rows.get_mut(loser) {
            known.side = Some(side);
        }
        self.touched.insert(loser.0);
        self.open(loser, side);
    }

    /// Brings along what refers to rows that were changed or gave way, until nothing is left to do.
    pub fn follow(&mut self) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            if self.open.is_empty() && !self.adopt()? {
                return Ok(());
            }
            let mut open = std::mem::take(&mut self.open);
            self.compute_generated(&open);
            for (row, (columns, side)) in std::mem::take(&mut self.open) {
                let open = open.entry(row).or_insert_with(|| (BTreeSet::new(), side));
                open.0.extend(columns);
            }
            for number in 0..self.keys().len() {
                let key = &self.keys()[number];
                let parents: Vec<(&Row, Side)> = open
                    .iter()
                    .filter(|(row, (columns, _))| {
                        // To a key to a partition any change may be one of its place.
                        row.0 == key.parent
                            && (self.gone.contains_key(*row)
                                || key.parents_at.is_some()
                                || key.keys.iter().any(|k| columns.contains(k)))
                    })
                    .map(|(row, (_, side))| (row, *side))
                    .collect();
                self.bring_children(number, &parents)?;
            }
        }
        Err(Error::KeysDisagree {
            table: self.mover.references.tables[0].label.clone(),
            columns: Vec::new(),
        })
    }

    /// Rows that come to lie under the key of a partition refer by it to a row that changes as if they had lain there
    /// before; otherwise they would refer to nobody. Answers whether any row has to follow.
    fn adopt(&mut self) -> Result<bool, Error> {
        for (number, key) in self.keys().iter().enumerate().filter(|(_, key)| key.bounds.is_some())
        {
            let comes: Vec<Row> = self.crossings(key).0.into_iter().cloned().collect();
            for child in comes {
                let held: Vec<Text> = key.columns.iter().map(|c| self.before(&child, c)).collect();
                let parent = self.rows.iter().find(|(row, known)| {
                    row.0 == key.parent
                        && key.is_to(row.1.0)
                        && (self.gone.contains_key(*row) || !known.after.is_empty())
                        && held.iter().all(Option::is_some)
                        && key.keys.iter().zip(&held).all(|(k, held)| self.before(row, k) == *held)
                });
                let Some(parent) = parent.map(|(row, _)| *row) else {
                    continue;
                };
                if self.parents.insert((child, number), parent).is_some() {
                    continue;
                }
                self.children.entry((parent, number)).or_default().push(child);
                let side = self.rows.get(&child).and_then(|known| known.side).unwrap_or(Side::App);
                let wanted = self.wanted(number, &child)?;
                self.set(&child, side, wanted);
            }
        }
        Ok(!self.open.is_empty())
    }

    fn bring_children(&mut self, number: usize, parents: &[(&Row, Side)]) -> Result<(), Error> {
        self.look_up(number, parents.iter().map(|(row, _)| *row))?;
        for (parent, side) in parents {
            // Those who came with a row that gave way keep its side.
            let mut all = vec![(*(*parent), *side)];
            let mut next = 0;
            while next < all.len() {
                let losers = self.losers.get(&all[next].0).into_iter().flatten();
                let sided = |row: &Row| self.rows.get(row).and_then(|known| known.side);
                let more: Vec<(Row, Side)> =
                    losers.map(|row| (*row, sided(row).unwrap_or(*side))).collect();
                all.extend(more);
                next += 1;
            }
            let children: Vec<(Row, Side)> = all
                .into_iter()
                .filter_map(|(row, side)| Some((self.children.get(&(row, number))?, side)))
                .flat_map(|(rows, side)| rows.iter().map(move |row| (*row, side)))
                .collect();
            for (child, side) in children {
                if let Some(row) = self.stays(number, &child).cloned() {
                    let wanted = self.wanted(number, &child)?;
                    self.set(&row, side, wanted);
                }
            }
        }
        Ok(())
    }

    /// The row that refers through the key in the end: the child itself, if it does not give way.
    pub fn stays<'r>(&'r self, number: usize, child: &'r Row) -> Option<&'r Row> {
        if self.gone.contains_key(child) {
            return self.took_over.get(&(*child, number));
        }
        Some(child)
    }

    /// What the columns of a foreign key must be, for the row to refer to its parent as that will be. Generated ones
    /// follow by themselves.
    pub fn wanted(&self, number: usize, child: &Row) -> Result<Vec<(String, Text)>, Error> {
        let key = &self.keys()[number];
        let Some(parent) = self.parents.get(&(*child, number)) else {
            return Ok(Vec::new());
        };
        let heir = self.heir(parent);
        let table = || self.mover.references.tables[child.0].label.clone();
        let mut wanted = Vec::with_capacity(key.columns.len());
        let mut is_same = true;
        // A period is the child's own; whether it stays covered is looked up in the end.
        let ids = key.columns.len() - usize::from(key.period);
        let columns = key.columns.iter().zip(&key.keys).zip(&key.generated);
        for (place, ((column, k), is_generated)) in columns.take(ids).enumerate() {
            let (was, is) = (self.before(parent, k), self.after(heir, k));
            if is.is_none() {
                return Err(Error::NoKeyToReferTo {
                    place: child.0,
                    table: table(),
                    parent: self.mover.references.tables[key.parent].label.clone(),
                    columns: key.columns.iter().map(|c| unquoted(c)).collect(),
                });
            }
            is_same &= was == is;
            if !is_generated {
                // What is equal to the key, though not to the last byte, is good enough as long as the key stays.
                let value = if was == is {
                    self.before(child, column)
                } else {
                    self.fitting(number, place, is)?
                };
                wanted.push((column.clone(), value));
            }
        }
        if is_same && heir != parent && key.acts && parent.0 == 0 {
            return Err(Error::KeyIsTaken { table: table(), constraint: key.name.clone() });
        }
        Ok(wanted)
    }

    /// What the part `place` of a foreign key must be in a row that refers by it to the value `key`.
    pub fn fitting(&self, number: usize, place: usize, key: Text) -> Result<Text, Error> {
        let Some(key) = key else {
            return Ok(None);
        };
        let known = (number, place, key);
        if let Some(fitting) = self.fitting.borrow().get(&known) {
            return Ok(fitting.clone());
        }
        let of = (&self.keys()[number], place);
        let fitting = Some(fit::as_referring(self.session, self.mover, of, &known.2, self.mode)?);
        self.fitting.borrow_mut().insert(known, fitting.clone());
        Ok(fitting)
    }

    /// Soft references to `from` become references to `to`.
    pub fn bring_soft_references(&mut self, from: Uuid, to: Uuid) {
        for place in 0..self.mover.references.tables.len() {
            let table = &self.mover.references.tables[place];
            for moving in table.moving.iter().filter(|m| m.soft && !m.generated) {
                let source = format!("{} t WHERE {}", table.target(), moving.holds("t", "$1"));
                for (_, row) in self.find(place, "0", &source, &[from.into()]) {
                    let field = (row, moving.column.clone());
                    if self.untouchable.contains(&field) || self.gone.contains_key(&row) {
                        continue;
                    }
                    let to = match (moving.form, self.before(&row, &moving.column)) {
                        (Form::Text, Some(id)) if id != from.to_string() => {
                            to.to_string().to_uppercase()
                        }
                        _ => to.to_string(),
                    };
                    self.set(&row, Side::App, vec![(moving.column.clone(), Some(to))]);
                }
            }
        }
    }

    /// The rows of a table that change and stay.
    pub fn of_table(&self, place: usize) -> impl Iterator<Item = (&Row, &Known)> {
        self.rows.iter().filter(move |(row, known)| {
            row.0 == place && !self.gone.contains_key(*row) && !known.after.is_empty()
        })
    }
}
