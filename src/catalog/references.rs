//! What refers to the application's users: foreign keys, followed from key to key, and registered soft references.
//!
//! Found in the catalog at the moment it is needed, never listed by hand.

use super::tables::{APP_USERS, App};
use crate::error::Error;
use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;

/// A foreign key. Columns are quoted; `columns[i]` refers to `keys[i]`.
#[derive(Debug)]
pub struct ForeignKey {
    /// Where it stands and what it refers to: places in [`References::tables`].
    pub child: usize,
    pub parent: usize,
    pub columns: Vec<String>,
    pub keys: Vec<String>,
    /// `OPERATOR(…)`, key on the left, column on the right.
    pub operators: Vec<String>,
    /// The constraint has been checked for all rows, and is enforced.
    pub validated: bool,
    /// Every column but the one at this place is NOT NULL.
    nullable: Vec<bool>,
    /// Where the key stands on a partition: only rows in these partitions refer.
    pub partitions: Option<Vec<u32>>,
    /// `schema.name`, quoted, for SET CONSTRAINTS; and whether it is deferred at first.
    pub deferrable: Option<(String, bool)>,
}

/// How a column holds a user's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Uuid,
    /// As text, in lower or in upper case.
    Text,
}

/// A column that changes when a user's id does.
#[derive(Debug)]
pub struct Moving {
    /// Quoted.
    pub column: String,
    pub form: Form,
    /// Foreign keys through which it refers, places in [`References::keys`].
    pub through: Vec<usize>,
    /// Every row that holds the id refers to the user: no further condition.
    pub always: bool,
    /// A generated column follows the columns it is made of and cannot be written.
    pub generated: bool,
    /// A registered soft reference.
    pub soft: bool,
}

/// A table that holds ids of users.
#[derive(Debug)]
pub struct Table {
    pub oid: Oid,
    pub owner: Oid,
    /// Qualified and quoted.
    pub name: String,
    /// For people: qualified, quoted only where needed.
    pub label: String,
    /// `ONLY ` for ordinary tables, nothing for partitioned ones.
    pub only: &'static str,
    pub moving: Vec<Moving>,
}

impl Table {
    /// The table with this oid, as far as writing to it goes.
    pub fn read(session: &Session, oid: Oid, mode: Mode) -> Option<Self> {
        let rows = session.run(TABLE, &[oid.into()], mode);
        if rows.is_empty() {
            return None;
        }
        let is_partitioned: bool = rows.get(0, 4)?;
        Some(Table {
            oid,
            owner: rows.get(0, 1)?,
            name: rows.get(0, 2)?,
            label: rows.get(0, 3)?,
            only: if is_partitioned { "" } else { "ONLY " },
            moving: Vec::new(),
        })
    }

    /// How statements name the table.
    pub fn target(&self) -> String {
        format!("{}{}", self.only, self.name)
    }
}

/// Everything that refers to the users.
#[derive(Debug)]
pub struct References {
    /// The first is `app_users` itself.
    pub tables: Vec<Table>,
    /// All foreign keys among tables that are reached.
    pub keys: Vec<ForeignKey>,
}

struct RawKey {
    child: Oid,
    child_at: Oid,
    parent: Oid,
    columns: Vec<String>,
    keys: Vec<String>,
    operators: Vec<String>,
    validated: bool,
    nullable: Vec<bool>,
    generated: Vec<bool>,
    text: Vec<bool>,
    deferrable: Option<(String, bool)>,
}

