//! Hash maps and sets with a fixed hasher: the same insertions and removals always give the same iteration order.
//!
//! Create them with `HashMap::default()` or `collect()`; std's `new` exists only for its random hasher. If the iteration order affects a
//! row, prefer `BTreeMap` and `BTreeSet`: their order does not depend on the order of insertions.
//!
//! ```
//! use keyfold_sdk::collections::{HashMap, HashSet};
//!
//! let mut counts = HashMap::<&str, u32>::default();
//! *counts.entry("ann").or_default() += 1;
//! let users: HashSet<&str> = counts.keys().copied().collect();
//! assert!(users.contains("ann"));
//! ```

use std::hash::{BuildHasherDefault, DefaultHasher};

/// std's hasher with a fixed seed.
///
/// ```
/// use keyfold_sdk::collections::Hasher;
/// use std::hash::BuildHasher;
///
/// assert_eq!(Hasher::default().hash_one("ann"), Hasher::default().hash_one("ann"));
/// ```
pub type Hasher = BuildHasherDefault<DefaultHasher>;

/// std's map with a fixed hasher. For an example, see [the module](self).
#[allow(clippy::disallowed_types, reason = "the hasher is fixed")]
pub type HashMap<K, V> = std::collections::HashMap<K, V, Hasher>;

/// std's set with a fixed hasher. For an example, see [the module](self).
#[allow(clippy::disallowed_types, reason = "the hasher is fixed")]
pub type HashSet<K> = std::collections::HashSet<K, Hasher>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_maps_with_the_same_content_iterate_in_the_same_order() {
        let order = || (0..100).map(|i| (i, ())).collect::<HashMap<i32, ()>>().into_keys().collect::<Vec<_>>();
        assert_eq!(order(), order());
    }
}
