//! Mount options: how a volume is shown, and the `-o` words by which users of `mount(8)` set it.

use std::time::Duration;

/// How a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Other users than the one who mounts may use it.
    pub allow_other: bool,
    /// The kernel itself refuses whatever would change something. Without it the volume decides.
    pub read_only: bool,
    /// The first column of `mount` and `df`.
    pub source: String,
    /// How long the kernel may answer `stat` by itself where nobody would tell it of a change.
    pub attr_ttl: Duration,
    /// How long the kernel may take a name to mean the same file, likewise.
    pub entry_ttl: Duration,
    /// How long the kernel may take a name to be missing.
    pub negative_ttl: Duration,
    /// Whether the kernel's requests come over io_uring.
    pub io_uring: IoUring,
    /// Threads that read requests from `/dev/fuse`. One has the shortest delay; more help when many small ones meet.
    pub threads: usize,
    /// Device files work.
    pub devices: bool,
    /// Set-user-id and set-group-id bits work.
    pub set_id: bool,
    /// Programs may be executed.
    pub execute: bool,
    /// Whole local files are handed to the kernel where it takes them.
    pub passthrough: bool,
    /// Writes are answered before they are sent, which `fsync` and `close` wait for. Else each waits itself.
    pub write_behind: bool,
    /// Access times are updated. Access times come from the origin, so this shows in `mount` alone.
    pub access_times: bool,
}

/// Whether the kernel's requests come over io_uring instead of by `/dev/fuse`, which they do in any case where the
/// kernel does not offer it. It offers it from Linux 6.14 on if an administrator says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoUring {
    /// Where the kernel offers it.
    #[default]
    Auto,
    /// The same, and the log says why if it does not.
    On,
    /// Never.
    Off,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_other: false,
            read_only: false,
            source: SUBTYPE.to_owned(),
            attr_ttl: Duration::from_secs(1),
            entry_ttl: Duration::from_secs(1),
            negative_ttl: Duration::ZERO,
            io_uring: IoUring::Auto,
            threads: 1,
            devices: false,
            set_id: false,
            execute: true,
            passthrough: true,
            write_behind: true,
            access_times: true,
        }
    }
}

/// The mount's type is `fuse.globalfs`: how our mounts are known among others.
pub(crate) const SUBTYPE: &str = "globalfs";

/// More do not help: they meet at the kernel's lock.
const MAX_THREADS: usize = 16;

/// The longest time that the kernel may be told to remember something.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Why a word behind `-o` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Nobody knows this option: correct it.
    #[error("unknown mount option '{name}'{}", hint(.nearest))]
    Unknown {
        /// What was given.
        name: String,
        /// The known option most like it.
        nearest: Option<&'static str>,
    },
    /// The option is known and its value is not one: correct it.
    #[error("mount option '{name}' expects {expected}, not '{value}'")]
    Value {
        /// The option.
        name: String,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// The option takes no value: leave it away.
    #[error("mount option '{0}' takes no value")]
    UnexpectedValue(String),
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map(|n| format!(", did you mean '{n}'?")).unwrap_or_default()
}

/// Options that change nothing here: what fstab, mount(8) and systemd keep for themselves, what is always
/// so, and what concerns writes.
const ACCEPTED: &[&str] = &[
    "_netdev",
    "auto",
    "default_permissions",
    "defaults",
    "diratime",
    "dirsync",
    "group",
    "lazytime",
    "noauto",
    "nodiratime",
    "nofail",
    "nogroup",
    "nolazytime",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "silent",
    "strictatime",
    "user",
    "users",
];

const FLAGS: &[&str] = &[
    "allow_other",
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "sync",
    "async",
];

const VALUES: &[&str] =
    &["fsname", "attr_timeout", "entry_timeout", "negative_timeout", "io_uring", "passthrough", "threads"];

impl Options {
    /// Applies `words`, as they stand behind `-o`: names and `name=value`, separated by commas; later
    /// ones win. Returns what the user should be told.
    pub fn apply(&mut self, words: &str) -> Result<Vec<String>, OptionError> {
        let mut notes = Vec::new();
        for word in words.split(',').filter(|w| !w.is_empty()) {
            match word.split_once('=') {
                Some((name, value)) => self.apply_value(name, value)?,
                None => notes.extend(self.apply_flag(word)?),
            }
        }
        Ok(notes)
    }

    fn apply_flag(&mut self, name: &str) -> Result<Option<String>, OptionError> {
        match name {
            "allow_other" => self.allow_other = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "dev" | "nodev" => self.devices = name == "dev",
            "suid" | "nosuid" => self.set_id = name == "suid",
            "exec" | "noexec" => self.execute = name == "exec",
            "sync" | "async" => self.write_behind = name == "async",
            "atime" | "noatime" => self.access_times = name == "atime",
            _ if is_noise(name) => {}
            _ if VALUES.contains(&name) => return Err(value_error(name, "", "a value behind '='")),
            _ => return Err(unknown(name)),
        }
        Ok(None)
    }

