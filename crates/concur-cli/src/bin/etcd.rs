//! The `etcd` program: a node, started by whatever starts etcd; see the library.

fn main() -> std::process::ExitCode {
    concur_cli::etcd()
}
