//! Comparing e-mails, and finding rows by them.

use crate::catalog::Way;
use crate::statements::email_key;

/// The key of an e-mail that is text already, NULL where it matches nothing. Most e-mails are in lower case, ASCII and
/// not padded: then they are their own key, and finding that out costs a fraction of what lower() does in most locales.
/// (No locale's lower() changes ASCII text that has no capitals.)
pub fn key(email: &str) -> String {
    format!(
        "CASE WHEN lower(btrim({email}) COLLATE \"C\") = {email} COLLATE \"C\" AND octet_length({email}) = length({email})
              THEN nullif({email}, '') ELSE nullif({slow}, '') END",
        slow = email_key(email),
    )
}

/// Whether two e-mails are not the same; equal letters need no key.
pub fn differs(one: &str, other: &str) -> String {
    format!(
        "CASE WHEN {one} = {other} THEN false ELSE {} IS DISTINCT FROM {} END",
        key(one),
        key(other)
    )
}

/// `few` where there are at most `limit` keys in `wanted`, an expression, else `many`: decided when the statement runs.
pub fn either_way(way: Way, limit: &str, few: &str, many: &str) -> String {
    if way == Way::Scan {
        return many.to_owned();
    }
    format!(
        "{few_filtered} UNION ALL SELECT * FROM ({many}) many WHERE (SELECT count(*) FROM wanted) > {limit}",
        few_filtered = format_args!(
            "SELECT * FROM ({few}) few WHERE (SELECT count(*) FROM wanted) <= {limit}"
        ),
    )
}

/// The rows of `rows`, with their key, whose key is in `wanted`, by reading the table. FULL JOIN for the reason told at
/// `facts`.
pub fn sweep(rows: &str, columns: &str) -> String {
    format!(
        "SELECT {columns}, key
           FROM (SELECT u.*, k.key AS wanted_key
                   FROM wanted k FULL JOIN (SELECT u.*, {} AS key FROM ({rows}) u) u ON u.key = k.key OFFSET 0) u
          WHERE wanted_key IS NOT NULL AND key IS NOT NULL",
        key("u.email"),
    )
}

/// The rows of `rows` whose `email` has the key `k.key`, by index. OFFSET 0 keeps the planner from reading the table after all.
///
/// An index on lower(email) has an e-mail that is padded with blanks in one of two ranges: with blanks behind only it
/// stands between the key and the key with the most blanks behind it. With blanks before it, it stands between one
/// blank and the most blanks before it, in whichever order the collation has them: adding one more blank before the
/// same text moves it in the same direction each time.
pub fn probe(rows: &str, way: Way, email: &str) -> String {
    let exact = format!("{} = k.key", email_key(email));
    let ranges = |longest: usize, before: &str| {
        let blanks = format!("repeat(' ', {longest})");
        let lower = "lower(u.email::text)";
        format!(
            "{rows} AND {before} AND {lower} >= k.key AND {lower} <= k.key || {blanks}
                    AND {exact} AND left(u.email::text, 1) <> ' '
             UNION ALL
             {rows} AND {before} AND {lower} >= least(' ' || k.key, {blanks} || k.key)
                    AND {lower} <= greatest(' ' || k.key, {blanks} || k.key) || {blanks}
                    AND {exact} AND left(u.email::text, 1) = ' '"
        )
    };
    match way {
        Way::Key | Way::Scan => format!("{rows} AND {exact} OFFSET 0"),
        Way::Lower { longest } => ranges(longest, "true"),
        Way::InstanceLower { longest } => format!(
            "SELECT u.* FROM ({INSTANCES}) i CROSS JOIN LATERAL ({}) u
             UNION ALL {}",
            ranges(longest, "u.instance_id = i.id"),
            ranges(longest, "u.instance_id IS NULL"),
        ),
    }
}

/// The distinct instances, hopping from one to the next by index. Usually there is one.
const INSTANCES: &str = "
    WITH RECURSIVE hop(id) AS (
        (SELECT u.instance_id FROM ONLY auth.users u WHERE u.instance_id IS NOT NULL ORDER BY u.instance_id LIMIT 1)
        UNION ALL
        SELECT (SELECT u.instance_id FROM ONLY auth.users u WHERE u.instance_id > hop.id ORDER BY u.instance_id LIMIT 1)
          FROM hop WHERE hop.id IS NOT NULL)
    SELECT id FROM hop WHERE id IS NOT NULL";
