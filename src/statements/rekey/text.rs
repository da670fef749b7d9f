//! The text of the statements that count and move what refers to a user.

use crate::catalog::references::{Form, Moving, References, Table};

/// The condition that some column of the table holds the id `id`.
pub(super) fn any_condition(references: &References, place: usize, id: &str) -> String {
    let all: Vec<String> = references.tables[place]
        .moving
        .iter()
        .map(|m| format!("({})", references.condition(m, id)))
        .collect();
    all.join(" OR ")
}

/// What a moving column becomes, in any of the rows that one of the table's moving columns selects, where the id `old`
/// becomes `new`.
pub(super) fn new_value(
    references: &References,
    place: usize,
    moving: &Moving,
    (old, new): (&str, &str),
) -> String {
    let value = match moving.form {
        Form::Uuid => new.to_owned(),
        Form::Text => format!(
            "CASE WHEN t.{}::text = {old}::text THEN {new}::text ELSE upper({new}::text) END",
            moving.column
        ),
    };
    if references.tables[place].moving.len() == 1 {
        return value;
    }
    let condition = references.condition(moving, old);
    format!("CASE WHEN {condition} THEN {value} ELSE t.{} END", moving.column)
}

pub(super) fn count_sql(references: &References, place: usize) -> String {
    let table: &Table = &references.tables[place];
    let mut conditions: Vec<String> = Vec::new();
    for moving in &table.moving {
        if place > 0 || moving.column != "id" {
            conditions.push(format!("({})", references.condition(moving, "$1")));
        }
    }
    let others = if place == 0 { " AND t.id <> $1" } else { "" };
    format!(
        "SELECT count(*) FROM {} t WHERE ({}){others}",
        table.target(),
        if conditions.is_empty() { "false".to_owned() } else { conditions.join(" OR ") },
    )
}

/// Whether any row holds one of the ids in `$1`.
pub(super) fn remain_sql(references: &References, place: usize) -> String {
    format!(
        "SELECT EXISTS (SELECT FROM unnest($1::uuid[]) AS m(old) JOIN {} t ON {})",
        references.tables[place].target(),
        any_condition(references, place, "m.old")
    )
}

/// How many fields hold any of the ids in `$1`.
pub(super) fn holding_sql(references: &References, place: usize) -> String {
    let table = &references.tables[place];
    let fields: Vec<String> = table
        .moving
        .iter()
        .map(|m| format!("(({}) IS TRUE)::int", references.condition(m, "m.id")))
        .collect();
    format!(
        "SELECT coalesce(sum({}), 0)::bigint FROM unnest($1::uuid[]) AS m(id) JOIN {} t ON {}",
        fields.join(" + "),
        table.target(),
        any_condition(references, place, "m.id")
    )
}

/// `UPDATE … SET`, without a condition; None where there is nothing to write.
fn update_head(references: &References, place: usize, ids: (&str, &str)) -> Option<String> {
    let table = &references.tables[place];
    let written = table.moving.iter().filter(|m| !m.generated);
    let sets: Vec<String> = written
        .map(|m| format!("{} = {}", m.column, new_value(references, place, m, ids)))
        .collect();
    let head = || format!("UPDATE {} t SET {}", table.target(), sets.join(", "));
    (!sets.is_empty()).then(head)
}

pub(super) fn update_sql(references: &References, place: usize) -> Option<String> {
    let head = update_head(references, place, ("$1", "$2"))?;
    Some(format!("{head} WHERE {}", any_condition(references, place, "$1")))
}

pub(super) fn update_many_sql(references: &References, place: usize) -> Option<String> {
    if references.tables[place].moving.len() > 1 {
        return None;
    }
    let head = update_head(references, place, ("m.old", "m.new"))?;
    Some(format!(
        "{head} FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS m(old, new, place) WHERE {} RETURNING m.place",
        any_condition(references, place, "m.old")
    ))
}
