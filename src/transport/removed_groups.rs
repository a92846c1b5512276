//! Which groups were removed from a host.

use std::fmt;
use std::sync::Arc;

/// The unique ids of the groups that were removed from a host. Cheap to clone, usable from any
/// thread, never blocks for long. The default knows none.
#[derive(Clone, Default)]
pub struct RemovedGroups(Option<Arc<dyn Fn(u128) -> bool + Send + Sync>>);

impl RemovedGroups {
    /// Those for which `contains` returns true.
    pub fn new(contains: impl Fn(u128) -> bool + Send + Sync + 'static) -> RemovedGroups {
        RemovedGroups(Some(Arc::new(contains)))
    }

    /// Whether the group with this unique id was removed. 0 is the id of no group.
    pub fn contains(&self, group_uid: u128) -> bool {
        group_uid != 0 && self.0.as_ref().is_some_and(|contains| contains(group_uid))
    }
}

impl fmt::Debug for RemovedGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemovedGroups")
    }
}
