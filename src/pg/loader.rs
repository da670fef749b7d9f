//! Inserts what a prepared `INSERT … SELECT … FROM <set of rows>` would insert, without setting an executor up each
//! time: for a single row that costs more than the row. It does what the server's own logical replication does to write
//! a row (src/backend/replication/logical/worker.c), so triggers, constraints and indexes work as ever.

use super::rowset::RowSet;
use super::server::watched_version;
use super::spi::Plan;
use pgrx::pg_sys;
use std::cell::Cell;

/// The expressions of such a statement, kept ready.
pub struct Loader {
    table: pg_sys::Oid,
    runs_code: bool,
    version: u64,
    context: pg_sys::MemoryContext,
    values: *mut pg_sys::ProjectionInfo,
    filter: *mut pg_sys::ExprState,
    scope: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
    /// What the indexes on expressions are made of, by index.
    indexed: Vec<(pg_sys::Oid, *mut pg_sys::List)>,
    busy: Cell<bool>,
}

impl Drop for Loader {
    fn drop(&mut self) {
        // SAFETY: everything of ours lives in this context.
        unsafe { pg_sys::MemoryContextDelete(self.context) };
    }
}

/// Clears the mark also when unwinding.
struct Busy<'a>(&'a Cell<bool>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Loader {
    /// None where the statement or the table needs the whole executor, or where what was learnt under `version` holds no
    /// more: `plan` inserts into whatever has the table's name now. [`watched_version`] has to cover both tables.
    /// `runs_code`: an INSERT may run code that is not the server's.
    pub(super) fn of(
        plan: &Plan,
        table: pg_sys::Oid,
        runs_code: bool,
        version: u64,
    ) -> Option<Self> {
        // SAFETY: within an SPI connection; the cached plan is pinned while it is read, and copied from.
        unsafe {
            let _own = plan.own();
            let cached = pg_sys::SPI_plan_get_cached_plan(plan.raw());
            if cached.is_null() {
                return None;
            }
            let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
            let loader = (version == watched_version() && suits(relation))
                .then(|| scan_of((*cached).stmt_list))
                .flatten()
                .filter(|scan| {
                    list_length((**scan).targetlist) == (*(*relation).rd_att).natts as usize
                })
                .map(|scan| Self::built(scan, relation, runs_code, version));
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            pg_sys::ReleaseCachedPlan(cached, pg_sys::CurrentResourceOwner);
            loader
        }
    }

