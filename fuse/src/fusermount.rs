//! Mounting as another user than root: the set-user-id program `fusermount3` opens the device, mounts, and passes the
//! device over a socket, whose number it finds in `_FUSE_COMMFD`.

use crate::options::{Options, SUBTYPE};
use crate::session::MountError;
use crate::transport::Device;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// By these names it is known.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Mounts on `mountpoint` and returns the device that is connected with it.
pub(crate) fn mount(mountpoint: &Path, options: &Options) -> Result<Device, MountError> {
    let other = |error: io::Error| MountError::refused(mountpoint, &error);
    let (socket, theirs) = UnixStream::pair().map_err(other)?;
    let child = start(mountpoint, &words(options), theirs)?;
    let device = receive(&socket);
    let output = child.wait_with_output().map_err(other)?;
    match device {
        Ok(device) if output.status.success() => Ok(Device::received(device)),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(if said.contains("user_allow_other") {
                MountError::AllowOther
            } else {
                MountError::NotPermitted(said)
            })
        }
    }
}

/// The socket is the program's standard input, the one descriptor that it inherits without further ado.
fn start(mountpoint: &Path, words: &str, socket: UnixStream) -> Result<Child, MountError> {
    let socket = OwnedFd::from(socket);
    for program in PROGRAMS {
        let input = socket.try_clone().map_err(|error| MountError::refused(mountpoint, &error))?;
        let mut command = Command::new(program);
        command.args(["-o", words, "--"]).arg(mountpoint).env("_FUSE_COMMFD", "0");
        command.stdin(Stdio::from(input)).stdout(Stdio::null()).stderr(Stdio::piped());
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.map_err(|error| MountError::NotPermitted(format!("{program}: {error}"))),
        }
    }
    Err(MountError::NotPermitted("there is no fusermount3".to_owned()))
}

/// What stands behind its `-o`.
fn words(options: &Options) -> String {
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut words = format!("default_permissions,fsname={source},subtype={SUBTYPE}");
    let flags = [
        (options.read_only, ",ro"),
        (options.devices, ",dev"),
        (options.set_id, ",suid"),
        (!options.execute, ",noexec"),
        (!options.access_times, ",noatime"),
        (options.allow_other, ",allow_other"),
    ];
    words.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, word)| word));
    words
}

/// The descriptor that comes over `socket` with one byte; an error when the other side closes it before.
fn receive(socket: &UnixStream) -> io::Result<File> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let device = descriptors.flatten().next();
    device.map(File::from).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_in_its_words() {
        let check = |words_of_mount: &str, want: &str| {
            let mut options = Options::default();
            options.apply(words_of_mount).unwrap();
            assert_eq!(words(&options), want);
        };
        check("", "default_permissions,fsname=globalfs,subtype=globalfs");
        check("ro", "default_permissions,fsname=globalfs,subtype=globalfs,ro");
        check("rw,dev,suid", "default_permissions,fsname=globalfs,subtype=globalfs,dev,suid");
        check(
            "ro,noexec,noatime,allow_other,fsname=a",
            "default_permissions,fsname=a,subtype=globalfs,ro,noexec,noatime,allow_other",
        );
        let options = Options { source: "/a,b\\c".to_owned(), ..Options::default() };
        assert!(words(&options).contains("fsname=/a\\,b\\\\c,"), "{}", words(&options));
    }

    #[test]
    fn a_descriptor_comes_over_a_socket_or_does_not() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::io::{IoSlice, Read, Seek, Write};
        use std::os::fd::AsFd;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut sent = tempfile::tempfile().unwrap();
        sent.write_all(b"content").unwrap();
        let descriptors = [sent.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&theirs, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        let mut received = receive(&ours).unwrap();
        let mut content = String::new();
        received.rewind().unwrap();
        received.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        drop(theirs);
        assert_eq!(receive(&ours).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
