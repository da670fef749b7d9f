//! What refers to the application's users: foreign keys, followed from key to key, and registered soft references.
//!
//! Found in the catalog at the moment it is needed, never listed by hand.

mod discover;
mod raw;
mod soft;

pub use soft::{Soft, SoftPlace};

use pgrx::pg_sys::Oid;

/// A foreign key. Columns are quoted; `columns[i]` refers to `keys[i]`.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    pub name: String,
    /// Where it stands and what it refers to: places in [`References::tables`].
    pub child: usize,
    pub parent: usize,
    pub columns: Vec<String>,
    pub keys: Vec<String>,
    /// `OPERATOR(…)`, key on the left, column on the right, each cast to what the operator takes where its type is another:
    /// looked up by name, the operator might be another one.
    operators: Vec<String>,
    /// `::…` for the column, else nothing.
    casts: Vec<String>,
    /// ` COLLATE …` where the two sides differ, else nothing.
    collations: Vec<String>,
    /// ` COLLATE …` of each part of the key, nothing where it has none.
    key_collations: Vec<String>,
    /// A row is let in by the key's collation, which tells more values apart than the column's, by which the server finds what
    /// it acts on as a key goes (src/backend/utils/adt/ri_triggers.c): what refers to others may be among that.
    pub strays: bool,
    /// The two sides are compared by the session's time zone.
    pub zoned: bool,
    /// The constraint has been checked for all rows.
    pub validated: bool,
    /// The server sees to it: from PostgreSQL 18 on it may have been told not to.
    pub enforced: bool,
    /// The last column is a period, which has to be covered by those of the rows it refers to (PostgreSQL 18).
    pub period: bool,
    /// By column: whether it may be NULL, whether it is generated.
    nullable: Vec<bool>,
    pub generated: Vec<bool>,
    /// Whether it acts on what refers to a row that is changed or deleted, though another row has the key by then.
    /// NO ACTION alone does not.
    pub acts: bool,
    /// What ON UPDATE and ON DELETE do to rows that refer, and try to do where there are none.
    pub on_update: Option<Write>,
    pub on_delete: Option<Write>,
    /// Where a key changes to one that equals it, though not to the last byte, it leaves what has followed alone: ON UPDATE
    /// CASCADE or NO ACTION.
    pub update_follows: bool,
    /// MATCH FULL: all columns are NULL, or none.
    pub full: bool,
    /// Some column of the key it refers to is generated.
    pub to_generated: bool,
    /// Where the key stands on a partition: only rows in these partitions refer.
    pub partitions: Option<Vec<u32>>,
    /// The same, where rows may come to lie in these partitions, or in others.
    pub bounds: Option<Bounds>,
    /// Where it refers to a partition: only rows in there are referred to, and to the server they go when they leave it.
    pub parents_at: Option<Bounds>,
    /// Where that has partitions itself: the condition, over rows as they will be, that one stays in the partition it lies in.
    /// The server moves none to another, whether anything refers to it or not (ExecCrossPartitionUpdateForeignKey() of
    /// src/backend/executor/nodeModifyTable.c).
    pub parent_stays: Option<String>,
}

/// A partition and all below it.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub partitions: Vec<u32>,
    /// The condition, over the table's column names, that a row lies there.
    pub condition: String,
}

impl ForeignKey {
    /// The condition that the key's part `place`, an expression, is what a column holds, another expression, as the server
    /// compares them: where collations differ, the key's counts (src/backend/utils/adt/ri_triggers.c).
    pub fn equal(&self, place: usize, key: &str, column: &str) -> String {
        let (operator, cast) = (&self.operators[place], &self.casts[place]);
        format!("{key}{operator}{column}{cast}{}", self.collations[place])
    }

    /// The condition that two values of the key's part `place`, expressions that need not be columns, are the same to who refers
    /// to them.
    pub fn same_key(&self, place: usize, one: &str, other: &str) -> String {
        let collation = &self.key_collations[place];
        self.equal(place, &format!("({one}{collation})"), &format!("({other}{collation})"))
    }

    /// [`Self::equal`] as the server compares them to find what refers to a key that goes.
    pub fn equal_as_it_goes(&self, place: usize, key: &str, column: &str) -> String {
        match self.strays {
            true => format!("{key}{}{column}{}", self.operators[place], self.casts[place]),
            false => self.equal(place, key, column),
        }
    }

    /// Whether rows of this table, a partition where there are any, are referred to.
    pub fn is_to(&self, table: u32) -> bool {
        self.parents_at.as_ref().is_none_or(|at| at.partitions.contains(&table))
    }

    /// The condition, over an alias, under which the key applies to a row at all.
    pub fn within(&self, alias: &str) -> Option<String> {
        self.partitions.as_ref().map(|partitions| lies_in(alias, partitions))
    }

    /// The condition, over an alias, under which a row can be referred to at all.
    pub fn parents_within(&self, alias: &str) -> Option<String> {
        self.parents_at.as_ref().map(|at| lies_in(alias, &at.partitions))
    }
}

