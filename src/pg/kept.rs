//! What a backend has learnt of the catalog, kept until it may have changed.

use super::server::sees_latest;
use std::cell::RefCell;
use std::rc::Rc;

/// One thing learnt, with the version of the catalog under which it was.
pub struct Kept<T> {
    slot: RefCell<Option<(u64, Rc<T>)>>,
}

impl<T> Kept<T> {
    pub const fn new() -> Self {
        Kept { slot: RefCell::new(None) }
    }

    /// Whether something is kept that may not be so any more.
    pub fn is_stale(&self, version: u64) -> bool {
        self.slot.borrow().as_ref().is_some_and(|(at, _)| *at != version)
    }

    /// What is kept, where it was learnt under `version` (see [`super::watched_version`]) and `fits`; else what `learn`
    /// finds now. That is kept for the next time, but not where this transaction goes on seeing the catalog as it once
    /// was, and not where it is not `worth` the memory.
    pub fn get<E>(
        &self,
        version: u64,
        fits: impl Fn(&T) -> bool,
        worth: impl Fn(&T) -> bool,
        learn: impl FnOnce() -> Result<T, E>,
    ) -> Result<Rc<T>, E> {
        let kept = match &*self.slot.borrow() {
            Some((at, kept)) if *at == version && fits(kept) => Some(kept.clone()),
            _ => None,
        };
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let learnt = Rc::new(learn()?);
        let keep = sees_latest() && worth(&learnt);
        let before = self.slot.replace(keep.then(|| (version, learnt.clone())));
        drop(before);
        Ok(learnt)
    }
}
