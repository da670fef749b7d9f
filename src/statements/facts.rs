//! What is known of an auth user who arrives.

use super::candidates::Finder;
use super::signup::Target;
use super::{email_key, offer_new};
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Person, RowSet, connect, subtransaction};
use crate::settings;
use onagui_decide::failure::must_pass_on;
use onagui_decide::signup::{Facts, LinkPolicy, Namesake, OwnRow, PENDING, UNPROVEN};
use pgrx::Uuid;
use pgrx::pg_sys::UUIDOID;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Whether `auth.identities` can be read, and is what the Auth server makes it.
const IDENTITIES: &str = "
    SELECT has_table_privilege(t.oid, 'SELECT')
           AND 3 = (SELECT count(*) FROM pg_attribute a
                     WHERE a.attrelid = t.oid AND NOT a.attisdropped
                       AND (a.attname, a.atttypid) IN (('user_id', 'uuid'::regtype), ('provider', 'text'::regtype), ('identity_data', 'jsonb'::regtype)))
      FROM pg_class t WHERE t.oid = $1 AND t.relkind = 'r'";

/// What is known of one arriving auth user.
pub struct Arrival {
    pub place: usize,
    pub id: Uuid,
    pub email: Option<String>,
    pub key: Option<String>,
    /// The name the mapping wants, before anything is cut.
    pub username: Option<String>,
    /// Mapped columns, the username aside, that are longer than their column takes.
    pub cut: Vec<String>,
    pub facts: Facts<Uuid>,
    /// Own and auth's e-mail are the same but for case and spaces.
    pub same_key: bool,
    /// What [`pg::completions`] were when it was looked who else has confirmed the e-mail.
    looked_at: Option<u64>,
    /// The confirmation there is is of another e-mail.
    unproven: bool,
}

impl Arrival {
    /// Counts the e-mail as not confirmed.
    fn mistrust(&mut self) {
        self.unproven |= self.facts.confirmed;
        self.facts.confirmed = false;
    }

    /// For the audit log, where `details` do not say so by their reason.
    pub fn tell_if_unproven(&self, details: &mut Value) {
        if self.unproven {
            details["unproven"] = json!(true);
        }
    }

    /// Why a link is pending.
    pub fn why_pending(&self) -> &'static str {
        if self.unproven { UNPROVEN } else { PENDING }
    }
}

impl Target {
    /// Whether there is a row with this id and, to the letter, this e-mail. On the path of every confirmation: where no code
    /// of the application can come into it, the statement leaves nothing to the search_path, which then need not be pinned.
    pub fn is_in_step(&self, person: &Person) -> bool {
        let look = || {
            connect(|session| {
                let plan = self.in_step.get_or_init(|| {
                    let sql = format!(
                        "SELECT a.email::pg_catalog.text FROM {}onagui.app_users a WHERE a.id OPERATOR(pg_catalog.=) $1",
                        self.app.only
                    );
                    session.prepare(&sql, &[UUIDOID])
                });
                let rows = session.execute(plan, &[Arg::of(person.id)], Mode::Fresh);
                !rows.is_empty() && rows.get::<String>(0, 1) == person.email
            })
        };
        let is_plain = !self.app.runs_code && self.app.only == "ONLY ";
        match is_plain {
            true => pg::as_role_without_code(self.app.owner, look),
            false => pg::as_role(self.app.owner, look),
        }
    }

    /// What is known of each of `new`, in their order. Each side is read with the rights of its owner: the planner alone
    /// may run functions that an owner has put into an index of theirs.
    pub fn facts(&self, new: &RowSet) -> Result<Vec<Arrival>, Error> {
        let mut arrivals = self.facts_of_rows(new);
        self.find_sharers(&mut arrivals)?;
        Ok(arrivals)
    }

    /// The same where nothing but auth's word says that the e-mail is confirmed: not if it was set without that, and has not been
    /// confirmed since (the log tells; what was pruned is forgotten).
    pub fn facts_as_recorded(&self, new: &RowSet) -> Result<Vec<Arrival>, Error> {
        let mut arrivals = self.facts(new)?;
        let is_believed =
            |arrival: &&mut Arrival| arrival.facts.confirmed && arrival.facts.to_link().is_some();
        let mut believed: Vec<&mut Arrival> = arrivals.iter_mut().filter(is_believed).collect();
        let policy = settings::link_policy();
        if believed.is_empty()
            || policy != LinkPolicy::Verified
            || !self.auth.has("email_confirmed_at")
        {
            return Ok(arrivals);
        }
        let sql = format!(
            "SELECT l.auth_user_id
               FROM onagui.sync_audit_log l JOIN ONLY auth.users u ON u.id = l.auth_user_id
              WHERE l.auth_user_id = ANY ($1) AND (l.details ->> 'reason' = $2 OR l.details -> 'unproven' = 'true')
                AND {} = {} AND l.occurred_at > u.email_confirmed_at",
            email_key("l.email"),
            email_key(&self.auth.email("u")),
        );
        let ids: Vec<Uuid> = believed.iter().map(|arrival| arrival.id).collect();
        let unproven: Vec<Uuid> = pg::as_role(self.house.owner, || {
            connect(|session| {
                session.run_by_key(&sql, &[ids.into(), UNPROVEN.into()], Mode::Fresh).column()
            })
        });
        believed.retain(|arrival| unproven.contains(&arrival.id));
        self.mistrust(believed)?;
        Ok(arrivals)
    }