    fn apply_value(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        match name {
            "fsname" if !value.is_empty() => self.source = value.to_owned(),
            "fsname" => return Err(value_error(name, value, "a name")),
            "attr_timeout" => self.attr_ttl = seconds(name, value)?,
            "entry_timeout" => self.entry_ttl = seconds(name, value)?,
            "negative_timeout" => self.negative_ttl = seconds(name, value)?,
            "passthrough" => self.passthrough = automatic(name, value)?,
            "io_uring" => self.io_uring = io_uring(value)?,
            "threads" => self.threads = threads(value)?,
            _ if is_noise(name) => {}
            _ if FLAGS.contains(&name) || ACCEPTED.contains(&name) => {
                return Err(OptionError::UnexpectedValue(name.to_owned()));
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

/// `x-` and `X-` words and `comment` are for other programs, with or without a value.
fn is_noise(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-") || name == "comment" || ACCEPTED.contains(&name)
}

fn seconds(name: &str, value: &str) -> Result<Duration, OptionError> {
    let number = value.parse::<f64>().ok().and_then(|n| Duration::try_from_secs_f64(n).ok());
    number
        .filter(|t| *t <= MAX_TTL)
        .ok_or_else(|| value_error(name, value, "seconds from 0 to 86400, such as 1 or 0.5"))
}

/// Whether something is used where it can be.
fn automatic(name: &str, value: &str) -> Result<bool, OptionError> {
    match value {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err(value_error(name, value, "'auto' or 'off'")),
    }
}

fn io_uring(value: &str) -> Result<IoUring, OptionError> {
    match value {
        "auto" => Ok(IoUring::Auto),
        "on" => Ok(IoUring::On),
        "off" => Ok(IoUring::Off),
        _ => Err(value_error("io_uring", value, "'auto', 'on' or 'off'")),
    }
}

fn threads(value: &str) -> Result<usize, OptionError> {
    let number = value.parse().ok().filter(|n| (1..=MAX_THREADS).contains(n));
    number.ok_or_else(|| value_error("threads", value, "a number from 1 to 16"))
}

fn value_error(name: &str, value: &str, expected: &'static str) -> OptionError {
    OptionError::Value { name: name.to_owned(), value: value.to_owned(), expected }
}

fn unknown(name: &str) -> OptionError {
    /// Names less like each other than this are not taken for a slip of the finger.
    const MIN_LIKENESS: f64 = 0.75;
    let likeness = |known: &&&str| strsim::jaro_winkler(known, name);
    let known = FLAGS.iter().chain(VALUES).chain(ACCEPTED);
    let nearest = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).copied();
    OptionError::Unknown {
        name: name.to_owned(),
        nearest: nearest.filter(|known| likeness(&known) >= MIN_LIKENESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(words: &str) -> Options {
        let mut options = Options::default();
        options.apply(words).unwrap();
        options
    }

    #[test]
    fn words_of_mount_are_understood() {
        let check = |words: &str, change: fn(&mut Options)| {
            let mut want = Options::default();
            change(&mut want);
            assert_eq!(applied(words), want, "{words}");
        };
        check("", |_| {});
        check("ro,allow_other", |o| (o.read_only, o.allow_other) = (true, true));
        check("suid,dev,noexec,noatime", |o| {
            (o.set_id, o.devices, o.execute, o.access_times) = (true, true, false, false);
        });
        check("suid,nosuid", |_| {});
        check("passthrough=off", |o| o.passthrough = false);
        check("passthrough=off,passthrough=auto", |_| {});
        check("fsname=onprem,threads=4", |o| (o.source, o.threads) = ("onprem".into(), 4));
        check("io_uring=on", |o| o.io_uring = IoUring::On);
        check("io_uring=on,io_uring=off", |o| o.io_uring = IoUring::Off);
        check("io_uring=off,io_uring=auto", |_| {});
        check("attr_timeout=0.5,entry_timeout=2,negative_timeout=3", |o| {
            o.attr_ttl = Duration::from_millis(500);
            o.entry_ttl = Duration::from_secs(2);
            o.negative_ttl = Duration::from_secs(3);
        });
        check("_netdev,nofail,noauto,user,defaults,x-systemd.automount,x-systemd.idle-timeout=1min", |_| {});
        check("comment=the data,,default_permissions", |_| {});
    }

    #[test]
    fn the_last_word_about_writing_counts() {
        let mut options = Options::default();
        for (words, read_only) in [("ro", true), ("rw", false), ("rw,ro", true), ("ro,rw", false)] {
            options.apply(words).unwrap();
            assert_eq!(options.read_only, read_only, "{words}");
        }
    }

    #[test]
    fn mistakes_are_told_with_what_was_meant() {
        let check = |words: &str, want: &str| {
            assert_eq!(Options::default().apply(words).unwrap_err().to_string(), want);
        };
        check("allow_othr", "unknown mount option 'allow_othr', did you mean 'allow_other'?");
        check("ro,attr_timout=1", "unknown mount option 'attr_timout', did you mean 'attr_timeout'?");
        check("zzz", "unknown mount option 'zzz'");
        check("ro=1", "mount option 'ro' takes no value");
        check("threads=0", "mount option 'threads' expects a number from 1 to 16, not '0'");
        check("io_uring=yes", "mount option 'io_uring' expects 'auto', 'on' or 'off', not 'yes'");
        check("io_uring", "mount option 'io_uring' expects a value behind '=', not ''");
        check("threads", "mount option 'threads' expects a value behind '=', not ''");
        check("passthrough=on", "mount option 'passthrough' expects 'auto' or 'off', not 'on'");
        check("fsname=", "mount option 'fsname' expects a name, not ''");
        for bad in ["-1", "x", "nan", "1e9", ""] {
            assert!(Options::default().apply(&format!("attr_timeout={bad}")).is_err(), "{bad}");
        }
    }
}