/// Every foreign key of the database that is not a partition's copy of its parent's. The root of a partition tree
/// stands for all of it.
const KEYS: &str = "
    SELECT coalesce(pg_partition_root(c.conrelid), c.conrelid)::oid,
           c.conrelid,
           coalesce(pg_partition_root(c.confrelid), c.confrelid)::oid,
           columns.names, keys.names, keys.operators,
           c.convalidated,
           columns.nullable, columns.generated, columns.text,
           CASE WHEN c.condeferrable THEN format('%I.%I', n.nspname, c.conname) END,
           c.condeferred
      FROM pg_constraint c
      JOIN pg_namespace n ON n.oid = c.connamespace
      CROSS JOIN LATERAL (
            SELECT array_agg(quote_ident(a.attname) ORDER BY k.place) AS names,
                   array_agg(NOT a.attnotnull ORDER BY k.place) AS nullable,
                   array_agg(a.attgenerated <> '' ORDER BY k.place) AS generated,
                   array_agg(t.typcategory = 'S' ORDER BY k.place) AS text
              FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, place)
              JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
              JOIN pg_type t ON t.oid = a.atttypid) columns
      CROSS JOIN LATERAL (
            SELECT array_agg(quote_ident(a.attname) ORDER BY k.place) AS names,
                   array_agg(format('OPERATOR(%I.%s)', o.nspname, p.oprname) ORDER BY k.place) AS operators
              FROM unnest(c.confkey, c.conpfeqop) WITH ORDINALITY AS k(attnum, operator, place)
              JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
              JOIN pg_operator p ON p.oid = k.operator
              JOIN pg_namespace o ON o.oid = p.oprnamespace) keys
     WHERE c.contype = 'f' AND c.conparentid = 0";

const TABLE: &str = "
    SELECT c.relowner, format('%I.%I', n.nspname, c.relname), c.oid::regclass::text, c.relkind = 'p'
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";

const SOFT: &str = "
    SELECT coalesce(pg_partition_root(c.oid), c.oid)::oid, quote_ident(a.attname), t.typcategory = 'S',
           a.attgenerated <> ''
      FROM onagui.sync_reference r
      JOIN pg_namespace n ON n.nspname = r.table_schema
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.table_name AND c.relkind IN ('r', 'p')
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = r.column_name AND NOT a.attisdropped
      JOIN pg_type t ON t.oid = a.atttypid
     ORDER BY 1, 2";

impl References {
    pub fn read(session: &Session, app: &App, mode: Mode) -> Result<Self, Error> {
        let raw = read_keys(session, mode);
        let mut found = References { tables: Vec::new(), keys: Vec::new() };
        let mut places = HashMap::new();
        let root = found
            .place(session, &mut places, app.table, mode)
            .ok_or(Error::TableMissing { table: APP_USERS })?;
        found.tables[root].moving.push(Moving {
            column: "id".into(),
            form: Form::Uuid,
            through: Vec::new(),
            always: true,
            generated: false,
            soft: false,
        });
        let soft = session.run(SOFT, &[], mode);
        let mut open = vec![(root, "id".to_owned())];
        for row in 0..soft.len() {
            let (Some(table), Some(column)) = (soft.get::<Oid>(row, 1), soft.get::<String>(row, 2))
            else {
                continue;
            };
            let Some(place) = found.place(session, &mut places, table, mode) else {
                continue;
            };
            let is_text = soft.get::<bool>(row, 3).unwrap_or_default();
            let form = if is_text { Form::Text } else { Form::Uuid };
            let generated = soft.get(row, 4).unwrap_or_default();
            if found.add(place, &column, form, None, generated) {
                open.push((place, column));
            }
        }
        // Every foreign key that is reached is taken once; each of its columns that holds an id is followed further.
        let mut taken: HashMap<usize, usize> = HashMap::new();
        while let Some((parent, key)) = open.pop() {
            for (number, raw) in raw.iter().enumerate() {
                if raw.parent != found.tables[parent].oid {
                    continue;
                }
                for place in raw.keys.iter().enumerate().filter(|(_, k)| **k == key).map(|(i, _)| i)
                {
                    let Some(child) = found.place(session, &mut places, raw.child, mode) else {
                        continue;
                    };
                    let number = *taken.entry(number).or_insert_with(|| {
                        found.keys.push(raw.to_key(session, child, parent, mode));
                        found.keys.len() - 1
                    });
                    let form = if raw.text[place] { Form::Text } else { Form::Uuid };
                    let column = &raw.columns[place];
                    if found.add(child, column, form, Some(number), raw.generated[place]) {
                        open.push((child, column.clone()));
                    }
                }
            }
        }
        found.settle_conditions();
        found.add_other_keys(session, &raw, &mut taken, &mut places, mode);
        Ok(found)
    }

