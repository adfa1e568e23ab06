//! What comes along with attributes: the content of a small file that was changed just now. Who asks about such a name from afar
//! has most likely heard of the change and reads it next, so it saves a round trip.

use globalfs_proto::{Attr, FileKind};

/// How long ago the change is at most, in ns: it was heard a moment ago, and a question takes a round trip.
const JUST_NOW_NS: i64 = 2_000_000_000;

/// Whether the content of a file with the attributes `attr` is told unasked at the time `now_ns`, ns since 1970, to who takes
/// `most` bytes.
pub fn is_content_told(attr: &Attr, most: u32, now_ns: i64) -> bool {
    let is_young = now_ns.saturating_sub(attr.ctime_ns) < JUST_NOW_NS;
    attr.kind == FileKind::Regular && (1..=u64::from(most)).contains(&attr.size) && is_young
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::some_attr;

    #[test]
    fn what_is_small_and_young_is_told() {
        let file = Attr { ctime_ns: 7, ..some_attr(100) };
        assert!(is_content_told(&file, 100, 8) && !is_content_told(&file, 99, 8));
        assert!(!is_content_told(&file, 0, 8), "nobody wants it");
        assert!(is_content_told(&file, 100, 6), "clocks differ");
        assert!(!is_content_told(&file, 100, 8 + JUST_NOW_NS));
        assert!(!is_content_told(&Attr { size: 0, ..file }, 100, 8));
        assert!(!is_content_told(&Attr { kind: FileKind::Symlink, ..file }, 100, 8));
    }
}
