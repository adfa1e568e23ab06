//! The two ways between the kernel and a mount, and the switch of the kernel for one of them.
//!
//! The switch is the whole machine's. Tests that run at a time agree through a lock file on who puts it back.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// By which a test learns which way it is to take.
pub(crate) const VARIABLE: &str = "GLOBALFS_TEST_WAY";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Device,
    Rings,
}

impl Way {
    /// The option of a mount that takes it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Device => "io_uring=off",
            Self::Rings => "io_uring=on",
        }
    }

    pub(crate) fn of_this_run() -> Self {
        let is_rings = std::env::var(VARIABLE).is_ok_and(|word| word == Self::Rings.word());
        if is_rings { Self::Rings } else { Self::Device }
    }
}

/// While it exists the kernel offers rings to new mounts.
pub(crate) struct Offered(File);

/// Makes the kernel offer rings; `None` when it has none, or we may not.
pub(crate) fn offer_rings() -> Option<Offered> {
    let path = std::env::temp_dir().join("globalfs-test-enable-uring");
    let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(path).ok()?;
    loop {
        lock.lock().ok()?;
        if !is_on()? {
            // Remembered for who is last.
            lock.rewind().ok()?;
            lock.write_all(b"off").ok()?;
            fs::write(SWITCH, "Y").ok()?;
        }
        lock.lock_shared().ok()?;
        // Another may have been last between the two locks.
        if is_on()? {
            return Some(Offered(lock));
        }
    }
}

fn is_on() -> Option<bool> {
    Some(fs::read_to_string(SWITCH).ok()?.trim() == "Y")
}

impl Drop for Offered {
    fn drop(&mut self) {
        let mut remembered = String::new();
        let is_last = self.0.try_lock().is_ok();
        if is_last
            && self.0.rewind().is_ok()
            && self.0.read_to_string(&mut remembered).is_ok()
            && remembered == "off"
        {
            let _ = fs::write(SWITCH, "N");
            let _ = self.0.set_len(0);
        }
    }
}
