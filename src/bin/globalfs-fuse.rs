//! The program that mounts, on every node.

fn main() -> std::process::ExitCode {
    globalfs::cli::main_fuse()
}