    unsafe fn built(
        scan: *mut pg_sys::Plan,
        relation: pg_sys::Relation,
        runs_code: bool,
        version: u64,
    ) -> Self {
        // SAFETY: until it is whole, what is built belongs to the caller's context; nothing in it points elsewhere.
        unsafe {
            let before = pg_sys::CurrentMemoryContext;
            let context = pg_sys::AllocSetContextCreateInternal(
                before,
                c"onagui_sync insert".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            pg_sys::CurrentMemoryContext = context;
            let copy = |list: *mut pg_sys::List| pg_sys::copyObjectImpl(list.cast()).cast();
            let scope = pg_sys::CreateStandaloneExprContext();
            // A copy, because a slot would pin the original to this transaction.
            let slot = pg_sys::MakeSingleTupleTableSlot(
                pg_sys::CreateTupleDescCopyConstr((*relation).rd_att),
                &raw const pg_sys::TTSOpsVirtual,
            );
            let nobody = std::ptr::null_mut();
            let targets = copy((*scan).targetlist);
            let values =
                pg_sys::ExecBuildProjectionInfo(targets, scope, slot, nobody, std::ptr::null_mut());
            let filter = pg_sys::ExecInitQual(copy((*scan).qual), nobody);
            let indexed = if runs_code { Vec::new() } else { expressions_of(relation) };
            pg_sys::CurrentMemoryContext = before;
            pg_sys::MemoryContextSetParent(context, pg_sys::TopMemoryContext);
            let (table, busy) = ((*relation).rd_id, Cell::new(false));
            Loader {
                table,
                runs_code,
                version,
                context,
                values,
                filter,
                scope,
                slot,
                indexed,
                busy,
            }
        }
    }

    /// Inserts as the current role, within a subtransaction of the caller's; answers how many rows. None, and nothing is done,
    /// where the statement itself must be executed.
    pub fn insert(&self, rows: &RowSet) -> Option<u64> {
        // Where nothing may be written, the statement says so in the server's own words. And a function in a constraint
        // might sign somebody up.
        // SAFETY: backend-local state.
        let may_write = unsafe { !pg_sys::XactReadOnly && !pg_sys::IsInParallelMode() };
        if !may_write || self.busy.replace(true) {
            return None;
        }
        let _busy = Busy(&self.busy);
        // SAFETY: the version tells that both tables still look as they did when the expressions were made ready. All
        // that is set up here is taken down again, on an error by the end of the subtransaction.
        unsafe {
            let relation = pg_sys::table_open(self.table, pg_sys::RowExclusiveLock as i32);
            if self.version != watched_version() {
                pg_sys::table_close(relation, pg_sys::NoLock as i32);
                return None;
            }
            // Code sees all that has been done so far, as it would in a statement. The subtransaction's end does the
            // same for what comes after.
            if self.runs_code {
                pg_sys::CommandCounterIncrement();
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            }
            let estate = pg_sys::CreateExecutorState();
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*estate).es_query_cxt;
            let target: *mut pg_sys::ResultRelInfo =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
            pg_sys::InitResultRelInfo(target, relation, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            for i in 0..(*target).ri_NumIndices as usize {
                let index = (**(*target).ri_IndexRelationDescs.add(i)).rd_id;
                if let Some((_, states)) = self.indexed.iter().find(|(kept, _)| *kept == index) {
                    (**(*target).ri_IndexRelationInfo.add(i)).ii_ExpressionsState = *states;
                }
            }
            let has_triggers = !(*relation).trigdesc.is_null();
            if has_triggers {
                pg_sys::AfterTriggerBeginQuery();
            }
            let mut made = 0;
            rows.scan(|row| {
                if self.project(row) {
                    (*self.slot).tts_tableOid = self.table;
                    pg_sys::ExecSimpleRelationInsert(target, estate, self.slot);
                    made += 1;
                }
                let scope = (*estate).es_per_tuple_exprcontext;
                if !scope.is_null() {
                    pg_sys::MemoryContextReset((*scope).ecxt_per_tuple_memory);
                }
                pgrx::check_for_interrupts!();
                true
            });
            if has_triggers {
                pg_sys::AfterTriggerEndQuery(estate);
                pg_sys::ExecCloseResultRelations(estate);
            }
            pg_sys::ExecClearTuple(self.slot);
            pg_sys::ExecCloseIndices(target);
            pg_sys::ExecResetTupleTable((*estate).es_tupleTable, false);
            pg_sys::CurrentMemoryContext = before;
            pg_sys::FreeExecutorState(estate);
            if self.runs_code {
                pg_sys::PopActiveSnapshot();
            }
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            Some(made)
        }
    }

    /// Puts the values for `row` into our slot, unless it is filtered out.
    unsafe fn project(&self, row: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: `row` has the columns that the expressions were made for.
        unsafe {
            pg_sys::ExecClearTuple(self.slot);
            pg_sys::MemoryContextReset((*self.scope).ecxt_per_tuple_memory);
            (*self.scope).ecxt_scantuple = row;
            let wanted = self.filter.is_null() || pg_sys::ExecQual(self.filter, self.scope);
            if wanted {
                pg_sys::ExecProject(self.values);
            }
            wanted
        }
    }
}

/// The expressions of the table's indexes, ready to be evaluated: the executor would get them ready for each row.
unsafe fn expressions_of(relation: pg_sys::Relation) -> Vec<(pg_sys::Oid, *mut pg_sys::List)> {
    // SAFETY: an open relation; the states are made of copies, in the current memory context.
    unsafe {
        let indexes = pg_sys::RelationGetIndexList(relation);
        let mut found = Vec::new();
        for i in 0..list_length(indexes) {
            let oid = pg_sys::list_nth_oid(indexes, i as i32);
            let index = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32);
            let expressions = pg_sys::RelationGetIndexExpressions(index);
            if !expressions.is_null() {
                found.push((oid, pg_sys::ExecInitExprList(expressions, std::ptr::null_mut())));
            }
            pg_sys::index_close(index, pg_sys::NoLock as i32);
        }
        found
    }
}

/// Whether nothing on the table needs more than ExecSimpleRelationInsert does: rules, statement triggers, and BEFORE
/// triggers, which may leave a row out without a word, do. And whether the current role, the owner, may insert.
unsafe fn suits(relation: pg_sys::Relation) -> bool {
    // SAFETY: an open relation.
    unsafe {
        let triggers = (*relation).trigdesc;
        let simple = triggers.is_null()
            || !((*triggers).trig_insert_before_row
                || (*triggers).trig_insert_before_statement
                || (*triggers).trig_insert_after_statement
                || (*triggers).trig_insert_new_table);
        let may = pg_sys::pg_class_aclcheck(
            (*relation).rd_id,
            pg_sys::GetUserId(),
            pg_sys::ACL_INSERT as pg_sys::AclMode,
        );
        may == pg_sys::AclResult::ACLCHECK_OK
            && (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_RELATION
            && (*relation).rd_rules.is_null()
            && simple
    }
}

/// The scan below a plain INSERT … SELECT of one set of rows, the values being what it puts out.
unsafe fn scan_of(statements: *mut pg_sys::List) -> Option<*mut pg_sys::Plan> {
    // SAFETY: node tags are looked at before a node is taken for what it is.
    unsafe {
        if list_length(statements) != 1 {
            return None;
        }
        let statement: *mut pg_sys::PlannedStmt = pg_sys::list_nth(statements, 0).cast();
        let top = (*statement).planTree;
        if (*statement).commandType != pg_sys::CmdType::CMD_INSERT
            || (*top).type_ != pg_sys::NodeTag::T_ModifyTable
            || !(*statement).subplans.is_null()
            // Functions, domains and casts that are not the server's own: those may change, or be taken away.
            || !(*statement).invalItems.is_null()
        {
            return None;
        }
        let scan = (*top).lefttree;
        ((*scan).type_ == pg_sys::NodeTag::T_NamedTuplestoreScan).then_some(scan)
    }
}

unsafe fn list_length(list: *mut pg_sys::List) -> usize {
    // SAFETY: NULL is the empty list.
    if list.is_null() { 0 } else { unsafe { (*list).length as usize } }
}
