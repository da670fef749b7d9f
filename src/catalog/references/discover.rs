//! Finding the references in the catalog.

use super::raw::{RawKey, read_keys};
use super::{Barred, ForeignKey, Form, Moving, References, Soft, Table, Write};
use crate::catalog::code::{UPDATE, after_trigger, before_trigger};
use crate::catalog::tables::{APP_USERS, App};
use crate::error::Error;
use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::sync::LazyLock;

const DEFERRABLE: &str = "
    SELECT DISTINCT format('%I.%I', n.nspname, c.conname), c.condeferred
      FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
     WHERE c.condeferrable
       AND (coalesce(pg_partition_root(c.conrelid), c.conrelid)::oid = ANY ($1)
            OR coalesce(pg_partition_root(c.confrelid), c.confrelid)::oid = ANY ($1))
     ORDER BY 1";

const DEFINERS: &str = "
    SELECT DISTINCT f.proowner
      FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
     WHERE g.tgrelid = ANY ($1) AND NOT g.tgisinternal AND f.prosecdef";

const DEFERS: &str = "
    SELECT EXISTS (SELECT FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
                    WHERE c.condeferred AND (t.relowner = ANY ($1) OR c.contype = 'f' AND $2))";

/// SQL: the first publication of a kind of write to a table `c`, and the part of the table, a partition or all of it, that has
/// no replica identity (CheckCmdReplicaIdentity() of src/backend/executor/execReplication.c). One such part bars all of them.
/// OFFSET 0: as with CHECKs (`shape/checks.rs`).
fn barred(write: Write) -> String {
    format!(
        "(SELECT ARRAY[p.pubname::text, l.oid::regclass::text]
            FROM pg_publication p
           CROSS JOIN (SELECT l.*, ARRAY(SELECT l.oid UNION ALL SELECT a.relid::oid FROM pg_partition_ancestors(l.oid) a) AS above
                         FROM (SELECT c.oid AS id UNION SELECT t.relid::oid FROM pg_partition_tree(c.oid) t WHERE t.isleaf) x
                         CROSS JOIN LATERAL (SELECT l.* FROM pg_class l WHERE l.oid = x.id AND l.relkind = 'r' OFFSET 0) l) l
           WHERE p.pub{}
             AND NOT EXISTS (SELECT FROM (SELECT i.* FROM pg_index i WHERE i.indrelid = l.oid OFFSET 0) i
                              WHERE i.indisvalid AND i.indimmediate
                                AND (l.relreplident = 'd' AND i.indisprimary OR l.relreplident = 'i' AND i.indisreplident))
             AND l.relreplident <> 'f' AND l.relpersistence = 'p'
             AND (p.puballtables
                  OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = ANY (l.above))
                  OR EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_class x ON x.relnamespace = s.pnnspid
                              WHERE s.pnpubid = p.oid AND x.oid = ANY (l.above)))
           ORDER BY 1 LIMIT 1)",
        write.name()
    )
}

impl Table {
    /// The table with this oid, as far as writing to it goes.
    pub fn read(session: &Session, oid: Oid, mode: Mode) -> Option<Self> {
        static TABLE: LazyLock<String> = LazyLock::new(|| {
            format!(
                "SELECT c.relowner, format('%I.%I', n.nspname, c.relname), c.oid::regclass::text, c.relkind = 'p',
                        EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type = '2') OR {}, {},
                        {}, {}
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = $1 AND c.relkind IN ('r', 'p')",
                before_trigger("c.oid", UPDATE),
                after_trigger("c.oid"),
                barred(Write::Update),
                barred(Write::Delete),
            )
        });
        let rows = session.run_kept(&TABLE, &[oid.into()], mode);
        if rows.is_empty() {
            return None;
        }
        let is_partitioned: bool = rows.get(0, 4)?;
        let barred = |column| {
            let [publication, table]: [String; 2] =
                rows.get::<Vec<String>>(0, column)?.try_into().ok()?;
            Some(Barred { publication, table })
        };
        Some(Table {
            oid,
            owner: rows.get(0, 1)?,
            name: rows.get(0, 2)?,
            label: rows.get(0, 3)?,
            only: if is_partitioned { "" } else { "ONLY " },
            keeps_rows: rows.get(0, 5)?,
            after_triggers: rows.get(0, 6)?,
            no_update: barred(7),
            no_delete: barred(8),
            moving: Vec::new(),
        })
    }
}

impl ForeignKey {
    /// The foreign keys of one table, each with the table it refers to.
    pub fn all_of(session: &Session, table: Oid, mode: Mode) -> Vec<(Self, Table)> {
        let raw = read_keys(session, mode).into_iter().filter(|raw| raw.child == table);
        raw.filter_map(|raw| Some((raw.key, Table::read(session, raw.parent, mode)?))).collect()
    }
}

