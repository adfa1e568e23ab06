//! Extended attributes that mean something to the kernel, or nothing at all.

use bytes::Bytes;
use globalfs_proto::FsError;

/// The label that SELinux gave a file at its origin. It belongs to the policy of that machine and means nothing on this
/// one, where the kernel labels the mount as a whole. `ls -l` asks for it until it hears that there are none here.
const LABEL: &[u8] = b"security.selinux";

/// Access control lists of the file itself, and of what will be made in a directory.
const LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// What begins like this only privileged users see.
const TRUSTED: &[u8] = b"trusted.";

/// `ENODATA`: the file has no such attribute.
const ABSENT: FsError = FsError::Os(61);

/// `EOPNOTSUPP`: no file here has such attributes.
pub(crate) const NOT_SUPPORTED: FsError = FsError::Os(95);

/// Whether no file shows this attribute.
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    name == LABEL
}

/// What the kernel is told when `name` could not be had. Files of an origin without access control lists have none:
/// the kernel, which asks before it grants access, would take any other error for a refusal.
pub(crate) fn absent(name: &[u8], error: FsError) -> FsError {
    if error == NOT_SUPPORTED && LISTS.contains(&name) { ABSENT } else { error }
}

/// `names`, each with a final NUL, without those that no file shows, nor to the user `uid`.
pub(crate) fn shown_to(uid: u32, names: Bytes) -> Bytes {
    let is_root = uid == 0;
    let is_shown = |name: &&[u8]| {
        !is_hidden(name.strip_suffix(b"\0").unwrap_or(name)) && (is_root || !name.starts_with(TRUSTED))
    };
    let each = || names.split_inclusive(|&byte| byte == 0);
    if each().all(|name| is_shown(&name)) {
        return names;
    }
    each().filter(is_shown).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_to_who_may_see_them() {
        let check_for = |uid, names: &'static str, want: &str| {
            assert_eq!(shown_to(uid, Bytes::from_static(names.as_bytes())), want);
        };
        check_for(0, "trusted.a\0user.b\0", "trusted.a\0user.b\0");
        check_for(1000, "trusted.a\0user.b\0trustedly\0", "user.b\0trustedly\0");
        let check = |names, want| check_for(0, names, want);
        check("", "");
        check("user.a\0", "user.a\0");
        check("security.selinux\0", "");
        check("user.a\0security.selinux\0user.b\0", "user.a\0user.b\0");
        check("security.selinux.a\0", "security.selinux.a\0");
        assert!(is_hidden(LABEL) && !is_hidden(b"security.capability"));
    }

    #[test]
    fn who_has_no_lists_grants_by_mode() {
        assert_eq!(absent(b"system.posix_acl_access", NOT_SUPPORTED), ABSENT);
        assert_eq!(absent(b"system.posix_acl_default", FsError::Deadline), FsError::Deadline);
        assert_eq!(absent(b"user.a", NOT_SUPPORTED), NOT_SUPPORTED);
    }
}