fn lies_in(alias: &str, partitions: &[u32]) -> String {
    let list: Vec<String> = partitions.iter().map(u32::to_string).collect();
    format!("{alias}.tableoid IN ({})", list.join(", "))
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

impl Moving {
    /// The condition, over an alias, that the column holds the id `id`, an expression.
    pub fn holds(&self, alias: &str, id: &str) -> String {
        match self.form {
            Form::Uuid => format!("{alias}.{} = {id}", self.column),
            Form::Text => {
                format!("{alias}.{}::text IN ({id}::text, upper({id}::text))", self.column)
            }
        }
    }
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
    /// A trigger or rule of the application may keep an UPDATE from doing what it says.
    pub keeps_rows: bool,
    /// An AFTER trigger of the application may go on changing rows.
    pub after_triggers: bool,
    /// Why the server refuses every UPDATE of it, or every DELETE.
    pub no_update: Option<Barred>,
    pub no_delete: Option<Barred>,
    pub moving: Vec<Moving>,
}

/// A kind of write that publications may bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Update,
    Delete,
}

impl Write {
    pub fn name(self) -> &'static str {
        match self {
            Write::Update => "update",
            Write::Delete => "delete",
        }
    }
}

/// A publication of a table, a partition it may be, that has no replica identity.
#[derive(Debug)]
pub struct Barred {
    pub publication: String,
    pub table: String,
}

impl Table {
    pub fn barred(&self, write: Write) -> Option<&Barred> {
        match write {
            Write::Update => self.no_update.as_ref(),
            Write::Delete => self.no_delete.as_ref(),
        }
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
    /// The columns of each foreign key of the users' own table, also of those that lead elsewhere: they have a meaning together.
    pub together: Vec<Vec<String>>,
    /// Deferrable constraints and constraint triggers of all these tables, `schema.name`, quoted, for SET CONSTRAINTS;
    /// and whether each is deferred at first.
    pub deferrable: Vec<(String, bool)>,
    /// Owners of SECURITY DEFINER functions that triggers of these tables call.
    pub definers: Vec<Oid>,
    /// These tables may have triggers, which may write anywhere.
    pub triggers: bool,
    /// Owners of these tables, or of such functions, have a deferred constraint or constraint trigger somewhere, or anybody has
    /// a deferred foreign key: a trigger may write there.
    pub defers: bool,
    /// Somewhere it takes other rows to tell whether a row refers to the user: changes must be planned row by row.
    pub by_rows: bool,
}

impl References {
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
            && key.parents_at.is_none()
            && others_are_there
            && parent_always
            // The user's row is there, so a single column that holds its id refers to it, checked or not.
            && (key.validated || to_root)
    }

    /// Whether rows may hold an id in this column that no app user has.
    pub fn is_loose(&self, moving: &Moving) -> bool {
        !moving.generated
            && (moving.soft || moving.through.iter().any(|k| !self.keys[*k].validated))
    }

    fn needs_rows(&self) -> bool {
        let unclear = |table: &Table| {
            let mut moving = table.moving.iter();
            moving.any(|m| {
                !m.always && m.through.iter().any(|k| self.simple(*k, &m.column).is_none())
            })
        };
        let computed =
            |key: &ForeignKey| key.to_generated && !self.tables[key.parent].moving.is_empty();
        let to_partition = |key: &ForeignKey| key.parents_at.is_some();
        self.tables.iter().any(unclear)
            || self.keys.iter().any(|key| computed(key) || to_partition(key))
    }

    /// The condition, over the alias `t`, under which the column refers to the user with the id `id`, an expression. It
    /// only holds where changes need not be planned row by row ([`Self::by_rows`]).
    pub fn condition(&self, moving: &Moving, id: &str) -> String {
        let holds = moving.holds("t", id);
        if moving.always {
            return holds;
        }
        let through: Vec<String> =
            moving.through.iter().filter_map(|k| self.simple(*k, &moving.column)).collect();
        format!("{holds} AND ({})", through.join(" OR "))
    }

    /// The condition under which a row whose column holds the id refers through the key, where the row alone tells:
    /// the key is valid, so that a row without NULLs refers to one that is there.
    fn simple(&self, key: usize, column: &str) -> Option<String> {
        let key = &self.keys[key];
        let parent_column = &key.keys[key.columns.iter().position(|c| c == column)?];
        let parent = self.tables[key.parent].moving.iter();
        let parent_always = parent.clone().any(|m| m.column == *parent_column && m.always);
        if !(key.validated && parent_always && key.parents_at.is_none()) {
            return None;
        }
        let mut all: Vec<String> = key
            .columns
            .iter()
            .zip(&key.nullable)
            .filter(|(c, nullable)| **nullable && *c != column)
            // IS NOT NULL is not true of a row with a NULL.
            .map(|(c, _)| format!("num_nulls(t.{c}) = 0"))
            .collect();
        all.extend(key.within("t"));
        Some(if all.is_empty() { "true".into() } else { format!("({})", all.join(" AND ")) })
    }
}