impl References {
    pub fn read(session: &Session, app: &App, soft: &[Soft], mode: Mode) -> Result<Self, Error> {
        let raw = read_keys(session, mode);
        let mut found = References {
            tables: Vec::new(),
            keys: Vec::new(),
            together: Vec::new(),
            deferrable: Vec::new(),
            definers: Vec::new(),
            triggers: false,
            defers: false,
            by_rows: false,
        };
        let own = raw.iter().filter(|raw| raw.child == app.table);
        found.together = own.map(|raw| raw.key.columns.clone()).collect();
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
        let mut open = vec![(root, "id".to_owned())];
        for soft in soft {
            let Some(place) = found.place(session, &mut places, soft.table, mode) else {
                continue;
            };
            if found.add(place, &soft.column, soft.form, None, soft.generated) {
                open.push((place, soft.column.clone()));
            }
        }
        // Every foreign key that is reached is taken once; each of its columns that holds an id is followed further.
        let mut taken: HashMap<usize, usize> = HashMap::new();
        while let Some((parent, key)) = open.pop() {
            for (number, raw) in raw.iter().enumerate() {
                if raw.parent != found.tables[parent].oid {
                    continue;
                }
                for place in
                    raw.key.keys.iter().enumerate().filter(|(_, k)| **k == key).map(|(i, _)| i)
                {
                    let Some(child) = found.place(session, &mut places, raw.child, mode) else {
                        continue;
                    };
                    let number = *taken.entry(number).or_insert_with(|| {
                        found.keys.push(raw.to_key(child, parent));
                        found.keys.len() - 1
                    });
                    let form = if raw.text[place] { Form::Text } else { Form::Uuid };
                    let column = &raw.key.columns[place];
                    if found.add(child, column, form, Some(number), raw.key.generated[place]) {
                        open.push((child, column.clone()));
                    }
                }
            }
        }
        found.settle_conditions();
        found.add_other_keys(session, &raw, &mut taken, &mut places, mode);
        let tied = found.add_ties(session, &raw, &mut taken, &mut places, mode);
        found.by_rows = tied || found.needs_rows();
        let oids: Vec<Oid> = found.tables.iter().map(|t| t.oid).collect();
        found.definers = session.run(DEFINERS, &[oids.clone().into()], mode).column();
        let rows = session.run(DEFERRABLE, &[oids.into()], mode);
        found.deferrable = (0..rows.len())
            .filter_map(|row| Some((rows.get(row, 1)?, rows.get(row, 2)?)))
            .collect();
        let owners = found.tables.iter().map(|t| t.owner);
        let owners: Vec<Oid> = owners.chain(found.definers.iter().copied()).collect();
        found.triggers = found.tables.iter().any(|t| t.after_triggers || t.keeps_rows);
        let args = [owners.into(), found.triggers.into()];
        found.defers = session.run(DEFERS, &args, mode).one().unwrap_or(true);
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
                    self.keys.push(raw.to_key(child, parent));
                    taken.insert(number, self.keys.len() - 1);
                }
            }
            parent += 1;
        }
    }

    /// Adds the foreign keys that tie a column which changes to a row that does not: whether they hold afterwards must be
    /// looked up. Answers whether there are any that a re-key must look up.
    fn add_ties(
        &mut self,
        session: &Session,
        raw: &[RawKey],
        taken: &mut HashMap<usize, usize>,
        places: &mut HashMap<Oid, usize>,
        mode: Mode,
    ) -> bool {
        let mut is_tied = false;
        for (number, raw) in raw.iter().enumerate() {
            let Some(child) = places.get(&raw.child).copied() else {
                continue;
            };
            let moves = |table: usize, column: &String| {
                let mut moving = self.tables[table].moving.iter();
                moving.any(|m| m.column == *column)
            };
            let parent = places.get(&raw.parent).copied();
            // Where the key's column moves in some rows only, the child's does by the same key, or might do alone.
            let goes_along = |parent: usize, column: &String, key: &String| {
                let mut moving = self.tables[parent].moving.iter();
                moving.any(|m| {
                    m.column == *key
                        && (m.always || self.moves_by(child, column, taken.get(&number)))
                })
            };
            let ties = raw.key.columns.iter().zip(&raw.key.keys).any(|(column, key)| {
                moves(child, column)
                    && !parent.is_some_and(|parent| goes_along(parent, column, key))
            });
            // Rows that refer to nobody by it may do so no more once they change. The user's own row is there.
            let to_the_user = raw.key.columns.len() == 1 && parent == Some(0);
            let is_loose = !raw.key.validated
                && !to_the_user
                && (raw.key.columns.len() > 1 && raw.key.full
                    || raw.key.columns.iter().any(|c| moves(child, c)));
            // So may rows that change twice, by any key: the server checks all of a row's then.
            let is_unchecked = !raw.key.validated && raw.key.enforced && !to_the_user;
            let is_unchecked = is_unchecked && !self.tables[child].moving.is_empty();
            // Rows may come to lie where it stands.
            let is_arrival = raw.key.enforced
                && !(to_the_user && raw.deciding == raw.key.columns)
                && raw.deciding.iter().any(|c| moves(child, c));
            // What is generated follows what moves, or the e-mail.
            let all = raw.key.columns.iter().zip(&raw.key.keys).zip(&raw.key.generated);
            let is_computed = all.clone().any(|((column, key), generated)| {
                *generated && !parent.is_some_and(|parent| goes_along(parent, column, key))
            });
            let is_email = child == 0 && raw.key.columns.iter().any(|column| column == "email");
            let is_computed_anew = is_computed && !self.tables[child].moving.is_empty();
            is_tied |= ties || is_loose || is_arrival || is_computed_anew;
            if !(ties || is_loose || is_unchecked || is_arrival || is_computed || is_email) {
                continue;
            }
            if !taken.contains_key(&number)
                && let Some(parent) = self.place(session, places, raw.parent, mode)
            {
                self.keys.push(raw.to_key(child, parent));
                taken.insert(number, self.keys.len() - 1);
            }
        }
        is_tied
    }

    /// Whether a column moves by this key and no other way.
    fn moves_by(&self, table: usize, column: &str, key: Option<&usize>) -> bool {
        let mut moving = self.tables[table].moving.iter();
        moving.any(|m| m.column == column && !m.soft && m.through.iter().all(|k| Some(k) == key))
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
}
