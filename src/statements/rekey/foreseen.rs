//! What moving users to other ids would break: looked up before, in a rehearsal.

use super::text::{any_condition, new_value};
use super::{Collision, Mover, moving_columns};
use crate::catalog::references::Table;
use crate::catalog::shape::{Shape, Uniqueness};
use crate::pg::{self, Mode, Plan, Session};
use crate::statements::{checks, collisions};
use pgrx::Uuid;
use pgrx::pg_sys::UUIDOID;
use std::cell::OnceCell;
use std::rc::Rc;

/// The statements of one rehearsal. To plan them takes longer than to run them, and there may be a thousand users; they
/// take too much memory to be kept for the next one.
pub struct Foreseer {
    pub mover: Rc<Mover>,
    statements: Vec<Statements>,
}

/// For one table.
#[derive(Default)]
struct Statements {
    /// For each index that the table's change can collide in, in their order.
    colliding: OnceCell<Vec<Plan>>,
    /// None where nothing can break.
    breaking: OnceCell<Option<Plan>>,
}

impl Foreseer {
    pub fn new(mover: Rc<Mover>) -> Self {
        let statements = mover.references.tables.iter().map(|_| Statements::default()).collect();
        Foreseer { mover, statements }
    }

    /// Every unique or exclusion conflict that moving `from` to `to` would meet.
    pub fn collisions(
        &self,
        session: &Session,
        from: Uuid,
        to: Uuid,
        mode: Mode,
    ) -> Vec<Collision> {
        let mut found = Vec::new();
        for place in self.mover.moving() {
            let table = &self.mover.references.tables[place];
            let shape = self.mover.shape(session, place);
            let columns = moving_columns(table);
            let touched: Vec<&Uniqueness> = shape.touched_by(&columns).collect();
            if touched.is_empty() {
                continue;
            }
            let counts: Vec<Option<i64>> = pg::as_role(table.owner, || {
                let prepare = || {
                    let moved = self.mover.moved(place, shape);
                    let sql = |unique: &&Uniqueness| count_sql(table, unique, &moved);
                    let each = touched.iter().map(sql);
                    each.map(|sql| session.prepare(&sql, &[UUIDOID; 2])).collect()
                };
                let plans = self.statements[place].colliding.get_or_init(prepare);
                let count = |plan| session.execute(plan, &[from.into(), to.into()], mode).one();
                plans.iter().map(count).collect()
            });
            for (unique, rows) in touched.into_iter().zip(counts) {
                if let Some(rows @ 1..) = rows {
                    found.push(Collision {
                        table: table.label.clone(),
                        constraint: unique.name.clone(),
                        rows: rows as u64,
                    });
                }
            }
        }
        found
    }

    /// What moving `from` to `to` would break in the tables' CHECKs and partitions.
    pub fn broken(&self, session: &Session, from: Uuid, to: Uuid, mode: Mode) -> Vec<Collision> {
        let of_place = |place: usize| {
            let table = &self.mover.references.tables[place];
            let shape = self.mover.shape(session, place);
            let columns = moving_columns(table);
            let counts = pg::as_role(table.owner, || {
                let prepare = || {
                    let moved = self.mover.moved(place, shape);
                    let sql = checks::count_sql(shape, &columns, &moved)?;
                    Some(session.prepare(&sql, &[UUIDOID; 2]))
                };
                let plan = self.statements[place].breaking.get_or_init(prepare).as_ref()?;
                session.execute(plan, &[from.into(), to.into()], mode).one()
            });
            checks::told((table, shape), &columns, counts)
        };
        self.mover.moving().flat_map(of_place).collect()
    }
}

impl Mover {
    /// A query over `$1` and `$2` for the rows of a table that move from the one id to the other, as they will be.
    fn moved(&self, place: usize, shape: &Shape) -> String {
        let table = &self.references.tables[place];
        let condition = any_condition(&self.references, place, "$1");
        let source = format!("FROM {} t WHERE {condition}", table.target());
        collisions::moved(shape, &source, |column| {
            let moving = table.moving.iter().find(|m| m.column == column.quoted)?;
            Some(new_value(&self.references, place, moving, ("$1", "$2")))
        })
    }
}

/// How many rows would collide in an index.
fn count_sql(table: &Table, unique: &Uniqueness, moved: &str) -> String {
    format!(
        "SELECT count(DISTINCT ROW(x.at, x.row)) FROM ({}) AS p(a, b, c, d, is_both)
          CROSS JOIN LATERAL (SELECT p.a, p.b UNION ALL SELECT p.c, p.d WHERE p.is_both) AS x(at, row)",
        collisions::pairs(table, unique, moved, "false")
    )
}
