//! Whether triggers and rules of the application have let rows become what they were to be.

use super::Mover;
use super::text::{holding_sql, remain_sql};
use crate::error::Error;
use crate::pg::{self, Mode, Session};
use pgrx::Uuid;
use pgrx::pg_sys::UUIDARRAYOID;

impl Mover {
    /// How many fields hold any of `ids`, in each table whose triggers may go on changing them and of which the rows that change
    /// do not tell it: those with several such columns.
    pub(super) fn watched(&self, session: &Session, ids: &[Uuid]) -> Vec<(usize, u64)> {
        let many = |place: &usize| {
            self.is_watched(*place) && self.references.tables[*place].moving.len() > 1
        };
        self.moving().filter(many).map(|place| (place, self.holding(session, place, ids))).collect()
    }

    fn is_watched(&self, place: usize) -> bool {
        let table = &self.references.tables[place];
        table.keeps_rows || table.after_triggers
    }

    /// Fails where a trigger or rule of the application has kept rows of `users` as they were, or has made others of them than
    /// theirs. `watched` is what there was before.
    pub(super) fn written(
        &self,
        session: &Session,
        moved: &[(usize, u64)],
        mut watched: Vec<(usize, u64)>,
        users: &[(Uuid, Uuid)],
    ) -> Result<(), Error> {
        let tables = &self.references.tables;
        let (old, new): (Vec<Uuid>, Vec<Uuid>) = users.iter().copied().unzip();
        let own = moved.iter().find(|(place, _)| *place == 0).map_or(0, |(_, rows)| *rows);
        let all_there = own >= users.len() as u64
            && (!tables[0].keeps_rows || self.lock(session, &new).len() == users.len());
        let stays = |place: &usize| tables[*place].keeps_rows && self.remain(session, *place, &old);
        let one = |(place, rows): &&(usize, u64)| {
            *rows > 0 && self.is_watched(*place) && tables[*place].moving.len() == 1
        };
        watched.extend(moved.iter().filter(one));
        let is_astray =
            |(place, fields): &&(usize, u64)| self.holding(session, *place, &new) < *fields;
        let astray = || watched.iter().find(is_astray).map(|(place, _)| *place);
        let place = if all_there { self.moving().find(stays).or_else(astray) } else { Some(0) };
        match place {
            Some(place) => Err(Error::HeldBack { table: tables[place].label.clone() }),
            None => Ok(()),
        }
    }

    /// Whether rows of a table still hold any of `ids` as users.
    pub(super) fn remain(&self, session: &Session, place: usize, ids: &[Uuid]) -> bool {
        pg::as_role(self.references.tables[place].owner, || {
            let prepare =
                || session.prepare_generic(&remain_sql(&self.references, place), &[UUIDARRAYOID]);
            let plan = self.statements[place].remaining.get_or_init(prepare);
            session.execute(plan, &[ids.to_vec().into()], Mode::Fresh).one().unwrap_or(true)
        })
    }

    /// How many fields of a table hold any of `ids` as users.
    fn holding(&self, session: &Session, place: usize, ids: &[Uuid]) -> u64 {
        pg::as_role(self.references.tables[place].owner, || {
            let prepare =
                || session.prepare_generic(&holding_sql(&self.references, place), &[UUIDARRAYOID]);
            let plan = self.statements[place].holding.get_or_init(prepare);
            let fields = session.execute(plan, &[ids.to_vec().into()], Mode::Fresh).one::<i64>();
            fields.unwrap_or_default() as u64
        })
    }
}
