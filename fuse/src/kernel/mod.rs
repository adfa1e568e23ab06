//! The kernel's side of a mount as bytes: its structures, requests as they come, answers as they go. Pure.

pub(crate) mod abi;
pub(crate) mod change_request;
pub(crate) mod init;
pub(crate) mod lock_request;
pub(crate) mod notice;
pub(crate) mod reply;
pub(crate) mod request;
