//! Cursors, while code of others may run.
//!
//! A cursor belongs to the session, and whoever fetches from it carries its query out with their own rights. A
//! security-restricted operation refuses DECLARE and CLOSE, but not what procedural languages open and close by themselves. So
//! code of a table's owner could put a cursor of its own in place of the caller's, or read what the caller's holds.

use pgrx::pg_sys::{self, MemoryContext, Portal, PortalStatus};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char};

// Not pgrx's, which is ready for errors: it raises none.
unsafe extern "C-unwind" {
    fn GetPortalByName(name: *const c_char) -> Portal;
}

thread_local! {
    /// The parent of all portals' contexts.
    static TOP: Cell<MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
    /// The extension's own cursors.
    static OWN: RefCell<Vec<Portal>> = const { RefCell::new(Vec::new()) };
}

/// The status of a portal that is being run: the server neither runs nor drops it then.
const ACTIVE: PortalStatus::Type = PortalStatus::PORTAL_ACTIVE;

/// While it lives, no cursor that is open can be fetched from or closed. Those that are opened meanwhile do not outlive it,
/// but for the extension's own.
pub(super) struct Guard {
    there: Vec<MemoryContext>,
    at_rest: Vec<(MemoryContext, Portal, PortalStatus::Type)>,
}

impl Guard {
    pub(super) fn start() -> Self {
        let there = contexts();
        let mut at_rest = Vec::new();
        for context in &there {
            // SAFETY: the portal is open.
            if let Some(portal) = portal_of(*context)
                && unsafe { (*portal).status } != ACTIVE
            {
                at_rest.push((*context, portal, set_status(portal, ACTIVE)));
            }
        }
        Guard { there, at_rest }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let now = contexts();
        // After an error, the end of the subtransaction drops what was opened in it.
        if now != self.there && !std::thread::panicking() {
            let new = now.iter().filter(|context| !self.there.contains(context));
            for portal in new.filter_map(|context| portal_of(*context)) {
                if !OWN.with_borrow(|own| own.contains(&portal)) {
                    close(portal);
                }
            }
        }
        for (context, portal, status) in &self.at_rest {
            // SAFETY: where its context is there, it is open.
            if now.contains(context) && unsafe { (**portal).status } == ACTIVE {
                set_status(*portal, *status);
            }
        }
    }
}

fn close(portal: Portal) {
    // SAFETY: the portal is open, and nobody is running it.
    unsafe {
        if (*portal).portalPinned {
            pg_sys::UnpinPortal(portal);
        }
        pg_sys::SPI_cursor_close(portal);
    }
}

/// Notes that a cursor is the extension's.
pub(super) fn opened(portal: Portal) {
    OWN.with_borrow_mut(|own| own.push(portal));
}

/// Closes a cursor of the extension's; after an error the server does.
pub(super) fn close_own(portal: Portal) {
    OWN.with_borrow_mut(|own| own.retain(|other| *other != portal));
    if !std::thread::panicking() {
        set_status(portal, PortalStatus::PORTAL_READY);
        close(portal);
    }
}

/// Runs `fetch`, which fetches from a cursor of the extension's, though it may be guarded.
pub(super) fn with_own<R>(portal: Portal, fetch: impl FnOnce() -> R) -> R {
    let before = set_status(portal, PortalStatus::PORTAL_READY);
    let fetched = fetch();
    if before == ACTIVE {
        set_status(portal, ACTIVE);
    }
    fetched
}

/// Answers the status it had.
fn set_status(portal: Portal, status: PortalStatus::Type) -> PortalStatus::Type {
    // SAFETY: a portal that is open, by the promise of whoever calls.
    unsafe { std::mem::replace(&mut (*portal).status, status) }
}

/// The contexts of all portals that are open: the server itself can only list those that a client may see, and by a query.
fn contexts() -> Vec<MemoryContext> {
    if TOP.get().is_null() {
        // SAFETY: it is made with the backend, and stays.
        let top = unsafe { children(pg_sys::TopMemoryContext) };
        TOP.set(
            top.into_iter()
                .find(|c| is_named(*c, c"TopPortalContext"))
                .unwrap_or(std::ptr::null_mut()),
        );
    }
    let mut all = children(TOP.get());
    all.retain(|context| is_named(*context, c"PortalContext"));
    all
}

fn children(parent: MemoryContext) -> Vec<MemoryContext> {
    // SAFETY: a context of the server, or NULL; its children are linked up to a NULL.
    let first = unsafe { parent.as_ref() }.map(|parent| parent.firstchild);
    let next = |context: &MemoryContext| unsafe { context.as_ref() }.map(|c| c.nextchild);
    std::iter::successors(first, next).take_while(|context| !context.is_null()).collect()
}

fn is_named(context: MemoryContext, name: &CStr) -> bool {
    // SAFETY: a context of the server; their names are NUL-terminated.
    unsafe { CStr::from_ptr((*context).name) == name }
}

/// The portal with this context, whose identifier is the portal's name, or stands for the one without any.
fn portal_of(context: MemoryContext) -> Option<Portal> {
    // SAFETY: a context of the server, whose identifier is NULL or NUL-terminated.
    unsafe {
        let name = (*context).ident;
        let of = |name: *const c_char| {
            let portal = GetPortalByName(name);
            (!portal.is_null() && (*portal).portalContext == context).then_some(portal)
        };
        if name.is_null() { None } else { of(name).or_else(|| of(c"".as_ptr())) }
    }
}
