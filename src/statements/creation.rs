//! What would keep auth users' rows from being made, as far as the catalog and the data tell.

use super::mapping::Mapped;
use super::rekey::{Collision, unquoted};
use super::rows::Text;
use super::signup::{Target, UNDER_NAMES};
use super::variants::Variant;
use super::{checks, collisions, elements, offer_new};
use crate::catalog::code::read_precedes_keys;
use crate::catalog::references::{ForeignKey, Table};
use crate::catalog::shape::{Check, Shape, ShapeColumn, Uniqueness};
use crate::error::{Error, Failure};
use crate::pg::{self, Arg, Json, Mode, RowSet, Session, connect, subtransaction};
use onagui_decide::failure::must_pass_on;
use onagui_decide::repair::Action;
use pgrx::Uuid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// What is foreseen of a row that is to be made: what an entry will tell of it, or why it cannot be made.
pub type Foreseen = Result<Value, Hindrance>;

/// Why a row cannot be made.
pub struct Hindrance {
    pub failure: Box<Failure>,
    /// The server says so, to whom the values were shown; nothing of the kind was looked for.
    pub is_raised: bool,
}

/// Ids, and the username of each.
type Named = (Vec<Uuid>, Vec<Option<String>>);

/// The rows that are made of auth users in one way.
struct New<'t> {
    table: &'t Table,
    shape: &'t Shape,
    /// A query over `new_users n` for them, under the table's column names, with the auth user's id in `"#id"`.
    rows: String,
    /// Where they are made under names ([`UNDER_NAMES`]).
    names: Option<Named>,
    /// Quoted columns of which nobody can tell what they will be.
    open: Vec<String>,
    /// Nobody can tell what the e-mail of those will be who have none.
    has_open_email: bool,
    /// The columns that take texts of some length only, quoted, and what is assigned to them.
    limited: Vec<(&'t str, String)>,
}

