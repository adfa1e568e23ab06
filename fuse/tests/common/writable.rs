//! What changes do in the volume in memory: as in a local file system, with a clock that moves at each of them.

use super::{ENODATA, Tree};
use bytes::Bytes;
use globalfs_proto::{
    Allocation, Attr, Change, Changed, Existing, FileId, FileKind, FsError, FsResult, GlobalPath, NewAttr,
    NewFile, NewTime, Owner, Target, Version,
};

const TICK: i64 = 1_000_000_000;
const EEXIST: FsError = FsError::Os(17);
const EISDIR: FsError = FsError::Os(21);
const EINVAL: FsError = FsError::Os(22);
const ENOTEMPTY: FsError = FsError::Os(39);
const EOPNOTSUPP: FsError = FsError::Os(95);

impl Tree {
    pub(super) fn change(&mut self, change: Change) -> FsResult<Changed> {
        self.clock += TICK;
        match change {
            Change::Make { path, new, owner } => self.make(path, new, owner),
            Change::Link { target, path } => self.link(&target, path),
            Change::Remove { path, directory } => self.remove(&path, directory),
            Change::Rename { from, to, existing } => self.rename(&from, &to, existing),
            Change::SetAttr { target, attr } => self.set_attr(&target, attr),
            Change::SetXattr { target, name, value, existing } => {
                self.set_xattr(&target, &name, value, existing)
            }
            Change::RemoveXattr { target, name } => {
                let file = self.found(&target)?.0.file;
                let removed = self.xattrs.entry(file).or_default().remove(&name[..]);
                removed.ok_or(FsError::Os(ENODATA))?;
                self.alter(&target, |_, _| ())
            }
            Change::Write { target, offset, data } => self.write(&target, offset, &data),
            Change::Allocate { target, allocation } => self.allocate(&target, allocation),
            Change::Copy { .. } | Change::OpenDirect { .. } | Change::LookDirect { .. } => {
                Err(FsError::NOT_SUPPORTED)
            }
            Change::Sync { target, .. } => {
                Ok(Changed { attr: Some(self.found(&target)?.0), ..Changed::default() })
            }
        }
    }

    fn at(&self, path: &GlobalPath) -> FsResult<(Attr, Bytes)> {
        self.entries.get(path).cloned().ok_or(FsError::NOT_FOUND)
    }

    fn found(&self, target: &Target) -> FsResult<(Attr, Bytes)> {
        let found = self.at(&target.path)?;
        if found.0.file == target.file { Ok(found) } else { Err(FsError::Stale(None)) }
    }

    fn parent(&self, path: &GlobalPath) -> FsResult<GlobalPath> {
        let parent = path.parent().ok_or(EEXIST)?;
        let kind = self.at(&parent)?.0.kind;
        if kind == FileKind::Directory { Ok(parent) } else { Err(FsError::NOT_A_DIRECTORY) }
    }

    /// The names in a directory are others now.
    fn touch(&mut self, directory: &GlobalPath, links: i32) {
        let now = self.clock;
        let (attr, _) = self.entries.get_mut(directory).unwrap();
        (attr.mtime_ns, attr.ctime_ns) = (now, now);
        attr.nlink = attr.nlink.saturating_add_signed(links);
    }

    fn is_empty(&self, directory: &GlobalPath) -> bool {
        !self.entries.keys().any(|path| path.parent().as_ref() == Some(directory))
    }

    /// Changes the file under all its names.
    fn alter(&mut self, target: &Target, change: impl FnOnce(&mut Attr, &mut Bytes)) -> FsResult<Changed> {
        let (mut attr, mut content) = self.found(target)?;
        let before: Option<Version> = Some(attr.version());
        attr.ctime_ns = self.clock;
        change(&mut attr, &mut content);
        if attr.kind == FileKind::Regular {
            attr.size = content.len() as u64;
            attr.blocks = attr.size.div_ceil(512);
        }
        for entry in self.entries.values_mut().filter(|entry| entry.0.file == attr.file) {
            *entry = (attr, content.clone());
        }
        Ok(Changed { before, attr: Some(attr), ..Changed::default() })
    }