    /// Adds the foreign keys by which the tables are reached otherwise than by an id: a row that gives way in a merge
    /// may be referred to by any of its keys.
    fn add_other_keys(
        &mut self,
        session: &Session,
        raw: &[RawKey],
        taken: &mut HashMap<usize, usize>,
        places: &mut HashMap<Oid, usize>,
        mode: Mode,
    ) {
        let mut parent = 0;
        while parent < self.tables.len() {
            for (number, raw) in raw.iter().enumerate() {
                if raw.parent == self.tables[parent].oid
                    && !taken.contains_key(&number)
                    && let Some(child) = self.place(session, places, raw.child, mode)
                {
                    self.keys.push(raw.to_key(session, child, parent, mode));
                    taken.insert(number, self.keys.len() - 1);
                }
            }
            parent += 1;
        }
    }

    /// The place of a table, added where it is new.
    fn place(
        &mut self,
        session: &Session,
        places: &mut HashMap<Oid, usize>,
        oid: Oid,
        mode: Mode,
    ) -> Option<usize> {
        if let Some(place) = places.get(&oid) {
            return Some(*place);
        }
        self.tables.push(Table::read(session, oid, mode)?);
        places.insert(oid, self.tables.len() - 1);
        Some(self.tables.len() - 1)
    }

    /// Adds a moving column, or a key to one. Answers whether the column is new.
    fn add(
        &mut self,
        table: usize,
        column: &str,
        form: Form,
        key: Option<usize>,
        generated: bool,
    ) -> bool {
        let moving = &mut self.tables[table].moving;
        if let Some(known) = moving.iter_mut().find(|m| m.column == column) {
            if let Some(key) = key.filter(|key| !known.through.contains(key)) {
                known.through.push(key);
            }
            // A soft reference refers wherever it holds the id.
            known.always |= key.is_none();
            known.soft |= key.is_none();
            return false;
        }
        moving.push(Moving {
            column: column.to_owned(),
            form,
            through: key.into_iter().collect(),
            always: key.is_none(),
            generated,
            soft: key.is_none(),
        });
        true
    }