    /// Counts the e-mails of `arrivals` as not confirmed, but where one would link whom an identity of the user's vouches for.
    pub fn mistrust(&self, arrivals: Vec<&mut Arrival>) -> Result<(), Error> {
        let (to_link, others): (Vec<_>, Vec<_>) = arrivals
            .into_iter()
            .filter(|arrival| arrival.facts.confirmed)
            .partition(|arrival| arrival.facts.to_link().is_some());
        if to_link.is_empty() {
            others.into_iter().for_each(Arrival::mistrust);
            return Ok(());
        }
        let vouched = match subtransaction(|| Ok(self.vouched_for(&to_link))) {
            Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
            // What cannot be looked up vouches for nobody.
            vouched => vouched.unwrap_or_default(),
        };
        let is_vouched_for = |arrival: &&mut Arrival| vouched.contains(&arrival.id);
        let unproven = to_link.into_iter().filter(|arrival| !is_vouched_for(arrival));
        others.into_iter().chain(unproven).for_each(Arrival::mistrust);
        Ok(())
    }

    /// Whose e-mail a provider has verified, which Auth takes for a confirmation, too (supabase/auth, internal/models/user.go,
    /// UpdateUserEmailFromIdentities, and internal/api/external_oauth_email.go). Identities of its own do not count: older versions
    /// write another e-mail into one that was verified, and leave it so (internal/api/admin.go, adminUserUpdate).
    fn vouched_for(&self, arrivals: &[&mut Arrival]) -> Vec<Uuid> {
        let (ids, keys): (Vec<Uuid>, Vec<Option<String>>) =
            arrivals.iter().map(|arrival| (arrival.id, arrival.key.clone())).unzip();
        let Some(table) = pg::table_named(c"auth", c"identities") else {
            return Vec::new();
        };
        pg::as_role(self.house.owner, || {
            connect(|session| {
                if session.run_kept(IDENTITIES, &[table.into()], Mode::Fresh).one() != Some(true) {
                    return Vec::new();
                }
                let sql = format!(
                    "SELECT n.id FROM unnest($1::uuid[], $2::text[]) AS n(id, key) JOIN ONLY auth.identities i ON i.user_id = n.id
                      WHERE i.provider NOT IN ('email', 'phone') AND i.identity_data -> 'email_verified' = 'true' AND {} = n.key",
                    email_key("i.identity_data ->> 'email'")
                );
                session.run_by_key(&sql, &[ids.into(), keys.into()], Mode::Fresh).column()
            })
        })
    }

    /// The same of one who was to be linked. Who else has confirmed the e-mail is not looked up again, which without an index
    /// takes all of `auth.users`, where nobody has committed anything since.
    pub fn facts_again(&self, new: &RowSet, before: &Arrival) -> Result<Vec<Arrival>, Error> {
        let mut arrivals = self.facts_of_rows(new);
        if before.looked_at != Some(pg::completions()) {
            self.find_sharers(&mut arrivals)?;
        }
        Ok(arrivals)
    }

    fn facts_of_rows(&self, new: &RowSet) -> Vec<Arrival> {
        let mut arrivals = pg::as_role(self.app.owner, || {
            connect(|session| {
                offer_new(session, new);
                let rows = self.run(session, new, &self.facts_one, |_| self.facts_sql());
                let mut arrivals: Vec<Arrival> = Vec::with_capacity(new.len());
                for row in 0..rows.len() {
                    let namesake = rows.get::<Uuid>(row, 9).map(|id| Namesake { id, known: false });
                    let place = rows.get::<i64>(row, 1).unwrap_or_default() as usize;
                    if let Some(last) = arrivals.last_mut().filter(|a| a.place == place) {
                        last.facts.namesakes.extend(namesake);
                        last.facts.nameless |= rows.get::<bool>(row, 12).unwrap_or_default();
                        continue;
                    }
                    let email: Option<String> = rows.get(row, 3);
                    let key: Option<String> = rows.get(row, 4);
                    arrivals.push(Arrival {
                        place,
                        id: rows.get(row, 2).expect("auth.users.id is not null"),
                        username: rows.get(row, 10),
                        cut: rows.get::<Vec<String>>(row, 11).unwrap_or_default(),
                        facts: Facts {
                            deleted: rows.get(row, 6).unwrap_or_default(),
                            has_email: key.is_some(),
                            confirmed: rows.get(row, 5).unwrap_or_default(),
                            own: rows
                                .get::<bool>(row, 7)
                                .map(|email_is_equal| OwnRow { email_is_equal }),
                            namesakes: namesake.into_iter().collect(),
                            nameless: rows.get(row, 12).unwrap_or_default(),
                            shared: false,
                        },
                        same_key: rows.get(row, 8).unwrap_or_default(),
                        looked_at: None,
                        unproven: false,
                        email,
                        key,
                    });
                }
                arrivals
            })
        });
        let mut namesakes: Vec<&mut Namesake<Uuid>> =
            arrivals.iter_mut().flat_map(|a| a.facts.namesakes.iter_mut()).collect();
        if !namesakes.is_empty() {
            let known = self.known(namesakes.iter().map(|namesake| namesake.id).collect());
            for namesake in &mut namesakes {
                namesake.known = known.contains(namesake.id.as_bytes());
            }
        }
        arrivals
    }

