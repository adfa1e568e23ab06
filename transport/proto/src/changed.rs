//! What came of a change, as the site that made it answers.

use crate::attr::{Attr, Version};
use crate::change::{decode_bool, decode_option, option};
use crate::codec::{DecodeError, Reader, Writer};

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// The content that a file had before its content or its attributes were changed, or before it lost one of several
    /// names.
    pub before: Option<Version>,
    /// The attributes of the file that was made or changed, unless it was removed or renamed.
    pub attr: Option<Attr>,
    /// Those of the one directory in which a name was made or taken away.
    pub directory: Option<Attr>,
    /// Who closes the file has to ask for [`crate::Change::Sync`] first: its home has to have it by then.
    pub sync_at_close: bool,
}

impl Changed {
    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        let w = option(w, self.before.as_ref(), Writer::version);
        let w = option(w, self.attr.as_ref(), Writer::attr);
        let w = self.directory.iter().fold(w, Writer::attr);
        // Only where it is so: attributes take more than a byte, so this one alone is no directory's.
        if self.sync_at_close { w.u8(1) } else { w }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let (before, attr) = (decode_option(r, Reader::version)?, decode_option(r, Reader::attr)?);
        let directory = (r.remaining() > 1).then(|| r.attr()).transpose()?;
        let sync_at_close = r.remaining() > 0 && decode_bool(r)?;
        Ok(Self { before, attr, directory, sync_at_close })
    }
}
