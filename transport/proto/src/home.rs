//! How a subtree goes to a site that holds a write lease on it, and how what that site changes comes home.
//!
//! *Home* is the site that policy names as primary; the *holder* masters the subtree meanwhile. The holder says what has
//! changed, and home comes and gets it as any reader would.
//!
//! *Invariant:* what is decoded is within the limits, and every item lies in the subtree.

use crate::attr::Attr;
use crate::codec::{DecodeError, Reader, Writer};
use crate::error::FsError;
use crate::error::{decode_error, encode_error};
use crate::limits::{HOME_FRAME_TARGET, MAX_HOME_ITEMS};
use crate::path::GlobalPath;

/// The epoch of the grant under which a holder acts. Whoever knows a newer one for that place refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// A path as it is at the holder, to be made the same at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeItem {
    /// The path.
    pub path: GlobalPath,
    /// What is there; `None`: nothing is, nor beneath it.
    pub attr: Option<Attr>,
    /// Another name of the same file, which is home already or comes in the same request.
    pub same_as: Option<GlobalPath>,
}

/// What [`crate::Request::BringHome`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BringHome {
    /// The subtree that the holder's lease is on.
    pub scope: GlobalPath,
    /// The lease's epoch.
    pub fence: Fence,
    /// Grows with each request under this epoch: home carries out none after one with a higher number.
    pub batch: u64,
    /// The paths, in any order: 1 to [`MAX_HOME_ITEMS`]. A directory above one of them is home already or among them.
    pub items: Vec<HomeItem>,
}

/// How one item ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Which, counted from 0 in the request.
    pub item: u32,
    /// `Ok`: it is at home, on disk. `Stale`: it has changed since; say it again.
    pub outcome: Result<(), FsError>,
}

impl HomeItem {
    /// Bytes of its wire form, at most.
    fn wire_length(&self) -> usize {
        const FIXED: usize = 128;
        let same_as = self.same_as.as_ref().map_or(0, |path| path.as_bytes().len());
        FIXED + self.path.as_bytes().len() + same_as
    }

    fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        let flags = u8::from(self.attr.is_some()) | u8::from(self.same_as.is_some()) << 1;
        w.path(&self.path).u8(flags);
        let w = self.attr.iter().fold(w, Writer::attr);
        self.same_as.iter().fold(w, Writer::path)
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (path, flags) = (r.path()?, r.u8()?);
        if flags > 3 {
            return Err(DecodeError::OutOfRange("the flags of an item"));
        }
        let attr = (flags & 1 != 0).then(|| r.attr()).transpose()?;
        let same_as = (flags & 2 != 0).then(|| r.path()).transpose()?;
        Ok(Self { path, attr, same_as })
    }
}

impl BringHome {
    /// How many of `items` fit into one request, at least one.
    pub fn batch(items: &[HomeItem]) -> usize {
        let mut wire = 0;
        let fits = items.iter().take(MAX_HOME_ITEMS).take_while(|item| {
            wire += item.wire_length();
            wire <= HOME_FRAME_TARGET
        });
        fits.count().max(1)
    }

    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        let count = u32::try_from(self.items.len()).expect("items fit a request");
        w.path(&self.scope).u64(self.fence.0).u64(self.batch).u32(count);
        self.items.iter().fold(w, |w, item| item.encode(w))
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (scope, fence, batch, count) = (r.path()?, Fence(r.u64()?), r.u64()?, r.u32()? as usize);
        if count == 0 || count > MAX_HOME_ITEMS {
            return Err(DecodeError::OutOfRange("the number of items"));
        }
        let items = (0..count).map(|_| HomeItem::decode(r)).collect::<Result<Vec<_>, _>>()?;
        let inside = |path: &GlobalPath| path.starts_with(&scope);
        if items.iter().any(|item| !inside(&item.path) || !item.same_as.iter().all(inside)) {
            return Err(DecodeError::OutOfRange("the place of an item"));
        }
        Ok(Self { scope, fence, batch, items })
    }
}

impl Settled {
    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        match &self.outcome {
            Ok(()) => w.u32(self.item).u8(0),
            Err(error) => encode_error(w.u32(self.item).u8(1), error),
        }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let item = r.u32()?;
        let outcome = match r.u8()? {
            0 => Ok(()),
            1 => Err(decode_error(r)?),
            other => return Err(DecodeError::Unknown("outcome", other)),
        };
        Ok(Self { item, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::{FileId, FileKind};
    use crate::message::{Request, RequestHeader, Response};

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn attr() -> Attr {
        Attr {
            file: FileId { origin: 1, inode: 2 },
            kind: FileKind::Regular,
            mode: 0o644,
            nlink: 2,
            uid: 1000,
            gid: 100,
            rdev: 0,
            size: 3,
            blocks: 8,
            atime_ns: 4,
            mtime_ns: 5,
            ctime_ns: 6,
            no_xattrs: true,
        }
    }

    fn request(items: Vec<HomeItem>) -> Request {
        Request::BringHome(BringHome { scope: path("/r"), fence: Fence(7), batch: 8, items })
    }

    fn passes(request: &Request) -> bool {
        let header = RequestHeader { deadline_ms: 9 };
        Request::decode(request.encode(header)) == Ok((header, request.clone()))
    }

    /// The bytes below are the protocol.
    #[test]
    fn the_frozen_form() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let take_over = Request::TakeOver { scope: path("/r"), fence: Fence(7) };
        assert!(passes(&take_over));
        let header = RequestHeader { deadline_ms: 1 };
        assert_eq!(hex(&take_over.encode(header)), "0100000013020000002f720700000000000000");
        let gone = HomeItem { path: path("/r/a"), attr: None, same_as: None };
        assert_eq!(
            hex(&request(vec![gone]).encode(header)),
            "0100000014020000002f720700000000000000080000000000000001000000040000002f722f6100"
        );
        let settled = Response::Settled(Settled { item: 1, outcome: Err(FsError::NOT_FOUND) });
        assert_eq!(hex(&settled.encode()), "0e0100000001010200000000000000");
        assert_eq!(Response::decode(settled.encode()), Ok(settled));
        let settled = Response::Settled(Settled { item: 1, outcome: Ok(()) });
        assert_eq!(Response::decode(settled.encode()), Ok(settled));
    }

    #[test]
    fn what_lies_outside_of_the_subtree_is_refused() {
        let item = |at: &str, same_as: Option<&str>| HomeItem {
            path: path(at),
            attr: Some(attr()),
            same_as: same_as.map(path),
        };
        assert!(passes(&request(vec![item("/r", None), item("/r/a", None), item("/r/b", Some("/r/a"))])));
        assert!(!passes(&request(vec![item("/r-a", None)])));
        assert!(!passes(&request(vec![item("/r/b", Some("/a"))])));
        assert!(!passes(&request(Vec::new())));
    }

    #[test]
    fn a_batch_fits_a_request() {
        let long = GlobalPath::root().join(&[b'n'; 255]).unwrap();
        let item = |path: &GlobalPath| HomeItem { path: path.clone(), attr: Some(attr()), same_as: None };
        let items = vec![item(&long); 5000];
        let count = BringHome::batch(&items);
        assert!((1..=MAX_HOME_ITEMS).contains(&count));
        let request = BringHome {
            scope: GlobalPath::root(),
            fence: Fence(1),
            batch: 1,
            items: items[..count].to_vec(),
        };
        let frame = Request::BringHome(request).encode(RequestHeader { deadline_ms: 1 });
        assert!(frame.len() <= crate::limits::MAX_REQUEST_FRAME);
        assert_eq!(BringHome::batch(&items[..1]), 1);
    }
}
