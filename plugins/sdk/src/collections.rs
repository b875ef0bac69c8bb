//! Hash maps and sets whose order depends on nothing but what was put into them: the same in every instance and for every map.
//!
//! Made by `HashMap::default()` or `collect()`; std's `new` is for its random hasher only. Where the order of iteration shows in a row,
//! prefer `BTreeMap` and `BTreeSet`: their order survives a change of the code before the iteration.
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

/// std's hasher without its seed.
///
/// ```
/// use keyfold_sdk::collections::Hasher;
/// use std::hash::BuildHasher;
///
/// assert_eq!(Hasher::default().hash_one("ann"), Hasher::default().hash_one("ann"));
/// ```
pub type Hasher = BuildHasherDefault<DefaultHasher>;

/// std's map, with a fixed hasher. The example is at [the top](self).
#[allow(clippy::disallowed_types, reason = "the hasher is fixed")]
pub type HashMap<K, V> = std::collections::HashMap<K, V, Hasher>;

/// std's set, with a fixed hasher. The example is at [the top](self).
#[allow(clippy::disallowed_types, reason = "the hasher is fixed")]
pub type HashSet<K> = std::collections::HashSet<K, Hasher>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_maps_of_the_same_content_iterate_alike() {
        let order = || (0..100).map(|i| (i, ())).collect::<HashMap<i32, ()>>().into_keys().collect::<Vec<_>>();
        assert_eq!(order(), order());
    }
}