    /// Finds the columns where holding the id is enough to refer to the user: those with a valid key none of whose
    /// other columns can be NULL, to a column of which the same is true. Goes round until nothing changes.
    fn settle_conditions(&mut self) {
        loop {
            let mut changed = false;
            for table in 0..self.tables.len() {
                for m in 0..self.tables[table].moving.len() {
                    let moving = &self.tables[table].moving[m];
                    if !moving.always
                        && moving.through.iter().any(|k| self.implies(*k, &moving.column))
                    {
                        self.tables[table].moving[m].always = true;
                        changed = true;
                    }
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Whether every row whose `column` holds the id refers through the key to a row that changes.
    fn implies(&self, key: usize, column: &str) -> bool {
        let key = &self.keys[key];
        let to_root = key.parent == 0 && key.columns.len() == 1;
        let others_are_there =
            key.columns.iter().zip(&key.nullable).all(|(c, nullable)| c == column || !nullable);
        let parent_column =
            key.columns.iter().position(|c| c == column).map(|i| key.keys[i].as_str());
        let parent_always = self.tables[key.parent]
            .moving
            .iter()
            .any(|m| Some(m.column.as_str()) == parent_column && m.always);
        key.partitions.is_none()
            && others_are_there
            && parent_always
            // The user's row is there, so a single column that holds its id refers to it, checked or not.
            && (key.validated || to_root)
    }

    /// Whether rows may hold an id in this column that no app user has.
    pub fn is_loose(&self, moving: &Moving) -> bool {
        !moving.generated
            && (moving.soft
                || !moving.always
                || moving.through.iter().any(|k| !self.keys[*k].validated))
    }

    /// The condition, over the alias `t`, under which the column refers to the user with the id `$1`.
    pub fn condition(&self, table: usize, moving: &Moving) -> String {
        self.condition_over(table, moving, "t", &mut Vec::new())
    }

    fn condition_over(
        &self,
        table: usize,
        moving: &Moving,
        alias: &str,
        within: &mut Vec<(usize, String)>,
    ) -> String {
        let holds = match moving.form {
            Form::Uuid => format!("{alias}.{} = $1", moving.column),
            Form::Text => {
                format!("{alias}.{}::text IN ($1::text, upper($1::text))", moving.column)
            }
        };
        if moving.always {
            return holds;
        }
        within.push((table, moving.column.clone()));
        let through: Vec<String> = moving
            .through
            .iter()
            .filter_map(|k| self.path(&self.keys[*k], &moving.column, alias, within))
            .collect();
        within.pop();
        if through.is_empty() {
            return "false".into();
        }
        format!("{holds} AND ({})", through.join(" OR "))
    }

    /// The condition that a row refers through `key` to a row that changes; None where that leads back to where it
    /// came from.
    fn path(
        &self,
        key: &ForeignKey,
        column: &str,
        alias: &str,
        within: &mut Vec<(usize, String)>,
    ) -> Option<String> {
        let parent = &self.tables[key.parent];
        let place = key.columns.iter().position(|c| c == column)?;
        let parent_moving = parent.moving.iter().find(|m| m.column == key.keys[place])?;
        if within.iter().any(|(t, c)| *t == key.parent && *c == parent_moving.column) {
            return None;
        }
        let inner = format!("{alias}p");
        let mut all: Vec<String> = key
            .columns
            .iter()
            .zip(&key.keys)
            .zip(&key.operators)
            .map(|((c, k), op)| format!("{inner}.{k} {op} {alias}.{c}"))
            .collect();
        all.push(self.condition_over(key.parent, parent_moving, &inner, within));
        let mut path =
            format!("EXISTS (SELECT FROM {} {inner} WHERE {})", parent.target(), all.join(" AND "));
        if let Some(partitions) = &key.partitions {
            let list: Vec<String> = partitions.iter().map(u32::to_string).collect();
            path = format!("{alias}.tableoid IN ({}) AND {path}", list.join(", "));
        }
        Some(path)
    }

    /// Constraints that may be deferred, on or to any of the tables.
    pub fn deferrable(&self) -> Vec<(String, bool)> {
        let mut all: Vec<_> = self.keys.iter().filter_map(|k| k.deferrable.clone()).collect();
        all.sort();
        all.dedup();
        all
    }
}

impl RawKey {
    fn to_key(&self, session: &Session, child: usize, parent: usize, mode: Mode) -> ForeignKey {
        let on_partition = self.child_at != self.child;
        let partitions = on_partition.then(|| {
            session
                .run(
                    "SELECT relid::oid FROM pg_partition_tree($1::oid::regclass)",
                    &[self.child_at.into()],
                    mode,
                )
                .column::<Oid>()
                .into_iter()
                .map(|oid| oid.to_u32())
                .collect()
        });
        ForeignKey {
            child,
            parent,
            columns: self.columns.clone(),
            keys: self.keys.clone(),
            operators: self.operators.clone(),
            validated: self.validated,
            nullable: self.nullable.clone(),
            partitions,
            deferrable: self.deferrable.clone(),
        }
    }
}

fn read_keys(session: &Session, mode: Mode) -> Vec<RawKey> {
    let rows = session.run(KEYS, &[], mode);
    (0..rows.len())
        .filter_map(|row| {
            Some(RawKey {
                child: rows.get(row, 1)?,
                child_at: rows.get(row, 2)?,
                parent: rows.get(row, 3)?,
                columns: rows.get(row, 4)?,
                keys: rows.get(row, 5)?,
                operators: rows.get(row, 6)?,
                validated: rows.get(row, 7)?,
                nullable: rows.get(row, 8)?,
                generated: rows.get(row, 9)?,
                text: rows.get(row, 10)?,
                deferrable: rows
                    .get::<String>(row, 11)
                    .map(|name| (name, rows.get(row, 12).unwrap_or_default())),
            })
        })
        .collect()
}