impl Target {
    /// What would come of making the rows of the auth users with these ids, who have none; nothing where a BEFORE trigger may
    /// change a new row. `of` is `app_users`.
    pub fn foresee(
        &self,
        session: &Session,
        of: (&Table, &Shape),
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, Foreseen>, Error> {
        if self.app.changes_rows {
            return Ok(HashMap::new());
        }
        let mut keys = ForeignKey::all_of(session, of.0.oid, Mode::Fresh);
        if !keys.is_empty() && read_precedes_keys(session, of.0.oid) {
            keys.clear();
        }
        let look = |users: &RowSet, new: &New| self.hindered(users, &keys, new);
        let users = self.auth_users(session, ids, Mode::Read);
        let hindered = look(&users, &self.new_rows(of, None))?;
        let others = hindered.iter().filter(|(_, why)| self.may_do_with_less(&why.failure));
        let others: Vec<Uuid> = others.map(|(id, _)| *id).collect();
        let mut foreseen: HashMap<Uuid, Foreseen> =
            ids.iter().map(|id| (*id, Ok(json!({})))).collect();
        foreseen.extend(hindered.into_iter().map(|(id, why)| (id, Err(why))));
        if !others.is_empty() {
            let users = self.auth_users(session, &others, Mode::Read);
            foreseen.extend(self.foresee_less(of, &users, look)?);
        }
        Ok(foreseen)
    }

    /// The same of those whose rows cannot be made as they come: what [`Target::create_one`] tries then is looked at.
    fn foresee_less(
        &self,
        of: (&Table, &Shape),
        users: &RowSet,
        look: impl Fn(&RowSet, &New) -> Result<HashMap<Uuid, Hindrance>, Error>,
    ) -> Result<HashMap<Uuid, Foreseen>, Error> {
        let arrivals = self.facts(users)?;
        let free = self.free_usernames(&arrivals.iter().collect::<Vec<_>>())?;
        let make = |places: &[usize], variant: &Variant| {
            let name = |i: &usize| self.username_for(&arrivals[*i], &free[*i], variant);
            let names: Vec<Option<String>> = places.iter().map(name).collect();
            let ids = places.iter().map(|i| arrivals[*i].id).collect();
            let under = Some(((ids, names.clone()), &variant.left_out[..]));
            let mut why = look(&users.part(places), &self.new_rows(of, under))?;
            let each = places.iter().zip(names).map(|(i, name)| {
                let told = || self.told(&arrivals[*i], name.as_deref(), variant, None);
                let made = || told().unwrap_or_else(|| json!({}));
                (*i, why.remove(&arrivals[*i].id).map_or_else(|| Ok(made()), Err))
            });
            Ok::<BTreeMap<usize, Foreseen>, Error>(each.collect())
        };
        let all: Vec<usize> = (0..arrivals.len()).collect();
        let mut foreseen = make(&all, &Variant::default())?;
        let mut alike: BTreeMap<Vec<Variant>, Vec<usize>> = BTreeMap::new();
        for (i, foreseen) in &foreseen {
            let failure = foreseen.as_ref().err().map(|why| &why.failure);
            if let Some(failure) = failure.filter(|failure| self.may_do_with_less(failure)) {
                alike.entry(self.variants(failure, &[])).or_default().push(*i);
            }
        }
        for (variants, mut places) in alike {
            let least = make(&places, &self.least(&[]))?;
            for variant in variants {
                // Whose least row cannot be made needs another username, if anything.
                let may = |i: &usize| variant.is_renamed() || least[i].is_ok();
                let some: Vec<usize> = places.iter().copied().filter(may).collect();
                if !some.is_empty() {
                    foreseen
                        .extend(make(&some, &variant)?.into_iter().filter(|made| made.1.is_ok()));
                    places.retain(|i| foreseen[i].is_err());
                }
            }
            let least = least.into_iter().filter(|(i, made)| made.is_ok() && places.contains(i));
            foreseen.extend(least);
        }
        Ok(foreseen.into_iter().map(|(i, foreseen)| (arrivals[i].id, foreseen)).collect())
    }

    /// Of the auth users, those whose rows could not be made, and why. Whose values raise an error is found by halving.
    fn hindered(
        &self,
        users: &RowSet,
        keys: &[(ForeignKey, Table)],
        new: &New,
    ) -> Result<HashMap<Uuid, Hindrance>, Error> {
        match subtransaction(|| Ok(self.hindrances(users, keys, new))) {
            Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
            Err(_) if users.len() > 1 => {
                pg::check_interrupts();
                let middle = users.len() / 2;
                let half = |places: Range<usize>| {
                    self.hindered(&users.part(&places.collect::<Vec<_>>()), keys, new)
                };
                let mut found = half(0..middle)?;
                found.extend(half(middle..users.len())?);
                Ok(found)
            }
            Err(failure) => {
                let id = users.first().and_then(|seen| seen.person.id);
                Ok(id.map(|id| (id, Hindrance { failure, is_raised: true })).into_iter().collect())
            }
            found => Ok(found?),
        }
    }

    fn hindrances(
        &self,
        users: &RowSet,
        keys: &[(ForeignKey, Table)],
        new: &New,
    ) -> HashMap<Uuid, Hindrance> {
        let mut found: HashMap<Uuid, Error> = HashMap::new();
        pg::as_role(self.app.owner, || {
            connect(|session| {
                offer_new(session, users);
                let rows = session.run(&new.look_sql(), &new.args(), Mode::Read);
                for row in 0..rows.len() {
                    let answers = |column| rows.get::<Vec<bool>>(row, column).unwrap_or_default();
                    let why = new.hindrance(&answers(2), &answers(3), &answers(4));
                    found.extend(rows.get::<Uuid>(row, 1).zip(why));
                }
                for unique in new.unique() {
                    let sql = collisions::taken(new.table, unique, &new.rows);
                    for id in session.run(&sql, &new.args(), Mode::Read).column::<Uuid>() {
                        found.entry(id).or_insert_with(|| new.collides(unique));
                    }
                }
                for (key, parent) in keys {
                    for id in new.refer_to_nobody(session, key, parent) {
                        found.entry(id).or_insert_with(|| new.refers_to_nobody(key));
                    }
                }
            })
        });
        let foreseen = |(id, error): (Uuid, Error)| {
            (id, Hindrance { failure: Box::new(error.into()), is_raised: false })
        };
        found.into_iter().map(foreseen).collect()
    }

    /// The rows as a sign-up makes them at first; or `under` usernames, cut, and without some columns.
    fn new_rows<'t>(
        &self,
        (table, shape): (&'t Table, &'t Shape),
        under: Option<(Named, &[String])>,
    ) -> New<'t> {
        let (names, left_out) = under.unzip();
        let value = |m: &Mapped| if names.is_some() { self.value_as(m) } else { m.value() };
        let mapped_to = |column: &str| {
            let mut mapped = self.mapped.iter();
            mapped.find(|m| m.name == column && !left_out.unwrap_or_default().contains(&m.name))
        };
        let is_open = shape.column("email").is_some_and(|c| c.is_open);
        let email = if is_open { "n.email".to_owned() } else { self.new_email() };
        let mut open = Vec::new();
        let mut written = Vec::new();
        for column in shape.columns.iter().filter(|c| c.generated.is_none()) {
            let default = self.app.column(&column.name).and_then(|c| c.default.as_deref());
            let value = match (column.name.as_str(), mapped_to(&column.name)) {
                ("id", _) => "n.id".to_owned(),
                ("email", _) => email.clone(),
                _ if column.is_open => {
                    written.push(unknown(column));
                    open.push(column.quoted.clone());
                    continue;
                }
                (_, Some(mapped)) => value(mapped),
                (_, None) => default.unwrap_or("NULL").to_owned(),
            };
            written.push(format!("({value})::{} AS {}", column.kind, column.quoted));
        }
        let mut computed = Vec::new();
        for column in shape.columns.iter().filter(|c| c.generated.is_some()) {
            if shape.is_computed_anew(column, |name| open.contains(name)) {
                computed.push(format!(", {}", unknown(column)));
                open.push(column.quoted.clone());
            } else {
                computed.extend(column.computed());
            }
        }
        let text = |name: &str| match (name, mapped_to(name)) {
            ("email", _) => Some(format!("{email}::text")),
            (_, Some(mapped)) if mapped.is_string => Some(format!("({})::text", value(mapped))),
            _ => None,
        };
        let limited = shape.columns.iter().filter(|c| c.is_limited && !open.contains(&c.quoted));
        let limited: Vec<(&str, String)> =
            limited.filter_map(|c| Some((c.quoted.as_str(), text(&c.name)?))).collect();
        let raw: Vec<String> = limited
            .iter()
            .enumerate()
            .map(|(i, (_, text))| format!(", ({text}) AS \"#raw {i}\""))
            .collect();
        let rows = format!(
            "SELECT *{} FROM (SELECT n.id AS \"#id\", {}{} FROM {}) AS image",
            computed.concat(),
            written.join(", "),
            raw.concat(),
            if names.is_some() { UNDER_NAMES } else { "new_users n" },
        );
        let has_open_email = is_open && self.app.default_email.is_some();
        New { table, shape, rows, names, open, has_open_email, limited }
    }
}

