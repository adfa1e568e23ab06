//! The program of administrators and of the daemons.

fn main() -> std::process::ExitCode {
    globalfs::cli::main_globalfs()
}
