//! One thread's compression contexts and scratch memory, which are costly to make.

use super::shuffle::{self, Width};
use bytes::Bytes;
use globalfs_transport::Buffer;
use std::cell::RefCell;
use std::io;
use zstd::bulk::{Compressor, Decompressor};

/// The level for bytes as they are: 0.6 GB/s and core, 4 x on source text. Faster levels gain less than a tenth
/// in speed and lose a fifth in size.
const PLAIN_LEVEL: i32 = 1;

/// The level for planes: as small as level 1 within some percent, since there is little to find but frequent
/// values, and up to a third faster.
const PLANES_LEVEL: i32 = -1;

/// Contexts and scratch.
pub(super) struct Codec {
    plain: Compressor<'static>,
    planes: Compressor<'static>,
    decompressor: Decompressor<'static>,
    /// Planes before they are compressed, or after they were decompressed.
    shuffled: Vec<u8>,
    /// Compressed bytes before their size is known.
    pressed: Vec<u8>,
}

impl Codec {
    fn new() -> io::Result<Self> {
        Ok(Self {
            plain: Compressor::new(PLAIN_LEVEL)?,
            planes: Compressor::new(PLANES_LEVEL)?,
            decompressor: Decompressor::new()?,
            shuffled: Vec::new(),
            pressed: Vec::new(),
        })
    }

    /// Lends this thread's codec.
    pub(super) fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static CODEC: RefCell<Codec> =
                RefCell::new(Codec::new().expect("making a zstd context needs memory only"));
        }
        CODEC.with_borrow_mut(work)
    }

    /// Compresses, as planes when a width is given; `None` when the result is not below `limit` bytes.
    pub(super) fn compress(&mut self, width: Option<Width>, data: &[u8], limit: usize) -> Option<Bytes> {
        self.press(width, data, limit).map(Bytes::copy_from_slice)
    }

    /// The size of what `compress` would give.
    pub(super) fn size(&mut self, width: Option<Width>, data: &[u8], limit: usize) -> Option<usize> {
        self.press(width, data, limit).map(<[u8]>::len)
    }

    fn press(&mut self, width: Option<Width>, data: &[u8], limit: usize) -> Option<&[u8]> {
        // zstd stops by itself where its room ends.
        let room = grown(&mut self.pressed, limit.saturating_sub(1));
        let made = match width {
            None => self.plain.compress_to_buffer(data, room),
            Some(width) => {
                let planes = grown(&mut self.shuffled, data.len());
                shuffle::shuffle(width, data, planes);
                self.planes.compress_to_buffer(planes, room)
            }
        };
        Some(&self.pressed[..made.ok()?])
    }

    /// `length` bytes from one zstd frame, or an error.
    pub(super) fn decompress(
        &mut self,
        width: Option<Width>,
        payload: &[u8],
        length: usize,
    ) -> io::Result<Bytes> {
        match Buffer::of(length) {
            Some(mut data) => {
                self.fill(width, payload, data.room())?;
                Ok(data.freeze())
            }
            None => {
                let mut data = vec![0; length];
                self.fill(width, payload, &mut data)?;
                Ok(data.into())
            }
        }
    }

    fn fill(&mut self, width: Option<Width>, payload: &[u8], room: &mut [u8]) -> io::Result<()> {
        let Some(width) = width else { return self.decompress_exactly(payload, room) };
        let mut planes = std::mem::take(&mut self.shuffled);
        let outcome = self.decompress_exactly(payload, grown(&mut planes, room.len()));
        self.shuffled = planes;
        outcome?;
        shuffle::unshuffle(width, &self.shuffled[..room.len()], room);
        Ok(())
    }

    /// Bytes of many chunks, at most `length`.
    pub(super) fn decompress_many(&mut self, payload: &[u8], length: usize) -> io::Result<Bytes> {
        let mut data = Vec::with_capacity(length);
        self.decompressor.decompress_to_buffer(payload, &mut data)?;
        Ok(data.into())
    }

    fn decompress_exactly(&mut self, payload: &[u8], room: &mut [u8]) -> io::Result<()> {
        let length = room.len();
        let made = self.decompressor.decompress_to_buffer(payload, room)?;
        if made == length { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// The first `length` bytes of scratch memory.
fn grown(scratch: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if scratch.len() < length {
        scratch.resize(length, 0);
    }
    &mut scratch[..length]
}