    fn make(&mut self, path: GlobalPath, new: NewFile, owner: Owner) -> FsResult<Changed> {
        let parent = self.parent(&path)?;
        if self.entries.contains_key(&path) {
            return Err(EEXIST);
        }
        let (kind, now) = (new.kind(), self.clock);
        let (content, rdev) = match new {
            NewFile::Symlink(target) => (target, 0),
            NewFile::Special(_, device) => (Bytes::new(), device),
            NewFile::Regular | NewFile::Directory => (Bytes::new(), 0),
        };
        let is_directory = kind == FileKind::Directory;
        let attr = Attr {
            file: FileId { origin: 1, inode: now as u64 },
            kind,
            mode: owner.mode,
            nlink: if is_directory { 2 } else { 1 },
            uid: owner.uid,
            gid: owner.gid,
            rdev,
            size: content.len() as u64,
            blocks: 0,
            atime_ns: now,
            mtime_ns: now,
            ctime_ns: now,
            no_xattrs: false,
        };
        self.entries.insert(path, (attr, content));
        self.touch(&parent, is_directory.into());
        Ok(Changed { attr: Some(attr), ..Changed::default() })
    }

    fn link(&mut self, target: &Target, path: GlobalPath) -> FsResult<Changed> {
        let parent = self.parent(&path)?;
        if self.entries.contains_key(&path) {
            return Err(EEXIST);
        }
        let changed = self.alter(target, |attr, _| attr.nlink += 1)?;
        let entry = self.found(target)?;
        self.entries.insert(path, entry);
        self.touch(&parent, 0);
        Ok(changed)
    }

    fn remove(&mut self, path: &GlobalPath, directory: bool) -> FsResult<Changed> {
        let parent = self.parent(path)?;
        let (attr, _) = self.at(path)?;
        match (attr.kind == FileKind::Directory, directory) {
            (true, false) => return Err(EISDIR),
            (false, true) => return Err(FsError::NOT_A_DIRECTORY),
            (true, true) if !self.is_empty(path) => return Err(ENOTEMPTY),
            _ => {}
        }
        self.take_away(path);
        self.touch(&parent, if directory { -1 } else { 0 });
        Ok(Changed::default())
    }

    fn take_away(&mut self, path: &GlobalPath) {
        let (attr, _) = self.entries.remove(path).unwrap();
        let now = self.clock;
        for (other, _) in self.entries.values_mut().filter(|(other, _)| other.file == attr.file) {
            (other.nlink, other.ctime_ns) = (other.nlink - 1, now);
        }
    }

    fn rename(&mut self, from: &GlobalPath, to: &GlobalPath, existing: Existing) -> FsResult<Changed> {
        let (left, reached) = (self.parent(from)?, self.parent(to)?);
        let moved = self.at(from)?.0;
        let replaced = self.at(to).ok().map(|(attr, _)| attr);
        if to != from && to.starts_with(from) {
            return Err(EINVAL);
        }
        match (existing, replaced) {
            (Existing::Refuse, Some(_)) => return Err(EEXIST),
            (Existing::Exchange, None) => return Err(FsError::NOT_FOUND),
            (_, Some(replaced)) if replaced.file == moved.file => return Ok(Changed::default()),
            (Existing::Replace, Some(replaced)) => self.make_way(&moved, &replaced, to)?,
            _ => {}
        }
        let others = if existing == Existing::Exchange { self.take_tree(to) } else { Vec::new() };
        let moving = self.take_tree(from);
        self.put_tree(to, moving);
        self.put_tree(from, others);
        let links = i32::from(moved.kind == FileKind::Directory && left != reached);
        self.touch(&left, -links);
        self.touch(&reached, links);
        Ok(Changed::default())
    }

    fn make_way(&mut self, moved: &Attr, replaced: &Attr, to: &GlobalPath) -> FsResult<()> {
        match (moved.kind == FileKind::Directory, replaced.kind == FileKind::Directory) {
            (true, false) => return Err(FsError::NOT_A_DIRECTORY),
            (false, true) => return Err(EISDIR),
            (true, true) if !self.is_empty(to) => return Err(ENOTEMPTY),
            _ => {}
        }
        self.take_away(to);
        Ok(())
    }