/// SQL: a column of which nobody can tell what it will be. No domain is asked for NULL.
fn unknown(column: &ShapeColumn) -> String {
    format!("NULL::{} AS {}", column.base, column.quoted)
}

impl New<'_> {
    fn args(&self) -> Vec<Arg> {
        let names = self.names.clone();
        names.map_or_else(Vec::new, |(ids, names)| vec![ids.into(), names.into()])
    }

    /// By auth user: which columns have no value though they must, which checks are broken, and what does not fit.
    fn look_sql(&self) -> String {
        let nulls = self.demanded().map(|column| format!("num_nulls({column}) = 1"));
        let breaks = self.checks().map(checks::breaks);
        let cut =
            self.limited.iter().enumerate().filter_map(|(i, (column, _))| {
                self.shape.overflow(column, &format!("\"#raw {i}\""))
            });
        let array = |all: Vec<String>| format!("ARRAY[{}]::bool[]", all.join(", "));
        format!(
            "WITH new AS MATERIALIZED ({}) SELECT \"#id\", {}, {}, {} FROM new",
            self.rows,
            array(nulls.collect()),
            array(breaks.collect()),
            array(cut.collect()),
        )
    }

    /// Quoted columns that must have a value.
    fn demanded(&self) -> impl Iterator<Item = &str> {
        let is_open = |name: &str| {
            self.open.iter().any(|open| open == name) || self.has_open_email && name == "email"
        };
        let columns = self.shape.columns.iter().filter(|c| c.not_null);
        columns.map(|c| c.quoted.as_str()).filter(move |name| !is_open(name))
    }

    fn checks(&self) -> impl Iterator<Item = &Check> {
        self.shape.asked_of_new(&self.open).0
    }

    fn unique(&self) -> impl Iterator<Item = &Uniqueness> {
        self.shape.asked_of_new(&self.open).1
    }

    fn hindrance(&self, is_null: &[bool], is_broken: &[bool], is_cut: &[bool]) -> Option<Error> {
        let missing = self.demanded().zip(is_null).filter(|(_, is_null)| **is_null);
        let columns: Vec<String> = missing.map(|(column, _)| unquoted(column)).collect();
        let table = || self.table.label.clone();
        if !columns.is_empty() {
            return Some(Error::ValuesMissing { table: table(), columns });
        }
        if let Some(((column, _), _)) = self.limited.iter().zip(is_cut).find(|(_, cut)| **cut) {
            let kind = self.shape.column(column).map_or(String::new(), |c| c.kind.clone());
            return Some(Error::DoesNotFit { table: table(), column: (*column).to_owned(), kind });
        }
        let broken = self.checks().zip(is_broken).filter(|(_, broken)| **broken);
        let broken = broken.map(|(check, _)| checks::found(self.table, check, 1)).collect();
        checks::fail(broken, false).err()
    }

    /// The auth users whose rows would refer to nobody through a foreign key, as far as that can be told beforehand.
    fn refer_to_nobody(&self, session: &Session, key: &ForeignKey, parent: &Table) -> Vec<Uuid> {
        let is_open = |column: &String| self.open.contains(column);
        let of_itself = parent.oid == self.table.oid;
        let unclear = key.columns.iter().any(is_open) || of_itself && key.keys.iter().any(is_open);
        if !key.enforced || key.period || key.bounds.is_some() || unclear {
            return Vec::new();
        }
        let equal = |key_of: &str, column: &dyn Fn(usize) -> String| -> String {
            let part = |(i, k)| key.equal(i, &format!("{key_of}.{k}"), &column(i));
            key.keys.iter().enumerate().map(part).collect::<Vec<_>>().join(" AND ")
        };
        // A row may refer to itself.
        let others = match of_itself {
            true => format!("({}) IS NOT TRUE", equal("n", &|i| format!("n.{}", key.columns[i]))),
            false => "true".into(),
        };
        let nulls = key.columns.iter().map(|c| format!("n.{c}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT \"#id\", {} FROM ({}) n
              WHERE num_nulls({nulls}) {} AND {others}",
            self.shape.texts("n", key.columns.iter().map(String::as_str)),
            self.rows,
            if key.full { format!("< {}", key.columns.len()) } else { "= 0".into() },
        );
        let rows = pg::with_stable_text(|| session.run(&sql, &self.args(), Mode::Read));
        let ids: Vec<Uuid> = rows.column();
        let values: Vec<Vec<Text>> =
            (0..rows.len()).map(|row| rows.get(row, 2).unwrap_or_default()).collect();
        if ids.is_empty() {
            return ids;
        }
        let held = |i: usize| self.shape.base_of_text(&key.columns[i], &format!("x.r ->> {i}"));
        let within = key.parents_within("t").unwrap_or("true".into());
        let sql = format!(
            "SELECT x.place FROM {} AS x
              WHERE NOT EXISTS (SELECT FROM {} t WHERE {} AND {within})",
            elements("$1", values.len()),
            parent.target(),
            equal("t", &held)
        );
        let orphans: Vec<i64> = pg::with_stable_text(|| {
            pg::as_role(parent.owner, || {
                session.run(&sql, &[Json::of(&values).into()], Mode::Read).column()
            })
        });
        orphans.into_iter().map(|place| ids[place as usize - 1]).collect()
    }

    fn refers_to_nobody(&self, key: &ForeignKey) -> Error {
        Error::RefersToNobody {
            table: self.table.label.clone(),
            columns: key.columns.iter().map(|c| unquoted(c)).collect(),
            constraint: key.name.clone(),
        }
    }

    fn collides(&self, unique: &Uniqueness) -> Error {
        let (table, constraint) = (self.table.label.clone(), unique.name.clone());
        let what = Collision::in_words(&[Collision { table, constraint, rows: 1 }]);
        Error::Collides { what, action: Action::Create }
    }
}
