//! What the kernel is told without having asked. Pure: the bytes of each notice.

use crate::kernel::abi::{self, OutHeader, notice_code};
use crate::model::NodeId;
use zerocopy::{Immutable, IntoBytes};

/// A notice, in the pieces that are written at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notice<'a> {
    /// Header and structure.
    pub(crate) head: Vec<u8>,
    /// A name or content.
    pub(crate) data: &'a [u8],
    /// The end of a name.
    pub(crate) end: &'static [u8],
}

/// `None` when a length does not fit into its field.
fn notice<'a>(
    code: i32,
    structure: &(impl IntoBytes + Immutable),
    data: &'a [u8],
    end: &'static [u8],
) -> Option<Notice<'a>> {
    let structure = structure.as_bytes();
    let length = size_of::<OutHeader>() + structure.len() + data.len() + end.len();
    let header = OutHeader { length: u32::try_from(length).ok()?, error: code, unique: 0 };
    Some(Notice { head: [header.as_bytes(), structure].concat(), data, end })
}

/// `name` in `parent` is to be looked up again. A kernel that is told to `expire` it takes nothing from who uses it.
pub(crate) fn inval_entry(parent: NodeId, name: &[u8], expire: bool) -> Option<Notice<'_>> {
    let name_length = u32::try_from(name.len()).ok()?;
    let flags = if expire { abi::EXPIRE_ONLY } else { 0 };
    let structure = abi::InvalEntryOut { parent: parent.0, name_length, flags };
    notice(notice_code::INVAL_ENTRY, &structure, name, b"\0")
}

/// Attributes of `node` are to be asked for again, and its content of `length` bytes from `offset` on; a negative
/// offset leaves the content alone.
pub(crate) fn inval_inode(node: NodeId, offset: i64, length: i64) -> Option<Notice<'static>> {
    notice(notice_code::INVAL_INODE, &abi::InvalInodeOut { node: node.0, offset, length }, b"", b"")
}

/// The kernel is given `content` of `node` at `offset`, for its page cache.
pub(crate) fn store(node: NodeId, offset: u64, content: &[u8]) -> Option<Notice<'_>> {
    let size = u32::try_from(content.len()).ok()?;
    notice(notice_code::STORE, &abi::StoreOut { node: node.0, offset, size, padding: 0 }, content, b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_have_the_kernels_form() {
        let check = |notice: Option<Notice<'_>>, code: i32, body: &[u8]| {
            let Notice { head, data, end } = notice.unwrap();
            let length = 16 + body.len() as u32;
            let want = [&length.to_ne_bytes()[..], &code.to_ne_bytes(), &[0; 8], body].concat();
            assert_eq!([&head, data, end].concat(), want);
        };
        let (parent, offset) = (7u64.to_ne_bytes(), (-1i64).to_ne_bytes());
        let name = [&parent[..], &3u32.to_ne_bytes(), &[0; 4], b"abc\0"].concat();
        check(inval_entry(NodeId(7), b"abc", false), 3, &name);
        let name = [&parent[..], &3u32.to_ne_bytes(), &1u32.to_ne_bytes(), b"abc\0"].concat();
        check(inval_entry(NodeId(7), b"abc", true), 3, &name);
        check(inval_inode(NodeId(7), -1, 0), 2, &[parent, offset, [0; 8]].concat());
        let stored = [&parent[..], &4096u64.to_ne_bytes(), &2u32.to_ne_bytes(), &[0; 4], b"xy"].concat();
        check(store(NodeId(7), 4096, b"xy"), 4, &stored);
    }
}
