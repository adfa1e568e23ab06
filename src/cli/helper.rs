//! What mount(8) says to `mount.globalfs`, said to `globalfs-fuse mount` instead.
//!
//! A line of fstab names the node's configuration as its source:
//! `/etc/globalfs/globalfs.yaml  /globalfs  globalfs  allow_other,_netdev  0  0`

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The name under which mount(8) looks for a helper of the type `globalfs`.
const HELPER_NAME: &str = "mount.globalfs";

/// Options that speak to mount(8) and systemd, not to a file system.
const NOT_OURS: &[&str] =
    &["defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "group"];

/// What mount(8) passes to a helper: `SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
#[derive(Debug, clap::Parser)]
#[command(name = HELPER_NAME, about = "Mount GlobalFS from fstab or by mount -t globalfs")]
struct MountHelper {
    /// The node's configuration, such as /etc/globalfs/globalfs.yaml
    source: OsString,
    /// The directory on which to mount
    mountpoint: OsString,
    /// Ignore unknown options
    #[arg(short)]
    sloppy: bool,
    /// Do all but mount
    #[arg(short)]
    fake: bool,
    /// Write no mtab
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Say more
    #[arg(short)]
    verbose: bool,
    /// Options, separated by commas
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// The type
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// What a program was called to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Parse these arguments, the program's name first.
    Arguments(Vec<OsString>),
    /// mount(8) rehearses: there is nothing to do.
    Rehearsal,
}

/// Translates `arguments` if their first one is the helper's name.
pub(super) fn translate(arguments: Vec<OsString>) -> Result<Call, clap::Error> {
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    if name != Some(OsStr::new(HELPER_NAME)) {
        return Ok(Call::Arguments(arguments));
    }
    let helper = <MountHelper as clap::Parser>::try_parse_from(arguments)?;
    if helper.fake {
        return Ok(Call::Rehearsal);
    }
    let mut translated: Vec<OsString> = ["globalfs-fuse", "mount", "--config"].map(OsString::from).into();
    translated.push(helper.source);
    let options = ours(&helper.options);
    if !options.is_empty() {
        translated.extend([OsString::from("-o"), options.into()]);
    }
    translated.extend([OsString::from("--"), helper.mountpoint]);
    Ok(Call::Arguments(translated))
}

fn ours(options: &[String]) -> String {
    let all = options.iter().flat_map(|list| list.split(','));
    let ours = all.filter(|option| {
        let name = option.split('=').next().unwrap_or_default();
        !name.is_empty() && !name.starts_with("x-") && name != "comment" && !NOT_OURS.contains(&name)
    });
    ours.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn speaks_for_mount() {
        let check = |said: &str, means: &str| {
            assert_eq!(translate(words(said)).unwrap(), Call::Arguments(words(means)), "{said}");
        };
        check("/usr/bin/globalfs-fuse mount /m -o ro", "/usr/bin/globalfs-fuse mount /m -o ro");
        check("/sbin/mount.globalfs /etc/g.yaml /m", "globalfs-fuse mount --config /etc/g.yaml -- /m");
        check(
            "mount.globalfs /etc/g.yaml /m -n -v -o rw,_netdev,allow_other,x-systemd.automount,nofail -t globalfs",
            "globalfs-fuse mount --config /etc/g.yaml -o rw,allow_other -- /m",
        );
        check("mount.globalfs /e /m -o defaults", "globalfs-fuse mount --config /e -- /m");
        assert_eq!(translate(words("mount.globalfs /e /m -f -o ro")).unwrap(), Call::Rehearsal);
        assert!(translate(words("mount.globalfs /e")).is_err());
    }
}