    /// Takes out what lies at and below `root`, by what follows its path.
    fn take_tree(&mut self, root: &GlobalPath) -> Vec<(Vec<u8>, (Attr, Bytes))> {
        let paths: Vec<_> = self.entries.keys().filter(|path| path.starts_with(root)).cloned().collect();
        let rest = |path: &GlobalPath| path.as_bytes()[root.as_bytes().len()..].to_vec();
        paths.into_iter().map(|path| (rest(&path), self.entries.remove(&path).unwrap())).collect()
    }

    fn put_tree(&mut self, root: &GlobalPath, tree: Vec<(Vec<u8>, (Attr, Bytes))>) {
        let now = self.clock;
        for (rest, mut entry) in tree {
            if rest.is_empty() {
                entry.0.ctime_ns = now;
                let others = self.entries.values_mut().filter(|(other, _)| other.file == entry.0.file);
                others.for_each(|(other, _)| other.ctime_ns = now);
            }
            let path = GlobalPath::new(&[root.as_bytes(), &rest].concat()).unwrap();
            self.entries.insert(path, entry);
        }
    }

    fn set_attr(&mut self, target: &Target, new: NewAttr) -> FsResult<Changed> {
        let now = self.clock;
        let time = |time| match time {
            NewTime::Now => now,
            NewTime::At(ns) => ns,
        };
        self.alter(target, |attr, content| {
            if let Some(size) = new.size {
                resize(content, size as usize);
                attr.mtime_ns = now;
            }
            attr.mode = new.mode.unwrap_or(attr.mode);
            attr.uid = new.uid.unwrap_or(attr.uid);
            attr.gid = new.gid.unwrap_or(attr.gid);
            attr.atime_ns = new.atime.map_or(attr.atime_ns, time);
            attr.mtime_ns = new.mtime.map_or(attr.mtime_ns, time);
        })
    }

    fn set_xattr(
        &mut self,
        target: &Target,
        name: &[u8],
        value: Bytes,
        existing: Existing,
    ) -> FsResult<Changed> {
        let file = self.found(target)?.0.file;
        let xattrs = self.xattrs.entry(file).or_default();
        match (existing, xattrs.contains_key(name)) {
            (Existing::Refuse, true) => return Err(EEXIST),
            (Existing::Exchange, false) => return Err(FsError::Os(ENODATA)),
            _ => xattrs.insert(name.to_vec(), value),
        };
        self.alter(target, |_, _| ())
    }

    fn write(&mut self, target: &Target, offset: Option<u64>, data: &Bytes) -> FsResult<Changed> {
        let now = self.clock;
        self.alter(target, |attr, content| {
            let start = offset.map_or(content.len(), |offset| offset as usize);
            let mut bytes = content.to_vec();
            bytes.resize(bytes.len().max(start + data.len()), 0);
            bytes[start..start + data.len()].copy_from_slice(data);
            (*content, attr.mtime_ns) = (bytes.into(), now);
        })
    }

    fn allocate(&mut self, target: &Target, allocation: Allocation) -> FsResult<Changed> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        const ZERO_RANGE: u32 = 16;
        let Allocation { offset, length, mode } = allocation;
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return Err(EOPNOTSUPP);
        }
        let (start, end, now) = (offset as usize, (offset + length) as usize, self.clock);
        self.alter(target, |attr, content| {
            let mut bytes = content.to_vec();
            if mode & KEEP_SIZE == 0 {
                bytes.resize(bytes.len().max(end), 0);
            }
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
                let end = end.min(bytes.len());
                bytes[start.min(end)..end].fill(0);
            }
            (*content, attr.mtime_ns) = (bytes.into(), now);
        })
    }
}

fn resize(content: &mut Bytes, size: usize) {
    let mut bytes = content.to_vec();
    bytes.resize(size, 0);
    *content = bytes.into();
}