    /// Notes of those who could be linked whether another auth user has confirmed the e-mail.
    fn find_sharers(&self, arrivals: &mut [Arrival]) -> Result<(), Error> {
        let policy = settings::link_policy();
        let mut to_link: Vec<_> =
            arrivals.iter_mut().filter(|arrival| arrival.facts.to_link().is_some()).collect();
        if to_link.is_empty() || policy == LinkPolicy::Never {
            return Ok(());
        }
        let looked_at = pg::completions();
        let keys = to_link.iter().filter_map(|arrival| arrival.key.clone()).collect();
        let confirmed = Finder::get(self.house)?.confirmed(keys);
        for arrival in &mut to_link {
            let all = arrival.key.as_ref().and_then(|key| confirmed.get(key)).copied();
            let own = i64::from(arrival.facts.confirmed || policy == LinkPolicy::Always);
            arrival.facts.shared = all.unwrap_or_default() > own;
            arrival.looked_at = Some(looked_at);
        }
        Ok(())
    }

    /// Which of `ids` are, or once were, an auth user's.
    fn known(&self, ids: Vec<Uuid>) -> HashSet<[u8; 16]> {
        let ask = |role: pg::Role, sql: &str| {
            pg::as_role(role, || {
                connect(|session| {
                    session.run(sql, &[ids.clone().into()], Mode::Fresh).column::<Uuid>()
                })
            })
        };
        let now = ask(self.auth.owner.into(), "SELECT id FROM ONLY auth.users WHERE id = ANY ($1)");
        let once = ask(
            self.house.owner.into(),
            "SELECT auth_user_id FROM onagui.sync_known_id WHERE auth_user_id = ANY ($1)",
        );
        now.iter().chain(&once).map(|id| *id.as_bytes()).collect()
    }

    fn facts_sql(&self) -> String {
        let wanted = self.username().map_or("NULL::text", |m| m.source());
        let cut: Vec<String> = self
            .mapped
            .iter()
            .filter(|m| m.name != "username")
            .filter_map(|m| {
                let name = pgrx::spi::quote_literal(&m.name);
                m.is_cut().map(|is_cut| format!("CASE WHEN {is_cut} THEN {name} END"))
            })
            .collect();
        let cut = if cut.is_empty() {
            "NULL::text[]".to_owned()
        } else {
            format!("array_remove(ARRAY[{}]::text[], NULL)", cut.join(", "))
        };
        format!(
            "WITH n AS MATERIALIZED (
                 SELECT row_number() OVER () - 1 AS place, n.id, {email} AS email,
                        nullif({key}, '') AS key, {confirmed} AS confirmed, {deleted} AS deleted,
                        {wanted} AS username, {cut} AS cut
                   FROM new_users n)
             SELECT n.place, n.id, n.email, n.key, n.confirmed, n.deleted,
                    CASE WHEN own.id IS NOT NULL
                         THEN {own_email} IS NOT DISTINCT FROM n.email
                              OR n.key IS NULL AND nullif({own_key}, '') IS NULL END,
                    own.id IS NOT NULL AND nullif({own_key}, '') IS NOT DISTINCT FROM n.key,
                    m.id, n.username, n.cut, m.id IS NULL AND {m_key} IS NOT NULL
               FROM n
               LEFT JOIN {only}onagui.app_users own ON own.id = n.id
               LEFT JOIN {only}onagui.app_users m ON {m_key} = n.key AND m.id IS DISTINCT FROM n.id
              ORDER BY n.place",
            email = self.auth.email("n"),
            own_email = self.app.email("own"),
            key = email_key(&self.auth.email("n")),
            own_key = email_key(&self.app.email("own")),
            m_key = email_key(&self.app.email("m")),
            confirmed = self.confirmed("n"),
            deleted = self.deleted("n"),
            only = self.app.only,
        )
    }
}
